"""Instance masks as COCO run-length codes, and what readers and scoring do with them.

A code is ``{"size": [height, width], "counts": bytes}``, runs column by column, compressed as in
COCO: the form in which KITTI MOTS and MOTSChallenge write masks into text, and in which every
record here carries them. Packing and overlaps are pycocotools'.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_MOST_AREAS: Final = 255
"""Masks at once: for more, pycocotools 2.0 puts their number into a byte, and NumPy 2 refuses."""
_LONGEST_SIDE: Final = 65535
"""Of an image: pycocotools counts pixels in 32 bits."""
_MOST_DIGITS: Final = 6
"""Of a run, for the same reason."""
_BYTES_AT_ONCE: Final = 1 << 17
"""Of codes decoded together: their arrays stay in the processor's cache."""
_MOST_PIXELS: Final = 1 << 30
"""Of an image whose codes are decoded together, in 32 bits."""
_UNSETTLED: Final = -1
"""The area of a mask that is to be looked at by itself."""


class Rle(TypedDict):
    """One mask of one image."""

    size: list[int]
    """Height and width of the image, in pixels."""
    counts: bytes
    """COCO's compressed runs, column by column."""


class Inspection(NamedTuple):
    """What codes from a file turned out to be."""

    faults: dict[int, str]
    """What is wrong, by the place of the code; those that are whole are left out."""
    areas: Int64
    """(N,) pixels of each mask, 0 of a code that is not whole."""


def encode_mask(mask: npt.NDArray[np.generic]) -> Rle:
    """The code of one mask.

    Args:
        mask: (H, W) of any type; what is not 0 belongs to the mask.

    >>> encode_mask(np.array([[0, 1], [0, 1]]))
    {'size': [2, 2], 'counts': b'22'}
    """
    from pycocotools import mask as coco

    code: Rle = coco.encode(np.asfortranarray(mask != 0, np.uint8))
    return code


def encode_instances(instance_map: npt.NDArray[np.integer], ids: Sequence[int]) -> list[Rle]:
    """The codes of some instances of a map, in the order of `ids`.

    The map is walked once, whatever the number of instances.

    Args:
        instance_map: (H, W) the id of each pixel.
        ids: values in the map; one that has no pixel gives an empty mask.
    """
    return _encode_runs(_runs_of(instance_map), ids, instance_map.shape)


def split_instances(
    instance_map: npt.NDArray[np.integer], *, background: int = 0
) -> dict[int, Rle]:
    """The code of every instance of a map by its id, in ascending order.

    >>> {i: code["counts"] for i, code in split_instances(np.array([[0, 7], [3, 7]])).items()}
    {3: b'112', 7: b'22'}
    """
    runs = _runs_of(instance_map)
    ids = [i for i in np.unique(runs.values).tolist() if i != background]
    return dict(zip(ids, _encode_runs(runs, ids, instance_map.shape), strict=True))


def decode_mask(code: Rle) -> Bool:
    """(H, W) the mask of a code.

    >>> decode_mask({"size": [2, 2], "counts": b"22"}).tolist()
    [[False, True], [False, True]]
    """
    from pycocotools import mask as coco

    mask: Bool = coco.decode(code).astype(bool)
    return mask


def mask_areas(codes: Sequence[Rle]) -> Int64:
    """(N,) pixels of each mask."""
    from pycocotools import mask as coco

    areas = np.zeros(len(codes), np.int64)
    for start in range(0, len(codes), _MOST_AREAS):
        part = list(codes[start : start + _MOST_AREAS])
        areas[start : start + len(part)] = coco.area(part)
    return areas


