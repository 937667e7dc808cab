"""Second stage against loops: classes, boxes, sampling, losses and suppression."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.boxes import box_iou, decode_boxes, encode_boxes
from models.detectors.config import FasterRCNNConfig, PoolingConfig, RoiHeadConfig
from models.detectors.roi_align import pool_rois
from models.detectors.roi_head import RoiHead
from models.detectors.targets import Target

MMDET, VIS4D = RoiHeadConfig(), FasterRCNNConfig.vis4d().roi_head
CONVENTIONS = [pytest.param(MMDET, id="mmdet"), pytest.param(VIS4D, id="vis4d")]
CHANNELS, NUM_CLASSES = 4, 3


class ScriptedHead(RoiHead):
    """A head whose outputs are given, so that only what happens to them is under test."""

    def __init__(self, config: RoiHeadConfig, logits: Tensor, deltas: Tensor) -> None:
        super().__init__(CHANNELS, deltas.shape[1], config, PoolingConfig())
        self.outputs = (logits, deltas)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        assert len(pooled) == len(self.outputs[0])
        return self.outputs


def features_of(seed: int, batch: int = 1, extent: int = 128) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, CHANNELS, extent // stride, extent // stride, generator=draw)
        for stride in (4, 8, 16, 32, 64)
    ]


def random_boxes(count: int, seed: int, extent: float = 120.0) -> Tensor:
    draw = np.random.default_rng(seed)
    corners = draw.uniform(0, extent - 10, (count, 2))
    far = np.minimum(corners + draw.uniform(5, 60, (count, 2)), extent)
    return torch.tensor(np.hstack([corners, far]), dtype=torch.float32)


def logits_of(scores: Sequence[Sequence[float]]) -> Tensor:
    """Logits whose softmax gives these foreground scores; background takes the rest."""
    foreground = torch.tensor(scores, dtype=torch.float32)
    return torch.cat([foreground, 1 - foreground.sum(dim=1, keepdim=True)], dim=1).log()


def target_of(boxes: Tensor, classes: list[int]) -> Target:
    return Target(boxes, torch.tensor(classes, dtype=torch.int64), torch.arange(len(classes)))


def random_outputs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, NUM_CLASSES + 1, generator=draw) * 2
    return logits, torch.randn(count, NUM_CLASSES, 4, generator=draw)


def slow_detect(
    proposals: Tensor,
    logits: Tensor,
    deltas: Tensor,
    size: tuple[int, int],
    scale: Tensor,
    config: RoiHeadConfig,
) -> list[tuple[float, int, list[float]]]:
    """The recipe as loops: every class of every proposal, suppressed within its class."""
    candidates = []
    for row in range(len(proposals)):
        scores = logits[row].softmax(dim=0)
        for index in range(NUM_CLASSES):  # the last logit is the background
            if scores[index] <= config.score_threshold:
                continue
            box = decode_boxes(proposals[row], deltas[row, index], config.delta_stds)
            x1, y1, x2, y2 = box.tolist()
            clipped = (
                [min(max(x, 0), size[1]) for x in (x1, x2)],
                [min(max(y, 0), size[0]) for y in (y1, y2)],
            )
            corners = [clipped[0][0], clipped[1][0], clipped[0][1], clipped[1][1]]
            final = [
                value / factor for value, factor in zip(corners, scale.tolist() * 2, strict=True)
            ]
            candidates.append((scores[index].item(), index, final))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept: list[tuple[float, int, list[float]]] = []
    for score, index, box in candidates:
        rivals = [other for _, rival, other in kept if rival == index]
        if rivals and box_iou(torch.tensor([box]), torch.tensor(rivals)).max() > config.nms_iou:
            continue
        kept.append((score, index, box))
    return kept[: config.max_detections]


@pytest.mark.parametrize("config", CONVENTIONS)
def test_detections_are_those_of_loops(config: RoiHeadConfig) -> None:
    config = replace(config, max_detections=25)
    proposals, (logits, deltas) = random_boxes(60, 0), random_outputs(60, 1)
    scale = torch.tensor([0.8, 0.75])
    size = torch.tensor([[90, 112]])
    found = ScriptedHead(config, logits, deltas).detect(
        features_of(0), [proposals], size, scale[None]
    )[0]
    expected = slow_detect(proposals, logits, deltas, (90, 112), scale, config)
    assert len(expected) == 25
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], atol=1e-6)
    assert found.class_indices.tolist() == [index for _, index, _ in expected]
    np.testing.assert_allclose(found.boxes_xyxy, [box for _, _, box in expected], atol=1e-3)


def test_the_background_is_the_last_class() -> None:
    """A first class that scores high is a detection; a last one that scores high is none."""
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    for row, expected in (([9.0, 0, 0, 0], [0]), ([0.0, 0, 9, 0], [2]), ([0.0, 0, 0, 9], [])):
        head = ScriptedHead(MMDET, torch.tensor([row]), torch.zeros(1, NUM_CLASSES, 4))
        found = head.detect(features_of(0), [box], torch.tensor([[128, 128]]), None)[0]
        assert found.class_indices.tolist() == expected


def test_a_score_equal_to_the_threshold_is_no_detection() -> None:
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]])
    # softmax of equal logits: exactly 0.25 each
    head = ScriptedHead(
        replace(MMDET, score_threshold=0.25), torch.zeros(2, 4), torch.zeros(2, 3, 4)
    )
    assert len(head.detect(features_of(0), [box], torch.tensor([[128, 128]]), None)[0].scores) == 0
    head = ScriptedHead(
        replace(MMDET, score_threshold=0.2499), torch.zeros(2, 4), torch.zeros(2, 3, 4)
    )
    assert len(head.detect(features_of(0), [box], torch.tensor([[128, 128]]), None)[0].scores) == 6


def test_each_class_moves_its_own_box() -> None:
    box = torch.tensor([[20.0, 20.0, 60.0, 60.0]])
    deltas = torch.zeros(1, NUM_CLASSES, 4)
    deltas[0, 1, 0] = 1.0  # class 1 moves right by 0.1 of the width
    head = ScriptedHead(MMDET, logits_of([[0.3, 0.4, 0.2]]), deltas)
    found = head.detect(features_of(0), [box], torch.tensor([[128, 128]]), None)[0]
    assert found.class_indices.tolist() == [1, 0, 2]
    assert found.boxes_xyxy[:, 0].tolist() == pytest.approx([24, 20, 20])


def test_other_classes_do_not_suppress() -> None:
    boxes = torch.tensor([[20.0, 20.0, 60.0, 60.0], [20.0, 20.0, 60.0, 62.0]])
    for scores, count in (([[0.9, 0, 0], [0.8, 0, 0]], 1), ([[0.9, 0, 0], [0, 0.8, 0]], 2)):
        head = ScriptedHead(MMDET, logits_of(scores), torch.zeros(2, NUM_CLASSES, 4))
        found = head.detect(features_of(0), [boxes], torch.tensor([[128, 128]]), None)[0]
        assert len(found.scores) == count


@pytest.mark.parametrize(
    ("config", "count"),
    [
        pytest.param(MMDET, 2, id="mmdet compares in original pixels"),
        pytest.param(VIS4D, 1, id="vis4d compares in network pixels"),
    ],
)
def test_pixels_in_which_overlaps_are_compared(config: RoiHeadConfig, count: int) -> None:
    """Overlap exactly 1/2 in original pixels, a rounding above it once scaled by 1.3."""
    original = torch.tensor([[3.0, 5.0, 25.0, 27.0], [3.0, 5.0, 25.0, 16.0]])
    scale = torch.tensor([[1.3, 1.3]])
    head = ScriptedHead(config, logits_of([[0.9, 0, 0], [0.8, 0, 0]]), torch.zeros(2, 3, 4))
    found = head.detect(features_of(0), [original * 1.3], torch.tensor([[128, 128]]), scale)[0]
    assert len(found.scores) == count
    torch.testing.assert_close(found.boxes_xyxy, original[:count])


@pytest.mark.parametrize("config", CONVENTIONS)
def test_boxes_come_back_in_original_pixels_inside_the_original_image(
    config: RoiHeadConfig,
) -> None:
    """1080 x 1920 resized to 405 x 720; the box leaves the image on all sides."""
    proposals = torch.tensor([[-10.0, -10.0, 800.0, 500.0]])
    head = ScriptedHead(config, logits_of([[0.9, 0, 0]]), torch.zeros(1, NUM_CLASSES, 4))
    size, scale = torch.tensor([[405, 720]]), torch.tensor([[720 / 1920, 405 / 1080]])
    features = features_of(0, extent=768)
    scaled = head.detect(features, [proposals], size, scale)[0]
    assert scaled.boxes_xyxy.tolist() == [[0, 0, 1920, 1080]]
    unscaled = head.detect(features, [proposals], size, None)[0]
    assert unscaled.boxes_xyxy.tolist() == [[0, 0, 720, 405]]


def test_images_of_a_batch_are_separate() -> None:
    proposals = [random_boxes(30, 2), random_boxes(0, 3), random_boxes(20, 4)]
    logits, deltas = random_outputs(50, 5)
    sizes = torch.tensor([[128, 128], [128, 128], [64, 90]])
    batch = ScriptedHead(MMDET, logits, deltas).detect(features_of(0, 3), proposals, sizes, None)
    assert len(batch[1].scores) == 0
    assert batch[1].boxes_xyxy.shape == (0, 4)
    for image, rows in ((0, slice(0, 30)), (2, slice(30, 50))):
        alone = ScriptedHead(MMDET, logits[rows], deltas[rows]).detect(
            features_of(0), [proposals[image]], sizes[image : image + 1], None
        )[0]
        for found, expected in zip(batch[image], alone, strict=True):
            assert torch.equal(found, expected)


def test_nothing_above_the_threshold_gives_empty_arrays() -> None:
    head = ScriptedHead(MMDET, logits_of([[0.01, 0, 0]]), torch.zeros(1, NUM_CLASSES, 4))
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    found = head.detect(features_of(0), [box], torch.tensor([[128, 128]]), None)[0]
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.scores.shape == found.class_indices.shape == (0,)


def slow_losses(
    head: RoiHead, features: list[Tensor], proposals: list[Tensor], targets: list[Target]
) -> dict[str, float]:
    """Losses over all proposals and true boxes, one by one."""
    beta = head.config.box_loss_beta
    class_sum, box_sum, count = 0.0, 0.0, 0
    for image, target in enumerate(targets):
        for box in torch.cat([proposals[image], target.boxes_xyxy]):
            levels = [level[image : image + 1] for level in features]
            logits, deltas = head(pool_rois(levels, [box[None]], head.pooling))
            overlaps = box_iou(box[None], target.boxes_xyxy)[0].tolist()
            best = max(overlaps, default=0.0)
            label = int(target.class_indices[overlaps.index(best)]) if best >= 0.5 else NUM_CLASSES
            class_sum += F.cross_entropy(logits, torch.tensor([label])).item()
            count += 1
            if label == NUM_CLASSES:
                continue
            matched = target.boxes_xyxy[overlaps.index(best)]
            goal = encode_boxes(box[None], matched[None], (0.1, 0.1, 0.2, 0.2))[0]
            for error in (deltas[0, label] - goal).abs().tolist():
                box_sum += 0.5 * error**2 / beta if error < beta else error - 0.5 * beta
    return {"cls": class_sum / count, "bbox": box_sum / count}


def trained_head(config: RoiHeadConfig) -> RoiHead:
    torch.manual_seed(3)
    head = RoiHead(CHANNELS, NUM_CLASSES, config, PoolingConfig())
    for layer in (head.class_logits, head.box_deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return head


@pytest.mark.parametrize("config", CONVENTIONS)
def test_losses_over_all_proposals_are_those_of_loops(config: RoiHeadConfig) -> None:
    everything = replace(config, sample_size=1000, positive_fraction=1.0, hidden_sizes=(16, 8))
    head, features = trained_head(everything), features_of(4, batch=2)
    boxes = random_boxes(5, 6)
    jittered = (
        boxes.repeat(6, 1) + torch.randn(30, 4, generator=torch.Generator().manual_seed(0)) * 3
    )
    proposals = [torch.cat([jittered, random_boxes(20, 7)]), random_boxes(15, 8)]
    targets = [target_of(boxes, [0, 1, 2, 1, 0]), target_of(torch.zeros(0, 4), [])]
    found = head.losses(features, proposals, targets, torch.Generator())
    with torch.no_grad():
        expected = slow_losses(head, features, proposals, targets)
    assert expected["bbox"] > 0.05
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        expected, rel=1e-4
    )


def test_the_default_is_plain_l1_and_the_older_loss_stays_a_field() -> None:
    assert MMDET.box_loss_beta == 0.0
    assert VIS4D.box_loss_beta == RoiHeadConfig(box_loss_beta=1.0).box_loss_beta == 1.0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(MMDET, 2, id="in front, a true box belongs to itself"),
        pytest.param(VIS4D, 1, id="behind, it is matched by overlap: the first of two equal ones"),
    ],
)
def test_two_equal_true_boxes_of_two_classes(config: RoiHeadConfig, expected: int) -> None:
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0]]).repeat(2, 1)
    head = trained_head(replace(config, hidden_sizes=(8,)))
    sample = head._sample(torch.zeros(0, 4), target_of(box, [0, 2]), torch.Generator())
    assert len(sample.class_indices.unique()) == expected


@pytest.mark.parametrize("config", CONVENTIONS)
def test_a_sample_has_its_quotas_and_positives_first(config: RoiHeadConfig) -> None:
    boxes = random_boxes(4, 9)
    near = boxes.repeat(100, 1) + torch.rand(400, 4, generator=torch.Generator().manual_seed(0))
    proposals = torch.cat([near, random_boxes(900, 10)])
    head = RoiHead(CHANNELS, NUM_CLASSES, config, PoolingConfig())
    sample = head._sample(proposals, target_of(boxes, [0, 1, 2, 0]), torch.Generator())
    positive = sample.class_indices < NUM_CLASSES
    assert len(sample.boxes_xyxy) == 512
    assert positive.tolist() == [True] * 128 + [False] * 384
    assert sample.deltas.shape == (128, 4)
    overlaps = box_iou(sample.boxes_xyxy, boxes).amax(dim=1)
    assert (overlaps[:128] >= 0.5).all()
    assert (overlaps[128:] < 0.5).all()


def test_true_boxes_stand_in_front_or_behind() -> None:
    boxes, proposals = random_boxes(2, 9), random_boxes(2, 9) + 1
    target = target_of(boxes, [0, 1])
    front = RoiHead(CHANNELS, NUM_CLASSES, MMDET, PoolingConfig())
    behind = RoiHead(CHANNELS, NUM_CLASSES, VIS4D, PoolingConfig())
    assert torch.equal(front._sample(proposals, target, torch.Generator()).boxes_xyxy[:2], boxes)
    assert torch.equal(behind._sample(proposals, target, torch.Generator()).boxes_xyxy[2:], boxes)


def test_without_proposals_and_true_boxes_the_loss_is_zero_and_keeps_the_graph() -> None:
    head, features = trained_head(replace(MMDET, hidden_sizes=(8,))), features_of(0)
    none = target_of(torch.zeros(0, 4), [])
    losses = head.losses(features, [torch.zeros(0, 4)], [none], torch.Generator())
    assert {name: value.item() for name, value in losses.items()} == {"cls": 0, "bbox": 0}
    sum(losses.values()).backward()
    assert all(value.grad is not None for value in head.parameters())


def test_pooled_features_are_flattened_by_channel_row_and_column() -> None:
    head = RoiHead(CHANNELS, NUM_CLASSES, replace(MMDET, hidden_sizes=(6,)), PoolingConfig())
    with torch.no_grad():
        head.hidden[0].weight.zero_()
        head.hidden[0].weight[0, 2 * 49 + 3 * 7 + 5] = 1.0
        head.class_logits.weight.fill_(1.0)
    pooled = torch.zeros(2, CHANNELS, 7, 7)
    pooled[0, 2, 3, 5] = 4.0
    logits, _ = head(pooled)
    assert logits.tolist() == [[4.0] * 4, [0.0] * 4]


def test_layers_start_as_published() -> None:
    torch.manual_seed(0)
    head = RoiHead(16, NUM_CLASSES, MMDET, PoolingConfig())
    assert head.class_logits.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert head.box_deltas.weight.std().item() == pytest.approx(0.001, rel=0.1)
    bound = (6 / (16 * 49 + 1024)) ** 0.5
    assert head.hidden[0].weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert [tuple(value.shape) for name, value in head.named_parameters() if "weight" in name] == [
        (1024, 16 * 49),
        (1024, 1024),
        (NUM_CLASSES + 1, 1024),
        (4 * NUM_CLASSES, 1024),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"hidden_sizes": ()}, "hidden_sizes is empty", id="no hidden layer"),
        pytest.param({"hidden_sizes": (0,)}, "hidden_sizes is 0", id="empty hidden layer"),
        pytest.param({"delta_stds": (0.1, 0.1)}, "delta_stds has 2 values", id="two deviations"),
        pytest.param({"delta_stds": (0.1, 0, 1, 1)}, "delta_stds is 0", id="no deviation"),
        pytest.param({"score_threshold": -0.1}, "score_threshold is -0.1", id="negative score"),
        pytest.param({"max_detections": 0}, "max_detections is 0", id="no detections"),
    ],
)
def test_impossible_configs_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoiHeadConfig(**values)
