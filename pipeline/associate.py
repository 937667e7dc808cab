"""From detections to tracks: one fresh tracker goes through the frames of one sequence."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Protocol

import numpy as np

from datasets.masks import Rle
from datasets.schema import Detections, Tracks
from models.baselines.mask_overlap import MaskOverlapConfig, MaskOverlapSequenceTracker
from models.baselines.motion import MotionConfig, MotionTracker
from models.baselines.overlap import OverlapConfig, OverlapTracker
from models.config_io import config_to_dict
from models.masks import GivenMasks, SequenceMasks
from models.pointtrack.association import PointSequenceTracker, PointTrackerConfig
from models.prepared import Prepare, PreparedFrame, PreparedSequence
from models.qdtrack.association import (
    QuasiDenseTracker,
    TaoTracker,
    TaoTrackerConfig,
    TrackerConfig,
)
from models.tracking import Float32, Int64, check_detections
from pipeline.parallel import map_sequences
from pipeline.store import Artefact, Part, fingerprint

STAGE: Final = "tracks"
VERSION: Final = 1
"""Raised when the code changes an identity."""

TRACKS_FILE: Final = "tracks.parquet"
DETECTIONS_FILE: Final = "detections.arrow"

MaskTrackerConfig = PointTrackerConfig | MaskOverlapConfig
"""Of the trackers that compare masks."""

AssociationConfig = (
    TrackerConfig | TaoTrackerConfig | OverlapConfig | MotionConfig | MaskTrackerConfig
)
"""Chosen by its field `kind`: quasi_dense, tao, overlap, sort, bytetrack, ocsort, point or
mask_overlap."""


def associate(detections: Artefact, config: AssociationConfig, *, num_workers: int = 1) -> Artefact:
    """Tracks of every sequence of `detections`; does only what is missing.

    Args:
        detections: finished artefact of infer.
        config: the tracker.
        num_workers: actors; at most 1 runs in this process. The tracks do not depend on it.

    Raises:
        ValueError: the tracker cannot be built, before any work; or detections that it cannot take.
    """
    settings = config_to_dict(config)
    artefact = Artefact(
        root=detections.root,
        stage=STAGE,
        dataset=detections.dataset,
        split=detections.split,
        fingerprint=fingerprint(STAGE, VERSION, settings, [detections.fingerprint]),
    )
    if artefact.is_complete():
        return artefact
    build_tracker(config)  # one that cannot be built stops here, and not in a worker
    sequences = detections.sequences()
    missing = artefact.missing(sequences)
    map_sequences(
        partial(_associate_part, config),
        {name: (detections.part(name), artefact.part(name)) for name in missing},
        num_workers=num_workers,
        label=f"associate {detections.dataset}/{detections.split}",
    )
    parts = [artefact.part(name).details() for name in sequences]
    artefact.finish(
        sequences,
        {
            "association": settings,
            "detections": detections.fingerprint,
            "num_tracks": sum(part["num_tracks"] for part in parts),
        },
    )
    return artefact


def _associate_part(config: AssociationConfig, parts: tuple[Part, Part]) -> None:
    source, target = parts
    tracks = associate_sequence(read_detections(source), config)
    with target.write() as writer:
        writer.write_parquet(TRACKS_FILE, tracks.to_table())
        writer.details = {
            "num_boxes": len(tracks),
            "num_tracks": len(np.unique(tracks.track_id)),
        }


def read_detections(part: Part) -> Detections:
    """Detections of one sequence, memory-mapped where the root is local."""
    table = part.read_arrow(DETECTIONS_FILE)
    return Detections.from_table(table, where=f"{part.folder}/{DETECTIONS_FILE}")


def read_tracks(part: Part) -> Tracks:
    """Tracks of one sequence."""
    table = part.read_parquet(TRACKS_FILE)
    return Tracks.from_table(table, where=f"{part.folder}/{TRACKS_FILE}")


class Tracker(Protocol):
    """What joins the detections of one sequence, frame by frame."""

    @property
    def config(self) -> AssociationConfig:
        """The settings really used."""

    @property
    def prepare(self) -> Prepare:
        """How it wants the detections of a frame; does not depend on its settings."""

    def step(self, frame_index: int, frame: PreparedFrame) -> Int64:
        """Track ids of the next frame's detections in the order they were given; -1 for none."""


def build_tracker(config: AssociationConfig) -> Tracker:
    """A tracker that has seen nothing yet.

    Raises:
        ValueError: it comes from a library that is not installed; says how to get it.

    >>> build_tracker(OverlapConfig(memo_frames=3)).config.memo_frames
    3
    """
    if isinstance(config, TrackerConfig):
        return QuasiDenseTracker(config)
    if isinstance(config, TaoTrackerConfig):
        return TaoTracker(config)
    if isinstance(config, OverlapConfig):
        return OverlapTracker(config)
    if isinstance(config, PointTrackerConfig):
        return PointSequenceTracker(config)
    if isinstance(config, MaskOverlapConfig):
        return MaskOverlapSequenceTracker(config)
    return MotionTracker(config)


