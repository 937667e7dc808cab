"""What trackers need of detections and no threshold changes: done once, however often they replay.

A tracker takes the detections of a frame in a fixed order and asks which of them overlap. Both
depend on the detections alone, so a sweep prepares a sequence once and every trial starts from
here; a tracker that runs once prepares frame by frame, by the same code.

Legend: N detections of one frame or of all, F frames, P overlapping pairs, D width of a feature.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from models.masks import FrameMasks, SequenceMasks
from models.tracking import (
    Float32,
    FrameDetections,
    Int32,
    Int64,
    check_detections,
    pairwise_iou,
)


class PreparedFrame(NamedTuple):
    """Checked detections of one frame in the order in which a tracker takes them."""

    rows: npt.NDArray[Any]
    """(N,) row of each in the frame as it was given."""
    detections: FrameDetections
    """Columns in this order; they may be read-only."""
    earlier_iou: Float32
    """(N, N) IoU of each with every one before it; 0 on and above the diagonal."""
    best_overlap: Float32
    """(N,) greatest of these."""
    masks: FrameMasks | None = None
    """(N,) in this order; None where there are boxes only."""


Prepare = Callable[[FrameDetections], PreparedFrame]
"""How one kind of tracker prepares a frame."""


def prepare_by_score(detections: FrameDetections) -> PreparedFrame:
    """Best score first, equal scores as given; overlaps whatever the class."""
    order = (-detections.scores).argsort(kind="stable")
    # Detectors mostly give this order already, and then nothing is copied.
    ordered = detections if (order[1:] > order[:-1]).all() else detections.select(order)
    earlier_iou = _overlap_with_earlier(ordered.boxes_xyxy)
    return PreparedFrame(order, ordered, earlier_iou, _greatest(earlier_iou))


def prepare_boxes_by_score(detections: FrameDetections) -> PreparedFrame:
    """The same for trackers that look at nothing but boxes, which are the features then."""
    return prepare_by_score(detections._replace(features=detections.boxes_xyxy))


def prepare_as_given(detections: FrameDetections) -> PreparedFrame:
    """In the order given; overlaps within a class only."""
    classes = detections.class_indices
    earlier_iou = _overlap_with_earlier(detections.boxes_xyxy)
    earlier_iou *= classes[:, None] == classes
    return PreparedFrame(np.arange(len(classes)), detections, earlier_iou, _greatest(earlier_iou))


def prepare_in_order(detections: FrameDetections) -> PreparedFrame:
    """In the order given, for trackers of masks: how boxes overlap in a frame is not asked."""
    count = len(detections.scores)
    nothing = np.zeros((count, count), np.float32)
    return PreparedFrame(np.arange(count), detections, nothing, _greatest(nothing))


def prepare_boxes_in_order(detections: FrameDetections) -> PreparedFrame:
    """The same for trackers that look at no embedding; boxes take less room in its place."""
    return prepare_in_order(detections._replace(features=detections.boxes_xyxy))


def remove_duplicates(
    frame: PreparedFrame, *, obj_score_thr: float, weak_iou_thr: float, strong_iou_thr: float
) -> tuple[Int64, Float32]:
    """Which detections survive QDTrack's duplicate removal, the best first.

    This is no greedy suppression: a detection goes when it overlaps any one of higher score, of
    whatever class, also one that goes itself. Weak detections tolerate less overlap.

    Args:
        frame: N > 0 detections, prepared by score.
        obj_score_thr: a lower score is weak.
        weak_iou_thr: IoU above which a weak detection goes.
        strong_iou_thr: IoU above which another one goes.

    Returns:
        Positions in the frame that survive, ascending, and float32 (N',) the largest overlap of
        each of them with a survivor of higher score.

    >>> boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [0, 0, 9, 6]], np.float32)
    >>> scores = np.array([0.7, 0.9, 0.8], np.float32)
    >>> chain = prepare_by_score(FrameDetections(boxes, scores, np.zeros(3, np.int32), boxes))
    >>> kept, _ = remove_duplicates(
    ...     chain, obj_score_thr=0.5, weak_iou_thr=0.3, strong_iou_thr=0.8
    ... )
    >>> chain.rows[kept].tolist()
    [1, 2]
    """
    scores, best = frame.detections.scores, frame.best_overlap
    # float32 on both sides, or an IoU of exactly float32(0.7) would pass for below 0.7.
    limits = np.where(scores < obj_score_thr, np.float32(weak_iou_thr), np.float32(strong_iou_thr))
    kept = (best <= limits).nonzero()[0]
    if len(kept) < len(scores):
        best = frame.earlier_iou[kept[:, None], kept].max(axis=1)
    return kept, best


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedSequence:
    """All frames of a sequence, prepared; flat arrays that processes can share without a copy."""

    frame_offsets: Int64
    """(F + 1,) detections of frame f are rows `frame_offsets[f]:frame_offsets[f + 1]`."""
    rows: Int32
    """(N,) row of each inside its frame as it was given."""
    boxes_xyxy: Float32
    """(N, 4)."""
    scores: Float32
    """(N,)."""
    class_indices: Int32
    """(N,)."""
    features: Float32
    """(N, D)."""
    best_overlap: Float32
    """(N,) see `PreparedFrame`."""
    pair_offsets: Int64
    """(F + 1,) overlapping pairs of frame f likewise."""
    pair_cells: Int32
    """(P,) place of each pair in the frame's flattened `earlier_iou`, all of whose other cells are
    0: crowded frames have thousands of cells and some dozens of pairs."""
    pair_iou: Float32
    """(P,)."""
    masks: SequenceMasks | None = None
    """(N,) in the order given, unlike the columns above; None where there are boxes only."""

    @property
    def num_frames(self) -> int:
        return len(self.frame_offsets) - 1

    def arrays(self) -> list[npt.NDArray[Any]]:
        """All that it consists of."""
        columns = [value for name, value in vars(self).items() if name != "masks"]
        return columns if self.masks is None else [*columns, *vars(self.masks).values()]

    def frame(self, frame_index: int) -> PreparedFrame | None:
        """Views of one frame; None where it has no detections."""
        start, stop = self.frame_offsets[frame_index : frame_index + 2].tolist()
        if start == stop:
            return None
        first, last = self.pair_offsets[frame_index : frame_index + 2].tolist()
        count = stop - start
        earlier_iou = np.zeros(count * count, np.float32)
        earlier_iou[self.pair_cells[first:last]] = self.pair_iou[first:last]
        return PreparedFrame(
            self.rows[start:stop],
            FrameDetections(
                self.boxes_xyxy[start:stop],
                self.scores[start:stop],
                self.class_indices[start:stop],
                self.features[start:stop],
            ),
            earlier_iou.reshape(count, count),
            self.best_overlap[start:stop],
            None if self.masks is None else self.masks.frame(frame_index, self.rows[start:stop]),
        )

    @classmethod
    def of(
        cls,
        prepare: Prepare,
        frame_offsets: Int64,
        boxes_xyxy: npt.NDArray[Any],
        scores: npt.NDArray[Any],
        class_indices: npt.NDArray[Any],
        features: npt.NDArray[Any],
        masks: SequenceMasks | None = None,
    ) -> Self:
        """Prepare every frame of a sequence.

        Args:
            prepare: as the tracker that is to replay it does.
            frame_offsets: (F + 1,) rows of each frame.
            boxes_xyxy: (N, 4) corners with exclusive right and bottom edges.
            scores: (N,).
            class_indices: (N,).
            features: (N, D) embeddings; `prepare` may put something else in their place.
            masks: (N,).

        Raises:
            ValueError: detections that no tracker can take; names the frame.
        """
        frames = []
        for frame_index in range(len(frame_offsets) - 1):
            here = slice(int(frame_offsets[frame_index]), int(frame_offsets[frame_index + 1]))
            if here.start == here.stop:  # of no detections even the width of features is unknown
                continue
            columns = (column[here] for column in (boxes_xyxy, scores, class_indices, features))
            frames.append(prepare(check_detections(frame_index, *columns)))
        cells = [np.flatnonzero(frame.earlier_iou) for frame in frames]
        ious = [
            frame.earlier_iou.ravel()[found] for frame, found in zip(frames, cells, strict=True)
        ]
        counts = np.zeros(len(frame_offsets), np.int64)
        counts[1:][np.diff(frame_offsets) > 0] = [len(found) for found in cells]
        parts = [frame.detections for frame in frames]
        if not parts or not all(np.may_share_memory(part.features, features) for part in parts):
            width = parts[0].features.shape[1] if parts else features.shape[1]
            features = _joined((part.features for part in parts), np.float32, width)
        return cls(
            frame_offsets=frame_offsets,
            rows=_joined((frame.rows for frame in frames), np.int32),
            boxes_xyxy=_joined((part.boxes_xyxy for part in parts), np.float32, 4),
            scores=_joined((part.scores for part in parts), np.float32),
            class_indices=_joined((part.class_indices for part in parts), np.int32),
            features=features,  # not copied where every frame has it as it was given
            best_overlap=_joined((frame.best_overlap for frame in frames), np.float32),
            pair_offsets=np.cumsum(counts),
            pair_cells=_joined(cells, np.int32),
            pair_iou=_joined(ious, np.float32),
            masks=masks,
        )


def _overlap_with_earlier(boxes_xyxy: Float32) -> Float32:
    overlap = pairwise_iou(boxes_xyxy, boxes_xyxy)
    position = np.arange(len(overlap), dtype=np.int32)
    overlap *= position[:, None] > position
    return overlap


def _greatest(earlier_iou: Float32) -> Float32:
    greatest: Float32 = earlier_iou.max(axis=1, initial=0)
    return greatest


def _joined(parts: Iterable[npt.NDArray[Any]], dtype: type, width: int | None = None) -> Any:
    empty: npt.NDArray[Any] = np.zeros((0,) if width is None else (0, width), dtype)
    return np.concatenate([empty, *parts]).astype(dtype, copy=False)
