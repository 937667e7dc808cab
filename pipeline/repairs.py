"""Results with one cause of error taken away: what a score would be without it, by the scorer.

Only where a repair is well defined. A missed box has no track that it belongs to, and a fragment
ends with a box that was missed, so neither is repaired.

Legend: T track rows.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from datasets.schema import Annotations, Int64, SequenceResult, SequenceTruth, Tracks
from pipeline.errors import Cause, SequenceErrors

REPAIRS: Final[dict[Cause, str]] = {
    "switched": "every box on its object has the object's true identity",
    "badly placed": "the box is put where the true one is",
    "mis-classed": "the box is given the true class",
    "duplicate": "the box is taken out",
    "background": "the box is taken out",
}
"""Causes that can be repaired, and how."""


def repair(
    cause: Cause, truth: SequenceTruth, result: SequenceResult, found: SequenceErrors
) -> SequenceResult:
    """The result of one sequence without one cause of error, otherwise as it is.

    Args:
        cause: a key of `REPAIRS`.
        truth: of the sequence.
        result: likewise.
        found: what is wrong in it.
    """
    annotations, tracks = truth.annotations, result.tracks
    wrong = found.rows_of(cause)
    rows, truth_rows = found.track_row[wrong], found.truth_row[wrong]
    if cause == "switched":
        tracks = with_true_identities(annotations, tracks, found.matched_truth)
    elif cause == "badly placed":
        boxes = tracks.boxes_xyxy.astype(np.float64)  # else a corrected box is rounded
        boxes[rows] = annotations.boxes_xyxy[truth_rows]
        tracks = replace(tracks, boxes_xyxy=boxes)
    elif cause == "mis-classed":
        class_index = tracks.class_index.copy()
        class_index[rows] = annotations.class_index[truth_rows]
        tracks = replace(tracks, class_index=class_index)
    else:
        tracks = tracks.select(~np.isin(np.arange(len(tracks)), rows))
    return replace(result, tracks=tracks)


def with_true_identities(annotations: Annotations, tracks: Tracks, matched_truth: Int64) -> Tracks:
    """Tracks whose matched boxes carry the true identity; the others keep what they have in common.

    Args:
        annotations: of the sequence.
        tracks: likewise.
        matched_truth: (T,) row of the annotations of each row of the tracks, -1 for none.
    """
    is_matched = matched_truth >= 0
    identities, names = np.unique(annotations.identity, return_inverse=True)
    track_id = tracks.track_id - tracks.track_id.min(initial=0) + len(identities)
    track_id[is_matched] = names[matched_truth[is_matched]]
    return replace(tracks, track_id=track_id)
