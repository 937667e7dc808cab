"""Encoded images: decoding, sizes from the header, and encoding.

torch is imported inside the functions, so that configs which mention images load without it.

Pixels are as stored: an EXIF orientation is not applied, because labels are made on stored pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE: Final = b"\xff\xd8"
_HEADER_BYTES: Final = 1 << 18
"""Enough for what cameras write before the size."""
_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers whose segment holds the size."""
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers that stand alone."""


def decode_image(data: bytes) -> Image:
    """Pixels of a JPEG or PNG, uint8 (H, W, 3) RGB; grey becomes equal channels, alpha is dropped.

    Raises:
        ValueError: another format, or data that is cut short or corrupt.
    """
    if data.startswith(_PNG_SIGNATURE):
        return _decode_png(data)
    if data.startswith(_JPEG_SIGNATURE):
        return _decode_jpeg(data)
    raise ValueError(_unknown(data))


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG or PNG, from its header alone.

    Raises:
        ValueError: another format, or a header that is cut short.
    """
    size = (0, 0)
    if data.startswith(_PNG_SIGNATURE) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        size = (height, width)
    elif data.startswith(_JPEG_SIGNATURE):
        size = _jpeg_size(data)
    if min(size) < 1:
        raise ValueError(_unknown(data))
    return size


def check_label_size(size: Sequence[int], where: str, images: Sequence[str]) -> None:
    """Refuse labels that were made on images of another size.

    Looked at is the first image that can be opened; ingest reports those that cannot.

    Args:
        size: Height and width of the masks.
        where: Names the labels.
        images: Paths of the sequence's images.

    Raises:
        ValueError: the sizes differ; names both places.
    """
    for path in images:
        try:
            with Path(path).open("rb") as stream:
                found = image_size(stream.read(_HEADER_BYTES))
        except (OSError, ValueError):
            continue
        if found != tuple(size):
            raise ValueError(
                f"{where}: height and width of the masks are {tuple(size)}, those of {path} are "
                f"{found}"
            )
        return


def encode_jpeg(image: Image, quality: int) -> bytes:
    """JPEG bytes of an image, uint8 (H, W, 3) RGB, at a quality from 1 to 100.

    Raises:
        ValueError: another shape, type or quality.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}, expected 1 to 100")
    import torch
    from torchvision import io

    channels_first = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    encoded: bytes = io.encode_jpeg(channels_first, quality).numpy().tobytes()
    return encoded


def encode_png(pixels: npt.NDArray[Any]) -> bytes:
    """A lossless PNG of uint8 (H, W, 3) blue green red, OpenCV's order, or of (H, W) numbers."""
    import cv2

    written, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    assert written, pixels.shape
    encoded: bytes = data.tobytes()
    return encoded


def _decode_jpeg(data: bytes) -> Image:
    import torch
    from torchvision import io

    # A copy of the encoded bytes, because torch wants to own writable memory.
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        pixels = io.decode_jpeg(buffer, mode=io.ImageReadMode.RGB)
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rsplit(", ", 1)[-1]  # behind function and source line
        raise ValueError(
            f"a JPEG of {len(data)} bytes is cut short or corrupt ({reason})"
        ) from error
    image: Image = pixels.permute(1, 2, 0).numpy()
    return np.ascontiguousarray(image)


def _decode_png(data: bytes) -> Image:
    # torchvision 0.29's PNG decoder ends the process on corrupt data (segmentation fault).
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image: Image | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError(f"a PNG of {len(data)} bytes is cut short or corrupt")
    return image


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(0, 0) if the header is cut short."""
    at = len(_JPEG_SIGNATURE)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _START_OF_FRAME:
            height, width = (int.from_bytes(data[p : p + 2], "big") for p in (at + 5, at + 7))
            return height, width
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0


def _unknown(data: bytes) -> str:
    return f"{len(data)} bytes that begin with {data[:8]!r}, expected a whole JPEG or PNG"
