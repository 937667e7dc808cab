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
        matched_track = self.match(flat)
        fields = dict.fromkeys(self.fields, 0)
        fields |= _count_boxes(flat, matched_track)
        fields |= _count_identities(flat, matched_track)
        fields["Frag"] = len(self.find_resumptions(flat, matched_track))
        fields["CLR_Frames"] = flat.num_frames
        complete: dict[str, Any] = self._compute_final_fields(fields)
        return complete

    def match(self, data: ClassData) -> Int64:
        """The matching that is counted; see `ErrorCounter.match`."""
        candidates = data.pair_iou >= self.threshold - _EPSILON
        scores = np.where(candidates, data.pair_iou, 0.0)
        return match_in_order(data, candidates, _ContinuingMatching(data, scores).settle)

    def find_resumptions(self, data: ClassData, matched_track: Int64) -> Int64:
        """Truth rows that are matched now but not in the previous used frame; see `ErrorCounter`.

        Frames with only truth or only tracks are not used.
        """
        matched = np.flatnonzero(matched_track >= 0)
        begins = _PreviousFrame(data).partner(matched, matched_track) < 0
        return without_first(data, matched[begins])


class _ContinuingMatching:
    """Per frame: first the most pairs continued from the previous frame, then the greatest IoU."""

    def __init__(self, data: ClassData, scores: Any) -> None:
        self._data = data
        self._scores = scores
        self._previous = _PreviousFrame(data)

    def settle(self, frame: int, matched_track: Int64) -> tuple[Int64, Int64]:
        data = self._data
        pairs = data.pairs_of_frame(frame)
        rows, columns = data.pair_truth[pairs], data.pair_track[pairs]
        partner = self._previous.partner(rows, matched_track)
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


class _PreviousFrame:
    """Looks one used frame back."""

    def __init__(self, data: ClassData) -> None:
        self._frame_of = data.truth_frame
        # Frames with only truth or only tracks are stepped over: they break no continuity.
        has_truth, has_tracks = np.diff(data.truth_offsets) > 0, np.diff(data.track_offsets) > 0
        is_used = has_truth & has_tracks
        frames = np.flatnonzero(is_used)
        self._previous_frame = np.full(data.num_frames, -1)
        self._previous_frame[frames[1:]] = frames[:-1]
        self._previous_row = previous_rows(data.truth_id, np.flatnonzero(is_used[data.truth_frame]))

    def partner(self, rows: Int64, matched_track: Int64) -> Int64:
        """Track row that each truth row's identity had in the previous used frame, or -1."""
        frame_of, previous = self._frame_of, self._previous_row[rows]
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
        "IDSW": len(find_switches(data, matched_track)),
        "MT": mostly_tracked,
        "PT": partly_tracked,
        "ML": data.num_truth_ids - mostly_tracked - partly_tracked,
    }


def find_switches(data: ClassData, matched_track: Int64) -> Int64:
    """Truth rows matched with another track than the identity's last match, however long ago."""
    matched = np.flatnonzero(matched_track >= 0)
    before = previous_rows(data.truth_id, matched)[matched]
    tracks, tracks_before = data.track_id[matched_track[matched]], matched_track[before]
    switched: Int64 = matched[(before >= 0) & (tracks != data.track_id[tracks_before])]
    return switched


def without_first(data: ClassData, rows: Int64) -> Int64:
    """Truth rows in rising order without the first one of every identity."""
    _, first = np.unique(data.truth_id[rows], return_index=True)
    return np.delete(rows, first)
