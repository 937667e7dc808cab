"""QuasiDenseTracker against the rules written out as loops, and every trap of the rules by hand."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config_io import config_from_dict, config_to_dict
from models.qdtrack.association import QuasiDenseTracker, TrackerConfig
from models.tracking import pairwise_iou

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


# Scenes by hand: each detection is (x of a 10 x 10 box, score, class, embedding).
def frame(*detections: tuple[float, float, int, tuple[float, ...]]) -> tuple[np.ndarray, ...]:
    boxes = np.array([[x, 0, x + 10, 10] for x, *_ in detections], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, *_ in detections], np.float32)
    classes = np.array([label for *_, label, _ in detections], np.int64)
    return boxes, scores, classes, np.array([look for *_, look in detections], np.float32)


EAST, NORTH, UP = (10.0, 0.0, 0.0), (0.0, 10.0, 0.0), (0.0, 0.0, 10.0)


def run(frames: dict[int, tuple[np.ndarray, ...]], **fields: Any) -> list[list[int]]:
    tracker = QuasiDenseTracker(TrackerConfig(**fields))
    return [tracker.update(index, *columns).tolist() for index, columns in frames.items()]


def test_ids_count_up_in_score_order_and_come_back_in_row_order() -> None:
    rows = frame((0, 0.85, 0, EAST), (50, 0.95, 0, NORTH), (99, 0.9, 0, UP))
    found = QuasiDenseTracker(TrackerConfig()).update(0, *rows)
    assert found.tolist() == [2, 0, 1]
    assert found.dtype == np.int64


def test_removed_duplicates_still_remove_others_across_classes() -> None:
    # IoU of neighbours 8/12 and of the outer two 6/14: greedy suppression would keep the third.
    rows = frame((0, 0.95, 0, EAST), (2, 0.9, 1, NORTH), (4, 0.85, 2, UP))
    assert run({0: rows}, nms_class_iou_thr=0.6) == [[0, -1, -1]]


def test_weak_detections_tolerate_less_overlap() -> None:
    # Births are allowed below the object threshold, so that survival shows. Overlap 6/14.
    def scene(x: float, score: float) -> dict[int, tuple[np.ndarray, ...]]:
        return {0: frame((0, 0.95, 0, EAST), (x, score, 0, NORTH))}

    assert run(scene(4, 0.6), init_score_thr=0.4) == [[0, 1]]
    assert run(scene(4, 0.45), init_score_thr=0.4) == [[0, -1]]
    assert run(scene(40, 0.45), init_score_thr=0.4) == [[0, 1]]


def test_an_overlap_of_exactly_the_threshold_is_none() -> None:
    # 3 of 10 is float32(0.3), which as a Python float is above 0.3.
    boxes = np.array([[0, 0, 10, 1], [0, 0, 3, 1]], np.float32)
    assert pairwise_iou(boxes, boxes)[0, 1] == np.float32(0.3)
    scores, looks = np.array([0.95, 0.9], np.float32), np.array([EAST, NORTH], np.float32)
    tracker = QuasiDenseTracker(TrackerConfig(nms_class_iou_thr=0.3))
    assert tracker.update(0, boxes, scores, np.zeros(2, int), looks).tolist() == [0, 1]


def test_a_score_of_exactly_a_threshold_is_not_above_it() -> None:
    # float32(0.3) is above the Python float 0.3: the comparison must be in float32.
    at_init = frame((0, 0.3, 0, EAST))
    assert run({0: at_init}, init_score_thr=0.3, obj_score_thr=0.2) == [[-1]]
    strong, at_object = frame((0, 0.9, 0, EAST)), frame((0, 0.3, 0, EAST))
    above = frame((0, 0.31, 0, EAST))
    assert run({0: strong, 1: at_object, 2: above}, **BDD100K) == [[0], [-1], [0]]


def test_a_score_of_exactly_the_object_threshold_is_strong_for_duplicates_only() -> None:
    # Overlap 6/14: a weak one goes, this one survives, and still continues no track.
    at_threshold = frame((0, 0.95, 0, EAST), (4, 0.5, 1, NORTH))
    assert run({0: at_threshold}, init_score_thr=0.4) == [[0, 1]]
    assert run({0: at_threshold, 1: at_threshold}, init_score_thr=0.4)[1] == [0, -1]


def test_a_similarity_of_exactly_the_threshold_is_no_match() -> None:
    # One track. The rider's dot of 100 leaves nothing of the column to the car's 50, whose row
    # softmax is 1: similarity (1 + 0) / 2. The rider itself is of another class.
    first = frame((0, 0.9, 2, EAST))
    second = frame((50, 0.95, 1, EAST), (0, 0.9, 2, (5.0, 0.0, 0.0)))
    assert run({0: first, 1: second})[1] == [1, 2]
    assert run({0: first, 1: second}, match_score_thr=0.4999)[1] == [1, 0]


def test_classes_are_masked_after_the_softmaxes() -> None:
    # Equal dots with a car and a truck: softmax over both gives 1/2, so (1/2 + 1)/2 = 0.75; a mask
    # before normalising would give 1.
    first = frame((0, 0.9, 2, EAST), (50, 0.85, 3, EAST))
    later = frame((0, 0.9, 2, EAST))
    assert run({0: first, 1: later}, match_score_thr=0.74)[1] == [0]
    assert run({0: first, 1: later}, match_score_thr=0.76)[1] == [2]


def test_another_class_never_matches_unless_classes_are_off() -> None:
    first, later = frame((0, 0.9, 2, EAST)), frame((0, 0.9, 3, EAST))
    assert run({0: first, 1: later})[1] == [1]
    assert run({0: first, 1: later}, with_cats=False)[1] == [0]


def test_momentum_multiplies_the_new_embedding() -> None:
    # 0.2 (1, 0) + 0.8 (0.6, 0.8) has cosine 0.69 with (0, 1); the other way round 0.17.
    looks = [(1.0, 0.0), (0.6, 0.8), (0.0, 1.0)]
    frames = {k: frame((0, 0.9, 0, look)) for k, look in enumerate(looks)}
    assert run(frames, match_metric="cosine") == [[0], [0], [0]]
    assert run(frames, match_metric="cosine", memo_momentum=0.2) == [[0], [0], [1]]


def test_a_taken_track_is_gone_for_the_next_detection_only_after_a_strong_match() -> None:
    first = frame((0, 0.9, 0, EAST))
    twins = frame((30, 0.9, 0, EAST), (60, 0.85, 0, EAST))
    assert run({0: first, 1: twins}, match_score_thr=0.4)[1] == [0, 1]
    # Two weak twins: neither takes the column, so both are discarded and neither is a backdrop
    # that would draw the next detection away from the track.
    weak = frame((30, 0.45, 0, EAST), (60, 0.4, 0, EAST))
    options = {"match_score_thr": 0.6, "nms_conf_thr": 0.6, "memo_backdrop_frames": 5}
    assert run({0: first, 1: weak, 2: first}, **options) == [[0], [-1, -1], [0]]


def test_a_detection_that_lost_its_best_takes_the_next_best_free_track() -> None:
    first = frame((0, 0.95, 0, (3.0, 0.0)), (50, 0.9, 0, (2.0, 1.0)))
    both_east = frame((0, 0.95, 0, (3.0, 0.0)), (50, 0.9, 0, (2.9, 0.1)))
    assert run({0: first, 1: both_east}, match_score_thr=0.1)[1] == [0, 1]


def test_a_backdrop_neither_blocks_a_new_track_nor_is_used_up() -> None:
    first = frame((0, 0.9, 0, EAST), (50, 0.6, 0, NORTH))  # the second is too weak to be a track
    later = frame((30, 0.95, 0, NORTH), (60, 0.9, 0, NORTH), (90, 0.7, 0, NORTH))
    assert run({0: first, 1: later}) == [[0, -1], [1, 2, -1]]


@pytest.mark.parametrize(("memo_backdrop_frames", "expected"), [(0, 0), (1, 0), (2, 0), (3, 1)])
def test_backdrops_draw_away_for_as_many_frames_as_configured(
    memo_backdrop_frames: int, expected: int
) -> None:
    # A backdrop that looks north; then two frames with a track only; then a detection that looks
    # north more than east. Alone with track 0 its row softmax is 1, beside the backdrop 0.
    only_track = frame((0, 0.9, 0, EAST))
    frames = {
        0: frame((0, 0.9, 0, EAST), (50, 0.6, 0, NORTH)),
        1: only_track,
        2: only_track,
        3: frame((50, 0.9, 0, (1.0, 9.0, 0.0))),
    }
    found = run(frames, memo_backdrop_frames=memo_backdrop_frames)
    assert found[3] == [expected]


def test_a_backdrop_overlapped_by_a_better_survivor_is_not_kept() -> None:
    later = frame((90, 0.9, 0, (1.0, 9.0, 0.0)))
    beside_track = frame((0, 0.9, 0, EAST), (4, 0.6, 0, NORTH))  # overlap 6/14
    apart = frame((0, 0.9, 0, EAST), (40, 0.6, 0, NORTH))
    assert run({0: beside_track, 1: later})[1] == [0]
    assert run({0: apart, 1: later})[1] == [1]


def test_what_overlaps_only_a_removed_duplicate_is_a_backdrop() -> None:
    # The second is a duplicate of the first (8.5/11.5); the third overlaps it by 5.5/14.5, the
    # first by 4/16 only.
    crowd = frame((0, 0.9, 0, EAST), (1.5, 0.85, 0, EAST), (6, 0.6, 0, NORTH))
    later = frame((90, 0.9, 0, (1.0, 9.0, 0.0)))
    assert run({0: crowd, 1: later}) == [[0, -1, -1], [1]]


def test_what_overlaps_by_exactly_the_threshold_is_a_backdrop() -> None:
    boxes = np.array([[0, 0, 10, 1], [0, 0, 3, 1]], np.float32)  # 3 of 10 is float32(0.3)
    crowd = (boxes, *frame((0, 0.9, 0, EAST), (0, 0.6, 0, NORTH))[1:])
    later = frame((90, 0.9, 0, (1.0, 9.0, 0.0)))
    assert run({0: crowd, 1: later}) == [[0, -1], [1]]


def test_a_weak_twin_leaves_no_trace_but_still_hides_backdrops() -> None:
    # Frame 1: a weak twin of track 0, and a detection that looks north and overlaps it by 6/14.
    # Both score exactly the object threshold, so that the second survives duplicate removal.
    first, later = frame((0, 0.9, 0, EAST)), frame((90, 0.9, 0, (1.0, 9.0, 0.0)))
    overlapping = frame((50, 0.5, 0, EAST), (54, 0.5, 0, NORTH))
    apart = frame((50, 0.5, 0, EAST), (80, 0.5, 0, NORTH))
    assert run({0: first, 1: overlapping, 2: later}) == [[0], [-1, -1], [0]]
    assert run({0: first, 1: apart, 2: later}) == [[0], [-1, -1], [1]]
    # The twin did not refresh the track: ten frames after its birth it has expired.
    twin = frame((50, 0.5, 0, EAST))
    assert run({0: first, 9: twin, 10: frame((90, 0.9, 1, UP)), 11: first})[3] == [2]


def test_a_weak_twin_never_becomes_a_track() -> None:
    first, twin = frame((0, 0.9, 0, EAST)), frame((50, 0.5, 0, EAST))
    options = {"obj_score_thr": 0.6, "init_score_thr": 0.4}
    assert run({0: first, 1: twin}, **options)[1] == [-1]
    assert run({0: first, 1: twin}, **options, nms_conf_thr=1.0)[1] == [1]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ({0: EAST, 9: NORTH, 10: EAST}, 0),
        ({0: EAST, 10: NORTH, 11: EAST}, 2),
        ({0: EAST, 10: EAST}, 0),
        ({0: EAST, 500: EAST}, 0),
    ],
    ids=["gap of nine", "expired at ten", "expiry comes after matching", "frames left out"],
)
def test_expiry(frames: dict[int, tuple[float, ...]], expected: int) -> None:
    # The two looks are of different classes, so that they never match each other.
    scenes = {k: frame((0, 0.9, int(look == NORTH), look)) for k, look in frames.items()}
    assert run(scenes)[-1] == [expected]


def test_a_call_without_detections_ages_tracks_and_backdrops() -> None:
    empty = frame()
    empty = (*empty[:3], np.zeros((0, 3), np.float32))
    first = frame((0, 0.9, 0, EAST), (50, 0.6, 0, NORTH))
    north = frame((50, 0.9, 0, (1.0, 9.0, 0.0)))
    assert run({0: first, 1: north})[1] == [1]
    assert run({0: first, 1: empty, 2: north}) == [[0, -1], [], [0]]  # the backdrop has gone
    assert run({0: first, 9: empty, 10: first})[2] == [0, -1]
    assert run({0: first, 10: empty, 11: first})[2] == [1, -1]


@pytest.mark.parametrize("width", [0, 3, 5])
def test_an_empty_frame_may_carry_embeddings_of_any_width(width: int) -> None:
    empty = (*frame()[:3], np.zeros((0, width), np.float32))
    first = frame((0, 0.9, 0, EAST))
    options = {"memo_backdrop_frames": 3}
    assert run({0: empty, 1: first, 2: empty, 3: first}, **options) == [[], [0], [], [0]]


def test_embeddings_are_not_normalised() -> None:
    # Dots 0.6 and 0.4 against two tracks: row softmax 0.55; ten times longer embeddings: 1.
    def scenes(scale: float) -> dict[int, tuple[np.ndarray, ...]]:
        first = frame((0, 0.95, 0, (scale, 0.0)), (50, 0.9, 0, (0.0, scale)))
        return {0: first, 1: frame((0, 0.9, 0, (0.6 * scale, 0.4 * scale)))}

    assert run(scenes(1), match_score_thr=0.9)[1] == [2]
    assert run(scenes(10), match_score_thr=0.9)[1] == [0]


def test_weak_matches_above_the_object_threshold_are_published() -> None:
    first, faint = frame((0, 0.9, 0, EAST)), frame((0, 0.55, 0, EAST))
    assert run({0: first, 1: faint}) == [[0], [0]]


def test_equal_scores_are_taken_in_row_order() -> None:
    scores = np.resize([0.85, 0.95, 0.9], 300)
    rows = frame(*((40.0 * k, score, 0, EAST) for k, score in enumerate(scores)))
    order = sorted(range(300), key=lambda k: -scores[k])  # stable
    found = run({0: rows})[0]
    assert [found[k] for k in order] == list(range(300))


def test_between_equally_similar_tracks_the_oldest_wins_also_after_others_expired() -> None:
    three = frame((0, 0.95, 1, NORTH), (50, 0.9, 0, EAST), (90, 0.85, 0, EAST))
    two, one = (tuple(column[rows] for column in three) for rows in ([1, 2], [1]))
    found = run({0: three, 5: two, 10: two, 11: one}, match_score_thr=0.4)
    assert found == [[0, 1, 2], [1, 2], [1, 2], [1]]


def test_overlap_of_boxes_without_area_is_none_and_tiny_boxes_are_measured() -> None:
    point, tiny = [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.01, 0.01]
    boxes = np.array([point, tiny, [0.0, 0.0, 0.01, 0.005]], np.float32)
    overlap = pairwise_iou(boxes, boxes)
    assert overlap[0].tolist() == [0, 0, 0]
    assert overlap[1] == pytest.approx([0, 1, 0.5])


def test_every_sequence_has_a_tracker_and_ids_of_its_own() -> None:
    first, second = (QuasiDenseTracker(TrackerConfig()) for _ in range(2))
    for tracker in (first, second):
        assert tracker.update(0, *frame((0, 0.9, 0, EAST))).tolist() == [0]
    with pytest.raises(ValueError, match=r"frame 0: comes after frame 0.*a tracker of its own"):
        first.update(0, *frame((0, 0.9, 0, EAST)))


def test_memory_grows_past_its_first_capacity_and_keeps_the_order_of_creation() -> None:
    looks = np.eye(300, dtype=np.float32) * 10
    boxes = np.array([[40 * k, 0, 40 * k + 10, 10] for k in range(300)], np.float32)
    classes = np.zeros(300, int)
    scores = np.linspace(0.99, 0.9, 300, dtype=np.float32)
    tracker = QuasiDenseTracker(TrackerConfig(memo_tracklet_frames=3))
    assert tracker.update(0, boxes, scores, classes, looks).tolist() == list(range(300))
    even = slice(0, 300, 2)
    for frame_index in (1, 2, 3):
        found = tracker.update(frame_index, boxes[even], scores[even], classes[even], looks[even])
        assert found.tolist() == list(range(0, 300, 2))
    # The odd ones have expired at frame 3: they are new, the even ones are not.
    found = tracker.update(4, boxes, scores, classes, looks)
    assert found[even].tolist() == list(range(0, 300, 2))
    assert found[1::2].tolist() == list(range(300, 450))


def test_input_is_neither_changed_nor_kept() -> None:
    columns = frame((0, 0.9, 0, EAST), (50, 0.6, 0, NORTH))
    copies = [column.copy() for column in columns]
    tracker = QuasiDenseTracker(TrackerConfig())
    for column in columns:
        column.setflags(write=False)  # as a memory-mapped file would be
    tracker.update(0, *columns)
    for column, copy in zip(columns, copies, strict=True):
        assert (column == copy).all()
    own = [copy.copy() for copy in copies]
    tracker.update(1, *own)
    own[3][:] = np.nan
    assert tracker.update(2, *copies).tolist() == [0, -1]


def test_half_precision_embeddings_are_computed_with_in_single() -> None:
    boxes, scores, classes, looks = frame((0, 0.9, 0, (300.0, 0.0)))  # 300² overflows float16
    tracker = QuasiDenseTracker(TrackerConfig())
    for frame_index in (0, 1):
        found = tracker.update(frame_index, boxes, scores, classes, looks.astype(np.float16))
        assert found.tolist() == [0]


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


NAN = float("nan")


@pytest.mark.parametrize(
    ("position", "replacement", "message"),
    [
        (0, np.array([[0, 0, 10, NAN]] * 2), "frame 7: boxes_xyxy holds nan in row 0"),
        (1, np.array([0.9, np.inf]), "frame 7: scores holds inf in row 1"),
        (3, np.array([[1, 2, 3], [1, NAN, 3]]), "frame 7: embeddings holds nan in row 1"),
        (0, np.zeros((2, 5)), r"frame 7: boxes_xyxy has shape \(2, 5\), expected \(N, 4\)"),
        (0, np.zeros(4), r"frame 7: boxes_xyxy has shape \(4,\), expected \(N, 4\)"),
        (1, np.zeros(3), r"frame 7: scores has shape \(3,\), expected \(N,\) with N = 2"),
        (2, np.zeros((2, 1), int), r"frame 7: class_indices has shape \(2, 1\)"),
        (2, np.zeros(2), "frame 7: class_indices has type float64, expected integers"),
        (3, np.zeros((3, 3)), r"frame 7: embeddings has shape \(3, 3\), expected \(N, D\)"),
        (3, np.zeros(2), r"frame 7: embeddings has shape \(2,\)"),
        (3, np.zeros((2, 0)), "frame 7: embeddings have width 0"),
        (3, np.zeros((2, 4)), "frame 7: embeddings have width 4, expected 3"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(
    position: int, replacement: np.ndarray, message: str
) -> None:
    good = frame((0, 0.9, 0, EAST), (50, 0.85, 0, NORTH))
    tracker = QuasiDenseTracker(TrackerConfig())
    tracker.update(0, *good)
    bad = list(good)
    bad[position] = replacement
    with pytest.raises(ValueError, match=message):
        tracker.update(7, *bad)
    assert tracker.update(7, *good).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("init_score_thr", 1.1),
        ("obj_score_thr", -0.1),
        ("match_score_thr", NAN),
        ("memo_tracklet_frames", -1),
        ("memo_backdrop_frames", -1),
        ("memo_momentum", 2.0),
        ("nms_conf_thr", -1.0),
        ("nms_backdrop_iou_thr", 7.0),
        ("nms_class_iou_thr", -0.5),
        ("match_metric", "euclid"),
    ],
)
def test_a_config_out_of_range_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        TrackerConfig(**{field: value})


def test_config_defaults_and_round_trip() -> None:
    config = TrackerConfig()
    assert config_to_dict(config) == {
        "kind": "quasi_dense",
        "init_score_thr": 0.8,
        "obj_score_thr": 0.5,
        "match_score_thr": 0.5,
        "memo_tracklet_frames": 10,
        "memo_backdrop_frames": 1,
        "memo_momentum": 0.8,
        "nms_conf_thr": 0.5,
        "nms_backdrop_iou_thr": 0.3,
        "nms_class_iou_thr": 0.7,
        "with_cats": True,
        "match_metric": "bisoftmax",
    }
    assert config_from_dict(TrackerConfig, config_to_dict(config)) == config
    assert QuasiDenseTracker(config).config is config
