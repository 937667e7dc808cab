"""The actor that brings the metrics of training to the driver.

Apart from what the workers run, so that its process does not import torch, which takes seconds.
"""

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Row = tuple[int, dict[str, float]]
"""Optimiser steps done, and the metrics of the last of them."""


class Collector:
    """An actor on the driver's node that waits with metrics until the driver asks for them.

    Rows are kept by step: one that is done again after a restart counts once.
    """

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, float]] = {}
        self._newest = 0
        self._failure: str | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Rows that were handed to the driver already are not kept again."""
        self._rows |= {step: row for step, row in rows if step > self._newest}

    def take(self) -> list[Row]:
        """Rows since the last call, in order."""
        rows = sorted(self._rows.items())
        self._rows = {}
        self._newest = max([self._newest, *(step for step, _ in rows)])
        return rows

    def fail(self, message: str) -> None:
        """Keep the first reason why training cannot go on."""
        self._failure = self._failure or message

    def failure(self) -> str | None:
        """Why training cannot go on; None while it can."""
        return self._failure


def start_collector() -> Any:
    """A collector on this node, which is the driver's."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Collector).options(num_cpus=0, scheduling_strategy=here).remote()
