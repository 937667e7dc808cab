"""Repaired results, by hand and by the scorer: the error is gone and everything else is there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datasets.schema import SequenceResult, SequenceTruth
from pipeline.errors import CAUSES, count_errors, find_errors
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate_sequence
from pipeline.repairs import REPAIRS, repair, with_true_identities

MakeTruth = Callable[..., SequenceTruth]
MakeResult = Callable[..., SequenceResult]
RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]

BDD100K = build_protocol(EvaluationConfig())
CAR, TRUCK = BDD100K.classes.index("car"), BDD100K.classes.index("truck")
BOX, BESIDE, FAR = (0, 0, 100, 100), (40, 0, 140, 100), (500, 0, 600, 100)


@pytest.fixture
def flawed(make_truth: MakeTruth, make_result: MakeResult) -> tuple[SequenceTruth, SequenceResult]:
    """A car in six frames: found, found under another id, and each error of boxes once."""
    truth = [(frame, 4, CAR, BOX) for frame in range(6)]
    result = [
        (0, 1, CAR, BOX),
        (0, 8, CAR, BESIDE),  # duplicate
        (0, 9, CAR, FAR),  # background
        (1, 2, CAR, BOX),  # switched
        (2, 2, CAR, BESIDE),  # badly placed
        (3, 2, TRUCK, BOX),  # mis-classed
        (4, 2, CAR, BOX),
        # missed in frame 5
    ]
    return make_truth(truth, 6), make_result(result, 6)


def _table(result: SequenceResult) -> list[tuple[Any, ...]]:
    tracks = result.tracks
    columns = (tracks.frame_index, tracks.track_id, tracks.class_index)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    boxes = map(tuple, tracks.boxes_xyxy.tolist())
    return [(*row, box) for row, box in zip(rows, boxes, strict=True)]


@pytest.mark.parametrize(
    ("cause", "changed"),
    [
        ("badly placed", {4: (2, 2, CAR, BOX)}),
        ("mis-classed", {5: (3, 2, CAR, BOX)}),
        ("duplicate", {1: None}),
        ("background", {2: None}),
        # Identity 4 is the only one, so matched boxes get 0 and the others move up by one.
        (
            "switched",
            {
                0: (0, 0, CAR, BOX),
                1: (0, 9, CAR, BESIDE),
                2: (0, 10, CAR, FAR),
                3: (1, 0, CAR, BOX),
                4: (2, 3, CAR, BESIDE),
                5: (3, 3, TRUCK, BOX),
                6: (4, 0, CAR, BOX),
            },
        ),
    ],
)
def test_only_the_cause_is_repaired(
    cause: Any, changed: dict[int, Any], flawed: tuple[SequenceTruth, SequenceResult]
) -> None:
    truth, result = flawed
    repaired = repair(cause, truth, result, find_errors(BDD100K, truth, result))
    before = _table(result)
    expected = [changed.get(row, before[row]) for row in range(len(before))]
    assert _table(repaired) == [row for row in expected if row is not None]
    assert _table(result) == before, "the original is left alone"


def test_the_scorer_finds_nothing_of_a_repaired_cause(random_sequence: RandomSequence) -> None:
    """A box taken from one duplicate may leave another: those only become fewer."""
    for seed in range(15):
        truth, result = random_sequence(f"to repair {seed}")
        found = find_errors(BDD100K, truth, result)
        before = count_errors(found.errors, 8).sum(axis=1)
        for cause in REPAIRS:
            repaired = repair(cause, truth, result, found)
            again = find_errors(BDD100K, truth, repaired)
            after = count_errors(again.errors, 8).sum(axis=1)
            index = CAUSES.index(cause)
            assert after[index].sum() == 0 or cause in ("badly placed", "duplicate"), (seed, cause)
            assert after[index].sum() <= before[index].sum(), (seed, cause)


def test_true_identities_leave_no_error_of_association(random_sequence: RandomSequence) -> None:
    truth, result = random_sequence("identities")
    found = find_errors(BDD100K, truth, result)
    repaired = repair("switched", truth, result, found)
    before, after = (
        evaluate_sequence(BDD100K, truth, r).rows["OVERALL"] for r in (result, repaired)
    )
    assert before["IDSw"] > 0
    assert after["IDSw"] == 0
    assert [after[name] for name in ("FP", "FN")] == [before[name] for name in ("FP", "FN")]
    assert after["IDF1"] > before["IDF1"]
    assert after["AssA"] > before["AssA"]


def test_negative_track_ids_do_not_meet_identities(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth = make_truth([(0, 7, CAR, BOX), (0, 3, CAR, FAR)], 1)
    tracks = make_result([(0, -5, CAR, BESIDE), (0, 0, CAR, BOX), (0, 1, CAR, FAR)], 1).tracks
    found = with_true_identities(truth.annotations, tracks, np.array([-1, 0, 1]))
    assert found.track_id.tolist() == [2, 1, 0]
