"""Clusters against a plain loop over seeds on random maps, and every limit by itself."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from models.pointtrack import clustering
from models.pointtrack.clustering import cluster_instances, cluster_with_scores

pytestmark = pytest.mark.usefixtures("one_thread")

STEP_X, STEP_Y = 2 / 2047, 1 / 1023
LN2 = math.log(2)


def plain(prediction: Tensor, threshold: float, min_pixels: int) -> tuple[Tensor, list[float]]:
    """The rules one after the other over whole maps, float32, with no thought of speed."""
    _, height, width = prediction.shape
    xy = torch.stack(
        [
            torch.linspace(0, 2, 2048)[:width].expand(height, width),
            torch.linspace(0, 1, 1024)[:height, None].expand(height, width),
        ]
    )
    e = (prediction[:2].tanh() + xy).flatten(1)
    s = (prediction[2:4] * 10).exp().flatten(1)
    seed = prediction[4].flatten().sigmoid()
    foreground = seed > 0.5
    instances = torch.zeros(height * width, dtype=torch.int64)
    scores: list[float] = []
    unclustered = foreground.clone()
    while unclustered.sum() > min_pixels:
        left = torch.where(unclustered, seed, 0)
        best = (left == left.max()).nonzero()[0, 0]
        if left[best].item() < threshold:
            break
        squared = (e - e[:, best, None]).pow(2) * s[:, best, None]
        unclustered[best] = False
        proposal = ((-(squared[0] + squared[1])).exp() > 0.5) & foreground
        size, new = int(proposal.sum()), int((proposal & unclustered).sum())
        if size > min_pixels and new / size > 0.5:
            scores.append(seed[best].item())
            instances[proposal] = len(scores)
        unclustered &= ~proposal
    return instances.reshape(height, width), scores


def assert_as_plain(prediction: Tensor, threshold: float, min_pixels: int) -> int:
    """Both give the same map and scores; returns how many instances these are."""
    before = prediction.clone()
    found = cluster_with_scores(prediction, seed_threshold=threshold, min_pixels=min_pixels)
    assert torch.equal(prediction, before) or prediction.isnan().any()
    instances, scores = plain(prediction, threshold, min_pixels)
    assert found.instances.dtype == np.int32
    assert found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.instances, instances.numpy())
    assert found.scores.tolist() == scores
    return len(scores)


def sigma_of_radius(pixels: float) -> float:
    """What reaches this many columns (and, within 0.05 %, rows) and not one more."""
    return math.log(LN2 / (pixels * STEP_X) ** 2) / 10


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def flat_map(height: int, width: int, *, radius: float, seed: float = -5.0) -> Tensor:
    """No offsets, one bandwidth, one seed logit."""
    prediction = torch.zeros(5, height, width)
    prediction[2:4] = sigma_of_radius(radius)
    prediction[4] = seed
    return prediction


def noise(seed: int, height: int, width: int) -> Tensor:
    """Everything at random: proposals of all sizes, anywhere, overlapping as they like."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(5, height, width, generator=generator)
    prediction[:2] *= 0.02
    prediction[2:4] = prediction[2:4] * 0.08 + sigma_of_radius(4 + seed % 5)
    prediction[4] *= 3
    return prediction


def blobs(seed: int, height: int, width: int) -> Tensor:
    """Ellipses that point to their centres, some over the border of the image."""
    generator = np.random.default_rng(seed)
    prediction = noise(seed, height, width) * torch.tensor([0.1, 0.1, 1, 1, 0.1])[:, None, None]
    prediction[4] -= 2
    rows, columns = np.mgrid[:height, :width]
    for _ in range(8):
        centre = generator.uniform(0, [width, height])
        radius = generator.uniform(2, 9, 2)
        away = np.stack([columns - centre[0], rows - centre[1]])
        distance = ((away / radius[:, None, None]) ** 2).sum(axis=0)
        mask = torch.from_numpy(distance < 1)
        error = generator.normal(scale=0.5, size=away.shape)
        offsets = torch.from_numpy((error - away) * np.array([STEP_X, STEP_Y])[:, None, None])
        prediction[:2, mask] = offsets.float().atanh()[:, mask]
        for axis in (0, 1):
            prediction[2 + axis, mask] = sigma_of_radius(float(radius[axis]))
        prediction[4, mask] = torch.from_numpy(5 - 6 * distance).float()[mask]
    return prediction


