"""CLEAR of whole sequences against trackeval's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trackeval

from pipeline.metrics.clear import CLEAR

KINDS = ("dense", "sparse", "ties", "equal", "tracks")
QUIET = {"PRINT_CONFIG": False}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_trackeval(kind: str, random_lists: Callable[..., dict[str, Any]]) -> None:
    theirs = trackeval.metrics.CLEAR(QUIET)
    for seed in range(60):
        data = random_lists(seed, kind)
        expected, found = theirs.eval_sequence(data), CLEAR().eval_sequence(data)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if name in theirs.integer_fields:
                assert found[name] == value, (seed, name)
            else:
                assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-12), (seed, name)


def test_continuity_looks_over_a_frame_without_tracks() -> None:
    """An identity's row in a frame without tracks once hid its match in the frame before."""
    similarity = np.array([[0.6, 0.9], [0.9, 0.6]])
    data = {
        "num_timesteps": 3,
        "num_gt_ids": 2,
        "num_tracker_ids": 2,
        "num_gt_dets": 6,
        "num_tracker_dets": 4,
        "gt_ids": [np.array([0, 1])] * 3,
        "tracker_ids": [np.array([0, 1]), np.array([], int), np.array([0, 1])],
        "similarity_scores": [np.eye(2), np.zeros((2, 0)), similarity],
    }
    fields = CLEAR().eval_sequence(data)
    assert (fields["IDSW"], fields["Frag"], fields["CLR_TP"]) == (0, 0, 4)
    assert fields["MOTP_sum"] == pytest.approx(1 + 1 + 0.6 + 0.6)
