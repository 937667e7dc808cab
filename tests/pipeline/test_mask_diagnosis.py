"""Diagnoses of stored results with masks: numbers of the evaluator, bounds, the page, the clips."""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.video import iterate_frames
from jobs import command
from jobs import diagnose as job
from models.baselines.mask_overlap import MaskOverlapConfig
from pipeline.bounds import NoBoundError, find_detections, track_truth
from pipeline.diagnose import diagnose
from pipeline.diagnosis import Bound, Diagnosis, bound_table, choose_classes, format_text, summarise
from pipeline.diagnosis_page import format_page
from pipeline.errors import CAUSES
from pipeline.evaluate import EvaluationConfig, build_protocol
from pipeline.merge_classes import merge_classes
from pipeline.render import TRUTH_COLOUR, identity_colour
from pipeline.scores import read_report, score
from pipeline.segment import take_truth
from pipeline.store import Artefact
from pipeline.videos import render_errors
from tests.mask_diagnosis_scene import write_mask_result

KITTI = build_protocol(EvaluationConfig(protocol="kitti_mots"))

Stored = tuple[Artefact, Artefact]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Frames and flawed tracks of cars."""
    return write_mask_result(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def diagnosis(stored: Stored) -> Diagnosis:
    return diagnose(*stored)


@pytest.fixture(scope="module")
def of_both(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    """Of a result that has both classes."""
    return diagnose(*write_mask_result(tmp_path_factory.mktemp("both"), with_pedestrians=True))


class TestOneClass:
    """Only cars were tracked; that pedestrians are missed is nobody's mistake."""

    def test_the_scores_are_the_evaluators(self, diagnosis: Diagnosis, stored: Stored) -> None:
        report = read_report(score(*stored, EvaluationConfig(protocol="kitti_mots")))
        assert diagnosis.report.to_json() == report.to_json()
        assert diagnosis.classes == ("car",)
        sums = dict(zip(KITTI.error_counts, diagnosis.totals.sum(axis=0).tolist(), strict=True))
        assert sums == {name: report.metrics["car"][name] for name in sums}

    def test_points_add_up_to_what_is_missing(self, diagnosis: Diagnosis) -> None:
        (row,) = diagnosis.summary_rows
        assert row.name == "car"
        missing = 100 - diagnosis.report.metrics["car"]["MOTSA"]
        assert diagnosis.points(row).sum() == pytest.approx(missing, rel=1e-12)
        assert list(diagnosis.accuracy_rows) == ["MOTSA"]
        assert list(diagnosis.repaired_metrics) == ["sMOTSA", "IDF1", "HOTA"]

    def test_every_error_of_the_scene_is_found(self, diagnosis: Diagnosis) -> None:
        found = {
            cause: [
                (name, error.first_frame, error.last_frame, error.identity, error.track_id)
                for name, error in diagnosis.worst(cause)
            ]
            for cause in CAUSES
        }
        assert found == {
            "missed": [("0000", 2, 2, 1002, None), ("0001", 1, 1, 1001, None)],
            "badly placed": [("0000", 4, 4, 1002, 12)],
            "mis-classed": [("0000", 1, 1, 2001, 13), ("0000", 3, 3, 2001, 13)],
            "duplicate": [("0000", 0, 0, None, 15)],
            "background": [("0000", 0, 2, None, 16)],
            "switched": [("0000", 1, 2, 1001, 11)],
            "fragmented": [("0001", 1, 3, 1001, 20), ("0000", 1, 2, 1001, 11)],
        }

    def test_a_repair_gives_back_its_masks_in_every_metric(self, diagnosis: Diagnosis) -> None:
        """Of 12 true cars one costs 8.33 points; a mask put right fits exactly."""
        back = {cause: diagnosis.regained(cause, "sMOTSA") for cause in CAUSES}
        assert back == {
            "missed": None,
            "badly placed": pytest.approx(2 / 12 * 100),
            "mis-classed": pytest.approx(2 / 12 * 100),
            "duplicate": pytest.approx(1 / 12 * 100),
            "background": pytest.approx(3 / 12 * 100),
            "switched": pytest.approx(1 / 12 * 100),
            "fragmented": None,
        }
        assert (diagnosis.regained("switched", "HOTA") or 0) > 0

    def test_what_it_says(self, diagnosis: Diagnosis) -> None:
        assert summarise(diagnosis) == (
            "MOTSA of car loses 91.7 points, most of them (25.0) to masks on the background: "
            "100 % of these in sequence 0000. Only car was tracked: pedestrian (3 true masks) is "
            "left out here."
        )
        text = format_text(diagnosis)
        heading = ["cause", "FN", "FP", "IDS", "Frag", "-MOTSA", "+sMOTSA", "+IDF1", "+HOTA"]
        assert heading in [line.split() for line in text.splitlines()]
        assert "pedestrian/" not in text
        assert "box" not in text

    def test_json_is_about_the_class(self, diagnosis: Diagnosis) -> None:
        content = json.loads(diagnosis.to_json())
        assert list(content["classes"]) == ["car"]
        assert content["classes"]["car"]["true masks"] == 12
        assert content["classes"]["car"]["switched"] == {"FN": 0, "FP": 0, "IDS": 1, "Frag": 0}
        causes = {record["cause"]: record for record in content["causes"]}
        assert (causes["mis-classed"]["FN"], causes["mis-classed"]["FP"]) == (0, 2)
        assert causes["background"]["repair"] == "the mask is taken out"

    def test_bounds_of_association_keep_the_masks(self, diagnosis: Diagnosis) -> None:
        names, *lines = bound_table(diagnosis)
        assert names == ["", "HOTA", "DetA", "AssA", "sMOTSA", "MOTSA", "IDF1"]
        by_name = {line[0]: dict(zip(names, line, strict=True)) for line in lines}
        assert list(by_name) == [
            *("this result", "perfect association", "the right masks only", "true masks")
        ]
        motsas = [float(line["MOTSA"]) for line in list(by_name.values())[:3]]
        assert motsas == sorted(set(motsas))
        assert motsas[2] == pytest.approx(75.0), "9 of 12 are found"

    def test_the_verdict_speaks_of_masks(self, diagnosis: Diagnosis) -> None:
        bound = Bound(name="true masks", tells="", metrics={"HOTA": 100.0})
        text = summarise(replace(diagnosis, true_boxes=bound))
        assert "true masks under the same tracker by +48.6: detection holds it back more" in text