@pytest.mark.parametrize("min_pixels", [0, 3, 20])
@pytest.mark.parametrize("make", [noise, blobs])
def test_random_maps_give_what_the_plain_loop_gives(
    make: Callable[[int, int, int], Tensor], min_pixels: int
) -> None:
    total = 0
    for seed in range(25):
        size = (20 + seed % 7, 33 + seed % 9)
        prediction = make(seed, *size)
        total += assert_as_plain(prediction, (0.55, 0.9, 0.94)[seed % 3], min_pixels)
    assert total > 25


def test_a_wide_map_gives_what_the_plain_loop_gives() -> None:
    """Wide enough for the window over x to leave things out on both sides."""
    prediction = torch.cat([blobs(seed, 40, 100) for seed in range(18)], dim=2)
    assert assert_as_plain(prediction, 0.94, 10) > 40


def test_scores_that_are_all_equal_are_taken_in_row_major_order() -> None:
    for seed in range(10):
        prediction = noise(seed, 20, 30)
        prediction[4] = prediction[4].sign() * 40  # a sigmoid of exactly 1
        assert assert_as_plain(prediction, 0.94, 5) > 0


def borderline() -> Iterator[Tensor]:
    """Rows of pixels whose distance from the first is ln 2 to within a few roundings."""
    for sigma in (0.7, 0.9, 1.1):
        radius = torch.tensor(math.sqrt(LN2 / math.exp(10 * sigma)))
        prediction = torch.zeros(5, 1, 400)
        x = torch.linspace(0, 2, 2048)[:400]
        target = radius * (1 + torch.arange(-200, 200) * 1e-7)
        target[0] = 0.0
        prediction[0, 0] = (target.double() - x.double()).atanh().float()
        prediction[2:4] = sigma
        prediction[4] = 2.0
        prediction[4, 0, 0] = 4.0
        yield prediction


def test_pixels_at_the_very_limit_are_decided_by_the_exponential() -> None:
    num_inside = []
    for prediction in borderline():
        assert assert_as_plain(prediction, 0.94, 0) > 0
        found = cluster_instances(prediction, seed_threshold=0.94, min_pixels=0)
        num_inside.append(int((found[0] == 1).sum()))
    assert all(20 < inside < 380 for inside in num_inside)


def test_between_the_two_bounds_alone_the_exponential_is_needed() -> None:
    """Every float32 on either side of them says what its exponential says."""
    for bound, expected in ((clustering._SURE, True), (clustering._POSSIBLE, False)):
        start = np.float32(bound).view(np.int32)
        side = -1 if expected else 1
        distances = (start + side * np.arange(5000, dtype=np.int32)).view(np.float32)
        phi = torch.from_numpy(-distances).exp()
        assert ((phi > 0.5) == expected).all()
    inside = np.linspace(clustering._SURE, clustering._POSSIBLE, 1000, dtype=np.float32)
    assert set((torch.from_numpy(-inside).exp() > 0.5).tolist()) == {True, False}


def test_values_that_are_no_numbers_belong_to_nothing() -> None:
    for seed in range(10):
        prediction = noise(seed, 16, 24)
        generator = torch.Generator().manual_seed(seed)
        spots = torch.rand(prediction.shape, generator=generator)
        prediction[spots < 0.02] = math.nan
        prediction[(spots > 0.02) & (spots < 0.03)] = math.inf
        prediction[(spots > 0.03) & (spots < 0.04)] = -math.inf
        assert_as_plain(prediction, 0.55, 4)


@pytest.mark.parametrize("sigma", [-50.0, -3.0, 3.0, 50.0], ids=lambda s: f"sigma {s:g}")
def test_extreme_bandwidths(sigma: float) -> None:
    prediction = noise(1, 16, 24)
    prediction[2] = sigma
    assert_as_plain(prediction, 0.55, 4)
    prediction[3] = sigma
    assert_as_plain(prediction, 0.55, 0)


def test_offsets_are_bounded_by_one_in_each_direction() -> None:
    prediction = noise(2, 16, 24)
    prediction[:2] *= 1000
    assert assert_as_plain(prediction, 0.55, 4) > 0


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads_and_memory_layout_change_nothing(num_threads: int) -> None:
    """torch rounds the sigmoid of the last values of a thread otherwise; here they are seeds."""
    prediction = torch.cat([blobs(seed, 60, 70) for seed in range(12)], dim=2)
    prediction[4, -1, -70:] = torch.linspace(3, 4, 70)
    expected = plain(prediction, 0.9, 10)
    wider = torch.zeros(5, 70, 900)
    wider[:, :60, :840] = prediction
    torch.set_num_threads(num_threads)  # the fixture sets it back
    for one in (prediction, wider[:, :60, :840]):
        found = cluster_with_scores(one, seed_threshold=0.9, min_pixels=10)
        np.testing.assert_array_equal(found.instances, expected[0].numpy())
        assert found.scores.tolist() == expected[1]


