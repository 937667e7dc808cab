"""One function over many sequences: in this process, or on Ray actors that survive being killed."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from pipeline.cluster import worker_capacity
from pipeline.progress import Progress

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_MAX_RETRIES: Final = 3
_TASKS_PER_ACTOR: Final = 2
"""One running, one waiting: the actor never idles while the driver handles a result."""
_PATIENCE_S: Final = 60.0
"""Seconds without any worker after which the log says what is waited for."""


class SequenceError(ValueError):
    """A sequence could not be processed; the message names it and the cause."""


def map_sequences(
    function: Callable[[T], R],
    items: Mapping[str, T],
    *,
    num_workers: int,
    label: str,
    num_cpus: float = 1.0,
    per_task: int = 1,
) -> dict[str, R]:
    """Apply a pure function to every sequence.

    The result does not depend on the number of workers, on the order of completion, or on actors
    that die on the way: a call is repeated up to three times, and results are ordered by name.

    Args:
        function: picklable, safe to run twice.
        items: what to hand to the function, by name of sequence.
        num_workers: at most 1 runs in this process without Ray; more than the cluster can hold
            are as many as it can hold.
        label: name of the stage, for the progress line.
        num_cpus: CPUs each worker reserves.
        per_task: sequences handed to a worker at a time; more than one pays where a sequence takes
            milliseconds, since a hand-over takes about one.

    Raises:
        SequenceError: the function raised; names the sequence. Nothing else is started after it.
        ValueError: no node of the cluster can hold even one worker.
    """

    def build() -> Callable[[T], R]:
        return function

    return map_sequences_with(
        build,
        items,
        num_workers=num_workers,
        label=label,
        num_cpus=num_cpus,
        per_task=per_task,
    )


def map_sequences_with(
    build: Callable[[], Callable[[T], R]],
    items: Mapping[str, T],
    *,
    num_workers: int,
    label: str,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    per_task: int = 1,
    on_result: Callable[[str, R], None] | None = None,
) -> dict[str, R]:
    """`map_sequences` for functions with something costly to build once per worker (a model).

    Args:
        build: picklable; called once in every worker, returns the function. What it raises comes
            out as it is.
        on_result: called in this process as each result arrives, in order of completion.
    """
    names = sorted(items)
    results: dict[str, R] = {}
    with Progress(label, len(names), "sequences") as progress:

        def accept(name: str, result: R) -> None:
            results[name] = result
            if on_result is not None:
                on_result(name, result)
            progress.advance(note=name)

        # A GPU is where Ray has it, which need not be here, even where one worker is enough.
        if num_gpus == 0 and (num_workers <= 1 or len(names) <= 1):
            _run_here(build, items, names, accept)
        else:
            batches = [names[i : i + per_task] for i in range(0, len(names), per_task)]
            wanted = min(max(1, num_workers), len(batches))
            count = _count_actors(wanted, num_cpus, num_gpus) if batches else 0
            _run_on_actors(build, items, batches, accept, count, num_cpus, num_gpus)
    return {name: results[name] for name in names}


def _run_here(
    build: Callable[[], Callable[[T], R]],
    items: Mapping[str, T],
    names: list[str],
    accept: Callable[[str, R], None],
) -> None:
    function = build() if names else None
    for name in names:
        assert function is not None
        accept(name, _apply(function, name, items[name]))


def _count_actors(wanted: int, num_cpus: float, num_gpus: float) -> int:
    capacity = worker_capacity(num_cpus, num_gpus)
    if capacity < 1:
        raise ValueError(
            f"no node of the cluster has the {num_cpus:g} CPUs and {num_gpus:g} GPUs that one "
            "worker takes; ask for less, or add such a node"
        )
    if capacity < wanted:
        logger.info("%d workers in place of %d: the cluster holds no more", capacity, wanted)
    return min(wanted, capacity)


def _run_on_actors(
    build: Callable[[], Callable[[T], R]],
    items: Mapping[str, T],
    batches: list[list[str]],
    accept: Callable[[str, R], None],
    count: int,
    num_cpus: float,
    num_gpus: float,
) -> None:
    import ray

    remote = ray.remote(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_restarts=_MAX_RETRIES,
        max_task_retries=_MAX_RETRIES,
    )(_Worker)
    actors = [remote.remote(build) for _ in range(count)]
    waiting = deque(batches)
    running: dict[Any, tuple[list[str], Any]] = {}
    # Only a worker that has started gets work: one that finds no room, because others use the
    # cluster too, may never start, and what it was given would wait with it.
    # Its start is not repeated, or Ray would announce repetitions of those killed below.
    starting = {actor.start.options(max_task_retries=0).remote(): actor for actor in actors}

    def submit(actor: Any) -> None:
        if waiting:
            names = waiting.popleft()
            running[actor.run.remote([(name, items[name]) for name in names])] = (names, actor)

    try:
        while waiting or running:
            done = _first_done([*running, *starting], timeout=None if running else _PATIENCE_S)
            if done in starting:
                _check_start(done)
                actor = starting.pop(done)
                for _ in range(_TASKS_PER_ACTOR):
                    submit(actor)
                continue
            names, actor = running.pop(done)
            for name, result in zip(names, _fetch(done, names), strict=True):
                accept(name, result)
            submit(actor)
    finally:
        # An idle actor keeps its CPU for ever, and a second pool would wait for it silently.
        for actor in actors:
            with suppress(Exception):
                ray.kill(actor)


def _first_done(references: list[Any], *, timeout: float | None) -> Any:
    import ray

    while True:
        done, _ = ray.wait(references, num_returns=1, timeout=timeout)
        if done:
            return done[0]
        logger.warning("no worker has started yet: waiting for free CPUs or GPUs in the cluster")


def _check_start(reference: Any) -> None:
    """Raise what `build` raised, as it would have been raised in this process.

    A process that died is no error yet: the one that takes its place builds with its first task.
    """
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        logger.warning("a worker died while it started and is started again: %s", error)


def _fetch(reference: Any, names: list[str]) -> list[Any]:
    import ray

    try:
        results: list[Any] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise _named(names[0], error.cause) from error
    except ray.exceptions.RayError as error:
        where = f"sequence {names[0]!r}{_and_more(names)}"
        raise SequenceError(f"{where}: {_death(error)}") from error
    return results


def _death(error: Exception) -> str:
    return (
        f"its process died {_MAX_RETRIES + 1} times ({error}); the node may be short of memory: "
        "use fewer workers"
    )


class _Worker:
    """Holds what `build` made and applies it to one sequence after another."""

    def __init__(self, build: Callable[[], Callable[[Any], Any]]) -> None:
        self._build = build
        self._function: Callable[[Any], Any] | None = None

    def start(self) -> None:
        # Not in the constructor: Ray hides what a constructor raises behind the actor's death.
        self._function = self._build()

    def run(self, batch: list[tuple[str, Any]]) -> list[Any]:
        if self._function is None:  # a process that took the place of one that died
            self.start()
        assert self._function is not None
        return [_apply(self._function, name, item) for name, item in batch]


def _apply(function: Callable[[Any], Any], name: str, item: Any) -> Any:
    try:
        return function(item)
    except Exception as error:  # the border of a task: the sequence's name goes in front
        raise _named(name, error) from error


def _and_more(names: list[str]) -> str:
    return f" or one of {len(names) - 1} after it" if len(names) > 1 else ""


def _named(name: str, error: BaseException) -> Exception:
    """The error of one sequence, with its name in front unless the message says it already."""
    if isinstance(error, SequenceError):
        return error
    text = str(error)
    if isinstance(error, ValueError):
        return SequenceError(text if name in text else f"sequence {name!r}: {text}")
    return SequenceError(f"sequence {name!r}: {type(error).__name__}: {text}")
