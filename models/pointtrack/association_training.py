"""One step of training PointTrack's association network, as plain functions.

An item is one forward pass: the crops of some tracks, their points and positions, and which of them
belong together. Nothing here knows of workers or of where crops come from.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.pointtrack.items import ItemArrays
from models.pointtrack.losses import batch_hard_triplet_loss
from models.pointtrack.schedule import ScheduleConfig, learning_rate


class ItemTensors(NamedTuple):
    """A training item on a device."""

    points: Tensor
    """(K, P, 8) float32."""
    positions: Tensor
    """(K, 4) float32."""
    labels: Tensor
    """(K,) int64, equal where crops are of the same track."""


def to_tensors(item: ItemArrays, device: torch.device | str = "cpu") -> ItemTensors:
    """An item of `models.pointtrack.items` on a device."""
    return ItemTensors(*(torch.from_numpy(array).to(device) for array in item))


def rate_of_step(step: int, *, steps_per_epoch: int, config: ScheduleConfig) -> float:
    """Learning rate of the step before which `step` others were done."""
    return learning_rate(step // steps_per_epoch + 1, config)


def train_step(
    module: nn.Module,
    items: Sequence[ItemTensors],
    optimizer: torch.optim.Optimizer,
    *,
    rate: float,
    margin: float,
) -> dict[str, float]:
    """Update the parameters from some items: the gradient is the mean of theirs.

    A step whose loss is exactly 0 is skipped, as published: decay and momentum alone would move the
    weights. With several workers it is skipped where the loss of all of them is 0.

    Args:
        module: a `PointTrackNet` in training mode, or one wrapped for several workers.
        items: of this worker, at least one, on the module's device.
        optimizer: of `models.pointtrack.schedule.build_optimizer`.
        rate: of `rate_of_step`.
        margin: of the triplet loss.

    Returns:
        `total`, the mean loss of the items, `skipped`, 1 where nothing was updated, and `crops`,
        the mean number of crops.

    Raises:
        FloatingPointError: the loss is not finite. Nothing was updated.
    """
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for item in items:
        embeddings = module(item.points, item.positions)
        loss = batch_hard_triplet_loss(embeddings, item.labels, margin=margin) / len(items)
        value = loss.item()
        if not math.isfinite(value):
            optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"training became non-finite: triplet loss {value:g}. Nothing was updated; lower "
                "the learning rate and go on from a checkpoint"
            )
        total += value
        torch.autograd.backward(loss)  # also where it is 0: other workers wait for the gradients
    is_skipped = _greatest_anywhere(total, items[0].points.device) == 0
    if not is_skipped:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    num_crops = sum(len(item.labels) for item in items) / len(items)
    return {"total": total, "skipped": float(is_skipped), "crops": num_crops}


def _greatest_anywhere(value: float, device: torch.device) -> float:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    greatest = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(greatest, torch.distributed.ReduceOp.MAX)
    return float(greatest)
