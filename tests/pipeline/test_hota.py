"""HOTA of whole sequences against trackeval's, and its own shortcuts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trackeval

from pipeline.metrics.class_data import ClassData
from pipeline.metrics.hota import HOTA, match_frames

KINDS = ("dense", "sparse", "ties", "equal", "tracks")


def _assert_equal_fields(ours: dict[str, Any], theirs: dict[str, Any], integers: list[str]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if name in integers:
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
        else:
            np.testing.assert_allclose(ours[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_trackeval(kind: str, random_lists: Callable[..., dict[str, Any]]) -> None:
    theirs = trackeval.metrics.HOTA()
    for seed in range(60):
        data = random_lists(seed, kind)
        expected = theirs.eval_sequence(data)
        _assert_equal_fields(HOTA().eval_sequence(data), expected, theirs.integer_array_fields)


@pytest.mark.parametrize("kind", KINDS)
def test_flat_data_serves_trackeval_too(
    kind: str, random_lists: Callable[..., dict[str, Any]]
) -> None:
    data = random_lists(1, kind)
    theirs = trackeval.metrics.HOTA()
    expected = theirs.eval_sequence(data)
    found = theirs.eval_sequence(ClassData.from_lists(data))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_combined_as_trackeval_combines(
    kind: str, random_lists: Callable[..., dict[str, Any]]
) -> None:
    data = {f"s{seed}": random_lists(seed, kind) for seed in range(5)}
    ours, theirs = HOTA(), trackeval.metrics.HOTA()
    found = ours.combine_sequences({n: ours.eval_sequence(d) for n, d in data.items()})
    expected = theirs.combine_sequences({n: theirs.eval_sequence(d) for n, d in data.items()})
    _assert_equal_fields(found, expected, theirs.integer_array_fields)


def test_a_hand_computed_switch() -> None:
    """One object over four frames, two tracks of two frames each, IoU 1: A = 2 / 4 for each."""
    data = {
        "num_timesteps": 4,
        "num_gt_ids": 1,
        "num_tracker_ids": 2,
        "num_gt_dets": 4,
        "num_tracker_dets": 4,
        "gt_ids": [np.array([0])] * 4,
        "tracker_ids": [np.array([0]), np.array([0]), np.array([1]), np.array([1])],
        "similarity_scores": [np.array([[1.0]])] * 4,
    }
    fields = HOTA().eval_sequence(data)
    assert fields["DetA"].tolist() == [1.0] * 19
    assert fields["AssA"].tolist() == [0.5] * 19
    assert fields["HOTA"] == pytest.approx([0.5**0.5] * 19)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 0.7, 0.95])
def test_a_threshold_that_is_reached_exactly_counts(alpha: float) -> None:
    data = {
        "num_timesteps": 1,
        "num_gt_ids": 1,
        "num_tracker_ids": 1,
        "num_gt_dets": 1,
        "num_tracker_dets": 1,
        "gt_ids": [np.array([0])],
        "tracker_ids": [np.array([0])],
        "similarity_scores": [np.array([[alpha]])],
    }
    reached = HOTA().eval_sequence(data)["HOTA_TP"].sum()
    assert reached == round(alpha / 0.05)


def test_frames_without_doubt_are_matched_as_a_hungarian_would() -> None:
    """Both shortcuts, by truth and by track, and a frame in which neither decides."""
    frames = [
        np.array([[0.9, 0.3, 0.0], [0.0, 0.8, 0.1]]),  # every truth row has its own favourite
        np.array([[0.9], [0.4]]),  # two want the track, the track wants the first
        np.array([[0.9, 0.8], [0.8, 0.1]]),  # greedy gives 1.0, the best is 1.6
    ]
    data = ClassData.from_lists(
        {
            "num_timesteps": 3,
            "num_gt_ids": 2,
            "num_tracker_ids": 3,
            "gt_ids": [np.arange(len(frame)) for frame in frames],
            "tracker_ids": [np.arange(frame.shape[1]) for frame in frames],
            "similarity_scores": frames,
        }
    )
    matched = match_frames(data, data.pair_iou)
    chosen = [
        data.pair_iou[data.pairs_of_frame(f)][matched[data.pairs_of_frame(f)]] for f in range(3)
    ]
    assert [ious.tolist() for ious in chosen] == [[0.9, 0.8], [0.9], [0.8, 0.8]]
