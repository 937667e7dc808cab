"""TaoTracker against its rules written out as loops, and what sets it apart by hand."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.config_io import config_from_dict, config_to_dict
from models.qdtrack.association import (
    QuasiDenseTracker,
    TaoTracker,
    TaoTrackerConfig,
    TrackerConfig,
)


class RuleBook:
    """The published rules, one row at a time, in float32, without any of our code."""

    def __init__(self, config: TaoTrackerConfig) -> None:
        self.config = config
        self.tracks: dict[int, dict[str, Any]] = {}
        self.num_created = 0
        self.seen: Counter[str] = Counter()

    def update(self, frame, boxes, scores, classes, embeddings) -> tuple[list[int], list[float]]:
        scores = scores.copy()
        alive = self._survivors(boxes, scores, classes)
        ids = dict.fromkeys(alive, -1)
        if self.tracks:
            self._match(alive, ids, scores, classes, embeddings)
        for i in alive:
            if ids[i] == -1 and scores[i] > np.float32(self.config.init_score_thr):
                ids[i] = self.num_created
                self.num_created += 1
        for i in alive:
            if ids[i] == -1:
                continue
            track = self.tracks.setdefault(ids[i], {"embedding": None})
            old, new = track["embedding"], embeddings[i]
            if old is not None:
                share = self.config.momentum_embed
                new = np.float32(1 - share) * old + np.float32(share) * new
            track.update(embedding=new, score=scores[i], label=classes[i], frame=frame)
        for track_id in list(self.tracks):
            if frame - self.tracks[track_id]["frame"] >= self.config.memo_frames:
                del self.tracks[track_id]
                self.seen["expired"] += 1
        return [ids.get(i, -1) for i in range(len(scores))], scores.tolist()

    def _survivors(self, boxes, scores, classes) -> list[int]:
        alive = []
        for i in range(len(scores)):
            hidden = any(
                classes[i] == classes[j]
                and _iou(boxes[i], boxes[j]) > np.float32(self.config.distractor_nms_thr)
                for j in range(i)
            )
            if hidden and scores[i] < np.float32(self.config.distractor_score_thr):
                self.seen["distractor"] += 1
            else:
                alive.append(i)
        return alive

    def _match(self, alive, ids, scores, classes, embeddings) -> None:
        config, f32 = self.config, np.float32
        matrix = self._similarity(alive, classes, embeddings)
        memory_ids = list(self.tracks)
        stored = [track["score"] for track in self.tracks.values()]
        for row, i in enumerate(alive):
            if scores[i] < f32(config.obj_score_thr):
                continue
            best = int(np.argmax(matrix[row]))
            if not matrix[row, best] > f32(config.match_score_thr):
                continue
            if not abs(scores[i] - stored[best]) < f32(config.obj_score_diff_thr):
                self.seen["score too different"] += 1
                continue
            ids[i] = memory_ids[best]
            self.seen["matched"] += 1
            for other in range(len(alive)):
                if other != row:
                    matrix[other, best] = 0
            share = config.momentum_obj_score
            scores[i] = f32(share) * scores[i] + f32(1 - share) * stored[best]

    def _similarity(self, alive, classes, embeddings) -> np.ndarray:
        config, f32 = self.config, np.float32
        shape = (len(alive), len(self.tracks))
        kernel, cosine, same = np.zeros(shape, f32), np.zeros(shape, f32), np.zeros(shape, f32)
        for row, i in enumerate(alive):
            for column, track in enumerate(self.tracks.values()):
                one, two = embeddings[i], track["embedding"]
                same[row, column] = track["label"] == classes[i]
                with np.errstate(over="ignore", invalid="ignore"):
                    kernel[row, column] = np.exp(np.dot(one, two)) * same[row, column]
                one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
                cosine[row, column] = np.dot(one, two) * same[row, column]
        if config.match_metric == "cosine":
            return cosine
        by_row, by_column = np.zeros(shape, f32), np.zeros(shape, f32)
        with np.errstate(invalid="ignore"):
            for row in range(shape[0]):
                by_row[row] = kernel[row] / (kernel[row].sum() + f32(1e-6))
            for column in range(shape[1]):
                by_column[:, column] = kernel[:, column] / (kernel[:, column].sum() + f32(1e-6))
        matrix = (by_row + by_column) / f32(2)
        return (matrix + cosine) / f32(2) if config.match_with_cosine else matrix


def _iou(one: np.ndarray, two: np.ndarray) -> np.float32:
    width = max(np.float32(0), min(one[2], two[2]) - max(one[0], two[0]))
    height = max(np.float32(0), min(one[3], two[3]) - max(one[1], two[1]))
    area = (one[2] - one[0]) * (one[3] - one[1])
    union = area + (two[2] - two[0]) * (two[3] - two[1]) - width * height
    return width * height / max(union, np.float32(1e-6))


def random_sequence(seed: int, scale: float = 1.0) -> list[tuple[int, tuple[np.ndarray, ...]]]:
    """Frames of up to 16 detections in no order of score, some duplicated, some misnamed."""
    rng = np.random.default_rng([seed, 7])
    num_objects, width = int(rng.integers(2, 9)), 8
    looks = rng.normal(size=(num_objects, width)) * rng.uniform(0.5, 1.5) * scale
    labels = rng.integers(0, 3, num_objects)
    places = rng.uniform(0, 90, (num_objects, 2))
    frames, frame_index = [], 0
    for _ in range(14):
        frame_index += int(rng.choice([1, 1, 1, 2, 6, 11]))
        shown = np.flatnonzero(rng.random(num_objects) < 0.6)
        chosen = rng.permutation(np.concatenate([shown, shown[rng.random(len(shown)) < 0.4]]))
        size = len(chosen)
        corner = places[chosen] + rng.normal(scale=2, size=(size, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(18, 30, (size, 2))], axis=1)
        scores = rng.uniform(0, 1, size) ** 3
        classes = np.where(rng.random(size) < 0.1, rng.integers(0, 3, size), labels[chosen])
        seen = looks[chosen] + rng.normal(scale=0.3 * scale, size=(size, width))
        columns = (boxes.astype(np.float32), scores.astype(np.float32), classes)
        frames.append((frame_index, (*columns, seen.astype(np.float32))))
    return frames


VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "bisoftmax alone": {"match_with_cosine": False},
    "cosine": {"match_metric": "cosine"},
    "close scores only": {"obj_score_diff_thr": 0.3},
    "other shares": {"momentum_embed": 0.4, "momentum_obj_score": 0.9},
    "higher thresholds": {"init_score_thr": 0.3, "obj_score_thr": 0.2, "memo_frames": 3},
    "matches anything": {"match_score_thr": 0.0, "distractor_score_thr": 1.0},
}


@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["small dots", "dots that overflow"])
@pytest.mark.parametrize("name", VARIANTS)
def test_ids_and_scores_are_those_of_the_written_rules(name: str, scale: float) -> None:
    config = TaoTrackerConfig(**VARIANTS[name])
    seen: Counter[str] = Counter()
    for seed in range(16):
        tracker, rules = TaoTracker(config), RuleBook(config)
        for frame_index, columns in random_sequence(seed, scale):
            expected_ids, expected_scores = rules.update(frame_index, *columns)
            found = tracker.update(frame_index, *columns)
            assert found.tolist() == expected_ids, f"seed {seed}, frame {frame_index}"
            assert tracker.smoothed_scores.tolist() == expected_scores
        seen += rules.seen
    assert {"matched", "expired", "distractor"} <= set(seen)
    assert name != "close scores only" or seen["score too different"]


# Scenes by hand: each detection is (x of a 10 x 10 box, score, class, embedding).
def frame(*detections: tuple[float, float, int, tuple[float, ...]]) -> tuple[np.ndarray, ...]:
    boxes = np.array([[x, 0, x + 10, 10] for x, *_ in detections], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, *_ in detections], np.float32)
    classes = np.array([label for *_, label, _ in detections], np.int64)
    looks = np.array([look for *_, look in detections], np.float32).reshape(len(detections), -1)
    return boxes, scores, classes, looks


EAST, NORTH = (3.0, 0.0), (0.0, 3.0)


def run(frames: dict[int, tuple[np.ndarray, ...]], **fields: Any) -> list[list[int]]:
    tracker = TaoTracker(TaoTrackerConfig(**fields))
    return [tracker.update(index, *columns).tolist() for index, columns in frames.items()]


def test_rows_are_taken_in_the_order_given_not_by_score() -> None:
    assert run({0: frame((0, 0.2, 0, EAST), (50, 0.9, 0, NORTH))}) == [[0, 1]]


def test_distractors_are_hidden_by_earlier_ones_of_their_class_even_by_dropped_ones() -> None:
    # Neighbours overlap by 6/14, the outer two by 2/18.
    chain = frame((0, 0.9, 0, EAST), (4, 0.4, 0, EAST), (8, 0.3, 0, EAST))
    assert run({0: chain}) == [[0, -1, -1]]
    classes = frame((0, 0.9, 0, EAST), (4, 0.4, 1, EAST), (8, 0.3, 0, EAST))
    assert run({0: classes}) == [[0, 1, 2]]
    strong = frame((0, 0.9, 0, EAST), (4, 0.5, 0, EAST))  # exactly the threshold is no distractor
    assert run({0: strong}) == [[0, 1]]


def test_an_overlap_of_exactly_the_threshold_hides_nothing() -> None:
    boxes = np.array([[0, 0, 10, 1], [0, 0, 3, 1]], np.float32)  # 3 of 10 is float32(0.3)
    columns = (np.array([0.9, 0.4]), np.zeros(2, int), np.array([EAST, NORTH]))
    assert TaoTracker(TaoTrackerConfig()).update(0, boxes, *columns).tolist() == [0, 1]


def test_classes_are_masked_before_normalising() -> None:
    # Equal dots with tracks of two classes: 1 for the own one, where QuasiDenseTracker says 0.75.
    first = frame((0, 0.9, 2, EAST), (50, 0.85, 3, EAST))
    later = frame((0, 0.9, 2, EAST))
    assert run({0: first, 1: later}, match_score_thr=0.9, match_with_cosine=False)[1] == [0]
    masked_after = QuasiDenseTracker(TrackerConfig(match_score_thr=0.9))
    masked_after.update(0, *first)
    assert masked_after.update(1, *later).tolist() == [2]


def test_cosine_is_averaged_into_the_similarity() -> None:
    # Bisoftmax 1, cosine 0.6: 0.8.
    first, later = frame((0, 0.9, 0, EAST)), frame((0, 0.9, 0, (1.8, 2.4)))
    assert run({0: first, 1: later}, match_score_thr=0.79)[1] == [0]
    assert run({0: first, 1: later}, match_score_thr=0.81)[1] == [1]
    assert run({0: first, 1: later}, match_score_thr=0.81, match_with_cosine=False)[1] == [0]


def test_scores_are_smoothed_along_a_track_and_compared_before() -> None:
    tracker = TaoTracker(TaoTrackerConfig(obj_score_diff_thr=0.5))
    scores = []
    for frame_index, score in enumerate([0.75, 0.5, 0.125, 0.25]):
        ids = tracker.update(frame_index, *frame((0, score, 0, EAST)))
        scores.append((ids.tolist(), tracker.smoothed_scores.tolist()))
    # 0.625 = (0.5 + 0.75) / 2; 0.125 is exactly 0.5 from it: a track of its own; the last matches
    # the older of two equal tracks.
    assert scores == [([0], [0.75]), ([0], [0.625]), ([1], [0.125]), ([0], [0.4375])]


def test_the_new_score_is_multiplied_by_its_momentum() -> None:
    tracker = TaoTracker(TaoTrackerConfig(momentum_obj_score=0.75))
    tracker.update(0, *frame((0, 0.5, 0, EAST)))
    tracker.update(1, *frame((0, 1.0, 0, EAST)))
    assert tracker.smoothed_scores.tolist() == [0.875]


def test_scores_of_what_matches_nothing_stay_and_input_is_not_changed() -> None:
    tracker = TaoTracker(TaoTrackerConfig())
    columns = frame((0, 0.9, 0, EAST), (4, 0.25, 0, EAST), (50, 0.00005, 0, NORTH))
    for column in columns:
        column.setflags(write=False)
    assert tracker.update(0, *columns).tolist() == [0, -1, -1]
    assert tracker.smoothed_scores.tolist() == columns[1].tolist()
    tracker.update(1, *columns)
    assert columns[1][0] == np.float32(0.9)


def test_a_low_score_continues_no_track() -> None:
    first, faint = frame((0, 0.9, 0, EAST)), frame((0, 0.3, 0, EAST))
    assert run({0: first, 1: faint}, obj_score_thr=0.4)[1] == [1]
    # Exactly the threshold does, unlike in QuasiDenseTracker.
    assert run({0: first, 1: faint}, obj_score_thr=0.3)[1] == [0]


@pytest.mark.parametrize(("gap", "expected"), [(9, 0), (10, 2)])
def test_expiry_comes_after_matching_at_the_full_memory(gap: int, expected: int) -> None:
    first, other = frame((0, 0.9, 0, EAST)), frame((0, 0.9, 1, NORTH))
    assert run({0: first, gap: other, gap + 1: first})[2] == [expected]
    assert run({0: first, 10: first})[1] == [0]


def test_a_call_without_detections_expires_tracks() -> None:
    first = frame((0, 0.9, 0, EAST))
    empty = tuple(column[:0] for column in first)
    assert run({0: first, 10: empty, 11: first}) == [[0], [], [1]]


def test_a_dot_above_88_in_its_own_class_loses_the_match_of_that_detection() -> None:
    # exp(100) is inf in float32 and inf / inf NaN, in the published code too. The neighbour's own
    # row holds no NaN.
    first = frame((0, 0.9, 0, (10.0, 0.0)), (50, 0.8, 0, (0.0, 5.0)))
    assert run({0: first, 1: first}, match_score_thr=0.4)[1] == [2, 1]
    below = frame((0, 0.9, 0, (9.3, 0.0)), (50, 0.8, 0, (0.0, 5.0)))  # dot 86.5
    assert run({0: below, 1: below}, match_score_thr=0.4)[1] == [0, 1]


def test_a_dot_above_88_between_classes_loses_every_match_of_the_frame() -> None:
    # inf * 0 of the class mask is NaN, which the column's sum spreads over all rows.
    first = frame((0, 0.9, 0, (10.0, 0.0)), (50, 0.8, 1, (0.0, 5.0)))
    later = frame((0, 0.9, 2, (10.0, 0.0)), (50, 0.8, 1, (0.0, 5.0)))
    assert run({0: first, 1: later})[1] == [2, 3]


def test_a_row_of_nan_recovers_once_an_earlier_row_took_that_column() -> None:
    # Row 0 takes track 0; row 1 had overflowed against track 0 only, where it now reads 0.
    first = frame((0, 0.9, 0, (10.0, 0.0)), (50, 0.8, 0, (0.0, 5.0)))
    later = frame((0, 0.9, 0, (8.0, 0.0)), (50, 0.8, 0, (9.5, 0.5)))
    assert run({0: first, 1: later}, match_score_thr=0.0)[1] == [0, 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("init_score_thr", 1.1),
        ("obj_score_thr", -0.1),
        ("match_score_thr", float("nan")),
        ("memo_frames", -1),
        ("momentum_embed", 2.0),
        ("momentum_obj_score", -1.0),
        ("obj_score_diff_thr", 3.0),
        ("distractor_nms_thr", -0.5),
        ("distractor_score_thr", 1.5),
        ("match_metric", "softmax"),
    ],
)
def test_a_config_out_of_range_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        TaoTrackerConfig(**{field: value})


def test_config_defaults_and_round_trip() -> None:
    config = TaoTrackerConfig()
    assert config_to_dict(config) == {
        "kind": "tao",
        "init_score_thr": 1e-4,
        "obj_score_thr": 1e-4,
        "match_score_thr": 0.5,
        "memo_frames": 10,
        "momentum_embed": 0.8,
        "momentum_obj_score": 0.5,
        "obj_score_diff_thr": 1.0,
        "distractor_nms_thr": 0.3,
        "distractor_score_thr": 0.5,
        "match_metric": "bisoftmax",
        "match_with_cosine": True,
    }
    assert config_from_dict(TaoTrackerConfig, config_to_dict(config)) == config
    assert TaoTracker(config).config is config


def test_bad_input_is_named() -> None:
    boxes, scores, classes, looks = frame((0, 0.9, 0, EAST))
    tracker = TaoTracker(TaoTrackerConfig())
    with pytest.raises(ValueError, match="frame 3: scores holds nan in row 0"):
        tracker.update(3, boxes, scores * np.nan, classes, looks)
    tracker.update(3, boxes, scores, classes, looks)
    with pytest.raises(ValueError, match="frame 4: embeddings have width 1, expected 2"):
        tracker.update(4, boxes, scores, classes, looks[:, :1])
    with pytest.raises(ValueError, match="frame 3: comes after frame 3"):
        tracker.update(3, boxes, scores, classes, looks)
