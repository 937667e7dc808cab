"""Masks as trackers see them: packed, kept by keys, and compared by the same numbers either way."""

import pickle

import numpy as np
import pytest

from datasets.masks import decode_mask
from models.masks import GivenMasks, Keys, Rle, SequenceMasks
from tests.mask_scene import NUM_FRAMES, make_mask_pair, rectangle

OFFSETS = np.array([0, 2, 2, 3, 5])
CODES = [
    rectangle(0, 0, 10, 10),
    rectangle(20, 0, 30, 10),
    rectangle(5, 0, 15, 10),
    rectangle(2, 0, 12, 10),
    rectangle(22, 0, 32, 10),
]


def pack(window_frames: int, classes: tuple[int, ...] = (0, 0, 0, 0, 0)) -> SequenceMasks:
    return SequenceMasks.of(CODES, OFFSETS, np.array(classes), window_frames)


def slow_iou(first: list[Rle], second: list[Rle]) -> np.ndarray:
    masks, others = ([decode_mask(code) for code in side] for side in (first, second))  # type: ignore[arg-type]
    return np.array([[(m & o).sum() / (m | o).sum() for o in others] for m in masks])


@pytest.mark.parametrize("window_frames", [0, 1, 2, 3, 50])
def test_overlaps_are_those_of_the_pixels_whatever_was_worked_out_ahead(window_frames: int) -> None:
    masks = pack(window_frames)
    for earlier in ([0, 1, 2], [2, 0], [1], []):
        rows = np.array([1, 0])
        overlap = masks.frame(3, rows).iou(np.array(earlier, np.int64))
        expected = slow_iou([CODES[4], CODES[3]], [CODES[row] for row in earlier])
        assert overlap.tolist() == expected.reshape(2, len(earlier)).tolist()
    assert masks.frame(3, np.array([0])).iou(np.array([0])).tolist() == [[80 / 120]]


def test_the_window_changes_no_bit_on_a_whole_sequence() -> None:
    _, detections = make_mask_pair("window")
    assert detections.masks is not None
    offsets, classes = detections.frame_offsets, detections.class_indices
    plain, *windows = (
        SequenceMasks.of(detections.masks, offsets, classes, frames) for frames in (0, 4, 30)
    )
    num_pairs = 0
    for frame in range(1, NUM_FRAMES):
        for label in (0, 1):
            (rows,) = np.nonzero(classes[offsets[frame] : offsets[frame + 1]] == label)
            (earlier,) = np.nonzero(classes[: offsets[frame]] == label)
            expected = plain.frame(frame, rows).iou(earlier)
            num_pairs += np.count_nonzero(expected)
            for masks in windows:
                found = masks.frame(frame, rows).iou(earlier)
                assert found.tobytes() == expected.tobytes()
    assert num_pairs > 1000


def test_handed_over_masks_and_packed_ones_have_the_same_overlaps() -> None:
    given = GivenMasks.of(CODES[3:])
    keys: Keys = GivenMasks.of(CODES[:3]).keys
    rows = np.array([1, 0])
    packed = pack(2).frame(3, rows)
    assert given.select(rows).iou(keys).tolist() == packed.iou(np.arange(3)).tolist()
    assert given.select(rows).sizes.tolist() == packed.sizes.tolist() == [[60, 80]] * 2
    assert packed.select(np.array([1])).keys.tolist() == [3]


def test_masks_come_back_from_arrays_that_processes_share() -> None:
    masks = pickle.loads(pickle.dumps(pack(2)))
    for array in vars(masks).values():
        array.flags.writeable = False
    assert masks.codes(np.array([4, 0])) == (CODES[4], CODES[0])
    assert masks.codes(np.zeros(0, np.int64)) == ()
    assert masks.frame(3, np.array([0])).iou(np.array([2])).tolist() == [[70 / 130]]


def test_nothing_is_worked_out_between_classes() -> None:
    assert len(pack(50).pair_iou) == 4
    assert len(pack(50, (0, 0, 1, 1, 0)).pair_iou) == 2
    assert len(pack(50, (0, 1, 2, 3, 4)).pair_iou) == 0
    assert len(pack(0).pair_iou) == 0


def test_a_sequence_without_masks_can_be_packed() -> None:
    masks = SequenceMasks.of([], np.zeros(4, np.int64), np.zeros(0, np.int16), 5)
    assert masks.codes(np.zeros(0, np.int64)) == ()
    assert masks.sizes.shape == (0, 2)


def test_masks_of_another_size_are_named_by_frame() -> None:
    codes = [*CODES[:4], rectangle(0, 0, 5, 5, (60, 81))]
    with pytest.raises(ValueError, match=r"frame 3: the mask of row 1 is .* 60 x 81 .* 60 x 80"):
        SequenceMasks.of(codes, OFFSETS, np.zeros(5), 2)
    SequenceMasks.of(codes, OFFSETS, np.zeros(5))  # nobody has asked for an overlap yet


def test_an_empty_mask_overlaps_nothing() -> None:
    nothing = rectangle(0, 0, 0, 0)
    masks = SequenceMasks.of([CODES[0], nothing, nothing], np.array([0, 1, 2, 3]), np.zeros(3), 3)
    assert masks.frame(2, np.array([0])).iou(np.array([0, 1])).tolist() == [[0.0, 0.0]]
    assert GivenMasks.of([nothing]).iou(GivenMasks.of([nothing]).keys).tolist() == [[0.0]]
