"""One step of training the segmentation: what images teach, and what a step changes."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.pointtrack.config import SegmentationTrainConfig, SpatialEmbeddingConfig
from models.pointtrack.losses import spatial_embedding_terms
from models.pointtrack.segmentation import SpatialEmbedding
from models.pointtrack.segmentation_training import (
    SegmentationBatch,
    build_optimizer,
    learning_rate,
    make_batch,
    start_training,
    train_step,
)

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 32, 48
DONT_CARE = 65535
CONFIG = SegmentationTrainConfig()
FROZEN = replace(CONFIG, freeze_norms=True)


def make_model(seed: int = 0) -> SpatialEmbedding:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpatialEmbedding(SpatialEmbeddingConfig())


def some_batch(seed: int = 0) -> SegmentationBatch:
    """Two noisy images: two instances and an ignore region, and one instance."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(2)]
    maps = np.zeros((2, HEIGHT, WIDTH), np.uint16)
    maps[0, 4:14, 6:20] = 1
    maps[0, 10:30, 24:40] = 2
    maps[0, :4] = DONT_CARE
    maps[1, 8:24, 10:30] = 1
    return make_batch(images, list(maps), dont_care_id=DONT_CARE, dont_care="left_out")


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    after = model.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


class TestBatch:
    MAP = np.array([[0, 3, 3, DONT_CARE], [1, 0, 2, DONT_CARE]], np.uint16)
    IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10

    def test_labels_of_objects_background_and_neither(self) -> None:
        batch = make_batch([self.IMAGE], [self.MAP], dont_care_id=DONT_CARE, dont_care="left_out")
        assert batch.labels.dtype == torch.uint8
        assert batch.labels.tolist() == [[[0, 1, 1, 254], [1, 0, 1, 254]]]
        assert batch.instances.dtype == torch.int64
        assert batch.instances.tolist() == [[[0, 3, 3, 0], [1, 0, 2, 0]]]

    def test_as_released_ignore_regions_are_background(self) -> None:
        batch = make_batch([self.IMAGE], [self.MAP], dont_care_id=DONT_CARE, dont_care="background")
        assert batch.labels.tolist() == [[[0, 1, 1, 0], [1, 0, 1, 0]]]
        assert batch.instances.tolist() == [[[0, 3, 3, 0], [1, 0, 2, 0]]]

    def test_colours_stay_rgb_and_are_only_divided(self) -> None:
        images = [self.IMAGE, self.IMAGE[::-1]]
        batch = make_batch(
            images, [self.MAP, self.MAP], dont_care_id=DONT_CARE, dont_care="left_out"
        )
        assert batch.images.shape == (2, 3, 2, 4)
        assert batch.images.dtype == torch.float32
        for number, image in enumerate(images):
            expected = image.transpose(2, 0, 1).astype(np.float32) / 255
            assert np.array_equal(batch.images[number].numpy(), expected)

    def test_views_of_flipped_images_are_taken(self) -> None:
        batch = make_batch(
            [self.IMAGE[:, ::-1]], [self.MAP[:, ::-1]], dont_care_id=9, dont_care="left_out"
        )
        assert batch.instances[0, 0].tolist() == [DONT_CARE, 3, 3, 0]

    def test_what_is_left_out_teaches_nothing(self) -> None:
        """A seed of 1 in the ignore region costs nothing, unless that is background."""
        prediction = torch.full((1, 5, 8, 8), -20.0)
        ids = np.zeros((8, 8), np.uint16)
        ids[:, 4:] = DONT_CARE
        prediction[0, 4, :, 4:] = 20
        image = np.zeros((8, 8, 3), np.uint8)
        seeds = []
        for way in ("left_out", "background"):
            batch = make_batch([image], [ids], dont_care_id=DONT_CARE, dont_care=way)
            terms = spatial_embedding_terms(
                prediction, batch.instances, batch.labels, foreground_weight=10
            )
            seeds.append(float(terms.seed))
        assert seeds == pytest.approx([0.0, 0.5], abs=1e-6)


class TestLearningRate:
    def test_crops_have_one_rate(self) -> None:
        config = SegmentationTrainConfig.crops()
        rates = {
            learning_rate(step, steps_per_epoch=1750, config=config)
            for step in range(0, 350_000, 997)
        }
        assert rates == {5e-4}

    @pytest.mark.parametrize("epochs_done", [0, 1, 37, 98])
    @pytest.mark.parametrize("step_in_epoch", [0, 499])
    def test_finetuning_falls_after_every_epoch(self, epochs_done: int, step_in_epoch: int) -> None:
        """k is 0 in the first epoch that runs, as the scheduler counts (reference 1.6)."""
        rate = learning_rate(
            500 * epochs_done + step_in_epoch,
            steps_per_epoch=500,
            config=SegmentationTrainConfig.finetune(),
        )
        assert rate == pytest.approx(5e-6 * (1 - epochs_done / 100) ** 0.9, rel=1e-12)
        assert rate > 0


