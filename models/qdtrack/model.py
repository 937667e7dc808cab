"""QDTrack (Pang et al. 2021): a Faster R-CNN with an embedding head on the same features.

Legend: B images or pairs, H and W padded height and width, N boxes, D embedding width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.detectors.faster_rcnn import FasterRCNN
from models.detectors.roi_align import pool_rois
from models.detectors.targets import Target
from models.qdtrack.config import QDTrackConfig
from models.qdtrack.head import EmbeddingHead
from models.qdtrack.losses import embedding_losses
from models.qdtrack.sampling import SampledBoxes, match_identities, sample_boxes


class Detections(NamedTuple):
    """Detections of one image, best score first, with their embeddings."""

    boxes_xyxy: Tensor
    """float32, (N, 4), network-input pixels, or original pixels where scale factors were given."""
    scores: Tensor
    """float32, (N,), in [0, 1]."""
    class_indices: Tensor
    """int64, (N,), position in the config's `classes`."""
    embeddings: Tensor
    """float32, (N, D), not normalised."""


class PairBatch(NamedTuple):
    """Pairs of images to train on; key and reference of one pair have the same position."""

    key_images: Tensor
    """float32, (B, 3, H, W), normalised and padded."""
    key_sizes: Tensor
    """int64, (B, 2), heights and widths before padding."""
    key_targets: list[Target]
    """(B,) true boxes, what detection and embedding learn from."""
    reference_images: Tensor
    """float32, (B, 3, H', W'), may be padded to another size."""
    reference_sizes: Tensor
    """int64, (B, 2)."""
    reference_targets: list[Target]
    """(B,) true boxes, used by embedding learning only."""


