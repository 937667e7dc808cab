"""Second stage of Faster R-CNN: classify proposals, refine their boxes, suppress duplicates.

Legend: R proposals of all images, C classes; the background is class C, the last.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

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
from models.detectors.config import PoolingConfig, RoiHeadConfig
from models.detectors.roi_align import pool_rois
from models.detectors.targets import DetectedBoxes, Target


class RoiSample(NamedTuple):
    """Proposals of one image chosen for training, positives first."""

    boxes_xyxy: Tensor
    """(n, 4) network-input pixels."""
    class_indices: Tensor
    """int64, (n,), the number of classes for background."""
    deltas: Tensor
    """(p, 4) regression targets of the p positives."""


class RoiHead(nn.Module):
    """Fully connected layers over pooled features, then C + 1 class scores and C boxes."""

    def __init__(
        self, channels: int, num_classes: int, config: RoiHeadConfig, pooling: PoolingConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.pooling = pooling
        self.num_classes = num_classes
        sizes = (channels * pooling.output_size**2, *config.hidden_sizes)
        self.hidden = nn.ModuleList(
            nn.Linear(size, next_size) for size, next_size in pairwise(sizes)
        )
        self.class_logits = nn.Linear(sizes[-1], num_classes + 1)
        self.box_deltas = nn.Linear(sizes[-1], 4 * num_classes)
        self._initialise()

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, C + 1), background last, and deltas (R, C, 4) of the classes.

        Args:
            pooled: (R, channels, S, S), flattened in this order: channel, row, column.
        """
        values = pooled.flatten(1)
        for layer in self.hidden:
            values = F.relu(layer(values))
        logits = full_precision(self.class_logits(values))
        deltas = full_precision(self.box_deltas(values))
        return logits, deltas.reshape(-1, self.num_classes, 4)

    def losses(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Cross entropy of the sampled proposals and (smooth) L1 of the positives' own class.

        Both are divided by the number of sampled proposals of the whole batch.

        Returns:
            Scalars `cls` and `bbox`.
        """
        samples = [
            self._sample(boxes, target, generator)
            for boxes, target in zip(proposals, targets, strict=True)
        ]
        labels = torch.cat([sample.class_indices for sample in samples])
        logits, deltas = self(
            pool_rois(features, [sample.boxes_xyxy for sample in samples], self.pooling)
        )
        divisor = max(len(labels), 1)
        positive = torch.nonzero(labels < self.num_classes).flatten()
        box_loss = F.smooth_l1_loss(
            deltas[positive, labels[positive]],
            torch.cat([sample.deltas for sample in samples]),
            reduction="sum",
            beta=self.config.box_loss_beta,
        )
        class_loss = F.cross_entropy(logits, labels, reduction="sum")
        return {"cls": class_loss / divisor, "bbox": box_loss / divisor}

    def detect(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Tensor,
        scale_factors: Tensor | None,
    ) -> list[DetectedBoxes]:
        """Detections of each image; see `FasterRCNN.detect`."""
        logits, deltas = self(pool_rois(features, proposals, self.pooling))
        counts = [len(boxes) for boxes in proposals]
        scores = logits.softmax(dim=1)[:, :-1].split(counts)
        return [
            self._detect_image(
                boxes,
                image_scores,
                image_deltas,
                image_sizes[image],
                None if scale_factors is None else scale_factors[image],
            )
            for image, (boxes, image_scores, image_deltas) in enumerate(
                zip(proposals, scores, deltas.split(counts), strict=True)
            )
        ]

    def _sample(self, proposals: Tensor, target: Target, generator: torch.Generator) -> RoiSample:
        truth = target.boxes_xyxy.to(proposals)
        boxes = torch.cat([truth, proposals] if self.config.truth_first else [proposals, truth])
        assignment = assign_max_iou(
            boxes,
            truth,
            positive_iou=self.config.matching_iou,
            negative_iou=self.config.matching_iou,
        )
        if self.config.truth_first:
            # By overlap the second of two equal true boxes would learn the class of the first.
            own = torch.arange(len(truth), device=truth.device)
            assignment.truth_index[: len(truth)] = own
        positive, negative = sample_random(
            assignment,
            size=self.config.sample_size,
            positive_fraction=self.config.positive_fraction,
            generator=generator,
        )
        matched = assignment.truth_index[positive]
        background = torch.full_like(negative, self.num_classes)
        return RoiSample(
            boxes_xyxy=boxes[torch.cat([positive, negative])],
            class_indices=torch.cat([target.class_indices[matched], background]),
            deltas=encode_boxes(boxes[positive], truth[matched], self.config.delta_stds),
        )

    def _detect_image(
        self,
        proposals: Tensor,
        scores: Tensor,
        deltas: Tensor,
        image_size: Tensor,
        scale_factor: Tensor | None,
    ) -> DetectedBoxes:
        rows, classes = torch.nonzero(scores > self.config.score_threshold).unbind(dim=1)
        boxes = decode_boxes(proposals[rows], deltas[rows, classes], self.config.delta_stds)
        boxes = clip_boxes(boxes, image_size)
        if scale_factor is not None and self.config.nms_in_original_pixels:
            boxes = boxes / scale_factor.to(boxes).repeat(2)
        kept = suppress(
            boxes,
            scores[rows, classes],
            classes,
            iou_threshold=self.config.nms_iou,
            offset_groups=self.config.offset_classes,
        )[: self.config.max_detections]
        boxes = boxes[kept]
        if scale_factor is not None and not self.config.nms_in_original_pixels:
            original_size = (image_size / scale_factor.flip(0)).round()
            boxes = clip_boxes(boxes / scale_factor.to(boxes).repeat(2), original_size)
        return DetectedBoxes(boxes, scores[rows[kept], classes[kept]], classes[kept])

    def _initialise(self) -> None:
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer, std in ((self.class_logits, 0.01), (self.box_deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
