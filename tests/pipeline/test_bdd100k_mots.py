"""BDD100K's segmentation tracking: the rules of its boxes, on masks."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from datasets.masks import mask_boxes
from datasets.schema import SequenceResult, SequenceTruth
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate
from tests.mots_files import Object, random_scene, rectangle, result_of, strip, truth_of

MASKS = build_protocol(EvaluationConfig(protocol="bdd100k_mots"))
BOXES = build_protocol(EvaluationConfig(protocol="bdd100k"))


def _report(truth: Sequence[Object], result: Sequence[Object], num_frames: int = 1) -> Any:
    return evaluate(
        MASKS, {"0001": truth_of(truth, num_frames)}, {"0001": result_of(result)}
    ).metrics


def test_rows_and_columns() -> None:
    truth, result = random_scene(2)
    metrics = _report(truth, result, 25)
    assert list(metrics) == [row.name for row in BOXES.rows]
    names = ["HOTA", "DetA", "AssA", "MOTSA", "MOTSP", "IDF1"]
    names += ["FP", "FN", "IDSw", "MT", "PT", "ML", "FM"]
    assert list(metrics["OVERALL"]) == list(metrics["AVERAGE"]) == names
    pooled, by_class = metrics["OVERALL"], metrics["AVERAGE"]
    assert by_class["MOTSA"] == pytest.approx(
        sum(metrics[name]["MOTSA"] for name in MASKS.classes[:2]) / 8
    )
    assert [pooled[name] for name in names[6:]] == [by_class[name] for name in names[6:]]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rectangular_masks_score_like_their_boxes(seed: int) -> None:
    """Masks that fill their boxes overlap as the boxes do, so both protocols must agree."""
    rng = np.random.default_rng(seed)
    truth: list[Object] = []
    result: list[Object] = []
    for frame in range(12):
        for place in range(4):  # side by side, so that no mask covers another
            left, noise = 24 * place, rng.integers(0, 5, 4)
            kind = place % 2 if place < 3 else -1  # the last one is ignored
            if rng.random() < 0.8:
                truth.append(Object(frame, place, kind, rectangle(4, left + 4, 24, left + 18)))
            box = (2 + noise[0], left + 1 + noise[1], 20 + noise[2], left + 15 + noise[3])
            if rng.random() < 0.8:
                track = place + 10 * (frame // 5)
                result.append(Object(frame, track, place % 2, rectangle(*box)))
    truths, results = {"0001": truth_of(truth, 12)}, {"0001": result_of(result)}
    found, expected = (evaluate(rules, truths, results).metrics for rules in (MASKS, BOXES))
    names = {"MOTSA": "MOTA", "MOTSP": "MOTP"}
    for row, numbers in found.items():
        for name, value in numbers.items():
            other = expected[row][names.get(name, name)]
            assert value == pytest.approx(other, rel=1e-12, nan_ok=True), (row, name)
    assert found["OVERALL"]["FP"] > 0
    assert found["OVERALL"]["IDSw"] > 0


def test_an_iou_of_exactly_one_half_matches() -> None:
    truth = [Object(0, 1, 0, strip(0, 20))]
    assert _report(truth, [Object(0, 1, 0, strip(0, 10))])["pedestrian"]["FP"] == 0
    assert _report(truth, [Object(0, 1, 0, strip(0, 9))])["pedestrian"]["FP"] == 1


def test_ignored_masks_do_not_add_up() -> None:
    halves = [Object(0, 8, -1, strip(40, 45)), Object(0, 9, -1, strip(45, 50))]
    found = [Object(0, 1, 0, strip(40, 50))]
    assert _report(halves, found)["pedestrian"]["FP"] == 1
    assert _report([Object(0, 8, -1, strip(40, 46))], found)["pedestrian"]["FP"] == 0


def test_a_match_is_not_excused_by_what_covers_it() -> None:
    """Truth of this benchmark may overlap, so matching comes first."""
    truth = [Object(0, 1, 0, strip(0, 20)), Object(0, 8, -1, strip(0, 30))]
    numbers = _report(truth, [Object(0, 1, 0, strip(0, 20))])["pedestrian"]
    assert (numbers["FP"], numbers["FN"]) == (0, 0)


def test_a_frame_with_overlapping_masks_loses_all_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    truth = [Object(frame, 1, 0, strip(0, 20)) for frame in range(3)]
    result = [Object(frame, 1, 0, strip(0, 20)) for frame in range(3)]
    result.append(Object(1, 2, 1, strip(19, 30)))
    with caplog.at_level(logging.WARNING):
        metrics = _report(truth, result, 3)
    assert (metrics["pedestrian"]["FN"], metrics["rider"]["FP"]) == (1, 0)
    assert "masks of the result overlap in 1 frames, first in frame index 1" in caplog.text
    assert "lose all their 2 masks" in caplog.text


def test_a_sequence_without_result_counts_as_empty() -> None:
    truths = {name: truth_of([Object(0, 1, 0, strip(0, 9))], 1, name=name) for name in "ab"}
    result = result_of([Object(0, 1, 0, strip(0, 9))], name="a")
    metrics = evaluate(MASKS, truths, {"a": result}).metrics
    assert metrics["pedestrian"]["MOTSA"] == 50.0


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([Object(0, 1, 8, strip(0, 9))], "track 1 has class index 8, expected 0 to 7"),
        ([Object(0, 1, 0, rectangle(0, 0, 1, 9, (9, 96)))], r"mask of \[9, 96\] pixels"),
    ],
)
def test_results_that_cannot_be_scored_are_refused(result: Sequence[Object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _report([Object(0, 1, 0, strip(0, 9))], result)


def test_boxes_without_masks_are_refused() -> None:
    truth: SequenceTruth = truth_of([], 1)
    tracks = dataclasses.replace(result_of([Object(0, 1, 0, strip(0, 9))]).tracks, masks=None)
    assert mask_boxes([strip(0, 9)]).tolist() == tracks.boxes_xyxy.tolist()
    with pytest.raises(ValueError, match="the result: holds boxes without masks"):
        evaluate(MASKS, {"a": truth}, {"a": SequenceResult(name="a", tracks=tracks)})
