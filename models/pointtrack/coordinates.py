"""The fixed coordinates in which SpatialEmbedding measures offsets (Neven et al. 2019).

A map of 1024 x 2048 spans y from 0 to 1 and x from 0 to 2, both ends included, so one pixel is
2 / 2047 wide and 1 / 1023 high: not the same. A smaller image is the top left part of that map; it
is never scaled to fill it.
"""

from typing import Final

import torch
from torch import Tensor

MAX_HEIGHT: Final = 1024
"""Rows of the map, and so of the largest image."""
MAX_WIDTH: Final = 2048
"""Columns of the map, and so of the largest image."""


def coordinate_lines(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The x of every column and the y of every row, on the CPU.

    Returns:
        x (width,) float32 from 0 to at most 2, and y (height,) float32 from 0 to at most 1.

    Raises:
        ValueError: the image is larger than the map.

    >>> x, y = coordinate_lines(3, 2)
    >>> (x * 2047).tolist(), (y * 1023).tolist()
    ([0.0, 2.0], [0.0, 1.0, 2.0])
    """
    if height > MAX_HEIGHT or width > MAX_WIDTH:
        raise ValueError(
            f"an image of {height} x {width} (height x width) has no coordinates: they end at "
            f"{MAX_HEIGHT} x {MAX_WIDTH}; cut the image into parts or make it smaller"
        )
    return torch.linspace(0, 2, MAX_WIDTH)[:width], torch.linspace(0, 1, MAX_HEIGHT)[:height]


def coordinate_map(height: int, width: int, *, device: torch.device | str = "cpu") -> Tensor:
    """The coordinates of every pixel, float32 (2, height, width): x, then y.

    The values are those of the CPU on any device.

    Raises:
        ValueError: the image is larger than the map.

    >>> coordinate_map(2, 3)[:, 1, 2] * torch.tensor([2047, 1023])
    tensor([4., 1.])
    """
    x, y = (line.to(device) for line in coordinate_lines(height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
