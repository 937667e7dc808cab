"""Resampling against its definition: every drawn sequence once more under a fresh name."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datasets.registry import BENCHMARKS
from datasets.schema import SequenceResult, SequenceTruth
from pipeline.confidence import (
    NUM_RESAMPLES,
    ResultFields,
    compare,
    draw,
    intervals,
    resampled_numbers,
)
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate_sequence
from pipeline.leaderboard import headline_numbers
from pipeline.metrics.protocol import ScoringProtocol
from tests.mots_files import random_scene, result_of, truth_of

RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]

BDD100K = build_protocol(EvaluationConfig())
MOT17 = build_protocol(EvaluationConfig(protocol="mot17"))
KITTI_MOTS = build_protocol(EvaluationConfig(protocol="kitti_mots"))
BOTH_RULES = pytest.mark.parametrize("protocol", [BDD100K, MOT17], ids=lambda rules: rules.name)


@pytest.fixture(scope="module")
def mask_fields() -> ResultFields:
    """Five sequences of masks, one of them without a single track."""
    fields = {}
    for index in range(5):
        truth, result = random_scene(index, 12)
        name = f"s{index}"
        scores = evaluate_sequence(
            KITTI_MOTS,
            truth_of(truth, 12, name=name),
            result_of(result if index else [], name=name),
        )
        fields[name] = scores.fields
    return fields


def test_classes_that_are_never_put_together_are_resampled_each(mask_fields: ResultFields) -> None:
    counts = draw(5, 6)
    found = resampled_numbers(KITTI_MOTS, mask_fields, counts)
    for index, row in enumerate(counts.tolist()):
        expected = by_definition(KITTI_MOTS, mask_fields, row)
        assert found.keys() == expected.keys()
        assert {name: values[index] for name, values in found.items()} == pytest.approx(expected)
    assert intervals(KITTI_MOTS, mask_fields, 20).keys() == found.keys()


@pytest.fixture(scope="module")
def fields(random_sequence: RandomSequence) -> dict[str, dict[str, ResultFields]]:
    """Nine sequences under both rules, one of them without a single track."""

    def score(protocol: ScoringProtocol, index: int) -> Any:
        num_classes = 3 if protocol is BDD100K else 1
        truth, result = random_sequence(f"s{index}", num_classes=num_classes)
        if index == 4:
            empty = result.tracks.empty()
            result = SequenceResult(name=truth.name, tracks=empty, num_frames=result.num_frames)
        return evaluate_sequence(protocol, truth, result).fields

    return {
        protocol.name: {f"s{index}": score(protocol, index) for index in range(9)}
        for protocol in (BDD100K, MOT17)
    }


def by_definition(
    protocol: ScoringProtocol, scores: ResultFields, counts: list[int]
) -> dict[str, Any]:
    repeated = {
        f"{name} {copy}": scores[name]
        for name, count in zip(sorted(scores), counts, strict=True)
        for copy in range(count)
    }
    combined = protocol.combine_sequences(repeated)
    return headline_numbers(
        {
            row.name: protocol.numbers(row, protocol.combine_classes(row, combined))
            for row in protocol.rows
        }
    )


@BOTH_RULES
def test_a_resample_is_the_combination_of_repeated_sequences(
    protocol: ScoringProtocol, fields: dict[str, ResultFields]
) -> None:
    scores = fields[protocol.name]
    # Also those that hardly ever come: all the same sequence, the one without tracks among them.
    counts = np.concatenate([draw(9, 30), 9 * np.eye(9, dtype=int)])
    found = resampled_numbers(protocol, scores, counts)
    for index, row in enumerate(counts.tolist()):
        expected = by_definition(protocol, scores, row)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert found[name][index] == pytest.approx(value, rel=1e-12, nan_ok=True), name


@BOTH_RULES
def test_drawing_everything_once_gives_the_score_itself(
    protocol: ScoringProtocol, fields: dict[str, ResultFields]
) -> None:
    scores = fields[protocol.name]
    found = resampled_numbers(protocol, scores, np.ones((1, 9), int))
    assert {name: value[0] for name, value in found.items()} == pytest.approx(
        by_definition(protocol, scores, [1] * 9), rel=1e-12
    )


def test_draws_are_fair_and_the_same_everywhere() -> None:
    counts = draw(10, 5000)
    assert (counts.sum(axis=1) == 10).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(10), abs=0.05)
    # Binomial with n = 10, p = 0.1: a sequence is in a resample with probability 1 - 0.9 ** 10.
    assert (counts > 0).mean() == pytest.approx(1 - 0.9**10, abs=0.01)
    assert (draw(10, 5000) == counts).all()


@BOTH_RULES
def test_intervals_hold_the_middle_of_the_resamples(
    protocol: ScoringProtocol, fields: dict[str, ResultFields]
) -> None:
    scores = fields[protocol.name]
    found = intervals(protocol, scores)
    samples = resampled_numbers(protocol, scores, draw(9, NUM_RESAMPLES))
    assert found.keys() == samples.keys()
    for name, (low, high) in found.items():
        between = np.mean((samples[name] > low) & (samples[name] < high))
        at_the_ends = np.mean((samples[name] == low) | (samples[name] == high))  # counts
        assert between < 0.951, name
        assert between + at_the_ends > 0.949, name
        assert low <= by_definition(protocol, scores, [1] * 9)[name] <= high, name


def test_intervals_do_not_depend_on_the_order_of_sequences(
    fields: dict[str, ResultFields],
) -> None:
    scores = fields["bdd100k"]
    backwards = {name: scores[name] for name in reversed(scores)}
    assert intervals(BDD100K, backwards, 50) == intervals(BDD100K, scores, 50)


def test_equal_sequences_have_intervals_of_no_width(fields: dict[str, ResultFields]) -> None:
    scores = {f"copy {index}": fields["bdd100k"]["s0"] for index in range(5)}
    for name, (low, high) in intervals(BDD100K, scores, 50).items():
        assert low == pytest.approx(high), name


def test_one_sequence_has_no_interval(fields: dict[str, ResultFields]) -> None:
    alone = {"s0": fields["bdd100k"]["s0"]}
    assert intervals(BDD100K, alone) == {}
    difference = compare(BDD100K, alone, alone)["mMOTA"]
    assert difference.first == difference.second
    assert (difference.interval, difference.share_ahead) == (None, None)


def test_a_metric_without_a_value_somewhere_has_no_interval(
    fields: dict[str, ResultFields],
) -> None:
    # Without tracks MOTP has no value, and some resample holds nothing but such sequences.
    scores = fields["bdd100k"]
    found = intervals(BDD100K, {"a": scores["s0"], "b": scores["s4"]})
    assert "MOTP" not in found
    assert "MOTA" in found
    nothing, something = dict.fromkeys("ab", scores["s4"]), dict.fromkeys("ab", scores["s0"])
    difference = compare(BDD100K, nothing, something, 20)
    assert difference["MOTP"].interval is None
    assert math.isnan(difference["MOTP"].first)


def test_a_comparison_uses_the_same_resamples_for_both(fields: dict[str, ResultFields]) -> None:
    ours = fields["bdd100k"]
    # The same tracker, shifted: only the names of the sequences are exchanged.
    theirs = dict(zip(ours, [*list(ours.values())[1:], ours["s0"]], strict=True))
    found = compare(BDD100K, ours, theirs, 200)
    counts = draw(9, 200)
    samples = [resampled_numbers(BDD100K, scores, counts) for scores in (ours, theirs)]
    for name, difference in found.items():
        values = samples[0][name] - samples[1][name]
        assert difference.interval == pytest.approx(np.quantile(values, [0.025, 0.975])), name
    assert found["MOTA"].first == pytest.approx(found["MOTA"].second), "the same sequences"


def test_a_result_is_level_with_itself(fields: dict[str, ResultFields]) -> None:
    scores = fields["bdd100k"]
    for difference in compare(BDD100K, scores, scores, 20).values():
        assert difference.interval == (0, 0)
        assert difference.share_ahead == 0.5


def test_ahead_means_more_of_a_score_and_less_of_an_error(
    random_sequence: RandomSequence,
) -> None:
    ours, theirs = {}, {}
    for index in range(4):
        truth, result = random_sequence(f"s{index}")
        half = np.flatnonzero(result.tracks.track_id < 10_000)
        fewer = result.tracks.select(half)
        better = SequenceResult(name=truth.name, tracks=fewer, num_frames=result.num_frames)
        ours[truth.name] = evaluate_sequence(BDD100K, truth, better).fields
        theirs[truth.name] = evaluate_sequence(BDD100K, truth, result).fields
    found = compare(BDD100K, ours, theirs, 50)
    assert found["FP"].first < found["FP"].second
    assert found["FP"].share_ahead == 1
    assert found["MOTA"].share_ahead == 1
    backwards = compare(BDD100K, theirs, ours, 50)
    assert backwards["MOTA"].share_ahead == 0
    low, high = found["MOTA"].interval or (0, 0)
    assert backwards["MOTA"].interval == pytest.approx((-high, -low))
    assert 0 < low < found["MOTA"].first - found["MOTA"].second < high


def test_results_of_other_sequences_are_not_compared(fields: dict[str, ResultFields]) -> None:
    ours = fields["bdd100k"]
    theirs = {name: scores for name, scores in ours.items() if name != "s3"}
    with pytest.raises(ValueError, match=r"9 and 8 sequences, not the same ones: .* has 's3'"):
        compare(BDD100K, ours, theirs)


def test_a_whole_benchmark_takes_seconds(fields: dict[str, ResultFields]) -> None:
    """200 sequences, 8 classes, 1000 resamples: adding up each alone would take minutes."""
    scores = {f"{index:03d}": fields["bdd100k"][f"s{index % 9}"] for index in range(200)}
    assert len(BENCHMARKS["bdd100k"].classes) == 8
    started = time.perf_counter()
    assert intervals(BDD100K, scores)
    assert time.perf_counter() - started < 10  # 0.6 s on a free core
