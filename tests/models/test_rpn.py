"""Proposals and losses of the first stage against loops, and its conventions one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.boxes import box_iou, clip_boxes, decode_boxes, encode_boxes
from models.detectors.anchors import STRIDES, level_anchors
from models.detectors.config import FasterRCNNConfig, RpnConfig
from models.detectors.rpn import RegionProposalNetwork, RpnOutput
from models.detectors.targets import Target

MMDET, VIS4D = RpnConfig(), FasterRCNNConfig.vis4d().rpn
CONVENTIONS = [pytest.param(MMDET, id="mmdet"), pytest.param(VIS4D, id="vis4d")]


def random_output(height: int, width: int, seed: int, batch: int = 1) -> RpnOutput:
    """Random objectness and deltas for an image padded to height x width."""
    draw = torch.Generator().manual_seed(seed)
    output = RpnOutput([], [], [])
    for stride in STRIDES:
        rows, columns = -(-height // stride), -(-width // stride)
        anchors = level_anchors(rows, columns, stride, scale=8.0, aspect_ratios=(0.5, 1.0, 2.0))
        output.anchors.append(anchors)
        output.logits.append(torch.randn(batch, len(anchors), generator=draw) * 2)
        output.deltas.append(torch.randn(batch, len(anchors), 4, generator=draw) * 0.5)
    return output


def target_of(boxes: list[list[float]]) -> Target:
    count = len(boxes)
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count),
    )


def slow_proposals(
    output: RpnOutput, size: Tensor, config: RpnConfig, candidates: int
) -> list[list[float]]:
    """The published recipe as loops over levels and boxes, without shifting of levels."""
    survivors: list[tuple[float, list[float]]] = []
    for logits, deltas, anchors in zip(*output, strict=True):
        scores = logits[0].sigmoid().tolist()
        order = sorted(range(len(scores)), key=lambda row: -scores[row])[:candidates]
        kept: list[Tensor] = []
        for row in order:
            box = clip_boxes(decode_boxes(anchors[row], deltas[0, row]), size)
            flat = box[2] <= box[0] or box[3] <= box[1]
            if flat and config.drop_flat_proposals:
                continue
            if kept and box_iou(box[None], torch.stack(kept)).max() > config.nms_iou:
                continue
            kept.append(box)
            survivors.append((scores[row], box.tolist()))
    survivors.sort(key=lambda pair: -pair[0])
    return [box for _, box in survivors[: config.max_proposals]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("config", CONVENTIONS)
def test_proposals_are_those_of_loops(config: RpnConfig, training: bool) -> None:
    config = replace(
        config, candidates_per_level_train=70, candidates_per_level_test=40, max_proposals=50
    )
    output, size = random_output(96, 128, seed=3), torch.tensor([90, 120])
    found = RegionProposalNetwork(4, config).propose(output, size[None], training=training)
    expected = slow_proposals(output, size, config, 70 if training else 40)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("config", CONVENTIONS)
def test_a_thousand_proposals_over_all_levels_and_not_per_level(config: RpnConfig) -> None:
    output = random_output(736, 1280, seed=0)
    draw = torch.Generator().manual_seed(1)
    total = sum(logits.shape[1] for logits in output.logits)
    # Distinct also after the sigmoid, so that the order is certain.
    spread = torch.linspace(-3, 3, total)[torch.randperm(total, generator=draw)]
    output = output._replace(
        logits=list(spread[None].split([one.shape[1] for one in output.logits], dim=1))
    )
    network = RegionProposalNetwork(4, replace(config, nms_iou=1.0))
    found = network.propose(output, torch.tensor([[720, 1280]]), training=False)
    assert found[0].shape == (1000, 4)
    best = torch.cat([logits[0] for logits in output.logits]).topk(1000).values
    # No level has all of the thousand best, so the limit of candidates per level plays no part ...
    assert max(int((logits >= best[-1]).sum()) for logits in output.logits) < 1000
    # ... and, nothing being suppressed, they are exactly what is kept.
    scores = torch.cat([logits[0] for logits in output.logits])
    anchors, deltas = torch.cat(output.anchors), torch.cat([d[0] for d in output.deltas])
    rows = scores.topk(1000).indices
    expected = clip_boxes(decode_boxes(anchors[rows], deltas[rows]), torch.tensor([720, 1280]))
    solid = ((expected[:, 2:] - expected[:, :2]) > 0).all(dim=1)
    num_solid = int(solid.sum())
    assert num_solid > 900
    if not config.drop_flat_proposals:
        torch.testing.assert_close(found[0], expected)
    else:
        torch.testing.assert_close(found[0][:num_solid], expected[solid])


def test_a_level_gives_at_most_its_candidates() -> None:
    output = random_output(96, 128, seed=1)
    output.logits[0] += 20  # the finest level has all the best scores
    config = replace(VIS4D, candidates_per_level_train=9, candidates_per_level_test=4, nms_iou=1.0)
    network = RegionProposalNetwork(4, config)
    for training, per_level in ((True, 9), (False, 4)):
        found = network.propose(output, torch.tensor([[96, 128]]), training=training)[0]
        assert len(found) == sum(min(per_level, level.shape[1]) for level in output.logits)


def test_levels_do_not_suppress_each_other() -> None:
    """Two equal boxes of two levels both survive; two of one level do not."""
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    anchors = [box.repeat(2, 1), box, box[:0], box[:0], box[:0]]
    logits = [torch.linspace(2, 1, len(one))[None] for one in anchors]
    output = RpnOutput(logits, [torch.zeros(1, len(one), 4) for one in anchors], anchors)
    for config in (MMDET, VIS4D):
        found = RegionProposalNetwork(4, config).propose(
            output, torch.tensor([[64, 64]]), training=False
        )
        assert found[0].tolist() == box.repeat(2, 1).tolist()


@pytest.mark.parametrize(
    ("config", "expected"),
    [pytest.param(MMDET, 1, id="mmdet drops them"), pytest.param(VIS4D, 3, id="vis4d keeps them")],
)
def test_proposals_without_width_or_height(config: RpnConfig, expected: int) -> None:
    """Boxes right of and below the image are clipped to a line."""
    anchors = torch.tensor([[70.0, 0.0, 90, 20], [0, 70, 20, 90], [5, 5, 30, 30]])
    none = torch.zeros(0, 4)
    levels = [anchors, none, none, none, none]
    output = RpnOutput(
        [torch.zeros(1, len(one)) for one in levels],
        [torch.zeros(1, len(one), 4) for one in levels],
        levels,
    )
    network = RegionProposalNetwork(4, config)
    found = network.propose(output, torch.tensor([[64, 64]]), training=False)[0]
    assert len(found) == expected
    assert found.max() <= 64


def test_images_of_a_batch_are_clipped_to_their_own_size() -> None:
    output = random_output(96, 128, seed=5, batch=2)
    sizes = torch.tensor([[96, 128], [40, 70]])
    both = RegionProposalNetwork(4, MMDET).propose(output, sizes, training=False)
    assert both[0][:, 2].max() > 70
    assert both[1][:, 2].max() <= 70
    assert both[1][:, 3].max() <= 40
    for image in range(2):
        alone = RpnOutput(
            [logits[image : image + 1] for logits in output.logits],
            [deltas[image : image + 1] for deltas in output.deltas],
            output.anchors,
        )
        found = RegionProposalNetwork(4, MMDET).propose(
            alone, sizes[image : image + 1], training=False
        )
        assert torch.equal(found[0], both[image])


def test_channels_are_flattened_by_row_column_and_anchor() -> None:
    """The three objectness channels of a cell are neighbours, and so are a box's four deltas."""
    network = RegionProposalNetwork(2, MMDET)
    with torch.no_grad():
        network.hidden.weight.zero_()
        network.hidden.weight[0, 0, 1, 1] = 1.0  # passes channel 0 through
        network.hidden.bias.zero_()
        network.objectness.weight.zero_()
        network.objectness.weight[:, 0, 0, 0] = torch.tensor([1.0, 10.0, 100.0])
        network.box_deltas.weight.zero_()
        network.box_deltas.weight[:, 0, 0, 0] = torch.arange(12.0)
    features = [torch.zeros(1, 2, 4 * 16 // stride + 1, 2) for stride in (4, 8, 16, 32, 64)]
    features[0] = torch.zeros(1, 2, 2, 3)
    features[0][0, 0] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    output = network(features)
    expected = [factor * cell for cell in range(1, 7) for factor in (1.0, 10.0, 100.0)]
    assert output.logits[0][0].tolist() == expected
    assert output.deltas[0][0, 4].tolist() == [2 * value for value in (4.0, 5.0, 6.0, 7.0)]
    assert len(output.anchors[0]) == 18
    centre = (output.anchors[0][3 * 4, :2] + output.anchors[0][3 * 4, 2:]) / 2
    assert centre.tolist() == [4.0, 4.0]  # row 1, column 1


def test_anchors_lie_nominal_strides_apart_on_levels_of_rounded_size() -> None:
    """Height 736 has 12 rows of stride 64, width 1270 has 20 columns: not 736 / 12 apart."""
    network = RegionProposalNetwork(2, MMDET)
    sizes = [(184, 318), (92, 159), (46, 80), (23, 40), (12, 20)]
    output = network([torch.zeros(1, 2, *size) for size in sizes])
    for anchors, (rows, columns), stride in zip(output.anchors, sizes, STRIDES, strict=True):
        last = anchors[-2]  # the square of the last cell
        centre = [(last[0] + last[2]) / 2, (last[1] + last[3]) / 2]
        assert centre == [stride * (columns - 1), stride * (rows - 1)]


def slow_losses(
    output: RpnOutput, sizes: Tensor, targets: list[Target], config: RpnConfig
) -> dict[str, float]:
    """Losses over all anchors that are not ignored, as loops."""
    anchors = torch.cat(output.anchors)
    logits, deltas = torch.cat(output.logits, dim=1), torch.cat(output.deltas, dim=1)
    class_sum, box_sum, count = 0.0, 0.0, 0
    for image, target in enumerate(targets):
        height, width = sizes[image].tolist()
        iou = box_iou(anchors, target.boxes_xyxy)
        usable = [
            not config.anchors_inside_only
            or bool(box[0] >= 0 and box[1] >= 0 and box[2] < width and box[3] < height)
            for box in anchors
        ]
        best = iou[torch.tensor(usable)].amax(dim=0).tolist()
        for row, anchor in enumerate(anchors):
            if not usable[row]:
                continue
            overlaps = iou[row].tolist()
            own = overlaps.index(max(overlaps))
            claims = [i for i, v in enumerate(overlaps) if best[i] >= 0.3 and v == best[i]]
            matched = own if max(overlaps) >= 0.7 or claims else None
            if claims and not config.low_quality_keeps_own:
                matched = claims[-1]
            if matched is None and max(overlaps) >= 0.3:
                continue
            count += 1
            label = torch.tensor(float(matched is not None))
            class_sum += F.binary_cross_entropy_with_logits(logits[image, row], label).item()
            if matched is not None:
                goal = encode_boxes(anchor[None], target.boxes_xyxy[matched][None])[0]
                for error in (deltas[image, row] - goal).abs().tolist():
                    beta = 1 / 9
                    box_sum += 0.5 * error**2 / beta if error < beta else error - 0.5 * beta
    return {"rpn_cls": class_sum / count, "rpn_bbox": box_sum / count}


@pytest.mark.parametrize("config", CONVENTIONS)
def test_losses_over_all_anchors_are_those_of_loops(config: RpnConfig) -> None:
    output = random_output(96, 128, seed=7, batch=2)
    sizes = torch.tensor([[90, 120], [96, 128]])
    targets = [
        target_of([[5, 5, 37, 37], [8, 8, 34, 30], [60, 10, 118, 88]]),
        target_of([[20, 30, 60, 50]]),
    ]
    everything = replace(config, sample_size=100_000, positive_fraction=1.0)
    found = RegionProposalNetwork(4, everything).losses(
        output, sizes, targets, torch.Generator().manual_seed(0)
    )
    expected = slow_losses(output, sizes, targets, config)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        expected, rel=1e-4
    )


def test_conventions_train_on_different_anchors() -> None:
    """The two numbers of the test above must not be equal by chance of its boxes."""
    output, sizes = random_output(96, 128, seed=7), torch.tensor([[90, 120]])
    targets = [target_of([[5, 5, 37, 37], [8, 8, 34, 30], [60, 10, 118, 88]])]
    variants = [
        MMDET,
        replace(MMDET, anchors_inside_only=True),
        replace(MMDET, low_quality_keeps_own=True),
    ]
    values = {slow_losses(output, sizes, targets, config)["rpn_bbox"] for config in variants}
    assert len(values) == 3


def test_samples_are_bounded_and_losses_divided_by_their_number_over_the_batch() -> None:
    """With all logits 0 each sampled anchor costs ln 2: the mean is ln 2 for any sample."""
    output = random_output(96, 128, seed=7, batch=2)
    for logits in output.logits:
        logits.zero_().requires_grad_()
    network = RegionProposalNetwork(4, MMDET)
    targets = [target_of([[5, 5, 40, 40]]), target_of([])]
    losses = network.losses(
        output, torch.tensor([[96, 128]] * 2), targets, torch.Generator().manual_seed(0)
    )
    assert losses["rpn_cls"].item() == pytest.approx(np.log(2), rel=1e-5)
    losses["rpn_cls"].backward()
    gradients = torch.cat([logits.grad for logits in output.logits], dim=1)
    assert [int((row != 0).sum()) for row in gradients] == [256, 256]
    # Sigmoid(0) = 1/2, and each of the 512 samples has a share of 1/512.
    assert gradients.abs().max().item() == pytest.approx(0.5 / 512, rel=1e-5)


def test_an_image_without_a_usable_anchor_costs_nothing_and_keeps_the_graph() -> None:
    output = random_output(16, 16, seed=0)
    for values in (*output.logits, *output.deltas):
        values.requires_grad_()
    losses = RegionProposalNetwork(4, VIS4D).losses(
        output, torch.tensor([[16, 16]]), [target_of([[1, 1, 9, 9]])], torch.Generator()
    )
    assert {name: value.item() for name, value in losses.items()} == {"rpn_cls": 0, "rpn_bbox": 0}
    sum(losses.values()).backward()
    assert all(values.grad is not None for values in output.logits)


def test_sampling_depends_on_the_generator_alone() -> None:
    output = random_output(96, 128, seed=7)
    sizes, targets = torch.tensor([[96, 128]]), [target_of([[5, 5, 40, 40]])]
    network = RegionProposalNetwork(4, MMDET)
    values = []
    for seed, noise in ((1, 1), (1, 2), (2, 1)):
        torch.manual_seed(noise)
        generator = torch.Generator().manual_seed(seed)
        values.append(network.losses(output, sizes, targets, generator)["rpn_cls"].item())
    assert values[0] == values[1] != values[2]


def test_layers_start_small() -> None:
    torch.manual_seed(0)
    network = RegionProposalNetwork(64, MMDET)
    for layer in (network.hidden, network.objectness, network.box_deltas):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.2)
        assert (layer.bias == 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"aspect_ratios": ()}, "aspect_ratios is empty", id="no anchors"),
        pytest.param({"max_proposals": 0}, "max_proposals is 0", id="no proposals"),
        pytest.param({"nms_iou": 1.5}, "nms_iou is 1.5", id="overlap above 1"),
        pytest.param({"negative_iou": 0.8}, "negative_iou is 0.8", id="thresholds crossed"),
        pytest.param({"box_loss_beta": -1.0}, "box_loss_beta is -1.0", id="negative beta"),
        pytest.param({"anchor_scale": 0.0}, "anchor_scale is 0.0", id="no size"),
    ],
)
def test_impossible_configs_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RpnConfig(**values)
