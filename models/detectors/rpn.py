"""Region proposal network (Faster R-CNN, section 3.1) on every level of a pyramid.

Legend: B images, A anchors of all levels together, A_l of one level, K candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.boxes import (
    assign_max_iou,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    full_precision,
    sample_random,
    suppress,
)
from models.detectors.anchors import STRIDES, level_anchors
from models.detectors.config import RpnConfig
from models.detectors.targets import Target


class RpnOutput(NamedTuple):
    """What the network says of every anchor, one entry per level."""

    logits: list[Tensor]
    """(B, A_l) objectness before the sigmoid."""
    deltas: list[Tensor]
    """(B, A_l, 4) dx, dy, dw, dh."""
    anchors: list[Tensor]
    """(A_l, 4) network-input pixels; rows run over rows, columns, aspect ratios of the level."""


class RegionProposalNetwork(nn.Module):
    """One 3x3 convolution, then objectness and deltas of each anchor, shared by all levels."""

    def __init__(self, channels: int, config: RpnConfig) -> None:
        super().__init__()
        self.config = config
        num_anchors = len(config.aspect_ratios)
        self.hidden = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.box_deltas = nn.Conv2d(channels, 4 * num_anchors, 1)
        for layer in (self.hidden, self.objectness, self.box_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, features: Sequence[Tensor]) -> RpnOutput:
        """Objectness and deltas of all anchors, for (B, C, H_l, W_l) levels of stride 4 to 64."""
        output = RpnOutput([], [], [])
        for level, stride in zip(features, STRIDES, strict=True):
            hidden = F.relu(self.hidden(level))
            logits = full_precision(self.objectness(hidden)).permute(0, 2, 3, 1)
            deltas = full_precision(self.box_deltas(hidden)).permute(0, 2, 3, 1)
            anchors = level_anchors(
                level.shape[2],
                level.shape[3],
                stride,
                scale=self.config.anchor_scale,
                aspect_ratios=self.config.aspect_ratios,
                device=level.device,
            )
            output.logits.append(logits.reshape(len(logits), -1))
            output.deltas.append(deltas.reshape(len(deltas), -1, 4))
            output.anchors.append(anchors.to(deltas.dtype))
        return output

    @torch.no_grad()
    def propose(self, output: RpnOutput, image_sizes: Tensor, *, training: bool) -> list[Tensor]:
        """Proposals of each image, best first, clipped to the image without its padding.

        At most `max_proposals` per image over all levels together, after suppression within each
        level; not that many per level.

        Args:
            output: of `forward`.
            image_sizes: (B, 2) height and width without padding.
            training: take as many candidates per level as a training image does.

        Returns:
            Per image (n, 4), network-input pixels.
        """
        boxes, scores, levels = self._candidates(output, image_sizes, training)
        proposals = []
        for image_boxes, image_scores in zip(boxes, scores, strict=True):
            image_levels = levels
            if self.config.drop_flat_proposals:
                sides = image_boxes[:, 2:] - image_boxes[:, :2]
                solid = (sides > 0).all(dim=1)
                image_boxes, image_scores = image_boxes[solid], image_scores[solid]
                image_levels = levels[solid]
            kept = suppress(
                image_boxes,
                image_scores,
                image_levels,
                iou_threshold=self.config.nms_iou,
                offset_groups=self.config.offset_levels,
            )
            proposals.append(image_boxes[kept[: self.config.max_proposals]])
        return proposals

    def losses(
        self,
        output: RpnOutput,
        image_sizes: Tensor,
        targets: Sequence[Target],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Binary cross entropy of objectness and smooth L1 of the positives' deltas.

        Both are divided by the number of sampled anchors of the whole batch, negatives included.

        Returns:
            Scalars `rpn_cls` and `rpn_bbox`.
        """
        logits = torch.cat(output.logits, dim=1)
        deltas = torch.cat(output.deltas, dim=1)
        anchors = torch.cat(output.anchors)
        class_loss = logits.sum() * 0  # keeps the graph where an image has no anchor to train on
        box_loss = deltas.sum() * 0
        num_sampled = 0
        for image, target in enumerate(targets):
            rows = self._trained_anchors(anchors, image_sizes[image])
            assignment = assign_max_iou(
                anchors[rows],
                target.boxes_xyxy,
                positive_iou=self.config.positive_iou,
                negative_iou=self.config.negative_iou,
                low_quality_iou=self.config.low_quality_iou,
                low_quality_keeps_own=self.config.low_quality_keeps_own,
            )
            sample = sample_random(
                assignment,
                size=self.config.sample_size,
                positive_fraction=self.config.positive_fraction,
                generator=generator,
            )
            positive, negative = rows[sample.positive], rows[sample.negative]
            sampled_logits = logits[image, torch.cat([positive, negative])]
            labels = torch.zeros_like(sampled_logits)
            labels[: len(positive)] = 1
            class_loss = class_loss + F.binary_cross_entropy_with_logits(
                sampled_logits, labels, reduction="sum"
            )
            matched = target.boxes_xyxy[assignment.truth_index[sample.positive]]
            box_loss = box_loss + F.smooth_l1_loss(
                deltas[image, positive],
                encode_boxes(anchors[positive], matched),
                reduction="sum",
                beta=self.config.box_loss_beta,
            )
            num_sampled += len(sampled_logits)
        divisor = max(num_sampled, 1)
        return {"rpn_cls": class_loss / divisor, "rpn_bbox": box_loss / divisor}

    def _candidates(
        self, output: RpnOutput, image_sizes: Tensor, training: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, K, 4), scores (B, K) and level (K,) of the best anchors of each level."""
        limit = (
            self.config.candidates_per_level_train
            if training
            else self.config.candidates_per_level_test
        )
        boxes, scores, levels = [], [], []
        for level, (logits, deltas, anchors) in enumerate(zip(*output, strict=True)):
            count = min(limit, logits.shape[1])
            level_scores, rows = logits.sigmoid().topk(count, dim=1)
            level_deltas = deltas.gather(1, rows[:, :, None].expand(-1, -1, 4))
            level_boxes = decode_boxes(anchors[rows], level_deltas)
            boxes.append(clip_boxes(level_boxes, image_sizes[:, None]))
            scores.append(level_scores)
            levels.append(torch.full((count,), level, device=logits.device))
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(levels)

    def _trained_anchors(self, anchors: Tensor, image_size: Tensor) -> Tensor:
        if not self.config.anchors_inside_only:
            return torch.arange(len(anchors), device=anchors.device)
        height, width = image_size.to(anchors)
        inside = (
            (anchors[:, 0] >= 0)
            & (anchors[:, 1] >= 0)
            & (anchors[:, 2] < width)
            & (anchors[:, 3] < height)
        )
        return torch.nonzero(inside).flatten()
