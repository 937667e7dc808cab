"""Runs and rows in MLflow: the same promises on SQLite and behind a real server."""

import json
import logging
import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.leaderboard import ResultRow
from pipeline.runlog import FINGERPRINT_TAG, PROCESS_TAG, RESULT_FILE, RunLog
from pipeline.runlog_address import RunLogError
from pipeline.runlog_children import ChildRun
from pipeline.store import Artefact

pytestmark = pytest.mark.slow

MakeRow = Callable[..., ResultRow]


@dataclass(frozen=True, kw_only=True)
class _Part:
    rate: float = 0.1
    steps: tuple[int, ...] = (8, 11)


@dataclass(frozen=True, kw_only=True)
class _Config:
    recipe: str = "small"
    train: _Part = _Part()


@pytest.fixture(scope="module", params=["sqlite", "server"])
def log(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunLog]:
    """A run log that the tests of this file share; each takes names of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        uri = request.getfixturevalue("mlflow_server") if request.param == "server" else None
        yield RunLog(uri, str(tmp_path_factory.mktemp("root")))


@pytest.fixture
def row(full_row: ResultRow, request: pytest.FixtureRequest) -> ResultRow:
    """A full row on a leaderboard that no other test has."""
    return replace(full_row, benchmark=request.node.originalname)


def _client(log: RunLog) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(log.uri)


def _runs(log: RunLog, experiment: str) -> list[Any]:
    client = _client(log)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def _frames(split: str) -> Artefact:
    return Artefact(
        root="/root", stage="frames", dataset="bdd100k", split=split, fingerprint="3fa9c0de12ab34cd"
    )


def test_a_process_run_holds_config_inputs_metrics_and_provenance(log: RunLog) -> None:
    inputs = {"train": _frames("train"), "val": _frames("val")}
    with log.process_run("first", config=_Config(), inputs=inputs, tags={"mine": "x"}) as run:
        for step in range(5):
            run.log_metrics(step, {"loss": 4.0 / (step + 1), "lr": 0.1})
        run.log_files({"config.json": b"{}", "weights": "s3://bucket/weights.safetensors"})
    found = _client(log).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "first"
    assert found.data.params == {
        "recipe": "small",
        "train.rate": "0.1",
        "train.steps": "[8, 11]",
    }
    history = _client(log).get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [
        (step, 4.0 / (step + 1)) for step in range(5)
    ]
    datasets = {
        (e.tags[0].value, e.dataset.name, e.dataset.digest) for e in found.inputs.dataset_inputs
    }
    assert datasets == {
        ("train", "bdd100k/train", "3fa9c0de12ab34cd"),
        ("val", "bdd100k/val", "3fa9c0de12ab34cd"),
    }
    assert found.data.tags["kind"] == "process"
    assert found.data.tags["mine"] == "x"
    assert found.data.tags["source_digest"] == run.provenance.source_digest
    assert found.data.tags["version.mlflow"]
    names = {entry.path for entry in _client(log).list_artifacts(run.run_id)}
    assert names == {"config.json", "references.json"}


def test_more_numbers_than_one_call_takes(log: RunLog) -> None:
    """MLflow takes 1,000 metrics and 100 parameters in a call."""
    many = dataclass_with_fields(150)
    with log.process_run("many", config=many, inputs={}) as run:
        for step in range(2500):
            run.log_metrics(step, {"loss": float(step)})
    client = _client(log)
    assert len(client.get_run(run.run_id).data.params) == 150
    assert client.get_run(run.run_id).data.metrics["loss"] == 2499.0


def dataclass_with_fields(count: int) -> Any:
    from dataclasses import make_dataclass

    return make_dataclass("Many", [(f"field_{i}", int, i) for i in range(count)])()


def test_replayed_steps_count_once_and_missing_values_not_at_all(log: RunLog) -> None:
    """A replaced worker repeats the steps since its checkpoint; the curve must not go back."""
    with log.process_run("replay", config=_Config(), inputs={}) as run:
        for step in (0, 1, 2, 1, 2, 3):
            run.log_metrics(step, {"loss": float(step), "rate": float("nan"), "pairs": None})
            run.flush()
    points = _client(log).get_metric_history(run.run_id, "loss")
    assert sorted(point.step for point in points) == [0, 1, 2, 3]
    assert _client(log).get_run(run.run_id).data.metrics.keys() == {"loss"}


@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError(), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(15), "KILLED")],
)
def test_a_run_ends_as_its_block_does(log: RunLog, error: BaseException, status: str) -> None:
    with (
        pytest.raises(type(error)),
        log.process_run("ends", config=_Config(), inputs={}) as run,
    ):
        run.log_metrics(0, {"loss": 1.0})
        raise error
    found = _client(log).get_run(run.run_id)
    assert found.info.status == status
    assert found.data.metrics == {"loss": 1.0}, "what was logged before is not lost"


def test_a_run_whose_work_failed_in_part_ends_failed(log: RunLog) -> None:
    with log.process_run("in part", config=_Config(), inputs={}) as run:
        run.mark_failed()
        run.log_metrics(0, {"loss": 1.0})
    found = _client(log).get_run(run.run_id)
    assert found.info.status == "FAILED"
    assert found.data.metrics == {"loss": 1.0}, "what is logged later is there, too"


def test_a_row_comes_back_as_it_was(log: RunLog, row: ResultRow) -> None:
    log.log_result(row, inputs={"evaluation": _frames("val")})
    assert log.results(row.benchmark, "val") == [row]
    assert (row.benchmark, "val") in log.benchmarks()
    assert log.benchmarks() == sorted(log.benchmarks())


def test_mlflows_own_page_has_numbers_and_facts(log: RunLog, row: ResultRow) -> None:
    run_id = log.log_result(row, files={"extra/report.json": b"{}"})
    found = _client(log).get_run(run_id)
    assert found.info.run_name == row.name
    assert found.data.metrics == {"mMOTA": 24.3242, "MOTA": 64.2, "FP": 126.0}
    assert found.data.tags[FINGERPRINT_TAG] == row.fingerprint
    assert found.data.tags[PROCESS_TAG] == row.process_run_id
    assert found.data.tags["weights"] == row.weights
    client = _client(log)
    experiment = client.get_experiment_by_name(f"{row.benchmark}/val")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "mlflow.sharedViewState.leaderboard" in experiment.tags
    assert f"/#/experiments/{experiment.experiment_id}/runs?" in log.how_to_view(
        row.benchmark, "val"
    )
    folders = {entry.path for entry in client.list_artifacts(run_id)}
    assert folders == {"extra", "plots", "tables", RESULT_FILE}


def test_the_same_result_is_updated_in_place(log: RunLog, row: ResultRow) -> None:
    first = log.log_result(row)
    again = replace(row, name="renamed", metrics={**row.metrics, "mMOTA": 25.0, "AP": 30.0})
    assert log.log_result(again) == first
    (run,) = _runs(log, f"{row.benchmark}/val")
    assert run.info.run_name == "renamed"
    assert run.data.metrics["mMOTA"] == 25.0
    assert log.results(row.benchmark, "val") == [again]
    other = replace(row, fingerprint="ffff")
    assert log.log_result(other) != first
    assert len(log.results(row.benchmark, "val")) == 2


def test_a_further_file_of_a_row_comes_back(log: RunLog, row: ResultRow) -> None:
    log.log_result(row, files={"fields.parquet": b"\x00\xff"})
    assert log.read_file(row, "fields.parquet") == b"\x00\xff"
    with pytest.raises(RunLogError, match=rf"'{row.name}' \({row.fingerprint}\) has no file 'x'"):
        log.read_file(row, "x")
    with pytest.raises(RunLogError, match="has no file"):
        log.read_file(replace(row, benchmark="nowhere"), "fields.parquet")


def test_a_value_that_was_taken_back_is_not_shown_any_more(log: RunLog, row: ResultRow) -> None:
    log.log_result(row)
    without = replace(row, metrics={**row.metrics, "mMOTA": None})
    log.log_result(without)
    (run,) = _runs(log, f"{row.benchmark}/val")
    assert "mMOTA" not in run.data.metrics
    assert log.results(row.benchmark, "val") == [without]


def test_a_row_that_was_not_finished_is_not_on_the_leaderboard(
    log: RunLog, row: ResultRow, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        log.log_result(row, files={"weights": tmp_path / "not there"})
    assert [run.info.status for run in _runs(log, f"{row.benchmark}/val")] == ["FAILED"]
    assert log.results(row.benchmark, "val") == []
    log.log_result(row)
    assert log.results(row.benchmark, "val") == [row]
    assert len(_runs(log, f"{row.benchmark}/val")) == 1


def test_a_damaged_row_is_named_and_left_out(
    log: RunLog, row: ResultRow, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = log.log_result(replace(row, fingerprint="aa", name="broken"))
    log.log_result(row)
    (tmp_path / RESULT_FILE).write_text('{"benchmark": "bdd')
    _client(log).log_artifact(broken, str(tmp_path / RESULT_FILE))
    with caplog.at_level(logging.WARNING):
        assert log.results(row.benchmark, "val") == [row]
    assert "'broken'" in caplog.text
    assert broken in caplog.text


def test_runs_that_people_made_by_hand_do_not_disturb(log: RunLog, row: ResultRow) -> None:
    log.log_result(row)
    client = _client(log)
    experiment = client.get_experiment_by_name(f"{row.benchmark}/val").experiment_id
    client.set_terminated(client.create_run(experiment, run_name="mine").info.run_id)
    assert log.results(row.benchmark, "val") == [row]


def test_a_leaderboard_of_more_rows_than_a_page(log: RunLog, row: ResultRow) -> None:
    rows = [replace(row, fingerprint=f"{index:04x}", per_sequence={}) for index in range(12)]
    for entry in rows:
        log.log_result(entry)
    found = sorted(log.results(row.benchmark, "val"), key=lambda entry: entry.fingerprint)
    assert found == rows


def test_a_leaderboard_that_was_deleted_says_how_to_get_it_back(
    log: RunLog, row: ResultRow
) -> None:
    log.log_result(row)
    client = _client(log)
    client.delete_experiment(client.get_experiment_by_name(f"{row.benchmark}/val").experiment_id)
    assert log.results(row.benchmark, "val") == []
    with pytest.raises(RunLogError, match="mlflow experiments restore"):
        log.log_result(row)


def test_nothing_there_yet(log: RunLog) -> None:
    assert log.results("nothing", "val") == []


def test_the_working_directory_stays_clean_and_the_database_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_row: ResultRow
) -> None:
    """In a Ray job the working directory is a copy that is thrown away."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    log = RunLog(None, str(tmp_path / "root"))
    with log.process_run("x", config=_Config(), inputs={}) as run:
        run.log_files({"a.txt": b"a"})
    log.log_result(full_row)
    assert list((tmp_path / "cwd").iterdir()) == []
    assert log.uri == f"sqlite:///{tmp_path}/root/mlflow.db"
    (stored,) = (tmp_path / "root" / "mlartifacts" / "bdd100k" / "val").rglob(RESULT_FILE)
    assert ResultRow.from_dict(json.loads(stored.read_bytes())) == full_row


