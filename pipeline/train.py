"""Training: Ray Train over pairs that Ray Data streams, ending in a weights artefact."""

from dataclasses import dataclass, field

from datasets.transforms import AugmentConfig
from models.qdtrack.config import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Which pairs are trained on, in which order, and how."""

    seed: int = 0
    """Of everything random in training."""
    pairs_per_step: int = 16
    """Pairs of one optimiser step over all workers; a multiple of their number."""
    scope: int = 3
    """Largest distance between key and reference frame; 0 pairs every frame with itself."""
    window: int = 32
    """Consecutive frames of a sequence that are read together."""
    buffer: int = 256
    """Pairs of one lane are moved by less than this many places; see `datasets.pairs`."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How the images of a pair are varied."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rate, its schedule, epochs and precision."""
    backbone_weights: str | None = None
    """What the backbone starts from: a file with torchvision's ResNet state, "torchvision" to
    download it, or "random". None is an error, unless training starts from complete weights."""
    validation_pairs: int = 64
    """Pairs of the evaluation split whose losses are computed after every epoch; 0 for none."""
    validation_sequences: int = 2
    """Sequences of the evaluation split that are tracked and scored after every epoch."""

    def __post_init__(self) -> None:
        least = {
            "seed": 0,
            "pairs_per_step": 1,
            "scope": 0,
            "window": 1,
            "buffer": 1,
            "validation_pairs": 0,
            "validation_sequences": 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"train.{name} is {value}, expected at least {low}")
