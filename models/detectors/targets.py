"""What goes into a detector's training and what comes out of its inference, per image.

Legend: N boxes of one image.
"""

from typing import NamedTuple

from torch import Tensor


class Target(NamedTuple):
    """Ground truth of one image, in network-input pixels."""

    boxes_xyxy: Tensor
    """float32, (N, 4), corners x1 y1 x2 y2 with exclusive right and bottom edges."""
    class_indices: Tensor
    """int64, (N,), from 0."""
    identities: Tensor
    """int64, (N,), comparable within one sequence only."""


class DetectedBoxes(NamedTuple):
    """Detections of one image, best score first."""

    boxes_xyxy: Tensor
    """float32, (N, 4), corners x1 y1 x2 y2; the pixels are named by whoever returns them."""
    scores: Tensor
    """float32, (N,), in [0, 1]."""
    class_indices: Tensor
    """int64, (N,), from 0."""
