"""One training step: schedule by hand, SGD by hand, non-finite losses, DDP, and that it learns."""

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.boxes import box_iou
from models.qdtrack.config import OptimizerConfig
from models.qdtrack.model import PairBatch, QDTrack
from models.qdtrack.training import (
    View,
    build_optimizer,
    build_scaler,
    compute_losses,
    learning_rate,
    make_batch,
    step_generator,
    train_step,
)
from tests.small_model import MODEL

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
PLAIN = OptimizerConfig(learning_rate=0.01, warmup_iterations=0)

CONFIG = replace(MODEL, classes=("box",))


COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 230]])


def _view(seed: int, identities: tuple[int, ...] = (0, 1, 2)) -> View:
    """Rectangles of one colour per identity on grey noise, 64 x 96 pixels."""
    random = np.random.default_rng(seed)
    image = random.integers(90, 140, (64, 96, 3)).astype(np.uint8)
    boxes = []
    for place, identity in enumerate(random.permutation(np.array(identities, int))):
        width, height = random.integers(16, 26), random.integers(20, 34)
        left, top = 32 * place + random.integers(0, 6), random.integers(2, 28)
        image[top : top + height, left : left + width] = COLOURS[identity % 3]
        boxes.append((identity, left, top, left + width, top + height))
    rows = np.array(boxes, np.float64).reshape(-1, 5)
    return View(image, rows[:, 1:], np.zeros(len(rows), np.int64), rows[:, 0].astype(np.int64))


def _batch(*seeds: int, device: torch.device = CPU) -> PairBatch:
    return make_batch([(_view(seed), _view(1000 + seed)) for seed in seeds], CONFIG.input, device)


def _without_boxes(*, key: bool, reference: bool) -> PairBatch:
    pairs = [
        (_view(1, () if key else (0, 1)), _view(2, () if reference else (0, 1))),
        (_view(3), _view(4)),
    ]
    return make_batch(pairs, CONFIG.input)


def _model(seed: int = 0) -> QDTrack:
    torch.manual_seed(seed)
    return QDTrack(CONFIG).train()


def _step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: PairBatch,
    step: int = 0,
    config: OptimizerConfig = PLAIN,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, float]:
    return train_step(
        module,
        batch,
        optimizer,
        scaler or build_scaler(config, CPU),
        rate=config.learning_rate,
        generator=step_generator(0, step=step, rank=0),
        config=config,
    )


@pytest.mark.parametrize(
    ("step", "steps_per_epoch", "expected"),
    [
        (0, 5000, 0.02 * 0.001),
        (500, 5000, 0.02 * (1 - 0.5 * 0.999)),
        (999, 5000, 0.02 * (1 - 0.001 * 0.999)),
        (1000, 5000, 0.02),
        (8 * 5000 - 1, 5000, 0.02),
        (8 * 5000, 5000, 0.002),
        (11 * 5000 - 1, 5000, 0.002),
        (11 * 5000, 5000, 0.0002),
        (12 * 5000, 5000, 0.0002),
        # Eight epochs within the warm-up: it multiplies the rate that has fallen already.
        (800, 100, 0.002 * (1 - 0.2 * 0.999)),
    ],
)
def test_published_schedule(step: int, steps_per_epoch: int, expected: float) -> None:
    rate = learning_rate(step, steps_per_epoch=steps_per_epoch, config=OptimizerConfig())
    assert rate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.1), (1, 0.1009), (500, 0.55), (1000, 1.0)], ids=str
)
def test_vis4d_warms_up_from_a_tenth(step: int, share: float) -> None:
    rate = learning_rate(step, steps_per_epoch=9000, config=OptimizerConfig.vis4d())
    assert rate == pytest.approx(0.02 * share, rel=1e-12)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(0, steps_per_epoch=10, config=PLAIN) == 0.01


def test_frozen_parameters_are_not_optimised() -> None:
    torch.manual_seed(0)
    backbone = replace(CONFIG.detector.backbone, frozen_stages=1)
    model = QDTrack(replace(CONFIG, detector=replace(CONFIG.detector, backbone=backbone))).train()
    frozen = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    assert any("layer1" in name for name in frozen)
    optimizer = build_optimizer(model, PLAIN)
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
    assert len(group["params"]) == len(list(model.parameters())) - len(frozen)
    _step(model, optimizer, _batch(0))
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_two_steps_are_momentum_sgd_with_decay_on_everything() -> None:
    model, by_hand = _model(), _model()
    optimizer = build_optimizer(model, PLAIN)
    velocity = [torch.zeros_like(one) for one in by_hand.parameters()]
    for step in range(2):
        _step(model, optimizer, _batch(step), step)
        losses, _ = by_hand(_batch(step), step_generator(0, step=step, rank=0))
        gradients = torch.autograd.grad(sum(losses.values()), list(by_hand.parameters()))
        with torch.no_grad():
            for one, gradient, speed in zip(by_hand.parameters(), gradients, velocity, strict=True):
                speed.mul_(0.9).add_(gradient + 1e-4 * one)
                one.sub_(0.01 * speed)
    for one, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-6)


