"""Masks of detections as trackers see them: COCO codes, and how much each overlaps earlier ones.

A tracker asks for the overlap of this frame's masks with those that its tracks were last seen with.
It keeps a key of each mask and hands the keys back: whether a key is the mask itself or a row of a
prepared sequence is nothing that it has to know.

Legend: N masks of one frame or of a sequence, T masks of earlier frames, F frames, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypedDict

import numpy as np
import numpy.typing as npt

from models.tracking import Bool, Float64, Int32, Int64

Keys = npt.NDArray[Any]
"""(N,) what a tracker remembers of masks; only `FrameMasks` of the same origin understand it."""


class Rle(TypedDict):
    """One mask of one image as a COCO run-length code."""

    size: list[int]
    """Height and width of the image, in pixels."""
    counts: bytes
    """COCO's compressed runs, column by column."""


class FrameMasks(Protocol):
    """Masks of the detections of one frame."""

    @property
    def keys(self) -> Keys:
        """(N,) by which later frames ask for these masks."""

    @property
    def sizes(self) -> npt.NDArray[Any]:
        """(N, 2) height and width of the image of each."""

    def select(self, rows: Int64) -> "FrameMasks":
        """The given rows, in the given order."""

    def iou(self, earlier: Keys) -> Float64:
        """(N, T) intersection over union with masks of earlier frames."""


def rle_iou(first: Sequence[Rle], second: Sequence[Rle]) -> Float64:
    """Intersection over union of every mask with every other; all are of images of one size.

    The codes are whole: pycocotools does not return from one whose runs miss some pixels. Who reads
    codes from a file checks them there.

    Returns:
        float64, (N, M); 0 where a mask is empty.

    >>> left, both = {"size": [2, 2], "counts": b"022"}, {"size": [2, 2], "counts": b"04"}
    >>> rle_iou([left], [left, both]).tolist()
    [[1.0, 0.5]]
    """
    from pycocotools import mask as coco

    if not first or not second:
        return np.zeros((len(first), len(second)))
    overlap: Float64 = coco.iou(list(first), list(second), [False] * len(second))
    return overlap


def check_size(frame_index: int, sizes: npt.NDArray[Any], expected: Sequence[int]) -> None:
    """Refuse masks that cannot be compared with the others of their sequence.

    Args:
        frame_index: named in the error.
        sizes: (N, 2) height and width of each mask's image.
        expected: height and width.

    Raises:
        ValueError: names the frame and the row.
    """
    differs = (sizes != expected).any(axis=1)
    if differs.any():
        row = int(differs.argmax())
        height, width = (int(number) for number in sizes[row])
        raise ValueError(
            f"frame {frame_index}: the mask of row {row} is of an image of {height} x {width} "
            f"pixels (height x width), expected {expected[0]} x {expected[1]} like the first mask "
            "of the sequence; masks of different sizes cannot be compared"
        )


