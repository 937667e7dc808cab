"""What a Faster R-CNN is made of: every number and every convention in which two releases differ.

The defaults are the QDTrack release of the mmdet code base (its master values);
`FasterRCNNConfig.vis4d` holds the conventions of the vis4d release, so that published weights of
either give their own outputs. No torch here: reading a configuration must cost nothing.
"""

import math
from dataclasses import dataclass, field
from typing import Final, Literal

Norm = Literal["frozen_batch", "batch", "group"]
LevelRule = Literal["mmdet", "vis4d"]

BACKBONE_DEPTHS: Final = (18, 34, 50, 101)
NUM_STAGES: Final = 4


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A residual network with four stages, strides 4 to 32."""

    depth: int = 50
    """Number of weighted layers: 18 and 34 of basic blocks, 50 and 101 of bottlenecks."""
    stem_channels: int = 64
    """Width of the stem and of the first stage; each later stage doubles it."""
    norm: Norm = "frozen_batch"
    """Frozen batch norm never leaves its running statistics, its affine part is still trained."""
    norm_groups: int = 32
    """Groups of a group norm; must divide `stem_channels`. Not read for batch norms."""
    frozen_stages: int = 1
    """The stem and this many stages are not trained; -1 trains the stem too."""

    def __post_init__(self) -> None:
        _one_of("depth", self.depth, BACKBONE_DEPTHS)
        _one_of("norm", self.norm, ("frozen_batch", "batch", "group"))
        _at_least("stem_channels", self.stem_channels, 1)
        _at_least("norm_groups", self.norm_groups, 1)
        _one_of("frozen_stages", self.frozen_stages, range(-1, NUM_STAGES + 1))
        if self.norm == "group" and self.stem_channels % self.norm_groups:
            raise ValueError(
                f"norm_groups is {self.norm_groups}, expected a divisor of "
                f"stem_channels ({self.stem_channels}); set either so that it divides"
            )


@dataclass(frozen=True, kw_only=True)
class PoolingConfig:
    """How a box becomes a fixed grid of features; one rule for all heads."""

    output_size: int = 7
    """Rows and columns of the grid."""
    level_rule: LevelRule = "mmdet"
    """The formula, with its own rounding guard, that sends a box to a pyramid level."""

    def __post_init__(self) -> None:
        _at_least("output_size", self.output_size, 1)
        _one_of("level_rule", self.level_rule, ("mmdet", "vis4d"))


@dataclass(frozen=True, kw_only=True)
class RpnConfig:
    """The region proposal network: anchors, proposals and its own training."""

    anchor_scale: float = 8.0
    """Side of a square anchor in units of its level's stride."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors of a cell, in channel order."""
    candidates_per_level_train: int = 2000
    """Best anchors of each level that enter suppression, for proposals of a training image."""
    candidates_per_level_test: int = 1000
    """The same at inference, and for the reference image of a training pair."""
    max_proposals: int = 1000
    """Proposals an image keeps, over all levels together."""
    nms_iou: float = 0.7
    """A proposal is suppressed above this overlap with a better one of its level."""
    offset_levels: bool = True
    """Shift each level's boxes apart in float32 before suppression, as mmcv does; the rounding of
    large offsets changes a few overlaps. Off compares the boxes as they are."""
    drop_flat_proposals: bool = True
    """Drop clipped proposals without width or height."""
    anchors_inside_only: bool = False
    """Train only on anchors fully inside the image; otherwise on all of the padded image."""
    positive_iou: float = 0.7
    """An anchor that overlaps a true box at least this much is positive."""
    negative_iou: float = 0.3
    """An anchor whose best overlap is below this is negative."""
    low_quality_iou: float = 0.3
    """The best anchors of a true box are positive too, from this overlap on."""
    low_quality_keeps_own: bool = False
    """Such an anchor regresses the box it overlaps most itself, not the one that claimed it."""
    sample_size: int = 256
    """Anchors per image that are trained on."""
    positive_fraction: float = 0.5
    """Share of the sample that positives may fill."""
    box_loss_beta: float = 1 / 9
    """Where the smooth L1 loss turns linear; 0 is plain L1."""

    def __post_init__(self) -> None:
        _above_zero("anchor_scale", self.anchor_scale)
        if not self.aspect_ratios:
            raise ValueError("aspect_ratios is empty, expected at least one height / width")
        for ratio in self.aspect_ratios:
            _above_zero("aspect_ratios", ratio)
        for name in (
            "candidates_per_level_train",
            "candidates_per_level_test",
            "max_proposals",
            "sample_size",
        ):
            _at_least(name, getattr(self, name), 1)
        for name in (
            "nms_iou",
            "positive_iou",
            "negative_iou",
            "low_quality_iou",
            "positive_fraction",
        ):
            _share(name, getattr(self, name))
        _ordered_ious(self.negative_iou, self.positive_iou)
        _not_negative("box_loss_beta", self.box_loss_beta)