def test_the_sigmoid_is_torchs_of_one_thread_to_the_last_value() -> None:
    generator = torch.Generator().manual_seed(0)
    for length in (*range(1, 400, 7), 70_001):
        raw = torch.randn(length, generator=generator) * 3
        expected = raw.sigmoid().numpy()
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            found = clustering._sigmoid(raw, np.arange(length))
            np.testing.assert_array_equal(found, expected)
        torch.set_num_threads(1)


# ---------------------------------------------------------------- every limit by itself


def test_an_empty_map_is_empty() -> None:
    found = cluster_with_scores(flat_map(5, 7, radius=3), seed_threshold=0.94, min_pixels=0)
    assert found.instances.shape == (5, 7)
    assert not found.instances.any()
    assert found.scores.shape == (0,)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (0, 0)], ids=str)
def test_a_map_without_pixels_is_empty(size: tuple[int, int]) -> None:
    found = cluster_with_scores(torch.zeros(5, *size), seed_threshold=0.94, min_pixels=0)
    assert found.instances.shape == size


def test_a_seed_of_one_half_is_background() -> None:
    prediction = flat_map(1, 6, radius=10)
    prediction[4, 0] = torch.tensor([0.0, 1e-9, 1.0, 4.0, 1.0, -0.0])
    assert prediction[4, 0, 1].sigmoid() == 0.5  # though it is above 0
    found = cluster_instances(prediction, seed_threshold=0.94, min_pixels=0)
    assert found.tolist() == [[0, 0, 1, 1, 1, 0]]


def test_a_score_equal_to_the_threshold_starts_an_instance() -> None:
    prediction = flat_map(3, 3, radius=10, seed=3.0)
    score = prediction[4, 0, 0].sigmoid().item()
    assert cluster_instances(prediction, seed_threshold=score, min_pixels=0).all()
    above = math.nextafter(score, 1)  # closer than the next float32
    assert not cluster_instances(prediction, seed_threshold=above, min_pixels=0).any()


def test_foreground_and_proposal_must_be_more_than_min_pixels() -> None:
    prediction = flat_map(4, 5, radius=20, seed=4.0)
    assert not cluster_instances(prediction, seed_threshold=0.94, min_pixels=20).any()
    assert cluster_instances(prediction, seed_threshold=0.94, min_pixels=19).all()
    # The same 20 pixels in two halves, far apart: enough foreground, but each is too small.
    prediction = flat_map(4, 60, radius=20)
    prediction[4, :2, :5] = prediction[4, :2, 50:55] = 4.0
    assert not cluster_instances(prediction, seed_threshold=0.94, min_pixels=10).any()
    assert cluster_instances(prediction, seed_threshold=0.94, min_pixels=9).max() == 2


def test_min_pixels_also_bounds_what_is_left_to_search() -> None:
    """The second instance would be large enough: 12 pixels of its own and 3 of the first."""
    prediction = flat_map(1, 60, radius=7.5)
    prediction[4, 0, :27] = 3.0
    prediction[4, 0, 7], prediction[4, 0, 20] = 6.0, 5.0  # columns 0 to 14, and 12 to 26
    prediction[2:4, 0, 20] = sigma_of_radius(8.5)
    assert cluster_instances(prediction, seed_threshold=0.99, min_pixels=12).max() == 1
    assert cluster_instances(prediction, seed_threshold=0.99, min_pixels=11).max() == 2
    prediction[4, 0, 50] = 1.0  # one pixel more that is left, wherever it is
    assert cluster_instances(prediction, seed_threshold=0.99, min_pixels=12).max() == 2


def test_more_than_half_must_be_new_and_the_seed_itself_is_not() -> None:
    """10 pixels of which the first instance took some: the seed of the second does not count."""
    for num_taken, second in ((3, 2), (4, 1), (5, 1)):
        # The first reaches columns 0 to 9 + num_taken, the second 10 to 19.
        prediction = flat_map(1, 20, radius=60)
        prediction[2:4, 0, 0] = sigma_of_radius(9.5 + num_taken)
        prediction[4, 0] = 3.0
        prediction[4, 0, 0], prediction[4, 0, 19] = 6.0, 5.0
        prediction[2:4, 0, 19] = sigma_of_radius(9.5)
        found = cluster_instances(prediction, seed_threshold=0.94, min_pixels=5)
        assert found[0, 19] == (2 if second == 2 else 0), num_taken
        # 10 - num_taken - 1 new ones of 10: 6, 5 and 4.
        assert found[0, 10] == (2 if second == 2 else 1)


