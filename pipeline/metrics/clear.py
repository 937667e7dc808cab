"""CLEAR of trackeval with the frames of a sequence matched together (CLEAR MOT, 2008)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from trackeval.metrics import CLEAR as TrackevalCLEAR

from datasets.schema import Int64
from pipeline.metrics.class_data import ClassData, previous_rows
from pipeline.metrics.matching import match_in_order

_EPSILON = np.finfo(np.float64).eps


class CLEAR(TrackevalCLEAR):  # type: ignore[misc]  # trackeval has no types
    """trackeval's CLEAR at IoU 0.5: the same integers, floats to rounding, a fraction of the time.

    The combiners are inherited; only the counting of one sequence is ours.
    """

    fields_to_combine = (
        *("CLR_TP", "CLR_FN", "CLR_FP", "IDSW", "MT", "PT", "ML", "Frag", "CLR_Frames"),
        "MOTP_sum",
    )

    def __init__(self) -> None:
        super().__init__({"PRINT_CONFIG": False})

    @classmethod
    def get_name(cls) -> str:
        return "CLEAR"

    def eval_sequence(self, data: ClassData | Mapping[str, Any]) -> dict[str, Any]:
        """Fields of CLEAR for one class of one sequence, flat or in trackeval's lists."""
        flat = ClassData.of(data)
        if flat.is_one_sided:
            one_sided: dict[str, Any] = super().eval_sequence(flat)
            return one_sided
        candidates = flat.pair_iou >= self.threshold - _EPSILON
        matching = _ContinuingMatching(flat, np.where(candidates, flat.pair_iou, 0.0))
        matched_track = match_in_order(flat, candidates, matching.settle)
        fields = dict.fromkeys(self.fields, 0)
        fields |= _count_boxes(flat, matched_track)
        fields |= _count_identities(flat, matched_track)
        fields["Frag"] = matching.count_fragments(matched_track)
        fields["CLR_Frames"] = flat.num_frames
        complete: dict[str, Any] = self._compute_final_fields(fields)
        return complete


class _ContinuingMatching:
    """Per frame: first the most pairs continued from the previous frame, then the greatest IoU."""

    def __init__(self, data: ClassData, scores: Any) -> None:
        self._data = data
        self._scores = scores
        # Frames with only truth or only tracks are stepped over: they break no continuity.
        has_truth, has_tracks = np.diff(data.truth_offsets) > 0, np.diff(data.track_offsets) > 0
        is_used = has_truth & has_tracks
        frames = np.flatnonzero(is_used)
        self._previous_frame = np.full(data.num_frames, -1)
        self._previous_frame[frames[1:]] = frames[:-1]
        self._previous_row = previous_rows(data.truth_id, np.flatnonzero(is_used[data.truth_frame]))

    def settle(self, frame: int, matched_track: Int64) -> tuple[Int64, Int64]:
        data = self._data
        pairs = data.pairs_of_frame(frame)
        rows, columns = data.pair_truth[pairs], data.pair_track[pairs]
        partner = self._previous_partner(rows, matched_track)
        is_continued = (partner >= 0) & (data.track_id[columns] == data.track_id[partner])
        values = np.zeros(len(data.pair_iou))
        values[pairs] = np.where(
            self._scores[pairs] > 0, 1000 * is_continued + self._scores[pairs], 0.0
        )
        matrix = data.frame_matrix(frame, values, 0.0)
        matched_rows, matched_columns = linear_sum_assignment(-matrix)
        is_real = matrix[matched_rows, matched_columns] > _EPSILON
        return (
            matched_rows[is_real] + data.truth_offsets[frame],
            matched_columns[is_real] + data.track_offsets[frame],
        )

    def count_fragments(self, matched_track: Int64) -> int:
        """Times an identity is picked up again: matched now but not in the previous used frame."""
        matched = np.flatnonzero(matched_track >= 0)
        num_begun = int(np.count_nonzero(self._previous_partner(matched, matched_track) < 0))
        return num_begun - len(np.unique(self._data.truth_id[matched]))

    def _previous_partner(self, rows: Int64, matched_track: Int64) -> Int64:
        """Track row that each truth row's identity had in the previous used frame, or -1."""
        frame_of = self._data.truth_frame
        previous = self._previous_row[rows]
        is_adjacent = (previous >= 0) & (frame_of[previous] == self._previous_frame[frame_of[rows]])
        return np.where(is_adjacent, matched_track[previous], -1)


def _count_boxes(data: ClassData, matched_track: Int64) -> dict[str, Any]:
    num_matches = int(np.count_nonzero(matched_track >= 0))
    is_matched_pair = matched_track[data.pair_truth] == data.pair_track
    return {
        "CLR_TP": num_matches,
        "CLR_FN": data.num_truth - num_matches,
        "CLR_FP": data.num_tracks - num_matches,
        "MOTP_sum": float(data.pair_iou[is_matched_pair].sum()),
    }


def _count_identities(data: ClassData, matched_track: Int64) -> dict[str, Any]:
    matched = np.flatnonzero(matched_track >= 0)
    num_frames_of = np.bincount(data.truth_id, minlength=data.num_truth_ids)
    num_matches_of = np.bincount(data.truth_id[matched], minlength=data.num_truth_ids)
    ratio = num_matches_of / num_frames_of
    mostly_tracked = int(np.count_nonzero(ratio > 0.8))
    partly_tracked = int(np.count_nonzero(ratio >= 0.2)) - mostly_tracked
    return {
        "IDSW": count_switches(data, matched_track),
        "MT": mostly_tracked,
        "PT": partly_tracked,
        "ML": data.num_truth_ids - mostly_tracked - partly_tracked,
    }


def count_switches(data: ClassData, matched_track: Int64) -> int:
    """Matches of an identity with another track than in its last match, however long ago."""
    matched = np.flatnonzero(matched_track >= 0)
    matched = matched[np.argsort(data.truth_id[matched], kind="stable")]
    identities, tracks = data.truth_id[matched], data.track_id[matched_track[matched]]
    is_switch = (identities[1:] == identities[:-1]) & (tracks[1:] != tracks[:-1])
    return int(np.count_nonzero(is_switch))
