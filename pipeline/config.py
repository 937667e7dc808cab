"""The whole configuration of an experiment, composed of the configs beside each component."""

from dataclasses import dataclass, field

from models.pointtrack.association import PointTrackerConfig
from models.pointtrack.config import (
    AssociationTrainConfig,
    PointTrackConfig,
    SegmentationTrainConfig,
    SpatialEmbeddingConfig,
)
from models.qdtrack.association import TrackerConfig
from models.qdtrack.config import QDTrackConfig
from pipeline.associate import AssociationConfig
from pipeline.evaluate import EvaluationConfig
from pipeline.infer import InferConfig
from pipeline.ingest import DataConfig
from pipeline.prepare import CropConfig
from pipeline.segment import EmbedConfig, SegmentConfig
from pipeline.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What all experiments have: data, a tracker and the rules of scoring.

    Everything in a config changes a result; what does not (workers, folders) is a job's argument.
    """

    recipe: str
    """Name of the recipe that this config came from."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which benchmark, and how its files become stored frames."""
    association: AssociationConfig = field(default_factory=TrackerConfig)
    """The tracker, chosen by `association.kind`; see `AssociationConfig`."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """The rules of scoring."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(RecipeConfig):
    """Tracking boxes: one network detects and embeds."""

    model: QDTrackConfig = field(default_factory=QDTrackConfig)
    """The network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Pairs, augmentation, optimiser and schedule."""
    infer: InferConfig = field(default_factory=InferConfig)
    """How frames pass through the network."""


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """The segmentation of one class: network and the two stages of its training."""

    model: SpatialEmbeddingConfig = field(default_factory=SpatialEmbeddingConfig)
    """The network, and how its output is clustered; its class is that of the experiment."""
    crops: CropConfig = field(default_factory=CropConfig)
    """Windows around instances, for the first stage."""
    on_crops: SegmentationTrainConfig = field(default_factory=SegmentationTrainConfig)
    """The first stage."""
    on_frames: SegmentationTrainConfig | None = None
    """The second stage, which goes on from the first one on whole frames; None leaves it out."""
    infer: SegmentConfig = field(default_factory=SegmentConfig)
    """Other thresholds of clustering than those of the network."""

    def __post_init__(self) -> None:
        if self.crops.class_name != self.model.class_name:
            raise ValueError(
                f"crops.class_name is {self.crops.class_name!r} and model.class_name "
                f"{self.model.class_name!r}, expected the same"
            )


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """The association network of one class and its training."""

    model: PointTrackConfig = field(default_factory=lambda: PointTrackConfig(class_name="car"))
    """The network; its class is that of the experiment."""
    train: AssociationTrainConfig = field(default_factory=AssociationTrainConfig)
    """Items, schedule and validation."""
    points: EmbedConfig = field(default_factory=EmbedConfig)
    """How instances become points when tracking."""


@dataclass(frozen=True, kw_only=True)
class MotsConfig(RecipeConfig):
    """Tracking and segmentation of one class: one network segments, another embeds instances."""

    data: DataConfig = field(
        default_factory=lambda: DataConfig(
            benchmark="kitti_mots", dataset="kitti_mots", train_splits=("train",)
        )
    )
    """See `RecipeConfig`."""
    association: AssociationConfig = field(default_factory=PointTrackerConfig)
    """See `RecipeConfig`."""
    evaluation: EvaluationConfig = field(
        default_factory=lambda: EvaluationConfig(protocol="kitti_mots")
    )
    """See `RecipeConfig`."""
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    """The first network."""
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    """The second network."""

    def __post_init__(self) -> None:
        if len(self.data.train_splits) != 1:
            raise ValueError(
                f"data.train_splits is {self.data.train_splits!r}, expected one split to train on"
            )
        if self.class_name != self.embedding.model.class_name:
            raise ValueError(
                f"segmentation.model.class_name is {self.class_name!r} and "
                f"embedding.model.class_name {self.embedding.model.class_name!r}, expected the same"
            )

    @property
    def class_name(self) -> str:
        """The class that is tracked."""
        return self.segmentation.model.class_name
