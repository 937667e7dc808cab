"""Reports: rows, missing pieces, and the same bytes however the work is divided."""

import dataclasses
import json
import logging
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.schema import SequenceResult, SequenceTruth
from pipeline.evaluate import (
    EvaluationConfig,
    build_protocol,
    evaluate,
    evaluate_items,
    evaluate_sequence,
    format_table,
    reduce_scores,
)

MakeTruth = Callable[..., SequenceTruth]
MakeResult = Callable[..., SequenceResult]
RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]
Pair = tuple[SequenceTruth, SequenceResult]

BDD100K = build_protocol(EvaluationConfig())
CLASSES = (*("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),)
ROWS = (*CLASSES, "human", "vehicle", "bike", "AVERAGE", "OVERALL")
COUNTS = ("FP", "FN", "IDSw", "MT", "PT", "ML", "FM")
BOX = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 0.0, 60.0, 10.0)


@pytest.fixture(scope="module")
def sequences(random_sequence: RandomSequence) -> dict[str, Pair]:
    return {name: random_sequence(name) for name in ("b", "a", "d", "c", "e")}


def _report_of(sequences: dict[str, Pair], **options: Any) -> Any:
    truths = {name: pair[0] for name, pair in sequences.items()}
    results = {name: pair[1] for name, pair in sequences.items()}
    return evaluate(BDD100K, truths, results, **options)


def test_rows_and_columns(sequences: dict[str, Pair]) -> None:
    report = json.loads(_report_of(sequences).to_json())
    assert tuple(report["metrics"]) == ROWS
    names = {"HOTA", "DetA", "AssA", "MOTA", "MOTP", "IDF1", *COUNTS}
    for table in (report["metrics"], *report["sequences"].values()):
        assert tuple(table) == ROWS
        assert all(numbers.keys() == names for numbers in table.values())
    assert list(report["sequences"]) == ["a", "b", "c", "d", "e"]
    assert report["evaluator"]["protocol"] == "bdd100k"


def test_counts_add_up(sequences: dict[str, Pair]) -> None:
    report = _report_of(sequences)
    for name in COUNTS:
        by_class = sum(report.metrics[row][name] for row in CLASSES)
        by_group = sum(report.metrics[row][name] for row in ("human", "vehicle", "bike"))
        by_sequence = sum(table["OVERALL"][name] for table in report.sequences.values())
        overall = report.metrics["OVERALL"][name]
        assert by_class == by_group == by_sequence == overall == report.metrics["AVERAGE"][name]


def test_classes_with_one_side_or_none(make_truth: MakeTruth, make_result: MakeResult) -> None:
    """Car is perfect, truck only missed, train only invented; the other five do not occur."""
    truth = make_truth([(0, 1, 2, BOX), (1, 1, 2, BOX), (0, 2, 3, FAR)], 2)
    result = make_result([(0, 1, 2, BOX), (1, 1, 2, BOX), (1, 9, 5, FAR)], 2)
    metrics = json.loads(evaluate(BDD100K, {"a": truth}, {"a": result}).to_json())["metrics"]
    found = {
        row: [metrics[row][name] for name in ("HOTA", "MOTA", "MOTP", "IDF1", "FP", "FN")]
        for row in ("car", "truck", "train", "bus", "AVERAGE", "OVERALL")
    }
    assert found == {
        "car": [100.0, 100.0, 100.0, 100.0, 0, 0],
        "truck": [0.0, 0.0, None, 0.0, 0, 1],
        "train": [0.0, None, None, 0.0, 1, 0],  # MOTA is -inf: minus infinity counts as 0
        "bus": [0.0, None, None, None, 0, 0],
        "AVERAGE": [12.5, 12.5, 12.5, 12.5, 1, 1],
        # TP 2, FN 1, FP 1 of 3 targets and 3 predictions.
        "OVERALL": pytest.approx([100 * 0.5**0.5, 100 / 3, 100.0, 400 / 6, 1, 1]),
    }


def test_frames_with_crowd_only_and_an_all_empty_sequence(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth = make_truth([(0, 1, 2, BOX, "crowd"), (1, 2, 3, BOX, "ignored")], 3)
    result = make_result([(0, 1, 2, BOX), (1, 1, 2, BOX)], 3)
    metrics = evaluate(BDD100K, {"a": truth}, {"a": result}).metrics
    assert all(metrics["OVERALL"][name] == 0 for name in COUNTS)
    assert metrics["AVERAGE"]["MOTA"] == 0.0
    assert np.isnan(metrics["OVERALL"]["MOTA"])


def test_a_sequence_without_result_counts_as_empty_with_a_warning(
    sequences: dict[str, Pair], caplog: pytest.LogCaptureFixture
) -> None:
    truths = {name: pair[0] for name, pair in sequences.items()}
    with caplog.at_level(logging.WARNING):
        report = evaluate(BDD100K, truths, {"a": sequences["a"][1]})
    assert "no result for 4 of 5 sequences, scored as empty: b and 3 more" in caplog.text
    overall = report.sequences["b"]["OVERALL"]
    num_targets = int((~truths["b"].annotations.crowd).sum())
    assert (overall["FP"], overall["FN"], overall["HOTA"]) == (0, num_targets, 0.0)
    assert report.metrics["OVERALL"]["FN"] > num_targets > 0


def test_an_unknown_sequence_is_refused(sequences: dict[str, Pair]) -> None:
    truth, result = sequences["a"]
    with pytest.raises(ValueError, match=r"results name the sequence 'z', .* for example 'a'"):
        evaluate(BDD100K, {"a": truth}, {"z": result})


def test_another_number_of_frames_is_refused_by_name(sequences: dict[str, Pair]) -> None:
    truth, result = sequences["c"]
    shorter = dataclasses.replace(result, num_frames=29)
    with pytest.raises(ValueError, match=r"sequence 'c': the result lists 29 frames"):
        evaluate(BDD100K, {"c": truth}, {"c": shorter})


def test_truth_without_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="no sequence to score"):
        evaluate(BDD100K, {}, {})


def test_ids_and_order_of_rows_do_not_matter(sequences: dict[str, Pair]) -> None:
    """Renaming ids and shuffling rows moves floats by rounding at most, counts not at all."""
    rng = np.random.default_rng(0)
    changed = {}
    for name, (truth, result) in sequences.items():
        annotations = truth.annotations.select(rng.permutation(len(truth.annotations)))
        order = rng.permutation(len(result.tracks))
        tracks = result.tracks.select(order)
        names = rng.permutation(100_000)
        changed[name] = (
            dataclasses.replace(
                truth,
                annotations=dataclasses.replace(annotations, identity=7000 - annotations.identity),
            ),
            dataclasses.replace(
                result, tracks=dataclasses.replace(tracks, track_id=names[tracks.track_id])
            ),
        )
    _assert_same_scores(_report_of(changed).metrics, _report_of(sequences).metrics)


def test_a_further_empty_frame_changes_nothing(sequences: dict[str, Pair]) -> None:
    longer = {
        name: (
            dataclasses.replace(truth, frame_names=(*truth.frame_names, "extra.jpg")),
            dataclasses.replace(result, num_frames=31),
        )
        for name, (truth, result) in sequences.items()
    }
    assert _report_of(longer).to_json() == _report_of(sequences).to_json()


def _assert_same_scores(found: Any, expected: Any) -> None:
    for row, numbers in expected.items():
        for name, value in numbers.items():
            if isinstance(value, int):
                assert found[row][name] == value, (row, name)
            else:
                close = pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True)
                assert found[row][name] == close, (row, name)