def test_who_only_reads_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunLogError, match=r"mlflow\.db: nothing was logged here yet"):
        RunLog(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path), must_exist=True)
    assert list(tmp_path.iterdir()) == []


def _open_and_log(root: str, index: int) -> None:
    log = RunLog(f"sqlite:///{root}/mlflow.db", root)
    with log.process_run(f"run {index}", config=_Config(), inputs={}) as run:
        run.log_metrics(0, {"loss": float(index)})


def test_many_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    """Three of four used to fail: each found the tables missing and created them."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_open_and_log, args=(str(tmp_path), index)) for index in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 3
    log = RunLog(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path))
    assert len(_runs(log, "quasar")) == 3


def test_a_database_that_gets_locked_is_one_error_in_bounded_time(
    tmp_path: Path, full_row: ResultRow
) -> None:
    log = RunLog(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path))
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(RunLogError, match="locked") as raised:
        log.log_result(full_row)
    assert time.monotonic() - started < 60
    assert "\n" not in str(raised.value)
    holder.close()
    assert log.log_result(full_row)


def test_a_server_that_goes_away_is_one_error_and_training_goes_on(
    start_mlflow_server: Callable[[], AbstractContextManager[str]],
    tmp_path: Path,
    full_row: ResultRow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pipeline.runlog._FLUSH_EVERY_S", 0.0)
    with start_mlflow_server() as address:
        log = RunLog(address, str(tmp_path))
        opened = log.process_run("orphan", config=_Config(), inputs={})
        run = opened.__enter__()
        run.log_metrics(0, {"loss": 1.0})
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        run.log_metrics(1, {"loss": 1.0})
        run.log_metrics(2, {"loss": 1.0})
    assert len([r for r in caplog.records if "wait for MLflow" in r.message]) == 1
    with pytest.raises(RunLogError, match=f"MLflow at {address}"):
        log.log_result(full_row)
    with pytest.raises(RunLogError, match="does not answer"):
        RunLog(address, str(tmp_path))
    with pytest.raises(RunLogError, match=f"MLflow at {address}"):
        opened.__exit__(None, None, None)
    assert time.monotonic() - started < 90


def test_usage_is_not_reported_to_anybody(log: RunLog) -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def _child(number: int, status: Any = "FINISHED", **changes: Any) -> ChildRun:
    usual: dict[str, Any] = {
        "name": f"trial {number}",
        "status": status,
        "params": {"association.match_score_thr": 0.1 * number},
        "metrics": {"mMOTA": 30.0 + number, "MOTP": None},
        "tags": {"trial_state": "complete"},
        "seconds": 12.5,
    }
    return ChildRun(**{**usual, **changes})


def test_children_lie_under_their_parent_with_their_status(log: RunLog) -> None:
    with log.process_run("parent", config=_Config(), inputs={}) as run:
        run.log_children([_child(0), _child(1, "KILLED"), _child(2, "FAILED", metrics={})])
    client = _client(log)
    condition = f"tags.`mlflow.parentRunId` = '{run.run_id}'"
    experiment = client.get_run(run.run_id).info.experiment_id
    children = {child.info.run_name: child for child in client.search_runs([experiment], condition)}
    assert {name: child.info.status for name, child in children.items()} == {
        "trial 0": "FINISHED",
        "trial 1": "KILLED",
        "trial 2": "FAILED",
    }
    assert children["trial 1"].data.metrics == {"mMOTA": 31.0}
    assert children["trial 1"].data.params == {"association.match_score_thr": "0.1"}
    assert children["trial 1"].data.tags["trial_state"] == "complete"
    info = children["trial 0"].info
    assert info.end_time - info.start_time == pytest.approx(12_500, abs=5)


def test_a_run_goes_on_and_its_children_are_not_written_twice(log: RunLog) -> None:
    tags = {"kind": "sweep", "study": "it's cut off"}
    with log.process_run("cut off", config=_Config(), inputs={}, tags=tags) as run:
        run.log_children([_child(0), _child(1)])
    with log.process_run("other", config=_Config(), inputs={}, tags={**tags, "study": "other"}):
        pass
    client = _client(log)
    experiment = client.get_run(run.run_id).info.experiment_id
    parent = {"mlflow.parentRunId": run.run_id}
    half = client.create_run(experiment, run_name="trial 2", tags=parent).info.run_id
    changed = replace(_Config(), recipe="changed")
    with log.process_run("again", config=changed, inputs={}, tags=tags, resume=True) as again:
        assert again.run_id == run.run_id
        assert client.get_run(run.run_id).info.status == "RUNNING"
        again.log_children([_child(number) for number in range(4)], look_up=True)
    condition = f"tags.`mlflow.parentRunId` = '{run.run_id}'"
    children = client.search_runs([experiment], condition)
    assert sorted(child.info.run_name for child in children) == [f"trial {n}" for n in range(4)]
    assert half not in {child.info.run_id for child in children}
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert client.get_run(run.run_id).data.params["recipe"] == "small"


def test_a_run_that_mlflow_does_not_have_is_made_anew(log: RunLog) -> None:
    tags = {"kind": "sweep", "study": "lost"}
    with log.process_run("anew", config=_Config(), inputs={}, tags=tags, resume=True) as run:
        pass
    assert _client(log).get_run(run.run_id).data.params["recipe"] == "small"
    assert _client(log).get_run(run.run_id).data.tags["study"] == "lost"
