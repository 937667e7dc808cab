"""Variation of images with instance maps, for training a segmentation: crop, flip, brightness.

Pure functions of their arguments; the only chance is in the generator that is handed in. Images are
uint8 RGB, maps hold 0 for background, 1 to n for instances and `IGNORE` for what is neither.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.mots_crops import IGNORE

_DARK, _BRIGHT = 0.3, 0.7
"""Mean grey values, as a share of white, between which an image may change its brightness."""

Image = npt.NDArray[np.uint8]
InstanceMap = npt.NDArray[np.uint16]


class MappedImage(NamedTuple):
    """An image and what is in it."""

    image: Image
    """(H, W, 3) RGB."""
    instances: InstanceMap
    """(H, W) 0 background, 1 to n instances, `IGNORE`."""


def random_crop(
    sample: MappedImage, height: int, width: int, rng: np.random.Generator
) -> MappedImage:
    """A window of `height` x `width` anywhere inside.

    A smaller image is first extended on the right and at the bottom: its edge is repeated, and the
    map says `IGNORE` there.
    """
    sample = pad_to(sample, height, width)
    spare = sample.instances.shape[0] - height, sample.instances.shape[1] - width
    top, left = (int(rng.integers(extent + 1)) for extent in spare)
    rows, columns = slice(top, top + height), slice(left, left + width)
    return MappedImage(sample.image[rows, columns], sample.instances[rows, columns])


def pad_to(sample: MappedImage, height: int, width: int) -> MappedImage:
    """At least `height` x `width`, by repeating the edge on the right and at the bottom."""
    missing = [
        (0, max(0, wanted - found))
        for wanted, found in zip((height, width), sample.instances.shape, strict=True)
    ]
    if not any(after for _, after in missing):
        return sample
    return MappedImage(
        np.pad(sample.image, [*missing, (0, 0)], mode="edge"),
        np.pad(sample.instances, missing, constant_values=IGNORE),
    )


def random_flip(sample: MappedImage, probability: float, rng: np.random.Generator) -> MappedImage:
    """Mirrored left to right with the given probability."""
    if rng.random() >= probability:
        return sample
    return MappedImage(sample.image[:, ::-1], sample.instances[:, ::-1])


def random_brightness(sample: MappedImage, rng: np.random.Generator) -> MappedImage:
    """Brighter or darker, each one time in four, where the image is neither dark nor bright.

    The factor is 1.5 to 1.9 or 0.5 to 0.7 in tenths, for images whose mean grey lies between 0.3
    and 0.7 of white. PointTrack's release lists this, but its options are empty and nothing
    happens there (reference: "brightness is a no-op").
    """
    import cv2

    mean = cv2.cvtColor(np.ascontiguousarray(sample.image), cv2.COLOR_RGB2GRAY).mean() / 255
    choice = rng.random()
    if not _DARK < mean < _BRIGHT or choice >= 0.5:
        return sample
    low, high = (15, 20) if choice < 0.25 else (5, 8)
    factor = 0.1 * float(rng.integers(low, high))
    brightened = np.clip(np.rint(sample.image * np.float32(factor)), 0, 255).astype(np.uint8)
    return sample._replace(image=brightened)
