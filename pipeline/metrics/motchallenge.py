"""Scoring by the rules of MOTChallenge 2D boxes: MOT15, MOT17 and MOT20."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from pipeline.metrics.protocol import (
    Fields,
    Numbers,
    PreparedTruth,
    Row,
    ScoringProtocol,
    hota_numbers,
)

PEDESTRIAN: Final = "pedestrian"

_EPSILON: Final = np.finfo(np.float64).eps


@dataclass(frozen=True, kw_only=True, eq=False)
class MotTruth(PreparedTruth):
    """Truth with all its boxes in the order of scoring."""

    side: Side
    """Boxes of all categories."""
    is_target: Bool
    """(G,) whether the box is to be found."""
    is_distractor: Bool
    """(G,) whether a prediction matched with it is removed."""


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

    def prepare_truth(self, truth: SequenceTruth) -> MotTruth:
        """See `ScoringProtocol.prepare_truth`."""
        annotations = truth.annotations
        check_boxes(truth, annotations.frame_index, annotations.boxes_xyxy, "the truth")
        check_unique_ids(
            truth, annotations.frame_index, annotations.identity, "the truth", "identity"
        )
        # One key for all categories: predictions compete for every annotated box.
        side = make_side(
            frame_index=annotations.frame_index,
            class_index=np.zeros(len(annotations), np.int16),
            ids=annotations.identity,
            boxes=annotations.boxes_xyxy,
            rows=np.ones(len(annotations), bool),
            num_frames=truth.num_frames,
        )
        is_pedestrian = (annotations.class_index == 0) & ~annotations.ignored
        return MotTruth(
            source=truth,
            side=side,
            is_target=is_pedestrian[side.source_row],
            is_distractor=self._is_distractor(annotations)[side.source_row],
        )

    def compare(
        self, prepared: MotTruth, result: SequenceResult
    ) -> Mapping[str, Mapping[str, ClassData]]:
        """Class data without predictions on distractors; see `ScoringProtocol.compare`."""
        truth, tracks = prepared.source, result.tracks
        check_result(truth, result, 1)
        track_side = make_side(
            frame_index=tracks.frame_index,
            class_index=tracks.class_index,
            ids=tracks.track_id,
            boxes=tracks.boxes_xyxy,
            rows=np.ones(len(tracks), bool),
            num_frames=truth.num_frames,
        )
        pairs = find_pairs(prepared.side, track_side)
        is_excused = _is_matched_with(prepared.is_distractor, prepared.side, track_side, pairs)
        [data] = split_classes(
            prepared.side,
            track_side,
            pairs,
            keep_truth=prepared.is_target,
            keep_tracks=~is_excused,
            num_classes=1,
            num_frames=truth.num_frames,
        )
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