class GivenMasks(NamedTuple):
    """Masks that are handed over frame by frame; they are their own keys."""

    keys: Keys
    """(N,) of `Rle`."""

    @classmethod
    def of(cls, codes: Sequence[Rle]) -> Self:
        keys = np.empty(len(codes), object)
        keys[:] = codes
        return cls(keys)

    @property
    def sizes(self) -> Int32:
        return np.array([code["size"] for code in self.keys], np.int32).reshape(-1, 2)

    def select(self, rows: Int64) -> "GivenMasks":
        return GivenMasks(self.keys[rows])

    def iou(self, earlier: Keys) -> Float64:
        return rle_iou(self.keys.tolist(), earlier.tolist())


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceMasks:
    """All masks of a sequence in the order given: flat arrays that processes share without a copy.

    The overlaps of every frame with the frames of a window before it can be worked out ahead, for
    whoever replays a sequence often. What was last seen before the window is compared when asked
    for, by the same arithmetic, so the window changes no result.
    """

    frame_offsets: Int64
    """(F + 1,) masks of frame f are rows `frame_offsets[f]:frame_offsets[f + 1]`."""
    sizes: Int32
    """(N, 2) height and width of the image of each."""
    counts: npt.NDArray[np.uint8]
    """(B,) the runs of all masks, one code behind the other."""
    count_offsets: Int64
    """(N + 1,) the code of row i is `counts[count_offsets[i]:count_offsets[i + 1]]`."""
    window_starts: Int64
    """(F,) first row of the window of each frame, which ends where the frame begins."""
    pair_offsets: Int64
    """(F + 1,) overlapping pairs of frame f likewise."""
    pair_cells: Int32
    """(P,) place of each pair in the flattened matrix of frame against window; all else is 0."""
    pair_iou: Float64
    """(P,)."""

    def codes(self, rows: npt.NDArray[Any]) -> tuple[Rle, ...]:
        """The masks of the given rows."""
        return tuple(
            {"size": size, "counts": self.counts[start:stop].tobytes()}
            for size, start, stop in zip(
                self.sizes[rows].tolist(),
                self.count_offsets[rows].tolist(),
                self.count_offsets[rows + 1].tolist(),
                strict=True,
            )
        )

    def frame(self, frame_index: int, rows: npt.NDArray[Any]) -> FrameMasks:
        """The masks of some rows of a frame, counted from its first one."""
        return _SharedMasks(self, frame_index, self.frame_offsets[frame_index] + rows)

    @classmethod
    def of(
        cls,
        codes: Sequence[Rle],
        frame_offsets: Int64,
        class_indices: npt.NDArray[Any],
        window_frames: int = 0,
    ) -> Self:
        """Pack masks, and work out how they overlap with those of their class before them.

        Args:
            codes: N masks.
            frame_offsets: (F + 1,) rows of each frame.
            class_indices: (N,); masks of different classes are never compared.
            window_frames: how many frames before each are compared with it now.

        Raises:
            ValueError: masks of different sizes that had to be compared; names the frame.
        """
        num_frames = len(frame_offsets) - 1
        first_frames = np.maximum(np.arange(num_frames) - window_frames, 0)
        window_starts = frame_offsets[first_frames]
        sizes = np.array([code["size"] for code in codes], np.int32).reshape(-1, 2)
        cells: list[Int64] = [np.zeros(0, np.int64)] * num_frames
        ious: list[Float64] = [np.zeros(0)] * num_frames
        if window_frames and len(codes):
            comparison = _Comparison(codes, sizes, class_indices)
            for index, start in enumerate(window_starts.tolist()):
                frame = slice(int(frame_offsets[index]), int(frame_offsets[index + 1]))
                cells[index], ious[index] = comparison.pairs(index, start, frame)
        return cls(
            frame_offsets=frame_offsets,
            sizes=sizes,
            counts=np.frombuffer(b"".join(code["counts"] for code in codes), np.uint8),
            count_offsets=np.cumsum([0, *(len(code["counts"]) for code in codes)]),
            window_starts=window_starts,
            pair_offsets=np.cumsum([0, *map(len, cells)]),
            pair_cells=np.concatenate([np.zeros(0, np.int64), *cells]).astype(np.int32),
            pair_iou=np.concatenate([np.zeros(0), *ious]),
        )

    def window_iou(self, frame_index: int) -> Float64:
        """(N, W) of all masks of a frame with all of its window."""
        start, stop = self.frame_offsets[frame_index : frame_index + 2].tolist()
        width = start - int(self.window_starts[frame_index])
        first, last = self.pair_offsets[frame_index : frame_index + 2].tolist()
        overlap = np.zeros((stop - start) * width)
        overlap[self.pair_cells[first:last]] = self.pair_iou[first:last]
        return overlap.reshape(stop - start, width)


class _SharedMasks(NamedTuple):
    """Masks of one frame of a prepared sequence; their rows in it are the keys."""

    sequence: SequenceMasks
    frame_index: int
    keys: Keys

    @property
    def sizes(self) -> Int32:
        return self.sequence.sizes[self.keys]

    def select(self, rows: Int64) -> "_SharedMasks":
        return self._replace(keys=self.keys[rows])

    def iou(self, earlier: Keys) -> Float64:
        start = self.sequence.window_starts[self.frame_index]
        is_near = earlier >= start
        if not is_near.any():
            return self._compare(earlier)
        overlap = np.zeros((len(self.keys), len(earlier)))
        rows = self.keys - self.sequence.frame_offsets[self.frame_index]
        known = self.sequence.window_iou(self.frame_index)
        overlap[:, is_near] = known[rows[:, None], earlier[is_near] - start]
        if not is_near.all():
            overlap[:, ~is_near] = self._compare(earlier[~is_near])
        return overlap

    def _compare(self, earlier: Keys) -> Float64:
        return rle_iou(self.sequence.codes(self.keys), self.sequence.codes(earlier))


class _Comparison:
    """Overlaps of a sequence's masks of one class; boxes that are apart cost nothing."""

    def __init__(self, codes: Sequence[Rle], sizes: Int32, class_indices: npt.NDArray[Any]) -> None:
        from pycocotools import mask as coco

        self._codes = codes
        self._sizes = sizes
        self._classes = class_indices
        boxes_xywh: Float64 = coco.toBbox(list(codes))
        self._low, self._high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]

    def pairs(self, frame_index: int, start: int, frame: slice) -> tuple[Int64, Float64]:
        """Places of the overlapping pairs in (frame, rows from `start` to the frame), and IoU."""
        check_size(frame_index, self._sizes[frame], self._sizes[0].tolist())
        may_overlap = self._may_overlap(frame, slice(start, frame.start))
        columns = np.flatnonzero(may_overlap.any(axis=0))
        overlap = np.zeros(may_overlap.shape)
        overlap[:, columns] = rle_iou(
            self._codes[frame], [self._codes[start + column] for column in columns.tolist()]
        )
        overlap *= may_overlap
        cells = np.flatnonzero(overlap)
        return cells, overlap.ravel()[cells]

    def _may_overlap(self, frame: slice, window: slice) -> Bool:
        low = np.maximum(self._low[frame, None], self._low[None, window])
        high = np.minimum(self._high[frame, None], self._high[None, window])
        same_class = self._classes[frame, None] == self._classes[None, window]
        may: Bool = same_class & np.all(low < high, axis=2)
        return may
