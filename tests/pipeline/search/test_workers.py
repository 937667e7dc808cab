"""Tune workers: every task once, whatever dies."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipeline.search.workers import DROPPED, TunePool, WorkersError

pytestmark = pytest.mark.slow

Task = tuple[str, float | str]


def _do(power: float, task: Task) -> float:
    what, argument = task
    if what == "square":
        return float(argument) ** power
    if what == "wait":
        time.sleep(float(argument))
        return float(argument)
    if what == "die once" and not os.path.exists(str(argument)):
        Path(str(argument)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "lose an object once" and not os.path.exists(str(argument)):
        Path(str(argument)).touch()
        raise ray.exceptions.ObjectLostError("0" * 56, "nobody", "")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail":
        raise ValueError(str(argument))
    return 0.0


@pytest.fixture(scope="module")
def pool(ray_session: None) -> Iterator[TunePool[float, Task, float]]:
    with TunePool(_do, num_workers=1) as opened:
        opened.share(2.0)
        yield opened


def test_every_task_comes_back_once_and_failures_with_their_reason(
    pool: TunePool[float, Task, float], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks: dict[str, Task] = {f"n{number}": ("square", number) for number in range(20)}
    outcomes = list(pool.run({**tasks, "bad": ("fail", "13 is not to be squared")}))
    assert sorted(outcome.key for outcome in outcomes) == sorted([*tasks, "bad"])
    by_key = {outcome.key: outcome for outcome in outcomes}
    assert by_key["n7"] == ("n7", 49.0, None)
    assert by_key["bad"].error == "ValueError: 13 is not to be squared"
    assert list(pool.run({})) == []
    assert capsys.readouterr().out == ""


def test_leaving_a_run_early_leaves_nothing_for_the_next(
    pool: TunePool[float, Task, float],
) -> None:
    for _ in pool.run({("first", number): ("square", number) for number in range(50)}):
        break
    assert list(pool.run({"second": ("square", 5)})) == [("second", 25.0, None)]


def test_dropped_tasks_come_back_as_dropped(pool: TunePool[float, Task, float]) -> None:
    run = pool.run(dict.fromkeys(range(30), ("wait", 0.2)))
    first = next(run)
    pool.drop([number for number in range(30) if number != first.key])
    errors = [outcome.error for outcome in run]
    assert len(errors) == 29
    assert errors.count(DROPPED) >= 27  # one was running, another may have been taken


def test_a_killed_worker_is_replaced_and_its_task_done(
    pool: TunePool[float, Task, float], tmp_path: Path
) -> None:
    tasks: dict[int, Task] = {number: ("square", number) for number in range(10)}
    tasks[3] = ("die once", str(tmp_path / "died"))
    outcomes = {outcome.key: outcome.value for outcome in pool.run(tasks)}
    assert outcomes == {number: 0.0 if number == 3 else number**2 for number in range(10)}
    assert (tmp_path / "died").exists()


def test_a_lost_object_is_not_the_task_s_fault(
    pool: TunePool[float, Task, float], tmp_path: Path
) -> None:
    tasks: dict[str, Task] = {"unlucky": ("lose an object once", str(tmp_path / "lost"))}
    assert list(pool.run(tasks)) == [("unlucky", 0.0, None)]
    assert (tmp_path / "lost").exists()


def test_a_task_that_kills_its_workers_is_given_up_and_others_are_not(
    pool: TunePool[float, Task, float],
) -> None:
    outcomes = {o.key: o for o in pool.run({"deadly": ("die", 0), "good": ("square", 3)})}
    assert outcomes["good"].value == 9.0
    assert outcomes["deadly"].error is not None
    assert "its worker failed 2 times" in outcomes["deadly"].error


def test_workers_that_cannot_start_are_an_error(ray_session: None) -> None:
    with (
        TunePool(_do, num_workers=0) as empty,
        pytest.raises(WorkersError, match="no worker of the sweep is left"),
    ):
        list(empty.run({1: ("square", 1)}))