def test_the_order_of_sequences_does_not_change_a_bit(sequences: dict[str, Pair]) -> None:
    scores = {name: evaluate_sequence(BDD100K, *pair) for name, pair in sequences.items()}
    backwards = dict(reversed(scores.items()))
    expected = reduce_scores(BDD100K, scores)
    found = reduce_scores(BDD100K, backwards)
    assert found.to_json() == expected.to_json()
    assert pickle.dumps(found.curves) == pickle.dumps(expected.curves)


def test_scoring_twice_gives_the_same_bytes(sequences: dict[str, Pair]) -> None:
    once, twice = (pickle.dumps(evaluate_sequence(BDD100K, *sequences["a"])) for _ in range(2))
    assert once == twice


def test_scores_that_travel_are_small(sequences: dict[str, Pair]) -> None:
    assert len(pickle.dumps(evaluate_sequence(BDD100K, *sequences["a"]))) < 50_000


class DieOnce:
    """Kills its own process the first time a sequence of name c is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __call__(self, pair: Pair) -> Pair:
        if pair[0].name == "c" and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return pair


@pytest.mark.slow
def test_any_number_of_workers_and_a_killed_one_give_the_same_bytes(
    sequences: dict[str, Pair], ray_session: None, tmp_path: Path
) -> None:
    alone = _report_of(sequences).to_json()
    assert _report_of(sequences, num_workers=2).to_json() == alone
    marker = tmp_path / "died"
    report = evaluate_items(BDD100K, sequences, load=DieOnce(marker), num_workers=2)
    assert marker.exists()
    assert report.to_json() == alone


@pytest.mark.slow
def test_an_error_on_a_worker_names_sequence_and_frame(
    sequences: dict[str, Pair], ray_session: None
) -> None:
    truth, result = sequences["c"]
    boxes = result.tracks.boxes_xyxy.copy()
    boxes[0, 0] = np.nan
    tracks = dataclasses.replace(result.tracks, boxes_xyxy=boxes)
    broken = dataclasses.replace(result, tracks=tracks)
    with pytest.raises(ValueError, match=r"^sequence 'c', frame index \d+ \(c-.*\): .* finite"):
        _report_of({**sequences, "c": (truth, broken)}, num_workers=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "kitti"}, "evaluation.protocol is 'kitti'"),
        ({"box_convention": "other"}, "evaluation.box_convention is 'other'"),
        ({"protocol": "mot17", "box_convention": "stock"}, "only bdd100k knows"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**settings)


def test_table_is_aligned() -> None:
    rows = {"car": {"MOTA": 12.34567, "FP": 3}, "a long name": {"MOTA": float("nan"), "FP": 1234}}
    assert format_table(rows).splitlines() == [
        "               MOTA    FP",
        "car          12.346     3",
        "a long name       -  1234",
    ]
