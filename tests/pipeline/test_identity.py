"""Identity scores against trackeval's dense assignment and against every possible pairing."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import trackeval

from pipeline.metrics.class_data import ClassData
from pipeline.metrics.identity import Identity, most_shared_frames

KINDS = ("dense", "sparse", "ties", "equal", "tracks")


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_trackeval(kind: str, random_lists: Callable[..., dict[str, Any]]) -> None:
    theirs = trackeval.metrics.Identity({"PRINT_CONFIG": False})
    for seed in range(60):
        data = random_lists(seed, kind)
        assert Identity().eval_sequence(data) == theirs.eval_sequence(data), seed


@pytest.mark.parametrize("seed", range(20))
def test_most_shared_frames_is_the_best_of_all_pairings(seed: int) -> None:
    """Few different counts, so that most optima are tied; several parts in one graph."""
    rng = np.random.default_rng(seed)
    table = np.zeros((6, 6), int)
    for corner in (0, 3):
        shape = rng.integers(1, 4, 2)
        block = rng.integers(0, 4, shape)
        table[corner : corner + shape[0], corner : corner + shape[1]] = block
    best = max(sum(table[i, p] for i, p in enumerate(order)) for order in permutations(range(6)))
    rows, columns = np.nonzero(table)
    shuffled = rng.permutation(len(rows))
    found = most_shared_frames(
        rows[shuffled], columns[shuffled], table[rows[shuffled], columns[shuffled]]
    )
    assert found == best


def test_nothing_shared() -> None:
    none = np.zeros(0, int)
    assert most_shared_frames(none, none, none) == 0


def test_ten_thousand_tracks_of_one_frame_fit_into_memory() -> None:
    """trackeval needs two matrices of 10,200 x 10,200 float64 for this: 1.6 GB."""
    num_truth, num_frames = 200, 50
    rows = np.arange(num_truth * num_frames)
    data = ClassData(
        num_frames=num_frames,
        truth_frame=rows // num_truth,
        truth_id=rows % num_truth,
        num_truth_ids=num_truth,
        truth_row=rows,
        track_frame=rows // num_truth,
        track_id=rows,
        num_track_ids=len(rows),
        track_row=rows,
        pair_truth=rows,
        pair_track=rows,
        pair_iou=np.full(len(rows), 0.75),
    )
    fields = Identity().eval_sequence(data)
    assert (fields["IDTP"], fields["IDFN"], fields["IDFP"]) == (200, 9800, 9800)
