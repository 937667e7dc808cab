"""Baselines from a library: SORT, ByteTrack and OC-SORT on the detections of any detector.

They join boxes by where a Kalman filter expects them, without a look at the image. The trackers are
those of the library `trackers`, the optional extra `baselines`; here is only what makes them obey
the rules of our own: classes, ids, order of rows, frames without detections.

Defaults are the library's own, except that its numbers of frames are for 30 frames a second and
BDD100K has 5: a lost track is kept for the same second, 5 frames, and a new one is not made to wait
for three frames, which would be 0.6 s in place of 0.1 s.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from models.prepared import PreparedFrame, prepare_boxes_by_score
from models.search_space import Interval
from models.tracking import (
    NO_IDENTITY,
    FrameDetections,
    Int64,
    check_ascends,
    check_detections,
    check_frames,
    check_share,
)

EXTRA: Final = "baselines"
"""Optional extra of the project that brings the library."""

_LIBRARY: Final = ("supervision", "trackers")
_BUFFER_RATE: Final = 30.0
"""Frames per second at which the library's buffer of lost tracks counts plain frames."""
_LIBRARY_CLASSES: Final = {
    "sort": "SORTTracker",
    "bytetrack": "ByteTrackTracker",
    "ocsort": "OCSORTTracker",
}
_ARGUMENTS: Final = {
    "init_score_thr": "track_activation_threshold",
    "high_score_thr": "high_conf_det_threshold",
    "match_iou_thr": "minimum_iou_threshold",
    "direction_weight": "direction_consistency_weight",
    "direction_frames": "delta_t",
    "min_frames": "minimum_consecutive_frames",
}
"""Our names of settings to the library's, which it also keeps them under."""


@dataclass(frozen=True, kw_only=True)
class SortConfig:
    """Settings of SORT (Bewley et al., 2016)."""

    kind: Literal["sort"] = "sort"
    """Tells this tracker from the others."""
    init_score_thr: Annotated[float, Interval(0.1, 0.9)] = 0.25
    """A detection that matches no track starts one from this score on."""
    match_iou_thr: Annotated[float, Interval(0.05, 0.7)] = 0.3
    """Overlap with the box expected of a track that a match needs."""
    min_frames: Annotated[int, Interval(1, 4)] = 1
    """Frames in a row that a new track must be seen in to be published; never in its first one."""
    max_missed_frames: Annotated[int, Interval(1, 60, log=True)] = 5
    """Frames in a row that a track may be missed in; after one more it is forgotten."""

    def __post_init__(self) -> None:
        check_share("init_score_thr", self.init_score_thr)
        check_share("match_iou_thr", self.match_iou_thr)
        _check_memory(self.min_frames, self.max_missed_frames)


@dataclass(frozen=True, kw_only=True)
class ByteTrackConfig:
    """Settings of ByteTrack (Zhang et al., 2022)."""

    kind: Literal["bytetrack"] = "bytetrack"
    """Tells this tracker from the others."""
    init_score_thr: Annotated[float, Interval(0.1, 0.9)] = 0.7
    """A detection that matches no track starts one from this score on."""
    high_score_thr: Annotated[float, Interval(0.3, 0.8)] = 0.6
    """Detections from this score on are matched first, the others with what is left."""
    match_iou_thr: Annotated[float, Interval(0.05, 0.7)] = 0.1
    """Overlap with the box expected of a track that a match needs."""
    min_frames: Annotated[int, Interval(1, 4)] = 1
    """Frames in a row that a new track must be seen in to be published; never in its first one."""
    max_missed_frames: Annotated[int, Interval(1, 60, log=True)] = 5
    """Frames in a row that a track may be missed in; after one more it is forgotten."""

    def __post_init__(self) -> None:
        check_share("init_score_thr", self.init_score_thr)
        check_share("high_score_thr", self.high_score_thr)
        check_share("match_iou_thr", self.match_iou_thr)
        _check_memory(self.min_frames, self.max_missed_frames)


@dataclass(frozen=True, kw_only=True)
class OcSortConfig:
    """Settings of OC-SORT (Cao et al., 2023)."""

    kind: Literal["ocsort"] = "ocsort"
    """Tells this tracker from the others."""
    high_score_thr: Annotated[float, Interval(0.3, 0.8)] = 0.6
    """Detections below this score are left alone."""
    match_iou_thr: Annotated[float, Interval(0.05, 0.7)] = 0.3
    """Overlap with the box expected of a track that a match needs."""
    direction_weight: Annotated[float, Interval(0.0, 0.5)] = 0.2
    """Weight of a steady direction beside the overlap."""
    direction_frames: Annotated[int, Interval(1, 5)] = 3
    """Frames over which the direction of a track is measured."""
    min_frames: Annotated[int, Interval(1, 4)] = 1
    """Frames in a row that a new track must be seen in to be published; never in its first one."""
    max_missed_frames: Annotated[int, Interval(1, 60, log=True)] = 5
    """Frames in a row that a track may be missed in; after one more it is forgotten."""

    def __post_init__(self) -> None:
        check_share("high_score_thr", self.high_score_thr)
        check_share("match_iou_thr", self.match_iou_thr)
        check_share("direction_weight", self.direction_weight)
        _check_count("direction_frames", self.direction_frames)
        _check_memory(self.min_frames, self.max_missed_frames)


MotionConfig = SortConfig | ByteTrackConfig | OcSortConfig


