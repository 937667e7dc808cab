"""From the records of one sequence to what metrics see: checked, sorted, filtered, relabelled.

Legend: N rows of one side, G truth rows, T track rows, K overlapping pairs, F frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.schema import Bool, Float64, Int64, SequenceResult, SequenceTruth, Tracks
from pipeline.metrics.class_data import ClassData
from pipeline.metrics.overlap import overlaps

MAX_COVERED_SHARE: Final = 0.5
"""An unmatched prediction with more than this share of its area in one ignored box or mask is no
error."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Truth or tracks of one sequence, rows ordered by class, then frame, then as in the file."""

    key: Int64
    """(N,) class index * F + frame, ascending."""
    ids: Int64
    """(N,) identities or track ids as the reader gave them."""
    boxes: Float64
    """(N, 4) corners x1 y1 x2 y2, exclusive edges."""
    source_row: Int64
    """(N,) row in the record it was made from."""

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Overlapping boxes of one class in one frame, ordered by truth row, then track row."""

    truth: Int64
    """(K,) row of the truth side."""
    track: Int64
    """(K,) row of the track side."""
    iou: Float64
    """(K,) in (0, 1]."""


def make_side(
    *,
    frame_index: npt.NDArray[Any],
    class_index: npt.NDArray[Any],
    ids: npt.NDArray[Any],
    boxes: npt.NDArray[Any],
    rows: Bool,
    num_frames: int,
) -> Side:
    """One side from the columns of a record, of which `rows` are taken."""
    taken = np.flatnonzero(rows)
    key = class_index[taken].astype(np.int64) * num_frames + frame_index[taken]
    order = np.argsort(key, kind="stable")
    source = taken[order]
    return Side(
        key=key[order],
        ids=ids[source].astype(np.int64),
        boxes=boxes[source].astype(np.float64),
        source_row=source,
    )


def find_pairs(truth: Side, tracks: Side) -> Pairs:
    """All overlaps of a truth box with a track box of the same class in the same frame."""
    rows, columns, ious = overlaps(truth.boxes, truth.key, tracks.boxes, tracks.key)
    return Pairs(truth=rows, track=columns, iou=ious)


def split_classes(
    truth: Side,
    tracks: Side,
    pairs: Pairs,
    *,
    keep_truth: Bool,
    keep_tracks: Bool,
    num_classes: int,
    num_frames: int,
) -> list[ClassData]:
    """What is left after filtering, one entry per class, ids relabelled in ascending order.

    Args:
        truth: truth side.
        tracks: track side.
        pairs: overlaps of the two, by row.
        keep_truth: (G,) truth rows that are scored.
        keep_tracks: (T,) track rows that are scored.
        num_classes: classes of the protocol, in order of class index.
        num_frames: frames of the sequence, those without boxes included.
    """
    kept_pairs = keep_truth[pairs.truth] & keep_tracks[pairs.track]
    # Position of each kept row among the kept ones.
    pair_truth = (np.cumsum(keep_truth) - 1)[pairs.truth[kept_pairs]]
    pair_track = (np.cumsum(keep_tracks) - 1)[pairs.track[kept_pairs]]
    pair_iou = pairs.iou[kept_pairs]
    truth_key, truth_ids = truth.key[keep_truth], truth.ids[keep_truth]
    track_key, track_ids = tracks.key[keep_tracks], tracks.ids[keep_tracks]
    truth_rows, track_rows = truth.source_row[keep_truth], tracks.source_row[keep_tracks]
    class_keys = np.arange(num_classes + 1) * num_frames
    truth_edges = np.searchsorted(truth_key, class_keys).tolist()
    track_edges = np.searchsorted(track_key, class_keys).tolist()
    pair_edges = np.searchsorted(pair_truth, truth_edges).tolist()
    classes = []
    for index in range(num_classes):
        of_truth = slice(truth_edges[index], truth_edges[index + 1])
        of_tracks = slice(track_edges[index], track_edges[index + 1])
        of_pairs = slice(pair_edges[index], pair_edges[index + 1])
        identities, truth_id = np.unique(truth_ids[of_truth], return_inverse=True)
        names, track_id = np.unique(track_ids[of_tracks], return_inverse=True)
        classes.append(
            ClassData(
                num_frames=num_frames,
                truth_frame=truth_key[of_truth] - class_keys[index],
                truth_id=truth_id,
                num_truth_ids=len(identities),
                truth_row=truth_rows[of_truth],
                track_frame=track_key[of_tracks] - class_keys[index],
                track_id=track_id,
                num_track_ids=len(names),
                track_row=track_rows[of_tracks],
                pair_truth=pair_truth[of_pairs] - of_truth.start,
                pair_track=pair_track[of_pairs] - of_tracks.start,
                pair_iou=pair_iou[of_pairs],
            )
        )
    return classes


def check_result(truth: SequenceTruth, result: SequenceResult, num_classes: int) -> None:
    """Refuse a result that cannot be scored; nothing is ever skipped.

    Raises:
        ValueError: another number of frames, a frame or class that does not exist, a box that is
            not finite, or an id that appears twice in a frame; names the sequence and the frame.
    """
    tracks = result.tracks
    if result.num_frames is not None and result.num_frames != truth.num_frames:
        raise ValueError(
            f"sequence {truth.name!r}: the result lists {result.num_frames} frames, the truth has "
            f"{truth.num_frames}; a result has one entry for every frame, empty ones included"
        )
    _check_frames(truth, tracks)
    is_class = (tracks.class_index >= 0) & (tracks.class_index < num_classes)
    check_rows(
        truth,
        tracks.frame_index,
        ~is_class,
        lambda row: (
            f"track {tracks.track_id[row]} has class index {tracks.class_index[row]}, expected 0 "
            f"to {num_classes - 1}"
        ),
    )
    check_boxes(truth, tracks.frame_index, tracks.boxes_xyxy, "the result")
    check_unique_ids(truth, tracks.frame_index, tracks.track_id, "the result", "track id")


def _check_frames(truth: SequenceTruth, tracks: Tracks) -> None:
    is_frame = (tracks.frame_index >= 0) & (tracks.frame_index < truth.num_frames)
    if not is_frame.all():
        wrong = int(tracks.frame_index[np.flatnonzero(~is_frame)[0]])
        raise ValueError(
            f"sequence {truth.name!r}: the result has a box in frame index {wrong}, expected 0 to "
            f"{truth.num_frames - 1}"
        )


def check_boxes(
    truth: SequenceTruth, frame_index: npt.NDArray[Any], boxes: npt.NDArray[Any], source: str
) -> None:
    """Refuse coordinates that are NaN or infinite; `source` says whose they are.

    Raises:
        ValueError: names the sequence, the frame and the box.
    """
    check_rows(
        truth,
        frame_index,
        ~np.isfinite(boxes).all(axis=1),
        lambda row: f"{source} has the box {boxes[row].tolist()}, expected finite numbers",
    )


def check_unique_ids(
    truth: SequenceTruth,
    frame_index: npt.NDArray[Any],
    ids: npt.NDArray[Any],
    source: str,
    kind: str,
) -> None:
    """Refuse an id that two boxes of one frame share.

    Raises:
        ValueError: names the sequence, the frame and the id.
    """
    order = np.lexsort((ids, frame_index))
    repeats = np.zeros(len(ids), bool)
    repeats[order[1:]] = (frame_index[order[1:]] == frame_index[order[:-1]]) & (
        ids[order[1:]] == ids[order[:-1]]
    )
    check_rows(
        truth,
        frame_index,
        repeats,
        lambda row: f"{source} has {kind} {ids[row]} twice, expected once at most",
    )


def check_rows(
    truth: SequenceTruth,
    frame_index: npt.NDArray[Any],
    is_wrong: Bool,
    describe: Callable[[int], str],
) -> None:
    """Refuse rows of which something is wrong.

    Args:
        truth: of the sequence.
        frame_index: (N,) of the rows.
        is_wrong: (N,).
        describe: says of a row what was found and what was expected.

    Raises:
        ValueError: names the sequence and the frame of the first one.
    """
    wrong = np.flatnonzero(is_wrong)
    if len(wrong):
        row = int(wrong[0])
        frame = int(frame_index[row])
        raise ValueError(
            f"sequence {truth.name!r}, frame index {frame} ({truth.frame_names[frame]}): "
            f"{describe(row)}"
        )
