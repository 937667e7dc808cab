"""What the trackers of masks share: assignment, the tracks alive, one tracker for each class.

Arithmetic is float64, unlike that of the trackers of boxes: the overlap of two masks is a quotient
of whole numbers that pycocotools gives in float64, and embeddings, float32 as a network gives them,
are exact in it.

Legend: N detections of one frame, T tracks alive, D width of an embedding.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from models.masks import FrameMasks, GivenMasks, Keys, Rle, check_size
from models.prepared import PreparedFrame
from models.tracking import NO_IDENTITY, Bool, Float64, Int64, check_ascends

_FORBIDDEN: Final = 1e9
"""Cost of a pair that may not be matched, far above the sum of all others: so the assignment first
makes the number of allowed pairs as large as can be, and then their total similarity."""


class Segments(NamedTuple):
    """What one frame has of one class."""

    embeddings: Float64
    """(N, D); D is 0 where nothing looks at them."""
    masks: FrameMasks | None
    """(N,); None where nothing looks at them."""


def match_most(similarity: Float64, threshold: float) -> tuple[Int64, Int64]:
    """Match as many rows with columns as may be, and among all ways to do so, the most similar.

    Args:
        similarity: float64, (N, T); either may be 0.
        threshold: a pair is allowed when its similarity is above this.

    Returns:
        Rows, ascending, and the column of each.

    The best pair gives way where that makes a second match possible:

    >>> match_most(np.array([[9.0, 1.0], [1.0, 0.0]]), 0.5)[1].tolist()
    [1, 0]
    """
    if similarity.size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # As published; the square padded with zeros that is solved there has the same optimum.
    cost = similarity.max() - similarity
    is_forbidden = similarity <= threshold
    cost[is_forbidden] = _FORBIDDEN
    rows, columns = linear_sum_assignment(cost)
    kept = ~is_forbidden[rows, columns]
    return rows[kept], columns[kept]


Compare = Callable[[Segments, "LiveTracks"], Float64]
"""Similarity (N, T) of N detections to T tracks, neither of them 0."""


class LiveTracks:
    """The tracks of one class that may still be continued, in the order they were started.

    A track is what was last seen of it: nothing is averaged, and its place never changes.
    """

    def __init__(self, keep_alive_frames: int) -> None:
        self.embeddings: Float64 = np.zeros((0, 0))
        """(T, D) of the last detection of each track."""
        self.masks: Keys = np.zeros(0, object)
        """(T,) likewise; empty where detections come without."""
        self._keep_alive_frames = keep_alive_frames
        self._ids: Int64 = np.zeros(0, np.int64)
        self._last_frames: Int64 = np.zeros(0, np.int64)
        self._num_started = 0
        self._frame: int | None = None
        self._width: int | None = None
        self._size: list[int] | None = None

    def join(
        self, frame_index: int, segments: Segments, compare: Compare, threshold: float
    ) -> Int64:
        """Continue tracks with detections, and start one for each detection that matches none.

        Before, tracks are forgotten that were last seen too many frames ago.

        Args:
            frame_index: must ascend from call to call; frames may be left out.
            segments: N detections.
            compare: gives the (N, T) similarity of detections and tracks.
            threshold: see `match_most`.

        Returns:
            (N,) ids, from 1 in order of start; new ones in the order of the detections.

        Raises:
            ValueError: a frame that does not ascend, embeddings of another width or masks of
                another size than before; nothing has been changed then.
        """
        self._check(frame_index, segments)
        self._frame = frame_index
        self._expire(frame_index)
        ids = np.full(len(segments.embeddings), NO_IDENTITY, np.int64)
        if len(ids) and len(self._ids):
            rows, columns = match_most(compare(segments, self), threshold)
            ids[rows] = self._ids[columns]
            self.embeddings[columns] = segments.embeddings[rows]
            self._last_frames[columns] = frame_index
            if segments.masks is not None:
                self.masks[columns] = segments.masks.keys[rows]
        self._start(frame_index, segments, ids)
        return ids

    def _check(self, frame_index: int, segments: Segments) -> None:
        check_ascends(frame_index, self._frame)
        if len(segments.embeddings) == 0:  # of no detections even the width is unknown
            return
        width = segments.embeddings.shape[1]
        if self._width not in (None, width):
            raise ValueError(
                f"frame {frame_index}: embeddings have width {width}, expected {self._width} as in "
                "the frames before"
            )
        if segments.masks is not None:
            sizes = segments.masks.sizes
            size = self._size or sizes[0].tolist()
            check_size(frame_index, sizes, size)
            self._size = size
        self._width = width

    def _expire(self, frame_index: int) -> None:
        is_alive: Bool = self._last_frames >= frame_index - self._keep_alive_frames
        if is_alive.all():
            return
        self._ids, self._last_frames = self._ids[is_alive], self._last_frames[is_alive]
        self.embeddings = self.embeddings[is_alive]
        if len(self.masks):
            self.masks = self.masks[is_alive]

    def _start(self, frame_index: int, segments: Segments, ids: Int64) -> None:
        """A track for every row without an id, which is filled in."""
        born = (ids == NO_IDENTITY).nonzero()[0]
        if len(born) == 0:
            return
        ids[born] = self._num_started + 1 + np.arange(len(born))
        self._num_started += len(born)
        self._ids = np.concatenate([self._ids, ids[born]])
        self._last_frames = np.concatenate([self._last_frames, np.full(len(born), frame_index)])
        self.embeddings = _extended(self.embeddings, segments.embeddings[born])
        if segments.masks is not None:
            self.masks = _extended(self.masks, segments.masks.keys[born])


class ClassTracker(Protocol):
    """What joins the detections of one class of one sequence."""

    def step(self, frame_index: int, segments: Segments) -> Int64:
        """Ids of the next frame's detections, from 1, every one has one."""


