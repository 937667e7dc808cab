"""BDD100K's bitmasks: one RGBA PNG a frame that holds class, attributes and id of every pixel.

R is the category (1 to 8 in the order of the classes), G the attributes, and B * 256 + A the
instance, 0 for background. A frame without objects may be written as one crowd region.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.label_png import read_label_png
from datasets.masks import split_instances

_BITS: Final = {"truncated": 8, "occluded": 4, "crowd": 2, "ignored": 1}
"""Attribute -> its bit in G."""
_ALL_BITS: Final = sum(_BITS.values())


def read_bitmask(path: Path, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Objects of one frame as the labels of a Scalabel file, by ascending instance.

    Args:
        path: The PNG.
        classes: Names of the categories, from category 1.

    Raises:
        ValueError: no such PNG, an unknown category or attribute, or an instance with two of them.
    """
    rgba = read_label_png(path, bits=8, colours="RGBA").astype(np.uint32)
    kinds = rgba[..., 0] << 8 | rgba[..., 1]
    instances = rgba[..., 2] << 8 | rgba[..., 3]
    masks = split_instances(instances)
    kind_of = _kinds_of(kinds, instances, path)
    return [
        {
            "id": str(instance),
            **_meaning(kind_of[instance], classes, f"{path}: instance {instance}"),
            "rle": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
        }
        for instance, mask in masks.items()
    ]


def _kinds_of(
    kinds: npt.NDArray[np.integer], instances: npt.NDArray[np.integer], path: Path
) -> dict[int, int]:
    """Instance -> R * 256 + G, which all its pixels share."""
    pairs = np.unique((instances << 16 | kinds)[instances > 0]).tolist()
    found: dict[int, int] = {}
    for pair in pairs:
        instance, kind = pair >> 16, pair & 0xFFFF
        if instance in found:
            first = found[instance]
            raise ValueError(
                f"{path}: instance {instance} has the categories {first >> 8} and {kind >> 8} with "
                f"the attributes {first & 255} and {kind & 255}, expected one of either"
            )
        found[instance] = kind
    return found


def _meaning(kind: int, classes: Sequence[str], where: str) -> dict[str, Any]:
    category, attributes = kind >> 8, kind & 255
    if not 1 <= category <= len(classes):
        raise ValueError(f"{where} has the category {category}, expected 1 to {len(classes)}")
    if attributes > _ALL_BITS:
        raise ValueError(f"{where} has the attributes {attributes}, expected 0 to {_ALL_BITS}")
    flags = {name: bool(attributes & bit) for name, bit in _BITS.items()}
    return {"category": classes[category - 1], "attributes": flags}
