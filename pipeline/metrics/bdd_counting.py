"""The counting of the BDD100K benchmark, as a metric beside trackeval's.

The official evaluator follows py-motmetrics, which differs from trackeval's CLEAR: an identity
keeps its last known track however long ago that was, a ratio of exactly 0.8 is mostly tracked,
fragments are changes from tracked to missed, and a class without truth has no score instead of a
negative one.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from trackeval.metrics._base_metric import _BaseMetric

from datasets.schema import Bool, Int64
from pipeline.metrics.class_data import ClassData
from pipeline.metrics.clear import find_switches, without_first
from pipeline.metrics.matching import match_in_order, match_most_then_cheapest

MAX_DISTANCE: Final = 0.5
"""Largest 1 - IoU of a match, inclusive."""

_COUNTS: Final = ("GT", "TP", "FP", "FN", "IDSw", "MT", "PT", "ML", "FM")


class BddCounting(_BaseMetric):  # type: ignore[misc]  # trackeval has no types
    """MOTA, MOTP and the counts of the BDD100K leaderboard; MOTA and MOTP are fractions.

    MOTA of a class without truth is NaN, or -inf where there are predictions; MOTP without a match
    is NaN. Both count as 0 in the class average.
    """

    fields_to_combine = (*_COUNTS, "IoU_sum")

    def __init__(self) -> None:
        super().__init__()
        self.integer_fields = list(_COUNTS)
        self.float_fields = ["MOTA", "MOTP", "IoU_sum"]
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
            "IDSw": len(find_switches(flat, matched_track)),
            "FM": len(self.find_resumptions(flat, matched_track)),
            "IoU_sum": float(flat.pair_iou[is_matched_pair].sum()),
            **_count_tracked(flat, matched_track),
        }
        return _with_ratios(sums)

    def match(self, data: ClassData) -> Int64:
        """The matching that is counted; see `ErrorCounter.match`."""
        candidates = 1.0 - data.pair_iou <= MAX_DISTANCE
        return match_in_order(data, candidates, _LastKnownMatching(data, candidates).settle)

    def find_resumptions(self, data: ClassData, matched_track: Int64) -> Int64:
        """Truth rows with which an identity is tracked again after misses; see `ErrorCounter`.

        The official tool counts changes from tracked to missed that are followed by another match;
        each has its resumption. Frames without the identity are no misses.
        """
        matched = np.flatnonzero(matched_track >= 0)
        previous = data.previous_truth_row[matched]
        begins = (previous < 0) | (matched_track[previous] < 0)
        return without_first(data, matched[begins])

    def combine_sequences(self, all_res: Mapping[str, Any]) -> dict[str, Any]:
        """Sums of the counts, then the ratios."""
        return _with_ratios(
            {field: self._combine_sum(all_res, field) for field in self.fields_to_combine}
        )

    def combine_classes_det_averaged(self, all_res: Mapping[str, Any]) -> dict[str, Any]:
        """Super-classes and OVERALL: pooled like sequences."""
        return self.combine_sequences(all_res)

    def combine_classes_class_averaged(
        self, all_res: Mapping[str, Any], ignore_empty_classes: bool = False
    ) -> dict[str, Any]:
        """AVERAGE: counts are summed, ratios averaged over all classes with non-finite ones as 0.

        Raises:
            ValueError: asked to leave out empty classes, which the benchmark does not do.
        """
        if ignore_empty_classes:
            raise ValueError("BDD100K averages over all classes; ignore_empty_classes is not known")
        combined = self.combine_sequences(all_res)
        for field in ("MOTA", "MOTP"):
            values = np.array([fields[field] for fields in all_res.values()])
            combined[field] = float(np.where(np.isfinite(values), values, 0.0).mean())
        return combined


class _LastKnownMatching:
    """Per frame: keep last known pairs in file order, then match the rest, most pairs first."""

    def __init__(self, data: ClassData, candidates: Bool) -> None:
        self._data = data
        self._candidates = candidates

    def settle(self, frame: int, matched_track: Int64) -> tuple[Int64, Int64]:
        data = self._data
        pairs = data.pairs_of_frame(frame)
        allowed = self._candidates[pairs]
        rows, columns = data.pair_truth[pairs][allowed], data.pair_track[pairs][allowed]
        kept = self._keep(rows, columns, matched_track)
        is_free = ~np.isin(rows, rows[kept]) & ~np.isin(columns, columns[kept])
        rest = np.flatnonzero(is_free)
        first_truth, last_truth = data.truth_offsets[frame : frame + 2]
        first_track, last_track = data.track_offsets[frame : frame + 2]
        chosen = match_most_then_cheapest(
            last_truth - first_truth,
            last_track - first_track,
            rows[rest] - first_truth,
            columns[rest] - first_track,
            1.0 - data.pair_iou[pairs][allowed][rest],
        )
        matched = np.concatenate([kept, rest[chosen]])
        return rows[matched], columns[matched]

    def _keep(self, rows: Int64, columns: Int64, matched_track: Int64) -> Int64:
        """Positions of the pairs that continue, in file order of truth; a track is kept once."""
        data = self._data
        taken: set[int] = set()
        kept: list[int] = []
        last_known = {row: self._last_known(row, matched_track) for row in set(rows.tolist())}
        track_ids = data.track_id[columns].tolist()
        for position, (row, track) in enumerate(zip(rows.tolist(), track_ids, strict=True)):
            if track == last_known[row] and track not in taken:
                taken.add(track)
                kept.append(position)
        return np.array(kept, np.int64)

    def _last_known(self, row: int, matched_track: Int64) -> int:
        previous = self._data.previous_truth_row
        row = int(previous[row])
        while row >= 0 and matched_track[row] < 0:
            row = int(previous[row])
        return int(self._data.track_id[matched_track[row]]) if row >= 0 else -1


def _count_tracked(data: ClassData, matched_track: Int64) -> dict[str, int]:
    num_frames_of = np.bincount(data.truth_id, minlength=data.num_truth_ids)
    is_matched = matched_track >= 0
    num_matches_of = np.bincount(data.truth_id[is_matched], minlength=data.num_truth_ids)
    ratio = num_matches_of / num_frames_of
    mostly = int(np.count_nonzero(ratio >= 0.8))
    lost = int(np.count_nonzero(ratio < 0.2))
    return {"MT": mostly, "PT": data.num_truth_ids - mostly - lost, "ML": lost}


def _with_ratios(sums: dict[str, Any]) -> dict[str, Any]:
    errors = sums["FN"] + sums["FP"] + sums["IDSw"]
    without_truth = -np.inf if errors else np.nan
    accuracy = 1.0 - errors / sums["GT"] if sums["GT"] else without_truth
    precision = sums["IoU_sum"] / sums["TP"] if sums["TP"] else np.nan
    return {**sums, "MOTA": accuracy, "MOTP": precision}
