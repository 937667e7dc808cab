"""Faster R-CNN (Ren et al. 2015) on a feature pyramid, in the conventions of `FasterRCNNConfig`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbones.resnet import ResNet
from models.detectors.config import FasterRCNNConfig
from models.detectors.pyramid import FeaturePyramid
from models.detectors.roi_head import RoiHead
from models.detectors.rpn import RegionProposalNetwork
from models.detectors.targets import DetectedBoxes, Target


class FasterRCNN(nn.Module):
    """A two-stage detector whose features, proposals and detections are separate steps.

    Images of a batch may differ in size: each is padded on the right and at the bottom, and
    proposals and detections are clipped to the image without its padding. Features near those two
    edges depend on how far the padding goes, because convolutions with biases and norms fill the
    padding with values of their own, here as in the published releases. Images of one size
    therefore give the same detections alone and in a batch; an image that was padded further than
    it would be alone may differ near its right and bottom edges.
    """

    def __init__(self, config: FasterRCNNConfig, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}, expected at least 1")
        self.config = config
        self.num_classes = num_classes
        self.backbone = ResNet(config.backbone)
        self.pyramid = FeaturePyramid(self.backbone.out_channels, config.pyramid_channels)
        self.rpn = RegionProposalNetwork(config.pyramid_channels, config.rpn)
        self.roi_head = RoiHead(
            config.pyramid_channels, num_classes, config.roi_head, config.pooling
        )

    def extract_features(self, images: Tensor) -> list[Tensor]:
        """Pyramid levels P2 to P6, (B, channels, H / stride, W / stride), strides 4 to 64.

        Args:
            images: (B, 3, H, W) float, normalised and padded.
        """
        features: list[Tensor] = self.pyramid(self.backbone(images))
        return features

    @torch.no_grad()
    def propose(
        self, features: Sequence[Tensor], image_sizes: Tensor, *, training: bool
    ) -> list[Tensor]:
        """Class-agnostic proposals of each image, best first, without gradient.

        Args:
            features: of `extract_features`.
            image_sizes: (B, 2) height and width of each image without padding.
            training: use the larger number of candidates of a training image; the reference
                image of a training pair is proposed for as at inference.

        Returns:
            Per image (n, 4) corners in network-input pixels, inside the image.
        """
        return self.rpn.propose(self.rpn(features), image_sizes, training=training)

    def losses(
        self,
        features: Sequence[Tensor],
        image_sizes: Tensor,
        targets: Sequence[Target],
        *,
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Losses of both stages on a batch, and the proposals that the second stage sampled from.

        Args:
            features: of `extract_features`.
            image_sizes: (B, 2) height and width of each image without padding.
            targets: one per image; an image without boxes has only background to learn.
            generator: draws the samples; on the CPU or on the model's device.

        Returns:
            Scalars `rpn_cls`, `rpn_bbox`, `cls`, `bbox`, and per image the (n, 4) proposals,
            detached, without the true boxes.

        Raises:
            ValueError: not one target per image.
        """
        if len(targets) != len(image_sizes):
            raise ValueError(
                f"found {len(targets)} targets for {len(image_sizes)} images, expected one each"
            )
        output = self.rpn(features)
        proposals = self.rpn.propose(output, image_sizes, training=True)
        losses = self.rpn.losses(output, image_sizes, targets, generator)
        losses |= self.roi_head.losses(features, proposals, targets, generator)
        return losses, proposals

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Tensor,
        *,
        scale_factors: Tensor | None = None,
    ) -> list[DetectedBoxes]:
        """Detections of each image, by descending score.

        Args:
            features: of `extract_features`.
            proposals: of `propose`.
            image_sizes: (B, 2) height and width of each image without padding.
            scale_factors: (B, 2) network-input pixels per original pixel, x then y.

        Returns:
            Per image at most `max_detections` boxes, in original pixels if `scale_factors` is
            given (suppression then happens there too, where the configuration says so), else in
            network-input pixels.
        """
        return self.roi_head.detect(features, proposals, image_sizes, scale_factors)
