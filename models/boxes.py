"""Boxes as tensors: overlap, delta coding, matching to ground truth, sampling and suppression.

Boxes are float32 corners ``x1 y1 x2 y2`` with exclusive right and bottom edges (width = x2 - x1,
nowhere plus one). Legend: N boxes, G true boxes, K sampled ones.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

MAX_SIZE_DELTA: Final = abs(math.log(16 / 1000))
"""Largest |dw| or |dh| that is decoded: a box grows or shrinks at most 62.5 times."""

NEGATIVE: Final = -1
"""`Assignment.truth_index` of a box that is background."""
IGNORED: Final = -2
"""`Assignment.truth_index` of a box that is neither positive nor negative."""

_MAX_OFFSET_BOXES: Final = 10_000


class Assignment(NamedTuple):
    """Which true box each candidate box belongs to."""

    truth_index: Tensor
    """int64, (N,), row of the true box, or `NEGATIVE`, or `IGNORED`."""
    max_iou: Tensor
    """float32, (N,), best overlap with any true box, 0 where there is none."""


class Sample(NamedTuple):
    """Rows chosen for training."""

    positive: Tensor
    """int64, ascending rows of positive boxes."""
    negative: Tensor
    """int64, ascending rows of negative boxes."""


def full_precision(values: Tensor) -> Tensor:
    """The tensor as float32, or as it is if it is wider: half precision cannot hold coordinates.

    >>> full_precision(torch.zeros(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def box_area(boxes: Tensor) -> Tensor:
    """Area of (..., 4) boxes in square pixels; a box with a negative side counts as it multiplies.

    >>> box_area(torch.tensor([[1.0, 1.0, 4.0, 3.0]]))
    tensor([6.])
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every box with every other.

    The union is floored at 1e-6, so two boxes without area overlap by 0 rather than NaN.

    Args:
        first: (N, 4).
        second: (G, 4).

    Returns:
        (N, G), each in [0, 1]; an empty side gives an empty matrix.

    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]]))
    tensor([[0.5000]])
    """
    left, top, right, bottom = (side[:, None] for side in first.unbind(dim=1))
    width = torch.minimum(right, second[:, 2]) - torch.maximum(left, second[:, 0])
    height = torch.minimum(bottom, second[:, 3]) - torch.maximum(top, second[:, 1])
    intersection = width.clamp(min=0) * height.clamp(min=0)
    union = box_area(first)[:, None] + box_area(second) - intersection
    return intersection / union.clamp(min=1e-6)


def encode_boxes(
    anchors: Tensor, boxes: Tensor, stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Deltas dx, dy, dw, dh that move (N, 4) anchors onto (N, 4) boxes, divided by `stds`.

    Both must have positive width and height (R-CNN, appendix C).

    >>> encode_boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[5.0, 0.0, 15.0, 10.0]]))
    tensor([[0.5000, 0.0000, 0.0000, 0.0000]])
    """
    anchor_size = anchors[:, 2:] - anchors[:, :2]
    box_size = boxes[:, 2:] - boxes[:, :2]
    anchor_centre = (anchors[:, :2] + anchors[:, 2:]) * 0.5
    box_centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    shift = (box_centre - anchor_centre) / anchor_size
    deltas = torch.cat([shift, torch.log(box_size / anchor_size)], dim=1)
    return deltas / deltas.new_tensor(stds)


def decode_boxes(
    anchors: Tensor, deltas: Tensor, stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Boxes that (..., 4) deltas make of (..., 4) anchors; the inverse of `encode_boxes`.

    dw and dh are clamped to +-`MAX_SIZE_DELTA` on both sides before the exponential: torchvision
    clamps growth only, and published weights were trained with both.

    >>> decode_boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[0.5, 0.0, 0.0, 0.0]]))
    tensor([[ 5.,  0., 15., 10.]])
    """
    deltas = deltas * deltas.new_tensor(stds)
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    anchor_centre = (anchors[..., :2] + anchors[..., 2:]) * 0.5
    centre = anchor_centre + anchor_size * deltas[..., :2]
    growth = deltas[..., 2:].clamp(-MAX_SIZE_DELTA, MAX_SIZE_DELTA).exp()
    half_size = anchor_size * growth * 0.5
    return torch.cat([centre - half_size, centre + half_size], dim=-1)


