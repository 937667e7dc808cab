"""What QDTrack is made of and how it is trained: every number in which releases differ.

The defaults are the published BDD100K model of the mmdet code base; `QDTrackConfig.vis4d` and
`OptimizerConfig.vis4d` hold the Faster R-CNN of the vis4d release (2023). No torch here: reading a
configuration must cost nothing.
"""

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from models.detectors.config import FasterRCNNConfig

FLOAT32_EPSILON: Final = 2.0**-23

BDD100K_CLASSES: Final = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""The order of the current label release; the position is the class index."""


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """What the network expects of an image: size, channel order and normalisation."""

    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the colour channels in the input tensor."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted by channel position, after the channels are in their order."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Divided by, by channel position as well."""
    std_epsilon: float = 0.0
    """Added to every value of `std`."""
    long_side: int = 1296
    """Limit of the longer side, pixels; an image is scaled until it touches one of both limits."""
    short_side: int = 720
    """Limit of the shorter side, pixels."""
    pad_divisor: int = 32
    """Height and width of a batch are padded up to a multiple of this."""

    def __post_init__(self) -> None:
        _check_choice("input.channels", self.channels, ("rgb", "bgr"))
        for name in ("mean", "std"):
            values = getattr(self, name)
            _check(len(values) == 3, f"input.{name}", values, "three values, one per channel")
        _check_number("input.std_epsilon", self.std_epsilon, at_least=0)
        for value in self.std:
            _check(value + self.std_epsilon > 0, "input.std", self.std, "numbers above 0")
        for name in ("long_side", "short_side", "pad_divisor"):
            _check_number(f"input.{name}", getattr(self, name), at_least=1)
        _check(
            self.short_side <= self.long_side,
            "input.short_side",
            self.short_side,
            f"at most input.long_side ({self.long_side})",
        )


@dataclass(frozen=True, kw_only=True)
class EmbeddingHeadConfig:
    """From the features of a box to its embedding."""

    num_convs: int = 4
    """3x3 convolutions, each with group norm and ReLU."""
    conv_channels: int = 256
    """Width of these convolutions."""
    norm_groups: int = 32
    """Groups of their norms; must divide `conv_channels`."""
    hidden_sizes: tuple[int, ...] = (1024,)
    """Widths of the fully connected layers, each with ReLU, before the last linear one."""
    embedding_dim: int = 256
    """Width of the embedding, which is neither normalised nor rectified."""
    conv_init: Literal["kaiming_normal", "kaiming_uniform"] = "kaiming_normal"
    """How convolutions start: normal by fan-out with the gain of ReLU, or uniform by fan-in."""

    def __post_init__(self) -> None:
        _check_number("embedding.num_convs", self.num_convs, at_least=0)
        for name in ("conv_channels", "norm_groups", "embedding_dim"):
            _check_number(f"embedding.{name}", getattr(self, name), at_least=1)
        for size in self.hidden_sizes:
            _check_number("embedding.hidden_sizes", size, at_least=1)
        _check(
            self.conv_channels % self.norm_groups == 0,
            "embedding.norm_groups",
            self.norm_groups,
            f"a divisor of embedding.conv_channels ({self.conv_channels})",
        )
        _check_choice("embedding.conv_init", self.conv_init, ("kaiming_normal", "kaiming_uniform"))


@dataclass(frozen=True, kw_only=True)
class QuasiDenseConfig:
    """Which boxes of a pair of images teach the embedding, and the two losses over them."""

    positive_iou: float = 0.7
    """A candidate that overlaps a true box at least this much is positive."""
    negative_iou: float = 0.3
    """A candidate whose best overlap is below this is negative; in between it is not used."""
    truth_first: bool = True
    """True boxes stand in front of the proposals and belong to themselves; otherwise they stand
    behind and are matched by overlap like any proposal."""
    sample_size: int = 256
    """Boxes per image that are sampled at most."""
    positive_fraction: float = 0.5
    """Share of the sample that positives may fill."""
    negatives_per_positive: int = 3
    """Negatives sampled per positive at most."""
    negatives_without_positives: bool = True
    """An image without any positive still gives as many negatives as one positive allows."""
    identity_quota: Literal["rounded_up", "floored"] = "rounded_up"
    """Picks per true box where positives are too many: round(quota / boxes) + 1 and then a random
    subset of the quota, or int(quota / boxes) and then random ones from the rest."""
    negative_sampling: Literal["uniform", "iou_balanced"] = "uniform"
    """Uniform is also what IoU balancing from -1 to 1, as released for BDD100K, amounts to;
    iou_balanced fills equal bins from 0 to the largest overlap of a negative."""
    num_iou_bins: int = 3
    """Bins of iou_balanced sampling; not read otherwise."""
    contrastive_weight: float = 0.25
    """Weight of the multi-positive contrastive loss in the total."""
    contrastive_divisor_epsilon: float = FLOAT32_EPSILON
    """Added to the number of rows that the contrastive loss is averaged over."""
    auxiliary_weight: float = 1.0
    """Weight of the cosine loss in the total."""
    auxiliary_positive_margin: float = 0.0
    """Subtracted from the cosine of positive pairs where above 0."""
    auxiliary_negative_margin: float = 0.1
    """Subtracted from the cosine of negative pairs where above 0."""
    auxiliary_negatives_per_positive: int = 3
    """Hardest negative pairs kept per positive pair; 0 or less keeps every pair."""
    auxiliary_without_positives: bool = False
    """A matrix without a positive pair, no larger than one positive allows, is still averaged."""

    def __post_init__(self) -> None:
        for name in ("positive_iou", "negative_iou", "positive_fraction"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"quasi_dense.{name}", value, "a share between 0 and 1")
        _check(
            self.negative_iou <= self.positive_iou,
            "quasi_dense.negative_iou",
            self.negative_iou,
            f"at most quasi_dense.positive_iou ({self.positive_iou})",
        )
        for name in ("sample_size", "num_iou_bins"):
            _check_number(f"quasi_dense.{name}", getattr(self, name), at_least=1)
        for name in (
            "negatives_per_positive",
            "contrastive_weight",
            "contrastive_divisor_epsilon",
            "auxiliary_weight",
            "auxiliary_positive_margin",
            "auxiliary_negative_margin",
        ):
            _check_number(f"quasi_dense.{name}", getattr(self, name), at_least=0)
        _check_choice("quasi_dense.identity_quota", self.identity_quota, ("rounded_up", "floored"))
        _check_choice(
            "quasi_dense.negative_sampling", self.negative_sampling, ("uniform", "iou_balanced")
        )


