"""One step of training, as plain functions: batch, losses, schedule, optimiser, step.

Nothing here knows of workers or epochs' plans; a loop feeds batches in order and says where in
training it stands. Legend: B pairs.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.detectors.targets import Target
from models.preprocess import normalise_batch
from models.qdtrack.config import InputConfig, OptimizerConfig
from models.qdtrack.model import PairBatch


class View(NamedTuple):
    """One image of a pair as the data side gives it: resized and augmented, not yet normalised."""

    image: npt.NDArray[Any]
    """(h, w, 3) RGB, uint8 or float32 in 0..255."""
    boxes_xyxy: npt.NDArray[Any]
    """(N, 4) corners in pixels of `image`."""
    class_indices: npt.NDArray[Any]
    """(N,) integers from 0."""
    identities: npt.NDArray[Any]
    """(N,) integers, comparable between the two images of the pair."""


def make_batch(
    pairs: Sequence[tuple[View, View]], config: InputConfig, device: torch.device | str = "cpu"
) -> PairBatch:
    """Batch of (key, reference) pairs; each side is padded to its own largest image."""
    keys = [key for key, _ in pairs]
    references = [reference for _, reference in pairs]
    return PairBatch(*_collate(keys, config, device), *_collate(references, config, device))


def learning_rate(step: int, *, steps_per_epoch: int, config: OptimizerConfig) -> float:
    """Learning rate of one optimiser step.

    The rate falls by `step_factor` at the start of each of `step_epochs`; during the first
    `warmup_iterations` steps it is also multiplied by a factor that climbs linearly from
    `warmup_ratio` to 1. A function of the step alone: no counter that resuming could shift.

    Args:
        step: optimiser steps done before this one in the whole training, from 0.
        steps_per_epoch: optimiser steps of one epoch.
        config: the schedule.

    >>> config = OptimizerConfig()
    >>> [learning_rate(step, steps_per_epoch=1000, config=config) for step in (500, 1000, 8000)]
    [0.01001, 0.02, 0.002]
    """
    epoch = step // steps_per_epoch
    num_drops = sum(epoch >= start for start in config.step_epochs)
    rate = config.learning_rate * config.step_factor**num_drops
    if step < config.warmup_iterations:
        share_left = 1 - step / config.warmup_iterations
        rate *= 1 - share_left * (1 - config.warmup_ratio)
    return rate


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.SGD:
    """SGD over the parameters that are trained, all in one group; `train_step` sets the rate."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(
        trained,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def build_scaler(config: OptimizerConfig, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaler, which does something in float16 on a GPU only."""
    enabled = _autocast_dtype(config, device) == torch.float16
    return torch.amp.GradScaler(device.type, enabled=enabled)


def step_generator(seed: int, *, step: int, rank: int) -> torch.Generator:
    """Source of the random samples of one step on one worker, the same after a restart."""
    state = np.random.default_rng([seed, step, rank]).integers(2**63)
    return torch.Generator().manual_seed(int(state))


def compute_losses(
    module: nn.Module, batch: PairBatch, generator: torch.Generator, config: OptimizerConfig
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses and statistics of a batch; see `QDTrack.training_losses`.

    Args:
        module: a `QDTrack`, or one wrapped in DistributedDataParallel.
        batch: on the module's device.
        generator: draws the samples.
        config: says in which precision a GPU computes.
    """
    with _autocast(config, batch.key_images.device):
        losses, statistics = module(batch, generator)
    return losses, statistics


def train_step(
    module: nn.Module,
    batch: PairBatch,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    rate: float,
    generator: torch.Generator,
    config: OptimizerConfig,
) -> dict[str, float]:
    """Update the parameters from one batch.

    Args:
        module: a `QDTrack` in training mode, or one wrapped in DistributedDataParallel.
        batch: on the module's device.
        optimizer: of `build_optimizer`.
        scaler: of `build_scaler`.
        rate: learning rate of this step, of `learning_rate`.
        generator: draws the samples, of `step_generator`.
        config: precision and clipping.

    Returns:
        Every loss, their sum `total`, `gradient_norm`, the L2 norm of all gradients before
        clipping, and the statistics of `QDTrack.training_losses`.

    Raises:
        FloatingPointError: a loss or the gradient is not finite; names every loss. Parameters are
            as before.
    """
    losses, statistics = compute_losses(module, batch, generator, config)
    total = torch.stack(list(losses.values())).sum()
    values = dict(zip((*losses, "total"), _to_floats([*losses.values(), total]), strict=True))
    _check_finite(values)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(scaler.scale(total))
    scaler.unscale_(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [one.grad for one in parameters if one.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    values["gradient_norm"] = norm.item()
    if not scaler.is_enabled():  # an enabled scaler skips such a step and lowers its scale
        _check_finite(values)
    if config.gradient_clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, config.gradient_clip_norm, norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    scaler.step(optimizer)
    scaler.update()
    return {**values, **statistics}


def _collate(
    views: Sequence[View], config: InputConfig, device: torch.device | str
) -> tuple[Tensor, Tensor, list[Target]]:
    images, sizes = normalise_batch([view.image for view in views], config, device)
    return images, sizes, [_target(view, device) for view in views]


def _target(view: View, device: torch.device | str) -> Target:
    boxes = torch.tensor(view.boxes_xyxy, dtype=torch.float32, device=device)
    return Target(
        boxes_xyxy=boxes.reshape(-1, 4),
        class_indices=torch.tensor(view.class_indices, dtype=torch.int64, device=device),
        identities=torch.tensor(view.identities, dtype=torch.int64, device=device),
    )


def _autocast_dtype(config: OptimizerConfig, device: torch.device) -> torch.dtype | None:
    if config.precision == "float32" or device.type == "cpu":
        return None
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float16


def _autocast(config: OptimizerConfig, device: torch.device) -> AbstractContextManager[Any]:
    dtype = _autocast_dtype(config, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _to_floats(scalars: Sequence[Tensor]) -> list[float]:
    """All at once: a GPU is waited for only one time."""
    return [float(value) for value in torch.stack([one.detach().float() for one in scalars]).cpu()]


def _check_finite(values: Mapping[str, float]) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise FloatingPointError(
            f"training became non-finite: {parts}. Nothing was updated; lower the learning rate, "
            "lengthen the warm-up, clip gradients or use float32, and go on from a checkpoint"
        )