@dataclass(frozen=True, kw_only=True)
class RoiHeadConfig:
    """The second stage: classes and boxes of proposals, its training and its suppression."""

    hidden_sizes: tuple[int, ...] = (1024, 1024)
    """Widths of the fully connected layers that both outputs share."""
    delta_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """Scale of the regressed dx, dy, dw, dh."""
    matching_iou: float = 0.5
    """A proposal that overlaps a true box at least this much is positive, any other negative."""
    sample_size: int = 512
    """Proposals per image that are trained on."""
    positive_fraction: float = 0.25
    """Share of the sample that positives may fill."""
    truth_first: bool = True
    """True boxes stand in front of the proposals and belong to themselves; otherwise they stand
    behind and are matched by overlap like any proposal."""
    box_loss_beta: float = 0.0
    """Where the smooth L1 loss turns linear; 0 is plain L1."""
    score_threshold: float = 0.05
    """Detections must score above this."""
    nms_iou: float = 0.5
    """A detection is suppressed above this overlap with a better one of its class."""
    nms_in_original_pixels: bool = True
    """Scale boxes back to the original image before suppression; otherwise after it."""
    offset_classes: bool = True
    """Shift each class's boxes apart in float32 before suppression; see `RpnConfig`."""
    max_detections: int = 100
    """Detections an image keeps, over all classes together."""

    def __post_init__(self) -> None:
        for size in self.hidden_sizes:
            _at_least("hidden_sizes", size, 1)
        if not self.hidden_sizes:
            raise ValueError("hidden_sizes is empty, expected at least one layer width")
        if len(self.delta_stds) != 4:
            raise ValueError(
                f"delta_stds has {len(self.delta_stds)} values, expected 4: dx, dy, dw, dh"
            )
        for std in self.delta_stds:
            _above_zero("delta_stds", std)
        _at_least("sample_size", self.sample_size, 1)
        _at_least("max_detections", self.max_detections, 1)
        for name in ("matching_iou", "positive_fraction", "score_threshold", "nms_iou"):
            _share(name, getattr(self, name))
        _not_negative("box_loss_beta", self.box_loss_beta)


@dataclass(frozen=True, kw_only=True)
class FasterRCNNConfig:
    """A Faster R-CNN on a feature pyramid of strides 4, 8, 16, 32 and 64."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The residual network."""
    pyramid_channels: int = 256
    """Channels of every pyramid level and of the proposal network's hidden layer."""
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    """How boxes read the pyramid; embedding heads read it by the same rule."""
    rpn: RpnConfig = field(default_factory=RpnConfig)
    """The region proposal network."""
    roi_head: RoiHeadConfig = field(default_factory=RoiHeadConfig)
    """The second stage."""

    def __post_init__(self) -> None:
        _at_least("pyramid_channels", self.pyramid_channels, 1)

    @classmethod
    def vis4d(cls) -> "FasterRCNNConfig":
        """The conventions of the vis4d release of QDTrack (2023).

        >>> FasterRCNNConfig.vis4d().roi_head.box_loss_beta
        1.0
        """
        return cls(
            pooling=PoolingConfig(level_rule="vis4d"),
            rpn=RpnConfig(
                offset_levels=False,
                drop_flat_proposals=False,
                anchors_inside_only=True,
                low_quality_keeps_own=True,
            ),
            roi_head=RoiHeadConfig(
                truth_first=False,
                box_loss_beta=1.0,
                nms_in_original_pixels=False,
                offset_classes=False,
            ),
        )


def _one_of(name: str, value: object, allowed: "tuple[object, ...] | range") -> None:
    if value not in allowed:
        choices = ", ".join(str(choice) for choice in allowed)
        raise ValueError(f"{name} is {value!r}, expected one of {choices}")


def _at_least(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"{name} is {value}, expected at least {lowest}")


def _above_zero(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}, expected a finite number above 0")


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}, expected a finite number from 0 on")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a share between 0 and 1")


def _ordered_ious(negative: float, positive: float) -> None:
    if negative > positive:
        raise ValueError(f"negative_iou is {negative}, expected at most positive_iou ({positive})")
