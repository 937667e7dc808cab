"""Results with one cause of error taken away: what a score would be without it, by the scorer.

Only where a repair is well defined. A missed box has no track that it belongs to, and a fragment
ends with a box that was missed, so neither is repaired. Of tracks with masks the mask is repaired,
and its box follows.

Legend: T track rows.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from datasets.masks import Rle, mask_areas, mask_boxes, remove_overlaps
from datasets.schema import Annotations, Int64, SequenceResult, SequenceTruth, Tracks
from pipeline.errors import Cause, SequenceErrors

REPAIRS: Final[dict[Cause, str]] = {
    "switched": "every {box} on its object has the object's true identity",
    "badly placed": "the {box} is put where the true one is",
    "mis-classed": "the {box} is given the true class",
    "duplicate": "the {box} is taken out",
    "background": "the {box} is taken out",
}
"""Causes that can be repaired, and how; for `pipeline.wording.in_words`."""


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
    elif cause == "badly placed" and tracks.masks is not None and annotations.masks is not None:
        truth_masks = [annotations.masks[row] for row in truth_rows.tolist()]
        tracks = put_masks(tracks, rows, truth_masks)
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


def put_masks(tracks: Tracks, rows: Int64, masks: Sequence[Rle]) -> Tracks:
    """Tracks with other masks in some rows; the masks of their frames stay disjoint.

    A pixel belongs to the mask that is put there, and other masks lose it. Those that lose all of
    their pixels are left out.

    Args:
        tracks: with disjoint masks in each frame.
        rows: (N,) rows that get another mask.
        masks: (N,) these.
    """
    assert tracks.masks is not None
    new = list(tracks.masks)
    boxes = tracks.boxes_xyxy.astype(np.float64)
    for row, mask in zip(rows.tolist(), masks, strict=True):
        new[row] = mask
    is_put = np.zeros(len(tracks))
    is_put[rows] = 1.0
    touched = np.zeros(len(tracks), bool)
    for frame in np.unique(tracks.frame_index[rows]).tolist():
        here = np.flatnonzero(tracks.frame_index == frame)
        disjoint = remove_overlaps([new[row] for row in here.tolist()], is_put[here])
        for row, mask in zip(here.tolist(), disjoint, strict=True):
            touched[row] = mask != tracks.masks[row]
            new[row] = mask
    changed = np.flatnonzero(touched)
    changed_masks = [new[row] for row in changed.tolist()]
    boxes[changed] = mask_boxes(changed_masks)
    is_kept = np.ones(len(tracks), bool)
    is_kept[changed] = mask_areas(changed_masks) > 0
    return replace(tracks, masks=tuple(new), boxes_xyxy=boxes).select(is_kept)


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
