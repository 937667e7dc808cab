"""Memory that is freed and wanted again a moment later, as images and activations are."""

import ctypes
from typing import Final

# Parameters of mallopt(3), glibc.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_LARGEST_BLOCK: Final = 256 << 20
_KEPT_AT_MOST: Final = 1 << 30


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to a gigabyte, for its next large blocks.

    By itself glibc maps every large block anew, and the system then fills it with zeros page by
    page: a tenth of the time of decoding frames. Elsewhere than on glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _KEPT_AT_MOST)
