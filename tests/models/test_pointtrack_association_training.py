"""One step of training the association network: which gradient, which rate, and when none."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.pointtrack.association_training import (
    ItemTensors,
    rate_of_step,
    to_tensors,
    train_step,
)
from models.pointtrack.config import PointTrackConfig
from models.pointtrack.items import ItemArrays
from models.pointtrack.losses import batch_hard_triplet_loss
from models.pointtrack.network import PointTrackNet
from models.pointtrack.schedule import ScheduleConfig, build_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = PointTrackConfig(embedding_dim=4, num_points=6, num_environment_points=3)
MARGIN = 5.0  # so large that every anchor counts


def make_model() -> PointTrackNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PointTrackNet(MODEL).train()


def make_item(seed: int, labels: list[int]) -> ItemTensors:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(len(labels), 9, 8, generator=generator)
    positions = torch.rand(len(labels), 4, generator=generator)
    return ItemTensors(points, positions, torch.tensor(labels))


def gradients(items: list[ItemTensors]) -> dict[str, Tensor]:
    """By how much a step of plain gradient descent at rate 1 moves the weights of a new model."""
    model = make_model()
    before = copied(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=123.0)
    train_step(model, items, optimizer, rate=1.0, margin=MARGIN)
    after = dict(model.named_parameters())
    return {name: before[name] - value.detach() for name, value in after.items()}


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


def assert_same_moments(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["param_groups"] == after["param_groups"]
    assert before["state"].keys() == after["state"].keys()
    assert before["state"]
    for number, state in before["state"].items():
        for name, value in state.items():
            assert torch.equal(value, after["state"][number][name])


FIRST, SECOND = make_item(1, [1, 1, 2, 2, 3]), make_item(2, [1, 2, 2])
ALONE = make_item(3, [1, 1, 1])
"""One track only: nothing to tell apart, a loss of exactly 0."""


def test_the_gradient_is_the_mean_of_those_of_the_items() -> None:
    together, one, other = gradients([FIRST, SECOND]), gradients([FIRST]), gradients([SECOND])
    largest = max(float(value.abs().max()) for value in together.values())
    assert largest > 0.01
    for name, value in together.items():
        expected = (one[name] + other[name]) / 2
        assert torch.allclose(value, expected, rtol=1e-4, atol=1e-5 * largest), name


def test_one_item_is_the_triplet_loss_of_its_crops() -> None:
    model, twin = make_model(), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = train_step(model, [FIRST], optimizer, rate=1.0, margin=MARGIN)
    loss = batch_hard_triplet_loss(twin(FIRST.points, FIRST.positions), FIRST.labels, margin=MARGIN)
    assert found == {"total": loss.item(), "skipped": 0.0, "crops": 5.0}
    torch.autograd.backward(loss)
    for (name, value), before in zip(model.named_parameters(), copied(twin).values(), strict=True):
        expected = before - twin.get_parameter(name).grad
        assert torch.allclose(value, expected, rtol=1e-5, atol=1e-6), name


def test_numbers_of_several_items_are_means() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = train_step(model, [FIRST, ALONE], optimizer, rate=0.0, margin=MARGIN)
    alone = train_step(make_model(), [FIRST], optimizer, rate=0.0, margin=MARGIN)
    assert found["total"] == pytest.approx(alone["total"] / 2, rel=1e-5)
    assert (found["skipped"], found["crops"]) == (0.0, 4.0)


class TestSkippedSteps:
    """With decay and momentum a step without gradient would move the weights, too."""

    def trained_once(self) -> tuple[PointTrackNet, torch.optim.Optimizer]:
        model = make_model()
        optimizer = build_optimizer(model, ScheduleConfig())
        train_step(model, [FIRST], optimizer, rate=2e-3, margin=MARGIN)
        return model, optimizer

    @pytest.mark.parametrize("items", [[ALONE], [ALONE, ALONE]], ids=["one", "two"])
    def test_at_a_loss_of_0_nothing_moves(self, items: list[ItemTensors]) -> None:
        model, optimizer = self.trained_once()
        before, moments = copied(model), copy.deepcopy(optimizer.state_dict())
        found = train_step(model, items, optimizer, rate=0.5, margin=MARGIN)
        assert found == {"total": 0.0, "skipped": 1.0, "crops": 3.0}
        assert_unchanged(model, before)
        assert_same_moments(moments, optimizer.state_dict())

    def test_where_all_triplets_are_fulfilled_too(self) -> None:
        model, optimizer = self.trained_once()
        before = copied(model)
        found = train_step(model, [SECOND], optimizer, rate=0.5, margin=-1e6)
        assert (found["total"], found["skipped"]) == (0.0, 1.0)
        assert_unchanged(model, before)

    def test_one_item_with_a_loss_is_enough(self) -> None:
        model, optimizer = self.trained_once()
        before = copied(model)
        found = train_step(model, [ALONE, SECOND], optimizer, rate=2e-3, margin=MARGIN)
        assert found["skipped"] == 0.0
        assert not torch.equal(model.output.weight, before["output.weight"])

    def test_gradients_of_a_skipped_step_do_not_come_back(self) -> None:
        """The step after a skipped one is the same as without it."""
        moved = []
        for items in ([], [ALONE]):
            model, optimizer = self.trained_once()
            state = copy.deepcopy(model.state_dict())
            for item in items:
                train_step(model, [item], optimizer, rate=0.1, margin=MARGIN)
            model.load_state_dict(state)  # norms count skipped items, as in the release
            train_step(model, [SECOND], optimizer, rate=2e-3, margin=MARGIN)
            moved.append(copied(model))
        for name, value in moved[0].items():
            assert torch.equal(value, moved[1][name]), name


def test_a_loss_that_is_no_number_updates_nothing() -> None:
    model = make_model()
    optimizer = build_optimizer(model, ScheduleConfig())
    train_step(model, [FIRST], optimizer, rate=2e-3, margin=MARGIN)
    before, moments = copied(model), copy.deepcopy(optimizer.state_dict())
    spoiled = SECOND._replace(positions=SECOND.positions * float("nan"))
    with pytest.raises(FloatingPointError, match="triplet loss nan"):
        train_step(model, [FIRST, spoiled], optimizer, rate=0.5, margin=MARGIN)
    assert_unchanged(model, before)
    assert_same_moments(moments, optimizer.state_dict())
    assert all(value.grad is None for value in model.parameters())


def test_the_first_step_of_adam_moves_by_the_rate() -> None:
    model = make_model()
    before = copied(model)
    optimizer = build_optimizer(model, ScheduleConfig(learning_rate=0.5))
    train_step(model, [FIRST], optimizer, rate=1e-3, margin=MARGIN)
    moved = (model.output.weight - before["output.weight"]).abs()
    assert moved.max().item() == pytest.approx(1e-3, rel=1e-3)
    assert moved.median().item() == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(1, 2e-3), (19, 2e-3), (20, 2e-4), (29, 2e-4), (30, 2e-5), (34, 2e-5)],
)
@pytest.mark.parametrize("items_per_step", [1, 2])
def test_the_rate_falls_at_the_start_of_epochs_20_and_30(
    epoch: int, rate: float, items_per_step: int
) -> None:
    steps_per_epoch = 500 // items_per_step
    for step in (steps_per_epoch * (epoch - 1), steps_per_epoch * epoch - 1):
        found = rate_of_step(step, steps_per_epoch=steps_per_epoch, config=ScheduleConfig())
        assert found == pytest.approx(rate, rel=1e-12)


def test_an_item_becomes_tensors_as_it_is() -> None:
    rng = np.random.default_rng(0)
    arrays = ItemArrays(
        rng.normal(size=(2, 9, 8)).astype(np.float32),
        rng.random((2, 4)).astype(np.float32),
        np.array([1, 2]),
    )
    found = to_tensors(arrays)
    assert [value.dtype for value in found] == [torch.float32, torch.float32, torch.int64]
    for value, array in zip(found, arrays, strict=True):
        assert np.array_equal(value.numpy(), array)
