"""The whole configuration of an experiment, composed of the configs beside each component."""

from dataclasses import dataclass, field

from models.qdtrack.association import TrackerConfig
from models.qdtrack.config import QDTrackConfig
from pipeline.associate import AssociationConfig
from pipeline.evaluate import EvaluationConfig
from pipeline.infer import InferConfig
from pipeline.ingest import DataConfig
from pipeline.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that changes a result; what does not (workers, folders) is a job's argument."""

    recipe: str
    """Name of the recipe that this config came from."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which benchmark, and how its files become stored frames."""
    model: QDTrackConfig = field(default_factory=QDTrackConfig)
    """The network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Pairs, augmentation, optimiser and schedule."""
    infer: InferConfig = field(default_factory=InferConfig)
    """How frames pass through the network."""
    association: AssociationConfig = field(default_factory=TrackerConfig)
    """The tracker, chosen by `association.kind`; see `AssociationConfig`."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """The rules of scoring."""