class PerClassTracker:
    """A tracker of its own for every class of a sequence, made when the class is first seen.

    Ids are unique over the classes: from 0, consecutive, numbered as they come, which is by frame
    and then in the order of the detections. With a single class they are that tracker's less one.
    A frame without detections of a class does not reach its tracker and need not, as tracks expire
    by the numbers of frames when it is next called.
    """

    def __init__(self, make_tracker: Callable[[], ClassTracker]) -> None:
        self._make_tracker = make_tracker
        self._trackers: dict[int, ClassTracker] = {}
        self._ids: dict[tuple[int, int], int] = {}
        self._frame: int | None = None

    def step(self, frame_index: int, frame: PreparedFrame) -> Int64:
        """Track ids of the detections in the order they were given.

        Raises:
            ValueError: a frame that does not ascend, or what the tracker of a class refuses.
        """
        check_ascends(frame_index, self._frame)
        self._frame = frame_index
        classes = frame.detections.class_indices
        found = np.zeros(len(classes), np.int64)
        for label in sorted(set(classes.tolist())):
            rows = (classes == label).nonzero()[0]
            if label not in self._trackers:
                self._trackers[label] = self._make_tracker()
            segments = Segments(
                frame.detections.features[rows].astype(np.float64),
                None if frame.masks is None else frame.masks.select(rows),
            )
            found[rows] = self._trackers[label].step(frame_index, segments)
        order = frame.rows.argsort()
        keys = zip(classes[order].tolist(), found[order].tolist(), strict=True)
        return np.array([self._ids.setdefault(key, len(self._ids)) for key in keys], np.int64)


def check_has_masks(frame_index: int, segments: Segments, tracker: str) -> None:
    """Refuse detections without masks.

    Raises:
        ValueError: names the frame and the tracker that needs them.
    """
    if segments.masks is None and len(segments.embeddings):
        raise ValueError(
            f"frame {frame_index}: the detections have no masks, and {tracker} compares masks; "
            "they come from a model that finds boxes only"
        )


def masks_of_frame(
    frame_index: int, masks: Sequence[Rle] | None, num_detections: int
) -> FrameMasks | None:
    """Masks that were given for one frame.

    Raises:
        ValueError: another number of masks than of detections; names the frame.
    """
    if masks is None:
        return None
    if len(masks) != num_detections:
        raise ValueError(
            f"frame {frame_index}: {len(masks)} masks were given for {num_detections} detections"
        )
    return GivenMasks.of(masks)


def _extended(column: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of no rows neither the width nor the type is known."""
    return np.concatenate([column, new]) if len(column) else new
