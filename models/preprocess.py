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
    images: Sequence[npt.NDArray[Any]],
    config: InputConfig,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Order the channels, normalise, and pad images to one size.

    Images travel to the device as they are, bytes for the most part, and are normalised there.

    Mean and standard deviation are applied by channel position after the channels are in their
    order: with BGR input the first mean meets blue, whatever colour it was written for. Padding is
    zero after normalisation, at the right and the bottom.

    Args:
        images: RGB, (h, w, 3), uint8 or float32 in 0..255; sizes may differ.
        config: channel order, mean and std, and what the padded size must be a multiple of.
        device: where the batch is made.

    Returns:
        float32 tensor (B, 3, H, W), and int64 (B, 2) of heights and widths before padding, both on
        `device`.

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
    mean_C11 = torch.tensor(config.mean, device=device).reshape(3, 1, 1)
    std_C11 = torch.tensor(config.std, device=device).reshape(3, 1, 1) + config.std_epsilon
    batch_BCHW = torch.zeros(len(images), 3, height, width, device=device)
    for image, padded_CHW in zip(images, batch_BCHW, strict=True):
        pixels_CHW = _to_tensor(image).to(device, non_blocking=True).permute(2, 0, 1)
        if config.channels == "bgr":
            pixels_CHW = pixels_CHW.flip(0)
        place = padded_CHW[:, : image.shape[0], : image.shape[1]]
        place.copy_(pixels_CHW).sub_(mean_C11).div_(std_C11)
    return batch_BCHW, torch.tensor(sizes, dtype=torch.int64, device=device)


def _to_tensor(image: npt.NDArray[Any]) -> Tensor:
    """The image without a copy where torch can hold it: writable, and no stride below zero."""
    if not image.flags.writeable or min(image.strides) < 0:
        image = image.copy()
    return torch.from_numpy(image)


def _check_image(image: npt.NDArray[Any], index: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image {index} has shape {image.shape}, expected (height, width, 3)")
    if image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"image {index} is {image.dtype}, expected uint8 or float32 in 0..255")


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
