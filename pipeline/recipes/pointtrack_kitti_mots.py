"""PointTrack on KITTI MOTS and APOLLO MOTS: one recipe per class, since nothing is shared."""

from dataclasses import replace

from models.pointtrack.association import PointTrackerConfig
from models.pointtrack.config import (
    AssociationTrainConfig,
    PointTrackConfig,
    SegmentationTrainConfig,
    SpatialEmbeddingConfig,
)
from pipeline.config import EmbeddingConfig, MotsConfig, SegmentationConfig
from pipeline.evaluate import EvaluationConfig
from pipeline.ingest import DataConfig
from pipeline.prepare import PEDESTRIAN_CROPS, CropConfig


def pointtrack_kitti_mots_car() -> MotsConfig:
    """Both stages of segmentation, then association, as published but for what only hurts there.

    Brightness varies, ignore regions teach nothing, the second stage sees all frames, and gaps
    within a track are counted in frames. Published on KITTI MOTS val: sMOTSA 85.5.
    """
    frames = SegmentationTrainConfig.finetune()
    return MotsConfig(
        recipe="pointtrack_kitti_mots_car",
        segmentation=SegmentationConfig(
            on_crops=SegmentationTrainConfig(),
            on_frames=replace(
                frames, selection="random", vary_brightness=True, dont_care="left_out"
            ),
        ),
    )


def pointtrack_kitti_mots_car_published() -> MotsConfig:
    """The release's training, with everything that it does not do although it seems to.

    Brightness is not varied, ignore regions are background, no crops are cut from KITTI MOTS, the
    second stage sees its first 1,000 frames only, and gaps count entries of a track.
    """
    return replace(
        pointtrack_kitti_mots_car(),
        recipe="pointtrack_kitti_mots_car_published",
        segmentation=SegmentationConfig(
            crops=CropConfig(ignore_as_background=True, stills_only=True),
            on_crops=SegmentationTrainConfig.crops(),
            on_frames=SegmentationTrainConfig.finetune(),
        ),
        embedding=EmbeddingConfig(train=AssociationTrainConfig.published()),
    )


def pointtrack_kitti_mots_pedestrian() -> MotsConfig:
    """The same for pedestrians: smaller crops, another weight of seeds, other thresholds.

    Recalled from the paper on KITTI MOTS val: sMOTSA 62.4.
    """
    car = pointtrack_kitti_mots_car()
    assert car.segmentation.on_frames is not None
    return replace(
        car,
        recipe="pointtrack_kitti_mots_pedestrian",
        association=PointTrackerConfig.pedestrian(),
        segmentation=replace(
            car.segmentation,
            model=SpatialEmbeddingConfig.pedestrian(),
            crops=PEDESTRIAN_CROPS,
            on_frames=replace(car.segmentation.on_frames, foreground_weight=50.0),
        ),
        embedding=EmbeddingConfig(model=PointTrackConfig(class_name="pedestrian")),
    )


def pointtrack_kitti_mots_pedestrian_published() -> MotsConfig:
    """The release's ways for pedestrians, whose own code was not released."""
    car, ours = pointtrack_kitti_mots_car_published(), pointtrack_kitti_mots_pedestrian()
    return replace(
        ours,
        recipe="pointtrack_kitti_mots_pedestrian_published",
        segmentation=replace(
            ours.segmentation,
            crops=replace(PEDESTRIAN_CROPS, ignore_as_background=True),
            on_crops=car.segmentation.on_crops,
            on_frames=SegmentationTrainConfig.finetune(foreground_weight=50.0),
        ),
        embedding=replace(ours.embedding, train=AssociationTrainConfig.published()),
    )


def pointtrack_apollo_mots_car() -> MotsConfig:
    """Cars on APOLLO MOTS, by the recipe for KITTI MOTS."""
    return replace(
        pointtrack_kitti_mots_car(),
        recipe="pointtrack_apollo_mots_car",
        data=DataConfig(benchmark="apollo_mots", dataset="apollo_mots", train_splits=("train",)),
        evaluation=EvaluationConfig(protocol="apollo_mots"),
    )
