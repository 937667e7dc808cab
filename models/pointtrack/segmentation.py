"""SpatialEmbedding: instances of one class from one image (Neven et al. 2019, on ERFNet).

The network gives every pixel an offset towards the centre of its object, a bandwidth and a seed
score; `models.pointtrack.clustering` makes instances of them. This is the variant that PointTrack
uses: a bandwidth for each axis and one class for each network. Encoder and decoders are those of
BranchedERFNet, with the five channels from two decoders.

Legend: B images, H and W their height and width.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.pointtrack.config import STRIDE, SpatialEmbeddingConfig

NUM_CHANNELS: Final = 5
"""Of the output: offset x, offset y, sigma x, sigma y, seed."""

_NORM_EPSILON: Final = 1e-3
_FIRST_DROPOUT, _SECOND_DROPOUT = 0.03, 0.3
_DILATIONS: Final = (2, 4, 8, 16, 2, 4, 8, 16)
_INITIAL_BIAS: Final = (0.0, 0.0, 1.0, 1.0)
"""No offset, and a sigma of 1, wherever a pixel lies."""


class SpatialEmbedding(nn.Module):
    """BranchedERFNet with its decoder of offsets and bandwidths and its decoder of seeds."""

    def __init__(self, config: SpatialEmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder()
        self.shape_decoder = _Decoder(out_channels=4)
        """Offsets x and y, then sigmas x and y."""
        self.seed_decoder = _Decoder(out_channels=1)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Raw output of the network.

        Args:
            images: (B, 3, H, W) float, red green blue, from 0 to 1, not normalised any further; H
                and W are multiples of 8.

        Returns:
            (B, 5, H, W): offset x and y before their tanh, sigma x and y before their exponential,
            seed before its sigmoid.

        Raises:
            ValueError: another shape.
        """
        height, width = images.shape[-2:]
        if images.ndim != 4 or images.shape[1] != 3 or height % STRIDE or width % STRIDE:
            raise ValueError(
                f"expected images (B, 3, H, W) with H and W multiples of {STRIDE}, found "
                f"{tuple(images.shape)}: pad them on the right and at the bottom"
            )
        features = self.encoder(images)
        return torch.cat([self.shape_decoder(features), self.seed_decoder(features)], dim=1)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Output for whole frames of any size: padded by repeating the edge, cut back afterwards.

        Padding is on the right and at the bottom, up to multiples of `config.pad_divisor`. The
        mode, evaluation or training, is left as it is.

        Args:
            images: (B, 3, H, W) as for `forward`, of any H and W above 0.

        Returns:
            (B, 5, H, W) as from `forward`, with no gradients.
        """
        height, width = images.shape[-2:]
        missing = (-width % self.config.pad_divisor, -height % self.config.pad_divisor)
        padded = F.pad(images, (0, missing[0], 0, missing[1]), mode="replicate")
        prediction: Tensor = self(padded)
        return prediction[..., :height, :width]

    @torch.no_grad()
    def _initialise(self) -> None:
        output = self.shape_decoder.output
        output.weight.zero_()
        assert output.bias is not None
        output.bias.copy_(torch.tensor(_INITIAL_BIAS))


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = _Down(3, 16)
        self.blocks = nn.Sequential(
            _Down(16, 64),
            *(_Factorised(64, _FIRST_DROPOUT) for _ in range(5)),
            _Down(64, 128),
            *(_Factorised(128, _SECOND_DROPOUT, dilation) for dilation in _DILATIONS),
        )
        # Of ERFNet's own pre-training; never run here, but part of every released state. Several
        # workers would wait for its gradients.
        self.unused_output = nn.Conv2d(128, NUM_CHANNELS, 1).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(self.stem(images))
        return features


class _Decoder(nn.Module):
    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _Up(128, 64),
            *(_Factorised(64) for _ in range(2)),
            _Up(64, 16),
            *(_Factorised(16) for _ in range(2)),
        )
        self.output = nn.ConvTranspose2d(16, out_channels, 2, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.output(self.blocks(features))
        return output


class _Down(nn.Module):
    """Half the resolution: a convolution's channels first, then the input's own, pooled."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels - in_channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(out_channels, eps=_NORM_EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        halves = torch.cat([self.conv(features), F.max_pool2d(features, 2, stride=2)], dim=1)
        return F.relu(self.norm(halves), inplace=True)


class _Up(nn.Module):
    """Twice the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            in_channels, out_channels, 3, stride=2, padding=1, output_padding=1
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=_NORM_EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(features)), inplace=True)


class _Factorised(nn.Module):
    """ERFNet's residual block: two 3x3 convolutions, each as a 3x1 and a 1x3 one."""

    def __init__(self, channels: int, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        self.vertical1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.horizontal1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.norm1 = nn.BatchNorm2d(channels, eps=_NORM_EPSILON)
        self.vertical2 = nn.Conv2d(
            channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)
        )
        self.horizontal2 = nn.Conv2d(
            channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation)
        )
        self.norm2 = nn.BatchNorm2d(channels, eps=_NORM_EPSILON)
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        residual = F.relu(self.vertical1(features), inplace=True)
        residual = F.relu(self.norm1(self.horizontal1(residual)), inplace=True)
        residual = F.relu(self.vertical2(residual), inplace=True)
        residual = self.dropout(self.norm2(self.horizontal2(residual)))
        return F.relu(residual + features, inplace=True)
