"""QuasiDenseTracker on random sequences: against its rules written out as loops, and permuted."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.qdtrack.association import QuasiDenseTracker, TrackerConfig

BDD100K = {"init_score_thr": 0.7, "obj_score_thr": 0.3}


class RuleBook:
    """The published rules, one row at a time, in float32, without any of our code."""

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config
        self.tracks: dict[int, dict[str, Any]] = {}
        self.backdrops: list[list[tuple[np.ndarray, int]]] = []
        self.num_created = 0
        self.seen: Counter[str] = Counter()

    def update(self, frame, boxes, scores, classes, embeddings) -> list[int]:
        alive = self._survivors(boxes, scores)
        ids = dict.fromkeys(alive, -1)
        if alive and self.tracks:
            matrix, memory_ids = self._similarity(alive, classes, embeddings)
            self._decide(alive, ids, scores, matrix, memory_ids)
        for i in alive:
            if ids[i] == -1 and scores[i] > np.float32(self.config.init_score_thr):
                ids[i] = self.num_created
                self.num_created += 1
        for i in alive:
            if ids[i] > -1:
                self._remember(ids[i], frame, embeddings[i], classes[i])
        self._store_backdrops(alive, ids, boxes, classes, embeddings)
        for track_id in list(self.tracks):
            if frame - self.tracks[track_id]["frame"] >= self.config.memo_tracklet_frames:
                del self.tracks[track_id]
                self.seen["expired"] += 1
        return [max(ids.get(i, -1), -1) for i in range(len(scores))]

    def _survivors(self, boxes, scores) -> list[int]:
        config = self.config
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        alive = []
        for place, i in enumerate(order):
            weak = scores[i] < np.float32(config.obj_score_thr)
            limit = np.float32(config.nms_backdrop_iou_thr if weak else config.nms_class_iou_thr)
            if any(_iou(boxes[i], boxes[j]) > limit for j in order[:place]):
                self.seen["weak duplicate" if weak else "duplicate"] += 1
            else:
                alive.append(i)
        return alive

    def _similarity(self, alive, classes, embeddings) -> tuple[np.ndarray, list[int]]:
        config = self.config
        memory = [(k, t["embedding"], t["class"]) for k, t in self.tracks.items()]
        memory += [(-1, e, c) for group in self.backdrops for e, c in group]
        dots = np.zeros((len(alive), len(memory)), np.float32)
        same_class = np.zeros(dots.shape, bool)
        for row, i in enumerate(alive):
            for column, (_, embedding, label) in enumerate(memory):
                one, two = embeddings[i], embedding
                if config.match_metric == "cosine":
                    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
                dots[row, column] = np.dot(one, two)
                same_class[row, column] = label == classes[i]
        matrix = dots
        if config.match_metric != "cosine":
            matrix = np.stack([_softmax(row) for row in dots])
        if config.match_metric == "bisoftmax":
            columns = np.stack([_softmax(column) for column in dots.T], axis=1)
            matrix = (matrix + columns) / np.float32(2)
        if config.with_cats:
            matrix[~same_class] = 0
        return matrix, [track_id for track_id, _, _ in memory]

    def _decide(self, alive, ids, scores, matrix, memory_ids) -> None:
        config = self.config
        for row, i in enumerate(alive):
            best = int(np.argmax(matrix[row]))
            confidence, track_id = matrix[row, best], memory_ids[best]
            if not confidence > np.float32(config.match_score_thr):
                continue
            if track_id == -1:
                self.seen["backdrop matched"] += 1
            elif scores[i] > np.float32(config.obj_score_thr):
                ids[i] = track_id
                self.seen["matched"] += 1
                self.seen["lost its best"] += int((matrix[row + 1 :].argmax(1) == best).sum())
                kept = matrix[row, best]
                matrix[:, best] = 0
                matrix[row, best] = kept
            elif confidence > np.float32(config.nms_conf_thr):
                ids[i] = -2
                self.seen["weak twin"] += 1

    def _store_backdrops(self, alive, ids, boxes, classes, embeddings) -> None:
        limit, new = np.float32(self.config.nms_backdrop_iou_thr), []
        for place, i in enumerate(alive):
            if ids[i] == -1 and all(_iou(boxes[i], boxes[j]) <= limit for j in alive[:place]):
                new.append((embeddings[i], classes[i]))
            elif ids[i] == -1:
                self.seen["hidden backdrop"] += 1
        self.backdrops.insert(0, new)
        if len(self.backdrops) > self.config.memo_backdrop_frames:
            self.backdrops.pop()

    def _remember(self, track_id, frame, embedding, label) -> None:
        momentum = self.config.memo_momentum
        if track_id in self.tracks:
            old = self.tracks[track_id]["embedding"]
            embedding = np.float32(1 - momentum) * old + np.float32(momentum) * embedding
        else:
            self.seen["born"] += 1
        self.tracks.setdefault(track_id, {}).update(embedding=embedding, frame=frame)
        self.tracks[track_id]["class"] = label


def _iou(one: np.ndarray, two: np.ndarray) -> np.float32:
    width = max(np.float32(0), min(one[2], two[2]) - max(one[0], two[0]))
    height = max(np.float32(0), min(one[3], two[3]) - max(one[1], two[1]))
    area = (one[2] - one[0]) * (one[3] - one[1])
    union = area + (two[2] - two[0]) * (two[3] - two[1]) - width * height
    return width * height / max(union, np.float32(1e-6))


def _softmax(values: np.ndarray) -> np.ndarray:
    kernel = np.exp(values - values.max())
    return kernel / kernel.sum()


def random_sequence(seed: int, num_frames: int = 16) -> list[tuple[int, tuple[np.ndarray, ...]]]:
    """Frames with look-alikes, duplicates, weak scores, wrong labels, gaps and empty frames.

    Scores are distinct, similarities far from ties.
    """
    rng = np.random.default_rng(seed)
    num_objects, width = int(rng.integers(2, 9)), 8
    looks = rng.normal(size=(num_objects, width)) * rng.uniform(0.7, 3)
    labels = rng.integers(0, 3, num_objects)
    places = rng.uniform(0, 120, (num_objects, 2))
    frames, frame_index = [], int(rng.integers(0, 4))
    for _ in range(num_frames):
        frame_index += int(rng.choice([1, 1, 1, 1, 2, 5, 12]))
        places += rng.normal(scale=4, size=places.shape)
        shown = np.flatnonzero(rng.random(num_objects) < 0.6)
        chosen = np.concatenate([shown, shown[rng.random(len(shown)) < 0.4]])
        if rng.random() < 0.08:
            chosen = chosen[:0]
        size = len(chosen)
        corner = places[chosen] + rng.normal(scale=2, size=(size, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(18, 30, (size, 2))], axis=1)
        scores = rng.uniform(0.05, 1, size) ** 0.5
        wrong = rng.random(size) < 0.1
        classes = np.where(wrong, rng.integers(0, 3, size), labels[chosen])
        seen = looks[chosen] + rng.normal(scale=0.4, size=(size, width))
        columns = (boxes.astype(np.float32), scores.astype(np.float32), classes)
        frames.append((frame_index, (*columns, seen.astype(np.float32))))
    return frames


VARIANTS = {
    "class defaults": {},
    "BDD100K": BDD100K,
    "MOT17": {"init_score_thr": 0.9, "memo_tracklet_frames": 30},
    "softmax": {**BDD100K, "match_metric": "softmax"},
    "cosine": {**BDD100K, "match_metric": "cosine", "match_score_thr": 0.6},
    "without classes": {**BDD100K, "with_cats": False},
    "without backdrops": {**BDD100K, "memo_backdrop_frames": 0},
    "backdrops of three frames": {**BDD100K, "memo_backdrop_frames": 3},
    "short memory": {**BDD100K, "memo_tracklet_frames": 2},
    "no memory": {**BDD100K, "memo_tracklet_frames": 0},
    "matches anything": {**BDD100K, "match_score_thr": 0.0, "nms_conf_thr": 0.2},
    "weak twins only when sure": {**BDD100K, "match_score_thr": 0.3, "nms_conf_thr": 0.9},
    "strict matching, lenient twins": {"match_score_thr": 0.8, "nms_conf_thr": 0.3},
    "scores between the thresholds": {"init_score_thr": 0.3, "obj_score_thr": 0.6},
}


@pytest.mark.parametrize("skip_empty", [True, False], ids=["skipping empty", "calling on empty"])
@pytest.mark.parametrize("name", VARIANTS)
def test_ids_are_those_of_the_written_rules(name: str, skip_empty: bool) -> None:
    config = TrackerConfig(**VARIANTS[name])
    seen: Counter[str] = Counter()
    for seed in range(14):
        tracker, rules = QuasiDenseTracker(config), RuleBook(config)
        for frame_index, columns in random_sequence(seed):
            if skip_empty and not len(columns[0]):
                continue
            expected = rules.update(frame_index, *columns)
            found = tracker.update(frame_index, *columns)
            assert found.tolist() == expected, f"seed {seed}, frame {frame_index}"
        seen += rules.seen
    # The comparison is worth something only where the rules were exercised.
    exercised = {"matched", "born", "expired", "duplicate", "weak duplicate", "lost its best"}
    if name == "no memory":
        exercised -= {"matched", "lost its best"}
    assert exercised <= set(seen)


def test_random_sequences_reach_the_rare_rules() -> None:
    config = TrackerConfig(**BDD100K)
    rules_seen: Counter[str] = Counter()
    for seed in range(14):
        rules = RuleBook(config)
        for frame_index, columns in random_sequence(seed):
            rules.update(frame_index, *columns)
        rules_seen += rules.seen
    assert {"weak twin", "backdrop matched", "hidden backdrop"} <= set(rules_seen)


@given(seed=st.integers(0, 10_000), order_seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_permuting_the_rows_of_a_frame_only_permutes_its_ids(seed: int, order_seed: int) -> None:
    rng = np.random.default_rng(order_seed)
    config = TrackerConfig(**BDD100K)
    straight, shuffled = QuasiDenseTracker(config), QuasiDenseTracker(config)
    for frame_index, columns in random_sequence(seed, num_frames=10):
        order = rng.permutation(len(columns[0]))
        expected = straight.update(frame_index, *columns)[order]
        found = shuffled.update(frame_index, *(column[order] for column in columns))
        assert found.tolist() == expected.tolist()
