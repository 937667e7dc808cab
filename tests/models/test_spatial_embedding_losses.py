"""The loss of SpatialEmbedding pixel by pixel in double precision, and its traps one by one."""

import math

import pytest
import torch
from torch import Tensor

from models.pointtrack.losses import (
    SpatialEmbeddingTerms,
    batch_hard_triplet_loss,
    lovasz_hinge,
    spatial_embedding_loss,
    spatial_embedding_terms,
)

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 7, 9


def coordinates() -> Tensor:
    x = torch.arange(WIDTH, dtype=torch.float64) * 2 / 2047
    y = torch.arange(HEIGHT, dtype=torch.float64) / 1023
    return torch.stack([x.expand(HEIGHT, WIDTH), y[:, None].expand(HEIGHT, WIDTH)])


def jaccard_loss_of_sets(errors: Tensor, truth: Tensor) -> Tensor:
    """The Lovász extension by its definition: the Jaccard loss of growing sets of mistakes."""
    order = sorted(range(len(errors)), key=lambda k: -errors[k].item())
    positives = {k for k in range(len(truth)) if truth[k]}
    total, before = errors.sum() * 0, 0.0
    for count in range(1, len(order) + 1):
        mistakes = set(order[:count])
        loss = len(mistakes) / len(positives | mistakes)
        total = total + errors[order[count - 1]].clamp(min=0) * (loss - before)
        before = loss
    return total


def loss_by_pixels(
    prediction: Tensor, instances: Tensor, labels: Tensor, weight: float, *, validation: bool
) -> Tensor:
    """Total of a batch from loops over images, instances and pixels."""
    xy = coordinates()
    losses = []
    for image, ids, label in zip(prediction, instances, labels, strict=True):
        e, sigma, seed = image[:2].tanh() + xy, image[2:4], image[4].sigmoid()
        seed_sum = (seed[label == 0] ** 2).sum()
        if not validation:
            seed_sum = seed_sum + 10 * (seed[label == 255] ** 2).sum()
        overlap, variance, count = seed_sum * 0, seed_sum * 0, 0
        for identity in sorted(set(ids.flatten().tolist()) - {0}):
            mask = ids == identity
            centre = [xy[axis][mask].mean() for axis in (0, 1)]
            mean = [sigma[axis][mask].mean() for axis in (0, 1)]
            spread = [((sigma[axis][mask] - mean[axis].detach()) ** 2).mean() for axis in (0, 1)]
            variance = variance + (spread[0] + spread[1]) / 2
            parts = [(e[a] - centre[a]) ** 2 * torch.exp(10 * mean[a]) for a in (0, 1)]
            phi = torch.exp(-(parts[0] + parts[1]))
            sign = torch.where(mask, 1.0, -1.0)
            errors = (1 - (2 * phi - 1) * sign).flatten()
            overlap = overlap + jaccard_loss_of_sets(errors, mask.flatten())
            seed_sum = seed_sum + weight * ((seed[mask] - phi[mask].detach()) ** 2).sum()
            count += 1
        count = max(1, count)
        losses.append(overlap / count + 10 * variance / count + seed_sum / (HEIGHT * WIDTH))
    return torch.stack(losses).mean()


