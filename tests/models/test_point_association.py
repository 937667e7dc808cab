"""PointTracker: every rule by hand, and all of them against a plain version of the whole."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from datasets.masks import decode_mask
from models.baselines.mask_overlap import MaskOverlapConfig, MaskOverlapTracker
from models.config_io import config_from_dict, config_to_dict
from models.mask_tracking import LiveTracks, Segments, match_most
from models.masks import Rle
from models.pointtrack.association import (
    PointSequenceTracker,
    PointTracker,
    PointTrackerConfig,
)
from models.prepared import PreparedFrame
from models.tracking import check_detections
from tests.mask_scene import read_real_masks, rectangle

Frames = dict[int, tuple[np.ndarray, list[Rle] | None]]

PLAIN = {"distance_scale": 1.0, "distance_offset": 8.0, "match_threshold": 5.0}
"""Without overlap a match needs a distance below 3."""


def looks(*points: float | tuple[float, float]) -> np.ndarray:
    """Embeddings of two numbers, the second 0 where only one is given."""
    rows = [point if isinstance(point, tuple) else (point, 0.0) for point in points]
    return np.array(rows, np.float32).reshape(-1, 2)


def run(frames: Frames, **fields: Any) -> list[list[int]]:
    tracker = PointTracker(PointTrackerConfig(**fields))
    return [tracker.update(index, *columns).tolist() for index, columns in frames.items()]


def without_masks(*frames: np.ndarray) -> Frames:
    return {index: (frame, None) for index, frame in enumerate(frames)}


def joins(apart: float, **fields: Any) -> bool:
    """Whether two detections at a distance, without masks, are joined."""
    frames = without_masks(looks(0), looks(apart))
    return run(frames, **{"use_mask_iou": False, **fields})[1] == [1]


def test_ids_start_at_1_and_go_up_in_the_order_of_the_rows() -> None:
    frames = without_masks(looks(0, 50, 100), looks(50, 150, 0, 200), looks(200, 250))
    assert run(frames, use_mask_iou=False) == [[1, 2, 3], [2, 4, 1, 5], [5, 6]]


def test_released_constants_join_up_to_the_distances_of_the_reference() -> None:
    assert joins(8.000)
    assert not joins(8.002)
    pedestrian = config_to_dict(PointTrackerConfig.pedestrian()) | {"use_mask_iou": False}
    assert joins(9.089, **pedestrian)
    assert not joins(9.091, **pedestrian)
    assert PointTrackerConfig.car() == PointTrackerConfig()


def test_a_similarity_of_exactly_the_threshold_is_no_match() -> None:
    assert not joins(3.0, **PLAIN)
    assert joins(float(np.nextafter(np.float32(3), np.float32(0))), **PLAIN)


def test_overlap_adds_to_the_similarity_strictly_too() -> None:
    # 8 - 3.5 + 1 * IoU of exactly one half is the threshold of 5.
    whole, half = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)
    frames: Frames = {0: (looks(0), [whole]), 1: (looks(3.5), [half])}
    assert run(frames, **PLAIN, mask_iou_weight=1.0)[1] == [2]
    assert run(frames, **PLAIN, mask_iou_weight=1.001)[1] == [1]
    assert run(frames, **PLAIN, mask_iou_weight=4.0, use_mask_iou=False)[1] == [2]


def test_overlap_decides_between_equal_embeddings() -> None:
    left, right = rectangle(0, 0, 10, 10), rectangle(30, 0, 40, 10)
    frames: Frames = {0: (looks(0, 0), [left, right]), 1: (looks(0, 0), [right, left])}
    assert run(frames)[1] == [2, 1]


def test_the_overlap_is_with_the_last_mask_however_old() -> None:
    first, last, far = (rectangle(x, 0, x + 10, 10) for x in (0, 20, 40))
    frames: Frames = {
        0: (looks(0), [first]),
        1: (looks(0), [last]),
        31: (looks(3.5), [last]),
        40: (looks(3.5), [first]),
    }
    # At frame 31 the distance alone is too large; the mask of 30 frames ago makes up for it.
    assert run(frames, **PLAIN, mask_iou_weight=1.0) == [[1], [1], [1], [1]]
    frames[31] = (looks(3.5), [first])  # of frame 0, which is not the last one
    assert run(frames, **PLAIN, mask_iou_weight=1.0)[2] == [2]
    frames[31] = (looks(3.5), [far])
    assert run(frames, **PLAIN, mask_iou_weight=1.0)[2] == [2]


def test_the_last_embedding_counts_and_nothing_is_averaged() -> None:
    frames = without_masks(looks(0), looks(2.9), looks(5.8), looks(2.8))
    assert run(frames, **PLAIN, use_mask_iou=False) == [[1], [1], [1], [2]]


@pytest.mark.parametrize("keep_alive_frames", [0, 1, 5, 30])
def test_a_track_lives_to_the_last_frame_of_its_memory(keep_alive_frames: int) -> None:
    settings = {"use_mask_iou": False, "keep_alive_frames": keep_alive_frames}
    for start in (0, 3):
        last = start + keep_alive_frames
        frames: Frames = {start: (looks(0), None), last: (looks(0), None)}
        if keep_alive_frames:
            assert run(frames, **settings)[1] == [1]
        frames = {start: (looks(0), None), last + 1: (looks(0), None)}
        assert run(frames, **settings)[1] == [2]


def test_trap_16_the_released_run_remembers_30_frames_and_not_the_5_of_the_class() -> None:
    assert PointTrackerConfig().keep_alive_frames == 30
    frames: Frames = {0: (looks(0), None), 30: (looks(0), None)}
    assert run(frames, use_mask_iou=False)[1] == [1]
    assert run(frames, use_mask_iou=False, keep_alive_frames=5)[1] == [2]


def test_memory_is_counted_in_frames_and_not_in_calls() -> None:
    settings = {"use_mask_iou": False, "keep_alive_frames": 5}
    other = {index: (looks(90), None) for index in range(1, 6)}
    lost: Frames = {0: (looks(0), None), **other, 6: (looks(0), None)}
    assert run(lost, **settings)[-1] == [3]
    gone: Frames = {0: (looks(0), None), 6: (looks(0), None)}
    assert run(gone, **settings)[-1] == [2]


def test_trap_15_embeddings_are_not_normalised() -> None:
    for scale, expected in ((1, [1]), (4, [2])):
        frames = without_masks(looks((3, 0)) * scale, looks((3, 3)) * scale)
        assert run(frames, use_mask_iou=False)[1] == expected


def test_the_number_of_allowed_matches_comes_first() -> None:
    # Similarities [[8, 2], [2, -0.5]]: the diagonal costs less, but its second pair is forbidden.
    tracks, found = looks((0, 0), (6, 0)), looks((0, 0), (0, 6))
    frames = without_masks(tracks, found)
    settings = {**PLAIN, "match_threshold": 0.0, "use_mask_iou": False}
    assert run(frames, **settings)[1] == [2, 1]
    distance = np.array([[math.dist(one, two) for two in tracks] for one in found])
    assert (linear_sum_assignment(distance)[1] == [0, 1]).all()
    assert run(frames, **{**settings, "match_threshold": 2.5})[1] == [1, 3]


def test_most_allowed_matches_then_the_largest_similarity_of_all_assignments() -> None:
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(300):
        rows, columns = rng.integers(1, 5, 2)
        similarity = rng.normal(size=(rows, columns))
        threshold = float(rng.normal())
        found = list(
            zip(*(side.tolist() for side in match_most(similarity, threshold)), strict=True)
        )
        assert found == max(
            _assignments(similarity, threshold),
            key=lambda pairs: (len(pairs), sum(similarity[pair] for pair in pairs)),
        )
        counts.append(len(found))
    assert set(counts) == {0, 1, 2, 3, 4}


def _assignments(similarity: np.ndarray, threshold: float) -> list[list[tuple[int, int]]]:
    rows, columns = similarity.shape
    choices = itertools.product(range(-1, columns), repeat=rows)
    lists = ([(row, c) for row, c in enumerate(choice) if c >= 0] for choice in choices)
    return [
        pairs
        for pairs in lists
        if len({column for _, column in pairs}) == len(pairs)
        and all(similarity[pair] > threshold for pair in pairs)
    ]


def test_a_match_keeps_its_place_and_new_tracks_come_last() -> None:
    tracks = LiveTracks(keep_alive_frames=2)
    seen: list[list[float]] = []

    def compare(segments: Segments, known: LiveTracks) -> np.ndarray:
        seen.append(known.embeddings[:, 0].tolist())
        return 10.0 - np.abs(segments.embeddings - known.embeddings.T)

    for frame, values in enumerate(([10, 20, 30], [21, 50], [51, 22], [52], [0])):
        embeddings = np.array(values, np.float64)[:, None]
        tracks.join(frame, Segments(embeddings, None), compare, 5.0)
    assert seen == [[10, 20, 30], [10, 21, 30, 50], [22, 51], [22, 52]]


def test_cosine_distance_takes_the_place_of_the_euclidean_one() -> None:
    # 1 - cos of 60 degrees is 0.5, whatever the lengths.
    settings = {**PLAIN, "use_mask_iou": False, "distance": "cosine", "distance_scale": 2.0}
    half = (100 * math.cos(math.pi / 3), 100 * math.sin(math.pi / 3))
    frames = without_masks(looks((1, 0)), looks(half))
    assert run(frames, **settings | {"match_threshold": 14.999})[1] == [1]
    assert run(frames, **settings | {"match_threshold": 15.001})[1] == [2]
    nothing = without_masks(looks((0, 0)), looks((5, 0)))
    assert run(nothing, **settings | {"match_threshold": 13.9})[1] == [1]


def test_frames_without_detections_change_nothing() -> None:
    empty = (np.zeros((0, 2), np.float32), [])
    mask = [rectangle(0, 0, 10, 10)]
    assert run({0: empty, 1: (looks(0), mask), 2: empty, 5: (looks(0), mask), 6: empty}) == [
        *([], [1], [], [1], [])
    ]
    assert run({0: (np.zeros((0, 0), np.float32), None), 1: (looks(0), mask)}) == [[], [1]]
    lost: Frames = {0: (looks(0), mask), **dict.fromkeys(range(1, 31), empty), 31: (looks(0), mask)}
    assert run(lost)[-1] == [2]
    assert run({0: (looks(0), mask), 31: (looks(0), mask)})[-1] == [2]


class PlainTracker:
    """The rules one after the other, with a list of tracks and masks of pixels."""

    def __init__(self, config: PointTrackerConfig) -> None:
        self.config = config
        self.active: list[tuple[int, int, np.ndarray, np.ndarray]] = []
        self.next_id = 1

    def update(self, frame: int, embeddings: np.ndarray, masks: list[np.ndarray]) -> list[int]:
        config = self.config
        self.active = [e for e in self.active if not e[0] < frame - config.keep_alive_frames]
        if len(embeddings) == 0:
            return []
        ids = [0] * len(embeddings)
        size = max(len(embeddings), len(self.active))
        if self.active:
            similarity = [
                [self._similarity(e, m, entry) for entry in self.active]
                for e, m in zip(embeddings, masks, strict=True)
            ]
            best = max(map(max, similarity))
            cost = np.zeros((size, size))
            for row, values in enumerate(similarity):
                for column, value in enumerate(values):
                    cost[row, column] = 1e9 if value <= config.match_threshold else best - value
            for row, column in zip(*linear_sum_assignment(cost), strict=True):
                if row < len(embeddings) and column < len(self.active) and cost[row, column] < 1e9:
                    ids[row] = self.active[column][1]
                    self.active[column] = (frame, ids[row], embeddings[row], masks[row])
        for row, number in enumerate(ids):
            if number == 0:
                ids[row] = self.next_id
                self.active.append((frame, self.next_id, embeddings[row], masks[row]))
                self.next_id += 1
        return ids

    def _similarity(self, embedding: np.ndarray, mask: np.ndarray, entry: Any) -> float:
        config, (_, _, known, known_mask) = self.config, entry
        distance = math.dist(embedding.tolist(), known.tolist())
        if config.distance == "cosine":
            lengths = math.hypot(*embedding.tolist()) * math.hypot(*known.tolist())
            distance = 1 - float(np.dot(embedding.astype("f8"), known)) / lengths
        similarity = config.distance_scale * (config.distance_offset - distance)
        if config.use_mask_iou:
            union = (mask | known_mask).sum()
            similarity += config.mask_iou_weight * ((mask & known_mask).sum() / union)
        return similarity


@pytest.mark.parametrize("seed", range(12))
def test_random_sequences_are_joined_as_by_the_plain_tracker(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale, offset = rng.uniform(0.5, 2), rng.uniform(4, 9)
    is_cosine = seed % 5 == 0
    reach = rng.uniform(0.05, 0.5) if is_cosine else rng.uniform(2, 6)
    config = PointTrackerConfig(
        distance_scale=float(scale),
        distance_offset=float(offset),
        match_threshold=float(scale * (offset - reach)),
        mask_iou_weight=float(rng.uniform(0, 3)),
        keep_alive_frames=int(rng.integers(2, 14)),
        use_mask_iou=bool(seed % 4),
        distance="cosine" if is_cosine else "euclidean",
    )
    plain, ours = PlainTracker(config), PointTracker(config)
    centres = rng.normal(0, 3, (8, 4))
    frame, matches = 0, 0
    for _ in range(50):
        seen = rng.permutation(8)[: rng.integers(0, 9)]
        embeddings = (centres[seen] + rng.normal(0, 1.5, (len(seen), 4))).astype(np.float32)
        corners = (seen[:, None] * [6, 4] + rng.integers(-4, 5, (len(seen), 2))).tolist()
        codes = [rectangle(x, y, x + 12, y + 12) for x, y in corners]
        before = plain.next_id
        expected = plain.update(frame, embeddings, [decode_mask(code) for code in codes])
        assert ours.update(frame, embeddings, codes).tolist() == expected
        matches += len(seen) - (plain.next_id - before)
        frame += 1 + int(rng.random() < 0.2) * int(rng.integers(0, 15))
    assert matches > 20
    assert plain.next_id > 9


class TestClasses:
    """A tracker of its own for every class of a sequence."""

    @staticmethod
    def step(
        tracker: PointSequenceTracker, frame_index: int, points: np.ndarray, classes: list[int]
    ) -> list[int]:
        boxes = np.zeros((len(points), 4), np.float32)
        checked = check_detections(frame_index, boxes, np.ones(len(points)), classes, points)
        return tracker.step(frame_index, tracker.prepare(checked)).tolist()

    def test_they_never_match_and_share_no_id(self) -> None:
        tracker = PointSequenceTracker(PointTrackerConfig(use_mask_iou=False))
        assert self.step(tracker, 0, looks(0, 0, 90), [1, 0, 1]) == [0, 1, 2]
        assert self.step(tracker, 1, looks(90, 0, 0), [1, 1, 0]) == [2, 0, 1]
        assert self.step(tracker, 2, looks(90, 0), [0, 2]) == [3, 4]

    def test_each_is_joined_as_if_it_were_alone(self) -> None:
        rng = np.random.default_rng(2)
        config = PointTrackerConfig(use_mask_iou=False, keep_alive_frames=3)
        together = PointSequenceTracker(config)
        alone = {label: PointTracker(config) for label in range(3)}
        pairs: set[tuple[int, int, int]] = set()
        for frame in range(60):
            classes = rng.integers(0, 3, rng.integers(1, 8))
            points = rng.integers(0, 4, (len(classes), 2)).astype(np.float32) * 7
            points += rng.normal(0, 1, points.shape).astype(np.float32)
            found = np.array(self.step(together, frame, points, classes.tolist()))
            for label in range(3):
                rows = classes == label
                expected = alone[label].update(frame, points[rows], None)
                pairs |= set(
                    zip([label] * 9, expected.tolist(), found[rows].tolist(), strict=False)
                )
        numbers = [number for *_, number in pairs]
        assert sorted(numbers) == list(range(len(pairs)))
        assert len({pair[:2] for pair in pairs}) == len(pairs) > 100

    def test_frames_ascend_over_all_classes(self) -> None:
        tracker = PointSequenceTracker(PointTrackerConfig(use_mask_iou=False))
        self.step(tracker, 4, looks(0), [0])
        with pytest.raises(ValueError, match="frame 4: comes after frame 4"):
            self.step(tracker, 4, looks(0), [1])

    def test_rows_may_be_prepared_in_any_order(self) -> None:
        tracker = PointSequenceTracker(PointTrackerConfig(use_mask_iou=False))
        checked = check_detections(0, np.zeros((3, 4)), np.ones(3), [0, 1, 0], looks(0, 50, 90))
        order = np.array([2, 0, 1])
        ordered = tracker.prepare(checked.select(order))
        frame = PreparedFrame(order, *ordered[1:])
        assert tracker.step(0, frame).tolist() == [0, 1, 2]
        assert self.step(tracker, 1, looks(90, 0), [0, 0]) == [2, 0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("distance_scale", 0.0, "distance_scale is 0.0, expected a finite number, above 0"),
        ("distance_scale", math.inf, "distance_scale is inf"),
        ("distance_offset", math.nan, "distance_offset is nan, expected a finite number"),
        ("match_threshold", math.inf, "match_threshold is inf"),
        ("mask_iou_weight", -0.1, "mask_iou_weight is -0.1, expected a finite number, 0 or above"),
        ("keep_alive_frames", -1, "keep_alive_frames is -1, expected a number of frames"),
        ("distance", "manhattan", "distance is 'manhattan', expected one of euclidean, cosine"),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PointTrackerConfig(**{field: value})


def test_settings_survive_a_file() -> None:
    for config in (PointTrackerConfig.pedestrian(), PointTrackerConfig(distance="cosine")):
        assert config_from_dict(PointTrackerConfig, config_to_dict(config)) == config


MASK = rectangle(0, 0, 5, 5)


@pytest.mark.parametrize(
    ("frame", "embeddings", "masks", "message"),
    [
        (3, looks(0), [MASK], "frame 3: comes after frame 3; frames must ascend"),
        (4, looks(0, math.nan), [MASK] * 2, "frame 4: embeddings holds nan in row 1"),
        (4, looks(math.inf), [MASK], "frame 4: embeddings holds inf in row 0"),
        (4, np.zeros(3), [MASK] * 3, r"frame 4: embeddings has shape \(3,\)"),
        (4, np.zeros((1, 3)), [MASK], "frame 4: embeddings have width 3, expected 2"),
        (4, looks(0), [MASK] * 2, "frame 4: 2 masks were given for 1 detections"),
        (4, looks(0), None, "frame 4: the detections have no masks"),
        (
            *(4, looks(0, 0), [MASK, rectangle(0, 0, 5, 5, (80, 60))]),
            r"frame 4: the mask of row 1 is of an image of 80 x 60 .* expected 60 x 80",
        ),
    ],
)
def test_what_no_tracker_can_take_is_named_and_leaves_it_as_it_was(
    frame: int, embeddings: np.ndarray, masks: list[Rle] | None, message: str
) -> None:
    tracker = PointTracker(PointTrackerConfig())
    tracker.update(3, looks(0), [MASK])
    with pytest.raises(ValueError, match=message):
        tracker.update(frame, embeddings, masks)
    assert tracker.update(4, looks(50, 0), [MASK, MASK]).tolist() == [2, 1]


def test_masks_of_two_sizes_in_the_first_frame_are_refused() -> None:
    tracker = PointTracker(PointTrackerConfig())
    with pytest.raises(ValueError, match="frame 0: the mask of row 1"):
        tracker.update(0, looks(0, 0), [MASK, rectangle(0, 0, 5, 5, (80, 60))])
    assert tracker.update(0, looks(0), [rectangle(0, 0, 5, 5, (80, 60))]).tolist() == [1]


class TestOverlapOnly:
    """The baseline: the same rules with the overlap in place of the similarity."""

    def test_it_is_the_point_tracker_that_looks_at_masks_alone(self) -> None:
        rng = np.random.default_rng(3)
        for threshold in (0.0, 0.25, 0.6):
            overlap = MaskOverlapTracker(MaskOverlapConfig(match_iou_thr=threshold, memo_frames=4))
            config = PointTrackerConfig(
                distance_offset=0.0,
                match_threshold=threshold,
                mask_iou_weight=1.0,
                keep_alive_frames=4,
            )
            point = PointTracker(config)
            for frame in np.cumsum(rng.integers(1, 4, 40)).tolist():
                corners = rng.integers(0, 40, (rng.integers(0, 7), 2)).tolist()
                masks = [rectangle(x, y, x + 15, y + 15) for x, y in corners]
                expected = point.update(frame, np.zeros((len(masks), 2)), masks)
                assert overlap.update(frame, masks).tolist() == expected.tolist()

    def test_an_overlap_of_exactly_the_threshold_is_no_match(self) -> None:
        whole, half = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 5)
        for threshold, expected in ((0.5, [2]), (0.499, [1])):
            tracker = MaskOverlapTracker(MaskOverlapConfig(match_iou_thr=threshold))
            tracker.update(0, [whole])
            assert tracker.update(1, [half]).tolist() == expected

    def test_memory_ends_where_that_of_the_point_tracker_does(self) -> None:
        for last, expected in ((30, [1]), (31, [2])):
            tracker = MaskOverlapTracker(MaskOverlapConfig())
            tracker.update(0, [MASK])
            assert tracker.update(last, [MASK]).tolist() == expected

    @pytest.mark.parametrize(("field", "value"), [("match_iou_thr", 1.1), ("memo_frames", -1)])
    def test_settings_out_of_range_are_refused(self, field: str, value: Any) -> None:
        with pytest.raises(ValueError, match=field):
            MaskOverlapConfig(**{field: value})


REAL = {
    "car/0006": (247, 4),
    "car/0020": (688, 5),
    "car/0027": (620, 11),
    "person/0006": (0, 0),
    "person/0020": (793, 11),
    "person/0027": (288, 9),
}
"""Masks and tracks of the published results, as their README counts them."""


class TestRealMasks:
    """Published results on KITTI MOTS: their ids are tracks of whole sequences."""

    @pytest.mark.parametrize("name", REAL)
    def test_masks_and_embeddings_of_the_owner_give_the_tracks_back(
        self, shared: Path, name: str
    ) -> None:
        masks, ids = read_real_masks(shared / "data" / "kitti_mots_segs" / f"{name}.txt")
        num_masks, num_tracks = REAL[name]
        assert sum(map(len, masks)) == num_masks
        rng = np.random.default_rng(0)
        looks_of = rng.normal(0, 3, (100, 32))
        tracker = PointTracker(PointTrackerConfig.car())
        pairs = set()
        for frame, (codes, owners) in enumerate(zip(masks, ids, strict=True)):
            noise = rng.normal(0, 0.7, (len(owners), 32))
            embeddings = looks_of[np.array(owners, int)] + noise
            found = tracker.update(frame, embeddings, codes)
            pairs |= set(zip(owners, found.tolist(), strict=True))
        assert len(pairs) == num_tracks
        assert sorted(number for _, number in pairs) == list(range(1, num_tracks + 1))

    @pytest.mark.parametrize(
        ("name", "num_ids", "num_switches"),
        # Slow cars, then a turn past parked ones, then people who cross each other.
        [("car/0020", 9, 8), ("car/0027", 38, 55), ("person/0020", 32, 36), ("person/0006", 0, 0)],
    )
    def test_overlap_alone_holds_most_of_them(
        self, shared: Path, name: str, num_ids: int, num_switches: int
    ) -> None:
        masks, ids = read_real_masks(shared / "data" / "kitti_mots_segs" / f"{name}.txt")
        tracker = MaskOverlapTracker(MaskOverlapConfig())
        known: dict[int, int] = {}
        found_ids, switches = set(), 0
        for frame, (codes, owners) in enumerate(zip(masks, ids, strict=True)):
            for owner, number in zip(owners, tracker.update(frame, codes).tolist(), strict=True):
                switches += known.get(owner, number) != number
                known[owner] = number
                found_ids.add(number)
        assert len(known) == REAL[name][1]
        assert (len(found_ids), switches) == (num_ids, num_switches)
        assert switches < 0.1 * max(1, REAL[name][0])
