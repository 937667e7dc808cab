"""HOTA of trackeval for a whole sequence at once (Luiten et al., IJCV 2021).

What is the same as trackeval's: the alignment score of every identity and track (equation 9 of the
paper), bit for bit, and in each frame the assignment with the greatest sum of alignment times IoU.
What differs is only how the assignment is found where it is certain, and that the 19 thresholds are
counted together.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from trackeval.metrics import HOTA as TrackevalHOTA

from datasets.schema import Bool, Float64, Int64
from pipeline.metrics.class_data import ClassData

_EPSILON: Final = np.finfo(np.float64).eps
_MARGIN: Final = 1e-9
"""A score is certainly the greatest by this much: far above the rounding inside a Hungarian
(1e-14), far below differences that a solver could miss."""


class HOTA(TrackevalHOTA):  # type: ignore[misc]  # trackeval has no types
    """trackeval's HOTA: equal counts, floats to rounding; the combiners are inherited."""

    fields_to_combine = ("HOTA_TP", "HOTA_FN", "HOTA_FP", "AssRe", "AssPr", "AssA", "LocA")

    @classmethod
    def get_name(cls) -> str:
        return "HOTA"

    def eval_sequence(self, data: ClassData | Mapping[str, Any]) -> dict[str, Any]:
        """Fields of HOTA for one class of one sequence, flat or in trackeval's lists."""
        flat = ClassData.of(data)
        if flat.is_one_sided:
            one_sided: dict[str, Any] = super().eval_sequence(flat)
            return one_sided
        tracks = _TrackPairs(flat)
        matched = match_frames(flat, tracks.alignment[tracks.of_pair] * flat.pair_iou)
        # Number of thresholds that each matched pair reaches.
        reached = np.searchsorted(self.array_labels - _EPSILON, flat.pair_iou[matched], "right")
        fields = self._count_boxes(flat, reached, flat.pair_iou[matched])
        fields |= tracks.association_scores(tracks.of_pair[matched], reached, fields["HOTA_TP"])
        complete: dict[str, Any] = self._compute_final_fields(fields)
        return complete

    def _count_boxes(self, data: ClassData, reached: Int64, ious: Float64) -> dict[str, Any]:
        num_alphas = len(self.array_labels)
        true_positives = _at_least(np.bincount(reached, minlength=num_alphas + 1))
        iou_sums = _at_least(np.bincount(reached, weights=ious, minlength=num_alphas + 1))
        return {
            "HOTA_TP": true_positives,
            "HOTA_FN": data.num_truth - true_positives,
            "HOTA_FP": data.num_tracks - true_positives,
            "LocA": np.maximum(1e-10, iou_sums) / np.maximum(1e-10, true_positives),
        }


class _TrackPairs:
    """Every identity and track that overlap in some frame, U of them, and how well they align."""

    def __init__(self, data: ClassData) -> None:
        keys = data.truth_id[data.pair_truth] * data.num_track_ids + data.track_id[data.pair_track]
        unique, self.of_pair = np.unique(keys, return_inverse=True)
        identities, tracks = np.divmod(unique, data.num_track_ids)
        num_truth = np.bincount(data.truth_id, minlength=data.num_truth_ids).astype(np.float64)
        num_tracks = np.bincount(data.track_id, minlength=data.num_track_ids).astype(np.float64)
        self._num_truth, self._num_tracks = num_truth[identities], num_tracks[tracks]
        # Pairs lie in order of time within an identity, so the sums add up in trackeval's order.
        shared = np.bincount(self.of_pair, weights=_overlap_shares(data), minlength=len(unique))
        self.alignment = shared / (self._num_truth + self._num_tracks - shared)
        """(U,) Jaccard index of identity and track, before matching."""

    def association_scores(
        self, pairs: Int64, reached: Int64, true_positives: Float64
    ) -> dict[str, Float64]:
        """AssA, AssRe, AssPr over the thresholds, from the matched pairs."""
        num_levels = len(true_positives) + 1
        unique, index = np.unique(pairs, return_inverse=True)
        table = np.bincount(index * num_levels + reached, minlength=len(unique) * num_levels)
        matches = _at_least(table.reshape(-1, num_levels).T)
        num_truth, num_tracks = self._num_truth[unique], self._num_tracks[unique]
        union = np.maximum(1, num_truth + num_tracks - matches)
        squared, total = matches * matches, np.maximum(1, true_positives)
        return {
            "AssA": (squared / union).sum(1) / total,
            "AssRe": (squared / num_truth).sum(1) / total,
            "AssPr": (squared / num_tracks).sum(1) / total,
        }


