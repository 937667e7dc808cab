"""The official counting of BDD100K against its rules written out frame by frame."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pipeline.metrics.bdd_counting import BddCounting

KINDS = ("dense", "sparse", "ties", "equal", "tracks")


def _count_by_the_rules(data: dict[str, Any]) -> dict[str, Any]:
    """py-motmetrics' rules as the benchmark describes them, one event at a time."""
    last_track: dict[int, int] = {}
    history: dict[int, list[bool]] = {}
    switches, iou_sum = 0, 0.0
    for truth_ids, track_ids, ious in zip(
        data["gt_ids"], data["tracker_ids"], data["similarity_scores"], strict=True
    ):
        truth_ids, track_ids = truth_ids.tolist(), track_ids.tolist()
        matched: dict[int, int] = {}
        for i, identity in enumerate(truth_ids):  # continue, in file order
            track = last_track.get(identity)
            if track in track_ids:
                j = track_ids.index(track)
                if j not in matched.values() and 1 - ious[i, j] <= 0.5:
                    matched[i] = j
        for i, j in _match_rest(ious, matched):
            matched[i] = j
            if last_track.get(truth_ids[i], track_ids[j]) != track_ids[j]:
                switches += 1
        for i, identity in enumerate(truth_ids):
            history.setdefault(identity, []).append(i in matched)
            if i in matched:
                last_track[identity] = track_ids[matched[i]]
                iou_sum += ious[i, matched[i]]
    ratios = [sum(seen) / len(seen) for seen in history.values()]
    true_positives = sum(map(sum, history.values()))
    return {
        "GT": data["num_gt_dets"],
        "TP": true_positives,
        "FP": data["num_tracker_dets"] - true_positives,
        "FN": data["num_gt_dets"] - true_positives,
        "IDSw": switches,
        "MT": sum(ratio >= 0.8 for ratio in ratios),
        "PT": sum(0.2 <= ratio < 0.8 for ratio in ratios),
        "ML": sum(ratio < 0.2 for ratio in ratios),
        "FM": sum(map(_changes_to_missed, history.values())),
        "IoU_sum": iou_sum,
    }


def _match_rest(ious: Any, matched: dict[int, int]) -> list[tuple[int, int]]:
    distance = np.where(1 - ious <= 0.5, 1 - ious, np.inf)
    distance[list(matched)] = np.inf
    distance[:, list(matched.values())] = np.inf
    if not np.isfinite(distance).any():
        return []
    cost = np.where(np.isfinite(distance), distance, min(distance.shape) + 1.0)
    pairs = zip(*linear_sum_assignment(cost), strict=True)
    return [(int(i), int(j)) for i, j in pairs if np.isfinite(distance[i, j])]


def _changes_to_missed(seen: Sequence[bool]) -> int:
    if True not in seen:
        return 0
    first, last = seen.index(True), len(seen) - 1 - seen[::-1].index(True)
    between = seen[first : last + 1]
    return sum(a and not b for a, b in pairwise(between))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_rules(kind: str, random_lists: Callable[..., dict[str, Any]]) -> None:
    for seed in range(60):
        data = random_lists(seed, kind)
        found = BddCounting().eval_sequence(data)
        for name, value in _count_by_the_rules(data).items():
            assert found[name] == pytest.approx(value, rel=1e-12, abs=0), (seed, name)


def _one_object(matches: Sequence[int | None], iou: float = 1.0) -> dict[str, Any]:
    """One identity in every frame; the track that covers it in each, or None."""
    tracks = [np.array([] if track is None else [track], int) for track in matches]
    return {
        "num_timesteps": len(matches),
        "num_gt_ids": 1,
        "num_tracker_ids": 2,
        "num_gt_dets": len(matches),
        "num_tracker_dets": sum(map(len, tracks)),
        "gt_ids": [np.array([0])] * len(matches),
        "tracker_ids": tracks,
        "similarity_scores": [np.full((1, len(ids)), iou) for ids in tracks],
    }


def test_an_iou_of_exactly_one_half_matches() -> None:
    assert BddCounting().eval_sequence(_one_object([0], iou=0.5))["TP"] == 1
    assert BddCounting().eval_sequence(_one_object([0], iou=0.4999))["TP"] == 0


