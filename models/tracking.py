"""What the trackers share: checked input, overlaps, greedy matching, memory of tracks.

All arithmetic is float32 and every comparison is made in float32, as in the published code: a
score of float32(0.3) is not above a threshold of 0.3, although as Python floats it would be.

Legend: N detections of one frame, T tracks alive, M columns of memory, D width of a feature.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NO_IDENTITY: Final = -1
"""Id of a detection that belongs to no track."""

_MIN_UNION: Final = 1e-6
_FIRST_CAPACITY: Final = 64


class FrameDetections(NamedTuple):
    """Detections of one frame, checked and in the types that trackers compute with."""

    boxes_xyxy: Float32
    """(N, 4) corners, exclusive right and bottom edges."""
    scores: Float32
    """(N,)."""
    class_indices: Int32
    """(N,)."""
    features: Float32
    """(N, D) what they are compared by: embeddings, or once more the boxes."""

    def select(self, rows: Int64) -> "FrameDetections":
        """A copy of the given rows, in the given order."""
        return FrameDetections(
            self.boxes_xyxy.take(rows, axis=0),
            self.scores[rows],
            self.class_indices[rows],
            self.features.take(rows, axis=0),  # on whole rows twice as fast as indexing
        )

    def subset(self, rows: Int64) -> "FrameDetections":
        """The given rows, distinct and ascending, to be read only: where they are all, itself."""
        return self if len(rows) == len(self.scores) else self.select(rows)


def check_detections(
    frame_index: int,
    boxes_xyxy: npt.ArrayLike,
    scores: npt.ArrayLike,
    class_indices: npt.ArrayLike,
    embeddings: npt.ArrayLike,
) -> FrameDetections:
    """Convert one frame's detections, refusing what would corrupt a tracker silently.

    Args:
        frame_index: named in errors.
        boxes_xyxy: (N, 4) corners, any real type.
        scores: (N,).
        class_indices: (N,) integers; an empty array may have any type.
        embeddings: (N, D); D may be anything in a frame without detections.

    Raises:
        ValueError: a wrong shape, class indices that are no integers, or a value that is not
            finite; names the frame and the row.
    """
    boxes = np.asarray(boxes_xyxy, np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"frame {frame_index}: boxes_xyxy has shape {boxes.shape}, expected (N, 4)"
        )
    score_column = np.asarray(scores, np.float32)
    classes = np.asarray(class_indices)
    features = np.asarray(embeddings, np.float32)
    num_boxes = len(boxes)
    check_rows(frame_index, "scores", score_column, num_boxes, num_axes=1)
    check_rows(frame_index, "class_indices", classes, num_boxes, num_axes=1)
    check_rows(frame_index, "embeddings", features, num_boxes, num_axes=2)
    if num_boxes and classes.dtype.kind not in "iu":
        raise ValueError(
            f"frame {frame_index}: class_indices has type {classes.dtype}, expected integers"
        )
    check_finite(frame_index, "boxes_xyxy", boxes)
    check_finite(frame_index, "scores", score_column)
    check_finite(frame_index, "embeddings", features)
    return FrameDetections(boxes, score_column, classes.astype(np.int32, copy=False), features)


def pairwise_iou(first: Float32, second: Float32) -> Float32:
    """Intersection over union of every box with every other, the union floored at 1e-6.

    Args:
        first: float32, (N, 4), corners with exclusive right and bottom edges.
        second: float32, (M, 4).

    Returns:
        float32, (N, M).

    >>> square = np.array([[0, 0, 2, 2]], np.float32)
    >>> pairwise_iou(square, np.array([[1, 0, 3, 2], [2, 0, 4, 2]], np.float32)).round(4).tolist()
    [[0.33329999446868896, 0.0]]
    """
    # One contiguous row per side: broadcasting over strided columns is several times slower.
    sides, other_sides = np.ascontiguousarray(first.T), np.ascontiguousarray(second.T)
    low, high = sides[:2, :, None], sides[2:, :, None]
    other_low, other_high = other_sides[:2, None], other_sides[2:, None]
    extent = np.minimum(high, other_high)
    extent -= np.maximum(low, other_low)
    np.maximum(extent, 0, out=extent)
    overlap: Float32 = extent[0] * extent[1]
    size, other_size = high - low, other_high - other_low
    union = size[0] * size[1] + other_size[0] * other_size[1]
    union -= overlap
    np.maximum(union, _MIN_UNION, out=union)
    overlap /= union
    return overlap


class GreedyMatches(NamedTuple):
    """What each row found when its turn came."""

    columns: Int64
    """(N,) most similar column that no earlier row had taken."""
    confidences: Float32
    """(N,) similarity to it."""
    rows: Int64
    """Rows that took their column for themselves, ascending."""


def match_greedily(
    similarity: Float32, threshold: float, takes: Callable[[Any, Any], Any]
) -> GreedyMatches:
    """Go through the rows in order; each looks at its most similar column only.

    A column that was taken reads 0 for all later rows. A row that may not take its best column
    has no second try.

    Args:
        similarity: float32, (N, M), M > 0; overwritten. A row that holds NaN matches nothing as
            long as the column of its first NaN is free.
        threshold: at least 0; the similarity must be above it. Because it is not negative, only
            rows whose best column was taken have to look again.
        takes: whether a row may take a column, for a pair of numbers or of arrays.
    """
    every_row = np.arange(len(similarity))
    columns = similarity.argmax(axis=1)
    confidences = similarity[every_row, columns]
    may_take = (confidences > threshold) & takes(every_row, columns)
    # Not "above": a row of NaN becomes comparable when its NaN column is taken and reads 0.
    candidates = (~(confidences <= threshold)).nonzero()[0]
    gone: set[int] = set()
    rows: list[int] = []
    for row, column, may in zip(
        candidates.tolist(),
        columns[candidates].tolist(),
        may_take[candidates].tolist(),
        strict=True,
    ):
        if column in gone:
            values = similarity[row]
            values[list(gone)] = 0
            column = int(values.argmax())
            columns[row], confidences[row] = column, values[column]
            may = values[column] > threshold and takes(row, column)
        if may:
            gone.add(column)
            rows.append(row)
    return GreedyMatches(columns, confidences, np.array(rows, np.int64))


class TrackMemory:
    """The tracks alive, one row each, in the order they were created.

    The order decides between equal similarities, so deleting moves rows up and never reorders.
    Rows live in arrays with room to spare, so that a product over all tracks copies nothing.
    """

    def __init__(self) -> None:
        self.num_tracks = 0
        self._num_created = 0
        self._last_frame: int | None = None
        self._ids = np.empty(_FIRST_CAPACITY, np.int64)
        self._class_indices = np.empty(_FIRST_CAPACITY, np.int32)
        self._last_frames = np.empty(_FIRST_CAPACITY, np.int64)
        self._scores = np.empty(_FIRST_CAPACITY, np.float32)
        self._features = np.empty((_FIRST_CAPACITY, 0), np.float32)

    @property
    def ids(self) -> Int64:
        """(T,), ascending."""
        return self._ids[: self.num_tracks]

    @property
    def class_indices(self) -> Int32:
        """(T,) of the last detection of each track."""
        return self._class_indices[: self.num_tracks]

    @property
    def scores(self) -> Float32:
        """(T,) of the last detection of each track, as it was stored."""
        return self._scores[: self.num_tracks]

    @property
    def features(self) -> Float32:
        """(T, D) what detections are compared with: embeddings or boxes."""
        return self._features[: self.num_tracks]

    def begin_frame(self, frame_index: int, features: Float32) -> None:
        """Note the frame, and the width of features at the first detection.

        Raises:
            ValueError: a frame that does not come after the last one, or another width than
                before.
        """
        check_ascends(frame_index, self._last_frame)
        width, known_width = features.shape[1], self._features.shape[1]
        if len(features) and width == 0:
            raise ValueError(
                f"frame {frame_index}: embeddings have width 0, expected at least 1; these "
                "detections come from a model without an embedding head"
            )
        if len(features) and known_width not in (0, width):
            raise ValueError(
                f"frame {frame_index}: embeddings have width {width}, expected {known_width} as "
                "in the frames before"
            )
        if len(features) and known_width == 0:
            self._features = np.empty((len(self._ids), width), np.float32)
        self._last_frame = frame_index

    def features_followed_by(self, extra: Iterable[FrameDetections]) -> tuple[Float32, Int32]:
        """Features and classes of all tracks, then of further rows, without copying the tracks.

        Returns:
            Views (M, D) and (M,) into the memory, valid until the next change.
        """
        end = self.num_tracks
        for group in extra:
            if not len(group.scores):  # of an empty frame, whose features may have any width
                continue
            start, end = end, end + len(group.scores)
            self._reserve(end)
            self._features[start:end] = group.features
            self._class_indices[start:end] = group.class_indices
        return self._features[:end], self._class_indices[:end]

    def create(self, frame_index: int, detections: FrameDetections) -> Int64:
        """Start one track per row and return their ids, consecutive over the life of the memory."""
        start, self.num_tracks = self.num_tracks, self.num_tracks + len(detections.scores)
        self._reserve(self.num_tracks)
        ids = np.arange(self._num_created, self._num_created + len(detections.scores))
        self._num_created += len(ids)
        self._ids[start : self.num_tracks] = ids
        self.replace(np.arange(start, self.num_tracks), frame_index, detections)
        return ids

    def create_where_missing(
        self, ids: Int64, frame_index: int, detections: FrameDetections, score_thr: float
    ) -> None:
        """Start a track for each row that has none and a score above a threshold.

        Args:
            ids: int64, (N,) of the rows, `NO_IDENTITY` where there is none; new ones are filled in.
            frame_index: of the detections.
            detections: N of one frame.
            score_thr: not every detection is worth a track.
        """
        is_born = (ids == NO_IDENTITY) & (detections.scores > score_thr)
        born = is_born.nonzero()[0]
        ids[born] = self.create(frame_index, detections.select(born))

    def replace(self, rows: Int64, frame_index: int, detections: FrameDetections) -> None:
        """Overwrite what is known of the tracks at `rows` (distinct) by one detection each."""
        self._features[rows] = detections.features
        self._class_indices[rows] = detections.class_indices
        self._scores[rows] = detections.scores
        self._last_frames[rows] = frame_index

    def expire(self, frame_index: int, memo_frames: int) -> None:
        """Forget the tracks that were last seen `memo_frames` frames ago or earlier."""
        is_alive = frame_index - self._last_frames[: self.num_tracks] < memo_frames
        kept = is_alive.nonzero()[0]
        if len(kept) == self.num_tracks:
            return
        first = int(is_alive.argmin())  # the rows before the first dead one stay where they are
        self.num_tracks = len(kept)
        for column in self._columns():
            column[first : self.num_tracks] = column.take(kept[first:], axis=0)

    def _columns(self) -> list[npt.NDArray[Any]]:
        return [self._ids, self._class_indices, self._last_frames, self._scores, self._features]

    def _reserve(self, num_rows: int) -> None:
        capacity = len(self._ids)
        if num_rows <= capacity:
            return
        # Doubling keeps the cost of growing constant per row.
        capacity = max(num_rows, 2 * capacity)
        self._ids, self._class_indices, self._last_frames, self._scores, self._features = (
            _grown(column, capacity) for column in self._columns()
        )


def check_ascends(frame_index: int, last_frame: int | None) -> None:
    """Refuse a frame that does not come after the last one, if there was one.

    Raises:
        ValueError: names both.
    """
    if last_frame is not None and frame_index <= last_frame:
        raise ValueError(
            f"frame {frame_index}: comes after frame {last_frame}; frames must ascend, and every "
            "sequence needs a tracker of its own"
        )


def check_share(name: str, value: float) -> None:
    """Refuse a config field outside [0, 1].

    Raises:
        ValueError: names the field.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, expected a number from 0 to 1")


