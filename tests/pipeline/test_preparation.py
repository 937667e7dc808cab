"""What reaches the metrics: BDD100K's ignore rule, its borders, and what is refused."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import trackeval

from datasets.schema import SequenceResult, SequenceTruth
from pipeline.metrics.bdd100k import find_targets, prepare_classes
from pipeline.metrics.overlap import overlaps
from pipeline.metrics.preparation import check_result

MakeTruth = Callable[..., SequenceTruth]
MakeResult = Callable[..., SequenceResult]

UNIT = (0.0, 0.0, 10.0, 10.0)


def _kept(truth: SequenceTruth, result: SequenceResult) -> list[int]:
    """Predictions left of each of two classes."""
    return [data.num_tracks for data in prepare_classes(find_targets(truth, 2), result, 2)]


@pytest.mark.parametrize(
    ("ignore", "is_kept"),
    [
        ((0.0, 0.0, 10.0, 5.0), True),  # exactly half of the prediction
        ((0.0, 0.0, 10.0, 5.01), False),
        ((-100.0, -100.0, 200.0, 200.0), False),  # IoU is tiny, the share is what counts
        ((20.0, 20.0, 30.0, 30.0), True),
    ],
)
@pytest.mark.parametrize("flag", ["crowd", "ignored"])
def test_an_unmatched_prediction_mostly_inside_an_ignore_box_is_removed(
    ignore: tuple[float, ...],
    is_kept: bool,
    flag: str,
    make_truth: MakeTruth,
    make_result: MakeResult,
) -> None:
    truth = make_truth([(0, 1, 0, ignore, flag)], 1)
    assert _kept(truth, make_result([(0, 5, 0, UNIT)])) == [int(is_kept), 0]


def test_two_ignore_boxes_do_not_add_up(make_truth: MakeTruth, make_result: MakeResult) -> None:
    halves = [(0, 1, 0, (0, 0, 10, 4.9), "crowd"), (0, 2, 0, (0, 5.1, 10, 10), "crowd")]
    assert _kept(make_truth(halves, 1), make_result([(0, 5, 0, UNIT)])) == [1, 0]


def test_ignore_boxes_excuse_predictions_of_every_class_in_their_own_frame(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth = make_truth([(0, 1, 0, UNIT, "crowd")], 2)
    result = make_result([(0, 5, 1, UNIT), (1, 5, 1, UNIT)])
    assert _kept(truth, result) == [0, 1]


def test_a_region_without_a_class_excuses_too(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth = make_truth([(0, 1, -1, UNIT, "ignored")], 1)
    assert _kept(truth, make_result([(0, 5, 1, UNIT)])) == [0, 0]


def test_a_matched_prediction_stays_inside_a_crowd(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth = make_truth([(0, 1, 0, UNIT), (0, 2, 0, (0, 0, 99, 99), "crowd")], 1)
    result = make_result([(0, 5, 0, UNIT), (0, 6, 0, (1, 1, 10, 10))])
    [data, _] = prepare_classes(find_targets(truth, 2), result, 2)
    assert (data.num_tracks, data.pair_iou.tolist()) == (1, [1.0])


def test_as_many_predictions_as_possible_are_matched_before_any_is_removed(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    """Taking the best pair first (IoU 1) would leave the second prediction alone in the crowd."""
    crowd = (0, 9, 0, (-50, -50, 99, 99), "crowd")
    truth = make_truth([(0, 1, 0, UNIT), (0, 2, 0, (0, -3, 10, 7)), crowd], 1)
    # IoU with the two objects: 1 and 0.54 for the first prediction, 0.5 and 0.2 for the second.
    result = make_result([(0, 5, 0, UNIT), (0, 6, 0, (0, 4, 10, 12))])
    assert _kept(truth, result) == [2, 0]


def test_crowd_truth_is_no_target_and_frames_may_hold_nothing_else(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth = make_truth([(0, 1, 0, UNIT, "crowd"), (0, 2, 1, UNIT, "ignored")], 3)
    data = prepare_classes(find_targets(truth, 2), make_result([]), 2)
    assert [(d.num_frames, d.num_truth, d.num_tracks) for d in data] == [(3, 0, 0), (3, 0, 0)]


def test_ids_are_relabelled_in_ascending_order_and_rows_sorted_by_frame(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth = make_truth([(0, 70, 0, UNIT), (0, 7, 0, (50, 50, 60, 60)), (1, 7, 1, UNIT)], 2)
    result = make_result([(1, 900, 0, UNIT), (0, 4, 0, UNIT), (0, 900, 0, (50, 50, 60, 60))])
    [first, second] = prepare_classes(find_targets(truth, 2), result, 2)
    assert first.truth_id.tolist() == [1, 0]
    assert first.track_frame.tolist() == [0, 0, 1]
    assert first.track_id.tolist() == [0, 1, 1]
    assert first.pair_truth.tolist() == [0, 1]
    assert first.pair_track.tolist() == [0, 1]
    assert (second.truth_frame.tolist(), second.num_truth_ids) == ([1], 1)


def test_boxes_are_scored_in_float64(make_truth: MakeTruth, make_result: MakeResult) -> None:
    third = 1 / 3
    truth = make_truth([(0, 1, 0, (0, 0, third, third))], 1)
    [data, _] = prepare_classes(
        find_targets(truth, 2), make_result([(0, 1, 0, (0, 0, third, third))]), 2
    )
    assert data.pair_iou.tolist() == [1.0]


def test_trimmed_boxes_are_those_of_the_stock_loader(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    truth, result = (
        make_truth([(0, 1, 0, (0, 0, 11, 11))], 1),
        make_result([(0, 1, 0, (0, 0, 11, 6))]),
    )
    [data, _] = prepare_classes(find_targets(truth, 2, trim_px=1.0), result, 2)
    assert data.pair_iou.tolist() == [0.5]


def test_overlaps_in_blocks_are_those_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowded sequences are cut into blocks of pairs; a wrong border would lose or double some."""
    rng = np.random.default_rng(3)
    first = np.concatenate([corner := rng.random((40, 2)), corner + rng.random((40, 2))], axis=1)
    second = np.concatenate([corner := rng.random((60, 2)), corner + rng.random((60, 2))], axis=1)
    first_keys, second_keys = rng.integers(0, 5, 40), np.sort(rng.integers(0, 5, 60))
    whole = overlaps(first, first_keys, second, second_keys)
    assert len(whole[0]) > 50
    for size in (1, 7, 64):
        monkeypatch.setattr("pipeline.metrics.overlap._PAIRS_AT_ONCE", size)
        blocks = overlaps(first, first_keys, second, second_keys)
        for found, expected in zip(blocks, whole, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "f"])
