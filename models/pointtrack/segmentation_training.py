"""One step of training SpatialEmbedding, as plain functions: batch, losses, schedule, optimiser.

Nothing here knows of workers or of where crops come from. Legend: B images, H and W their size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.pointtrack.config import DontCare, SegmentationTrainConfig
from models.pointtrack.losses import (
    BACKGROUND,
    SpatialEmbeddingTerms,
    spatial_embedding_terms,
)
from models.pointtrack.segmentation import SpatialEmbedding

OBJECT: Final = 1
"""Label of pixels of instances."""
LEFT_OUT: Final = 254
"""Label of pixels that are neither object nor background."""


class SegmentationBatch(NamedTuple):
    """Images and what they teach, on one device."""

    images: Tensor
    """(B, 3, H, W) float32 RGB from 0 to 1."""
    instances: Tensor
    """(B, H, W) int64, 0 for none."""
    labels: Tensor
    """(B, H, W) uint8: 1 object, 0 background, 254 left out."""


def make_batch(
    images: Sequence[npt.NDArray[np.uint8]],
    instances: Sequence[npt.NDArray[np.integer]],
    *,
    dont_care_id: int,
    dont_care: DontCare,
    device: torch.device | str = "cpu",
) -> SegmentationBatch:
    """Stack images of one size.

    Args:
        images: (H, W, 3) uint8 RGB each; at least one.
        instances: (H, W) ids each, 0 for background.
        dont_care_id: the id of pixels that are neither.
        dont_care: what these are to teach.
        device: where the batch is to lie.
    """
    pixels = torch.from_numpy(np.stack(images)).to(device)
    ids = torch.from_numpy(np.stack(instances).astype(np.int64)).to(device)
    is_left_out = ids == dont_care_id
    ids[is_left_out] = 0
    labels = (ids > 0).to(torch.uint8) * OBJECT
    labels[is_left_out] = LEFT_OUT if dont_care == "left_out" else BACKGROUND
    return SegmentationBatch(pixels.permute(0, 3, 1, 2).float() / 255, ids, labels)


def learning_rate(step: int, *, steps_per_epoch: int, config: SegmentationTrainConfig) -> float:
    """Rate of the step before which `step` others were done.

    >>> config = SegmentationTrainConfig.finetune()
    >>> [learning_rate(step, steps_per_epoch=500, config=config) for step in (0, 499)]
    [5e-06, 5e-06]
    >>> round(learning_rate(25_000, steps_per_epoch=500, config=config) / 5e-6, 4)  # 0.5 ** 0.9
    0.5359
    """
    if config.decay_epochs is None:
        return config.learning_rate
    share_left = 1 - (step // steps_per_epoch) / config.decay_epochs
    return config.learning_rate * float(share_left**0.9)


def build_optimizer(model: nn.Module, config: SegmentationTrainConfig) -> torch.optim.Adam:
    """Adam over all parameters, norms and biases too; `train_step` sets the rate."""
    return torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )


def start_training(model: SpatialEmbedding, config: SegmentationTrainConfig) -> None:
    """Training mode; under `freeze_norms` batch norms stay in evaluation mode, dropout does not."""
    model.train()
    if config.freeze_norms:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def train_step(
    module: nn.Module,
    batch: SegmentationBatch,
    optimizer: torch.optim.Optimizer,
    *,
    rate: float,
    config: SegmentationTrainConfig,
) -> dict[str, float]:
    """Update the parameters from one batch.

    Args:
        module: a `SpatialEmbedding` in training mode, or one wrapped for several workers.
        batch: on its device.
        optimizer: of `build_optimizer`.
        rate: of `learning_rate`.
        config: of the stage.

    Returns:
        `total`, `instance`, `variance` and `seed`.

    Raises:
        FloatingPointError: the loss is not finite. Nothing was updated.
    """
    terms = spatial_embedding_terms(
        module(batch.images),
        batch.instances,
        batch.labels,
        foreground_weight=config.foreground_weight,
    )
    values = loss_values(terms)
    if not math.isfinite(values["total"]):
        raise FloatingPointError(describe_non_finite(values))
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(terms.total)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return values


def loss_values(terms: SpatialEmbeddingTerms) -> dict[str, float]:
    """The loss and its parts as numbers; a GPU is waited for only once."""
    parts = terms._asdict()
    del parts["ious"]
    numbers = torch.stack([part.detach() for part in parts.values()]).tolist()
    return dict(zip(parts, numbers, strict=True))


def describe_non_finite(values: Mapping[str, float]) -> str:
    """What to say of a loss that is no number."""
    parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
    return (
        f"training became non-finite: {parts}. Nothing was updated; lower the learning rate and go "
        "on from a checkpoint"
    )