class TestBothClasses:
    def test_each_class_has_its_own_numbers(self, of_both: Diagnosis) -> None:
        assert of_both.classes == ("car", "pedestrian")
        assert list(of_both.accuracy_rows) == ["car/MOTSA", "pedestrian/MOTSA"]
        assert of_both.left_out == {}
        assert {"car/HOTA", "pedestrian/HOTA"} <= set(of_both.bound_metrics)
        for row in of_both.summary_rows:
            missing = 100 - of_both.report.metrics[row.name]["MOTSA"]
            assert of_both.points(row).sum() == pytest.approx(missing, rel=1e-12)
        text = summarise(of_both)
        assert "MOTSA of car loses 83.3 points" in text
        assert "MOTSA of pedestrian loses 66.7 points" in text
        assert "left out" not in text

    def test_mis_classed_masks_cost_both(self, of_both: Diagnosis) -> None:
        index = CAUSES.index("mis-classed")
        points = [of_both.points(row)[index] for row in of_both.summary_rows]
        assert points == [pytest.approx(100 / 12), pytest.approx(100 / 3)]

    def test_a_sequence_has_a_line_for_each_class_that_is_in_it(self, of_both: Diagnosis) -> None:
        page = format_page(of_both, [], made_by="")
        for name, label in itertools.product(("0000", "0001"), ("car", "pedestrian")):
            assert f">{name}, {label}<" in page.replace("<wbr>", ""), (name, label)
        assert "0003, " not in page
        assert page.count("car, this result<") == page.count("pedestrian, this result<") == 1


def test_classes_that_are_looked_at() -> None:
    bdd = build_protocol(EvaluationConfig(protocol="bdd100k_mots"))
    assert choose_classes(KITTI, np.array([0, 4])) == ("pedestrian",)
    assert choose_classes(KITTI, np.array([0, 0])) == ("car", "pedestrian")
    assert choose_classes(bdd, np.array([0, 0, 4, 0, 0, 0, 0, 0])) == bdd.classes


def test_the_page_speaks_of_masks(diagnosis: Diagnosis) -> None:
    page = format_page(diagnosis, [b"video"], made_by="")
    for text in (
        *("HOTA of car, in percent", "MOTSA points of car", "true masks", "IDS", "Frag"),
        *("sMOTSA lacks 2.08 points more", "The outline of the true mask is white"),
        *(
            "a mask that overlaps by more than 0.5 a true mask of another class",
            "not part of MOTSA",
        ),
        *("Repaired: the mask is put where the true one is", "changes its track without a gap"),
        "Only car was tracked",
    ):
        assert text in page, text
    assert re.search(r"\b(box|boxes|MOTA|nan|inf)\b", page.partition("<body")[2]) is None


