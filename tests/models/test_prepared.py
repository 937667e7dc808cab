"""Prepared detections: what a tracker sees of them is the same as of detections frame by frame."""

import numpy as np
import pytest

from models.baselines.overlap import OverlapConfig, OverlapTracker
from models.prepared import (
    Prepare,
    PreparedFrame,
    PreparedSequence,
    prepare_as_given,
    prepare_by_score,
)
from models.qdtrack.association import (
    QuasiDenseTracker,
    TaoTracker,
    TaoTrackerConfig,
    TrackerConfig,
)
from models.tracking import check_detections

COUNTS = (0, 7, 1, 0, 12, 30)


def make_columns(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Frame offsets, boxes, scores (with ties), classes and embeddings of a crowded sequence."""
    rng = np.random.default_rng(seed)
    total = sum(COUNTS)
    corner = rng.uniform(0, 60, (total, 2))
    return (
        np.cumsum([0, *COUNTS]),
        np.concatenate([corner, corner + rng.uniform(10, 40, (total, 2))], axis=1).astype("f4"),
        rng.integers(1, 9, total).astype("f4") / 10,
        rng.integers(0, 3, total).astype(np.int16),
        rng.normal(size=(total, 6)).astype("f4"),
    )


@pytest.mark.parametrize("prepare", [prepare_by_score, prepare_as_given])
def test_frames_of_a_prepared_sequence_are_the_prepared_frames(prepare: Prepare) -> None:
    offsets, *columns = make_columns()
    sequence = PreparedSequence.of(prepare, offsets, *columns)
    assert sequence.num_frames == len(COUNTS)
    for index, count in enumerate(COUNTS):
        frame = sequence.frame(index)
        if count == 0:
            assert frame is None
            continue
        here = slice(offsets[index], offsets[index + 1])
        expected = prepare(check_detections(index, *(column[here] for column in columns)))
        assert isinstance(frame, PreparedFrame)
        for found, wanted in zip(
            (*frame[:1], *frame.detections, *frame[2:]),
            (*expected[:1], *expected.detections, *expected[2:]),
            strict=True,
        ):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "tracker",
    [
        lambda: QuasiDenseTracker(TrackerConfig(init_score_thr=0.4, obj_score_thr=0.3)),
        lambda: TaoTracker(TaoTrackerConfig(init_score_thr=0.3)),
        lambda: OverlapTracker(OverlapConfig(init_score_thr=0.4, obj_score_thr=0.3)),
    ],
)
def test_trackers_give_the_same_ids_from_read_only_prepared_frames(tracker: object) -> None:
    offsets, *columns = make_columns(seed=1)
    plain, replayed = tracker(), tracker()  # type: ignore[operator]
    sequence = PreparedSequence.of(replayed.prepare, offsets, *columns)
    for array in sequence.arrays():
        array.flags.writeable = False  # as processes get them that share them
    num_published = 0
    for index, count in enumerate(COUNTS):
        frame = sequence.frame(index)
        if frame is None:
            continue
        here = slice(offsets[index], offsets[index + 1])
        expected = plain.update(index, *(column[here] for column in columns))
        np.testing.assert_array_equal(replayed.step(index, frame), expected)
        num_published += (expected >= 0).sum()
        assert len(expected) == count
    assert num_published > 20


def test_an_overlap_that_is_no_number_is_kept() -> None:
    # Boxes of this size are finite, their areas are not, and the quotient is NaN.
    huge = np.array([[-1e30, -1e30, 1e30, 1e30]] * 2, np.float32)
    with np.errstate(all="ignore"):
        sequence = PreparedSequence.of(
            prepare_by_score,
            np.array([0, 2]),
            huge,
            np.ones(2, np.float32),
            np.zeros(2, np.int16),
            np.ones((2, 3), np.float32),
        )
    frame = sequence.frame(0)
    assert frame is not None
    assert np.isnan(frame.best_overlap[1])
    assert np.isnan(frame.earlier_iou[1, 0])


def test_a_sequence_without_detections_has_frames_and_nothing_in_them() -> None:
    nothing = PreparedSequence.of(
        prepare_by_score,
        np.zeros(4, np.int64),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int16),
        np.zeros((0, 6), np.float32),
    )
    assert [nothing.frame(index) for index in range(3)] == [None, None, None]


def test_a_detection_that_no_tracker_can_take_is_named_by_its_frame() -> None:
    offsets, boxes, scores, classes, looks = make_columns()
    looks[offsets[4] + 2] = np.nan
    with pytest.raises(ValueError, match="frame 4: embeddings holds nan in row 2"):
        PreparedSequence.of(prepare_by_score, offsets, boxes, scores, classes, looks)
