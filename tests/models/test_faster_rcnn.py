"""The detector as a whole: steps fit together, batches mix, gradients reach what is trained."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.boxes import box_iou
from models.detectors.config import (
    BackboneConfig,
    FasterRCNNConfig,
    PoolingConfig,
    RoiHeadConfig,
    RpnConfig,
)
from models.detectors.faster_rcnn import FasterRCNN
from models.detectors.roi_align import pool_rois
from models.detectors.targets import Target

SMALL = FasterRCNNConfig(
    backbone=BackboneConfig(
        depth=18, stem_channels=8, norm="group", norm_groups=4, frozen_stages=-1
    ),
    pyramid_channels=16,
    rpn=RpnConfig(max_proposals=60),
    roi_head=RoiHeadConfig(hidden_sizes=(32,)),
)


def small_detector(config: FasterRCNNConfig = SMALL, num_classes: int = 3) -> FasterRCNN:
    torch.manual_seed(0)
    detector = FasterRCNN(config, num_classes).eval()
    with torch.no_grad():  # as they start, all boxes are anchors and all scores are equal
        detector.rpn.objectness.weight.normal_(std=0.5)
        detector.rpn.box_deltas.weight.normal_(std=0.1)
        detector.roi_head.class_logits.weight.normal_(std=0.5)
        detector.roi_head.box_deltas.weight.normal_(std=0.5)
    return detector


def run(detector: FasterRCNN, images: Tensor, sizes: Tensor, **scale: Any) -> list[Any]:
    with torch.no_grad():
        features = detector.extract_features(images)
    proposals = detector.propose(features, sizes, training=False)
    return detector.detect(features, proposals, sizes, **scale)


def target_of(boxes: list[list[float]], classes: list[int]) -> Target:
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        torch.arange(len(classes)),
    )


def images_of(batch: int, height: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_the_pyramid_has_strides_4_to_64() -> None:
    features = small_detector().extract_features(images_of(2, 96, 160))
    sizes = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    assert [tuple(level.shape) for level in features] == [(2, 16, *size) for size in sizes]


def test_an_image_gives_the_same_detections_alone_and_in_a_batch_of_its_size() -> None:
    detector, images = small_detector(), images_of(3, 96, 160)
    sizes = torch.tensor([[96, 160], [90, 150], [96, 160]])
    together = run(detector, images, sizes)
    for image in range(3):
        alone = run(detector, images[image : image + 1], sizes[image : image + 1])[0]
        assert len(alone.scores) > 10
        assert torch.equal(alone.class_indices, together[image].class_indices)
        torch.testing.assert_close(alone.boxes_xyxy, together[image].boxes_xyxy, atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.scores, together[image].scores, atol=1e-5, rtol=0)


def test_images_of_different_sizes_keep_to_their_own_borders() -> None:
    detector, images = small_detector(), images_of(2, 96, 160)
    sizes = torch.tensor([[96, 160], [50, 70]])
    images[1, :, 50:] = 0
    images[1, :, :, 70:] = 0
    with torch.no_grad():
        proposals = detector.propose(detector.extract_features(images), sizes, training=True)
    found = run(detector, images, sizes)
    for image, (height, width) in enumerate(sizes.tolist()):
        for boxes in (proposals[image], found[image].boxes_xyxy):
            assert len(boxes) > 5
            assert boxes.min() >= 0
            assert boxes[:, [0, 2]].max() <= width
            assert boxes[:, [1, 3]].max() <= height
    assert proposals[0][:, 2].max() > 70


def test_detections_are_sorted_bounded_and_in_the_pixels_asked_for() -> None:
    detector, images = small_detector(), images_of(1, 96, 160)
    sizes, scale = torch.tensor([[96, 160]]), torch.tensor([[0.5, 0.25]])
    network = run(detector, images, sizes)[0]
    original = run(detector, images, sizes, scale_factors=scale)[0]
    assert (network.scores.diff() <= 0).all()
    assert len(network.scores) <= 100
    torch.testing.assert_close(
        original.boxes_xyxy[:5], network.boxes_xyxy[:5] / torch.tensor([0.5, 0.25, 0.5, 0.25])
    )


def test_proposals_and_detections_carry_no_gradient() -> None:
    detector, sizes = small_detector(), torch.tensor([[64, 64]])
    features = detector.extract_features(images_of(1, 64, 64))
    assert features[0].requires_grad
    proposals = detector.propose(features, sizes, training=True)
    found = detector.detect(features, proposals, sizes)[0]
    assert not any(value.requires_grad for value in (*proposals, *found))


def losses_of(detector: FasterRCNN, seed: int = 0) -> tuple[dict[str, Tensor], list[Tensor]]:
    sizes = torch.tensor([[96, 160], [80, 128]])
    targets = [target_of([[10, 10, 60, 60], [100, 50, 130, 90]], [0, 2]), target_of([], [])]
    return detector.losses(
        detector.extract_features(images_of(2, 96, 160)),
        sizes,
        targets,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize(
    "config", [pytest.param(SMALL, id="mmdet"), pytest.param(None, id="vis4d")]
)
def test_gradients_reach_every_trained_parameter(config: FasterRCNNConfig | None) -> None:
    config = config or dataclasses.replace(
        FasterRCNNConfig.vis4d(),
        backbone=BackboneConfig(depth=18, stem_channels=8),
        pyramid_channels=16,
    )
    detector = small_detector(config).train()
    losses, proposals = losses_of(detector)
    assert list(losses) == ["rpn_cls", "rpn_bbox", "cls", "bbox"]
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    assert len(proposals) == 2
    assert not any(boxes.requires_grad for boxes in proposals)
    sum(losses.values()).backward()
    for name, value in detector.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
    frozen = [name for name, value in detector.named_parameters() if not value.requires_grad]
    assert any(frozen) == (config.backbone.frozen_stages >= 0)


def test_losses_depend_on_their_generator_and_on_no_other_randomness() -> None:
    detector = small_detector()
    values = []
    for seed, noise in ((1, 1), (1, 2), (2, 1)):
        torch.manual_seed(noise)
        values.append([value.item() for value in losses_of(detector, seed)[0].values()])
    assert values[0] == values[1] != values[2]


def test_returned_proposals_are_those_of_training_without_true_boxes() -> None:
    rpn = RpnConfig(candidates_per_level_train=9, candidates_per_level_test=4)
    detector = small_detector(dataclasses.replace(SMALL, rpn=rpn))
    features, sizes = detector.extract_features(images_of(2, 96, 160)), [[96, 160], [80, 128]]
    expected = detector.propose(features, torch.tensor(sizes), training=True)
    fewer = detector.propose(features, torch.tensor(sizes), training=False)
    for found, boxes, less in zip(losses_of(detector)[1], expected, fewer, strict=True):
        torch.testing.assert_close(found, boxes)
        assert len(less) < len(boxes)


def test_half_precision_features_give_full_precision_boxes_and_losses() -> None:
    detector = small_detector()
    exact, _ = losses_of(detector)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, proposals = losses_of(detector)
        found = run(detector, images_of(1, 96, 160), torch.tensor([[96, 160]]))[0]
    assert {value.dtype for value in (*mixed.values(), *proposals, *found[:2])} == {torch.float32}
    for name, value in exact.items():
        assert mixed[name].item() == pytest.approx(value.item(), rel=0.1)


def test_each_image_needs_its_target() -> None:
    detector = small_detector()
    features = detector.extract_features(images_of(2, 64, 64))
    with pytest.raises(ValueError, match="found 1 targets for 2 images"):
        detector.losses(
            features,
            torch.tensor([[64, 64]] * 2),
            [target_of([], [])],
            generator=torch.Generator(),
        )


def test_a_detector_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes is 0"):
        FasterRCNN(SMALL, 0)


def test_defaults_are_the_published_values() -> None:
    config = FasterRCNNConfig()
    assert config.backbone == BackboneConfig(
        depth=50, stem_channels=64, norm="frozen_batch", frozen_stages=1
    )
    assert config.rpn.box_loss_beta == pytest.approx(1 / 9)
    assert (config.rpn.candidates_per_level_train, config.rpn.candidates_per_level_test) == (
        2000,
        1000,
    )
    assert config.roi_head == RoiHeadConfig(
        hidden_sizes=(1024, 1024),
        delta_stds=(0.1, 0.1, 0.2, 0.2),
        sample_size=512,
        positive_fraction=0.25,
        box_loss_beta=0.0,
        score_threshold=0.05,
        nms_iou=0.5,
        max_detections=100,
    )


def test_the_releases_differ_in_these_fields_and_in_no_other() -> None:
    def flat(config: object, path: str = "") -> dict[str, Any]:
        values: dict[str, Any] = {}
        for field in dataclasses.fields(config):  # type: ignore[arg-type]
            value, name = getattr(config, field.name), path + field.name
            nested = dataclasses.is_dataclass(value)
            values |= flat(value, f"{name}.") if nested else {name: value}
        return values

    mmdet, vis4d = flat(FasterRCNNConfig()), flat(FasterRCNNConfig.vis4d())
    assert {name: (mmdet[name], vis4d[name]) for name in mmdet if mmdet[name] != vis4d[name]} == {
        "pooling.level_rule": ("mmdet", "vis4d"),
        "rpn.offset_levels": (True, False),
        "rpn.drop_flat_proposals": (True, False),
        "rpn.anchors_inside_only": (False, True),
        "rpn.low_quality_keeps_own": (False, True),
        "roi_head.truth_first": (True, False),
        "roi_head.box_loss_beta": (0.0, 1.0),
        "roi_head.nms_in_original_pixels": (True, False),
        "roi_head.offset_classes": (True, False),
    }


def test_reading_the_configuration_imports_no_torch(repository: Path) -> None:
    code = "import sys, models.detectors.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)


@pytest.mark.parametrize("rule", ["mmdet", "vis4d"])
def test_the_pooling_rule_of_the_config_is_the_one_used(rule: Any) -> None:
    """A side of 111.99996 is level 1 for one release and level 0 for the other."""
    config = dataclasses.replace(SMALL, pooling=PoolingConfig(level_rule=rule))
    detector = small_detector(config)
    features = [torch.full((1, 16, 256 // s, 256 // s), float(s)) for s in (4, 8, 16, 32, 64)]
    box = torch.tensor([[0.0, 0.0, 111.99996, 111.99996]])
    pooled = pool_rois(features, [box], detector.roi_head.pooling)
    assert pooled.unique().tolist() == [8.0 if rule == "mmdet" else 4.0]


@pytest.mark.slow
def test_a_small_detector_learns_to_find_boxes_from_scratch() -> None:
    """Every part of the chain has to fit for this: targets, codings, orders of channels."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    config = dataclasses.replace(
        SMALL,
        rpn=RpnConfig(max_proposals=40, candidates_per_level_train=60, anchor_scale=4.0),
        roi_head=RoiHeadConfig(hidden_sizes=(64,), sample_size=32),
    )
    detector = FasterRCNN(config, num_classes=2)

    def scene() -> tuple[Tensor, Target]:
        """A bright square or a dark, flat rectangle on noise, 64 x 96."""
        image, index = torch.randn(3, 64, 96) * 0.1, int(draw.integers(2))
        width, height = (20, 20) if index == 0 else (30, 16)
        x, y = int(draw.integers(0, 96 - width)), int(draw.integers(0, 64 - height))
        image[:, y : y + height, x : x + width] += 1.5 if index == 0 else -1.5
        return image, target_of([[x, y, x + width, y + height]], [index])

    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.002)
    sizes = torch.tensor([[64, 96]] * 8)
    for _ in range(100):
        images, targets = zip(*(scene() for _ in range(8)), strict=True)
        features = detector.extract_features(torch.stack(images))
        losses, _ = detector.losses(features, sizes, targets, generator=generator)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
    images, targets = zip(*(scene() for _ in range(24)), strict=True)
    found = run(detector.eval(), torch.stack(images), torch.tensor([[64, 96]] * 24))
    hits = sum(
        len(boxes.scores) > 0
        and bool(boxes.class_indices[0] == target.class_indices[0])
        and box_iou(boxes.boxes_xyxy[:1], target.boxes_xyxy).item() > 0.6
        for boxes, target in zip(found, targets, strict=True)
    )
    assert hits >= 22


