"""The counting of KITTI MOTS, as a metric beside trackeval's (Voigtlaender et al., CVPR 2019).

The official tool's rules, which differ from trackeval's CLEAR: an IoU of exactly 0.5 is no match, a
class without truth has no score instead of 0, and a fragment is counted by a rule of its own.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from trackeval.metrics._base_metric import _BaseMetric

from datasets.schema import Int64
from pipeline.metrics.class_data import ClassData
from pipeline.metrics.clear import find_switches

MIN_IOU: Final = 0.5
"""A match has more than this. Masks of a frame do not overlap, so nothing has two matches."""

_COUNTS: Final = ("GT", "TP", "FP", "FN", "IDS", "MT", "PT", "ML", "Frag", "Frames")
_SUMS: Final = ("IoU_sum", "MODSP_sum")


class MotsCounting(_BaseMetric):  # type: ignore[misc]  # trackeval has no types
    """sMOTSA, MOTSA, MOTSP and the counts behind them; all ratios are fractions.

    Without truth sMOTSA, MOTSA, MODSA and MOTSAL are -inf, without a match MOTSP is inf, and
    recall, precision and F1 are 0 where they have no value.
    """

    fields_to_combine = (*_COUNTS, *_SUMS)

    def __init__(self) -> None:
        super().__init__()
        self.integer_fields = list(_COUNTS)
        ratios = ["sMOTSA", "MOTSA", "MOTSP", "MODSA", "MODSP", "MOTSAL"]
        self.float_fields = [*ratios, "Recall", "Precision", "F1", "FAR", *_SUMS]
        self.fields = self.float_fields + self.integer_fields
        self.summary_fields = self.fields

    def eval_sequence(self, data: ClassData | Mapping[str, Any]) -> dict[str, Any]:
        """All fields for one class of one sequence, flat or in trackeval's lists."""
        flat = ClassData.of(data)
        matched_track = self.match(flat)
        num_matches = int(np.count_nonzero(matched_track >= 0))
        is_matched_pair = matched_track[flat.pair_truth] == flat.pair_track
        sums: dict[str, Any] = {
            "GT": flat.num_truth,
            "TP": num_matches,
            "FP": flat.num_tracks - num_matches,
            "FN": flat.num_truth - num_matches,
            "IDS": len(find_switches(flat, matched_track)),
            "Frag": len(self.find_resumptions(flat, matched_track)),
            "Frames": flat.num_frames,
            "IoU_sum": float(flat.pair_iou[is_matched_pair].sum()),
            "MODSP_sum": _sum_of_frame_means(flat, is_matched_pair),
            **_count_tracked(flat, matched_track),
        }
        return _with_ratios(sums)

    def match(self, data: ClassData) -> Int64:
        """The matching that is counted; see `ErrorCounter.match`."""
        is_match = data.pair_iou > MIN_IOU
        rows, columns = data.pair_truth[is_match], data.pair_track[is_match]
        assert len(np.unique(rows)) == len(np.unique(columns)) == len(rows), "masks overlap"
        matched_track = np.full(data.num_truth, -1)
        matched_track[rows] = columns
        return matched_track

    def find_resumptions(self, data: ClassData, matched_track: Int64) -> Int64:
        """Truth rows that count as a fragment; see `ErrorCounter`.

        Let g be the tracks of an identity over the frames that have it, missed ones included. A
        frame counts that is matched, other than the frame before it (missed, or another track),
        after some match and before a frame that is matched too. The last frame has none behind it
        and, by a quirk of the official tool, needs no earlier match.
        """
        if data.is_one_sided:
            return np.zeros(0, np.int64)
        order = np.argsort(data.truth_id, kind="stable")
        identity, matched = data.truth_id[order], matched_track[order]
        track = np.where(matched >= 0, data.track_id[matched], -1)
        goes_on = identity[1:] == identity[:-1]
        has_before, has_behind = np.append(False, goes_on), np.append(goes_on, False)
        differs = np.append(False, track[1:] != track[:-1])
        then_matched = np.append(track[1:] >= 0, False)
        is_inner = has_behind & then_matched & _has_earlier_match(identity, track)
        counts = has_before & differs & (track >= 0) & (is_inner | ~has_behind)
        return np.sort(order[counts])

    def combine_sequences(self, all_res: Mapping[str, Any]) -> dict[str, Any]:
        """Sums of the counts, then the ratios."""
        return _with_ratios(
            {field: self._combine_sum(all_res, field) for field in self.fields_to_combine}
        )

    def combine_classes_det_averaged(self, all_res: Mapping[str, Any]) -> dict[str, Any]:
        """Pooled like sequences, which the official tool does not do.

        Raises:
            ValueError: always.
        """
        raise ValueError("KITTI MOTS scores each class for itself; there is no pool of classes")

    def combine_classes_class_averaged(
        self, all_res: Mapping[str, Any], ignore_empty_classes: bool = False
    ) -> dict[str, Any]:
        """A mean over classes, which the official tool does not have.

        Raises:
            ValueError: always.
        """
        raise ValueError("KITTI MOTS scores each class for itself; there is no mean over classes")


def _has_earlier_match(identity: Int64, track: Int64) -> Any:
    """(G,) whether an earlier row of the same identity is matched; rows ordered by identity."""
    num_before: Int64 = np.cumsum(track >= 0) - (track >= 0)
    first = np.searchsorted(identity, identity)
    return num_before > num_before[first]


def _count_tracked(data: ClassData, matched_track: Int64) -> dict[str, int]:
    num_frames_of = np.bincount(data.truth_id, minlength=data.num_truth_ids)
    is_matched = matched_track >= 0
    num_matches_of = np.bincount(data.truth_id[is_matched], minlength=data.num_truth_ids)
    ratio = num_matches_of / num_frames_of
    mostly = int(np.count_nonzero(ratio > 0.8))
    lost = int(np.count_nonzero(ratio < 0.2))
    return {"MT": mostly, "PT": data.num_truth_ids - mostly - lost, "ML": lost}


def _sum_of_frame_means(data: ClassData, is_matched_pair: Any) -> float:
    """Sum over all frames of the mean IoU of their matches, 1 where a frame has none."""
    frames = data.truth_frame[data.pair_truth[is_matched_pair]]
    ious = np.bincount(frames, data.pair_iou[is_matched_pair], data.num_frames)
    num_matches = np.bincount(frames, minlength=data.num_frames)
    means = np.divide(ious, num_matches, out=np.ones(data.num_frames), where=num_matches > 0)
    return float(means.sum())


def _with_ratios(sums: dict[str, Any]) -> dict[str, Any]:
    truth, true, false = sums["GT"], sums["TP"], sums["FP"]
    errors = sums["FN"] + false
    switches = sums["IDS"]
    log_switches = np.log10(switches) if switches > 0 else 0.0

    def accuracy(cost: float) -> float:
        return float(1.0 - cost / truth) if truth else -np.inf

    return {
        **sums,
        "sMOTSA": (sums["IoU_sum"] - false - switches) / truth if truth else -np.inf,
        "MOTSA": accuracy(errors + switches),
        "MODSA": accuracy(errors),
        "MOTSAL": accuracy(errors + log_switches),
        "MOTSP": sums["IoU_sum"] / true if true else np.inf,
        "MODSP": _ratio(sums["MODSP_sum"], sums["Frames"]),
        "Recall": _ratio(true, true + sums["FN"]),
        "Precision": _ratio(true, true + false),
        "F1": _ratio(2 * true, 2 * true + errors),
        "FAR": _ratio(false, sums["Frames"]),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
