"""Causes and repairs of errors of masks by hand, and sums that are the official counts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datasets.masks import decode_mask, encode_mask, find_overlap, mask_boxes, mask_iou, merge_masks
from datasets.schema import SequenceResult, SequenceTruth
from pipeline.errors import CAUSES, SequenceErrors, count_errors, find_errors, match_with_truth
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate, evaluate_sequence
from pipeline.metrics.mask_overlap import mask_overlaps
from pipeline.repairs import REPAIRS, put_masks, repair
from tests.mots_files import IGNORE, Object, random_scene, result_of, strip, tracks_of, truth_of

KITTI = build_protocol(EvaluationConfig(protocol="kitti_mots"))
BDD = build_protocol(EvaluationConfig(protocol="bdd100k_mots"))
CAR, PEDESTRIAN = 0, 1
NUM_FRAMES = 25

TWO_PIECES = merge_masks([strip(0, 10), strip(30, 40)])
"""With a gap between them, that their box reaches over."""


def _rows(found: SequenceErrors) -> list[tuple[Any, ...]]:
    return sorted(zip(found.cause, found.truth_row.tolist(), found.track_row.tolist(), strict=True))


def _car(identity: int, mask: Any, frame: int = 0) -> Object:
    return Object(frame, identity, CAR, mask)


def _pedestrian(identity: int, mask: Any, frame: int = 0) -> Object:
    return Object(frame, identity, PEDESTRIAN, mask)


@pytest.mark.parametrize(
    ("truth", "result", "expected"),
    [
        ([], [], []),
        ([_car(1, strip(0, 20))], [_car(5, strip(0, 11))], []),
        ([_car(1, strip(0, 20))], [_car(5, strip(0, 10))], [("badly placed", 0, 0)]),
        ([_car(1, strip(0, 20))], [_car(5, strip(0, 2))], [("badly placed", 0, 0)]),
        (
            [_car(1, strip(0, 20))],
            [_car(5, strip(0, 1))],
            [("background", -1, 0), ("missed", 0, -1)],
        ),
        (
            [_car(1, TWO_PIECES)],
            [_car(5, strip(10, 30))],
            [("background", -1, 0), ("missed", 0, -1)],
        ),
        ([_car(1, strip(0, 20))], [_pedestrian(5, strip(0, 11))], [("mis-classed", 0, 0)]),
        (
            [_car(1, strip(0, 20))],
            [_pedestrian(5, strip(0, 10))],
            [("background", -1, 0), ("missed", 0, -1)],
        ),
        (
            [_car(1, strip(0, 20))],
            [_car(5, strip(0, 15)), _car(6, strip(15, 20))],
            [("duplicate", -1, 1)],
        ),
        (
            [_car(1, strip(0, 20))],
            [_car(5, strip(0, 15)), _pedestrian(6, strip(15, 20))],
            [("background", -1, 1)],
        ),
        (
            [_car(1, strip(0, 20))],
            [_car(5, strip(0, 6)), _car(6, strip(6, 16))],
            [("badly placed", 0, 1), ("duplicate", -1, 0)],
        ),
        ([_car(1, strip(0, 20)), Object(0, IGNORE, -1, strip(40, 60))], [_car(5, strip(45, 60))],
         [("missed", 0, -1)]),
        ([_car(1, strip(0, 20), 1)], [_car(5, strip(0, 20))],
         [("background", -1, 0), ("missed", 0, -1)]),
    ],
    ids=[
        *("nothing", "more than half", "exactly half", "a tenth", "less than a tenth"),
        *("only boxes overlap", "mis-classed", "half of another class", "duplicate"),
        *("another class beside a found one", "two pieces", "excused", "another frame"),
    ],
)  # fmt: skip
def test_each_wrong_mask_has_its_cause(
    truth: Sequence[Object], result: Sequence[Object], expected: list[Any]
) -> None:
    found = find_errors(KITTI, truth_of(truth, 2), result_of(result))
    assert _rows(found) == expected


def test_half_of_a_mask_is_a_match_by_other_rules() -> None:
    truth, result = truth_of([_car(1, strip(0, 20))], 1), result_of([_car(5, strip(0, 10))])
    assert find_errors(BDD, truth, result).errors == ()


def test_frames_that_count_as_empty_do_not_shift_rows() -> None:
    """Masks of the first frame overlap, so the rules take them all out; the second is as it was."""
    truth = truth_of([_car(1, strip(0, 20)), _car(1, strip(0, 20), 1)], 2)
    result = result_of(
        [_car(5, strip(0, 20)), _car(6, strip(10, 30)), _car(5, strip(0, 20), 1)],
    )
    matched, _, _ = match_with_truth(BDD, truth, result)
    assert matched.tolist() == [-1, -1, 1]
    assert _rows(find_errors(BDD, truth, result)) == [("missed", 0, -1)]


def test_a_car_that_is_first_found_in_its_last_frame_is_a_fragment_without_a_past() -> None:
    """A quirk of the official tool; this used to name the last track of the sequence."""
    truth = [_car(1, strip(0, 20), frame) for frame in (1, 2, 4)]
    found = find_errors(KITTI, truth_of(truth, 5), result_of([_car(7, strip(0, 20), 4)]))
    [fragment] = [error for error in found.errors if error.cause == "fragmented"]
    assert (fragment.first_frame, fragment.last_frame, fragment.num_boxes) == (1, 4, 2)
    assert (fragment.previous_track_id, fragment.track_id, fragment.identity) == (None, 7, 1)


def test_a_change_of_track_is_a_switch_and_a_fragment() -> None:
    truth = [_car(1, strip(0, 20), frame) for frame in range(4)]
    result = [_car(7 if frame < 2 else 8, strip(0, 20), frame) for frame in range(4)]
    found = find_errors(KITTI, truth_of(truth, 4), result_of(result))
    assert [
        (e.cause, e.first_frame, e.last_frame, e.previous_track_id, e.track_id, e.num_boxes)
        for e in found.errors
    ] == [("switched", 1, 2, 7, 8, 2), ("fragmented", 1, 2, 7, 8, 0)]


@pytest.mark.parametrize(
    ("benchmark", "class_ids"),
    [("kitti_mots", (1, 2)), ("mots_challenge", (2,)), ("apollo_mots", (1,)),
     ("bdd100k_mots", (1, 2))],
)  # fmt: skip
def test_sums_are_the_official_counts(benchmark: str, class_ids: Sequence[int]) -> None:
    protocol = build_protocol(EvaluationConfig(protocol=benchmark))
    total: Counter[str] = Counter()
    for seed in range(12):
        truth, result = _random_pair(seed, class_ids)
        table = evaluate(protocol, {"0001": truth}, {"0001": result}).metrics
        found = find_errors(protocol, truth, result)
        by_class = count_errors(found.errors, len(protocol.classes)).sum(axis=0)
        for name, counts in zip(protocol.classes, by_class.tolist(), strict=True):
            assert counts == [table[name][kind] for kind in protocol.error_counts], (seed, name)
        total += Counter(error.cause for error in found.errors)
    expected = set(CAUSES) - ({"mis-classed"} if len(class_ids) == 1 else set())
    assert set(total) == expected


def test_names_of_counts_are_the_benchmarks() -> None:
    names = {name: build_protocol(EvaluationConfig(protocol=name)) for name in
             ("bdd100k", "mot17", "kitti_mots", "bdd100k_mots")}  # fmt: skip
    assert {name: (p.accuracy, *p.error_counts) for name, p in names.items()} == {
        "bdd100k": ("MOTA", "FN", "FP", "IDSw", "FM"),
        "mot17": ("MOTA", "FN", "FP", "IDSw", "Frag"),
        "kitti_mots": ("MOTSA", "FN", "FP", "IDS", "Frag"),
        "bdd100k_mots": ("MOTSA", "FN", "FP", "IDSw", "FM"),
    }


def test_overlaps_are_those_of_all_pairs_of_a_frame() -> None:
    truth, result = random_scene(3)
    first, second = [one.mask for one in result], [one.mask for one in truth]
    first_keys, second_keys = (
        np.array([one.frame for one in side], np.int64) for side in (result, truth)
    )
    rows, columns, ious = mask_overlaps(first, first_keys, second, second_keys)
    expected = mask_iou(first, second) * (first_keys[:, None] == second_keys)
    assert np.array_equal(np.stack([rows, columns]), np.nonzero(expected))
    assert np.array_equal(ious, expected[rows, columns])


@pytest.fixture
def flawed() -> tuple[SequenceTruth, SequenceResult]:
    """Each error of masks once; the cars of a frame lie side by side."""
    truth = [
        *(_car(1, strip(0, 20)), _car(2, strip(20, 40)), _pedestrian(3, strip(40, 60))),
        *(_car(1, strip(0, 20), frame) for frame in (1, 2)),
    ]
    result = [
        _car(5, strip(0, 8)),  # badly placed
        _car(6, strip(14, 40)),  # found, with some of the first
        _car(7, strip(10, 14)),  # duplicate: all of it lies in the first
        _car(8, strip(40, 60)),  # mis-classed
        _car(9, strip(80, 90)),  # background
        _car(5, strip(0, 20), 1),
        _car(10, strip(0, 20), 2),  # switched
    ]
    return truth_of(truth, 3), result_of(result)


def _pixels(result: SequenceResult) -> list[tuple[int, int, int, int, int]]:
    """Frame, track, class, and where the mask begins and ends in the first line."""
    tracks = result.tracks
    spans = [np.flatnonzero(decode_mask(mask)[0]) for mask in tracks.masks or ()]
    assert np.array_equal(tracks.boxes_xyxy, mask_boxes(tracks.masks or ())), "boxes fit masks"
    columns = (tracks.frame_index, tracks.track_id, tracks.class_index)
    rows = zip(*(column.tolist() for column in columns), spans, strict=True)
    return [(*row, int(span[0]), int(span[-1]) + 1) for *row, span in rows]


@pytest.mark.parametrize(
    ("cause", "changed"),
    [
        ("badly placed", {0: (0, 5, CAR, 0, 20), 1: (0, 6, CAR, 20, 40), 2: None}),
        ("mis-classed", {3: (0, 8, PEDESTRIAN, 40, 60)}),
        ("duplicate", {2: None}),
        ("background", {4: None}),
    ],
)
def test_only_the_cause_is_repaired(
    cause: Any, changed: dict[int, Any], flawed: tuple[SequenceTruth, SequenceResult]
) -> None:
    truth, result = flawed
    before = _pixels(result)
    repaired = repair(cause, truth, result, find_errors(KITTI, truth, result))
    expected = [changed.get(row, before[row]) for row in range(len(before))]
    assert _pixels(repaired) == [row for row in expected if row is not None]
    assert _pixels(result) == before, "the original is left alone"


def test_true_identities_keep_the_masks(flawed: tuple[SequenceTruth, SequenceResult]) -> None:
    truth, result = flawed
    repaired = repair("switched", truth, result, find_errors(KITTI, truth, result))
    assert repaired.tracks.masks == result.tracks.masks
    before, after = (evaluate_sequence(KITTI, truth, r).rows["car"] for r in (result, repaired))
    assert (before["IDS"], after["IDS"]) == (1, 0)
    assert [before[name] for name in ("TP", "FP", "FN")] == [after[n] for n in ("TP", "FP", "FN")]


def test_of_two_masks_put_in_one_place_the_first_keeps_the_pixels() -> None:
    """True masks may overlap where a benchmark allows it; those of a result must not."""
    tracks = tracks_of([_car(1, strip(0, 4)), _car(2, strip(50, 54)), _car(3, strip(70, 80))])
    put = put_masks(tracks, np.array([0, 1]), [strip(0, 20), strip(10, 30)])
    masks = [np.flatnonzero(decode_mask(mask)[0])[[0, -1]].tolist() for mask in put.masks or ()]
    assert masks == [[0, 19], [20, 29], [70, 79]]


def test_the_scorer_finds_nothing_of_a_repaired_cause() -> None:
    """A mask put right takes pixels from a duplicate, which may then be nearest to something else:
    those only become fewer."""
    seen: Counter[str] = Counter()
    for seed in range(10):
        truth, result = _random_pair(seed, (1, 2))
        found = find_errors(KITTI, truth, result)
        before = count_errors(found.errors, 2).sum(axis=1)
        for cause in REPAIRS:
            repaired = repair(cause, truth, result, found)
            for frame in range(NUM_FRAMES):
                here = repaired.tracks.select(repaired.tracks.frame_index == frame)
                assert find_overlap(here.masks or ()) is None
            after = count_errors(find_errors(KITTI, truth, repaired).errors, 2).sum(axis=1)
            index = CAUSES.index(cause)
            seen[cause] += int(before[index].sum())
            assert after[index].sum() == 0 or cause in ("badly placed", "duplicate"), (seed, cause)
            assert after[index].sum() <= before[index].sum(), (seed, cause)
    assert min(seen[cause] for cause in REPAIRS) > 0


@pytest.mark.parametrize("seed", range(3))
def test_order_of_rows_does_not_matter(seed: int) -> None:
    truth, result = _random_pair(seed, (1, 2))
    order = np.random.default_rng(seed).permutation(len(result.tracks))
    again = find_errors(KITTI, truth, replace(result, tracks=result.tracks.select(order)))
    found = find_errors(KITTI, truth, result)
    assert again.errors == found.errors


def _random_pair(seed: int, class_ids: Sequence[int]) -> tuple[SequenceTruth, SequenceResult]:
    """A scene with some masks cut in half and some of the other class."""
    rng = np.random.default_rng([seed, 1])
    truth, result = random_scene(seed, NUM_FRAMES, class_ids)
    flawed = []
    for one in result:
        draw = rng.random()
        if draw < 0.1 and len(class_ids) > 1:
            one = one._replace(class_index=1 - one.class_index)
        elif draw < 0.25:
            mask = decode_mask(one.mask)
            columns = np.flatnonzero(mask.any(axis=0))
            if len(columns) > 2:
                right = mask & (np.arange(mask.shape[1]) >= columns[len(columns) // 2 + 1])
                flawed.append(one._replace(mask=encode_mask(right), identity=one.identity + 1000))
                one = one._replace(mask=encode_mask(mask & ~right))
        flawed.append(one)
    return truth_of(truth, NUM_FRAMES), result_of(flawed)
