"""Quasi-dense sampling: overlap limits, quotas, balance over true boxes, rules of both releases."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from models.detectors.targets import Target
from models.qdtrack.config import QDTrackConfig, QuasiDenseConfig
from models.qdtrack.sampling import SampledBoxes, match_identities, sample_boxes

MMDET = QuasiDenseConfig()
VIS4D = QDTrackConfig.vis4d().quasi_dense


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _target(boxes: list[list[float]], identities: list[int] | None = None) -> Target:
    count = len(boxes)
    return Target(
        boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        class_indices=torch.zeros(count, dtype=torch.int64),
        identities=torch.tensor(
            list(range(count)) if identities is None else identities, dtype=torch.int64
        ),
    )


def _truth_row(index: int) -> list[float]:
    """Boxes of 100 x 100 pixels, far apart from each other."""
    return [1000.0 * index, 0.0, 1000.0 * index + 100, 100.0]


def _with_iou(iou: float, index: int = 0) -> list[float]:
    """A part of true box `index` that overlaps it by exactly `iou`."""
    left, top, right, _ = _truth_row(index)
    return [left, top, right, 100 * iou]


def _background(count: int) -> Tensor:
    left = torch.arange(count, dtype=torch.float32) * 20
    return torch.stack([left, left * 0 + 5000, left + 10, left * 0 + 5010], dim=1)


def test_overlap_limits_are_positive_from_070_and_negative_below_030() -> None:
    proposals = torch.tensor([_with_iou(iou) for iou in (0.71, 0.7, 0.69, 0.3, 0.29, 0.0)])
    sample = sample_boxes(proposals, _target([_truth_row(0)]), MMDET, generator=_generator())
    assert sample.num_positives == 3
    heights = sample.boxes_xyxy[:, 3].tolist()
    assert heights == pytest.approx([100, 71, 70, 29, 0])


def test_between_the_limits_is_ignored_with_the_limits_of_mot17_too() -> None:
    config = QuasiDenseConfig(negative_iou=0.5)
    proposals = torch.tensor([_with_iou(iou) for iou in (0.6, 0.5, 0.49)])
    sample = sample_boxes(proposals, _target([_truth_row(0)]), config, generator=_generator())
    assert sample.boxes_xyxy[:, 3].tolist() == pytest.approx([100, 49])


def test_no_low_quality_match_makes_a_poor_proposal_positive() -> None:
    """The best proposal of a box is no positive below the limit, unlike in the proposal network."""
    proposals = torch.tensor([_with_iou(0.6)])
    sample = sample_boxes(proposals, _target([_truth_row(0)]), MMDET, generator=_generator())
    assert len(sample.boxes_xyxy) == 1


@pytest.mark.parametrize(
    ("config", "expected"), [(MMDET, [100.0, 80.0]), (VIS4D, [80.0, 100.0])], ids=["mmdet", "vis4d"]
)
def test_true_boxes_stand_before_or_behind_the_proposals(
    config: QuasiDenseConfig, expected: list[float]
) -> None:
    proposals = torch.tensor([_with_iou(0.8)])
    sample = sample_boxes(proposals, _target([_truth_row(0)], [9]), config, generator=_generator())
    assert sample.boxes_xyxy[:, 3].tolist() == expected
    assert sample.identities.tolist() == [9, 9]


@pytest.mark.parametrize(
    ("config", "expected"), [(MMDET, [4, 6, 4]), (VIS4D, [4, 4, 4])], ids=["mmdet", "vis4d"]
)
def test_of_two_identities_in_one_box_each_keeps_its_own_only_where_truth_is_first(
    config: QuasiDenseConfig, expected: list[int]
) -> None:
    target = _target([_truth_row(0), _truth_row(0)], [4, 6])
    proposals = torch.tensor([_with_iou(1.0)])
    sample = sample_boxes(proposals, target, config, generator=_generator())
    assert sample.identities.tolist() == expected


@pytest.mark.parametrize(
    ("config", "num_negatives"), [(MMDET, 3), (VIS4D, 0)], ids=["mmdet", "vis4d"]
)
def test_an_image_without_true_boxes(config: QuasiDenseConfig, num_negatives: int) -> None:
    sample = sample_boxes(_background(50), _target([]), config, generator=_generator())
    assert sample.num_positives == 0
    assert sample.boxes_xyxy.shape == (num_negatives, 4)


@pytest.mark.parametrize("config", [MMDET, VIS4D], ids=["mmdet", "vis4d"])
def test_an_image_without_anything(config: QuasiDenseConfig) -> None:
    sample = sample_boxes(torch.zeros(0, 4), _target([]), config, generator=_generator())
    assert sample.boxes_xyxy.shape == (0, 4)
    assert sample.identities.shape == (0,)


@pytest.mark.parametrize("config", [MMDET, VIS4D], ids=["mmdet", "vis4d"])
@pytest.mark.parametrize(
    ("num_truths", "copies", "num_positives", "num_negatives"),
    [
        (1, 0, 1, 3),
        (5, 4, 25, 75),
        (6, 10, 66, 190),
        (8, 30, 128, 128),
        (150, 0, 128, 128),
    ],
    ids=["one box", "three each", "the sample is full", "too many", "more boxes than the quota"],
)
def test_quotas(
    config: QuasiDenseConfig,
    num_truths: int,
    copies: int,
    num_positives: int,
    num_negatives: int,
) -> None:
    proposals = torch.tensor(
        [_with_iou(0.9, index) for index in range(num_truths) for _ in range(copies)]
    ).reshape(-1, 4)
    proposals = torch.cat([proposals, _background(400)])
    target = _target([_truth_row(index) for index in range(num_truths)])
    sample = sample_boxes(proposals, target, config, generator=_generator())
    assert sample.num_positives == num_positives
    assert len(sample.boxes_xyxy) == num_positives + num_negatives
    assert (sample.boxes_xyxy[:num_positives, 1] == 0).all()
    assert (sample.boxes_xyxy[num_positives:, 1] == 5000).all()
    left = sample.boxes_xyxy[num_positives:, 0]
    assert (left[1:] > left[:-1]).all()  # unique and in the candidates' order


def _counts_of_twelve_positives(release: QuasiDenseConfig) -> list[Counter[int]]:
    """Three boxes with many proposals and a fourth with none but itself, for many seeds."""
    config = replace(release, sample_size=24)
    proposals = torch.tensor(
        [_with_iou(0.9, index) for index, count in enumerate((400, 60, 50)) for _ in range(count)]
    )
    target = _target([_truth_row(index) for index in range(4)])
    return [
        Counter(
            sample_boxes(proposals, target, config, generator=_generator(seed)).identities.tolist()
        )
        for seed in range(100)
    ]


def test_mmdet_picks_one_more_per_box_and_keeps_a_random_subset() -> None:
    """round(12 / 4) + 1 = 4 each and 1 of the fourth make 13, of which any one goes."""
    counts = _counts_of_twelve_positives(MMDET)
    assert all(sum(one.values()) == 12 and max(one.values()) <= 4 for one in counts)
    assert {one[3] for one in counts} == {0, 1}


def test_vis4d_picks_fewer_per_box_and_fills_up_from_the_rest() -> None:
    """int(12 / 4) = 3 each and 1 of the fourth make 10; two more come from anywhere."""
    counts = _counts_of_twelve_positives(VIS4D)
    assert all(sum(one.values()) == 12 and one[3] == 1 for one in counts)
    assert all(min(one[index] for index in range(3)) >= 3 for one in counts)
    assert max(one[0] for one in counts) == 5


@pytest.mark.parametrize("config", [MMDET, VIS4D], ids=["mmdet", "vis4d"])
def test_what_rare_boxes_leave_of_the_quota_is_filled_at_random(config: QuasiDenseConfig) -> None:
    """Ten boxes, nine of them without a proposal: 9 + 14 (or 12) are short of 128."""
    proposals = torch.tensor([_with_iou(0.9)] * 400)
    target = _target([_truth_row(index) for index in range(10)])
    sample = sample_boxes(proposals, target, config, generator=_generator())
    counts = Counter(sample.identities.tolist())
    assert counts == Counter({0: 119, **dict.fromkeys(range(1, 10), 1)})


def test_rounding_of_picks_per_box_is_half_to_even() -> None:
    """Quota 5 over 2 boxes: round(2.5) is 2, so 3 each, of which 5 stay."""
    config = QuasiDenseConfig(sample_size=10)
    proposals = torch.tensor([_with_iou(0.9, index) for index in (0, 1) for _ in range(20)])
    target = _target([_truth_row(0), _truth_row(1)])
    for seed in range(10):
        sample = sample_boxes(proposals, target, config, generator=_generator(seed))
        assert sorted(Counter(sample.identities.tolist()).values()) == [2, 3]


def _overlapping(ious: list[float]) -> Tensor:
    return torch.tensor([_with_iou(iou) for iou in ious])


def _negative_counts(config: QuasiDenseConfig, ious: list[float], runs: int) -> Counter[float]:
    counts: Counter[float] = Counter()
    for seed in range(runs):
        sample = sample_boxes(
            _overlapping(ious), _target([_truth_row(0)]), config, generator=_generator(seed)
        )
        counts.update(round(height / 100, 2) for height in sample.boxes_xyxy[1:, 3].tolist())
    return counts


def test_trap_27_balancing_from_minus_one_is_uniform() -> None:
    """Three of 40 negatives: by bins on [-1, 1] each has the chance 3/40, whatever its overlap."""

    def by_bins(ious: Tensor, generator: torch.Generator) -> list[int]:
        quota, edges, chosen = 3, (-1, -1 / 3, 1 / 3, 1), list[int]()
        for low, high in pairwise(edges):
            inside = torch.nonzero((ious >= low) & (ious < high)).flatten()
            chosen += inside[torch.randperm(len(inside), generator=generator)][
                : quota // 3
            ].tolist()
        rest = [row for row in range(len(ious)) if row not in chosen]
        order = torch.randperm(len(rest), generator=generator).tolist()
        return chosen + [rest[row] for row in order[: quota - len(chosen)]]

    ious = [0.0] * 30 + [0.1] * 6 + [0.25] * 4
    generator, runs = _generator(), 800
    expected: Counter[float] = Counter()
    for _ in range(runs):
        expected.update(ious[row] for row in by_bins(torch.tensor(ious), generator))
    found = _negative_counts(MMDET, ious, runs)
    for iou, count in Counter(ious).items():
        mean = runs * 3 * count / 40
        assert expected[iou] == pytest.approx(mean, abs=4 * mean**0.5)
        assert found[iou] == pytest.approx(mean, abs=4 * mean**0.5)


def test_iou_balanced_negatives_fill_bins_up_to_the_largest_overlap() -> None:
    """Bins [0, .08), [.08, .16), [.16, .24): one each, and the largest (.24) is in none of them."""
    ious = [0.0] * 30 + [0.1] * 6 + [0.2, 0.24]
    runs = 300
    counts = _negative_counts(VIS4D, ious, runs)
    assert counts[0.0] == counts[0.1] == counts[0.2] == runs
    assert counts[0.24] == 0


def test_iou_balanced_negatives_are_filled_from_everything_left() -> None:
    """Two bins are empty: one pick from the first, two from all others, the largest included."""
    ious = [0.0] * 9 + [0.24]
    counts = _negative_counts(VIS4D, ious, 900)
    assert counts[0.24] == pytest.approx(900 * 2 / 9, abs=60)
    assert sum(counts.values()) == 2700


def test_iou_balanced_negatives_that_touch_nothing_are_drawn_from_all() -> None:
    sample = sample_boxes(_background(9), _target([_truth_row(0)]), VIS4D, generator=_generator())
    assert len(sample.boxes_xyxy) == 1 + 3


def test_the_same_generator_state_gives_the_same_sample() -> None:
    proposals = torch.cat([torch.tensor([_with_iou(0.9)] * 300), _background(500)])
    for config in (MMDET, VIS4D):
        samples = [
            sample_boxes(proposals, _target([_truth_row(0)]), config, generator=_generator(seed))
            for seed in (3, 3, 4)
        ]
        assert torch.equal(samples[0].boxes_xyxy, samples[1].boxes_xyxy)
        assert not torch.equal(samples[0].boxes_xyxy, samples[2].boxes_xyxy)


def test_identities_match_whatever_the_class_and_negatives_never() -> None:
    key = SampledBoxes(torch.zeros(3, 4), torch.tensor([5, 6, -1]))
    reference = SampledBoxes(torch.zeros(5, 4), torch.tensor([6, 6, 5]))
    assert match_identities(key, reference).tolist() == [
        [False, False, True, False, False],
        [True, True, False, False, False],
        [False, False, False, False, False],
    ]


@pytest.mark.parametrize("positives", [(0, 2), (2, 0), (0, 0)], ids=str)
def test_matching_an_image_without_positives_gives_no_match(positives: tuple[int, int]) -> None:
    key, reference = (
        SampledBoxes(torch.zeros(count + 3, 4), torch.arange(count)) for count in positives
    )
    matches = match_identities(key, reference)
    assert matches.shape == (positives[0], positives[1] + 3)
    assert not matches.any()
