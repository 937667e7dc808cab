"""Diagnoses of stored results: the scores of the evaluator, bounds found or made, and refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.config_io import config_to_dict
from pipeline.diagnose import best_threshold, diagnose
from pipeline.diagnosis import Diagnosis, format_text
from pipeline.errors import CAUSES
from pipeline.evaluate import EvaluationConfig, build_protocol
from pipeline.frames import ANNOTATIONS_FILE, FrameReader, read_annotations, write_frames
from pipeline.lineage import detections_of
from pipeline.scores import read_report, score
from pipeline.store import Artefact, StoreError
from tests.diagnosis_scene import write_result
from tests.small_model import MODEL

BDD100K = build_protocol(EvaluationConfig())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artefact, Artefact]:
    """Frames and flawed tracks."""
    return write_result(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def diagnosis(stored: tuple[Artefact, Artefact]) -> Diagnosis:
    return diagnose(*stored)


def test_the_scores_are_the_evaluators(
    diagnosis: Diagnosis, stored: tuple[Artefact, Artefact]
) -> None:
    report = read_report(score(*stored, EvaluationConfig()))
    assert diagnosis.report.to_json() == report.to_json()
    assert diagnosis.title == "bdd100k / val"
    assert diagnosis.inputs["tracker"].startswith("quasi_dense (init_score_thr=0.8, ")


def test_the_errors_of_the_scene_are_found(diagnosis: Diagnosis) -> None:
    """Two sequences; see `flawed_tracks`. Boxes that overlap others may change the cause."""
    assert set(diagnosis.sequences) == {"val-0", "val-1"}
    worst = {cause: diagnosis.worst(cause) for cause in CAUSES}
    switches = [
        (error.identity, error.first_frame, error.last_frame, error.previous_track_id)
        for _, error in worst["switched"]
    ]
    assert switches == [(0, 2, 3, 10)] * 2
    assert [(error.identity, error.num_boxes) for _, error in worst["fragmented"]] == [(1, 2)] * 2
    assert (1, 2, 3) in [(e.identity, e.first_frame, e.last_frame) for _, e in worst["missed"]]
    assert (15, 5) in [(error.track_id, error.num_boxes) for _, error in worst["background"]]
    assert (2, 4, 5) in [(e.identity, e.first_frame, e.last_frame) for _, e in worst["mis-classed"]]


def test_bounds_of_association(diagnosis: Diagnosis) -> None:
    perfect, right = diagnosis.perfect_association, diagnosis.right_boxes
    assert perfect.metrics is not None
    assert right.metrics is not None
    assert "from score 0.65 on" in perfect.tells, "the duplicate and the box on nothing are out"
    assert (perfect.metrics["IDSw"], right.metrics["IDSw"], right.metrics["FP"]) == (0, 0, 0)
    motas = [bound.metrics["MOTA"] for bound in (diagnosis.result, perfect, right) if bound.metrics]
    assert motas == sorted(set(motas)), "each better than the one before"
    assert diagnosis.true_boxes.metrics is None
    assert diagnosis.true_boxes.tells.startswith("not known: the weights")


def test_the_lowest_of_the_best_thresholds_is_taken() -> None:
    at_thresholds = np.zeros((20, 8), np.int64)
    at_thresholds[:, 2], at_thresholds[:, 4] = 5, 9
    at_thresholds[6:9, 2] = 3
    # One bus fewer weighs more in the mean over classes than two cars: there are few buses.
    at_thresholds[12, 4] = 8
    num_truth = np.array([0, 0, 100, 0, 4, 0, 0, 0])
    assert best_threshold(BDD100K, at_thresholds, num_truth) == 0.6
    assert best_threshold(BDD100K, at_thresholds, num_truth * np.array([1] * 4 + [1000] * 4)) == 0.3


def test_without_detections_their_bounds_are_said_to_be_absent(tmp_path: Path) -> None:
    frames, tracks = write_result(tmp_path)
    Path(detections_of(tracks).folder, "manifest.json").unlink()
    found = diagnose(frames, tracks)
    for bound in (found.perfect_association, found.right_boxes, found.true_boxes):
        assert bound.metrics is None
        assert "no longer in the store" in bound.tells
    assert found.report.metrics["OVERALL"]["IDSw"] == 2


def test_frames_without_labels_are_refused(tmp_path: Path) -> None:
    frames, tracks = write_result(tmp_path)
    part = frames.part("val-1")
    images, truth, details = FrameReader(part).read(0, 99), read_annotations(part), part.details()
    with part.write() as writer:
        write_frames(writer, "val-1", images)
        writer.write_parquet(ANNOTATIONS_FILE, truth.to_table("val-1"))
        writer.details = {**details, "has_labels": False}
    with pytest.raises(ValueError, match=r"val-1.*without labels"):
        diagnose(frames, tracks)


def test_truth_without_a_scored_box_is_refused(tmp_path: Path) -> None:
    frames, tracks = write_result(tmp_path)
    for name in frames.sequences():
        part = frames.part(name)
        images, truth = FrameReader(part).read(0, 99), read_annotations(part)
        details = part.details()
        with part.write() as writer:
            write_frames(writer, name, images)
            ignored = replace(truth, ignored=~truth.ignored)
            writer.write_parquet(ANNOTATIONS_FILE, ignored.to_table(name))
            writer.details = details
    with pytest.raises(ValueError, match="none of its true boxes is scored"):
        diagnose(frames, tracks)


def test_other_frames_are_refused(stored: tuple[Artefact, Artefact], tmp_path: Path) -> None:
    frames, tracks = stored
    others = replace(frames, root=str(tmp_path), split="train")
    others.finish(frames.sequences(), frames.details())
    with pytest.raises(StoreError, match="frames of the split 'train'"):
        diagnose(others, tracks)


@pytest.mark.slow
def test_workers_change_nothing(
    ray_session: None, stored: tuple[Artefact, Artefact], diagnosis: Diagnosis
) -> None:
    assert diagnose(*stored, num_workers=2).to_json() == diagnosis.to_json()


@pytest.mark.slow
def test_the_network_on_true_boxes_is_run_once_and_only_when_told_to(tmp_path: Path) -> None:
    """The weights are found by their name, under whatever they were trained on."""
    from models.qdtrack.model import QDTrack
    from pipeline.model_store import MODEL_PART, keep_model

    weights = Artefact(
        root=str(tmp_path), stage="weights", dataset="other", split="train", fingerprint="w" * 16
    )
    keep_model(weights, QDTrack(MODEL))
    weights.finish([MODEL_PART], {"model": config_to_dict(MODEL)})
    frames, tracks = write_result(tmp_path)
    folder = Path(tmp_path, "detections/bdd100k/val")
    without = diagnose(frames, tracks)
    assert without.true_boxes.metrics is None
    assert "true boxes: not known: the network has not been run" in format_text(without)
    assert len(list(folder.iterdir())) == 1
    bound = diagnose(frames, tracks, run_network=True).true_boxes
    assert bound.metrics is not None
    assert bound.metrics["DetA"] == pytest.approx(100.0)
    made = sorted(folder.iterdir())
    times = [path.joinpath("manifest.json").stat().st_mtime_ns for path in made]
    again = diagnose(frames, tracks)
    assert again.true_boxes == bound
    assert "holds it back more" in json.loads(again.to_json())["summary"]
    assert [p.joinpath("manifest.json").stat().st_mtime_ns for p in made] == times