def test_equal_to_the_preparation_of_trackeval(
    name: str, random_sequence: Callable[..., tuple[SequenceTruth, SequenceResult]]
) -> None:
    """trackeval maximises the sum of IoU, the official tool the number of pairs: same here."""
    truth, result = random_sequence(name)
    dataset = trackeval.datasets.BDD100K.__new__(trackeval.datasets.BDD100K)
    dataset.class_name_to_class_id = {"0": 0, "1": 1, "2": 2}
    raw = _trackeval_raw_data(truth, result)
    for index, found in enumerate(prepare_classes(find_targets(truth, 3), result, 3)):
        expected = dataset.get_preprocessed_seq_data(raw, str(index))
        for key in ("num_gt_ids", "num_tracker_ids", "num_gt_dets", "num_tracker_dets"):
            assert found[key] == expected[key], key
        for key in ("gt_ids", "tracker_ids", "similarity_scores"):
            for ours, theirs in zip(found[key], expected[key], strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=key)
    assert sum(
        data.num_tracks for data in prepare_classes(find_targets(truth, 3), result, 3)
    ) < len(result.tracks)


def _trackeval_raw_data(truth: SequenceTruth, result: SequenceResult) -> dict[str, Any]:
    rows, tracks, calculate = truth.annotations, result.tracks, trackeval.datasets.BDD100K
    frames = range(truth.num_frames)
    targets = [np.flatnonzero((rows.frame_index == f) & ~rows.crowd) for f in frames]
    crowds = [np.flatnonzero((rows.frame_index == f) & rows.crowd) for f in frames]
    found = [np.flatnonzero(tracks.frame_index == f) for f in frames]
    return {
        "num_timesteps": truth.num_frames,
        "gt_ids": [rows.identity[r] for r in targets],
        "gt_classes": [rows.class_index[r] for r in targets],
        "gt_dets": [rows.boxes_xyxy[r] for r in targets],
        "gt_crowd_ignore_regions": [rows.boxes_xyxy[r] for r in crowds],
        "tracker_ids": [tracks.track_id[r] for r in found],
        "tracker_classes": [tracks.class_index[r] for r in found],
        "tracker_dets": [tracks.boxes_xyxy[r] for r in found],
        "similarity_scores": [
            calculate._calculate_box_ious(rows.boxes_xyxy[r], tracks.boxes_xyxy[s], "x0y0x1y1")
            for r, s in zip(targets, found, strict=True)
        ],
    }


@pytest.mark.parametrize(
    ("rows", "num_frames", "message"),
    [
        ([], 3, "the result lists 3 frames, the truth has 2"),
        ([(2, 1, 0, UNIT)], None, "a box in frame index 2, expected 0 to 1"),
        ([(-1, 1, 0, UNIT)], None, "a box in frame index -1"),
        ([(1, 1, 2, UNIT)], None, r"frame index 1 \(a-0000002.jpg\): track 1 has class index 2"),
        ([(1, 1, -1, UNIT)], None, "track 1 has class index -1"),
        ([(1, 1, 0, (0, 0, np.nan, 5))], None, r"frame index 1 .* box \[0.0, 0.0, nan, 5.0\]"),
        ([(0, 1, 0, (0, 0, np.inf, 5))], None, "frame index 0 .* expected finite"),
        ([(1, 8, 0, UNIT), (1, 8, 1, UNIT)], None, "frame index 1 .* track id 8 twice"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_place(
    rows: Sequence[tuple[Any, ...]],
    num_frames: int | None,
    message: str,
    make_truth: MakeTruth,
    make_result: MakeResult,
) -> None:
    with pytest.raises(ValueError, match=f"sequence 'a'.*{message}"):
        check_result(make_truth([], 2), make_result(rows, num_frames), 2)


def test_the_same_id_in_two_frames_is_a_track(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    check_result(make_truth([], 2), make_result([(0, 8, 0, UNIT), (1, 8, 0, UNIT)], 2), 2)
