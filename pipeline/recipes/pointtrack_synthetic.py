"""PointTrack on synthetic scenes: small enough for the demo, on two CPU cores in minutes."""

from dataclasses import replace

from models.pointtrack.association import PointTrackerConfig
from models.pointtrack.config import (
    AssociationTrainConfig,
    PointTrackConfig,
    SegmentationTrainConfig,
    SpatialEmbeddingConfig,
)
from models.pointtrack.items import ItemConfig
from models.pointtrack.schedule import ScheduleConfig
from pipeline.config import EmbeddingConfig, MotsConfig, SegmentationConfig
from pipeline.prepare import CropConfig
from pipeline.recipes.pointtrack_kitti_mots import pointtrack_kitti_mots_car

_HEIGHT, _WIDTH = 128, 192
"""Of crops, for images of 192 x 320."""


def pointtrack_synthetic_car() -> MotsConfig:
    """The networks of KITTI MOTS on scenes of 192 x 320 pixels, trained on crops for minutes."""
    car = pointtrack_kitti_mots_car()
    return replace(
        car,
        recipe="pointtrack_synthetic_car",
        data=replace(car.data, dataset="synthetic_mots"),
        association=PointTrackerConfig(keep_alive_frames=10),
        segmentation=SegmentationConfig(
            model=SpatialEmbeddingConfig(min_pixels=80),
            crops=CropConfig(height=_HEIGHT, width=_WIDTH),
            on_crops=SegmentationTrainConfig(
                epochs=4,
                images_per_epoch=800,
                images_per_step=4,
                learning_rate=1e-3,
                decay_epochs=5,
                validation_images=24,
                validation_height=192,
                validation_width=320,
            ),
        ),
        embedding=EmbeddingConfig(
            model=PointTrackConfig(class_name="car"),
            train=AssociationTrainConfig(
                items_per_step=2,
                items=ItemConfig(num_tracks=8),
                schedule=ScheduleConfig(epochs=3, items_per_epoch=32, step_epochs=(3,)),
                validation_sequences=2,
            ),
        ),
    )


def pointtrack_synthetic_pedestrian() -> MotsConfig:
    """The same for pedestrians."""
    car = pointtrack_synthetic_car()
    return replace(
        car,
        recipe="pointtrack_synthetic_pedestrian",
        association=replace(PointTrackerConfig.pedestrian(), keep_alive_frames=10),
        segmentation=replace(
            car.segmentation,
            model=replace(car.segmentation.model, class_name="pedestrian", min_pixels=40),
            crops=replace(car.segmentation.crops, class_name="pedestrian"),
        ),
        embedding=replace(
            car.embedding, model=replace(car.embedding.model, class_name="pedestrian")
        ),
    )
