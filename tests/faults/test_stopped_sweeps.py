"""Sweeps that are killed: the study loses no finished trial, repeats none, and ends the same."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.sweep_resume import take_trace
from jobs import command, sweep
from pipeline.search.study import FinishedTrial
from tests.jobs.test_sweep import arguments, read_trials
from tests.sweep_scene import Stored, write_store

pytestmark = pytest.mark.slow

WITHIN_S = 300.0


def start(stored: Stored, folder: Path, *more: object) -> "subprocess.Popen[bytes]":
    """The sweep as a process of its own that uses the Ray of the tests, and that writes down which
    trials it begins."""
    import ray

    address = ray.get_runtime_context().gcs_address
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.sweep_resume", "--traced", str(folder)),
            *arguments(stored, folder, *more),
        ],
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def trials_in(folder: Path) -> list[FinishedTrial]:
    try:
        return read_trials(folder)
    except (KeyError, ValueError):  # the study is not there yet
        return []


def wait_for(condition: Callable[[], bool], job: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if job.poll() is not None:
            assert job.stderr is not None
            pytest.fail(f"the sweep ended before it was killed: {job.stderr.read()[-2000:]!r}")
        assert time.monotonic() < deadline, "the sweep does not get that far"
        time.sleep(0.02)


def test_a_sweep_that_is_killed_twice_ends_as_one_that_was_not(
    ray_session: None, tmp_path: Path
) -> None:
    """Promise: after kill -9 at any moment --resume goes on; no finished trial is lost or scored
    again, and the study and MLflow end as they would have."""
    stored = write_store(str(tmp_path / "root"))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    moment = random.Random(5)
    before: list[FinishedTrial] = []
    for count, more in ((2, ()), (7, ("--resume",))):
        job = start(stored, killed, "--num-workers", 1, *more)
        with job:
            wait_for(lambda count=count: len(trials_in(killed)) >= count, job)  # type: ignore[misc]
            time.sleep(moment.uniform(0.0, 0.5))
            os.killpg(job.pid, signal.SIGKILL)
        after = trials_in(killed)
        assert after[: len(before)] == before
        assert not take_trace(killed) & {trial.number for trial in before}
        before = after
    assert command.run(sweep.main, arguments(stored, killed, "--resume", "--num-workers", 1)) == 0
    assert trials_in(killed)[: len(before)] == before
    assert command.run(sweep.main, arguments(stored, whole, "--num-workers", 1)) == 0
    assert read_trials(killed) == read_trials(whole)
    assert runs_of(killed) == runs_of(whole)


def runs_of(folder: Path) -> dict[str, int]:
    """How many runs MLflow has by name and status, the sweep's own and those in it."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("quasar").experiment_id
    counts: dict[str, int] = {}
    for run in client.search_runs([experiment]):
        key = f"{run.info.run_name} {run.info.status}"
        counts[key] = counts.get(key, 0) + 1
    return counts
