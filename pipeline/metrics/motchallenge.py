"""Scoring by the rules of MOTChallenge 2D boxes: MOT15, MOT17 and MOT20."""

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
from scipy.optimize import linear_sum_assignment

from datasets.motchallenge import DISTRACTORS
from datasets.schema import Annotations, Bool, SequenceResult, SequenceTruth
from pipeline.metrics.class_data import ClassData
from pipeline.metrics.clear import CLEAR
from pipeline.metrics.hota import HOTA
from pipeline.metrics.identity import Identity
from pipeline.metrics.matching import is_contested
from pipeline.metrics.preparation import (
    Pairs,
    Side,
    check_boxes,
    check_result,
    check_unique_ids,
    find_pairs,
    make_side,
    split_classes,
)
from pipeline.metrics.protocol import Fields, Numbers, Row, ScoringProtocol, hota_numbers

PEDESTRIAN: Final = "pedestrian"

_EPSILON: Final = np.finfo(np.float64).eps


class MotChallengeProtocol(ScoringProtocol):
    """HOTA, CLEAR and Identity of trackeval for pedestrians, as on the MOTChallenge server."""

    metric_names: ClassVar[tuple[str, ...]] = (
        *("HOTA", "DetA", "AssA", "MOTA", "MOTP", "IDF1"),
        *("FP", "FN", "IDSw", "MT", "PT", "ML", "Frag"),
    )
    missing_is_empty: ClassVar[bool] = False
    counted_by: ClassVar[str] = "CLEAR"

    def __init__(self, benchmark: str) -> None:
        """Rules of "mot15", "mot17" or "mot20"; they differ in which boxes excuse predictions."""
        self.name = benchmark
        self.classes = (PEDESTRIAN,)
        self.rows = (Row(name=PEDESTRIAN, classes=(PEDESTRIAN,)),)
        self.metrics = {"HOTA": HOTA(), "CLEAR": CLEAR(), "Identity": Identity()}

    def prepare(
        self, truth: SequenceTruth, result: SequenceResult
    ) -> Mapping[str, Mapping[str, ClassData]]:
        """Class data without predictions on distractors; see `ScoringProtocol.prepare`."""
        check_result(truth, result, 1)
        annotations = truth.annotations
        check_boxes(truth, annotations.frame_index, annotations.boxes_xyxy, "the truth")
        check_unique_ids(
            truth, annotations.frame_index, annotations.identity, "the truth", "identity"
        )
        data = self._prepare(truth, result)
        return {PEDESTRIAN: {"HOTA": data, "CLEAR": data, "Identity": data}}

    def numbers(self, row: Row, fields: Mapping[str, Fields]) -> Numbers:
        """As trackeval has them: without truth and predictions the percentages are 0."""
        clear = fields["CLEAR"]
        return {
            **hota_numbers(fields["HOTA"]),
            "MOTA": 100.0 * float(clear["MOTA"]),
            "MOTP": 100.0 * float(clear["MOTP"]),
            "IDF1": 100.0 * float(fields["Identity"]["IDF1"]),
            "FP": int(clear["CLR_FP"]),
            "FN": int(clear["CLR_FN"]),
            "IDSw": int(clear["IDSW"]),
            **{name: int(clear[name]) for name in ("MT", "PT", "ML", "Frag")},
        }

    def _prepare(self, truth: SequenceTruth, result: SequenceResult) -> ClassData:
        annotations, tracks = truth.annotations, result.tracks
        # One key for all categories: predictions compete for every annotated box.
        truth_side = make_side(
            frame_index=annotations.frame_index,
            class_index=np.zeros(len(annotations), np.int16),
            ids=annotations.identity,
            boxes=annotations.boxes_xyxy,
            rows=np.ones(len(annotations), bool),
            num_frames=truth.num_frames,
        )
        track_side = make_side(
            frame_index=tracks.frame_index,
            class_index=tracks.class_index,
            ids=tracks.track_id,
            boxes=tracks.boxes_xyxy,
            rows=np.ones(len(tracks), bool),
            num_frames=truth.num_frames,
        )
        pairs = find_pairs(truth_side, track_side)
        is_distractor = self._is_distractor(annotations)[truth_side.source_row]
        is_pedestrian = (annotations.class_index == 0) & ~annotations.ignored
        [data] = split_classes(
            truth_side,
            track_side,
            pairs,
            keep_truth=is_pedestrian[truth_side.source_row],
            keep_tracks=~_is_matched_with(is_distractor, truth_side, track_side, pairs),
            num_classes=1,
            num_frames=truth.num_frames,
        )
        return data

    def _is_distractor(self, annotations: Annotations) -> Bool:
        names = DISTRACTORS[self.name]
        return np.array([category in names for category in annotations.category], bool)


def _is_matched_with(chosen_truth: Bool, truth: Side, tracks: Side, pairs: Pairs) -> Bool:
    """(T,) tracks that the best matching of their frame pairs with one of the chosen truth rows.

    The best matching has the greatest sum of IoU over pairs of IoU 0.5 and more. Frames without
    competition need no solver; frames without a chosen row in reach need no answer.
    """
    allowed = pairs.iou >= 0.5 - _EPSILON
    rows, columns, ious = pairs.truth[allowed], pairs.track[allowed], pairs.iou[allowed]
    contested = is_contested(rows, columns, len(truth), len(tracks))
    is_matched = np.zeros(len(tracks), bool)
    is_matched[columns[~contested & chosen_truth[rows]]] = True
    for frame in np.unique(truth.key[rows[contested & chosen_truth[rows]]]):
        first_row, last_row = np.searchsorted(truth.key, [frame, frame + 1])
        first_column, last_column = np.searchsorted(tracks.key, [frame, frame + 1])
        here = slice(*np.searchsorted(rows, [first_row, last_row]))
        matrix = np.zeros((last_row - first_row, last_column - first_column))
        matrix[rows[here] - first_row, columns[here] - first_column] = ious[here]
        matched_rows, matched_columns = linear_sum_assignment(-matrix)
        is_real = matrix[matched_rows, matched_columns] > _EPSILON
        is_chosen = chosen_truth[matched_rows + first_row]
        is_matched[matched_columns[is_real & is_chosen] + first_column] = True
    return is_matched