def random_batch(seed: int, num_images: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Instances with gaps in their ids, on the border too, and all kinds of labels."""
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(num_images, 5, HEIGHT, WIDTH, generator=generator) * 0.02
    prediction[:, 2:4] += 0.8
    prediction[:, 4] = torch.randn(num_images, HEIGHT, WIDTH, generator=generator)
    instances = torch.zeros(num_images, HEIGHT, WIDTH, dtype=torch.int64)
    instances[0, 1:4, 2:5] = 3
    instances[0, 5:, 6:] = 1004
    instances[1, 2, 3] = 1
    labels = (instances > 0).byte()
    labels[0, 0, :3] = 254
    labels[1, 4, 4:] = 255
    labels[-1, 0, 0] = 255
    return prediction, instances, labels


@pytest.mark.parametrize("validation", [False, True], ids=["training", "validation"])
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_and_its_gradient_are_those_of_loops(seed: int, validation: bool) -> None:
    prediction, instances, labels = random_batch(seed)
    ours, plain = prediction.requires_grad_(), prediction.detach().double().requires_grad_()
    loss = spatial_embedding_terms(
        ours, instances, labels, foreground_weight=10, is_validation=validation
    ).total
    expected = loss_by_pixels(plain, instances, labels, 10, validation=validation)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    assert ours.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-3, atol=1e-6)


def terms_of(
    prediction: Tensor, instances: Tensor, labels: Tensor, validation: bool = False
) -> SpatialEmbeddingTerms:
    return spatial_embedding_terms(
        prediction, instances, labels, foreground_weight=10, is_validation=validation
    )


def test_the_scalar_is_the_total_of_training() -> None:
    batch = random_batch(0)
    terms = terms_of(*batch)
    assert spatial_embedding_loss(*batch, foreground_weight=10) == terms.total
    weighted = terms.instance + 10 * terms.variance + terms.seed
    torch.testing.assert_close(terms.total, weighted)
    assert len(terms.ious) == 0


def test_the_foreground_weight_multiplies_the_seed_of_objects() -> None:
    prediction, instances, labels = random_batch(0)
    seeds = [
        spatial_embedding_terms(prediction, instances, labels, foreground_weight=w).seed
        for w in (0, 10, 200)
    ]
    torch.testing.assert_close((seeds[2] - seeds[0]) / (seeds[1] - seeds[0]), torch.tensor(20.0))
    assert seeds[0] < seeds[1]


def test_a_batch_is_the_mean_of_its_images() -> None:
    batch = random_batch(5)
    alone = [terms_of(*(part[k : k + 1] for part in batch)).total for k in range(3)]
    torch.testing.assert_close(terms_of(*batch).total, torch.stack(alone).mean())


def test_ids_mean_nothing() -> None:
    prediction, instances, labels = random_batch(1)
    renamed = torch.where(instances > 0, 70_000 - instances, 0)
    torch.testing.assert_close(
        terms_of(prediction, renamed, labels).total, terms_of(prediction, instances, labels).total
    )


# ---------------------------------------------------------------- traps


def one_square() -> tuple[Tensor, Tensor, Tensor]:
    instances = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.int64)
    instances[0, 2:5, 3:6] = 1
    prediction = torch.zeros(1, 5, HEIGHT, WIDTH)
    return prediction, instances, (instances > 0).byte()


def test_the_centre_is_that_of_the_mask_and_not_of_the_embeddings() -> None:
    """Offsets that move all pixels together would cost nothing if their own mean was the centre."""
    prediction, instances, labels = one_square()
    prediction[:, 2:4] = 1.0
    before = terms_of(prediction, instances, labels).instance
    prediction[:, 0] = 0.01
    assert terms_of(prediction, instances, labels).instance > before + 0.2


def test_the_bandwidth_is_multiplied_with_the_squared_distance() -> None:
    """One pixel of the square, by hand: phi = exp(-(2/2047)^2 e^10v), the middle has phi 1."""
    prediction, instances, labels = one_square()
    instances[:] = 0
    instances[0, 3, 4] = 1
    labels = torch.full_like(labels, 254)
    labels[0, 3, 4] = 1
    sigma = 1.3
    prediction[:, 2:4] = sigma
    phi = sorted(
        (
            math.exp(-(((2 * u / 2047) ** 2 + (v / 1023) ** 2) * math.exp(10 * sigma)))
            for u in range(-4, 5)
            for v in range(-3, 4)
            if (u, v) != (0, 0)
        ),
        reverse=True,
    )
    # The only positive is right: each wrong pixel adds to the union, 1 in front.
    shares = [k / (1 + k) for k in range(len(phi) + 1)]
    expected = sum(2 * p * (b - a) for p, a, b in zip(phi, shares, shares[1:], strict=False))
    found = terms_of(prediction, instances, labels)
    assert found.instance.item() == pytest.approx(expected, rel=1e-4)
    assert found.variance.item() == 0
    assert found.seed.item() == pytest.approx(10 * 0.25 / (HEIGHT * WIDTH))


def test_the_overlap_teaches_sigma_though_its_mean_is_fixed_in_the_variance() -> None:
    prediction, instances, labels = one_square()
    prediction[:, 2:4] = 1.0
    prediction.requires_grad_()
    terms = terms_of(prediction, instances, labels)
    (gradient,) = torch.autograd.grad(terms.instance, prediction, retain_graph=True)
    mask = instances[0] > 0
    assert (gradient[0, 2:4][:, mask] != 0).all()
    assert (gradient[0, 2:4][:, ~mask] == 0).all()
    (gradient,) = torch.autograd.grad(terms.variance, prediction)
    assert (gradient == 0).all()  # equal sigmas


def test_the_seed_learns_from_phi_and_not_the_other_way_round() -> None:
    prediction, instances, labels = random_batch(2)
    prediction.requires_grad_()
    terms_of(prediction, instances, labels).seed.backward()
    assert prediction.grad is not None
    assert (prediction.grad[:, :4] == 0).all()
    assert (prediction.grad[:2, 4] != 0).any()


def test_the_variance_has_no_cross_terms() -> None:
    """Constant along each axis: nothing scatters, however different the two axes are."""
    prediction, instances, labels = one_square()
    prediction[:, 2], prediction[:, 3] = 1.0, 0.4
    assert terms_of(prediction, instances, labels).variance.item() == pytest.approx(0, abs=1e-12)
    prediction[0, 2, 2:5, 3:6] = torch.tensor([[0.0, 1.0, 2.0]])
    assert terms_of(prediction, instances, labels).variance.item() == pytest.approx(2 / 3 / 2)


@pytest.mark.parametrize(
    ("label", "validation", "pixel_costs"),
    [(0, False, 1), (0, True, 1), (1, False, 0), (254, False, 0), (255, False, 10), (255, True, 0)],
)
def test_labels_outside_objects(label: int, validation: bool, pixel_costs: float) -> None:
    prediction, instances, labels = one_square()
    instances[:] = 0
    labels[:] = 254
    labels[0, 0, :4] = label
    found = terms_of(prediction, instances, labels, validation)
    assert found.seed.item() == pytest.approx(4 * pixel_costs * 0.25 / (HEIGHT * WIDTH))
    assert found.instance == found.variance == 0


@pytest.mark.parametrize(("radius", "ious"), [(1.05, [5 / 9, 1 / 3]), (0.95, [1 / 9, 1.0])])
def test_validation_measures_each_instance_with_its_true_centre(
    radius: float, ious: list[float]
) -> None:
    """A bandwidth that reaches to this many pixels: a cross of 5 or its middle alone. The other
    instance is the one pixel of the corner."""
    prediction, instances, labels = one_square()
    instances[0, 0, 0] = 9
    prediction[:, 2:4] = math.log(math.log(2) / (radius * 2 / 2047) ** 2) / 10
    found = terms_of(prediction, instances, labels, validation=True)
    torch.testing.assert_close(found.ious, torch.tensor(ious))


def test_nothing_at_all_costs_nothing() -> None:
    prediction = torch.zeros(0, 5, HEIGHT, WIDTH, requires_grad=True)
    nothing = torch.zeros(0, HEIGHT, WIDTH, dtype=torch.uint8)
    terms = terms_of(prediction, nothing, nothing, validation=True)
    assert [part.item() for part in terms[:4]] == [0, 0, 0, 0]
    assert terms.ious.shape == (0,)
    terms.total.backward()


def test_an_image_that_counts_nowhere_has_gradients_of_zero() -> None:
    prediction, instances, labels = one_square()
    prediction.requires_grad_()
    loss = terms_of(prediction, instances * 0, torch.full_like(labels, 254)).total
    loss.backward()
    assert loss == 0
    assert prediction.grad is not None
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        (torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).byte()),
        (torch.zeros(5, 2, 2), torch.zeros(2, 2).long(), torch.zeros(2, 2).byte()),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 3).long(), torch.zeros(1, 2, 2).byte()),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).byte()),
        (torch.zeros(1, 5, 2, 2), torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long()),
    ],
    ids=["channels", "no batch", "sizes", "ids as floats", "labels that cannot be 255 for -1"],
)
def test_maps_that_do_not_fit_are_refused(wrong: tuple[Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="expected a prediction"):
        terms_of(*wrong)


# ---------------------------------------------------------------- Lovász hinge


@pytest.mark.parametrize("seed", range(6))
def test_lovasz_hinge_is_the_jaccard_loss_of_growing_sets(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(5, 6, generator=generator, dtype=torch.float64) * 1.5).requires_grad_()
    labels = torch.rand(5, 6, generator=generator) < 0.2 * seed
    loss = lovasz_hinge(logits, labels)
    (found,) = torch.autograd.grad(loss, logits)
    sign = torch.where(labels, 1.0, -1.0)
    expected = jaccard_loss_of_sets((1 - logits * sign).flatten(), labels.flatten())
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        pytest.param([], [], 0, id="empty"),
        pytest.param([5.0, -5.0], [1, 0], 0, id="all right"),
        pytest.param([-1.0, 1.0], [1, 0], 2, id="all wrong"),
        pytest.param([0.5, -0.5], [0, 0], 1.5, id="no positive: the largest error"),
        pytest.param([1.0], [1], 0, id="exactly on the margin"),
    ],
)
def test_lovasz_hinge_by_hand(logits: list[float], labels: list[int], expected: float) -> None:
    values = torch.tensor(logits, requires_grad=True)
    loss = lovasz_hinge(values, torch.tensor(labels))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_lovasz_hinge_does_not_hide_a_nan() -> None:
    assert lovasz_hinge(torch.tensor([math.nan, 1.0]), torch.tensor([1, 1])).isnan()


def test_lovasz_hinge_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        lovasz_hinge(torch.zeros(3), torch.zeros(1))


# ---------------------------------------------------------------- triplet loss


def triplet_by_loops(embeddings: Tensor, labels: Tensor, margin: float) -> float:
    rows, names = embeddings.tolist(), labels.tolist()
    costs = []
    for i, anchor in enumerate(rows):
        distances = [max(math.dist(anchor, other), 1e-6) for other in rows]
        same = [d for j, d in enumerate(distances) if names[j] == names[i]]
        other = [d for j, d in enumerate(distances) if names[j] != names[i]]
        costs.append(max(0.0, max(same) - min(other) + margin))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("seed", range(4))
def test_triplets_are_those_of_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(14, 3, generator=generator, dtype=torch.float64) * 0.3
    labels = torch.randint(0, 5, (14,), generator=generator)
    expected = triplet_by_loops(embeddings, labels, 0.2)
    assert expected > 0
    assert batch_hard_triplet_loss(embeddings, labels).item() == pytest.approx(expected)


def test_an_embedding_is_its_own_positive() -> None:
    """Two that are alone with their labels, 0.1 apart: 1e-6 - 0.1 + 0.2 each."""
    embeddings = torch.tensor([[0.0, 0.0], [0.06, 0.08]], requires_grad=True)
    loss = batch_hard_triplet_loss(embeddings, torch.tensor([4, 2]))
    assert loss.item() == pytest.approx(0.100001, abs=1e-7)
    loss.backward()
    assert embeddings.grad is not None
    torch.testing.assert_close(embeddings.grad[1], torch.tensor([-0.6, -0.8]))


@pytest.mark.parametrize("num", [0, 1, 5])
def test_equal_labels_cost_nothing(num: int) -> None:
    embeddings = torch.randn(num, 8, requires_grad=True)
    loss = batch_hard_triplet_loss(embeddings, torch.full((num,), 3))
    loss.backward()
    assert loss == 0
    assert embeddings.grad is not None
    assert (embeddings.grad == 0).all()


def test_equal_embeddings_have_finite_gradients() -> None:
    embeddings = torch.ones(4, 2, requires_grad=True)
    loss = batch_hard_triplet_loss(embeddings, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(0.2)
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_triplets_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="embeddings"):
        batch_hard_triplet_loss(torch.zeros(3, 2), torch.zeros(2))
