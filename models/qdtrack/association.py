"""QDTrack's two trackers: joining the detections of a sequence into tracks by their embeddings.

`QuasiDenseTracker` is the tracker of BDD100K and MOT17, `TaoTracker` that of TAO. One tracker
serves one sequence. NumPy only, so that association runs where there is no torch.

The published class also stores a velocity and a count per track; nothing reads them, so they are
left out.

Legend: N detections of one frame, M columns of memory, D embedding width.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt

from models.prepared import (
    PreparedFrame,
    prepare_as_given,
    prepare_by_score,
    remove_duplicates,
)
from models.search_space import Choices, Interval
from models.tracking import (
    NO_IDENTITY,
    Bool,
    Float32,
    FrameDetections,
    Int64,
    TrackMemory,
    check_choice,
    check_detections,
    check_frames,
    check_share,
    match_greedily,
)

_WEAK_TWIN: Final = -2
"""Working id of a weak detection that looks like a live track: it leaves no trace."""

_TAO_SUM_EPSILON: Final = 1e-6
_MIN_NORM: Final = 1e-12


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Thresholds and memory of `QuasiDenseTracker`; the defaults are the published class's own."""

    kind: Literal["quasi_dense"] = "quasi_dense"
    """Tells this tracker from the others."""
    init_score_thr: Annotated[float, Interval(0.3, 0.95)] = 0.8
    """A detection that matches no track starts one when its score is above this."""
    obj_score_thr: Annotated[float, Interval(0.05, 0.8)] = 0.5
    """A detection continues a track when its score is above this; a lower one is weak."""
    match_score_thr: Annotated[float, Interval(0.1, 0.9)] = 0.5
    """Similarity that a match must be above."""
    memo_tracklet_frames: Annotated[int, Interval(1, 60, log=True)] = 10
    """A track is forgotten this many frames after it was last seen."""
    memo_backdrop_frames: Annotated[int, Interval(0, 5)] = 1
    """Past frames whose unmatched detections are kept as backdrops, distractors of the match."""
    memo_momentum: Annotated[float, Interval(0.1, 1.0)] = 0.8
    """Share of the new embedding when a track's is updated."""
    nms_conf_thr: Annotated[float, Interval(0.1, 0.9)] = 0.5
    """A weak detection more similar than this to a live track is dropped without trace."""
    nms_backdrop_iou_thr: Annotated[float, Interval(0.1, 0.7)] = 0.3
    """IoU above which a weak detection is a duplicate, and an unmatched one is no backdrop."""
    nms_class_iou_thr: Annotated[float, Interval(0.4, 0.95)] = 0.7
    """IoU above which any other detection is a duplicate."""
    with_cats: Annotated[bool, Choices((True, False))] = True
    """Match within a class only."""
    match_metric: Annotated[
        Literal["bisoftmax", "softmax", "cosine"], Choices(("bisoftmax", "softmax", "cosine"))
    ] = "bisoftmax"
    """How embeddings are compared."""

    def __post_init__(self) -> None:
        for name in (
            "init_score_thr",
            "obj_score_thr",
            "match_score_thr",
            "memo_momentum",
            "nms_conf_thr",
            "nms_backdrop_iou_thr",
            "nms_class_iou_thr",
        ):
            check_share(name, getattr(self, name))
        check_frames("memo_tracklet_frames", self.memo_tracklet_frames)
        check_frames("memo_backdrop_frames", self.memo_backdrop_frames)
        check_choice("match_metric", self.match_metric, ("bisoftmax", "softmax", "cosine"))


