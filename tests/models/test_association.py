"""Every trap of QuasiDenseTracker's rules, by hand."""

from typing import Any

import numpy as np
import pytest

from models.config_io import config_from_dict, config_to_dict
from models.qdtrack.association import QuasiDenseTracker, TrackerConfig
from models.tracking import pairwise_iou


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
    assert run({0: strong, 1: at_object, 2: above}, init_score_thr=0.7, obj_score_thr=0.3) == [
        [0],
        [-1],
        [0],
    ]


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
