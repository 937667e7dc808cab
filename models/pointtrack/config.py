"""Configs of PointTrack's two networks and of their trainings; reading one loads no torch."""

import math
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from models.pointtrack.items import ItemConfig
from models.pointtrack.schedule import ScheduleConfig

STRIDE: Final = 8
"""Of the encoder: height and width of its input are multiples of this."""

DontCare = Literal["left_out", "background"]
Selection = Literal["random", "first"]


@dataclass(frozen=True, kw_only=True)
class SpatialEmbeddingConfig:
    """What one segmentation network finds, and how instances are made of its output.

    The defaults are those of PointTrack's released run on cars.
    """

    class_name: str = "car"
    """The only class that the network finds."""
    seed_threshold: float = 0.94
    """A cluster starts at a pixel whose seed score is at least this."""
    min_pixels: int = 160
    """Instances have more pixels than this; no more are looked for once fewer are unclustered."""
    pad_divisor: int = 32
    """Height and width are padded up to a multiple of this, itself one of 8: every size of KITTI
    becomes 384 x 1248, as in the released run."""

    def __post_init__(self) -> None:
        _check("class_name", self.class_name, self.class_name != "", "a name")
        holds = math.isfinite(self.seed_threshold) and 0 <= self.seed_threshold <= 1
        _check("seed_threshold", self.seed_threshold, holds, "a share between 0 and 1")
        _check("min_pixels", self.min_pixels, self.min_pixels >= 0, "a number of at least 0")
        holds = self.pad_divisor > 0 and self.pad_divisor % STRIDE == 0
        _check("pad_divisor", self.pad_divisor, holds, f"a multiple of {STRIDE} above 0")

    @classmethod
    def pedestrian(cls) -> "SpatialEmbeddingConfig":
        """PointTrack on pedestrians; the limit is read off the authors' published results.

        >>> SpatialEmbeddingConfig.pedestrian().min_pixels
        192
        """
        return cls(class_name="pedestrian", min_pixels=192)


@dataclass(frozen=True, kw_only=True)
class PointTrackConfig:
    """The association network of one class of objects; nothing is shared between classes."""

    class_name: str = "car"
    """The class whose instances it tells apart."""
    embedding_dim: int = 32
    """Width of the embedding."""
    num_points: int = 1000
    """Foreground points of an instance."""
    num_environment_points: int = 500
    """Environment points of an instance."""
    margin: float = 0.2
    """Of the triplet loss: how much further than the hardest positive a negative should be."""

    def __post_init__(self) -> None:
        if not self.class_name:
            raise ValueError("class_name is empty, expected the name of a class")
        for name in ("embedding_dim", "num_points", "num_environment_points"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value!r}, expected a number of at least 1")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise ValueError(f"margin is {self.margin!r}, expected a number of at least 0")