@dataclass(frozen=True, kw_only=True)
class QDTrackConfig:
    """QDTrack on Faster R-CNN: the network, its input, its losses and its classes."""

    input: InputConfig = field(default_factory=InputConfig)
    """What the network expects of an image."""
    detector: FasterRCNNConfig = field(default_factory=FasterRCNNConfig)
    """The detector whose features the embedding head reads."""
    embedding: EmbeddingHeadConfig = field(default_factory=EmbeddingHeadConfig)
    """The embedding head."""
    quasi_dense: QuasiDenseConfig = field(default_factory=QuasiDenseConfig)
    """Sampling and losses of embedding training."""
    classes: tuple[str, ...] = BDD100K_CLASSES
    """Names of the classes; the position is the class index."""

    def __post_init__(self) -> None:
        _check(len(self.classes) > 0, "classes", self.classes, "at least one name")
        _check(
            len(set(self.classes)) == len(self.classes), "classes", self.classes, "distinct names"
        )

    @classmethod
    def vis4d(cls) -> "QDTrackConfig":
        """The Faster R-CNN model of the vis4d release, trained with strong augmentation.

        Its images are BGR while mean and std stay in RGB order, as released.

        >>> QDTrackConfig.vis4d().quasi_dense.auxiliary_negative_margin
        0.3
        """
        return cls(
            input=InputConfig(channels="bgr", std_epsilon=1e-8, long_side=1280, short_side=720),
            detector=FasterRCNNConfig.vis4d(),
            embedding=EmbeddingHeadConfig(conv_init="kaiming_uniform"),
            quasi_dense=QuasiDenseConfig(
                truth_first=False,
                negatives_without_positives=False,
                identity_quota="floored",
                negative_sampling="iou_balanced",
                contrastive_divisor_epsilon=1e-5,
                auxiliary_negative_margin=0.3,
                auxiliary_without_positives=True,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Stochastic gradient descent with momentum, a linear warm-up and steps."""

    epochs: int = 12
    """Passes over the plan of pairs."""
    learning_rate: float = 0.02
    """Of a batch of 16 pairs over all workers, as published; scale it with the batch."""
    momentum: float = 0.9
    """Share of the last update that the next one keeps."""
    weight_decay: float = 1e-4
    """On every trained parameter, norms and biases too."""
    warmup_iterations: int = 1000
    """Steps over which the rate climbs to its full value; 0 for no warm-up."""
    warmup_ratio: float = 1e-3
    """Share of the rate that the very first step uses."""
    step_epochs: tuple[int, ...] = (8, 11)
    """Epochs, from 0, at whose start the rate is multiplied by `step_factor`."""
    step_factor: float = 0.1
    """What the rate is multiplied by."""
    gradient_clip_norm: float | None = None
    """Limit of the L2 norm of all gradients together; none leaves them as they are."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the forward pass on a GPU; a CPU always uses float32, and so do the tracking
    losses."""

    def __post_init__(self) -> None:
        _check_number("optimizer.epochs", self.epochs, at_least=1)
        _check_number("optimizer.warmup_iterations", self.warmup_iterations, at_least=0)
        for name in ("learning_rate", "weight_decay"):
            _check_number(f"optimizer.{name}", getattr(self, name), at_least=0)
        for name in ("momentum", "warmup_ratio", "step_factor"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"optimizer.{name}", value, "a share between 0 and 1")
        _check(
            tuple(sorted(set(self.step_epochs))) == self.step_epochs
            and all(epoch >= 0 for epoch in self.step_epochs),
            "optimizer.step_epochs",
            self.step_epochs,
            "rising epoch numbers from 0 on",
        )
        if self.gradient_clip_norm is not None:
            norm = self.gradient_clip_norm
            holds = math.isfinite(norm) and norm > 0
            _check(holds, "optimizer.gradient_clip_norm", norm, "a finite number above 0, or none")
        _check_choice("optimizer.precision", self.precision, ("float32", "bfloat16", "float16"))

    @classmethod
    def vis4d(cls) -> "OptimizerConfig":
        """The schedule of the vis4d release's Faster R-CNN.

        >>> OptimizerConfig.vis4d().warmup_ratio
        0.1
        """
        return cls(warmup_ratio=0.1, gradient_clip_norm=35.0)


def _check(holds: bool, name: str, found: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {found!r}, expected {expected}")


def _check_number(name: str, value: float, *, at_least: float) -> None:
    holds = math.isfinite(value) and value >= at_least
    _check(holds, name, value, f"a finite number of at least {at_least}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, name, value, "one of " + ", ".join(choices))
