"""The training loop of one worker: plain torch, with or without a process group, without Ray.

What is trained, what it is fed and where checkpoints go is handed in, so the same loop trains every
network, and runs under Ray Train, in one process, and under bare torch.distributed.
"""

import math
import time
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

import torch
from torch import distributed, nn

CHECKPOINT_VERSION: Final = 2
"""Raised by hand when a checkpoint holds something else."""

Checkpoint = dict[str, Any]
"""Tensors, numbers, strings and containers only, so that it loads with `weights_only=True`."""

Steps = Callable[[int], Generator[Any, None, None]]
"""(steps done) -> what this worker learns from, step by step to the end of training."""


class StepPlace(NamedTuple):
    """Where in a training a step stands."""

    step: int
    """Optimiser steps done before it."""
    rank: int
    rate: float
    """Learning rate."""
    device: torch.device


class BestBy(NamedTuple):
    """Which of the states at the ends of epochs is kept."""

    metric: str
    """Of those that `Hooks.on_epoch_end` gives."""
    order: Literal["highest", "lowest"]

    def is_better(self, value: float, than: float) -> bool:
        """Whether `value` beats what is the best so far; equal ones do not."""
        return value > than if self.order == "highest" else value < than


class Learner(Protocol):
    """One network in training: all that differs from one kind of network to another."""

    @property
    def model(self) -> nn.Module:
        """What is trained and kept."""

    @property
    def epochs(self) -> int:
        """Of the whole training."""

    @property
    def unit(self) -> str:
        """What a step learns from, in the plural: pairs, crops, tracks."""

    @property
    def units_per_step(self) -> int:
        """Over all workers."""

    @property
    def best_by(self) -> BestBy | None:
        """None keeps the last state."""

    def settings(self) -> dict[str, Any]:
        """Configs as plain values, for whoever looks into a checkpoint."""

    def start_training(self) -> None:
        """Put the model into the mode in which it is trained."""

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Over the parameters that are trained."""

    def build_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Loss scaler; one that is not enabled does nothing."""

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Of the step before which `step` others were done: a function of these numbers alone."""

    def train_step(
        self,
        module: nn.Module,
        items: Any,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        place: StepPlace,
    ) -> dict[str, float]:
        """Update the parameters.

        Args:
            module: the model, or the same wrapped in DistributedDataParallel.
            items: what this worker learns from.
            optimizer: of `build_optimizer`.
            scaler: of `build_scaler`.
            place: where in the training.

        Returns:
            Metrics of the step, `total` among them, the same names on every rank.

        Raises:
            FloatingPointError: a loss or gradient is not finite; nothing was updated.
        """


class History:
    """Metrics by optimiser step, kept in checkpoints so that no restart loses any."""

    def __init__(self) -> None:
        self.steps = array("q")
        """Optimiser steps done, rising."""
        self.columns: dict[str, array[float]] = {}
        """One value per step, NaN where a step has none."""

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of the next step."""
        for name in metrics.keys() - self.columns.keys():
            self.columns[name] = array("d", [math.nan]) * len(self.steps)
        self.steps.append(step)
        for name, column in self.columns.items():
            column.append(metrics.get(name, math.nan))

    def rows(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Every step with the metrics that it has."""
        for place, step in enumerate(self.steps):
            values = {name: column[place] for name, column in self.columns.items()}
            yield step, {name: value for name, value in values.items() if not math.isnan(value)}

    def to_state(self) -> dict[str, Any]:
        """As tensors: compact, and safe to load."""
        columns = {
            name: torch.tensor(values, dtype=torch.float64) for name, values in self.columns.items()
        }
        return {"steps": torch.tensor(self.steps), "columns": columns}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "History":
        """Back from `to_state`."""
        history = cls()
        history.steps = array("q", state["steps"].tolist())
        history.columns = {
            name: array("d", values.tolist()) for name, values in state["columns"].items()
        }
        return history


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop tells the world; called on the worker named in each line."""

    on_step: Callable[[int, dict[str, float]], None] = lambda step, row: None
    """Rank 0, after every step: optimiser steps done in all, and its metrics."""
    on_checkpoint: Callable[[Checkpoint | None], None] = lambda checkpoint: None
    """Every rank at the same steps; the checkpoint on rank 0, None on the others."""
    on_epoch_end: Callable[[Any, int], dict[str, float]] = lambda model, epoch: {}
    """Rank 0, after every epoch: metrics of the model to add to those of the last step."""


class TrainingError(ValueError):
    """Training cannot go on; the message says at which step, why, and what to do."""


def run_training(
    learner: Learner,
    steps: Steps,
    *,
    steps_per_epoch: int,
    device: torch.device,
    hooks: Hooks,
    checkpoint_every: int,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train from the beginning or from a checkpoint to the end, in place.

    With a process group, every rank calls this with the same model and its own share of each step;
    gradients are averaged over the ranks, and so are the metrics.

    Args:
        learner: its model has the initial weights, on any device; a checkpoint's take their place.
            In the end it has the last weights, or on rank 0 the best ones (see `BestBy`).
        steps: see `Steps`.
        steps_per_epoch: optimiser steps of every epoch.
        device: where to train.
        hooks: see `Hooks`.
        checkpoint_every: steps between two checkpoints; there is one at every end of epoch, too.
        checkpoint: of a training with the same configs.

    Returns:
        Metrics of every step since the beginning; on rank 0 only.

    Raises:
        TrainingError: a loss or gradient is not finite (nothing was updated), or the checkpoint
            is of another training.
    """
    loop = _Loop(learner, steps_per_epoch, device, hooks)
    if checkpoint is not None:
        loop.load(checkpoint)
    loop.run(steps, checkpoint_every)
    if loop.best is not None:
        loop.model.load_state_dict(loop.best["state"])
    return loop.history


class _Loop:
    """Everything that changes while training."""

    def __init__(
        self, learner: Learner, steps_per_epoch: int, device: torch.device, hooks: Hooks
    ) -> None:
        self.rank, self.num_workers = _rank_and_size()
        self.learner = learner
        # Not channels_last: a sixth faster on a CPU, but there torch 2.15 crashes (segmentation
        # fault in the backward pass of convolutions with few channels).
        self.model = learner.model.to(device)
        learner.start_training()
        self.module = _distribute(self.model, device, self.num_workers)
        self.optimizer = learner.build_optimizer()
        self.scaler = learner.build_scaler(device)
        self.device = device
        self.hooks = hooks
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = steps_per_epoch * learner.epochs
        self.step = 0
        """Optimiser steps done."""
        self.finished_at = time.perf_counter()
        """When the last one ended."""
        self.history = History()
        self.best: dict[str, Any] | None = None
        """On rank 0, the best state at the end of an epoch, its value and its step."""

    def run(self, steps: Steps, checkpoint_every: int) -> None:
        """Do all steps that are left."""
        if self.step == self.num_steps:
            return
        with closing(steps(self.step)) as source:
            while self.step < self.num_steps:
                row = self._one_step(source)
                epoch, in_epoch = divmod(self.step, self.steps_per_epoch)
                if in_epoch == 0 and self.rank == 0:
                    row |= self.hooks.on_epoch_end(self.model, epoch - 1)
                    self._keep_best(row)
                    self.learner.start_training()
                if self.rank == 0:
                    self.history.append(self.step, row)
                    self.hooks.on_step(self.step, row)
                if in_epoch == 0 or self.step % checkpoint_every == 0:
                    self.hooks.on_checkpoint(self.save() if self.rank == 0 else None)

    def save(self) -> Checkpoint:
        """All that is needed to go on; samples of a step derive from its number."""
        epoch, in_epoch = divmod(self.step, self.steps_per_epoch)
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "version": CHECKPOINT_VERSION,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "schedule": {"step": self.step, "steps_per_epoch": self.steps_per_epoch},
            "position": {"epoch": epoch, "step": in_epoch},
            "random": random,
            "config": self.learner.settings(),
            "history": self.history.to_state(),
            "best": self.best,
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on where `save` was called."""
        schedule = checkpoint["schedule"]
        if schedule["steps_per_epoch"] != self.steps_per_epoch:
            raise TrainingError(
                f"the checkpoint is of a training with {schedule['steps_per_epoch']} steps per "
                f"epoch, this one has {self.steps_per_epoch}; delete its run and train again"
            )
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        torch.set_rng_state(checkpoint["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in checkpoint["random"]:
            torch.cuda.set_rng_state(checkpoint["random"]["cuda"], self.device)
        self.history = History.from_state(checkpoint["history"])
        self.best = checkpoint["best"] if self.rank == 0 else None
        self.step = schedule["step"]

    def _keep_best(self, row: Mapping[str, float]) -> None:
        best_by = self.learner.best_by
        if best_by is None or best_by.metric not in row:
            return
        value = row[best_by.metric]
        if math.isnan(value):  # nothing would ever be better than it
            return
        if self.best is None or best_by.is_better(value, than=self.best["value"]):
            state = {
                name: one.detach().cpu().clone() for name, one in self.model.state_dict().items()
            }
            self.best = {"value": value, "step": self.step, "state": state}

    def _one_step(self, source: Iterator[Any]) -> dict[str, float]:
        started = time.perf_counter()
        items = next(source)
        waited = time.perf_counter() - started
        rate = self.learner.learning_rate(self.step, self.steps_per_epoch)
        place = StepPlace(self.step, self.rank, rate, self.device)
        try:
            values = self.learner.train_step(self.module, items, self.optimizer, self.scaler, place)
        except FloatingPointError as error:
            epoch, in_epoch = divmod(self.step, self.steps_per_epoch)
            raise TrainingError(
                f"epoch {epoch}, step {in_epoch}, worker {self.rank}: {error}"
            ) from error
        self.step += 1
        values = self._mean_over_workers(values)
        finished_at = time.perf_counter()
        # What happens between steps (checkpoints, validation) counts, too.
        elapsed = finished_at - self.finished_at
        self.finished_at = finished_at
        return {
            **values,
            "learning_rate": rate,
            "epoch": self.step / self.steps_per_epoch,
            f"{self.learner.unit}_per_s": self.learner.units_per_step / elapsed,
            "data_wait_share": waited / elapsed,
        }

    def _mean_over_workers(self, values: dict[str, float]) -> dict[str, float]:
        if self.num_workers == 1:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return dict(zip(values, (total / self.num_workers).tolist(), strict=True))


def _rank_and_size() -> tuple[int, int]:
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _distribute(model: nn.Module, device: torch.device, num_workers: int) -> nn.Module:
    if num_workers == 1:
        return model
    device_ids = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=device_ids)
