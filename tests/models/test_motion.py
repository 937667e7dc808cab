"""The library's trackers behind our rules: classes, ids, order of rows, frames left out."""

import itertools
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.baselines.motion import (
    ByteTrackConfig,
    MotionConfig,
    MotionTracker,
    OcSortConfig,
    SortConfig,
)
from models.config_io import config_from_dict, config_to_dict

Columns = tuple[np.ndarray, ...]

CONFIGS: list[MotionConfig] = [SortConfig(), ByteTrackConfig(), OcSortConfig()]
EVERY_KIND = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


# Scenes by hand: each detection is (x of a 20 x 20 box, score, class).
def frame(*detections: tuple[float, float, int]) -> Columns:
    boxes = np.array([[x, 0, x + 20, 20] for x, _, _ in detections], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in detections], np.float32)
    classes = np.array([label for *_, label in detections], np.int64)
    return boxes, scores, classes, np.zeros((len(detections), 0), np.float32)


def run(config: MotionConfig, frames: Mapping[int, Columns]) -> list[list[int]]:
    tracker = MotionTracker(config)
    return [tracker.update(index, *columns).tolist() for index, columns in frames.items()]


def random_sequence(seed: int, num_frames: int = 20) -> dict[int, Columns]:
    """Ten objects of two classes in a crowd, moving evenly, with noise, gaps and false boxes."""
    rng = np.random.default_rng(seed)
    corner, step = rng.uniform(0, 120, (10, 2)), rng.normal(0, 4, (10, 2))
    label = rng.integers(0, 2, 10)
    frames = {}
    for index in range(num_frames):
        seen = np.flatnonzero(rng.random(10) < 0.8)
        here = corner[seen] + index * step[seen] + rng.normal(0, 1, (len(seen), 2))
        here = np.concatenate([here, rng.uniform(0, 120, (3, 2))])
        boxes = np.concatenate([here, here + 30], axis=1).astype(np.float32)
        classes = np.concatenate([label[seen], rng.integers(0, 2, 3)])
        frames[index] = (boxes, rng.uniform(0.1, 1, len(here)), classes, np.zeros((len(here), 0)))
    return frames


@EVERY_KIND
def test_a_moving_box_keeps_its_id_also_over_a_gap(config: MotionConfig) -> None:
    frames = {index: frame((8 * index, 0.9, 0)) for index in [*range(6), *range(9, 14)]}
    ids = [number for [number] in run(config, frames)]
    assert 0 in ids[:3]
    assert set(ids[ids.index(0) :]) <= {0, -1}, "one object, one track"
    assert ids[-1] == 0
    # The boxes before and after the gap do not overlap: only motion can have joined them.
    assert 9 * 8 - 5 * 8 > 20


@EVERY_KIND
def test_crossing_objects_keep_their_ids(config: MotionConfig) -> None:
    frames = {i: frame((10 * i, 0.95, 0), (195 - 10 * i, 0.9, 0)) for i in range(20)}
    ids = run(config, frames)
    assert ids[3] == [0, 1]
    assert ids[19] == [0, 1]


@EVERY_KIND
def test_births_wait_and_ids_follow_the_order_of_publication(config: MotionConfig) -> None:
    early, late = [(0.0, 0.8, 0), (50.0, 0.85, 1)], [(100.0, 0.9, 1), (200.0, 0.95, 0)]
    frames = {i: frame(*early, *(late if i >= 5 else [])) for i in range(10)}
    ids = run(config, frames)
    assert ids[0] == [-1, -1]
    # Two are published in the same frame: the higher score comes first, across classes.
    assert ids[4] == [1, 0]
    assert ids[5] == [1, 0, -1, -1]
    assert ids[9] == [1, 0, 3, 2]


def test_weak_detections_start_no_track() -> None:
    def published(config: MotionConfig, score: float) -> bool:
        return run(config, {i: frame((0, score, 0)) for i in range(5)})[4] == [0]

    for config, start in ((SortConfig(), 0.25), (ByteTrackConfig(), 0.7), (OcSortConfig(), 0.6)):
        assert published(config, start + 0.01)
        assert not published(config, start - 0.01)


def test_only_bytetrack_continues_a_track_by_weak_detections() -> None:
    frames = {i: frame((4 * i, 0.9 if i < 5 else 0.2, 0)) for i in range(8)}
    assert run(ByteTrackConfig(), frames)[7] == [0]
    assert run(OcSortConfig(), frames)[7] == [-1]