def clip_boxes(boxes: Tensor, image_size: Tensor) -> Tensor:
    """Boxes with x limited to [0, width] and y to [0, height].

    Args:
        boxes: (..., 4).
        image_size: (height, width) of the image without padding, shape (2,), or (..., 2) that
            broadcasts against the boxes' leading dimensions.

    >>> clip_boxes(torch.tensor([[-3.0, 2.0, 50.0, 40.0]]), torch.tensor([20, 30]))
    tensor([[ 0.,  2., 30., 20.]])
    """
    limits = image_size.to(boxes)[..., [1, 0, 1, 0]]
    return torch.minimum(boxes, limits).clamp(min=0)


def assign_max_iou(
    boxes: Tensor,
    truth: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None = None,
    low_quality_keeps_own: bool = False,
) -> Assignment:
    """Match each box to the true box it overlaps most.

    Positive from `positive_iou` on, negative below `negative_iou`, ignored between. With
    `low_quality_iou` every box that has exactly the best overlap of some true box is positive too
    if that overlap is at least `low_quality_iou`: it then belongs to that true box (the last one,
    where several claim it), or with `low_quality_keeps_own` to the one it overlaps most itself.

    Args:
        boxes: (N, 4), N may be 0.
        truth: (G, 4); with G = 0 every box is negative.
    """
    if len(truth) == 0:
        negative = torch.full((len(boxes),), NEGATIVE, dtype=torch.int64, device=boxes.device)
        return Assignment(negative, boxes.new_zeros(len(boxes)))
    iou = box_iou(boxes, truth)
    max_iou, own = iou.max(dim=1)
    assigned = torch.full_like(own, IGNORED)
    assigned[max_iou < negative_iou] = NEGATIVE
    assigned = torch.where(max_iou >= positive_iou, own, assigned)
    if low_quality_iou is not None and len(boxes):
        best_iou = iou.amax(dim=0)
        claims = (iou == best_iou) & (best_iou >= low_quality_iou)
        number = torch.arange(1, len(truth) + 1, device=boxes.device)
        claimed = (claims * number).amax(dim=1)
        target = own if low_quality_keeps_own else claimed - 1
        assigned = torch.where(claimed > 0, target, assigned)
    return Assignment(assigned, max_iou)


def choose(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of the (N,) rows, uniformly at random, in ascending order.

    The generator may live on the CPU or on the rows' device. It is not advanced where all rows
    are taken.
    """
    if len(rows) <= count:
        return rows.sort().values
    order = torch.randperm(len(rows), generator=generator, device=generator.device)
    return rows[order[:count].to(rows.device)].sort().values


def sample_random(
    assignment: Assignment, *, size: int, positive_fraction: float, generator: torch.Generator
) -> Sample:
    """`size` boxes, at most `positive_fraction` of them positive; negatives fill the rest."""
    positive = torch.nonzero(assignment.truth_index >= 0).flatten()
    negative = torch.nonzero(assignment.truth_index == NEGATIVE).flatten()
    positive = choose(positive, int(size * positive_fraction), generator)
    return Sample(positive, choose(negative, size - len(positive), generator))


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, offset_groups: bool
) -> Tensor:
    """Greedy suppression within each group: a box goes if a better one overlaps it by more (>).

    With `offset_groups` the groups are shifted apart by multiples of (largest coordinate + 1) in
    float32 before they are compared, if there are fewer than 10000 boxes: that is how mmcv keeps
    groups apart, and the rounding of the shifted coordinates decides overlaps next to the
    threshold, so it is kept. Shifted groups cannot overlap, hence each is suppressed by itself:
    the same decisions as one pass over all, at a fraction of the comparisons.

    Args:
        boxes: (N, 4), no coordinate below 0.
        scores: (N,).
        groups: int64, (N,), pyramid level or class of each box.

    Returns:
        int64, kept rows by descending score, equal scores in row order; empty for N = 0.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    if offset_groups and len(boxes) < _MAX_OFFSET_BOXES:
        boxes = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    kept = []
    for group in torch.unique(groups):
        rows = torch.nonzero(groups == group).flatten()
        kept.append(rows[nms(boxes[rows], scores[rows], iou_threshold)])
    order = torch.cat(kept).sort().values
    return order[scores[order].argsort(descending=True, stable=True)]
