"""Reading a feature pyramid inside boxes.

RoIAlign with the half-pixel shift (`aligned`) and as many samples per bin as the box has pixels in
it (adaptive): torchvision's own detector uses neither.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torchvision.ops import roi_align

from models.boxes import full_precision
from models.detectors.anchors import STRIDES
from models.detectors.config import LevelRule, PoolingConfig

NUM_POOLED_LEVELS: Final = 4
"""P2 to P5; P6 serves proposals only."""


def assign_levels(boxes: Tensor, rule: LevelRule) -> Tensor:
    """Pyramid level that each box reads, by the square root of its area (FPN, equation 1).

    Below 112 pixels level 0, below 224 level 1, below 448 level 2, else level 3. The two rules are
    that formula with their own guards against rounding: a side of 111.99996 is level 1 by "mmdet"
    (floor of log2(side / 56 + 1e-6)), level 0 by "vis4d" (floor of 4 + log2(side / 224 + 1e-8)).

    Args:
        boxes: (N, 4) in network-input pixels; N may be 0.

    Returns:
        int64, (N,), from 0 for stride 4.

    >>> assign_levels(torch.tensor([[0.0, 0.0, 111.0, 111.0], [0.0, 0.0, 112.0, 112.0]]), "mmdet")
    tensor([0, 1])
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    side = (sides[:, 0] * sides[:, 1]).sqrt()
    if rule == "mmdet":
        level = torch.floor(torch.log2(side / 56 + 1e-6))
    else:
        level = torch.floor(4 + torch.log2(side / 224 + 1e-8)) - 2
    return level.clamp(0, NUM_POOLED_LEVELS - 1).long()


def pool_rois(features: Sequence[Tensor], boxes: Sequence[Tensor], config: PoolingConfig) -> Tensor:
    """Features inside the boxes of a batch, each from the pyramid level of its size.

    Args:
        features: (B, C, H_l, W_l) per level, finest first; levels after the fourth are not read.
        boxes: (n_b, 4) per image, corners in network-input pixels; n_b may be 0.

    Returns:
        (R, C, S, S) with R = sum of n_b, images in order, boxes in their order.
    """
    all_boxes = torch.cat(list(boxes))
    counts = torch.tensor([len(one) for one in boxes], device=all_boxes.device)
    image_index = torch.arange(len(boxes), device=all_boxes.device).repeat_interleave(counts)
    rois = torch.cat([image_index[:, None].to(all_boxes), all_boxes], dim=1)
    levels = assign_levels(all_boxes, config.level_rule)
    order, values = [], []
    for level, stride in enumerate(STRIDES[:NUM_POOLED_LEVELS]):
        rows = torch.nonzero(levels == level).flatten()
        order.append(rows)
        # Also where no box reads the level: every parameter then takes part in the backward pass,
        # which distributed training relies on.
        level_features = full_precision(features[level])
        values.append(
            roi_align(
                level_features,
                rois[rows].to(level_features),
                (config.output_size, config.output_size),
                spatial_scale=1 / stride,
                sampling_ratio=0,
                aligned=True,
            )
        )
    return torch.cat(values)[torch.cat(order).argsort()]