@pytest.mark.parametrize(
    ("matches", "tracked"),
    [
        ([0, 0, 0, 0, None], (1, 0, 0)),  # 0.8: mostly tracked, which trackeval denies
        ([0, 0, 0, None], (0, 1, 0)),
        ([0, None, None, None, None], (0, 1, 0)),  # 0.2
        ([0, None, None, None, None, None], (0, 0, 1)),
    ],
)
def test_borders_of_tracked_ratios(
    matches: Sequence[int | None], tracked: tuple[int, int, int]
) -> None:
    fields = BddCounting().eval_sequence(_one_object(matches))
    assert (fields["MT"], fields["PT"], fields["ML"]) == tracked


@pytest.mark.parametrize(
    ("matches", "switches", "fragments"),
    [
        ([0, None, None, 0], 0, 1),
        ([0, None, 1], 1, 1),
        ([0, 1, 0], 2, 0),
        ([None, 0, 0, None], 0, 0),  # missed before the first and after the last match
        ([0, None, 0, None, 0], 0, 2),
    ],
)
def test_switches_and_fragments(
    matches: Sequence[int | None], switches: int, fragments: int
) -> None:
    fields = BddCounting().eval_sequence(_one_object(matches))
    assert (fields["IDSw"], fields["FM"]) == (switches, fragments)


def test_an_identity_keeps_its_last_known_track_after_any_gap() -> None:
    """trackeval remembers one frame only: it would take the better box and count a switch."""
    data = _one_object([0, None, None, 0])
    data["tracker_ids"][3] = np.array([1, 0])
    data["similarity_scores"][3] = np.array([[0.9, 0.6]])
    data["num_tracker_dets"] += 1
    fields = BddCounting().eval_sequence(data)
    assert (fields["IDSw"], fields["FP"]) == (0, 1)
    assert fields["IoU_sum"] == pytest.approx(1.6)


def test_more_pairs_come_before_better_pairs() -> None:
    data = {
        "num_timesteps": 1,
        "num_gt_ids": 2,
        "num_tracker_ids": 2,
        "num_gt_dets": 2,
        "num_tracker_dets": 2,
        "gt_ids": [np.array([0, 1])],
        "tracker_ids": [np.array([0, 1])],
        "similarity_scores": [np.array([[1.0, 0.5], [0.5, 0.0]])],
    }
    fields = BddCounting().eval_sequence(data)
    assert (fields["TP"], fields["IoU_sum"]) == (2, 1.0)


def test_a_class_without_truth_has_no_score() -> None:
    empty = _one_object([])
    alone = _one_object([0, 0]) | {
        "num_gt_ids": 0,
        "num_gt_dets": 0,
        "gt_ids": [np.array([], int)] * 2,
        "similarity_scores": [np.zeros((0, 1))] * 2,
    }
    nothing = BddCounting().eval_sequence(empty | {"num_gt_ids": 0})
    only_tracks = BddCounting().eval_sequence(alone)
    assert math.isnan(nothing["MOTA"])
    assert math.isnan(nothing["MOTP"])
    assert only_tracks["MOTA"] == -math.inf
    assert (only_tracks["FP"], only_tracks["FN"], only_tracks["ML"]) == (2, 0, 0)


def test_the_class_average_counts_missing_scores_as_zero() -> None:
    metric = BddCounting()
    whole = metric.eval_sequence(_one_object([0, 0]))
    missed = metric.eval_sequence(_one_object([None, None]))
    nothing = metric.eval_sequence(_one_object([]) | {"num_gt_ids": 0})
    classes = {"a": whole, "b": missed, "c": nothing, "d": nothing}
    average = metric.combine_classes_class_averaged(classes)
    pooled = metric.combine_classes_det_averaged(classes)
    assert (average["MOTA"], average["MOTP"], average["FN"]) == (0.25, 0.25, 2)
    assert (pooled["MOTA"], pooled["MOTP"], pooled["FN"]) == (0.5, 1.0, 2)


def test_empty_classes_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="averages over all classes"):
        BddCounting().combine_classes_class_averaged({}, ignore_empty_classes=True)