def closed_form(detector: FasterRCNN) -> None:
    """Weights that anybody can compute: sin(k) by position, scaled to keep the signal's size."""
    for value in detector.state_dict().values():
        count = value.numel()
        wave = torch.sin(torch.arange(count, dtype=torch.float64)).reshape(value.shape)
        if value.ndim >= 2:
            value.copy_(wave * math.sqrt(3 / value[0].numel()))
        elif value.is_floating_point():
            value.copy_(1 + 0.1 * wave)


@pytest.mark.slow
def test_the_full_width_network_agrees_in_single_and_double_precision() -> None:
    detector = FasterRCNN(FasterRCNNConfig(), num_classes=8).eval()
    closed_form(detector)
    grid = torch.arange(3 * 128 * 192, dtype=torch.float64).reshape(1, 3, 128, 192)
    sizes, outputs = torch.tensor([[120, 190]]), []
    for dtype in (torch.float32, torch.float64):
        detector.to(dtype)
        with torch.no_grad():
            features = detector.extract_features(torch.cos(grid * 0.37).to(dtype))
            proposals = detector.rpn(features)
            boxes = [torch.tensor([[3.0, 5.0, 60.0, 90.0], [0.0, 0.0, 190.0, 120.0]], dtype=dtype)]
            logits, deltas = detector.roi_head(pool_rois(features, boxes, detector.config.pooling))
        outputs.append([*features, *proposals.logits, *proposals.deltas, logits, deltas])
        found = detector.detect(features, detector.propose(features, sizes, training=False), sizes)[
            0
        ]
        assert found.boxes_xyxy.dtype == dtype
    for single, double in zip(*outputs, strict=True):
        error = (single.double() - double).abs().max() / double.abs().max()
        assert error < 3e-3
