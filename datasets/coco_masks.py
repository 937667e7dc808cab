"""Masks as COCO-like JSON files write them: run-length codes, compressed or not, and polygons."""

from typing import Any, Final

import numpy as np

from datasets.masks import Rle, check_mask, encode_mask, merge_masks

_FEWEST_CORNERS: Final = 3


def parse_mask(value: Any, size: tuple[int, int]) -> Rle:
    """The mask of a JSON value; an empty list of polygons is an empty mask.

    Args:
        value: an object with `size` and `counts`, or a list of polygons, each x1 y1 x2 y2 ...
        size: height and width of the image.

    Raises:
        ValueError: another form, another size than the image's, or a broken mask; says what was
            found, the caller adds the place.

    >>> parse_mask({"size": [2, 2], "counts": [2, 2]}, (2, 2))
    {'size': [2, 2], 'counts': b'22'}
    """
    if isinstance(value, list):
        return _parse_polygons(value, size)
    found_size = value.get("size") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(found_size, list):
        raise ValueError(f"{_short(value)} is neither a run-length code nor a list of polygons")
    if found_size != list(size):
        raise ValueError(
            f"the mask has the size {found_size} (height, width), but the image has {list(size)}"
        )
    counts = value.get("counts")
    if isinstance(counts, str) and counts.isascii():
        return check_mask({"size": list(size), "counts": counts.encode()}, "counts")
    return _parse_runs(counts, size)


def _parse_runs(counts: Any, size: tuple[int, int]) -> Rle:
    is_runs = isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
    if not is_runs or sum(counts) != size[0] * size[1]:
        raise ValueError(
            f"the mask has the counts {_short(counts)}, expected a code, or a list of runs that "
            f"add up to {size[0]} x {size[1]}"
        )
    from pycocotools import mask as coco

    code: Rle = coco.frPyObjects({"size": list(size), "counts": counts}, *size)
    return code


def _parse_polygons(polygons: list[Any], size: tuple[int, int]) -> Rle:
    from pycocotools import mask as coco

    if not polygons:
        return encode_mask(np.zeros(size, bool))
    for polygon in polygons:
        if not _is_polygon(polygon, largest=2 * max(size)):
            raise ValueError(
                f"the polygon {_short(polygon)}, expected x and y of at least {_FEWEST_CORNERS} "
                "corners in or near the image"
            )
    return merge_masks(coco.frPyObjects(polygons, *size))


def _is_polygon(polygon: Any, *, largest: int) -> bool:
    """Corners far outside of the image would make pycocotools draw an outline of gigabytes."""
    if not isinstance(polygon, list) or len(polygon) < 2 * _FEWEST_CORNERS or len(polygon) % 2:
        return False
    return all(type(value) in (int, float) and abs(value) <= largest for value in polygon)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."
