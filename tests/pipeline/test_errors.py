"""Causes of errors by hand, and sums that are the official counts whatever the sequence."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.registry import BENCHMARKS
from datasets.schema import SequenceResult, SequenceTruth
from pipeline.errors import (
    COUNTS,
    Error,
    SequenceErrors,
    count_errors,
    find_errors,
    match_with_truth,
)
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate

MakeTruth = Callable[..., SequenceTruth]
MakeResult = Callable[..., SequenceResult]
RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]

BDD100K = build_protocol(EvaluationConfig())
MOT15 = build_protocol(EvaluationConfig(protocol="mot15"))
CLASSES = BDD100K.classes
CAR, TRUCK = CLASSES.index("car"), CLASSES.index("truck")

BOX = (0.0, 0.0, 100.0, 100.0)
HALF_BESIDE = (40.0, 0.0, 140.0, 100.0)
"""Overlaps BOX by 60 / 140 = 0.43."""
LITTLE_BESIDE = (80.0, 0.0, 180.0, 100.0)
"""Overlaps BOX by 20 / 180 = 0.11."""
HARDLY_BESIDE = (90.0, 0.0, 190.0, 100.0)
"""Overlaps BOX by 10 / 190 = 0.05."""
FAR = (500.0, 0.0, 600.0, 100.0)


def _boxes(found: SequenceErrors) -> list[tuple[Any, ...]]:
    """Cause, row of the annotations and row of the tracks of every wrong box."""
    rows = zip(found.cause, found.truth_row.tolist(), found.track_row.tolist(), strict=True)
    return sorted(rows)


@pytest.mark.parametrize(
    ("truth", "result", "expected"),
    [
        ([], [], []),
        ([(0, 1, CAR, BOX)], [(0, 5, CAR, BOX)], []),
        ([(0, 1, CAR, BOX)], [], [("missed", 0, -1)]),
        ([], [(0, 5, CAR, BOX)], [("background", -1, 0)]),
        ([(0, 1, CAR, BOX)], [(0, 5, CAR, HALF_BESIDE)], [("badly placed", 0, 0)]),
        ([(0, 1, CAR, BOX)], [(0, 5, CAR, LITTLE_BESIDE)], [("badly placed", 0, 0)]),
        (
            [(0, 1, CAR, BOX)],
            [(0, 5, CAR, HARDLY_BESIDE)],
            [("background", -1, 0), ("missed", 0, -1)],
        ),
        ([(0, 1, CAR, BOX)], [(0, 5, TRUCK, BOX)], [("mis-classed", 0, 0)]),
        (
            [(0, 1, CAR, BOX)],
            [(0, 5, TRUCK, HALF_BESIDE)],
            [("background", -1, 0), ("missed", 0, -1)],
        ),
        ([(0, 1, CAR, BOX)], [(0, 5, CAR, BOX), (0, 6, CAR, BOX)], [("duplicate", -1, 1)]),
        (
            [(0, 1, CAR, BOX)],
            [(0, 5, CAR, BOX), (0, 6, CAR, LITTLE_BESIDE)],
            [("duplicate", -1, 1)],
        ),
        ([(0, 1, CAR, BOX)], [(0, 5, CAR, BOX), (0, 6, TRUCK, BOX)], [("duplicate", -1, 1)]),
        (
            [(0, 1, CAR, BOX)],
            [(0, 5, CAR, BOX), (0, 6, TRUCK, HALF_BESIDE)],
            [("background", -1, 1)],
        ),
        (
            [(0, 1, CAR, BOX)],
            [(0, 5, TRUCK, BOX), (0, 6, TRUCK, BOX)],
            [("duplicate", -1, 1), ("mis-classed", 0, 0)],
        ),
        (
            [(0, 1, CAR, BOX)],
            [(0, 5, CAR, LITTLE_BESIDE), (0, 6, CAR, HALF_BESIDE)],
            [("badly placed", 0, 1), ("duplicate", -1, 0)],
        ),
        # The best overlap is with the car that is found: it is one more box on that one.
        (
            [(0, 1, CAR, BOX), (0, 2, CAR, (150.0, 0.0, 250.0, 100.0))],
            [(0, 5, CAR, BOX), (0, 6, CAR, (45.0, 0.0, 180.0, 100.0))],
            [("duplicate", -1, 1), ("missed", 1, -1)],
        ),
        (
            [(0, 1, CAR, BOX), (0, 2, TRUCK, BOX)],
            [(0, 5, TRUCK, HALF_BESIDE), (0, 6, TRUCK, BOX)],
            [("duplicate", -1, 0), ("missed", 0, -1)],
        ),
        ([(0, 1, CAR, BOX, "crowd")], [(0, 5, CAR, BOX), (0, 6, TRUCK, BOX)], []),
        ([(0, 1, CAR, BOX), (1, 1, CAR, BOX)], [(1, 5, CAR, BOX)], [("missed", 0, -1)]),
    ],
    ids=[
        *("nothing", "perfect", "missed", "background", "badly placed", "hardly on it"),
        *("too far to be meant", "mis-classed", "another class and badly placed", "duplicate"),
        *("a duplicate badly placed", "a duplicate of another class"),
        *("another class beside a found one", "twice the wrong class", "twice badly placed"),
        *("nearer to a found one", "beside its own class that is found", "excused"),
        "another frame",
    ],
)
def test_each_wrong_box_has_its_cause(
    truth: Sequence[Any],
    result: Sequence[Any],
    expected: list[Any],
    make_truth: MakeTruth,
    make_result: MakeResult,
) -> None:
    found = find_errors(BDD100K, make_truth(truth, 2), make_result(result, 2))
    assert _boxes(found) == expected


def _track(frames: range, track: int, box: Any = BOX, label: int = CAR) -> list[Any]:
    return [(frame, track, label, box) for frame in frames]


def test_boxes_of_consecutive_frames_are_one_error(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth = make_truth(_track(range(10), 1), 10)
    result = make_result([*_track(range(3, 5), 7), *_track(range(8), 9, FAR)], 10)
    found = find_errors(BDD100K, truth, result)
    missed = Error(
        cause="missed", first_frame=0, last_frame=2, num_boxes=3, truth_class=CAR, identity=1
    )
    assert found.errors == (
        Error(
            cause="background",
            first_frame=0,
            last_frame=7,
            num_boxes=8,
            track_class=CAR,
            track_id=9,
        ),
        replace(missed, first_frame=5, last_frame=9, num_boxes=5),
        missed,
    )


def test_a_switch_names_both_tracks_and_both_frames(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    """Four boxes, a gap of two frames, three boxes under another id, then the first id again."""
    truth = make_truth(_track(range(10), 1), 10)
    tracks = [*_track(range(4), 7), *_track(range(6, 9), 8), *_track(range(9, 10), 7)]
    found = find_errors(BDD100K, truth, make_result(tracks, 10))
    switches = [error for error in found.errors if error.cause == "switched"]
    assert [
        (e.first_frame, e.last_frame, e.previous_track_id, e.track_id, e.num_boxes, e.identity)
        for e in switches
    ] == [(3, 6, 7, 8, 3, 1), (8, 9, 8, 7, 1, 1)]
    [fragment] = [error for error in found.errors if error.cause == "fragmented"]
    assert (fragment.first_frame, fragment.last_frame, fragment.num_boxes) == (3, 6, 2)


def test_a_frame_without_the_identity_is_no_gap(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    rows = [*_track(range(3), 1), *_track(range(5, 8), 1)]
    found = find_errors(BDD100K, make_truth(rows, 8), make_result(rows, 8))
    assert found.errors == ()


def test_matches_are_named_by_the_rows_of_the_records(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    """Rows are stored in any order, and boxes of crowds and false ones lie between."""
    truth = make_truth(
        [(1, 4, TRUCK, FAR), (0, 9, CAR, BOX, "crowd"), (0, 4, TRUCK, FAR), (1, 1, CAR, BOX)], 2
    )
    result = make_result(
        [(1, 3, CAR, BOX), (1, 2, CAR, FAR), (0, 8, CAR, BOX), (0, 6, TRUCK, FAR)], 2
    )
    matched, missed, false = match_with_truth(BDD100K, truth, result)
    assert matched.tolist() == [3, -1, -1, 2]
    assert (missed[CAR], missed[TRUCK], false[CAR], false[TRUCK]) == (0, 1, 1, 0)
    found = find_errors(BDD100K, truth, result)
    assert found.matched_truth.tolist() == [3, -1, -1, 2]
    assert _boxes(found) == [("mis-classed", 0, 1)]


def _check_against_scores(
    protocol: Any, truths: dict[str, SequenceTruth], results: dict[str, SequenceResult]
) -> Counter[str]:
    """Compare with the evaluator, class by class and sequence by sequence; gives the totals."""
    report = evaluate(protocol, truths, results)
    total: Counter[str] = Counter()
    for name, table in report.sequences.items():
        found = find_errors(protocol, truths[name], results[name])
        by_class = count_errors(found.errors, len(protocol.classes)).sum(axis=0)
        for label, counts in zip(protocol.classes, by_class.tolist(), strict=True):
            official = {"FM" if k == "Frag" else k: v for k, v in table[label].items()}
            assert counts == [official[count] for count in COUNTS], (name, label)
            total += Counter(dict(zip(COUNTS, counts, strict=True)))
        total += Counter(error.cause for error in found.errors)
    return total


def test_sums_are_the_official_counts(random_sequence: RandomSequence) -> None:
    names = [f"random {seed}" for seed in range(40)]
    pairs = {name: random_sequence(name) for name in names}
    total = _check_against_scores(
        BDD100K, {n: p[0] for n, p in pairs.items()}, {n: p[1] for n, p in pairs.items()}
    )
    assert set(total) == {
        *("FN", "FP", "IDSw", "FM", "missed", "badly placed", "mis-classed", "duplicate"),
        *("background", "switched", "fragmented"),
    }


def test_sums_are_those_of_motchallenge_too(random_sequence: RandomSequence) -> None:
    names = [f"one class {seed}" for seed in range(20)]
    pairs = {name: random_sequence(name, num_classes=1) for name in names}
    total = _check_against_scores(
        MOT15, {n: p[0] for n, p in pairs.items()}, {n: p[1] for n, p in pairs.items()}
    )
    assert min(total[count] for count in ("FN", "FP", "IDSw", "FM")) > 0
    assert total["mis-classed"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_names_and_order_of_rows_do_not_matter(seed: int, random_sequence: RandomSequence) -> None:
    """Another file order may break ties of the matching in another way; these have none."""
    truth, result = random_sequence(f"shuffled {seed}")
    order = np.random.default_rng(seed).permutation(len(result.tracks))
    tracks = result.tracks.select(order)
    tracks = replace(tracks, track_id=tracks.track_id + 1000)
    again = find_errors(
        BDD100K, truth, SequenceResult(name=result.name, tracks=tracks, num_frames=30)
    )
    found = find_errors(BDD100K, truth, result)
    assert Counter((e.cause, e.first_frame, e.num_boxes, e.identity) for e in again.errors) == (
        Counter((e.cause, e.first_frame, e.num_boxes, e.identity) for e in found.errors)
    )


@pytest.mark.parametrize(
    ("benchmark", "truth", "results"),
    [
        ("bdd100k", "bdd100k_box_track/gt.json", "bdd100k_box_track/results.json"),
        ("mot15", "mot15_demo/gt", "mot15_demo/results/data"),
    ],
)
def test_sums_are_the_official_counts_of_real_tracks(
    benchmark: str, truth: str, results: str, shared: Path
) -> None:
    reader = BENCHMARKS[benchmark]
    total = _check_against_scores(
        build_protocol(EvaluationConfig(protocol=benchmark)),
        reader.read_truth(shared / "data" / truth),
        reader.read_results(shared / "data" / results),
    )
    published = {"bdd100k": (126, 942, 45, 66), "mot15": (58, 602, 14, 13)}
    assert tuple(total[name] for name in ("FP", "FN", "IDSw", "FM")) == published[benchmark]
