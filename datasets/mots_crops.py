"""Where instances are cut out of frames for the training of a segmentation, and of which frames.

The annotations of a frame become a map of its instances of one class, and around each of these a
window of a fixed size is cut, as SpatialEmbedding does it (PointTrack's preparation).

Legend: H, W rows and columns of a frame; h, w of a window; v runs downwards, u to the right.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.masks import decode_mask
from datasets.schema import Annotations, Bool, Int64, masks_of

UInt16 = npt.NDArray[np.uint16]

BACKGROUND: Final = 0
"""In a map of instances: none of the class."""
IGNORE: Final = 65535
"""In a map of instances: pixels of an ignore region, which teach neither yes nor no."""


class CropWindow(NamedTuple):
    """Rows `top` to `top + height` and columns `left` to `left + width` of a frame."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """What to index an image or a map with."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


def is_instance(annotations: Annotations, class_index: int) -> Bool:
    """(N,) which rows are instances of the class: neither ignore regions nor crowds."""
    is_left_out: Bool = annotations.ignored | annotations.crowd
    of_class: Bool = annotations.class_index == class_index
    return of_class & ~is_left_out


def frames_with_class(
    annotations: Mapping[str, Annotations], class_index: int, *, first_frames: int | None = None
) -> list[tuple[str, int]]:
    """Frames with at least one instance of a class, by name of sequence and then in time.

    Args:
        annotations: of each sequence, by its name.
        class_index: the class.
        first_frames: keep that many from the start of the list; None keeps all. The PointTrack
            release trains its last stage on the first 1000 of KITTI MOTS.

    Raises:
        ValueError: `first_frames` below 1.
    """
    if first_frames is not None and first_frames < 1:
        raise ValueError(f"first_frames is {first_frames}, expected at least 1, or none for all")
    found = [
        (name, frame)
        for name in sorted(annotations)
        for frame in _frames_of(annotations[name], class_index)
    ]
    return found[:first_frames]


def map_instances(
    annotations: Annotations,
    class_index: int,
    size: tuple[int, int],
    where: str,
    *,
    ignore_as_background: bool = False,
) -> tuple[UInt16, Int64]:
    """The map of one frame's instances of a class.

    Where masks overlap, an instance covers an ignore region, and a later row an earlier one.

    Args:
        annotations: rows of one frame.
        class_index: the class; everything of other classes is background.
        size: height and width of the frame's image.
        where: names the frame in errors.
        ignore_as_background: do not tell ignore regions and crowds from background.

    Returns:
        uint16 (H, W): 0 background, 1 to n the instances in ascending order of identity, `IGNORE`
        in ignore regions; and their identities, int64 (n,).

    Raises:
        ValueError: rows without masks, or a mask of another size than the image.
    """
    masks = masks_of(annotations, where)
    for row, mask in enumerate(masks):
        if tuple(mask["size"]) != size:
            raise ValueError(
                f"{where}: the mask of {annotations.identity_source[row]!r} "
                f"({annotations.category[row]}) is of an image of {mask['size'][0]} x "
                f"{mask['size'][1]} pixels (height x width), but this one has {size[0]} x {size[1]}"
            )
    instances = np.zeros(size, np.uint16)
    if not ignore_as_background:
        for row in np.flatnonzero(annotations.ignored | annotations.crowd).tolist():
            instances[decode_mask(masks[row])] = IGNORE
    rows = np.flatnonzero(is_instance(annotations, class_index))
    order = np.argsort(annotations.identity[rows], kind="stable")
    assert len(rows) < IGNORE, where
    numbers = np.empty(len(rows), np.uint16)
    numbers[order] = np.arange(1, len(rows) + 1)
    for number, row in zip(numbers, rows.tolist(), strict=True):
        instances[decode_mask(masks[row])] = number
    return instances, annotations.identity[rows[order]]


def crop_windows(
    instances: npt.NDArray[np.integer], height: int, width: int
) -> Iterator[tuple[int, CropWindow]]:
    """Each instance of a map in ascending order, and the window around it.

    The window's centre is the mean of the instance's pixels, as far as the image lets it: top =
    int(clip(mean v - h / 2, 0, H - h)), left likewise. An image that is lower or narrower than the
    window is taken in its whole height or width.

    Args:
        instances: (H, W) as of `map_instances`.
        height: h, rows of the window.
        width: w, columns of the window.

    >>> instances = np.zeros((375, 1242), np.uint16)
    >>> instances[200:221, 100:141] = 1
    >>> list(crop_windows(instances, 160, 640))
    [(1, CropWindow(top=130, left=0, height=160, width=640))]
    """
    image_height, image_width = instances.shape
    height, width = min(height, image_height), min(width, image_width)
    for number in _numbers_in(instances).tolist():
        v, u = np.nonzero(instances == number)
        top = int(np.clip(v.mean() - height / 2, 0, image_height - height))
        left = int(np.clip(u.mean() - width / 2, 0, image_width - width))
        yield number, CropWindow(top, left, height, width)


def renumber(instances: UInt16) -> UInt16:
    """A piece of a map with its instances numbered 1, 2 ... in their order; others stay.

    >>> renumber(np.array([[0, 7, 3], [65535, 7, 0]], np.uint16)).tolist()
    [[0, 2, 1], [65535, 2, 0]]
    """
    numbers = _numbers_in(instances)
    table = np.zeros(IGNORE + 1, np.uint16)
    table[IGNORE] = IGNORE
    table[numbers] = np.arange(1, len(numbers) + 1)
    renumbered: UInt16 = table[instances]
    return renumbered


def _numbers_in(instances: npt.NDArray[np.integer]) -> Int64:
    """Instances of a map in ascending order; a table, since sorting all pixels takes longer."""
    is_there = np.zeros(IGNORE + 1, bool)
    is_there[instances] = True
    is_there[[BACKGROUND, IGNORE]] = False
    return np.flatnonzero(is_there)


def _frames_of(annotations: Annotations, class_index: int) -> list[int]:
    rows = is_instance(annotations, class_index)
    frames: list[int] = np.unique(annotations.frame_index[rows]).tolist()
    return frames
