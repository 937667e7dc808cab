"""jobs.sweep as a person types it: found settings, files, MLflow, and the same for any workers."""

import contextlib
import io
import json
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from datasets.schema import SequenceTruth
from jobs import command, evaluate, export, sweep
from pipeline.associate import associate
from pipeline.frames import read_truth
from pipeline.leaderboard import headline_numbers
from pipeline.overrides import apply_overrides, read_overrides
from pipeline.recipes import find_recipe
from pipeline.runlog import RunLog
from pipeline.search.options import SweepOptions
from pipeline.search.proposals import SAMPLERS
from pipeline.search.ranking import best_trials
from pipeline.search.study import FinishedTrial, Study
from tests.sweep_scene import CLASSES, Stored, write_store

pytestmark = pytest.mark.slow

RECIPE = "qdtrack_frcnn_r18_synthetic"
TRIALS = 12


def arguments(stored: Stored, folder: Path, *more: object) -> list[str]:
    given = [
        *("--detections", stored.detections.folder, "--frames", stored.frames.folder),
        *("--recipe", RECIPE, "--trials", TRIALS, "--batch-size", 4, "--best", 2),
        *("--storage", folder / "study.db", "--tracking-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--study", "small", "--out", folder / "out", *more),
    ]
    return [str(argument) for argument in given]


def read_trials(folder: Path) -> list[FinishedTrial]:
    """What the study holds, but for the time that it took."""
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{folder}/study.db")
    opened = Study.__new__(Study)
    opened.storage, opened._study = "", study  # type: ignore[misc]
    return [replace(trial, seconds=0.0) for trial in opened.trials()]


@dataclass(frozen=True)
class Swept:
    stored: Stored
    folder: Path
    output: str


