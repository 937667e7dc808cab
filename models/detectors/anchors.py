"""Anchor boxes of a feature pyramid.

Two habits of torchvision are absent on purpose: sizes are not rounded, and the strides are the
nominal ones rather than image size over feature size.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

STRIDES: Final = (4, 8, 16, 32, 64)
"""Input pixels per cell of the levels P2 to P6."""


def cell_anchors(stride: int, *, scale: float, aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors of the cell at the origin: float32, (A, 4), centred on (0, 0), one per ratio.

    A square of side scale * stride, reshaped to height / width = ratio with the same area.

    >>> cell_anchors(4, scale=8.0, aspect_ratios=(1.0, 4.0))
    tensor([[-16., -16.,  16.,  16.],
            [ -8., -32.,   8.,  32.]])
    """
    root = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
    side = scale * stride
    half = torch.stack([side / root, side * root], dim=1) / 2
    return torch.cat([-half, half], dim=1)


def level_anchors(
    height: int,
    width: int,
    stride: int,
    *,
    scale: float,
    aspect_ratios: Sequence[float],
    device: torch.device | None = None,
) -> Tensor:
    """Anchors of a level of height x width cells, float32, (height * width * A, 4).

    The anchors of cell (row, column) are centred on (column * stride, row * stride), without half
    a cell of shift. Order: rows, columns, ratios; the ratio runs fastest.

    >>> level_anchors(1, 2, 4, scale=8.0, aspect_ratios=(1.0,))
    tensor([[-16., -16.,  16.,  16.],
            [-12., -16.,  20.,  16.]])
    """
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device) * stride,
        torch.arange(width, dtype=torch.float32, device=device) * stride,
        indexing="ij",
    )
    centres = torch.stack([x, y, x, y], dim=-1)
    base = cell_anchors(stride, scale=scale, aspect_ratios=aspect_ratios).to(centres)
    return (centres[:, :, None] + base).reshape(-1, 4)
