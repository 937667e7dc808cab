"""Training the quasi-dense model: what the loop and its workers need to know of it."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from datasets.transforms import AugmentConfig
from models.config_io import config_to_dict
from models.qdtrack.config import QDTrackConfig
from models.qdtrack.model import QDTrack
from models.qdtrack.training import (
    build_optimizer,
    build_scaler,
    compute_losses,
    learning_rate,
    make_batch,
    step_generator,
    train_step,
)
from pipeline.store import Artefact
from pipeline.train import EpochScore, TrainConfig
from pipeline.training_input import StepPairs, TrainingSet, iterate_steps
from pipeline.training_loop import StepPlace
from pipeline.windows import read_windows, stream_windows


class QDTrackLearner:
    """A `pipeline.training_loop.Learner` of pairs; the last weights are kept, as published."""

    unit = "pairs"
    best_by = None

    def __init__(self, model: QDTrack, config: TrainConfig) -> None:
        self.model = model
        self.epochs = config.optimizer.epochs
        self.units_per_step = config.pairs_per_step
        self._config = config

    def settings(self) -> dict[str, Any]:
        """See `Learner`."""
        return {
            "model": config_to_dict(self.model.config),
            "train": config_to_dict(self._config),
        }

    def start_training(self) -> None:
        """See `Learner`."""
        self.model.train()

    def build_optimizer(self) -> torch.optim.Optimizer:
        """See `Learner`."""
        return build_optimizer(self.model, self._config.optimizer)

    def build_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """See `Learner`."""
        return build_scaler(self._config.optimizer, device)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """See `Learner`."""
        return learning_rate(step, steps_per_epoch=steps_per_epoch, config=self._config.optimizer)

    def train_step(
        self,
        module: nn.Module,
        items: StepPairs,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        place: StepPlace,
    ) -> dict[str, float]:
        """See `Learner`; samples within images follow from the step and the rank."""
        return train_step(
            module,
            make_batch(items, self.model.config.input, place.device),
            optimizer,
            scaler,
            rate=place.rate,
            generator=step_generator(self._config.seed, step=place.step, rank=place.rank),
            config=self._config.optimizer,
        )


@dataclass(frozen=True, kw_only=True)
class QDTrackTask:
    """A `pipeline.training_worker.TrainingTask`."""

    model_config: QDTrackConfig
    train_config: TrainConfig
    training_set: Any
    """Reference to the `TrainingSet`."""
    validation_set: Any
    """Reference to the `TrainingSet` of validation losses, or to None."""
    initial_state: Any
    """Reference to the model's state before the first step."""
    steps_per_epoch: int
    output: Artefact
    score_epoch: EpochScore | None

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.train_config.optimizer.epochs

    def build_learner(self) -> QDTrackLearner:
        """See `TrainingTask`."""
        import ray

        model = QDTrack(self.model_config)
        model.load_state_dict(ray.get(self.initial_state))
        return QDTrackLearner(model, self.train_config)

    def steps(
        self, rank: int, num_workers: int, start_step: int
    ) -> Generator[StepPairs, None, None]:
        """See `TrainingTask`."""
        import ray

        return iterate_steps(
            ray.get(self.training_set),
            self.train_config,
            self.model_config.input,
            start_step=start_step,
            rank=rank,
            num_workers=num_workers,
            read=stream_windows,
        )

    def evaluate(self, model: QDTrack, epoch: int, num_workers: int) -> dict[str, float]:
        """Validation losses, and whatever else there is to measure."""
        import ray

        metrics: dict[str, float] = {}
        validation_set: TrainingSet | None = ray.get(self.validation_set)
        if validation_set is not None:
            share = self.train_config.pairs_per_step // num_workers
            metrics |= validation_losses(model, validation_set, self.train_config, batch_size=share)
        if self.score_epoch is not None:
            metrics |= self.score_epoch(model, epoch)
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