@dataclass(frozen=True, kw_only=True)
class TaoTrackerConfig:
    """Thresholds and memory of `TaoTracker`; the defaults are those published for TAO."""

    kind: Literal["tao"] = "tao"
    """Tells this tracker from the others."""
    init_score_thr: Annotated[float, Interval(1e-4, 0.9, log=True)] = 1e-4
    """A detection that matches no track starts one when its score is above this."""
    obj_score_thr: Annotated[float, Interval(1e-4, 0.5, log=True)] = 1e-4
    """A detection with a lower score never continues a track."""
    match_score_thr: Annotated[float, Interval(0.1, 0.9)] = 0.5
    """Similarity that a match must be above."""
    memo_frames: Annotated[int, Interval(1, 60, log=True)] = 10
    """A track is forgotten this many frames after it was last seen."""
    momentum_embed: Annotated[float, Interval(0.1, 1.0)] = 0.8
    """Share of the new embedding when a track's is updated."""
    momentum_obj_score: Annotated[float, Interval(0.1, 1.0)] = 0.5
    """Share of the new score when a track's is updated."""
    obj_score_diff_thr: Annotated[float, Interval(0.1, 1.0)] = 1.0
    """Difference from the track's score that a match must stay below."""
    distractor_nms_thr: Annotated[float, Interval(0.1, 0.7)] = 0.3
    """IoU above which a distractor is dropped for an earlier detection of its class."""
    distractor_score_thr: Annotated[float, Interval(0.1, 0.9)] = 0.5
    """A detection with a lower score may be a distractor."""
    match_metric: Annotated[Literal["bisoftmax", "cosine"], Choices(("bisoftmax", "cosine"))] = (
        "bisoftmax"
    )
    """How embeddings are compared."""
    match_with_cosine: Annotated[bool, Choices((True, False))] = True
    """Average the bisoftmax with the cosine; not read by the cosine metric."""

    def __post_init__(self) -> None:
        for name in (
            "init_score_thr",
            "obj_score_thr",
            "match_score_thr",
            "momentum_embed",
            "momentum_obj_score",
            "obj_score_diff_thr",
            "distractor_nms_thr",
            "distractor_score_thr",
        ):
            check_share(name, getattr(self, name))
        check_frames("memo_frames", self.memo_frames)
        check_choice("match_metric", self.match_metric, ("bisoftmax", "cosine"))


class QuasiDenseTracker:
    """The tracker of QDTrack: bi-directional softmax against tracks and recent backdrops.

    Give it the frames of one sequence in order. The published model does not call its tracker on
    frames without detections, so nothing ages there; `pipeline.associate` does the same.

    >>> tracker = QuasiDenseTracker(TrackerConfig())
    >>> boxes = np.array([[0, 0, 10, 10], [50, 0, 60, 10]], np.float32)
    >>> looks = np.array([[8, 0], [0, 8]], np.float32)
    >>> tracker.update(0, boxes, np.array([0.9, 0.95]), np.array([2, 2]), looks).tolist()
    [1, 0]
    >>> tracker.update(1, boxes, np.array([0.9, 0.4]), np.array([2, 2]), looks).tolist()
    [1, -1]
    """

    prepare = staticmethod(prepare_by_score)

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config
        """The settings really used."""
        self._memory = TrackMemory()
        self._backdrops: list[FrameDetections] = []

    def update(
        self,
        frame_index: int,
        boxes_xyxy: npt.ArrayLike,
        scores: npt.ArrayLike,
        class_indices: npt.ArrayLike,
        embeddings: npt.ArrayLike,
    ) -> Int64:
        """Give the detections of the next frame their track ids.

        Args:
            frame_index: must ascend from call to call; frames may be left out.
            boxes_xyxy: (N, 4) corners with exclusive right and bottom edges, in any one scale.
            scores: (N,); equal scores are taken in the order of the rows.
            class_indices: (N,) integers.
            embeddings: (N, D), not normalised.

        Returns:
            int64, (N,), aligned with the input rows: the id, from 0 and consecutive over the
            sequence, or -1 where none is published. With N = 0 the memory ages by one call: tracks
            expire and the backdrops of an empty frame are stored.

        Raises:
            ValueError: wrong shapes, values that are not finite, another embedding width than
                before, or a frame that does not ascend. The tracker is left as it was.
        """
        detections = check_detections(frame_index, boxes_xyxy, scores, class_indices, embeddings)
        return self.step(frame_index, self.prepare(detections))

    def step(self, frame_index: int, frame: PreparedFrame) -> Int64:
        """`update` with a frame that `prepare` made."""
        self._memory.begin_frame(frame_index, frame.detections.features)
        published = np.full(len(frame.rows), NO_IDENTITY, np.int64)
        if len(published):
            kept, best_overlap = remove_duplicates(
                frame,
                obj_score_thr=self.config.obj_score_thr,
                weak_iou_thr=self.config.nms_backdrop_iou_thr,
                strong_iou_thr=self.config.nms_class_iou_thr,
            )
            survivors = frame.detections.subset(kept)
            ids = self._continue_tracks(frame_index, survivors)
            # Also where a backdrop was the best match: it neither keeps nor blocks anything.
            self._memory.create_where_missing(
                ids, frame_index, survivors, self.config.init_score_thr
            )
            # A weak twin is none, and neither is what overlaps any survivor of higher score.
            is_backdrop = ids == NO_IDENTITY
            is_backdrop &= best_overlap <= self.config.nms_backdrop_iou_thr
            self._push_backdrops(survivors.select(is_backdrop.nonzero()[0]))
            published[frame.rows[kept]] = np.maximum(ids, NO_IDENTITY)
        else:
            self._push_backdrops(frame.detections)
        self._memory.expire(frame_index, self.config.memo_tracklet_frames)
        return published

    def _continue_tracks(self, frame_index: int, survivors: FrameDetections) -> Int64:
        """Working ids of the survivors after matching; matched tracks are brought up to date."""
        config, memory = self.config, self._memory
        num_tracks = memory.num_tracks
        ids = np.full(len(survivors.scores), NO_IDENTITY, np.int64)
        if num_tracks == 0:  # backdrops alone could only be matched to no effect
            return ids
        is_strong = survivors.scores > config.obj_score_thr
        found = match_greedily(
            self._similarity(survivors),
            config.match_score_thr,
            lambda row, column: is_strong[row] & (column < num_tracks),
        )
        weak_twin = ~is_strong & (found.columns < num_tracks)
        weak_twin &= found.confidences > max(config.match_score_thr, config.nms_conf_thr)
        ids[weak_twin] = _WEAK_TWIN
        rows, columns = found.rows, found.columns[found.rows]
        ids[rows] = memory.ids[columns]
        matched = survivors.select(rows)
        _blend(matched.features, memory.features[columns], config.memo_momentum)
        memory.replace(columns, frame_index, matched)
        return ids

    def _similarity(self, survivors: FrameDetections) -> Float32:
        """(N, M): columns are the tracks, then the backdrops from the newest frame back."""
        features, class_indices = self._memory.features_followed_by(self._backdrops)
        if self.config.match_metric == "cosine":
            similarity = _cosine(survivors.features, features)
        elif self.config.match_metric == "softmax":
            similarity = _softmax(survivors.features @ features.T, axis=1)
        else:
            # Dots of trained models are large and the softmaxes sharp: nothing is normalised.
            dots = survivors.features @ features.T
            similarity = _softmax(dots, axis=1, total=0.5)
            similarity += _softmax(dots, axis=0, total=0.5)
        if self.config.with_cats:
            # After the softmaxes, which run over all classes. TAO masks before normalising.
            similarity *= survivors.class_indices[:, None] == class_indices
        return similarity

    def _push_backdrops(self, detections: FrameDetections) -> None:
        self._backdrops = [detections, *self._backdrops][: self.config.memo_backdrop_frames]