def update_tracker(
    tracker: Tracker,
    frame_index: int,
    boxes_xyxy: Any,
    scores: Any,
    class_indices: Any,
    embeddings: Any,
    masks: Sequence[Rle] | None = None,
) -> tuple[Int64, Float32]:
    """Take a tracker one frame further, by the rules that hold for every sequence.

    A frame without detections does not reach the tracker, as in the published models: nothing ages
    there but the distance between frame numbers. A tracker that goes on by motion makes up for the
    frames left out when it is called next, and one that compares masks forgets by frame numbers
    before it looks at a frame, so that neither can tell.

    Returns:
        int64 (N,) track ids, -1 where none is published, and float32 (N,) scores: the detector's,
        except that `tao` smooths them along a track, as published.

    Raises:
        ValueError: detections that no tracker can take; names the frame.
    """
    if len(scores) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    checked = check_detections(frame_index, boxes_xyxy, scores, class_indices, embeddings)
    frame = tracker.prepare(checked)
    if masks is not None:
        frame = frame._replace(masks=GivenMasks.of([masks[row] for row in frame.rows.tolist()]))
    track_ids = tracker.step(frame_index, frame)
    if isinstance(tracker, TaoTracker):
        return track_ids, tracker.smoothed_scores
    return track_ids, checked.scores


def associate_sequence(detections: Detections, config: AssociationConfig) -> Tracks:
    """Join the detections of one sequence into tracks: a pure function of its arguments.

    Args:
        detections: of one sequence; the embeddings may be float16, and must be present unless the
            tracker works by overlap or motion. Masks are carried along, whatever the tracker
            looks at.
        config: chooses the tracker and its settings.

    Returns:
        The detections with an identity, by frame and then in the detector's order; ids are
        consecutive from 0 and unique over the classes. See `update_tracker` for empty frames and
        scores.

    Raises:
        ValueError: detections that no tracker can take (values that are not finite, no
            embeddings); names the frame.
    """
    tracker = build_tracker(config)
    return replay(tracker, prepare_sequence(detections, tracker))


def prepare_sequence(
    detections: Detections, tracker: Tracker, *, mask_window_frames: int = 0
) -> PreparedSequence:
    """What all trackers of this kind need of a sequence, whatever their settings.

    Args:
        detections: of the sequence.
        tracker: of that kind.
        mask_window_frames: how far back masks are compared now, for trackers that compare them:
            worth it only where the sequence is replayed several times, and no result depends on it.

    Raises:
        ValueError: detections that no tracker can take; names the frame.
    """
    masks = None
    if detections.masks is not None:
        masks = SequenceMasks.of(
            detections.masks,
            detections.frame_offsets,
            detections.class_indices,
            mask_window_frames if isinstance(tracker.config, MaskTrackerConfig) else 0,
        )
    return PreparedSequence.of(
        tracker.prepare,
        detections.frame_offsets,
        detections.boxes_xyxy,
        detections.scores,
        detections.class_indices,
        detections.embeddings,
        masks,
    )


def replay(tracker: Tracker, sequence: PreparedSequence) -> Tracks:
    """`associate_sequence` with a new tracker over a prepared sequence."""
    num_rows = len(sequence.rows)
    frame_of_row = np.repeat(
        np.arange(sequence.num_frames, dtype=np.int32), np.diff(sequence.frame_offsets)
    )
    # Prepared rows may lie in another order than the detector's, inside their frame.
    prepared_row = np.empty(num_rows, np.int64)
    prepared_row[sequence.frame_offsets[frame_of_row] + sequence.rows] = np.arange(num_rows)
    scores = sequence.scores[prepared_row]
    track_ids = np.full(num_rows, -1, np.int64)
    for frame_index in range(sequence.num_frames):
        frame = sequence.frame(frame_index)
        if frame is None:
            continue
        start = int(sequence.frame_offsets[frame_index])
        here = slice(start, start + len(frame.rows))
        track_ids[here] = tracker.step(frame_index, frame)
        if isinstance(tracker, TaoTracker):
            scores[here] = tracker.smoothed_scores
    kept = np.flatnonzero(track_ids >= 0)
    source = prepared_row[kept]
    return Tracks(
        frame_index=frame_of_row[kept],
        track_id=track_ids[kept],
        detection_row=kept.astype(np.int32),
        boxes_xyxy=sequence.boxes_xyxy[source],
        scores=scores[kept],
        class_index=sequence.class_indices[source].astype(np.int16),
        masks=None if sequence.masks is None else sequence.masks.codes(kept),
    )
