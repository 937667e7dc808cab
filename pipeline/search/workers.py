"""Long-lived Ray Tune workers that take many small tasks from a board on the driver's node.

A Tune trial that starts takes seconds, a task of ours a fraction of one. So Tune starts one trial
for every worker, watches it and starts it again where it died; each takes tasks until the board is
closed. Tasks are pure: one whose worker was lost is handed out again, and whoever finishes first
counts.
"""

import asyncio
import contextlib
import logging
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

import threadpoolctl

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

_MAX_RESTARTS: Final = 20
_MAX_DEATHS: Final = 2
"""A task whose workers died as often is given up: it may be what kills them."""
_POLL_S: Final = 1.0
_PATIENCE_S: Final = 30.0
"""After this long a task is also given to a worker that has nothing else to do."""
_SILENCE_S: Final = 60.0

DROPPED: Final = "dropped"
_CLOSED: Final = "closed"
_DEADLY: Final = (
    f"its worker failed {_MAX_DEATHS} times; the node may be short of memory, or an object was lost"
)


class Outcome(NamedTuple):
    """What became of a task."""

    key: Any
    value: Any
    """What the function returned; None where it failed."""
    error: str | None
    """Why it failed."""


class WorkersError(ValueError):
    """There is no worker that could do the tasks."""