def test_a_step_reports_every_loss_their_sum_and_the_statistics() -> None:
    model = _model()
    batch, generator = _batch(0, 1), step_generator(0, step=0, rank=0)
    losses, statistics = compute_losses(model, batch, generator, PLAIN)
    reported = _step(model, build_optimizer(model, PLAIN), batch)
    parts = {name: loss.item() for name, loss in losses.items()}
    for name, value in {**parts, **statistics}.items():
        assert reported[name] == pytest.approx(value, rel=1e-6)
    assert reported["total"] == pytest.approx(sum(parts.values()))
    assert reported["gradient_norm"] > 0


def test_clipping_limits_the_norm_of_the_update() -> None:
    config = replace(PLAIN, gradient_clip_norm=0.5, weight_decay=0.0)
    model = _model()
    before = [one.detach().clone() for one in model.parameters()]
    reported = _step(model, build_optimizer(model, config), _batch(0), config=config)
    assert reported["gradient_norm"] > 0.5
    moved = [one - old for one, old in zip(model.parameters(), before, strict=True)]
    norm = torch.cat([one.flatten() for one in moved]).norm().item()
    assert norm == pytest.approx(0.01 * 0.5, rel=1e-3)


@pytest.mark.parametrize("scaled", [False, True], ids=["float32", "with a loss scaler"])
def test_a_loss_that_is_not_finite_stops_before_anything_is_updated(scaled: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    model = _model()
    nn.init.constant_(model.embedding_head.output.bias, 1e30)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"rpn_cls \d.*track (inf|nan).*total (inf|nan)"):
        _step(model, build_optimizer(model, PLAIN), _batch(0), scaler=scaler)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class _SteepModule(nn.Module):
    """A finite loss whose gradient is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Any, generator: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        return {"track": self.weight.sqrt().sum()}, {}


def test_a_gradient_that_is_not_finite_stops_before_anything_is_updated() -> None:
    module = _SteepModule()
    with pytest.raises(FloatingPointError, match=r"track 0.*gradient_norm inf"):
        _step(module, build_optimizer(module, PLAIN), _batch(0))
    assert module.weight.item() == 0


def test_a_loss_scaler_skips_such_a_step_and_lowers_its_scale() -> None:
    module, scaler = _SteepModule(), torch.amp.GradScaler("cpu", init_scale=4.0)
    reported = _step(module, build_optimizer(module, PLAIN), _batch(0), scaler=scaler)
    assert reported["gradient_norm"] == math.inf
    assert module.weight.item() == 0
    assert scaler.get_scale() == 2.0


def test_a_loss_scaler_changes_no_step_that_fits() -> None:
    plain, scaled = _model(), _model()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    expected = _step(plain, build_optimizer(plain, PLAIN), _batch(0))
    found = _step(scaled, build_optimizer(scaled, PLAIN), _batch(0), scaler=scaler)
    assert found == pytest.approx(expected, rel=1e-5)
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_samples_of_a_step_depend_on_seed_step_and_worker_only() -> None:
    def draw(seed: int, step: int, rank: int) -> float:
        return torch.rand(1, generator=step_generator(seed, step=step, rank=rank)).item()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 0)}) == 4


def test_a_resumed_training_repeats_the_steps_bit_for_bit() -> None:
    def run(model: QDTrack, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
        return [_step(model, optimizer, _batch(step), step)["total"] for step in steps]

    straight = _model()
    expected = run(straight, build_optimizer(straight, PLAIN), range(4))
    stopped = _model()
    optimizer = build_optimizer(stopped, PLAIN)
    first = run(stopped, optimizer, range(2))
    resumed = _model(seed=99)
    resumed.load_state_dict(stopped.state_dict())
    resumed_optimizer = build_optimizer(resumed, PLAIN)
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    assert first + run(resumed, resumed_optimizer, range(2, 4)) == expected


def test_a_batch_pads_key_and_reference_by_themselves() -> None:
    small = View(np.zeros((20, 30, 3), np.uint8), np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    batch = make_batch([(small, _view(0)), (small, _view(1))], CONFIG.input)
    assert batch.key_images.shape == (2, 3, 32, 32)
    assert batch.reference_images.shape == (2, 3, 64, 96)
    assert batch.key_targets[0].boxes_xyxy.shape == (0, 4)
    target, view = batch.reference_targets[1], _view(1)
    assert target.boxes_xyxy.dtype == torch.float32
    assert target.boxes_xyxy.tolist() == view.boxes_xyxy.tolist()
    assert target.identities.tolist() == view.identities.tolist()
    assert target.class_indices.dtype == target.identities.dtype == torch.int64
    moved = make_batch([(small, _view(0)), (small, _view(1))], CONFIG.input, "meta")
    assert moved.reference_targets[1].boxes_xyxy.is_meta
    assert moved.key_images.is_meta


@pytest.fixture
def process_group() -> Iterator[None]:
    """A gloo group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_ddp_needs_no_search_for_unused_parameters() -> None:
    """DDP raises at the next step if a parameter was left out of one."""
    model, alone = _model(), _model()
    module = DistributedDataParallel(model)
    optimizer, alone_optimizer = build_optimizer(model, PLAIN), build_optimizer(alone, PLAIN)
    batches = [
        _without_boxes(key=True, reference=False),
        _without_boxes(key=False, reference=True),
        _without_boxes(key=True, reference=True),
        make_batch([(_view(1, ()), _view(2, ()))], CONFIG.input),
        make_batch([(_view(1, (0,)), _view(2, (1,)))], CONFIG.input),
        _batch(5),
    ]
    for step, batch in enumerate(batches):
        assert _step(module, optimizer, batch, step) == _step(alone, alone_optimizer, batch, step)