def mask_boxes(codes: Sequence[Rle]) -> Float64:
    """(N, 4) smallest box around each mask, x1 y1 x2 y2 with exclusive right and bottom edges.

    An empty mask has the box 0 0 0 0.
    """
    from pycocotools import mask as coco

    if not codes:
        return np.zeros((0, 4))
    boxes: Float64 = np.asarray(coco.toBbox(list(codes)), np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def mask_iou(first: Sequence[Rle], second: Sequence[Rle]) -> Float64:
    """(N, M) intersection over union of every mask with every other."""
    return _overlap(first, second, [False] * len(second))


def covered_by(codes: Sequence[Rle], covers: Sequence[Rle]) -> Float64:
    """(N, M) share of the area of each mask of `codes` that lies inside each of `covers`."""
    return _overlap(codes, covers, [True] * len(covers))


def merge_masks(codes: Sequence[Rle]) -> Rle:
    """The union of at least one mask."""
    from pycocotools import mask as coco

    merged: Rle = coco.merge(list(codes))
    return merged


def are_disjoint(codes: Sequence[Rle], areas: Int64) -> bool:
    """Whether no two masks of an image share a pixel.

    Args:
        codes: N masks.
        areas: (N,) pixels of each.
    """
    from pycocotools import mask as coco

    return len(codes) < 2 or int(areas.sum()) == int(coco.area(merge_masks(codes)))


def touching_boxes(frame_index: npt.NDArray[np.integer], boxes_xyxy: Float64) -> Bool:
    """(N,) whose box shares area with another one of the same frame.

    Masks of the others cannot overlap, and most are of these.

    Args:
        frame_index: (N,) ascending.
        boxes_xyxy: (N, 4) with exclusive right and bottom edges.

    >>> boxes = np.array([[0.0, 0, 4, 4], [4, 0, 8, 4], [7, 3, 9, 9]])
    >>> touching_boxes(np.array([5, 5, 5]), boxes).tolist()
    [False, True, True]
    """
    touches = np.zeros(len(boxes_xyxy), bool)
    rows, step = np.arange(len(boxes_xyxy)), 0
    while len(rows):
        step += 1
        rows = rows[: np.searchsorted(rows, len(boxes_xyxy) - step)]
        rows = rows[frame_index[rows] == frame_index[rows + step]]
        first, second = boxes_xyxy[rows], boxes_xyxy[rows + step]
        starts, ends = np.maximum(first, second)[:, :2], np.minimum(first, second)[:, 2:]
        found = rows[(starts < ends).all(axis=1)]
        touches[found] = touches[found + step] = True
    return touches


def find_overlap(codes: Sequence[Rle]) -> tuple[int, int] | None:
    """The first two masks, by place, that share a pixel; None where all are disjoint."""
    if are_disjoint(codes, mask_areas(codes)):
        return None
    shared = covered_by(codes, codes) > 0
    rows, columns = np.nonzero(np.triu(shared, 1))
    return int(rows[0]), int(columns[0])


def remove_overlaps(codes: Sequence[Rle], scores: npt.NDArray[np.floating]) -> list[Rle]:
    """Disjoint masks: a pixel that several masks claim stays with the one of the highest score.

    Equal scores are served in the order of the masks. A mask may end up empty; the caller decides
    what becomes of it. Masks that overlap no other come back as they are.

    Args:
        codes: N masks of one image.
        scores: (N,).
    """
    if find_overlap(codes) is None:
        return list(codes)
    disjoint: list[Rle] = list(codes)
    taken = np.zeros(codes[0]["size"], bool)
    shared = covered_by(codes, codes) > 0
    np.fill_diagonal(shared, False)
    for place in np.argsort(-scores, kind="stable"):
        if not shared[place].any():
            continue
        mask = decode_mask(codes[place])
        if (mask & taken).any():
            disjoint[place] = encode_mask(mask & ~taken)
        taken |= mask
    return disjoint


def check_mask(code: Rle, where: str) -> Rle:
    """The code itself, if it holds exactly the pixels of its image.

    Raises:
        ValueError: what `find_fault` says; `where` names the place.
    """
    fault = find_fault(code)
    if fault is not None:
        raise ValueError(f"{where}: {fault}")
    return code


def find_fault(code: Rle) -> str | None:
    """What is wrong with a code that comes from a file; None where it is whole.

    pycocotools reads past the end of a code that is cut short, so whatever comes from a file goes
    through here first. Wrong are characters that no code has, runs that do not add up to height x
    width, and sides that no image has.
    """
    height, width = code["size"]
    if not (0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE):
        return (
            f"the mask is of an image of {height} x {width} pixels, expected sides from 1 to "
            f"{_LONGEST_SIDE}"
        )
    counts = code["counts"]
    runs = _parse_runs(counts)
    if runs is None:
        shown = f"{counts[:40]!r}{' ...' if len(counts) > 40 else ''}"
        return f"the mask is no COCO run-length code: {shown}"
    # pycocotools would give a wrong box for runs of no pixel.
    if runs.min() < 0 or not runs[1:-1].all():
        return (
            f"a run of the mask has the length {min(runs.min(), 0)}, expected 1 or more between "
            "the first and the last"
        )
    if runs.sum() != height * width:
        return (
            f"the runs of the mask cover {runs.sum()} pixels, expected {height} x {width} = "
            f"{height * width}; the size does not belong to this mask, or it was cut short"
        )
    return None


def inspect_masks(codes: Sequence[Rle]) -> Inspection:
    """The faults and areas of many codes, as `find_fault` and `mask_areas` give them, but faster.

    >>> inspect_masks([{"size": [2, 2], "counts": b"22"}, {"size": [2, 3], "counts": b"33"}]).areas
    array([2, 3])
    """
    if not codes:
        return Inspection({}, np.zeros(0, np.int64))
    ends = np.cumsum([len(code["counts"]) for code in codes], dtype=np.int64)
    cuts = np.flatnonzero(np.diff(ends // _BYTES_AT_ONCE)) + 1
    areas = np.zeros(len(codes), np.int64)
    for start, end in pairwise([0, *cuts.tolist(), len(codes)]):
        areas[start:end] = _areas_of_whole(codes[start:end])
    faults: dict[int, str] = {}
    for place in np.flatnonzero(areas == _UNSETTLED).tolist():
        fault = find_fault(codes[place])
        areas[place] = mask_areas([codes[place]])[0] if fault is None else 0
        if fault is not None:
            faults[place] = fault
    return Inspection(faults, areas)


class _Runs(NamedTuple):
    """Stretches of one value, column by column through the whole map."""

    starts: Int64
    ends: Int64
    values: npt.NDArray[np.integer]


def _runs_of(instance_map: npt.NDArray[np.integer]) -> _Runs:
    flat = instance_map.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([np.zeros(1, np.int64), changes])
    return _Runs(starts, np.append(starts[1:], len(flat)), flat[starts])


def _encode_runs(runs: _Runs, ids: Sequence[int], shape: tuple[int, ...]) -> list[Rle]:
    from pycocotools import mask as coco

    size = list(shape)
    plain = []
    for instance in ids:
        own = runs.values == instance
        edges = np.stack([runs.starts[own], runs.ends[own]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=runs.ends[-1])
        # An encoder ends with the last pixel that is there: no run of length 0 behind it.
        plain.append({"size": size, "counts": counts if counts[-1] else counts[:-1]})
    codes: list[Rle] = coco.frPyObjects(plain, *size) if plain else []
    return codes


def _parse_runs(counts: bytes) -> Int64 | None:
    """Lengths of the runs: digits of 6 bits, 5 of them data; None where it is no code."""
    data = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if len(data) == 0 or data.min() < 0 or data.max() > 63 or data[-1] & 32:
        return None
    ends = np.flatnonzero((data & 32) == 0)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_DIGITS:
        return None
    place = np.arange(len(data)) - np.repeat(starts, lengths)
    values = np.add.reduceat((data & 31) << (5 * place), starts)
    values -= (data[ends] & 16 != 0) * (1 << (5 * lengths))
    return _undo_differences(values)


def _undo_differences(values: Int64) -> Int64:
    """From the fourth run on, a code holds the difference from the run two places before."""
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def _areas_of_whole(codes: Sequence[Rle]) -> Int64:
    """(N,) pixels of each mask whose code is whole, -1 of the others."""
    areas = np.full(len(codes), _UNSETTLED, np.int64)
    counts = [code["counts"] for code in codes]
    data = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)
    lengths = np.array([len(one) for one in counts], np.int64)
    ends = np.cumsum(lengths)
    is_code = lengths > 0
    is_code[is_code] = data[ends[is_code] - 1] & 32 == 0
    # Characters below "0" have wrapped around.
    is_code[np.searchsorted(ends, np.flatnonzero(data > 63), side="right")] = False
    if not is_code.all():
        places = np.flatnonzero(is_code)
        if len(places):
            areas[places] = _areas_of_whole([codes[place] for place in places.tolist()])
        return areas
    more = np.flatnonzero(data > 31)
    ends -= np.searchsorted(more, ends)
    values, suspects = _read_digits(data, more)
    columns = _Columns(ends)
    runs = columns.undo_differences(values)
    # Zero wraps around, and so do lengths below it.
    odd_ones = np.flatnonzero(runs.view(np.uint32) - np.uint32(1) >= _MOST_PIXELS)
    is_edge = np.isin(odd_ones, columns.starts) | np.isin(odd_ones, ends - 1)
    suspects = np.append(suspects, odd_ones[(runs[odd_ones] != 0) | ~is_edge])
    inside, total = columns.sum(runs)
    # Nearly always all are of one size.
    size = codes[0]["size"]
    num_pixels = _num_pixels(*size)
    is_whole = total == [
        num_pixels if code["size"] == size else _num_pixels(*code["size"]) for code in codes
    ]
    is_whole[np.searchsorted(ends, suspects, side="right")] = False
    areas[is_whole] = inside[is_whole]
    return areas


def _num_pixels(height: int, width: int) -> int:
    """-1 of an image that is none, or too large to be decoded in 32 bits."""
    is_image = 0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE
    return height * width if is_image and height * width <= _MOST_PIXELS else -1


def _read_digits(data: npt.NDArray[np.uint8], more: Int64) -> tuple[Int32, Int64]:
    """Numbers as they are written, modulo 2^32, and the places of those with too many digits.

    Args:
        data: characters of whole numbers, 0 to 63.
        more: where in `data` the digits are that others follow.
    """
    last = data[data < 32]
    values = ((last ^ 16).view(np.int8) - np.int8(16)).astype(np.int32)
    if not len(more):
        return values, more
    number = more - np.arange(len(more))
    first = np.flatnonzero(np.diff(number, prepend=-1))
    num_more = np.diff(first, append=len(more))
    number = number[first]
    place = np.arange(len(more)) - np.repeat(first, num_more)
    digits = (data[more] & 31).astype(np.int32) << 5 * np.minimum(place, 6).astype(np.int32)
    shift = 5 * np.minimum(num_more, 6).astype(np.int32)
    values[number] = (values[number] << shift) + np.add.reduceat(digits, first)
    return values, number[num_more >= _MOST_DIGITS]


class _Columns:
    """Runs of many masks, one behind the other: those at even places, and those at odd ones.

    Differences are of every other run, and so are the pixels of a mask.
    """

    def __init__(self, ends: Int64) -> None:
        """Each of the N masks ends before `ends` (N,) and has at least one run."""
        self.starts = np.append(np.zeros(1, np.int64), ends[:-1])
        # What comes before a place: half of the places, even ones first.
        self._edges = [((self.starts + one) // 2, (ends + one) // 2) for one in (1, 0)]

    def undo_differences(self, values: Int32) -> Int32:
        """Lengths of runs modulo 2^32.

        They are right as long as each is from 0 to 2^30: the difference to the next but one is
        less than 2^29, so the first that is not cannot get back into that range unseen.
        """
        values, first = values.copy(), values[self.starts]
        values[self.starts] = 0  # nothing refers to the first run
        runs = np.empty_like(values)
        for column, (starts, ends) in enumerate(self._edges):
            sums = np.zeros((len(values) + 1 - column) // 2 + 1, np.int32)
            np.cumsum(values[column::2], dtype=np.int32, out=sums[1:])
            runs[column::2] = sums[1:] - np.repeat(sums[starts], ends - starts)
        runs[self.starts] = first
        return runs

    def sum(self, runs: Int32) -> tuple[Int64, Int64]:
        """(N,) pixels of each mask, and of its whole image."""
        parts = []
        for column, (starts, ends) in enumerate(self._edges):
            sums = np.zeros((len(runs) + 1 - column) // 2 + 1, np.int64)
            np.cumsum(runs[column::2], dtype=np.int64, out=sums[1:])
            parts.append(sums[ends] - sums[starts])
        even, odd = parts
        return np.where(self.starts % 2, even, odd), even + odd


def _overlap(first: Sequence[Rle], second: Sequence[Rle], is_cover: list[bool]) -> Float64:
    from pycocotools import mask as coco

    if not first or not second:
        return np.zeros((len(first), len(second)))
    overlap: Float64 = coco.iou(list(first), list(second), is_cover)
    if (overlap < 0).any():
        row, column = (int(places[0]) for places in np.nonzero(overlap < 0))
        raise ValueError(
            f"mask {row} is of an image of {first[row]['size']} pixels (height, width), mask "
            f"{column} of {second[column]['size']}: they cannot be compared"
        )
    return overlap