class TestMode:
    def test_frozen_norms_keep_statistics_and_dropout_stays(self) -> None:
        model = make_model()
        start_training(model, FROZEN)
        kinds = {type(m): {m.training} for m in model.modules() if not list(m.children())}
        assert kinds[nn.BatchNorm2d] == {False}
        assert kinds[nn.Dropout2d] == {True}
        for module in model.modules():
            assert module.training != isinstance(module, nn.BatchNorm2d)

    def test_without_freezing_everything_trains(self) -> None:
        model = make_model()
        start_training(model, FROZEN)
        start_training(model, CONFIG)
        assert all(module.training for module in model.modules())

    def test_dropout_acts_in_both(self) -> None:
        images = some_batch().images
        model = make_model()
        for config in (CONFIG, FROZEN):
            start_training(model, config)
            outputs = []
            for seed in (1, 1, 2):
                torch.manual_seed(seed)
                outputs.append(model(images)[:, 4])  # of the seeds: the others start constant
            assert torch.equal(outputs[0], outputs[1])
            assert not torch.equal(outputs[0], outputs[2])


class TestStep:
    def step(
        self, model: SpatialEmbedding, config: SegmentationTrainConfig, **changes: Any
    ) -> dict[str, float]:
        start_training(model, config)
        torch.manual_seed(0)
        usual = {"rate": 1e-3, "config": config, "batch": some_batch()}
        given = {**usual, **changes}
        return train_step(
            model,
            given["batch"],
            build_optimizer(model, config),
            rate=given["rate"],
            config=given["config"],
        )

    def test_frozen_norms_are_trained_but_count_nothing(self) -> None:
        model = make_model()
        before = copied(model.state_dict())
        self.step(model, FROZEN)
        found = changed(before, model)
        norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        assert not found & {f"{norm}.{name}" for norm in norms for name in statistics}
        # The first layers of the shape decoder get no gradient as long as its output has no weight.
        reached = {norm for norm in norms if not norm.startswith("shape_decoder")}
        assert {f"{norm}.weight" for norm in reached} <= found
        assert {f"{norm}.bias" for norm in reached} <= found
        assert len(reached) > 30

    def test_norms_that_are_not_frozen_count(self) -> None:
        model = make_model()
        before = copied(model.state_dict())
        self.step(model, CONFIG)
        found = changed(before, model)
        assert "encoder.stem.norm.running_mean" in found
        assert "seed_decoder.blocks.5.norm2.num_batches_tracked" in found

    @pytest.mark.parametrize("rate", [1e-3, 1e-5])
    def test_the_rate_is_the_one_that_is_given(self, rate: float) -> None:
        """The first step of Adam moves every weight by the rate, whatever its gradient."""
        model = make_model()
        before = copied(model.state_dict())
        self.step(model, replace(CONFIG, learning_rate=0.5), rate=rate)
        name = "seed_decoder.output.bias"
        moved = (model.state_dict()[name] - before[name]).abs().item()
        assert moved == pytest.approx(rate, rel=0.02)

    def test_values_are_those_of_the_loss(self) -> None:
        model, twin = make_model(), make_model()
        values = self.step(model, FROZEN)
        start_training(twin, FROZEN)
        torch.manual_seed(0)
        batch = some_batch()
        terms = spatial_embedding_terms(
            twin(batch.images), batch.instances, batch.labels, foreground_weight=10
        )
        assert values == {
            name: getattr(terms, name).item() for name in ("total", "instance", "variance", "seed")
        }
        parts = values["instance"] + 10 * values["variance"] + values["seed"]
        assert values["total"] == pytest.approx(parts, rel=1e-6)

    def test_the_weight_of_the_foreground_is_that_of_the_stage(self) -> None:
        """Seed terms for two weights tell the third."""
        seeds = [
            self.step(make_model(), replace(FROZEN, foreground_weight=weight))["seed"]
            for weight in (10.0, 50.0, 200.0)
        ]
        per_unit = (seeds[1] - seeds[0]) / 40
        assert per_unit > 0
        assert seeds[2] == pytest.approx(seeds[1] + 150 * per_unit, rel=1e-4)

    def test_it_decays_weights_as_l2(self) -> None:
        optimizer = build_optimizer(make_model(), CONFIG)
        assert type(optimizer) is torch.optim.Adam  # AdamW decouples
        assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4]
        assert optimizer.param_groups[0]["lr"] == 5e-4

    def test_it_learns(self) -> None:
        model = make_model()
        start_training(model, CONFIG)
        optimizer, batch = build_optimizer(model, CONFIG), some_batch()
        torch.manual_seed(0)
        losses = [
            train_step(model, batch, optimizer, rate=1e-3, config=CONFIG)["total"]
            for _ in range(12)
        ]
        assert losses[-1] < 0.9 * losses[0]

    def test_a_loss_that_is_no_number_updates_nothing(self) -> None:
        model = make_model()
        start_training(model, FROZEN)
        optimizer = build_optimizer(model, FROZEN)
        train_step(model, some_batch(), optimizer, rate=1e-4, config=FROZEN)
        before, moments = copied(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        spoiled = some_batch()._replace(images=some_batch().images * float("nan"))
        with pytest.raises(FloatingPointError, match="became non-finite: total nan, instance nan"):
            train_step(model, spoiled, optimizer, rate=0.1, config=FROZEN)
        assert changed(before, model) == set()
        after = optimizer.state_dict()
        assert after["param_groups"] == moments["param_groups"]
        for number, state in moments["state"].items():
            for name, value in state.items():
                assert torch.equal(value, after["state"][number][name])