@EVERY_KIND
@pytest.mark.parametrize("missed", [4, 5, 6])
def test_memory_is_a_number_of_missed_frames(config: MotionConfig, missed: int) -> None:
    frames = {i: frame((0, 0.9, 0)) for i in [*range(5), *range(5 + missed, 10 + missed)]}
    assert run(config, frames)[-1] == [0 if missed <= config.max_missed_frames else 1]


@EVERY_KIND
def test_frames_left_out_are_frames_without_detections(config: MotionConfig) -> None:
    nothing = frame()
    for seed in range(5):
        frames = random_sequence(seed)
        for gap in (6, 7, 8, 12):
            del frames[gap]
        filled = {i: frames.get(i, nothing) for i in range(20)}
        ids = dict(zip(filled, run(config, filled), strict=True))
        assert [ids[i] for i in frames] == run(config, frames)


@EVERY_KIND
def test_a_class_ages_while_others_are_seen(config: MotionConfig) -> None:
    # Class 0 is away for longer than it is remembered; class 1 is there all the time.
    away = range(5, 6 + config.max_missed_frames)
    frames = {
        i: frame((100, 0.9, 1), *([] if i in away else [(0.0, 0.9, 0)]))
        for i in range(away.stop + 5)
    }
    ids = run(config, frames)
    assert ids[4] == [0, 1]
    assert ids[-1] == [0, 2]


@EVERY_KIND
def test_classes_never_match_each_other(config: MotionConfig) -> None:
    frames = {i: frame((0, 0.9, 0 if i < 5 else 1)) for i in range(10)}
    ids = run(config, frames)
    assert (ids[4], ids[9]) == ([0], [1])
    both = {i: frame((0, 0.9, 0), (0, 0.8, 1)) for i in range(5)}
    assert run(config, both)[4] == [0, 1]


@EVERY_KIND
def test_ids_do_not_leak_between_sequences(config: MotionConfig) -> None:
    """Libraries of trackers count ids in the class: a second sequence began where one ended."""
    sequences = [random_sequence(seed) for seed in (0, 1)]
    first = run(config, sequences[0])
    again = [run(config, sequences[seed]) for seed in (1, 0, 0, 1)]
    assert again[1] == again[2] == first
    assert again[3] == again[0]
    for ids in (first, again[0]):
        born = [*dict.fromkeys(n for row in ids for n in sorted(row) if n >= 0)]
        assert born == [*range(len(born))]
        assert len(born) > 5


@EVERY_KIND
def test_interleaved_sequences_do_not_see_each_other(config: MotionConfig) -> None:
    sequences = [random_sequence(seed) for seed in (2, 3)]
    alone = [run(config, frames) for frames in sequences]
    trackers = [MotionTracker(config) for _ in sequences]
    for index, (tracker, frames, expected) in itertools.product(
        range(20), list(zip(trackers, sequences, alone, strict=True))
    ):
        assert tracker.update(index, *frames[index]).tolist() == expected[index]


@EVERY_KIND
def test_permuting_the_rows_only_permutes_the_ids(config: MotionConfig) -> None:
    rng = np.random.default_rng(5)
    for seed in range(5):
        straight, shuffled = MotionTracker(config), MotionTracker(config)
        for index, columns in random_sequence(seed).items():
            order = rng.permutation(len(columns[0]))
            expected = straight.update(index, *columns)[order]
            found = shuffled.update(index, *(column[order] for column in columns))
            assert found.tolist() == expected.tolist()


@EVERY_KIND
def test_no_id_twice_in_a_frame_and_no_input_changed(config: MotionConfig) -> None:
    tracker = MotionTracker(config)
    for index, columns in random_sequence(7).items():
        before = [column.copy() for column in columns]
        ids = tracker.update(index, *columns)
        assert ids.dtype == np.int64
        published = ids[ids >= 0].tolist()
        assert len(published) == len(set(published))
        assert all((a == b).all() for a, b in zip(before, columns, strict=True))


def test_boxes_without_area_are_no_reason_to_stop() -> None:
    for config in CONFIGS:
        tracker = MotionTracker(config)
        for index in range(5):
            boxes = np.array([[0, 0, 20, 20], [50, 0, 50, 20], [90, 5, 110, 5]], np.float32)
            ids = tracker.update(index, boxes, [0.9, 0.8, 0.7], [0, 0, 0], None).tolist()
        assert ids == [0, -1, -1]


