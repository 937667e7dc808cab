"""The worker pool gives the same results whatever the workers do, and names what failed."""

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.parallel import SequenceError, map_sequences, map_sequences_with

ITEMS = {f"s{i}": i for i in range(7)}


def square(value: int) -> int:
    return value * value


def fail_on_three(value: int) -> int:
    if value == 3:
        raise ValueError("three is not a crowd")
    return value


class DieOnce:
    """Kills its own process the first time it sees item 4."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __call__(self, value: int) -> int:
        if value == 4 and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return square(value)


def build_square() -> Callable[[int], int]:
    return square


def test_nothing_to_do_is_nothing_done() -> None:
    assert map_sequences(square, {}, num_workers=1, label="x") == {}


def test_results_are_ordered_by_name_and_reported_as_they_come() -> None:
    seen: list[str] = []
    results = map_sequences_with(
        build_square,
        dict(reversed(ITEMS.items())),
        num_workers=1,
        label="x",
        on_result=lambda name, _: seen.append(name),
    )
    assert list(results) == sorted(ITEMS)
    assert sorted(seen) == sorted(ITEMS)
    assert results["s3"] == 9


def test_a_failure_names_the_sequence() -> None:
    with pytest.raises(SequenceError, match=r"'s3': three is not a crowd"):
        map_sequences(fail_on_three, ITEMS, num_workers=1, label="x")


@pytest.mark.slow
def test_actors_give_what_this_process_gives(ray_session: None) -> None:
    alone = map_sequences(square, ITEMS, num_workers=1, label="x")
    assert map_sequences(square, ITEMS, num_workers=2, label="x") == alone


@pytest.mark.slow
def test_several_sequences_at_a_time_give_the_same(ray_session: None) -> None:
    alone = map_sequences(square, ITEMS, num_workers=1, label="x")
    for per_task in (3, 100):
        found = map_sequences(square, ITEMS, num_workers=2, label="x", per_task=per_task)
        assert list(found.items()) == list(alone.items())


@pytest.mark.slow
@pytest.mark.parametrize("per_task", [1, 4])
def test_a_failure_on_an_actor_names_the_sequence_too(ray_session: None, per_task: int) -> None:
    with pytest.raises(SequenceError, match=r"^sequence 's3': three is not a crowd"):
        map_sequences(fail_on_three, ITEMS, num_workers=2, label="x", per_task=per_task)


def fail_to_build() -> Callable[[int], int]:
    raise ValueError("these weights are of another model")


@pytest.mark.slow
def test_what_fails_while_a_worker_starts_comes_out_as_it_is(ray_session: None) -> None:
    """Promise: the same error as in one process, not the death of an actor."""
    with pytest.raises(ValueError, match=r"^these weights are of another model$"):
        map_sequences_with(fail_to_build, ITEMS, num_workers=2, label="x")


@pytest.mark.slow
def test_more_workers_than_the_cluster_holds_are_fewer(
    ray_session: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight actors on two CPUs waited for each other for ever."""
    caplog.set_level(logging.INFO)
    items = {f"s{i:02d}": i for i in range(16)}
    results = map_sequences(square, items, num_workers=8, label="x")
    assert results == {name: value * value for name, value in items.items()}
    assert "2 workers in place of 8" in caplog.text


@pytest.mark.slow
def test_workers_without_room_are_not_waited_for(ray_session: None) -> None:
    """Somebody else holds one of the two CPUs: the other one does all the work."""
    import ray

    holder = ray.remote(num_cpus=1)(Holder).remote()
    ray.get(holder.wait.remote())
    try:
        assert map_sequences(square, ITEMS, num_workers=2, label="x")["s6"] == 36
    finally:
        ray.kill(holder)


class Holder:
    """Takes a CPU of the cluster."""

    def wait(self) -> float:
        return time.time()


@pytest.mark.slow
def test_a_worker_that_fits_nowhere_is_an_error(ray_session: None) -> None:
    with pytest.raises(ValueError, match="3 CPUs and 0 GPUs that one worker takes"):
        map_sequences(square, ITEMS, num_workers=2, label="x", num_cpus=3)


@pytest.mark.slow
def test_a_killed_actor_loses_and_repeats_nothing(ray_session: None, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    results = map_sequences(DieOnce(marker), ITEMS, num_workers=2, label="x")
    assert marker.exists()
    assert results == {name: value * value for name, value in ITEMS.items()}


@dataclass(frozen=True)
class DieOnceWhileBuilding:
    """Kills its own process the first time it is asked for the function."""

    marker: Path

    def __call__(self) -> Callable[[int], int]:
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return square


@pytest.mark.slow
def test_a_worker_killed_while_it_starts_is_replaced(ray_session: None, tmp_path: Path) -> None:
    build = DieOnceWhileBuilding(tmp_path / "died")
    results = map_sequences_with(build, ITEMS, num_workers=2, label="x")
    assert build.marker.exists()
    assert results == {name: value * value for name, value in ITEMS.items()}


@pytest.mark.slow
def test_a_gpu_is_never_looked_for_in_this_process(ray_session: None) -> None:
    """The head of a cluster has none: even one sequence goes to where Ray has one."""
    with pytest.raises(ValueError, match="1 CPUs and 1 GPUs that one worker takes"):
        map_sequences_with(build_square, {"s0": 0}, num_workers=1, label="x", num_gpus=1.0)