@pytest.fixture(scope="module")
def swept(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """One sweep with two workers over the whole default space."""
    folder = tmp_path_factory.mktemp("sweep")
    stored = write_store(str(folder / "root"))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = command.run(sweep.main, arguments(stored, folder, "--num-workers", 2))
    assert code == 0
    return Swept(stored, folder, output.getvalue())


def test_the_study_holds_every_trial_and_begins_with_the_recipe_s_own(swept: Swept) -> None:
    trials = read_trials(swept.folder)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    own = find_recipe(RECIPE).association
    assert trials[0].state == "complete"
    assert trials[0].held == {**vars(own)}
    assert trials[0].settings["association.match_score_thr"] == own.match_score_thr
    assert {trial.state for trial in trials} == {"complete", "pruned"}
    for trial in trials:
        for path, value in trial.settings.items():
            assert trial.held[path.removeprefix("association.")] == value
        assert (12 in trial.rungs) == (trial.state == "complete")


def test_one_worker_gives_the_same_study_as_two(swept: Swept, tmp_path: Path) -> None:
    assert command.run(sweep.main, arguments(swept.stored, tmp_path, "--num-workers", 1)) == 0
    assert read_trials(tmp_path) == read_trials(swept.folder)
    ours, theirs = (folder / "out" / "best.toml" for folder in (tmp_path, swept.folder))
    assert ours.read_text() == theirs.read_text()


def test_the_best_settings_score_in_the_official_evaluation_what_the_sweep_said(
    swept: Swept, tmp_path: Path
) -> None:
    best = best_trials(read_trials(swept.folder), ["maximize"])[0]
    overrides = read_overrides(swept.folder / "out" / "best.toml")
    config = apply_overrides(find_recipe("qdtrack_frcnn_r50_bdd100k"), overrides).association
    assert vars(config) == best.held
    tracks = associate(swept.stored.detections, config)
    assert f"tracks        {tracks.folder}" in swept.output
    results, truth, scores = (tmp_path / f"{n}.json" for n in ("results", "truth", "scores"))
    export_arguments = ["--benchmark", "bdd100k", "--tracks", tracks.folder, str(results)]
    assert command.run(export.main, export_arguments) == 0
    truth.write_text(json.dumps([f for t in _truths(swept.stored) for f in _scalabel(t)]))
    files = ["--truth", str(truth), "--results", str(results), "--json", str(scores)]
    assert command.run(evaluate.main, ["--benchmark", "bdd100k", *files]) == 0
    report = json.loads(scores.read_text())
    assert best.values == (headline_numbers(report["metrics"])["mMOTA"],)
    assert best.metrics == {
        name: best.metrics[name] if value is None else value
        for name, value in headline_numbers(report["metrics"]).items()
    }


def test_mlflow_has_one_run_for_the_sweep_and_one_in_it_for_every_trial(swept: Swept) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{swept.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("quasar").experiment_id
    [parent] = client.search_runs([experiment], "tags.kind = 'sweep'")
    children = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    trials = read_trials(swept.folder)
    statuses = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
    assert {run.info.run_name: run.info.status for run in children} == {
        f"trial {trial.number}": statuses[trial.state] for trial in trials
    }
    assert len(children) == TRIALS
    assert parent.info.status == "FINISHED"
    history = client.get_metric_history(parent.info.run_id, "mMOTA")
    assert {point.step: point.value for point in history} == {
        trial.number: trial.values[0] for trial in trials if trial.values
    }
    names = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert {"best.toml", "sweep.html", "trials.csv", "plots"} <= names
    rows = RunLog(f"sqlite:///{swept.folder}/mlflow.db", "").results("small", "val")
    assert {row.name for row in rows} >= {RECIPE}


def test_the_files_say_what_was_found(swept: Swept) -> None:
    out = swept.folder / "out"
    lines = (out / "trials.csv").read_text().splitlines()
    assert len(lines) == 1 + TRIALS
    assert lines[0].startswith("trial,state,association.init_score_thr,")
    assert tomllib.loads((out / "best.toml").read_text())["association"]["kind"] == "quasi_dense"
    page = (out / "sweep.html").read_text()
    assert "small" in page
    assert "recipe" in swept.output
    assert str(out / "sweep.html") in swept.output


def test_a_finished_sweep_is_not_begun_again(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(sweep.main, arguments(swept.stored, swept.folder)) == 1
    assert "is there already; go on with --resume" in capsys.readouterr().err
    before = read_trials(swept.folder)
    other = arguments(swept.stored, swept.folder, "--resume", "--seed", 5)
    assert command.run(sweep.main, other) == 1
    assert "seed was 0, is 5" in capsys.readouterr().err
    assert read_trials(swept.folder) == before


def test_two_objectives_give_a_front(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = write_store(str(tmp_path / "root"), 4)
    more = ("--metric", "mMOTA", "--metric", "IDSw", "--sampler", "nsga2", "--num-workers", 1)
    assert command.run(sweep.main, arguments(stored, tmp_path, *more)) == 0
    trials = read_trials(tmp_path)
    assert all(trial.values is not None and len(trial.values) == 2 for trial in trials)
    front = best_trials(trials, ["maximize", "minimize"])
    assert f"trial {front[0].number}" in capsys.readouterr().out


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return write_store(str(tmp_path / "root"), 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--space", "association.match_scor_thr=0.3:0.7"), "did you mean association.match_score"),
        (("--space", "association.match_score_thr=0.7:0.3"), "is empty"),
        (("--metric", "mMOTTA"), "did you mean mMOTA"),
        (("--metric", "MOTA", "--metric", "MOTA"), "name one twice"),
        (("--sampler", "tqe"), "known: tpe"),
        (("--set", "evaluation.protocol=mot17"), "use --set evaluation.protocol=bdd100k"),
        (("--max-failed", "2"), "max_failed_share is 2"),
        (("--seed", "-1"), "seed is -1, expected 0 or more"),
        (("--sampler", "grid"), "points over 11 fields, more than 100,000"),
        (("--storage", "sqlite:///here.db"), "relative to the working directory"),
        (("--resume",), "no study 'small' to resume"),
    ],
)
def test_wrong_input_is_one_error_before_any_trial(
    ray_session: None,
    stored: Stored,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    message: str,
) -> None:
    assert command.run(sweep.main, arguments(stored, tmp_path, *more)) == 1
    captured = capsys.readouterr()
    [error] = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert message in error
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "mlflow.db").exists()
    if (tmp_path / "study.db").exists():
        assert optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db") == []


def test_detections_of_other_frames_are_refused(
    ray_session: None, stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = stored.frames.sequences()
    for changes, message in (
        ({"split": "train"}, "of the split 'val'"),
        ({"dataset": "other"}, "of the data set 'small'"),
        ({"fingerprint": "c" * 16}, f"of the frames '{'a' * 16}'"),
    ):
        other = replace(stored.frames, **changes)
        other.finish(names, stored.frames.details())
        given = arguments(Stored(other, stored.detections), tmp_path)
        assert command.run(sweep.main, given) == 1
        assert message in capsys.readouterr().err
    given = arguments(Stored(stored.detections, stored.frames), tmp_path)
    assert command.run(sweep.main, given) == 1
    assert "expected detections" in capsys.readouterr().err


def test_the_help_names_every_sampler(capsys: pytest.CaptureFixture[str]) -> None:
    """It is written down there, since asking Optuna takes a second."""
    with pytest.raises(SystemExit):
        sweep.main(["--help"])
    words = set(re.findall(r"[a-z0-9]+", capsys.readouterr().out))
    assert words >= set(SAMPLERS)


@pytest.mark.parametrize(
    ("field", "value"), [("num_trials", 0), ("batch_size", 0), ("num_best", 0)]
)
def test_counts_below_one_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0, expected at least 1"):
        SweepOptions(space={}, **{field: value})  # type: ignore[arg-type]


def _truths(stored: Stored) -> list[SequenceTruth]:
    return [read_truth(stored.frames.part(name)) for name in stored.frames.sequences()]


def _scalabel(truth: SequenceTruth) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = [
        {"name": name, "videoName": truth.name, "frameIndex": index, "labels": []}
        for index, name in enumerate(truth.frame_names)
    ]
    notes = truth.annotations
    for row in range(len(notes)):
        x1, y1, x2, y2 = notes.boxes_xyxy[row].tolist()
        frames[notes.frame_index[row]]["labels"].append(
            {
                "id": notes.identity_source[row],
                "category": CLASSES[notes.class_index[row]],
                "attributes": {"crowd": bool(notes.crowd[row])},
                "box2d": {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1},
            }
        )
    return frames