class QDTrack(nn.Module):
    """Detects objects and embeds them so that dot products tell identities apart.

    Called as a function (which is what distributed training does) it gives the training losses of
    a `PairBatch`.
    """

    def __init__(self, config: QDTrackConfig) -> None:
        super().__init__()
        self.config = config
        self.detector = FasterRCNN(config.detector, len(config.classes))
        self.embedding_head = EmbeddingHead(
            config.embedding,
            in_channels=config.detector.pyramid_channels,
            pooled_size=config.detector.pooling.output_size,
        )

    def forward(
        self, batch: PairBatch, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """`training_losses` of a batch."""
        return self.training_losses(*batch, generator=generator)

    def training_losses(
        self,
        key_images: Tensor,
        key_sizes: Tensor,
        key_targets: Sequence[Target],
        reference_images: Tensor,
        reference_sizes: Tensor,
        reference_targets: Sequence[Target],
        *,
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Detection losses of the key images and embedding losses of the pairs.

        Both images give gradients through their features, but only key images are detected in:
        proposals of reference images are drawn with the settings of inference. Key and reference
        images go through the backbone one after the other, so that they may be padded to
        different sizes and batch statistics, if trained, are those of one kind of image.
        Every trained parameter takes part in every step, whatever boxes there are.

        Args:
            key_images: see `PairBatch`, like the next five.
            generator: draws every sample; on the CPU or on the model's device.

        Returns:
            Losses `rpn_cls`, `rpn_bbox`, `cls`, `bbox`, `track`, `track_aux`, scalars whose plain
            sum is to be minimised, and statistics: `positive_key_rois`, boxes of key images that
            were embedded, in all; `positives_per_pair`, mean number of (key box, reference box)
            combinations of one identity; `pairs_without_shared_identity`, pairs whose true boxes
            have no identity in common.
        """
        key_features = self.detector.extract_features(key_images)
        losses, key_proposals = self.detector.losses(
            key_features, key_sizes, key_targets, generator=generator
        )
        reference_features = self.detector.extract_features(reference_images)
        reference_proposals = self.detector.propose(
            reference_features, reference_sizes, training=False
        )
        keys = self._sample(key_proposals, key_targets, generator)
        references = self._sample(reference_proposals, reference_targets, generator)
        key_boxes = [key.boxes_xyxy[: key.num_positives] for key in keys]
        reference_boxes = [reference.boxes_xyxy for reference in references]
        # One pass of the head: its norms see one box at a time, so nothing is mixed.
        pooling = self.config.detector.pooling
        key_pooled = pool_rois(key_features, key_boxes, pooling)
        reference_pooled = pool_rois(reference_features, reference_boxes, pooling)
        embeddings = torch.split(
            self.embedding_head(torch.cat([key_pooled, reference_pooled])),
            [len(boxes) for boxes in (*key_boxes, *reference_boxes)],
        )
        matches = [match_identities(*pair) for pair in zip(keys, references, strict=True)]
        losses |= self._embedding_losses(embeddings[: len(keys)], embeddings[len(keys) :], matches)
        return losses, _statistics(matches, key_targets, reference_targets)

    @torch.no_grad()
    def detect(
        self, images: Tensor, image_sizes: Tensor, scale_factors: Tensor | None = None
    ) -> list[Detections]:
        """Detect objects and embed them, in evaluation mode whatever mode the model is in.

        Embeddings are read from the final boxes on the features of detection: the image passes
        the backbone once.

        Args:
            images: float32, (B, 3, H, W), as `normalise_batch` gives them.
            image_sizes: int64, (B, 2), heights and widths before padding.
            scale_factors: float, (B, 2), network-input pixels per original pixel, x then y. Boxes
                are then in original pixels, and so is suppression where the config says so.

        Returns:
            One per image; an image without detections has empty arrays.
        """
        with _evaluation_mode(self):
            features = self.detector.extract_features(images)
            proposals = self.detector.propose(features, image_sizes, training=False)
            detected = self.detector.detect(
                features, proposals, image_sizes, scale_factors=scale_factors
            )
            boxes = [found.boxes_xyxy for found in detected]
            if scale_factors is not None:
                scales = scale_factors.to(images).repeat(1, 2)
                boxes = [one * scale for one, scale in zip(boxes, scales, strict=True)]
            embeddings = self._embed(features, boxes)
        return [
            Detections(*found, embeddings=embedded)
            for found, embedded in zip(detected, embeddings, strict=True)
        ]

    @torch.no_grad()
    def embed(self, images: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Embed given boxes, in evaluation mode whatever mode the model is in.

        Args:
            images: float32, (B, 3, H, W), as `normalise_batch` gives them.
            boxes: per image (N, 4) corners in network-input pixels; N may be 0.

        Returns:
            Per image float32 (N, D), rows as the boxes.

        Raises:
            ValueError: not one array of boxes per image.
        """
        if len(boxes) != len(images):
            raise ValueError(
                f"found boxes of {len(boxes)} images and {len(images)} images, expected as many"
            )
        with _evaluation_mode(self):
            return self._embed(self.detector.extract_features(images), boxes)

    def _embed(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        pooled = pool_rois(features, boxes, self.config.detector.pooling)
        embeddings: Tensor = self.embedding_head(pooled).float()
        return list(torch.split(embeddings, [len(one) for one in boxes]))

    def _sample(
        self, proposals: Sequence[Tensor], targets: Sequence[Target], generator: torch.Generator
    ) -> list[SampledBoxes]:
        return [
            sample_boxes(*pair, self.config.quasi_dense, generator=generator)
            for pair in zip(proposals, targets, strict=True)
        ]

    def _embedding_losses(
        self, keys: Sequence[Tensor], references: Sequence[Tensor], matches: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Means over all pairs: one without a match adds 0 and is counted."""
        pairs = [
            embedding_losses(*pair, self.config.quasi_dense)
            for pair in zip(keys, references, matches, strict=True)
        ]
        contrastive, auxiliary = zip(*pairs, strict=True)
        return {
            "track": torch.stack(contrastive).mean(),
            "track_aux": torch.stack(auxiliary).mean(),
        }


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _statistics(
    matches: Sequence[Tensor], key_targets: Sequence[Target], reference_targets: Sequence[Target]
) -> dict[str, float]:
    shared = [
        torch.isin(key.identities, reference.identities).any()
        for key, reference in zip(key_targets, reference_targets, strict=True)
    ]
    num_matches = torch.stack([matched.sum() for matched in matches])
    return {
        "positive_key_rois": float(sum(len(matched) for matched in matches)),
        "positives_per_pair": float(num_matches.sum()) / len(matches),
        "pairs_without_shared_identity": float((~torch.stack(shared)).sum()),
    }