def check_frames(name: str, value: int) -> None:
    """Refuse a config field that is no number of frames.

    Raises:
        ValueError: names the field.
    """
    if value < 0:
        raise ValueError(f"{name} is {value!r}, expected a number of frames, 0 or more")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a config field that is none of its choices.

    Raises:
        ValueError: names the field and the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")


def check_rows(
    frame_index: int, name: str, array: npt.NDArray[Any], num_boxes: int, *, num_axes: int
) -> None:
    """Refuse a column of another length or with another number of axes than expected.

    Raises:
        ValueError: names the frame and the column.
    """
    if array.ndim != num_axes or len(array) != num_boxes:
        expected = "(N,)" if num_axes == 1 else "(N, D)"
        raise ValueError(
            f"frame {frame_index}: {name} has shape {array.shape}, expected {expected} with "
            f"N = {num_boxes} boxes"
        )


def check_finite(frame_index: int, name: str, array: Float32) -> None:
    """Refuse numbers that are not finite.

    Raises:
        ValueError: names the frame, the column and the first such row.
    """
    finite = np.isfinite(array)
    if not finite.all():
        place = tuple(np.argwhere(~finite)[0].tolist())
        raise ValueError(
            f"frame {frame_index}: {name} holds {array[place]} in row {place[0]}, expected "
            "finite numbers"
        )


def _grown(column: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    larger = np.empty((capacity, *column.shape[1:]), column.dtype)
    larger[: len(column)] = column
    return larger
