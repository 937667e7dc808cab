"""What runs inside a Ray Train worker."""

import logging
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
from ray.train.collective import broadcast_from_rank_zero

from pipeline.allocation import keep_freed_memory
from pipeline.checkpoints import load_checkpoint, newest_checkpoint, write_checkpoint
from pipeline.fit import HISTORY_FILE, HISTORY_PART
from pipeline.model_store import keep_model
from pipeline.store import Artefact
from pipeline.training_loop import Checkpoint, History, Hooks, Learner, TrainingError, run_training

logger = logging.getLogger(__name__)

_RETRIED: Final = (RuntimeError, OSError, ray.exceptions.RayError)
"""What a worker raises when another one died, a device failed or storage is away for a moment;
anything else would be raised again by the next attempt."""


class TrainingTask(Protocol):
    """One training as workers see it: picklable, large things as references into Ray's store."""

    @property
    def output(self) -> Artefact:
        """Where rank 0 writes weights and history in the end."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of every epoch."""

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole training."""

    def build_learner(self) -> Learner:
        """The network with its initial weights; called on every worker."""

    def steps(self, rank: int, num_workers: int, start_step: int) -> Generator[Any, None, None]:
        """What a worker learns from after `start_step` steps, step by step to the end."""

    def evaluate(self, model: Any, epoch: int, num_workers: int) -> dict[str, float]:
        """Metrics of the model after an epoch; called on rank 0."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that a worker needs."""

    task: TrainingTask
    checkpoint_every: int
    checkpoints: str
    """Path or URI of the folder where Ray Train puts checkpoints."""
    collector: Any
    """Handle of the `Collector`."""


class StopOnFailure(ray.train.UserCallback):  # type: ignore[misc]
    """Ends the run where a worker raised what the next attempt would raise again."""

    def __init__(self, collector: Any) -> None:
        self._collector = collector

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Runs in Ray Train's controller; raising here is what ends the run."""
        failure = ray.get(self._collector.failure.remote())
        if failure is not None:
            raise TrainingError(failure)


def train_worker(settings: Mapping[str, Any]) -> None:
    """The function that Ray Train runs in every worker; `settings` holds a `TrainingJob`."""
    job: TrainingJob = settings["job"]
    try:
        _train(job)
    except _RETRIED:
        raise
    except Exception as error:  # the border of the worker: the driver shows the message
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        ray.get(job.collector.fail.remote(f"{kind}{error}"))
        raise


def _train(job: TrainingJob) -> None:
    # The number of threads decides in which order numbers are added.
    torch.set_num_threads(1)
    keep_freed_memory()
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    learner = job.task.build_learner()
    checkpoint = _newest_checkpoint(job, rank)
    if checkpoint is not None and rank == 0:
        history = History.from_state(checkpoint["history"])
        ray.get(job.collector.add.remote(list(history.rows())))
    history = run_training(
        learner,
        partial(job.task.steps, rank, num_workers),
        steps_per_epoch=job.task.steps_per_epoch,
        device=device,
        hooks=Hooks(
            on_step=lambda step, row: job.collector.add.remote([(step, row)]),
            on_checkpoint=_report,
            on_epoch_end=partial(job.task.evaluate, num_workers=num_workers),
        ),
        checkpoint_every=job.checkpoint_every,
        checkpoint=checkpoint,
    )
    if rank == 0:
        _write_history(job.task.output, history)
        keep_model(job.task.output, learner.model)


def _newest_checkpoint(job: TrainingJob, rank: int) -> Checkpoint | None:
    """The newest valid checkpoint, always; rank 0 chooses it for all."""
    name = newest_checkpoint(job.checkpoints) if rank == 0 else None
    name = broadcast_from_rank_zero(name)
    return None if name is None else load_checkpoint(job.checkpoints, name)


def _report(checkpoint: Checkpoint | None) -> None:
    """Hand a checkpoint to Ray Train's storage; a barrier, called by every worker."""
    if checkpoint is None:
        ray.train.report({})
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), checkpoint)
            ray.train.report(
                {"step": checkpoint["schedule"]["step"]},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
            )
    # `report` returns before the checkpoint is registered; a crash in between would orphan it.
    ray.train.get_all_reported_checkpoints()


def _write_history(output: Artefact, history: History) -> None:
    columns = {"step": pa.array(np.asarray(history.steps))}
    for name, values in sorted(history.columns.items()):
        columns[name] = pa.array(np.asarray(values), from_pandas=True)  # NaN becomes null
    with output.part(HISTORY_PART).write() as writer:
        writer.write_parquet(HISTORY_FILE, pa.table(columns))
