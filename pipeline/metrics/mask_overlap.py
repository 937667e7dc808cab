"""Overlaps of the masks of one sequence, all frames at once, whatever their classes.

Legend: N and M masks, K overlapping pairs.
"""

from collections.abc import Sequence

import numpy as np

from datasets.masks import Rle, mask_boxes, mask_iou
from datasets.schema import Float64, Int64
from pipeline.metrics.overlap import overlaps


def mask_overlaps(
    first: Sequence[Rle], first_keys: Int64, second: Sequence[Rle], second_keys: Int64
) -> tuple[Int64, Int64, Float64]:
    """Intersection over union of all masks with equal keys.

    Masks are only looked at where their boxes overlap, with one call of pycocotools for each key.

    Args:
        first: (N,) masks.
        first_keys: (N,) any order.
        second: (M,) likewise.
        second_keys: (M,) ascending.

    Returns:
        As `overlaps` of boxes: rows of the pairs that share a pixel, and their IoU in (0, 1].

    >>> from datasets.masks import encode_mask
    >>> left, all_of_it = encode_mask(np.array([[1, 0], [1, 0]])), encode_mask(np.ones((2, 2)))
    >>> keys = np.array([7]), np.array([7, 8])
    >>> [a.tolist() for a in mask_overlaps([left], keys[0], [all_of_it, left], keys[1])]
    [[0], [0], [0.5]]
    """
    rows, columns, _ = overlaps(mask_boxes(first), first_keys, mask_boxes(second), second_keys)
    ious = np.zeros(len(rows))
    keys = first_keys[rows]
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order])) + 1
    for pairs in np.split(order, starts) if len(order) else ():
        own, own_place = np.unique(rows[pairs], return_inverse=True)
        other, other_place = np.unique(columns[pairs], return_inverse=True)
        matrix = mask_iou([first[i] for i in own.tolist()], [second[i] for i in other.tolist()])
        ious[pairs] = matrix[own_place, other_place]
    is_shared = ious > 0
    return rows[is_shared], columns[is_shared], ious[is_shared]
