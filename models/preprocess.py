"""From decoded images to the tensor a network reads. Images arrive resized: nothing is scaled here.

Legend: B images, H and W padded height and width, C colour channels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.qdtrack.config import InputConfig


def normalise_batch(
    images: Sequence[npt.NDArray[Any]], config: InputConfig
) -> tuple[Tensor, Tensor]:
    """Order the channels, normalise, and pad images to one size.

    Mean and standard deviation are applied by channel position after the channels are in their
    order: with BGR input the first mean meets blue, whatever colour it was written for. Padding is
    zero after normalisation, at the right and the bottom.

    Args:
        images: RGB, (h, w, 3), uint8 or float32 in 0..255; sizes may differ.
        config: channel order, mean and std, and what the padded size must be a multiple of.

    Returns:
        float32 tensor (B, 3, H, W), and int64 (B, 2) of heights and widths before padding.

    Raises:
        ValueError: no image at all, or one that is not (h, w, 3) uint8 or float32.

    >>> config = InputConfig(mean=(1.0, 1.0, 1.0), std=(2.0, 2.0, 2.0), pad_divisor=2)
    >>> batch, sizes = normalise_batch([np.full((1, 2, 3), 5, np.uint8)], config)
    >>> batch[0, 0].tolist(), sizes.tolist()
    ([[2.0, 2.0], [0.0, 0.0]], [[1, 2]])
    """
    if not images:
        raise ValueError("an empty batch has no size; pass at least one image")
    for index, image in enumerate(images):
        _check_image(image, index)
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    height = _round_up(max(size[0] for size in sizes), config.pad_divisor)
    width = _round_up(max(size[1] for size in sizes), config.pad_divisor)
    mean_C11 = torch.tensor(config.mean).reshape(3, 1, 1)
    std_C11 = torch.tensor(config.std).reshape(3, 1, 1) + config.std_epsilon
    batch_BCHW = torch.zeros(len(images), 3, height, width)
    for image, padded_CHW in zip(images, batch_BCHW, strict=True):
        ordered = image if config.channels == "rgb" else image[:, :, ::-1]
        # A copy in C order: frames from a store are read-only and torch knows no negative strides.
        pixels_CHW = torch.from_numpy(ordered.astype(np.float32, order="C")).permute(2, 0, 1)
        place = padded_CHW[:, : image.shape[0], : image.shape[1]]
        torch.sub(pixels_CHW, mean_C11, out=place).div_(std_C11)
    return batch_BCHW, torch.tensor(sizes, dtype=torch.int64)


def _check_image(image: npt.NDArray[Any], index: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image {index} has shape {image.shape}, expected (height, width, 3)")
    if image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"image {index} is {image.dtype}, expected uint8 or float32 in 0..255")


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
