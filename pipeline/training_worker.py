"""What runs inside a Ray Train worker."""

import logging
import tempfile
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
from ray.train.collective import broadcast_from_rank_zero

from datasets.transforms import AugmentConfig
from models.qdtrack.config import QDTrackConfig
from models.qdtrack.model import QDTrack
from models.qdtrack.training import compute_losses, make_batch, step_generator
from pipeline.allocation import keep_freed_memory
from pipeline.checkpoints import load_checkpoint, newest_checkpoint, write_checkpoint
from pipeline.model_store import keep_model
from pipeline.store import Artefact
from pipeline.train import HISTORY_FILE, HISTORY_PART, EpochScore, TrainConfig
from pipeline.training_input import StepPairs, TrainingSet, iterate_steps
from pipeline.training_loop import Checkpoint, History, Hooks, TrainingError, run_training
from pipeline.windows import read_windows, stream_windows

logger = logging.getLogger(__name__)

_RETRIED: Final = (RuntimeError, OSError, ray.exceptions.RayError)
"""What a worker raises when another one died, a device failed or storage is away for a moment;
anything else would be raised again by the next attempt."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that a worker needs; large things as references into Ray's object store."""

    model_config: QDTrackConfig
    train_config: TrainConfig
    training_set: Any
    """Reference to the `TrainingSet`."""
    validation_set: Any
    """Reference to the `TrainingSet` of validation losses, or to None."""
    initial_state: Any
    """Reference to the model's state before the first step."""
    steps_per_epoch: int
    checkpoint_every: int
    checkpoints: str
    """Path or URI of the folder where Ray Train puts checkpoints."""
    output: Artefact
    """Where rank 0 writes weights and history in the end."""
    score_epoch: EpochScore | None
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
    model = QDTrack(job.model_config)
    model.load_state_dict(ray.get(job.initial_state))
    checkpoint = _newest_checkpoint(job, rank)
    if checkpoint is not None and rank == 0:
        history = History.from_state(checkpoint["history"])
        ray.get(job.collector.add.remote(list(history.rows())))
    history = run_training(
        model,
        job.train_config,
        partial(_steps, job, ray.get(job.training_set), rank, num_workers),
        steps_per_epoch=job.steps_per_epoch,
        device=device,
        hooks=Hooks(
            on_step=lambda step, row: job.collector.add.remote([(step, row)]),
            on_checkpoint=_report,
            on_epoch_end=partial(_evaluate, job, num_workers),
        ),
        checkpoint_every=job.checkpoint_every,
        checkpoint=checkpoint,
    )
    if rank == 0:
        _write_history(job.output, history)
        keep_model(job.output, model)


def _steps(
    job: TrainingJob, training_set: TrainingSet, rank: int, num_workers: int, start_step: int
) -> Generator[StepPairs, None, None]:
    return iterate_steps(
        training_set,
        job.train_config,
        job.model_config.input,
        start_step=start_step,
        rank=rank,
        num_workers=num_workers,
        read=stream_windows,
    )


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


def _evaluate(job: TrainingJob, num_workers: int, model: QDTrack, epoch: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    validation_set: TrainingSet | None = ray.get(job.validation_set)
    if validation_set is not None:
        share = job.train_config.pairs_per_step // num_workers
        metrics |= validation_losses(model, validation_set, job.train_config, batch_size=share)
    if job.score_epoch is not None:
        metrics |= job.score_epoch(model, epoch)
    return metrics


@torch.no_grad()
def validation_losses(
    model: QDTrack, validation_set: TrainingSet, config: TrainConfig, *, batch_size: int
) -> dict[str, float]:
    """Mean losses over the first `validation_pairs` of a plan that is the same every time.

    Args:
        model: is left in evaluation mode.
        validation_set: must hold at least one pair.
        config: of the training; nothing is augmented here.
        batch_size: pairs at a time.

    Returns:
        Every loss and `total`, with "validation_" in front.
    """
    device = next(model.parameters()).device
    batch_size = min(batch_size, len(validation_set.index))
    num_batches = max(1, config.validation_pairs // batch_size)
    fixed = replace(
        config,
        pairs_per_step=batch_size,
        buffer=1,
        augment=AugmentConfig(flip_probability=0.0),
    )
    steps = iterate_steps(validation_set, fixed, model.config.input, read=read_windows)
    model.eval()
    sums: dict[str, float] = {}
    count = 0
    with closing(steps):
        for pairs in islice(steps, num_batches):
            batch = make_batch(pairs, model.config.input, device)
            generator = step_generator(config.seed, step=count, rank=0)
            losses, _ = compute_losses(model, batch, generator, config.optimizer)
            total = torch.stack(list(losses.values())).sum()
            for name, value in {**losses, "total": total}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            count += 1
    return {f"validation_{name}": value / count for name, value in sums.items()}


def _write_history(output: Artefact, history: History) -> None:
    columns = {"step": pa.array(np.asarray(history.steps))}
    for name, values in sorted(history.columns.items()):
        columns[name] = pa.array(np.asarray(values), from_pandas=True)  # NaN becomes null
    with output.part(HISTORY_PART).write() as writer:
        writer.write_parquet(HISTORY_FILE, pa.table(columns))
