"""Which sequences a trial sees first, and which trials go on to see more.

Successive halving over sequences (Jamieson and Talwalkar, 2016; Li et al., 2018): every trial is
scored on the first sequences of one fixed order, the best third of all trials so far on three times
as many, and so on up to all of them. The order is such that the first sequences stand for all, so
that an early score is a forecast of the final one. Nothing here depends on time or on who was
faster: a rung is decided when all trials of the batch have reached it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from datasets.schema import Float64

REDUCTION: Final = 3
"""One trial in so many goes on; every rung has so many times as many sequences."""

_SMALLEST_RUNG: Final = 4
"""Fewer sequences than these say too little to stop a trial."""


def stratified_order(features: Mapping[str, Sequence[float]], seed: int) -> list[str]:
    """All names, in an order whose every beginning resembles the whole.

    The next one is always the sequence that brings the mean of those chosen closest to the mean of
    all (herding, Welling 2009), each feature in units of its mean; among equals a seeded shuffle
    decides.

    Args:
        features: by name of sequence, equally many non-negative numbers, such as boxes per class.
        seed: of the shuffle.

    >>> stratified_order({"a": [0], "b": [10], "c": [5], "d": [5]}, seed=0)[:2]
    ['c', 'd']
    """
    names = sorted(features)
    if not names:
        return []
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    table: Float64 = np.array([features[name] for name in shuffled], np.float64)
    table = table.reshape(len(shuffled), -1)
    mean = table.mean(axis=0)
    table = table[:, mean > 0] / mean[mean > 0]
    left = list(range(len(shuffled)))
    total = np.zeros(table.shape[1])
    order = []
    for count in range(1, len(shuffled) + 1):
        distance = (((total + table[left]) / count - 1.0) ** 2).sum(axis=1)
        # Rounded, so that equals are equal and not told apart by a last bit.
        chosen = left.pop(int(np.argmin(distance.round(9))))
        total += table[chosen]
        order.append(shuffled[chosen])
    return order


def rung_sizes(num_sequences: int, *, is_pruned: bool) -> list[int]:
    """Numbers of sequences after which trials are compared; the last one is all of them.

    >>> rung_sizes(200, is_pruned=True), rung_sizes(10, is_pruned=True)
    ([8, 23, 67, 200], [4, 10])
    """
    sizes = [num_sequences]
    while is_pruned:
        smaller = math.ceil(sizes[0] / REDUCTION)
        if smaller < _SMALLEST_RUNG or smaller == sizes[0]:
            break
        sizes.insert(0, smaller)
    return sizes


def promoted(scores: Mapping[int, float], earlier: Sequence[float], *, maximise: bool) -> set[int]:
    """Which trials of a batch go on: those among the best third of all that reached this rung.

    Args:
        scores: of the batch's trials at this rung, by number; finite.
        earlier: scores at this rung of all trials before the batch.
        maximise: whether more is better.

    >>> sorted(promoted({7: 30.0, 8: 50.0, 9: 10.0}, [20.0, 40.0, 45.0], maximise=True))
    [8]
    """
    pool = sorted([*earlier, *scores.values()], reverse=maximise)
    if not pool:
        return set()
    limit = pool[math.ceil(len(pool) / REDUCTION) - 1]
    return {
        number
        for number, score in scores.items()
        if (score >= limit if maximise else score <= limit)
    }