def test_a_later_instance_takes_pixels_of_earlier_ones() -> None:
    prediction = flat_map(1, 30, radius=9.5)
    prediction[4, 0] = 3.0
    prediction[4, 0, 5], prediction[4, 0, 20] = 6.0, 5.0
    found = cluster_with_scores(prediction, seed_threshold=0.99, min_pixels=5)
    assert found.instances[0].tolist() == [1] * 11 + [2] * 19
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-6)), 1 / (1 + math.exp(-5))])


def test_an_id_whose_pixels_are_all_taken_stays_counted() -> None:
    prediction = flat_map(1, 30, radius=2.2, seed=3.0)
    prediction[4, 0, 4], prediction[4, 0, 10] = 6.0, 5.0
    prediction[2:4, 0, 10] = sigma_of_radius(9.5)  # from column 1 to 19, so over the first's 5
    found = cluster_with_scores(prediction, seed_threshold=0.99, min_pixels=4)
    assert set(found.instances.flatten().tolist()) == {0, 2}
    assert len(found.scores) == 2
    assert assert_as_plain(prediction, 0.99, 4) == 2


def test_equal_scores_go_to_the_first_in_row_major_order() -> None:
    prediction = flat_map(9, 9, radius=2.2)
    for row, column in ((6, 1), (2, 5)):
        prediction[4, row, column : column + 3] = 4.0
    found = cluster_instances(prediction, seed_threshold=0.94, min_pixels=0)
    assert (found[2, 5], found[6, 1]) == (1, 2)


def test_the_seed_pixel_gives_centre_and_bandwidth_alone() -> None:
    """Offset and sigma of the best pixel differ from those of all others."""
    prediction = flat_map(1, 40, radius=30, seed=3.0)
    prediction[4, 0, 0] = 6.0
    prediction[0, 0, 0] = math.atanh(25 * STEP_X)
    prediction[2:4, 0, 0] = sigma_of_radius(3.5)
    found = cluster_instances(prediction, seed_threshold=0.99, min_pixels=2)
    assert np.flatnonzero(found[0]).tolist() == [0, 22, 23, 24, 25, 26, 27, 28]


def test_rows_are_a_little_narrower_than_columns() -> None:
    """Steps of 1/1023 down and 2/2047 to the right: one radius between the two."""
    radius = 2.0 * (STEP_X + STEP_Y) / 2 / STEP_X
    assert STEP_X * 2 < radius * STEP_X < STEP_Y * 2
    prediction = flat_map(5, 5, radius=radius, seed=3.0)
    prediction[4, 2, 2] = 6.0
    found = cluster_instances(prediction, seed_threshold=0.99, min_pixels=2)
    assert (found[2] == 1).all()
    assert found[:, 2].tolist() == [0, 1, 1, 1, 0]


def test_more_than_255_instances_do_not_wrap() -> None:
    prediction = flat_map(60, 90, radius=1.6)
    for row in range(0, 60, 3):
        for column in range(0, 90, 3):
            prediction[4, row : row + 2, column : column + 2] = 4.0
    found = cluster_with_scores(prediction, seed_threshold=0.94, min_pixels=3)
    assert len(found.scores) == 600
    assert set(np.unique(found.instances).tolist()) == set(range(601))
    assert (np.bincount(found.instances.flatten())[1:] == 4).all()


def test_an_instance_may_fill_the_last_row_and_column() -> None:
    prediction = flat_map(10, 12, radius=4)
    prediction[4, 8:, 9:] = 4.0
    found = cluster_instances(prediction, seed_threshold=0.94, min_pixels=5)
    assert np.argwhere(found).tolist() == [[8, 9], [8, 10], [8, 11], [9, 9], [9, 10], [9, 11]]


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.zeros(1, 5, 4, 4), "found torch.float32 of shape"),
        (torch.zeros(4, 4, 4), "expected a float32 prediction"),
        (torch.zeros(5, 4, 4).half(), "found torch.float16"),
        (torch.zeros(5, 1025, 1), "they end at 1024 x 2048"),
    ],
    ids=["a batch", "channels", "half precision", "too high"],
)
def test_other_predictions_are_refused(prediction: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_instances(prediction, seed_threshold=0.94, min_pixels=3)


def test_gradients_are_left_behind() -> None:
    prediction = flat_map(4, 4, radius=9, seed=4.0).requires_grad_()
    assert cluster_instances(prediction, seed_threshold=0.94, min_pixels=3).all()
