"""OverlapTracker: the assignment against all permutations, and the rules it shares with QDTrack."""

import itertools
from typing import Any

import numpy as np
import pytest

from models.baselines.overlap import OverlapConfig, OverlapTracker
from models.config_io import config_from_dict, config_to_dict
from models.qdtrack.association import QuasiDenseTracker, TrackerConfig


# Scenes by hand: each detection is (x of a 10 x 10 box, score, class).
def frame(*detections: tuple[float, float, int]) -> tuple[np.ndarray, ...]:
    boxes = np.array([[x, 0, x + 10, 10] for x, _, _ in detections], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in detections], np.float32)
    classes = np.array([label for *_, label in detections], np.int64)
    return boxes, scores, classes, np.zeros((len(detections), 0), np.float32)


def run(frames: dict[int, tuple[np.ndarray, ...]], **fields: Any) -> list[list[int]]:
    tracker = OverlapTracker(OverlapConfig(**fields))
    return [tracker.update(index, *columns).tolist() for index, columns in frames.items()]


def test_the_assignment_has_the_largest_total_overlap_above_the_threshold() -> None:
    rng = np.random.default_rng(0)
    settings = {"match_iou_thr": 0.2, "nms_class_iou_thr": 1.0}
    for _ in range(40):
        size = int(rng.integers(2, 5))
        corner = rng.uniform(0, 12, (2, size, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 14, (2, size, 2))], axis=2)
        boxes = boxes.astype(np.float32)
        scores = np.linspace(0.99, 0.9, size, dtype=np.float32)
        tracker = OverlapTracker(OverlapConfig(**settings))
        columns = (scores, np.zeros(size, int), None)
        tracker.update(0, boxes[0], *columns)
        found = tracker.update(1, boxes[1], *columns)
        overlap = np.array([[_iou(one, two) for two in boxes[0]] for one in boxes[1]])
        overlap[overlap <= 0.2] = 0
        best = max(
            itertools.permutations(range(size)),
            key=lambda p: sum(overlap[row, column] for row, column in enumerate(p)),
        )
        expected = [p if overlap[row, p] > 0 else -1 for row, p in enumerate(best)]
        assert np.where(found < size, found, -1).tolist() == expected


def _iou(one: np.ndarray, two: np.ndarray) -> float:
    width = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    height = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    area = (one[2] - one[0]) * (one[3] - one[1]) + (two[2] - two[0]) * (two[3] - two[1])
    return float(width * height / (area - width * height))


def test_the_best_pair_gives_way_to_the_better_total() -> None:
    # The detection at 2 overlaps the tracks at 0 and 5 by 8/12 and 7/13, the one at -3 only the
    # first, by 7/13: two pairs of 7/13 beat one of 8/12.
    first = frame((0, 0.95, 0), (5, 0.9, 0))
    assert run({0: first, 1: frame((2, 0.95, 0), (-3, 0.9, 0))})[1] == [1, 0]


def test_a_pair_at_or_below_the_threshold_neither_matches_nor_blocks() -> None:
    first = frame((0, 0.9, 0))
    assert run({0: first, 1: frame((6, 0.9, 0))}, match_iou_thr=0.25)[1] == [1]  # exactly 4/16
    assert run({0: first, 1: frame((6, 0.9, 0))}, match_iou_thr=0.24)[1] == [0]


def test_a_track_is_compared_by_its_last_box_also_after_a_gap() -> None:
    frames = {0: frame((0, 0.9, 0)), 1: frame((4, 0.9, 0)), 9: frame((8, 0.9, 0))}
    assert run(frames) == [[0], [0], [0]]
    assert run({0: frames[0], 9: frames[9]}) == [[0], [1]]


def test_classes_match_among_themselves_unless_switched_off() -> None:
    frames = {0: frame((0, 0.9, 0)), 1: frame((0, 0.9, 1))}
    assert run(frames)[1] == [1]
    assert run(frames, with_cats=False)[1] == [0]


def test_weak_detections_continue_no_track_and_start_none() -> None:
    first = frame((0, 0.9, 0))
    assert run({0: first, 1: frame((0, 0.5, 0))})[1] == [-1]  # exactly the threshold is weak
    assert run({0: first, 1: frame((0, 0.51, 0))})[1] == [0]
    assert run({0: frame((0, 0.8, 0))}) == [[-1]]  # exactly the threshold of births


@pytest.mark.parametrize(("gap", "expected"), [(9, 0), (10, 2)])
def test_expiry_comes_after_matching_at_the_full_memory(gap: int, expected: int) -> None:
    first, other = frame((0, 0.9, 0)), frame((90, 0.9, 0))
    assert run({0: first, gap: other, gap + 1: first})[2] == [expected]
    empty = tuple(column[:0] for column in first)
    assert run({0: first, 10: empty, 11: first})[2] == [1]
    assert run({0: first, 10: first})[1] == [0]


def test_births_and_duplicates_are_those_of_the_quasi_dense_tracker() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        size = int(rng.integers(1, 15))
        corner = rng.uniform(0, 40, (size, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(15, 25, (size, 2))], axis=1)
        columns = (boxes, rng.uniform(0.3, 1, size), rng.integers(0, 3, size))
        learned = QuasiDenseTracker(TrackerConfig(init_score_thr=0.4))
        by_overlap = OverlapTracker(OverlapConfig(init_score_thr=0.4))
        expected = learned.update(0, *columns, rng.normal(size=(size, 4)))
        assert by_overlap.update(0, *columns, None).tolist() == expected.tolist()


def test_permuting_the_rows_only_permutes_the_ids() -> None:
    rng = np.random.default_rng(5)
    straight, shuffled = (OverlapTracker(OverlapConfig(init_score_thr=0.6)) for _ in range(2))
    for frame_index in range(20):
        corner = rng.uniform(0, 60, (12, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(15, 25, (12, 2))], axis=1)
        columns = (boxes, rng.uniform(0.3, 1, 12), rng.integers(0, 2, 12))
        order = rng.permutation(12)
        expected = straight.update(frame_index, *columns, None)[order]
        found = shuffled.update(frame_index, *(column[order] for column in columns), None)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("init_score_thr", 1.1),
        ("obj_score_thr", -0.1),
        ("match_iou_thr", 1.5),
        ("memo_frames", -1),
        ("nms_backdrop_iou_thr", -0.5),
        ("nms_class_iou_thr", float("nan")),
    ],
)
def test_a_config_out_of_range_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        OverlapConfig(**{field: value})


def test_config_round_trip() -> None:
    config = OverlapConfig(match_iou_thr=0.4)
    assert config_from_dict(OverlapConfig, config_to_dict(config)) == config
    assert OverlapTracker(config).config is config


def test_bad_input_is_named() -> None:
    boxes, scores, classes, _ = frame((0, 0.9, 0))
    tracker = OverlapTracker(OverlapConfig())
    with pytest.raises(ValueError, match="frame 3: boxes_xyxy holds nan in row 0"):
        tracker.update(3, boxes * np.nan, scores, classes, None)
    tracker.update(3, boxes, scores, classes, None)
    with pytest.raises(ValueError, match="frame 2: comes after frame 3"):
        tracker.update(2, boxes, scores, classes, None)
