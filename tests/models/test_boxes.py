"""Boxes against loops written out by hand, and every rule that another code base does otherwise."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from models.boxes import (
    IGNORED,
    MAX_SIZE_DELTA,
    NEGATIVE,
    Assignment,
    assign_max_iou,
    box_iou,
    choose,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    sample_random,
    suppress,
)


def random_boxes(count: int, seed: int, extent: float = 60.0) -> Tensor:
    draw = np.random.default_rng(seed)
    corners = draw.uniform(0, extent, (count, 2))
    sizes = draw.uniform(1, extent / 2, (count, 2))
    return torch.tensor(np.hstack([corners, corners + sizes]), dtype=torch.float32)


def slow_iou(first: list[float], second: list[float]) -> float:
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / max(sum(areas) - width * height, 1e-6)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param([0, 0, 10, 10], [0, 0, 10, 10], 1.0, id="equal"),
        pytest.param([0, 0, 10, 10], [10, 0, 20, 10], 0.0, id="touching, no pixel is shared"),
        pytest.param([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3, id="half shifted, nothing plus one"),
        pytest.param([0, 0, 10, 10], [20, 20, 30, 30], 0.0, id="apart on both axes"),
        pytest.param([5, 5, 5, 5], [5, 5, 5, 5], 0.0, id="points overlap by 0, not NaN"),
    ],
)
def test_iou_by_hand(first: list[float], second: list[float], expected: float) -> None:
    found = box_iou(torch.tensor([first], dtype=torch.float32), torch.tensor([second]))
    assert found.item() == pytest.approx(expected, abs=1e-7)


def test_iou_is_that_of_a_loop_over_pairs() -> None:
    first, second = random_boxes(17, 0), random_boxes(9, 1)
    expected = [[slow_iou(a, b) for b in second.tolist()] for a in first.tolist()]
    np.testing.assert_allclose(box_iou(first, second).numpy(), expected, atol=1e-6)


def test_iou_of_no_boxes_is_an_empty_matrix() -> None:
    assert box_iou(torch.zeros(0, 4), random_boxes(3, 0)).shape == (0, 3)
    assert box_iou(random_boxes(3, 0), torch.zeros(0, 4)).shape == (3, 0)


def test_encoding_by_hand() -> None:
    anchor = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre 20, 40, size 20 x 40
    box = torch.tensor([[20.0, 20.0, 60.0, 40.0]])  # centre 40, 30, size 40 x 20
    expected = [20 / 20 / 0.1, -10 / 40 / 0.1, math.log(2) / 0.2, math.log(0.5) / 0.2]
    found = encode_boxes(anchor, box, (0.1, 0.1, 0.2, 0.2))
    np.testing.assert_allclose(found.numpy()[0], expected, rtol=1e-5)


def test_decoding_undoes_encoding() -> None:
    anchors, boxes = random_boxes(50, 2), random_boxes(50, 3)
    stds = (0.1, 0.1, 0.2, 0.2)
    decoded = decode_boxes(anchors, encode_boxes(anchors, boxes, stds), stds)
    np.testing.assert_allclose(decoded.numpy(), boxes.numpy(), atol=1e-3)


@pytest.mark.parametrize(
    ("delta", "factor"),
    [
        pytest.param(9.0, 1000 / 16, id="growth is limited"),
        pytest.param(-9.0, 16 / 1000, id="shrinking is limited too, unlike in torchvision"),
        pytest.param(MAX_SIZE_DELTA, 1000 / 16, id="the limit itself"),
        pytest.param(-2.0, math.exp(-2), id="below the limit"),
    ],
)
def test_decoded_size_is_limited_on_both_sides(delta: float, factor: float) -> None:
    anchor = torch.tensor([[0.0, 0.0, 100.0, 50.0]])
    x1, y1, x2, y2 = decode_boxes(anchor, torch.tensor([[0.0, 0.0, delta, delta]]))[0].tolist()
    assert x2 - x1 == pytest.approx(100 * factor, rel=1e-4)
    assert y2 - y1 == pytest.approx(50 * factor, rel=1e-4)
    assert (x1 + x2) / 2 == pytest.approx(50, abs=1e-3)


def test_the_limit_holds_after_the_standard_deviations_are_applied() -> None:
    anchor = torch.tensor([[0.0, 0.0, 100.0, 50.0]])
    deltas = torch.tensor([[0.0, 0.0, -9.0, -9.0]])
    box = decode_boxes(anchor, deltas, (0.1, 0.1, 0.2, 0.2))[0]
    assert (box[2] - box[0]).item() == pytest.approx(100 * math.exp(-1.8), rel=1e-4)


def test_clipping_uses_width_for_x_and_height_for_y() -> None:
    boxes = torch.tensor([[[-5.0, -5.0, 500.0, 500.0]], [[90.0, 30.0, 110.0, 45.0]]])
    sizes = torch.tensor([[40, 100], [20, 60]])
    clipped = clip_boxes(boxes, sizes[:, None])
    assert clipped.tolist() == [[[0, 0, 100, 40]], [[60, 20, 60, 20]]]


def slow_assign(
    boxes: Tensor, truth: Tensor, low_quality: float | None, keeps_own: bool
) -> list[int]:
    """The rule of Faster R-CNN written as loops, thresholds 0.7 and 0.3."""
    iou = box_iou(boxes, truth).tolist()
    assigned = []
    for row in iou:
        best = max(row)
        positive = row.index(best) if best >= 0.7 else IGNORED
        assigned.append(NEGATIVE if best < 0.3 else positive)
    if low_quality is None:
        return assigned
    for column in range(len(truth)):
        best = max(row[column] for row in iou)
        for index, row in enumerate(iou):
            if best >= low_quality and row[column] == best:
                assigned[index] = row.index(max(row)) if keeps_own else column
    return assigned


@pytest.mark.parametrize("keeps_own", [False, True])
@pytest.mark.parametrize("low_quality", [None, 0.3, 0.5])
def test_assignment_is_that_of_loops(low_quality: float | None, keeps_own: bool) -> None:
    for seed in range(20):
        boxes = random_boxes(80, seed).round()
        boxes[40:] = boxes[:40]  # equal boxes: ties for the best overlap of a true box
        truth = random_boxes(7, seed + 100).round()
        found = assign_max_iou(
            boxes,
            truth,
            positive_iou=0.7,
            negative_iou=0.3,
            low_quality_iou=low_quality,
            low_quality_keeps_own=keeps_own,
        )
        assert found.truth_index.tolist() == slow_assign(boxes, truth, low_quality, keeps_own)
        np.testing.assert_array_equal(found.max_iou, box_iou(boxes, truth).amax(dim=1))


def test_a_claimed_box_changes_hands_in_one_convention_and_not_in_the_other() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    truth = torch.tensor([[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 4.0]])  # overlaps 0.9 and 0.4
    found = {
        keeps_own: assign_max_iou(
            box,
            truth,
            positive_iou=0.7,
            negative_iou=0.3,
            low_quality_iou=0.3,
            low_quality_keeps_own=keeps_own,
        ).truth_index.item()
        for keeps_own in (False, True)
    }
    assert found == {False: 1, True: 0}


@pytest.mark.parametrize(
    ("height", "expected"),
    [
        pytest.param(5.0, 0, id="exactly the positive threshold is positive"),
        pytest.param(4.0, IGNORED, id="between"),
        pytest.param(2.5, IGNORED, id="exactly the negative threshold is not negative"),
        pytest.param(2.0, NEGATIVE, id="below"),
    ],
)
def test_assignment_at_its_thresholds(height: float, expected: int) -> None:
    box, truth = torch.tensor([[0.0, 0.0, 10.0, height]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assignment = assign_max_iou(box, truth, positive_iou=0.5, negative_iou=0.25)
    assert assignment.truth_index.tolist() == [expected]


def test_without_true_boxes_everything_is_negative() -> None:
    found = assign_max_iou(
        random_boxes(3, 0), torch.zeros(0, 4), positive_iou=0.5, negative_iou=0.5
    )
    assert found.truth_index.tolist() == [NEGATIVE] * 3
    assert found.max_iou.tolist() == [0, 0, 0]


def test_without_boxes_nothing_is_assigned() -> None:
    found = assign_max_iou(
        torch.zeros(0, 4),
        random_boxes(3, 0),
        positive_iou=0.5,
        negative_iou=0.5,
        low_quality_iou=0.3,
    )
    assert found.truth_index.shape == found.max_iou.shape == (0,)


def test_chosen_rows_are_ascending_distinct_and_depend_on_the_generator_alone() -> None:
    rows = torch.arange(100, 300)
    torch.manual_seed(1)
    first = choose(rows, 40, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    second = choose(rows, 40, torch.Generator().manual_seed(5))
    assert first.tolist() == second.tolist() == sorted(set(first.tolist()))
    assert set(first.tolist()) <= set(rows.tolist())
    assert choose(rows, 40, torch.Generator().manual_seed(6)).tolist() != first.tolist()


def test_every_row_is_chosen_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(10)
    for _ in range(2000):
        counts[choose(torch.arange(10), 3, generator)] += 1
    assert counts.min() > 520
    assert counts.max() < 680


def test_all_rows_are_taken_without_a_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert choose(torch.tensor([5, 2]), 2, generator).tolist() == [2, 5]
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [
        pytest.param(100, 500, (16, 48), id="positives fill a quarter, negatives the rest"),
        pytest.param(3, 500, (3, 61), id="negatives fill what positives leave"),
        pytest.param(100, 10, (16, 10), id="positives do not fill what negatives leave"),
        pytest.param(0, 0, (0, 0), id="nothing to sample"),
    ],
)
def test_random_sample_sizes(positives: int, negatives: int, expected: tuple[int, int]) -> None:
    index = torch.tensor([0] * positives + [NEGATIVE] * negatives + [IGNORED] * 7).long()
    assignment = Assignment(index, torch.zeros(len(index)))
    sample = sample_random(
        assignment, size=64, positive_fraction=0.25, generator=torch.Generator().manual_seed(0)
    )
    assert (len(sample.positive), len(sample.negative)) == expected
    assert (index[sample.positive] == 0).all()
    assert (index[sample.negative] == NEGATIVE).all()


def slow_suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    """Greedy suppression as loops: later of two equal scores is the worse one."""
    order = sorted(range(len(boxes)), key=lambda row: -scores[row].item())
    kept: list[int] = []
    for row in order:
        rivals = [other for other in kept if groups[other] == groups[row]]
        overlaps = [box_iou(boxes[row : row + 1], boxes[[other]]).item() for other in rivals]
        if all(overlap <= threshold for overlap in overlaps):
            kept.append(row)
    return kept


@pytest.mark.parametrize("offset_groups", [False, True])
def test_suppression_is_that_of_loops(offset_groups: bool) -> None:
    for seed in range(5):
        boxes = random_boxes(60, seed)
        draw = torch.Generator().manual_seed(seed)
        scores = torch.rand(60, generator=draw)
        groups = torch.randint(0, 3, (60,), generator=draw)
        kept = suppress(boxes, scores, groups, iou_threshold=0.4, offset_groups=offset_groups)
        assert kept.tolist() == slow_suppress(boxes, scores, groups, 0.4)


@pytest.mark.parametrize("offset_groups", [False, True])
@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        pytest.param(0.5, [0, 1], id="an overlap equal to the threshold does not suppress"),
        pytest.param(0.49, [0], id="a larger one does"),
    ],
)
def test_suppression_is_strict(threshold: float, kept: list[int], offset_groups: bool) -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]])  # overlap exactly 0.5
    groups = torch.tensor([1, 1])
    scores = torch.tensor([0.9, 0.8])
    found = suppress(boxes, scores, groups, iou_threshold=threshold, offset_groups=offset_groups)
    assert found.tolist() == kept


def test_a_suppressed_box_suppresses_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 3.2]])
    scores, groups = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)
    found = suppress(boxes, scores, groups, iou_threshold=0.5, offset_groups=False)
    assert found.tolist() == [0, 2]


def test_equal_scores_keep_row_order_across_groups() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5], [6, 6, 7, 7]])
    groups = torch.tensor([2, 0, 1, 0])
    found = suppress(boxes, torch.full((4,), 0.5), groups, iou_threshold=0.5, offset_groups=True)
    assert found.tolist() == [0, 1, 2, 3]


def near_threshold_pairs(count: int, seed: int) -> Tensor:
    """Small boxes far apart, each with a partner whose overlap is a rounding away from 1/2."""
    draw = np.random.default_rng(seed)
    cells = draw.permutation(40 * 40)[:count]
    corners = np.stack([cells % 40, cells // 40], axis=1) * 32 + draw.uniform(0, 9, (count, 2))
    sizes = draw.uniform(1, 3, (count, 2))
    half = sizes * [1, 0.5] + draw.uniform(-1e-4, 1e-4, (count, 2)) * [0, 1]
    boxes = np.concatenate([np.hstack([corners, corners + size]) for size in (sizes, half)])
    return torch.tensor(boxes, dtype=torch.float32)


def test_shifted_groups_decide_as_one_pass_over_all_of_them() -> None:
    """mmcv shifts and then compares all boxes at once; we compare within groups only."""
    num_changed = 0
    for seed in range(10):
        boxes = near_threshold_pairs(200, seed)
        draw = torch.Generator().manual_seed(seed)
        scores = torch.rand(400, generator=draw)
        groups = torch.randint(0, 8, (200,), generator=draw).repeat(2)
        shifted = boxes + (groups * (boxes.max() + 1))[:, None]
        found = suppress(boxes, scores, groups, iou_threshold=0.5, offset_groups=True).tolist()
        assert found == nms(shifted, scores, 0.5).tolist()
        plain = suppress(boxes, scores, groups, iou_threshold=0.5, offset_groups=False).tolist()
        num_changed += found != plain
    assert num_changed == 10  # the shift's rounding decides somewhere every time


# Overlap exactly 1/2 where they lie; shifted by 7 * 1281 their edges round to 1/1024 of a pixel.
_NEAR_THRESHOLD = [[0.0, 0.0, 1.0, 0.3], [0.0, 0.0, 0.5, 0.3], [1000.0, 1000.0, 1280.0, 1280.0]]


def test_rounding_of_the_shift_is_mmcvs_and_only_where_asked_for() -> None:
    boxes = torch.tensor(_NEAR_THRESHOLD)
    boxes[1, 2] += 1e-4  # a little above one half, too little to survive the shift
    scores, groups = torch.tensor([0.9, 0.8, 0.7]), torch.full((3,), 7)
    plain = suppress(boxes, scores, groups, iou_threshold=0.5, offset_groups=False)
    shifted = suppress(boxes, scores, groups, iou_threshold=0.5, offset_groups=True)
    assert plain.tolist() == [0, 2]
    assert shifted.tolist() == [0, 1, 2]


def test_from_ten_thousand_boxes_on_nothing_is_shifted() -> None:
    boxes = torch.tensor(_NEAR_THRESHOLD)
    boxes[1, 2] += 1e-4
    grid = torch.arange(9_997) * 4.0
    far = torch.stack(
        [grid % 1000, 200 + grid // 1000 * 4, grid % 1000 + 2, grid // 1000 * 4 + 202]
    )
    boxes = torch.cat([boxes, far.T])
    assert len(boxes) == 10_000
    groups = torch.full((len(boxes),), 7)
    scores = torch.linspace(1, 0.1, len(boxes))
    for count, survives in ((9_999, True), (10_000, False)):
        found = suppress(
            boxes[:count], scores[:count], groups[:count], iou_threshold=0.5, offset_groups=True
        )
        assert (1 in found.tolist()) == survives


def test_suppression_of_nothing_keeps_nothing() -> None:
    none = torch.zeros(0)
    found = suppress(none.reshape(0, 4), none, none.long(), iou_threshold=0.5, offset_groups=True)
    assert found.shape == (0,)