class TunePool(Generic[S, T, R]):
    """Workers that apply one function to tasks; a context that stops them when it is left.

    Ray must be connected. Entering loads Ray Tune and does not wait for the workers, the first task
    does.
    """

    def __init__(self, function: Callable[[S, T], R], num_workers: int) -> None:
        """Nothing starts yet.

        Args:
            function: of what was shared and of a task; picklable and pure. What it raises is the
                task's outcome, but for errors of Ray's own: these make a worker start again.
            num_workers: of one CPU each.
        """
        self._function = function
        self._num_workers = num_workers
        self._board: Any = None
        self._fit: threading.Thread | None = None
        self._failures: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="quasar-tune-")

    def __enter__(self) -> Self:
        import ray

        # Here and not in the thread: beside the work of this thread it takes three times as long,
        # and the workers wait for it.
        import ray.tune
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(_Board).options(
            num_cpus=0, max_concurrency=1000, scheduling_strategy=here
        )
        self._board = board.remote()
        self._fit = threading.Thread(target=self._run_tune, name="ray-tune", daemon=True)
        self._fit.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, so that others can have their CPUs; the second time nothing happens."""
        import ray

        if self._board is None:
            return
        assert self._fit is not None
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._board.close.remote())
        self._fit.join(timeout=_PATIENCE_S)
        ray.kill(self._board)
        self._board = None
        self._folder.cleanup()

    def share(self, value: S) -> None:
        """What every worker fetches once, before its first task; to be called before `run`."""
        import ray

        # In a list: the board passes the reference on and never looks at what it refers to.
        ray.get(self._board.share.remote([ray.put(value)]))

    def run(
        self, tasks: Mapping[K, T], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[Outcome]:
        """Outcomes in order of completion; leaving the iterator early drops what is left.

        Args:
            tasks: by key, never used before.
            meanwhile: something to do here while the workers have begun.

        Raises:
            WorkersError: all workers have died too often.
        """
        import ray

        # Tasks and what comes of them are bytes to the board, which need not take them apart, nor
        # know what they are made of.
        packed = [(key, pickle.dumps(task)) for key, task in tasks.items()]
        ray.get(self._board.put.remote(packed))
        left = len(tasks)
        heard = time.monotonic()
        try:
            if meanwhile is not None:
                meanwhile()
            while left:
                for outcome in ray.get(self._board.collect.remote(_POLL_S)):
                    left -= 1
                    heard = time.monotonic()
                    if outcome.error is None:  # from a worker of ours, by way of our board
                        outcome = outcome._replace(value=pickle.loads(outcome.value))  # noqa: S301
                    yield outcome
                self._check_alive()
                if left and time.monotonic() - heard > _SILENCE_S:
                    heard = time.monotonic()
                    logger.warning("%d tasks are waiting: no worker has finished one", left)
        finally:
            if left:
                ray.get(self._board.clear.remote())

    def drop(self, keys: Sequence[Hashable]) -> None:
        """Do not start these tasks of the present run; they come back with the error "dropped"."""
        import ray

        ray.get(self._board.drop.remote(list(keys)))

    def _check_alive(self) -> None:
        assert self._fit is not None
        if not self._fit.is_alive():
            reasons = "; ".join(self._failures) or "Ray Tune ended them"
            raise WorkersError(f"no worker of the sweep is left: {reasons}")

    def _run_tune(self) -> None:
        # Tune's own log files and tables of results are of no use here.
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        from ray import tune
        from ray.tune.experimental import output

        # At its quietest Tune still prints a box, into what jobs print for programs to read.
        vars(output)["print"] = lambda *_, **__: None

        class Watch(tune.Callback):  # type: ignore[misc]
            """Says when a worker has died so often that Tune does not start it again."""

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                logger.warning(
                    "worker %s of the sweep is given up after %d restarts; the others go on",
                    *(trial.config["worker"], _MAX_RESTARTS),
                )

        trainable = tune.with_parameters(_work, board=self._board, function=self._function)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"CPU": 1}),
            param_space={"worker": tune.grid_search(list(range(self._num_workers)))},
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=self._folder.name,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_MAX_RESTARTS),
                callbacks=[Watch()],
            ),
        )
        try:
            results = tuner.fit()
            self._failures += [str(error) for error in results.errors]
        except Exception as error:  # of a thread nobody would ever see it
            self._failures.append(f"{type(error).__name__}: {error}")


def _work(config: dict[str, int], board: Any, function: Callable[[Any, Any], Any]) -> None:
    """What a Tune trial does: tasks until the board is closed."""
    import ray

    # Ray asks for one thread by an environment variable that NumPy may have read before.
    threadpoolctl.threadpool_limits(1)
    worker = config["worker"]
    coming = board.start.remote(worker)
    shared: Any = None
    is_shared = False
    while (task := ray.get(coming)) != _CLOSED:
        # The next one is on its way while this one is done: a hand-over between busy processes
        # takes some ten milliseconds.
        coming = board.take.remote(worker)
        if task is not None:
            key, item = task
            if not is_shared:  # it is there by now, if at all: tasks come after it
                references = ray.get(board.shared.remote())
                shared, is_shared = (ray.get(references[0]) if references else None), True
            try:
                value = function(shared, pickle.loads(item))  # noqa: S301, from our driver
                outcome = Outcome(key, pickle.dumps(value), None)
            except ray.exceptions.RayError:
                raise  # not the task's fault: an object or a node was lost
            except Exception as error:  # the border of a task: it alone fails
                outcome = Outcome(key, None, f"{type(error).__name__}: {error}")
            board.give.remote(outcome)


class _Board:
    """Tasks that wait, tasks that somebody works at, and outcomes that nobody has fetched."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, bytes] = {}
        self._taken: dict[Hashable, tuple[bytes, int, float]] = {}
        self._outcomes: list[Outcome] = []
        self._deaths: dict[Hashable, int] = {}
        self._shared: list[Any] = []
        self._is_closed = False
        self._changed = asyncio.Condition()

    async def start(self, worker: int) -> Any:
        """A worker's first call, also after it died: what it had taken waits again."""
        async with self._changed:
            lost = [key for key, (_, owner, _) in self._taken.items() if owner == worker]
            for position, key in enumerate(lost):
                item = self._taken.pop(key)[0]
                # It died of the first one; the others were only on their way.
                self._deaths[key] = self._deaths.get(key, 0) + (position == 0)
                if self._deaths[key] < _MAX_DEATHS:
                    self._waiting = {key: item} | self._waiting
                else:
                    self._outcomes.append(Outcome(key, None, _DEADLY))
            self._changed.notify_all()
        return await self.take(worker)

    async def take(self, worker: int) -> Any:
        """The next task; None where there is none for now, `_CLOSED` where there will be none."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: self._waiting or self._is_closed), _POLL_S
                )
            if self._is_closed:
                return _CLOSED
            now = time.monotonic()
            if self._waiting:
                key = next(iter(self._waiting))
                item = self._waiting.pop(key)
            else:
                late = [
                    (since, key, item)
                    for key, (item, owner, since) in self._taken.items()
                    if owner != worker and now - since > _PATIENCE_S
                ]
                if not late:
                    return None
                _, key, item = min(late, key=lambda entry: entry[0])
            self._taken[key] = (item, worker, now)
            return key, item

    async def give(self, outcome: Outcome) -> None:
        async with self._changed:
            if self._taken.pop(outcome.key, None) is not None:  # else somebody was faster
                self._outcomes.append(outcome)
                self._changed.notify_all()

    async def share(self, reference: list[Any]) -> None:
        self._shared = reference

    async def shared(self) -> list[Any]:
        return self._shared

    async def put(self, tasks: list[tuple[Hashable, bytes]]) -> None:
        async with self._changed:
            self._waiting |= dict(tasks)
            self._changed.notify_all()

    async def collect(self, timeout_s: float) -> list[Outcome]:
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._outcomes), timeout_s)
            outcomes, self._outcomes = self._outcomes, []
            return outcomes

    async def drop(self, keys: Sequence[Hashable]) -> None:
        async with self._changed:
            gone = [key for key in keys if self._waiting.pop(key, None) is not None]
            self._outcomes += [Outcome(key, None, DROPPED) for key in gone]
            self._changed.notify_all()

    async def clear(self) -> None:
        async with self._changed:
            self._waiting, self._taken, self._outcomes = {}, {}, []

    async def close(self) -> None:
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()
