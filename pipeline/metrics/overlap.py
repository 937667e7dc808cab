"""Overlaps of the boxes of one sequence, all frames at once, in float64: ties are decided here.

The operations and their order are those of trackeval's own box IoU, so that both give the same
bits. Legend: N and M boxes, K overlapping pairs.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from datasets.schema import Float64, Int64

_PAIRS_AT_ONCE = 1 << 20
"""Bounds the memory of a crowded sequence: 3,000 frames of 130 x 130 boxes are 50 million pairs."""


def overlaps(
    first: Float64, first_keys: Int64, second: Float64, second_keys: Int64
) -> tuple[Int64, Int64, Float64]:
    """Intersection over union of all boxes with equal keys (same frame, or same frame and class).

    Args:
        first: (N, 4) corners x1 y1 x2 y2, exclusive right and bottom edges.
        first_keys: (N,) any order.
        second: (M, 4) likewise.
        second_keys: (M,) ascending.

    Returns:
        (K,) row in `first` and (K,) row in `second` of the pairs that overlap, ordered by first
        row, then by second row, and their (K,) IoU in (0, 1]. Boxes without area overlap nothing.

    >>> square, boxes = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 5], [20, 20, 30, 30]])
    >>> [a.tolist() for a in overlaps(square, np.array([7]), boxes, np.array([7, 7]))]
    [[0], [0], [0.5]]
    """
    area_first, area_second = _areas(first), _areas(second)
    parts = []
    for rows in _pairs_with_equal_keys(first_keys, second_keys):
        in_first, in_second, intersection = _intersections(first, second, *rows)
        union = area_first[in_first] + area_second[in_second] - intersection
        parts.append((in_first, in_second, intersection / union))
    return _concatenate(parts)


def covered_shares(
    first: Float64, first_keys: Int64, second: Float64, second_keys: Int64
) -> tuple[Int64, Int64, Float64]:
    """Share of each first box's own area that lies in a second box; otherwise as `overlaps`.

    >>> inner, outer = np.array([[0.0, 0, 2, 10]]), np.array([[1.0, 0, 100, 100]])
    >>> [a.tolist() for a in covered_shares(inner, np.array([0]), outer, np.array([0]))]
    [[0], [0], [0.5]]
    """
    area_first = _areas(first)
    parts = []
    for rows in _pairs_with_equal_keys(first_keys, second_keys):
        in_first, in_second, intersection = _intersections(first, second, *rows)
        parts.append((in_first, in_second, intersection / area_first[in_first]))
    return _concatenate(parts)


def _pairs_with_equal_keys(first_keys: Int64, second_keys: Int64) -> Iterator[tuple[Int64, Int64]]:
    """Blocks of rows with equal keys, in order; a block holds about `_PAIRS_AT_ONCE` pairs."""
    starts = np.searchsorted(second_keys, first_keys, side="left")
    counts = np.searchsorted(second_keys, first_keys, side="right") - starts
    ends = np.cumsum(counts)
    num_pairs = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, num_pairs, _PAIRS_AT_ONCE))
    edges = [0, *(int(cut) + 1 for cut in cuts), len(first_keys)]
    for begin, end in pairwise(edges):
        block = slice(begin, end)
        rows_first = np.repeat(np.arange(begin, end), counts[block])
        # Position of the pair among the pairs of its first row, shifted to that row's start.
        shifts = starts[block] - (ends[block] - counts[block])
        offset = int(ends[begin] - counts[begin]) if begin < end else 0
        rows_second = np.arange(offset, offset + len(rows_first)) + np.repeat(shifts, counts[block])
        yield rows_first, rows_second


def _intersections(
    first: Float64, second: Float64, rows_first: Int64, rows_second: Int64
) -> tuple[Int64, Int64, Float64]:
    left = np.maximum(first[rows_first, 0], second[rows_second, 0])
    right = np.minimum(first[rows_first, 2], second[rows_second, 2])
    top = np.maximum(first[rows_first, 1], second[rows_second, 1])
    bottom = np.minimum(first[rows_first, 3], second[rows_second, 3])
    intersection = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    kept = intersection > 0
    return rows_first[kept], rows_second[kept], intersection[kept]


def _areas(boxes: Float64) -> Float64:
    areas: Float64 = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _concatenate(parts: list[tuple[Int64, Int64, Float64]]) -> tuple[Int64, Int64, Float64]:
    if len(parts) == 1:
        return parts[0]
    first_rows, second_rows, values = zip(*parts, strict=True)
    return np.concatenate(first_rows), np.concatenate(second_rows), np.concatenate(values)
