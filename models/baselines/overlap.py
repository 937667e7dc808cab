"""The baseline that learned association has to beat: joining boxes by their overlap alone.

Births, expiry, duplicate removal and output are those of QDTrack's tracker; only the cue differs,
so that a difference in scores is the embeddings' doing.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from models.prepared import PreparedFrame, prepare_boxes_by_score, remove_duplicates
from models.search_space import Choices, Interval
from models.tracking import (
    NO_IDENTITY,
    FrameDetections,
    Int64,
    TrackMemory,
    check_detections,
    check_frames,
    check_share,
    pairwise_iou,
)


@dataclass(frozen=True, kw_only=True)
class OverlapConfig:
    """Thresholds and memory of `OverlapTracker`; what `TrackerConfig` has too, defaults to it."""

    kind: Literal["overlap"] = "overlap"
    """Tells this tracker from the others."""
    init_score_thr: Annotated[float, Interval(0.3, 0.95)] = 0.8
    """A detection that matches no track starts one when its score is above this."""
    obj_score_thr: Annotated[float, Interval(0.05, 0.8)] = 0.5
    """A detection continues a track when its score is above this; a lower one is weak."""
    match_iou_thr: Annotated[float, Interval(0.05, 0.8)] = 0.3
    """Overlap with the last box of a track that a match must be above."""
    memo_frames: Annotated[int, Interval(1, 60, log=True)] = 10
    """A track is forgotten this many frames after it was last seen."""
    nms_backdrop_iou_thr: Annotated[float, Interval(0.1, 0.7)] = 0.3
    """IoU above which a weak detection is a duplicate."""
    nms_class_iou_thr: Annotated[float, Interval(0.4, 0.95)] = 0.7
    """IoU above which any other detection is a duplicate."""
    with_cats: Annotated[bool, Choices((True, False))] = True
    """Match within a class only."""

    def __post_init__(self) -> None:
        for name in (
            "init_score_thr",
            "obj_score_thr",
            "match_iou_thr",
            "nms_backdrop_iou_thr",
            "nms_class_iou_thr",
        ):
            check_share(name, getattr(self, name))
        check_frames("memo_frames", self.memo_frames)


class OverlapTracker:
    """Joins the detections of a sequence by the assignment of largest total IoU per frame.

    A track is compared by its last box, without a motion model.

    >>> tracker = OverlapTracker(OverlapConfig())
    >>> boxes = np.array([[0, 0, 10, 10], [50, 0, 60, 10]])
    >>> tracker.update(0, boxes, [0.9, 0.95], [2, 2], None).tolist()
    [1, 0]
    >>> tracker.update(1, boxes + 2, [0.9, 0.6], [2, 2], None).tolist()
    [1, 0]
    """

    prepare = staticmethod(prepare_boxes_by_score)

    def __init__(self, config: OverlapConfig) -> None:
        self.config = config
        """The settings really used."""
        self._memory = TrackMemory()

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
            frame_index: must ascend from call to call; frames may be left out.
            boxes_xyxy: (N, 4) corners with exclusive right and bottom edges.
            scores: (N,); equal scores are taken in the order of the rows.
            class_indices: (N,) integers.
            embeddings: not looked at.

        Returns:
            int64, (N,), aligned with the input rows: the id, from 0 and consecutive over the
            sequence, or -1 where none is published. With N = 0 tracks expire.

        Raises:
            ValueError: wrong shapes, values that are not finite, or a frame that does not ascend.
                The tracker is left as it was.
        """
        # The boxes stand in for embeddings: only their number is checked.
        detections = check_detections(frame_index, boxes_xyxy, scores, class_indices, boxes_xyxy)
        return self.step(frame_index, self.prepare(detections))

    def step(self, frame_index: int, frame: PreparedFrame) -> Int64:
        """`update` with a frame that `prepare` made."""
        self._memory.begin_frame(frame_index, frame.detections.features)
        published = np.full(len(frame.rows), NO_IDENTITY, np.int64)
        if len(published):
            kept, _ = remove_duplicates(
                frame,
                obj_score_thr=self.config.obj_score_thr,
                weak_iou_thr=self.config.nms_backdrop_iou_thr,
                strong_iou_thr=self.config.nms_class_iou_thr,
            )
            survivors = frame.detections.subset(kept)
            ids = self._continue_tracks(frame_index, survivors)
            self._memory.create_where_missing(
                ids, frame_index, survivors, self.config.init_score_thr
            )
            published[frame.rows[kept]] = ids
        self._memory.expire(frame_index, self.config.memo_frames)
        return published

    def _continue_tracks(self, frame_index: int, survivors: FrameDetections) -> Int64:
        """Ids of the survivors after matching; matched tracks are brought up to date."""
        memory = self._memory
        ids = np.full(len(survivors.scores), NO_IDENTITY, np.int64)
        overlap = pairwise_iou(survivors.boxes_xyxy, memory.features)
        may_match = overlap > self.config.match_iou_thr
        may_match &= (survivors.scores > self.config.obj_score_thr)[:, None]
        if self.config.with_cats:
            may_match &= survivors.class_indices[:, None] == memory.class_indices
        # Forbidden pairs are worth nothing, rather than struck out after the assignment, where
        # they could have kept an allowed pair apart.
        rows, columns = linear_sum_assignment(overlap * may_match, maximize=True)
        allowed = may_match[rows, columns]
        rows, columns = rows[allowed], columns[allowed]
        ids[rows] = memory.ids[columns]
        memory.replace(columns, frame_index, survivors.select(rows))
        return ids