class MotionTracker:
    """One of the library's trackers for each class, under the rules of our trackers.

    The library knows no classes: every class has an instance of its own, made when the class is
    first seen, so that nothing is ever matched between classes. Boxes are published as they were
    detected; what the Kalman filter makes of them is only used to match.

    A frame that is left out counts as a frame without detections: motion goes on and tracks age
    there. So it makes no difference whether `update` is called for frames without detections.

    >>> tracker = MotionTracker(SortConfig())
    >>> boxes = np.array([[0, 0, 20, 20], [50, 0, 70, 20]])
    >>> tracker.update(0, boxes, [0.9, 0.95], [2, 2], None).tolist()
    [-1, -1]
    >>> tracker.update(1, boxes + 2, [0.9, 0.95], [2, 2], None).tolist()
    [1, 0]
    """

    prepare = staticmethod(prepare_boxes_by_score)  # the order of rows must not matter

    def __init__(self, config: MotionConfig) -> None:
        """A tracker that has seen nothing yet.

        Raises:
            ValueError: the library is not installed; says how to get it.
        """
        supervision, trackers = _load_library(config.kind)
        self._kind = type(config)
        self._make_tracker = _tracker_maker(config, trackers)
        self._make_detections = supervision.Detections
        self._trackers: dict[int, Any] = {}
        self._ids: dict[tuple[int, int], int] = {}
        self._last_frame: int | None = None

    @property
    def config(self) -> MotionConfig:
        """The settings really used, read from what the library made of them.

        Raises:
            ValueError: the trackers of two classes hold different ones.
        """
        trackers = list(self._trackers.values()) or [self._make_tracker()]
        held = {_read_back(self._kind, tracker) for tracker in trackers}
        if len(held) > 1:
            raise ValueError(f"the trackers of the classes hold different settings: {held}")
        return held.pop()

    def update(
        self,
        frame_index: int,
        boxes_xyxy: npt.ArrayLike,
        scores: npt.ArrayLike,
        class_indices: npt.ArrayLike,
        embeddings: object,
    ) -> Int64:
        """Give the detections of the next frame their track ids.

        Args:
            frame_index: must ascend from call to call; see the class for frames left out.
            boxes_xyxy: (N, 4) corners with exclusive right and bottom edges.
            scores: (N,); equal scores are taken in the order of the rows.
            class_indices: (N,) integers.
            embeddings: not looked at.

        Returns:
            int64, (N,), aligned with the input rows: the id, from 0 and consecutive over the
            sequence in order of publication, or -1 where none is published.

        Raises:
            ValueError: wrong shapes, values that are not finite, or a frame that does not ascend.
                The tracker is left as it was.
        """
        # The boxes stand in for embeddings: only their number is checked.
        detections = check_detections(frame_index, boxes_xyxy, scores, class_indices, boxes_xyxy)
        return self.step(frame_index, self.prepare(detections))

    def step(self, frame_index: int, frame: PreparedFrame) -> Int64:
        """`update` with a frame that `prepare` made."""
        self._skip_frames_before(frame_index)
        found = self._update_classes(frame.detections)
        published = np.full(len(frame.rows), NO_IDENTITY, np.int64)
        for row, label, number in zip(
            frame.rows.tolist(),
            frame.detections.class_indices.tolist(),
            found.tolist(),
            strict=True,
        ):
            if number >= 0:
                published[row] = self._ids.setdefault((label, number), len(self._ids))
        return published

    def _skip_frames_before(self, frame_index: int) -> None:
        last = self._last_frame
        check_ascends(frame_index, last)
        num_skipped = 0 if last is None else frame_index - last - 1
        for tracker in self._trackers.values():
            for _ in range(num_skipped):
                tracker.update(self._make_detections.empty())
        self._last_frame = frame_index

    def _update_classes(self, detections: FrameDetections) -> Int64:
        """Ids of the library, which are unique within a class only."""
        found = np.full(len(detections.scores), NO_IDENTITY, np.int64)
        for label in sorted({*self._trackers, *detections.class_indices.tolist()}):
            if label not in self._trackers:
                self._trackers[label] = self._make_tracker()
            rows = (detections.class_indices == label).nonzero()[0]
            joined = self._trackers[label].update(
                self._make_detections(
                    xyxy=detections.boxes_xyxy[rows],
                    confidence=detections.scores[rows],
                    data={"row": rows},
                )
            )
            if len(rows):  # they come back in another order, with what travels along
                found[joined.data["row"]] = joined.tracker_id
        return found


def _load_library(kind: str) -> tuple[Any, Any]:
    """The modules `supervision` (its boxes) and `trackers`."""
    try:
        import supervision
        import trackers
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARY:
            raise
        raise ValueError(
            f"the tracker {kind!r} comes from the library `trackers`, and `{error.name}` is not "
            f"installed; install the extra: pip install -c constraints.txt -e '.[{EXTRA}]'"
        ) from error
    return supervision, trackers


def _tracker_maker(config: MotionConfig, trackers: Any) -> Callable[[], Any]:
    arguments = {
        argument: getattr(config, name)
        for name, argument in _ARGUMENTS.items()
        if hasattr(config, name)
    }
    return partial(
        getattr(trackers, _LIBRARY_CLASSES[config.kind]),
        lost_track_buffer=config.max_missed_frames,
        frame_rate=_BUFFER_RATE,
        **arguments,
    )


def _read_back(kind: type[MotionConfig], tracker: Any) -> MotionConfig:
    """The settings that a tracker of the library holds."""
    held = {
        field.name: getattr(tracker, _ARGUMENTS[field.name])
        for field in fields(kind)
        if field.name in _ARGUMENTS
    }
    return kind(max_missed_frames=tracker.maximum_frames_without_update, **held)


def _check_memory(min_frames: int, max_missed_frames: int) -> None:
    _check_count("min_frames", min_frames)
    check_frames("max_missed_frames", max_missed_frames)


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value!r}, expected a number of frames, 1 or more")