def match_frames(data: ClassData, scores: Float64) -> Bool:
    """Which pairs belong to the assignment with the greatest total score, in every frame.

    A frame is certain without a Hungarian when all its truth rows want different tracks, each by a
    clear margin: the sum of the greatest scores of all rows bounds every assignment, and only this
    one reaches it. Likewise with the sides exchanged. All other frames go to the solver that
    trackeval calls, with the same matrix.

    Args:
        data: one class of one sequence.
        scores: (K,) score of each pair, at most 1; pairs that do not overlap score 0.
    """
    frame_of_pair = data.truth_frame[data.pair_truth]
    wanted_by_truth, in_doubt = _favourites(scores, data.pair_truth, data.pair_track)
    is_sure = _frames_without(frame_of_pair[in_doubt], data.num_frames)
    wanted_by_track, in_doubt = _favourites(scores, data.pair_track, data.pair_truth)
    is_sure_by_track = _frames_without(frame_of_pair[in_doubt], data.num_frames)
    matched: Bool = np.where(is_sure[frame_of_pair], wanted_by_truth, wanted_by_track)
    for frame in np.flatnonzero(~(is_sure | is_sure_by_track)).tolist():
        matrix = data.frame_matrix(frame, scores, 0.0)
        rows, columns = linear_sum_assignment(-matrix)
        is_matched = np.zeros(matrix.shape, bool)
        is_matched[rows, columns] = True
        pairs = data.pairs_of_frame(frame)
        matched[pairs] = is_matched[
            data.pair_truth[pairs] - data.truth_offsets[frame],
            data.pair_track[pairs] - data.track_offsets[frame],
        ]
    return matched


def _favourites(scores: Float64, rows: Int64, partners: Int64) -> tuple[Bool, Bool]:
    """Which pairs are the best of their row; and which of these are in doubt.

    In doubt are near ties within a row, partners that two rows want, and scores of nearly nothing.
    """
    if not len(rows):
        return np.zeros(0, bool), np.zeros(0, bool)
    best = np.zeros(int(rows.max()) + 1)
    np.maximum.at(best, rows, scores)
    is_best: Bool = scores >= best[rows] - _MARGIN
    num_best = np.bincount(rows[is_best], minlength=len(best))
    num_wanting = np.bincount(partners[is_best], minlength=int(partners.max()) + 1)
    in_doubt = (num_best[rows] > 1) | (num_wanting[partners] > 1) | (scores <= _MARGIN)
    return is_best, is_best & in_doubt


def _frames_without(frames: Int64, num_frames: int) -> Bool:
    is_without = np.ones(num_frames, bool)
    is_without[frames] = False
    return is_without


def _overlap_shares(data: ClassData) -> Float64:
    """(K,) IoU of each pair over all the overlap that its two boxes have in the frame.

    Sums of at most two numbers do not depend on their order. For longer ones NumPy adds up wide
    matrices in an order of its own, so those frames are summed in a matrix as trackeval does:
    otherwise the last bit, and with it a tie, could differ.
    """
    rows, columns, ious = data.pair_truth, data.pair_track, data.pair_iou
    row_sums = np.bincount(rows, weights=ious, minlength=data.num_truth)
    column_sums = np.bincount(columns, weights=ious, minlength=data.num_tracks)
    for frame in _frames_with_long_sums(data):
        matrix = data.frame_matrix(frame, ious, 0.0)
        row_sums[data.truth_offsets[frame] : data.truth_offsets[frame + 1]] = matrix.sum(1)
        column_sums[data.track_offsets[frame] : data.track_offsets[frame + 1]] = matrix.sum(0)
    total = column_sums[columns] + row_sums[rows] - ious
    shares: Float64 = np.where(total > _EPSILON, ious / total, 0.0)
    return shares


def _frames_with_long_sums(data: ClassData) -> list[int]:
    num_in_row = np.bincount(data.pair_truth, minlength=data.num_truth)
    num_in_column = np.bincount(data.pair_track, minlength=data.num_tracks)
    is_long = (num_in_row[data.pair_truth] > 2) | (num_in_column[data.pair_track] > 2)
    frames = np.unique(data.truth_frame[data.pair_truth[is_long]])
    # Below eight numbers NumPy adds in plain order, as bincount does.
    widest = np.maximum(np.diff(data.truth_offsets), np.diff(data.track_offsets))[frames]
    long_frames: list[int] = frames[widest >= 8].tolist()
    return long_frames


def _at_least(histogram: npt.NDArray[Any]) -> Float64:
    """Histogram over 0..n of thresholds reached (axis 0) -> how many reach each of the n."""
    totals: Float64 = np.cumsum(histogram[::-1], axis=0, dtype=np.float64)[::-1][1:]
    return totals
