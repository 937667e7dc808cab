"""Jobs that are stopped leave nothing that looks finished, and the next run goes on."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.processes import process_tree
from jobs import command, ingest
from pipeline.store import open_artefact
from tests.faults.conftest import StartJob, ingest_arguments
from tests.jobs.conftest import tiny_arguments

pytestmark = pytest.mark.slow

STARTS_WITHIN_S = 300.0
"""Starting Ray takes ten seconds on an idle machine, and minutes on a busy one."""


def wait_until(condition: Callable[[], object], job: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not condition():
        if job.poll() is not None:
            pytest.fail(f"the job ended before it was stopped: {job.communicate()[1][-2000:]}")
        assert time.monotonic() < deadline, "the job does not get that far"
        time.sleep(0.05)


def wait_until_gone(processes: set[int]) -> None:
    deadline = time.monotonic() + 120
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            # A zombie is gone, too; its parent only has not asked for its exit code.
            while " Z " not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2][:3]:
                assert time.monotonic() < deadline, f"process {process} outlives its job"
                time.sleep(0.05)


@pytest.mark.parametrize("kind", ["Ctrl-C", "SIGKILL"])
def test_an_ingest_that_is_stopped_goes_on_with_what_is_missing(
    kind: str, ray_session: None, data_root: Path, tmp_path: Path, start_job: StartJob
) -> None:
    """Promise: stopped in the middle of writing a part, ingest ends as a stopped process does,
    keeps the parts that are whole, and the next run does only the others."""
    finished, *_, stuck = sorted((data_root / "images/track/val").iterdir())
    gate = max(stuck.iterdir())
    image = gate.read_bytes()
    gate.unlink()
    os.mkfifo(gate)  # a worker waits here until somebody writes the image into it
    root = tmp_path / "root"

    with start_job("jobs.ingest", *ingest_arguments(data_root, root)) as job:
        wait_until(lambda: list(root.rglob(f"{finished.name}/manifest.json")), job)
        if kind == "Ctrl-C":
            os.killpg(job.pid, signal.SIGINT)
            _, errors = job.communicate(timeout=120)
            assert job.returncode == command.INTERRUPTED
            assert errors.splitlines()[-1] == "interrupted"
        else:
            processes = process_tree(job.pid)  # as where a machine fails: Ray's, too
            for process in processes:
                os.kill(process, signal.SIGKILL)
            wait_until_gone(processes)
    (folder,) = root.glob("frames/bdd100k/val/*")
    assert not (folder / "manifest.json").exists()
    assert not (folder / "parts" / stuck.name / "manifest.json").exists()
    half_written = list((folder / "parts" / stuck.name).iterdir())
    assert all(path.suffix == ".tmp" for path in half_written)
    kept = folder / "parts" / finished.name
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}

    feeder = threading.Thread(target=gate.write_bytes, args=(image,), daemon=True)
    feeder.start()
    assert command.run(ingest.main, ingest_arguments(data_root, root)) == 0
    feeder.join(10)
    artefact = open_artefact(str(folder))
    assert stuck.name in artefact.sequences()
    for name in artefact.sequences():
        artefact.part(name).verify()
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == before


def test_ctrl_c_stops_training_at_once_and_leaves_no_weights(
    raw: Path, tmp_path: Path, start_job: StartJob
) -> None:
    """Promise: Ctrl-C in mid-training is exit code 130 and no finished weights; the run in MLflow
    does not stay open, and the frames are kept for the next run."""
    root = tmp_path / "root"
    endless = ("--set", "train.optimizer.epochs=5000", "--set", "train.validation_sequences=0")
    with start_job("jobs.train_bdd", *tiny_arguments(raw, root), *endless) as job:
        wait_until(lambda: list(root.glob("checkpoints/*/checkpoint_*/summary.json")), job)
        os.killpg(job.pid, signal.SIGINT)
        output, errors = job.communicate(timeout=120)
    assert job.returncode == command.INTERRUPTED, errors[-2000:]
    assert errors.splitlines()[-1] == "interrupted"
    assert "\ntrain " not in output  # the line of a finished step
    assert not list((root / "weights").rglob("manifest.json"))
    assert len(list((root / "frames").glob("*/*/*/manifest.json"))) == 2
    assert _statuses(root) == ["KILLED"]


def _statuses(root: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'quasar'")
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]
