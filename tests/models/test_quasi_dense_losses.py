"""Both tracking losses against the paper's sums written out pair by pair, and by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.qdtrack.config import QDTrackConfig, QuasiDenseConfig
from models.qdtrack.losses import (
    auxiliary_cosine_loss,
    embedding_losses,
    multi_positive_contrastive_loss,
)


def _random_case(seed: int, rows: int, columns: int, *, scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale
    return values, torch.rand(rows, columns, generator=generator) < 0.3


def _contrastive_by_double_sum(dots: Tensor, targets: Tensor) -> Tensor:
    costs = []
    for row, is_positive in zip(dots, targets, strict=True):
        if not is_positive.any():
            continue
        pairs = row[~is_positive][None, :] - row[is_positive][:, None]
        costs.append(torch.cat([pairs.flatten(), row.new_zeros(1)]).logsumexp(dim=0))
    return torch.stack(costs).mean() if costs else dots.sum() * 0


def _auxiliary_by_loops(cosines: Tensor, targets: Tensor, **options: Any) -> float:
    positive, negative = [], []
    for row, flags in zip(cosines.tolist(), targets.tolist(), strict=True):
        for cosine, flag in zip(row, flags, strict=True):
            margin = options["positive_margin"] if flag else options["negative_margin"]
            value = cosine - margin if margin > 0 else cosine
            error = (min(1.0, max(0.0, value)) - flag) ** 2
            (positive if flag else negative).append(error)
    ratio = options["negatives_per_positive"]
    if ratio > 0:
        if not positive:
            return 0.0
        negative = sorted(negative, reverse=True)[: ratio * len(positive)]
    kept = positive + negative
    return sum(kept) / len(kept) if kept else 0.0


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 1e4], ids=lambda scale: f"dots of {scale:g}")
@pytest.mark.parametrize("shape", [(1, 2), (5, 9), (40, 30)], ids=str)
def test_contrastive_equals_the_double_sum_with_its_gradient(
    shape: tuple[int, int], scale: float
) -> None:
    dots, targets = _random_case(3, *shape, scale=scale)
    cheap, plain = dots.clone().requires_grad_(), dots.clone().requires_grad_()
    loss = multi_positive_contrastive_loss(cheap, targets)
    expected = _contrastive_by_double_sum(plain, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    assert cheap.grad is not None
    torch.testing.assert_close(cheap.grad, plain.grad, rtol=1e-9, atol=1e-12)


def test_contrastive_by_hand() -> None:
    dots = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    targets = torch.tensor([[True, True, False, False]])
    exponents = [-2.0, 1.0, -1.0, 2.0]  # negatives -1 and 2 against positives 1, then 0
    expected = math.log(1 + sum(math.exp(value) for value in exponents))
    assert multi_positive_contrastive_loss(dots, targets).item() == pytest.approx(expected)


def test_contrastive_is_float32_safe_with_huge_dots() -> None:
    dots = torch.tensor([[3e4, -3e4, 2e4], [-3e4, 3e4, 0.0]], requires_grad=True)
    targets = torch.tensor([[True, False, False], [True, False, False]])
    loss = multi_positive_contrastive_loss(dots, targets)
    assert loss.item() == pytest.approx((0 + 6e4) / 2)
    loss.backward()
    assert dots.grad is not None
    assert dots.grad.tolist() == [[0, 0, 0], [-0.5, 0.5, 0]]


def test_trap_23_other_identities_positives_are_negatives_of_a_row() -> None:
    dots = torch.zeros(2, 2)
    shared = torch.eye(2, dtype=torch.bool)
    # Column 1 holds the other identity's positive, no column is a sampled negative: still ln 2.
    assert multi_positive_contrastive_loss(dots, shared).item() == pytest.approx(math.log(2))


def test_trap_24_rows_without_positive_weigh_nothing_here_but_count_in_the_auxiliary_loss() -> None:
    dots = torch.tensor([[1.0, 0.0], [9.0, -9.0]])
    targets = torch.tensor([[True, False], [False, False]])
    alone = multi_positive_contrastive_loss(dots[:1], targets[:1])
    assert multi_positive_contrastive_loss(dots, targets) == alone
    cosines = torch.tensor([[1.0, 0.1], [0.6, 0.1]])
    assert auxiliary_cosine_loss(cosines[:1], targets[:1]).item() == 0
    # (0.6 - 0.1)^2 from the second row; one positive and three negatives are kept.
    assert auxiliary_cosine_loss(cosines, targets).item() == pytest.approx(0.25 / 4)


def test_a_row_without_negatives_costs_nothing_yet_counts_in_the_mean() -> None:
    dots = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    targets = torch.tensor([[True, True], [True, False]])
    loss = multi_positive_contrastive_loss(dots, targets)
    assert loss.item() == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0), (3, 4)], ids=str)
@pytest.mark.parametrize("loss", [multi_positive_contrastive_loss, auxiliary_cosine_loss])
def test_without_a_positive_the_loss_is_zero_and_keeps_its_graph(
    shape: tuple[int, int], loss: Any
) -> None:
    values = torch.full(shape, 0.5, requires_grad=True)
    result = loss(values, torch.zeros(shape, dtype=torch.bool))
    assert result.shape == ()
    assert result.item() == 0
    result.backward()
    assert values.grad is not None
    assert values.grad.abs().sum() == 0


def test_the_divisor_epsilon_of_a_release_is_added_to_the_number_of_rows() -> None:
    dots, targets = torch.zeros(1, 2), torch.tensor([[True, False]])
    loss = multi_positive_contrastive_loss(dots, targets, divisor_epsilon=1.0)
    assert loss.item() == pytest.approx(math.log(2) / 2)
    nothing = multi_positive_contrastive_loss(dots, targets & False, divisor_epsilon=1e-5)
    assert nothing.item() == 0


class _LargestResult(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_trap_30_nothing_larger_than_the_matrix_is_ever_built() -> None:
    dots, targets = _random_case(0, 128, 256, scale=1.0)
    with _LargestResult() as watch:
        multi_positive_contrastive_loss(dots, targets)
    assert watch.numel == 128 * 256


@pytest.mark.parametrize("loss", [multi_positive_contrastive_loss, auxiliary_cosine_loss])
@pytest.mark.parametrize(
    "targets",
    [torch.tensor([[1, 0]]), torch.tensor([[0.5, 0.0]]), torch.tensor([True, False])],
    ids=["integers", "trap 29: neither 0 nor 1", "another shape"],
)
def test_targets_that_are_not_a_boolean_matrix_are_refused(loss: Any, targets: Tensor) -> None:
    with pytest.raises(ValueError, match="boolean"):
        loss(torch.zeros(1, 2), targets)


@pytest.mark.parametrize("negatives_per_positive", [3, 1, 0, -1])
@pytest.mark.parametrize("margins", [(0.0, 0.1), (0.0, 0.3), (0.2, 0.0), (-0.5, -0.5)], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.4, 1.0], ids=lambda share: f"{share:.0%} positive")
def test_auxiliary_equals_loops_over_pairs(
    share: float, margins: tuple[float, float], negatives_per_positive: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    cosines = torch.rand(13, 17, generator=generator, dtype=torch.float64) * 2 - 1
    targets = torch.rand(13, 17, generator=generator) < share
    options = {
        "positive_margin": margins[0],
        "negative_margin": margins[1],
        "negatives_per_positive": negatives_per_positive,
    }
    loss = auxiliary_cosine_loss(cosines, targets, **options)
    assert loss.item() == pytest.approx(_auxiliary_by_loops(cosines, targets, **options), rel=1e-12)


def test_trap_21_what_the_clamp_cuts_off_has_no_gradient() -> None:
    cosines = torch.tensor([[-0.4, 0.05, 0.5, 0.8]], requires_grad=True)
    targets = torch.tensor([[True, False, False, True]])
    loss = auxiliary_cosine_loss(cosines, targets)
    # A positive below 0 costs 1, a negative below its margin nothing.
    assert loss.item() == pytest.approx((1 + 0 + 0.4**2 + 0.2**2) / 4)
    loss.backward()
    assert cosines.grad is not None
    assert cosines.grad[0].tolist() == pytest.approx([0, 0, 2 * 0.4 / 4, -2 * 0.2 / 4])


def test_trap_22_hard_negatives_are_counted_over_the_whole_matrix() -> None:
    """One positive keeps three negatives in all; they may stand in one row without a positive."""
    cosines = torch.tensor([[1.0, 0.2, 0.2, 0.2], [0.9, 0.8, 0.7, 0.2]])
    targets = torch.tensor([[True, False, False, False], [False, False, False, False]])
    expected = (0.8**2 + 0.7**2 + 0.6**2) / 4
    assert auxiliary_cosine_loss(cosines, targets).item() == pytest.approx(expected)


def test_hardness_is_judged_after_margin_and_clamp() -> None:
    """A very dissimilar negative is far from 0 only before the clamp: it is the easiest."""
    cosines = torch.tensor([[1.0, -1.0, 0.15, 0.15, 0.15]])
    targets = torch.tensor([[True, False, False, False, False]])
    assert auxiliary_cosine_loss(cosines, targets).item() == pytest.approx(3 * 0.05**2 / 4)


def test_mining_switched_off_averages_everything_even_without_positive() -> None:
    cosines = torch.full((2, 5), 0.6)
    targets = torch.zeros(2, 5, dtype=torch.bool)
    for off in (0, -1):
        loss = auxiliary_cosine_loss(cosines, targets, negatives_per_positive=off)
        assert loss.item() == pytest.approx(0.25)


@pytest.mark.parametrize(("columns", "expected"), [(3, 0.25), (4, 0.0)], ids=["three", "four"])
def test_vis4d_averages_up_to_three_negatives_without_positive(
    columns: int, expected: float
) -> None:
    cosines, targets = torch.full((1, columns), 0.6), torch.zeros(1, columns, dtype=torch.bool)
    loss = auxiliary_cosine_loss(cosines, targets, average_without_positives=True)
    assert loss.item() == pytest.approx(expected)
    assert auxiliary_cosine_loss(cosines, targets).item() == 0


def test_both_losses_together_are_weighted_and_margins_come_from_the_config() -> None:
    key = torch.tensor([[3.0, 4.0]])
    reference = torch.tensor([[6.0, 8.0], [4.0, 3.0]])  # dots 50 and 24, cosines 1 and 0.96
    targets = torch.tensor([[True, False]])
    for config, margin in ((QuasiDenseConfig(), 0.1), (QDTrackConfig.vis4d().quasi_dense, 0.3)):
        contrastive, auxiliary = embedding_losses(key * 0.1, reference * 0.1, targets, config)
        expected = 0.25 * math.log(1 + math.exp(0.24 - 0.5))
        assert contrastive.item() == pytest.approx(expected, rel=2e-5)
        assert auxiliary.item() == pytest.approx((0.96 - margin) ** 2 / 2, rel=1e-5)


def test_losses_are_float32_inside_half_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    key = torch.randn(4, 256, generator=generator).bfloat16()
    reference = torch.randn(6, 256, generator=generator).bfloat16()
    targets = torch.zeros(4, 6, dtype=torch.bool)
    targets[0, 0] = targets[1, 2] = True
    expected = embedding_losses(key.float(), reference.float(), targets, QuasiDenseConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = embedding_losses(key, reference, targets, QuasiDenseConfig())
    assert [loss.dtype for loss in found] == [torch.float32, torch.float32]
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_a_zero_embedding_has_finite_gradients() -> None:
    key = torch.zeros(1, 8, requires_grad=True)
    reference = torch.ones(2, 8)
    losses = embedding_losses(key, reference, torch.tensor([[True, False]]), QuasiDenseConfig())
    sum(losses).backward()
    assert key.grad is not None
    assert key.grad.isfinite().all()