def test_the_job_writes_a_page_with_a_clip(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, tracks = stored
    page = tmp_path / "page.html"
    arguments = ["--tracks", tracks.folder, "--frames", frames.folder, "--out", str(page)]
    assert command.run(job.main, arguments) == 0
    assert capsys.readouterr().out.startswith("MOTSA of car loses 91.7 points")
    assert page.read_text().count("<video") == 1


def test_clips_show_masks(stored: Stored, tmp_path: Path) -> None:
    (path,) = render_errors(*stored, tmp_path, "switched", limit=5)
    pictures = [image.astype(int) for *_, image in iterate_frames(path)]
    assert path.name == "switched-001-0000-1-2.mp4"

    def share(picture: Any, track_id: int) -> float:
        """Of pixels that are nearer to a colour than to any other of the four."""
        colours = [identity_colour(10), identity_colour(11), TRUTH_COLOUR, (90, 60, 30)]
        distances = [np.abs(picture - colour).sum(axis=2) for colour in colours]
        return float((np.argmin(distances, axis=0) == track_id - 10).mean())

    assert share(pictures[0], 10) > 0.03 > share(pictures[0], 11)
    assert share(pictures[-1], 11) > 0.03 > share(pictures[-1], 10)


def _truth(frames: Artefact, tracks: Artefact, *, run_network: bool = False) -> Artefact:
    return track_truth(frames, tracks, run_network=run_network, num_workers=1, gpus_per_worker=0)


class TestTrueMasks:
    def test_without_the_weights(self, stored: Stored) -> None:
        with pytest.raises(NoBoundError, match="weights that made the detections are not in"):
            _truth(*stored)

    def test_run_once_and_only_when_told_to(self, tmp_path: Path) -> None:
        from tests.point_scene import make_embedder, store_network

        weights = store_network(tmp_path, make_embedder(), "embedder")
        frames, tracks = write_mask_result(tmp_path, weights=weights.fingerprint)
        without = diagnose(frames, tracks).true_boxes
        assert without.metrics is None
        assert "has not been run on true masks yet; --run-network" in without.tells
        bound = diagnose(frames, tracks, run_network=True).true_boxes
        assert bound.name == "true masks"
        assert bound.metrics is not None
        assert bound.metrics["DetA"] == pytest.approx(100.0), "of cars; the others are left out"
        made = sorted(tmp_path.rglob("manifest.json"))
        times = [path.stat().st_mtime_ns for path in made]
        assert diagnose(frames, tracks).true_boxes == bound, "found in the store"
        assert [path.stat().st_mtime_ns for path in made] == times
        # The bound of the bound: it would be itself.
        with pytest.raises(NoBoundError, match="itself is made from true masks"):
            _truth(frames, _truth(frames, tracks))

    def test_a_tracker_without_embeddings_needs_no_network(self, tmp_path: Path) -> None:
        frames, tracks = write_mask_result(tmp_path, association=MaskOverlapConfig())
        bound = diagnose(frames, tracks).true_boxes
        assert bound.metrics is not None
        assert bound.metrics["DetA"] == pytest.approx(100.0)
        with pytest.raises(NoBoundError, match="itself is made from true masks"):
            _truth(frames, _truth(frames, tracks))

    def test_masks_of_two_classes_have_no_network(self, tmp_path: Path) -> None:
        stored = write_mask_result(tmp_path, with_pedestrians=True)
        with pytest.raises(NoBoundError, match="of 2 classes; a network embeds masks of one"):
            _truth(*stored)

    def test_detections_without_a_network(self, tmp_path: Path) -> None:
        frames, tracks = write_mask_result(tmp_path)
        detections = find_detections(tracks)
        details = {"frames": frames.fingerprint, "segment": {}, "weights": "w" * 16}
        detections.finish(detections.sequences(), details)
        with pytest.raises(NoBoundError, match="do not say which network embedded them"):
            _truth(frames, tracks)

    def test_results_merged_from_several_have_no_detections(self, tmp_path: Path) -> None:
        from pipeline.associate import associate

        frames, cars = write_mask_result(tmp_path)
        people = associate(take_truth(frames, "pedestrian"), MaskOverlapConfig())
        merged = diagnose(frames, merge_classes([cars, people]))
        assert merged.classes == ("car", "pedestrian")
        assert merged.inputs["tracker"].startswith(f"tracks merged from {cars.fingerprint} and ")
        for bound in merged.bounds[1:]:
            assert bound.metrics is None
            assert bound.tells == (
                "not known: the result is merged from tracks of several detections; diagnose each "
                "of these"
            )


def test_a_tracked_class_without_truth_has_nothing_to_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tests.point_scene as scene

    only_people = {"0001": ({2001: (4, 20, 6, 12)},)}
    _write: Callable[..., Artefact] = scene.write_scenes
    monkeypatch.setattr(
        "tests.mask_diagnosis_scene.write_scenes", lambda root: _write(root, only_people)
    )
    frames, tracks = write_mask_result(tmp_path)
    with pytest.raises(ValueError, match="none of its true masks of car"):
        _diagnose_with_a_car(frames, tracks)


def _diagnose_with_a_car(frames: Artefact, tracks: Artefact) -> Diagnosis:
    from pipeline.associate import TRACKS_FILE, read_tracks
    from pipeline.frames import read_annotations
    from tests.mots_files import Object, tracks_of

    part = tracks.part("0001")
    assert len(read_tracks(part)) == 0
    (mask,) = read_annotations(frames.part("0001")).masks or ()
    with part.write() as writer:
        writer.write_parquet(TRACKS_FILE, tracks_of([Object(0, 1, 0, mask)]).to_table())
        writer.details = {"num_boxes": 1, "num_tracks": 1}
    return diagnose(frames, tracks)