class TaoTracker:
    """The tracker of QDTrack on TAO: no backdrops, low thresholds, smoothed scores.

    Rows are processed in the order given, which is the detector's: descending score.

    >>> tracker = TaoTracker(TaoTrackerConfig())
    >>> box, look = np.array([[0, 0, 10, 10]]), np.array([[3.0, 0.0]])
    >>> [tracker.update(frame, box, [0.2], [7], look).tolist() for frame in (0, 1)]
    [[0], [0]]
    """

    prepare = staticmethod(prepare_as_given)

    def __init__(self, config: TaoTrackerConfig) -> None:
        self.config = config
        """The settings really used."""
        self.smoothed_scores: Float32 = np.zeros(0, np.float32)
        """(N,) scores to publish with the rows of the last update: a detection that continues a
        track has the running mean of its track, any other its own."""
        self._memory = TrackMemory()

    def update(
        self,
        frame_index: int,
        boxes_xyxy: npt.ArrayLike,
        scores: npt.ArrayLike,
        class_indices: npt.ArrayLike,
        embeddings: npt.ArrayLike,
    ) -> Int64:
        """Give the detections of the next frame their track ids.

        Where the dot product of two embeddings is above 88 its exponential overflows float32, as
        in the published code: between detections of one class that detection matches nothing,
        between different classes no detection of the frame does.

        Args:
            frame_index: must ascend from call to call; frames may be left out.
            boxes_xyxy: (N, 4) corners with exclusive right and bottom edges.
            scores: (N,).
            class_indices: (N,) integers.
            embeddings: (N, D), not normalised.

        Returns:
            int64, (N,), aligned with the input rows: the id, from 0 and consecutive over the
            sequence, or -1 where none is published. With N = 0 tracks expire.

        Raises:
            ValueError: wrong shapes, values that are not finite, another embedding width than
                before, or a frame that does not ascend. The tracker is left as it was.
        """
        detections = check_detections(frame_index, boxes_xyxy, scores, class_indices, embeddings)
        return self.step(frame_index, self.prepare(detections))

    def step(self, frame_index: int, frame: PreparedFrame) -> Int64:
        """`update` with a frame that `prepare` made."""
        detections = frame.detections
        self._memory.begin_frame(frame_index, detections.features)
        self.smoothed_scores = detections.scores.copy()
        published = np.full(len(detections.scores), NO_IDENTITY, np.int64)
        if len(published):
            rows = self._is_no_distractor(frame).nonzero()[0]
            survivors = detections.select(rows)
            ids = self._continue_tracks(frame_index, survivors)
            self._memory.create_where_missing(
                ids, frame_index, survivors, self.config.init_score_thr
            )
            published[rows] = ids
            self.smoothed_scores[rows] = survivors.scores
        self._memory.expire(frame_index, self.config.memo_frames)
        return published

    def _is_no_distractor(self, frame: PreparedFrame) -> Bool:
        hidden = frame.best_overlap > self.config.distractor_nms_thr
        keep: Bool = ~(hidden & (frame.detections.scores < self.config.distractor_score_thr))
        return keep

    def _continue_tracks(self, frame_index: int, survivors: FrameDetections) -> Int64:
        """Ids of the survivors after matching; their scores are smoothed in place."""
        config, memory = self.config, self._memory
        ids = np.full(len(survivors.scores), NO_IDENTITY, np.int64)
        if memory.num_tracks == 0:
            return ids
        may_match = survivors.scores >= config.obj_score_thr
        close = np.abs(survivors.scores[:, None] - memory.scores) < config.obj_score_diff_thr
        found = match_greedily(
            self._similarity(survivors),
            config.match_score_thr,
            lambda row, column: may_match[row] & close[row, column],
        )
        rows, columns = found.rows, found.columns[found.rows]
        ids[rows] = memory.ids[columns]
        matched = survivors.select(rows)
        _blend(matched.scores, memory.scores[columns], config.momentum_obj_score)
        _blend(matched.features, memory.features[columns], config.momentum_embed)
        memory.replace(columns, frame_index, matched)
        survivors.scores[rows] = matched.scores
        return ids

    def _similarity(self, survivors: FrameDetections) -> Float32:
        """(N, T), 0 between classes."""
        features = self._memory.features
        same_class = survivors.class_indices[:, None] == self._memory.class_indices
        if self.config.match_metric == "cosine":
            cosine: Float32 = _cosine(survivors.features, features) * same_class
            return cosine
        # No maximum is subtracted, as published: above a dot of 88 this is inf, and then NaN.
        with np.errstate(over="ignore", invalid="ignore"):
            kernel = np.exp(survivors.features @ features.T)
            # Before normalising, where QuasiDenseTracker masks after it; inf * 0 gives NaN.
            kernel *= same_class
            similarity: Float32 = kernel / (kernel.sum(axis=1, keepdims=True) + _TAO_SUM_EPSILON)
            similarity += kernel / (kernel.sum(axis=0) + _TAO_SUM_EPSILON)
        similarity *= np.float32(0.5)
        if self.config.match_with_cosine:
            similarity += _cosine(survivors.features, features) * same_class
            similarity *= np.float32(0.5)
        return similarity


def _softmax(dots: Float32, axis: int, total: float = 1.0) -> Float32:
    """Softmax over an axis, scaled to sum to `total`; halves are exact in floating point."""
    values: Float32 = dots - dots.max(axis=axis, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=axis, keepdims=True) / total
    return values


def _cosine(first: Float32, second: Float32) -> Float32:
    similarity: Float32 = _unit(first) @ _unit(second).T
    return similarity


def _unit(vectors: Float32) -> Float32:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Float32 = vectors / np.maximum(norms, _MIN_NORM)
    return unit


def _blend(new: Float32, old: Float32, momentum: float) -> None:
    """Running mean in place of the new values, which the momentum multiplies."""
    new *= momentum
    new += (1 - momentum) * old