@pytest.mark.parametrize(
    ("config_class", "field", "value"),
    [
        (SortConfig, "init_score_thr", 1.1),
        (SortConfig, "match_iou_thr", -0.1),
        (SortConfig, "min_frames", 0),
        (SortConfig, "max_missed_frames", -1),
        (ByteTrackConfig, "init_score_thr", -0.1),
        (ByteTrackConfig, "high_score_thr", float("nan")),
        (ByteTrackConfig, "match_iou_thr", 2.0),
        (OcSortConfig, "high_score_thr", 1.5),
        (OcSortConfig, "match_iou_thr", 1.5),
        (OcSortConfig, "direction_weight", -0.5),
        (OcSortConfig, "direction_frames", 0),
        (OcSortConfig, "min_frames", 0),
    ],
)
def test_a_config_out_of_range_names_its_field(config_class: Any, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        config_class(**{field: value})


@EVERY_KIND
def test_config_round_trip(config: MotionConfig) -> None:
    assert config_from_dict(type(config), config_to_dict(config)) == config


@EVERY_KIND
def test_settings_are_read_back_from_the_library(config: MotionConfig) -> None:
    """What the library holds counts, not what it was asked for."""
    changed = {
        path: getattr(config, path) * 2 if isinstance(getattr(config, path), int) else 0.45
        for path in config_to_dict(config)
        if path != "kind"
    }
    tracker = MotionTracker(replace(config, **changed))
    assert tracker.config == replace(config, **changed)
    tracker.update(0, [[0, 0, 20, 20]], [0.9], [2], None)
    assert tracker.config == replace(config, **changed)
    tracker._trackers[2].minimum_iou_threshold = 0.3
    tracker._trackers[2].maximum_frames_without_update = 99
    held = tracker.config
    assert (held.match_iou_thr, held.max_missed_frames) == (0.3, 99)
    tracker.update(1, [[0, 0, 20, 20]], [0.9], [5], None)
    with pytest.raises(ValueError, match="trackers of the classes hold different settings"):
        _ = tracker.config


def test_every_setting_reaches_the_library() -> None:
    """A setting that the adapter forgets to pass on changes nothing."""
    steady = OcSortConfig(direction_weight=1.0)
    changes: list[tuple[MotionConfig, dict[str, Any]]] = [
        (SortConfig(), {"init_score_thr": 0.8, "match_iou_thr": 0.7}),
        (SortConfig(), {"min_frames": 4, "max_missed_frames": 0}),
        (ByteTrackConfig(), {"init_score_thr": 0.9, "high_score_thr": 0.3, "match_iou_thr": 0.7}),
        (ByteTrackConfig(), {"min_frames": 4, "max_missed_frames": 0}),
        (steady, {"high_score_thr": 0.3, "match_iou_thr": 0.7, "direction_weight": 0.0}),
        (steady, {"direction_frames": 1, "min_frames": 4, "max_missed_frames": 0}),
    ]
    sequences = [random_sequence(seed) for seed in range(5)]
    for config, fields in changes:
        for name, value in fields.items():
            changed = replace(config, **{name: value})
            assert any(run(config, frames) != run(changed, frames) for frames in sequences), name


def test_bad_input_is_named_and_changes_nothing() -> None:
    boxes, scores, classes, none = frame((0, 0.9, 0))
    tracker = MotionTracker(SortConfig())
    tracker.update(3, boxes, scores, classes, none)
    with pytest.raises(ValueError, match="frame 4: boxes_xyxy holds nan in row 0"):
        tracker.update(4, boxes * np.nan, scores, classes, none)
    with pytest.raises(ValueError, match="frame 3: comes after frame 3"):
        tracker.update(3, boxes, scores, classes, none)
    assert tracker.update(4, boxes, scores, classes, none).tolist() == [0]


def test_without_the_library_the_error_names_the_extra(repository: Path) -> None:
    code = (
        "import sys; sys.modules['trackers'] = None\n"
        "from pipeline.associate import build_tracker\n"
        "from models.baselines.motion import ByteTrackConfig\n"
        "config = ByteTrackConfig()\n"
        "try: build_tracker(config)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("the tracker 'bytetrack' comes from the library `trackers`")
    assert ".[baselines]" in done.stdout
