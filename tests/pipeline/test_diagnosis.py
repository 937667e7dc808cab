"""What a diagnosis says: points that add up, sentences, tables and JSON."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from datasets.schema import SequenceResult, SequenceTruth
from pipeline.diagnose import examine
from pipeline.diagnosis import Bound, Diagnosis, format_text, summarise
from pipeline.errors import CAUSES, COUNTS
from pipeline.evaluate import EvaluationConfig, build_protocol, reduce_scores
from pipeline.leaderboard import headline_numbers
from pipeline.repairs import REPAIRS

RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]
MakeDiagnosis = Callable[..., Diagnosis]

BDD100K = build_protocol(EvaluationConfig())
ABSENT = Bound(name="absent", tells="not known: why", metrics=None)


@pytest.fixture(scope="module")
def make_diagnosis() -> MakeDiagnosis:
    """A diagnosis of some sequences, its bounds invented."""

    def make(pairs: dict[str, tuple[SequenceTruth, SequenceResult]], **changes: Bound) -> Diagnosis:
        found = {name: examine(BDD100K, *pairs[name], None) for name in sorted(pairs)}
        report = reduce_scores(BDD100K, {name: one.scores for name, one in found.items()})
        bounds = {
            "result": Bound(name="it", tells="as it is", metrics=headline_numbers(report.metrics)),
            "perfect_association": ABSENT,
            "right_boxes": ABSENT,
            "true_boxes": ABSENT,
        }
        return Diagnosis(
            title="bdd100k / val",
            inputs={"tracks": "somewhere"},
            protocol=BDD100K,
            classes=BDD100K.classes,
            report=report,
            sequences={name: one.findings for name, one in found.items()},
            repaired={
                cause: reduce_scores(BDD100K, {n: one.repaired[cause] for n, one in found.items()})
                for cause in REPAIRS
            },
            **(bounds | changes),
        )

    return make


@pytest.fixture(scope="module")
def diagnosis(make_diagnosis: MakeDiagnosis, random_sequence: RandomSequence) -> Diagnosis:
    return make_diagnosis({f"seq {seed}": random_sequence(f"seq {seed}") for seed in range(4)})


def test_points_add_up_to_what_is_missing(diagnosis: Diagnosis) -> None:
    metrics = diagnosis.report.metrics
    assert diagnosis.points(diagnosis.summary_rows[0]).sum() == pytest.approx(
        100 - metrics["OVERALL"]["MOTA"], rel=1e-12
    )
    # Five classes without true boxes are 0 in the mean whatever happens.
    with_truth = int(np.count_nonzero(diagnosis.num_truth))
    assert with_truth == 3
    assert diagnosis.points(diagnosis.accuracy_rows["mMOTA"]).sum() == pytest.approx(
        100 * with_truth / 8 - metrics["AVERAGE"]["MOTA"], rel=1e-12
    )
    for name, table in diagnosis.report.sequences.items():
        points = diagnosis.points(diagnosis.summary_rows[0], name)
        assert points.sum() == pytest.approx(100 - table["OVERALL"]["MOTA"], rel=1e-12)


def test_repairs_give_back_what_the_scorer_says(diagnosis: Diagnosis) -> None:
    assert diagnosis.regained("missed", "HOTA") is None
    assert diagnosis.regained("fragmented", "IDF1") is None
    for cause in REPAIRS:
        after = diagnosis.repaired[cause].metrics["OVERALL"]["IDF1"]
        before = diagnosis.report.metrics["OVERALL"]["IDF1"]
        assert diagnosis.regained(cause, "IDF1") == after - before
    identities = diagnosis.regained("switched", "IDF1")
    assert identities is not None
    assert identities > 0


def test_the_summary_names_cause_class_and_sequence(
    make_diagnosis: MakeDiagnosis,
    make_truth: Callable[..., SequenceTruth],
    make_result: Callable[..., SequenceResult],
) -> None:
    """Ten true boxes, six of them missed: five of the car in b, one of the bus in a."""
    car, bus, box = 2, 4, (0, 0, 10, 10)
    pairs = {
        "a": (
            make_truth([(f, 1, bus, box) for f in range(3)], 3),
            make_result([(f, 1, bus, box) for f in range(2)], 3),
        ),
        "b": (
            make_truth([(f, 1, car, box) for f in range(7)], 7),
            make_result([(0, 1, car, box), (6, 2, car, box)], 7),
        ),
    }
    text = summarise(make_diagnosis(pairs))
    assert text == (
        "MOTA loses 70.0 points, most of them (60.0) to missed boxes: 83 % of these are of class "
        "car, 83 % in sequence b. "
    )


def test_the_verdict_compares_identities_with_boxes(diagnosis: Diagnosis) -> None:
    identities = diagnosis.regained("switched", "HOTA")
    present = (diagnosis.result.metrics or {})["HOTA"]
    assert identities is not None
    assert present is not None
    for more, expected in ((1.0, "detection"), (-1.0, "association")):
        hota = present + identities + more
        bound = Bound(name="true boxes", tells="", metrics={"HOTA": hota})
        text = summarise(replace(diagnosis, true_boxes=bound))
        assert f"{expected} holds it back more" in text
        assert f"by {identities:+.1f}, true boxes" in text


def test_nothing_lost(make_diagnosis: MakeDiagnosis, random_sequence: RandomSequence) -> None:
    truth, result = random_sequence("perfect")
    annotations = truth.annotations.select(~truth.annotations.crowd)
    tracks = replace(
        result.tracks,
        frame_index=annotations.frame_index,
        track_id=annotations.identity,
        detection_row=np.zeros(len(annotations), np.int32),
        boxes_xyxy=annotations.boxes_xyxy,
        scores=np.ones(len(annotations), np.float32),
        class_index=annotations.class_index,
    )
    diagnosis = make_diagnosis({"perfect": (truth, replace(result, tracks=tracks))})
    assert summarise(diagnosis) == "Nothing was lost: MOTA is 100."
    assert "missed" in format_text(diagnosis)
    json.loads(diagnosis.to_json())


def test_the_text_has_both_tables_with_the_dearest_cause_first(diagnosis: Diagnosis) -> None:
    summary, bounds, causes = format_text(diagnosis).split("\n\n")
    assert summary.startswith("MOTA loses")
    *table, first, second, third = bounds.splitlines()
    assert [line.split()[0] for line in table] == ["mMOTA", "it", *["absent"] * 3]
    assert table[2].split()[1:] == ["–"] * 8
    assert first == second == third == "absent: not known: why"
    header, *lines = causes.splitlines()
    assert header.split() == ["cause", *COUNTS, "-MOTA", "-mMOTA", "+IDF1", "+HOTA"]
    assert len(lines) == len(CAUSES)
    points = diagnosis.points(diagnosis.summary_rows[0])
    assert lines[0].startswith(CAUSES[int(points.argmax())])
    assert lines[-1].startswith("fragmented")
    assert len({len(line) for line in causes.splitlines()}) == 1, "aligned"


def test_json_holds_every_error_with_its_names(diagnosis: Diagnosis) -> None:
    content = json.loads(diagnosis.to_json())
    errors = content["errors"]
    assert len(errors) == sum(len(found.errors) for found in diagnosis.sequences.values())
    causes = {record["cause"]: record for record in content["causes"]}
    assert list(causes) == list(CAUSES)
    for cause, kind in (("missed", "FN"), ("background", "FP"), ("mis-classed", "FP")):
        boxes = sum(error["num_boxes"] for error in errors if error["cause"] == cause)
        assert boxes == causes[cause][kind]
        by_class = sum(record[cause][kind] for record in content["classes"].values())
        by_sequence = sum(
            record[cause][kind]
            for table in content["sequences"].values()
            for record in table.values()
        )
        assert boxes == by_class == by_sequence
    switch = next(error for error in errors if error["cause"] == "switched")
    assert switch["truth_class"] in BDD100K.classes
    assert switch["identity_name"] == str(switch["identity"])
    frame_name = f"{switch['sequence']}-{switch['last_frame'] + 1:07d}.jpg"
    assert switch["last_frame_name"] == frame_name
    missed = next(error for error in errors if error["cause"] == "missed")
    assert missed["track_class"] is missed["track_id"] is None
    costs = [error["num_boxes"] for error in errors if error["cause"] == "missed"]
    assert costs == sorted(costs, reverse=True)
