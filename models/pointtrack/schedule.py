"""How the association network of PointTrack is trained: Adam with two drops of its rate.

No torch is loaded until an optimiser is built: reading a configuration must cost nothing.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Adam


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Adam, with the rate constant within an epoch; the defaults are the released car model's."""

    epochs: int = 34
    """Epochs, numbered from 1 as in the release."""
    items_per_epoch: int = 500
    """Optimiser steps of an epoch, each on one training item."""
    learning_rate: float = 2e-3
    """Of the first epochs."""
    weight_decay: float = 1e-4
    """L2 penalty on every parameter, norms and biases too."""
    step_epochs: tuple[int, ...] = (20, 30)
    """Epochs, from 1, at whose start the rate is multiplied by `step_factor`."""
    step_factor: float = 0.1
    """What the rate is multiplied by."""

    def __post_init__(self) -> None:
        for name in ("epochs", "items_per_epoch"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value!r}, expected a number of at least 1")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}, expected a number of at least 0")
        if not 0 <= self.step_factor <= 1:
            raise ValueError(f"step_factor is {self.step_factor!r}, expected a share from 0 to 1")
        if (
            tuple(sorted(set(self.step_epochs))) != self.step_epochs
            or min(self.step_epochs, default=1) < 1
        ):
            raise ValueError(
                f"step_epochs is {self.step_epochs!r}, expected rising epoch numbers from 1 on"
            )


def learning_rate(epoch: int, config: ScheduleConfig) -> float:
    """Rate of every step of an epoch.

    Args:
        epoch: from 1.
        config: the schedule.

    Raises:
        ValueError: an epoch that the schedule does not have.

    >>> [round(learning_rate(epoch, ScheduleConfig()), 9) for epoch in (1, 19, 20, 29, 30, 34)]
    [0.002, 0.002, 0.0002, 0.0002, 2e-05, 2e-05]
    """
    if not 1 <= epoch <= config.epochs:
        raise ValueError(f"epoch is {epoch}, expected 1 to {config.epochs}")
    num_drops = sum(epoch >= start for start in config.step_epochs)
    return config.learning_rate * config.step_factor**num_drops


def build_optimizer(model: "nn.Module", config: ScheduleConfig) -> "Adam":
    """Adam over the parameters that are trained, at the rate of the first epoch.

    The release skips the step of an item whose loss is exactly 0: with weight decay and momentum
    a step without gradients would move the weights, too.
    """
    from torch.optim import Adam

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Adam(trained, lr=learning_rate(1, config), weight_decay=config.weight_decay)
