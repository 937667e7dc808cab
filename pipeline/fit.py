"""Any training under Ray Train: checkpoints, metrics on their way to the driver, the history."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pipeline.locations import join_location, open_filesystem
from pipeline.progress import Progress
from pipeline.store import Artefact

if TYPE_CHECKING:
    from pipeline.training_worker import TrainingJob, TrainingTask

HISTORY_PART: Final = "history"
HISTORY_FILE: Final = "history.parquet"
"""One row per optimiser step, one column per metric, null where a step has none."""

OnMetrics = Callable[[int, dict[str, float]], None]
"""Takes the optimiser steps done and the metrics of the last of them."""

_CHECKPOINTS_FOLDER: Final = "checkpoints"
_SNAPSHOT_FILE: Final = "checkpoint_manager_snapshot.json"
_MAX_FAILURES: Final = 3
_CPUS_PER_WORKER: Final = 0.5
"""Half of one, so that two workers on two CPUs leave room for small tasks of others."""
_POLL_S: Final = 0.5


def fit(
    task: "TrainingTask",
    *,
    num_workers: int,
    gpus_per_worker: float,
    on_metrics: OnMetrics,
    checkpoint_every: int,
) -> None:
    """Train, or go on from the newest checkpoint; writes the weights and their history.

    The manifest of the artefact is left to the caller. Ray must be connected.

    Args:
        task: what is trained.
        num_workers: of Ray Train.
        gpus_per_worker: 0 trains on CPUs, one thread per worker.
        on_metrics: called in this process for every step once, in order. After a restart of the
            job it is called for the steps before as well.
        checkpoint_every: steps between checkpoints; there is one after every epoch, too.

    Raises:
        TrainingError: training cannot go on; says why.
    """
    import ray

    from pipeline.checkpoints import remove_old_checkpoints
    from pipeline.training_collector import start_collector
    from pipeline.training_loop import TrainingError
    from pipeline.training_worker import TrainingJob

    output = task.output
    job = TrainingJob(
        task=task,
        checkpoint_every=checkpoint_every,
        checkpoints=join_location(output.root, _CHECKPOINTS_FOLDER, output.fingerprint),
        collector=start_collector(),
    )
    trainer = _trainer(job, num_workers, gpus_per_worker)
    remove_old_checkpoints(job.checkpoints)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # the border of a thread: raised again below
            errors.append(error)

    # In the main thread Ray Train would take Ctrl-C for itself, and keep it afterwards.
    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    with Progress("train", task.num_steps, "steps") as progress:
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            for step, metrics in ray.get(job.collector.take.remote()):
                on_metrics(step, metrics)
                progress.advance(note=f"loss {metrics['total']:.3f}")
    if errors:
        failure = ray.get(job.collector.failure.remote())
        raise TrainingError(failure or f"training did not finish: {errors[0]}") from errors[0]
    remove_old_checkpoints(job.checkpoints)


def read_history(weights: Artefact) -> list[tuple[int, dict[str, float]]]:
    """Metrics of a finished training by optimiser step, in order."""
    table = weights.part(HISTORY_PART).read_parquet(HISTORY_FILE)
    return [
        (row.pop("step"), {name: value for name, value in row.items() if value is not None})
        for row in table.to_pylist()
    ]


def _trainer(job: "TrainingJob", num_workers: int, gpus_per_worker: float) -> Any:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from pipeline.checkpoints import NUM_KEPT
    from pipeline.training_worker import StopOnFailure, train_worker

    resources = {"CPU": _CPUS_PER_WORKER}
    if gpus_per_worker:
        resources["GPU"] = gpus_per_worker
    filesystem, path = open_filesystem(job.checkpoints)
    storage, _, name = path.rpartition("/")
    # Ray Train's own register of checkpoints is rewritten in place: a kill at that moment would
    # break every later run of this name. Workers look at the checkpoints themselves instead.
    with suppress(FileNotFoundError):
        filesystem.delete_file(f"{path}/{_SNAPSHOT_FILE}")
    return TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=NUM_KEPT),
            callbacks=[StopOnFailure(job.collector)],
        ),
    )