@dataclass(frozen=True, kw_only=True)
class SegmentationTrainConfig:
    """One stage of training the segmentation of a class.

    `crops()` and `finetune()` are PointTrack's two published stages for cars, quirks included; the
    defaults of the fields that name a quirk are ours, for new training.
    """

    seed: int = 0
    """Of everything random in this training."""
    epochs: int = 200
    """Of this stage."""
    images_per_epoch: int = 7000
    """Images that an epoch draws; `selection` says how."""
    images_per_step: int = 4
    """Of one optimiser step over all workers; a multiple of their number."""
    selection: Selection = "random"
    """"random" draws every image anew from all there are. "first" takes the first
    `images_per_epoch` of the list in random order and never sees the rest, as the release's second
    stage does with its 1,000 frames."""
    crop_height: int | None = None
    """Of the random crop, a multiple of 8; None takes images as they are stored."""
    crop_width: int | None = None
    """Likewise."""
    flip_probability: float = 0.5
    """Share of images that are mirrored left to right."""
    vary_brightness: bool = True
    """Make some images brighter or darker; the release meant to, and does not."""
    dont_care: DontCare = "left_out"
    """What ignore regions teach: nothing, or, as in the release, that they are background."""
    foreground_weight: float = 10.0
    """Of the seed's error inside instances."""
    freeze_norms: bool = False
    """Keep the running statistics of all batch norms; their scale and shift are still trained."""
    learning_rate: float = 5e-4
    """Of Adam."""
    decay_epochs: int | None = None
    """The rate falls as (1 - epoch / decay_epochs) ** 0.9; None keeps it constant."""
    weight_decay: float = 1e-4
    """Of Adam: L2, not decoupled."""
    validation_images: int | None = None
    """Images of the evaluation split whose loss is computed after every epoch; None for all, 0 for
    none. The state with the lowest loss is kept."""
    validation_height: int = 352
    """Of the crop of each of them, a multiple of 8."""
    validation_width: int = 1216
    """Likewise."""

    def __post_init__(self) -> None:
        least = {"seed": 0, "epochs": 1, "images_per_epoch": 1, "images_per_step": 1}
        for name, low in least.items():
            _check(name, getattr(self, name), getattr(self, name) >= low, f"at least {low}")
        if self.images_per_epoch < self.images_per_step:
            _check("images_per_epoch", self.images_per_epoch, False, "at least images_per_step")
        if self.validation_images is not None:
            _check(
                "validation_images",
                self.validation_images,
                self.validation_images >= 0,
                "at least 0",
            )
        for name in ("learning_rate", "foreground_weight"):
            value = getattr(self, name)
            _check(name, value, math.isfinite(value) and value > 0, "a number above 0")
        value = self.weight_decay
        _check("weight_decay", value, math.isfinite(value) and value >= 0, "a number of at least 0")
        value = self.flip_probability
        _check("flip_probability", value, 0 <= value <= 1, "a share from 0 to 1")
        for name in ("crop_height", "crop_width", "validation_height", "validation_width"):
            size = getattr(self, name)
            holds = size is None or (size > 0 and size % STRIDE == 0)
            _check(name, size, holds, f"a multiple of {STRIDE}")
        if (self.crop_height is None) != (self.crop_width is None):
            _check("crop_width", self.crop_width, False, "a number exactly where crop_height is")
        if self.decay_epochs is not None:
            holds = self.decay_epochs >= self.epochs
            _check("decay_epochs", self.decay_epochs, holds, f"at least epochs, {self.epochs}")

    @classmethod
    def crops(cls) -> "SegmentationTrainConfig":
        """The published first stage: crops around instances of KINS and KITTI MOTS."""
        return cls(vary_brightness=False, dont_care="background")

    @classmethod
    def finetune(cls, foreground_weight: float = 200.0) -> "SegmentationTrainConfig":
        """The published second stage, on frames of KITTI MOTS; the weight is 50 for pedestrians."""
        return cls(
            epochs=99,
            images_per_epoch=1000,
            images_per_step=2,
            selection="first",
            crop_height=320,
            crop_width=1024,
            flip_probability=0.0,
            vary_brightness=False,
            dont_care="background",
            foreground_weight=foreground_weight,
            freeze_norms=True,
            learning_rate=5e-6,
            decay_epochs=100,
        )


@dataclass(frozen=True, kw_only=True)
class AssociationTrainConfig:
    """Training of the association network of one class; the defaults are the released car run's
    but for `items.gap_in`, which is ours."""

    seed: int = 0
    """Of everything random in this training."""
    items_per_step: int = 1
    """Items of one optimiser step over all workers, each a forward pass of its own; a multiple of
    their number. With more than the published 1 an epoch has fewer steps."""
    items: ItemConfig = field(default_factory=ItemConfig)
    """Which crops make an item."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Adam, its rate, and how long."""
    validation_sequences: int | None = None
    """Sequences of the evaluation split that are tracked and scored after every epoch; None for
    all, 0 for none. The state with the best score is kept."""

    def __post_init__(self) -> None:
        least = {"seed": 0, "items_per_step": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {low}")
        if self.validation_sequences is not None and self.validation_sequences < 0:
            raise ValueError(
                f"validation_sequences is {self.validation_sequences}, expected at least 0"
            )
        if self.items_per_step > self.schedule.items_per_epoch:
            raise ValueError(
                f"items_per_step is {self.items_per_step}, expected at most the "
                f"{self.schedule.items_per_epoch} items of an epoch"
            )

    @classmethod
    def published(cls) -> "AssociationTrainConfig":
        """As released: gaps count entries of a track."""
        return replace(cls(), items=ItemConfig.published())


def _check(name: str, found: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {found!r}, expected {expected}")
