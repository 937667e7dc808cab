"""PNG files whose pixels are numbers, not colours: they are read unchanged or not at all."""

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_BITS: Final = 24
_COLOURS: Final = 25
"""Places in the header."""
_NAMES: Final = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


def read_label_png(
    path: Path, *, bits: Literal[8, 16], colours: Literal["grey", "RGBA"]
) -> npt.NDArray[Any]:
    """Values of one file, (H, W) or (H, W, 4) in the order R, G, B, A; uint8 or uint16.

    Alpha is a number as well: no pixel is multiplied by it.

    Raises:
        ValueError: absent, cut short, corrupt, or a PNG of another kind.
    """
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a PNG") from error
    if not data.startswith(_SIGNATURE) or len(data) <= _COLOURS:
        raise ValueError(f"{path}: no PNG, it begins with {data[:8]!r}")
    found = _NAMES.get(data[_COLOURS], "unknown colours")
    if (data[_BITS], found) != (bits, colours):
        raise ValueError(
            f"{path}: a PNG of {data[_BITS]} bits, {found}; expected {bits} bits, {colours}: its "
            "values are numbers of classes and instances"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # a header that asks for too many pixels
        raise ValueError(f"{path}: cannot be decoded ({error.err})") from error
    if pixels is None:
        raise ValueError(f"{path}: a PNG of {len(data)} bytes that is cut short or corrupt")
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    if colours == "grey":
        return np.asarray(pixels)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))