def _train_on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = _model()
    module = DistributedDataParallel(model)
    batch = _batch(0) if rank == 0 else _without_boxes(key=True, reference=True)
    _step(module, build_optimizer(model, PLAIN), batch)
    torch.save(model.state_dict(), os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ddp_workers_step_along_their_mean_gradient(tmp_path: Path) -> None:
    other = torch.multiprocessing.get_context("spawn").Process(
        target=_train_on_rank, args=(1, str(tmp_path))
    )
    other.start()
    _train_on_rank(0, str(tmp_path))
    other.join(timeout=60)
    assert other.exitcode == 0
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    model = _model()
    optimizer = build_optimizer(model, PLAIN)
    for batch in (_batch(0), _without_boxes(key=True, reference=True)):
        losses, _ = model(batch, step_generator(0, step=0, rank=0))
        (sum(losses.values()) / 2).backward()
    optimizer.step()
    for name, expected in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_gpu_precisions_agree_with_the_cpu(precision: Any) -> None:
    device = torch.device("cuda")
    config = replace(PLAIN, precision=precision)
    expected, _ = _model()(_batch(0, 1), step_generator(0, step=0, rank=0))
    model = _model().to(device)
    batch = _batch(0, 1, device=device)
    losses, _ = compute_losses(model, batch, step_generator(0, step=0, rank=0), config)
    tolerance = 1e-3 if precision == "float32" else 0.1
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=tolerance, abs=0.02)
    scaler = build_scaler(config, device)
    assert scaler.is_enabled() == (precision == "float16")
    optimizer = build_optimizer(model, config)
    for step in range(3):
        values = train_step(
            model,
            batch,
            optimizer,
            scaler,
            rate=0.001,
            generator=step_generator(0, step=step, rank=0),
            config=config,
        )
        assert math.isfinite(values["total"])


def _cosine_gap(model: QDTrack, batch: PairBatch) -> float:
    """How much closer boxes of one identity are than boxes of different ones, in mean cosine."""
    keys = model.embed(batch.key_images, [one.boxes_xyxy for one in batch.key_targets])
    references = model.embed(
        batch.reference_images, [one.boxes_xyxy for one in batch.reference_targets]
    )
    cosines = torch.cosine_similarity(torch.cat(keys)[:, None], torch.cat(references), dim=2)
    key_identities = torch.cat([one.identities for one in batch.key_targets])
    same = key_identities[:, None] == torch.cat([one.identities for one in batch.reference_targets])
    return (cosines[same].mean() - cosines[~same].mean()).item()


@pytest.mark.slow
def test_a_small_model_overfits_a_few_pairs() -> None:
    """Losses fall, the boxes are found, and identities come apart, on unseen images too."""
    model = _model()
    config = OptimizerConfig(
        learning_rate=0.02, warmup_iterations=20, gradient_clip_norm=10.0, step_epochs=(110,)
    )
    optimizer, scaler = build_optimizer(model, config), build_scaler(config, CPU)
    batch, unseen = _batch(*range(4)), _batch(*range(10, 14))
    gap_before = _cosine_gap(model, unseen)
    history = [
        train_step(
            model,
            batch,
            optimizer,
            scaler,
            rate=learning_rate(step, steps_per_epoch=1, config=config),
            generator=step_generator(0, step=step, rank=0),
            config=config,
        )
        for step in range(150)
    ]
    # Not the second stage's boxes: their loss grows while proposals still get positive.
    for name in ("rpn_cls", "rpn_bbox", "cls", "track", "track_aux", "total"):
        first = np.mean([values[name] for values in history[:5]])
        last = np.mean([values[name] for values in history[-5:]])
        assert last < 0.6 * first, (name, first, last)
    assert _cosine_gap(model, unseen) > gap_before + 0.4
    for found, target in zip(
        model.detect(batch.key_images, batch.key_sizes), batch.key_targets, strict=True
    ):
        assert len(found.scores) == len(target.boxes_xyxy)
        assert box_iou(target.boxes_xyxy, found.boxes_xyxy).amax(dim=1).min() > 0.7
