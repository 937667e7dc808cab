"""The association network of PointTrack: from the points of an instance to its embedding.

Offsets, colours and categories of points pass through layers of their own, point by point; only
pooling mixes the points of an instance. Embeddings are not normalised: distances between them, and
the thresholds of association, live on the scale that training left them at.

"PointTrack" (Xu et al., 2020); sizes, norms and orders are those of the released car model.

Legend: B instances, P points of one, F foreground points, C channels, D embedding width.
"""

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.pointtrack.config import PointTrackConfig

NUM_VALUES: Final = 8
"""Values of a point: blue, green, red, offset v, offset u and three of its category."""

_COLOURS, _OFFSETS, _CATEGORIES = slice(0, 3), slice(3, 5), slice(5, 8)
_NEGATIVE_SLOPE: Final = 0.01
_POSITION_SCALE: Final = 100.0
_NUM_FREQUENCIES: Final = 8
_LARGEST_PERIOD: Final = 1000.0
_POSITION_CHANNELS: Final = 2 * 4 * _NUM_FREQUENCIES
_INSTANCES_AT_ONCE: Final = 2
"""On a CPU without training: memory between two layers stays small enough for caches to help."""


class PointTrackNet(nn.Module):
    """Foreground, environment and position of an instance, and two linear layers over them."""

    def __init__(self, config: PointTrackConfig) -> None:
        super().__init__()
        self.config = config
        self.foreground = _Foreground()
        self.environment = _Environment()
        channels = _Foreground.num_channels + _Environment.num_channels + _POSITION_CHANNELS
        self.hidden = nn.Linear(channels, 256)
        self.output = nn.Linear(256, config.embedding_dim)

    def forward(self, points: Tensor, positions: Tensor) -> Tensor:
        """Embeddings of instances.

        Args:
            points: float32 (B, P, 8) of `models.pointtrack.points`, foreground points first; B may
                be 0 except in training.
            positions: float32 (B, 4) of the same module.

        Returns:
            (B, D), not normalised.

        Raises:
            ValueError: another number of points or values than the config has, or no instance in
                training.
        """
        return self.embed_with_weights(points, positions)[0]

    def embed_with_weights(self, points: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings as of `forward`, and how much each foreground point counted.

        Returns:
            (B, D) embeddings, and (B, F) the weights, which sum to 1, with which the features of
            foreground points enter the embedding.

        Raises:
            ValueError: as `forward`.
        """
        self._check(points, positions)
        in_parts = points.device.type == "cpu" and not self.training
        parts = torch.split(points, _INSTANCES_AT_ONCE) if in_parts else [points]
        pooled, weights = zip(*(self._pool(part) for part in parts), strict=True)
        features_BC = torch.cat([torch.cat(pooled), embed_positions(positions)], dim=1)
        embeddings: Tensor = self.output(_leaky(self.hidden(features_BC)))
        return embeddings, torch.cat(weights)

    def _pool(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) features but for the position, and (B, F) weights of foreground points."""
        values_BCP = points.transpose(1, 2)
        num_points = self.config.num_points
        foreground_BC, weights_BP = self.foreground(values_BCP[..., :num_points])
        environment_BC = self.environment(values_BCP[..., num_points:])
        return torch.cat([foreground_BC, environment_BC], dim=1), weights_BP

    def _check(self, points: Tensor, positions: Tensor) -> None:
        config = self.config
        expected = config.num_points + config.num_environment_points
        if points.ndim != 3 or points.shape[1:] != (expected, NUM_VALUES):
            raise ValueError(
                f"points are of shape {tuple(points.shape)}, expected (B, {expected}, "
                f"{NUM_VALUES}): {config.num_points} foreground and "
                f"{config.num_environment_points} environment points of each instance"
            )
        if positions.shape != (len(points), 4):
            raise ValueError(
                f"positions are of shape {tuple(positions.shape)}, expected ({len(points)}, 4) "
                "like the points"
            )
        if self.training and not len(points):
            raise ValueError("there is no instance to train on; leave such an item out")


def embed_positions(positions: Tensor) -> Tensor:
    """Sines and cosines of centre, width and height at eight frequencies.

    Width and height are one unit (a whole image) too large, as released.

    Args:
        positions: (B, 4) left, top, right, bottom as shares of the image.

    Returns:
        (B, 64): 32 sines, then 32 cosines, each of centre x, centre y, width and height in turn.

    >>> embed_positions(torch.tensor([[0.0, 0.0, 0.02, 0.0]]))[0, [0, 8, 16, 32]]
    tensor([0.8415, 0.0000, 0.9948, 0.5403])
    """
    x1, y1, x2, y2 = positions.unbind(dim=1)
    quantities = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1 + 1, y2 - y1 + 1], dim=1)
    steps = torch.arange(_NUM_FREQUENCIES, dtype=positions.dtype, device=positions.device)
    frequencies = _LARGEST_PERIOD ** (-steps / _NUM_FREQUENCIES)
    angles = (_POSITION_SCALE * quantities[:, :, None] * frequencies).flatten(start_dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _PointLayers(nn.Module):
    """Layers that see one point at a time, each with a leaky ReLU; the first ones with a norm."""

    def __init__(self, widths: Sequence[int], *, num_norms: int = 0) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width, next_width, kernel_size=1) for width, next_width in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1 : 1 + num_norms])

    def forward(self, values_BCP: Tensor) -> Tensor:
        for conv, norm in zip_longest(self.convs, self.norms):
            if norm is None:
                values_BCP = conv(values_BCP)
            elif norm.training:
                values_BCP = norm(conv(values_BCP))
            else:  # one pass over all points less
                values_BCP = F.conv1d(values_BCP, *_fold(conv, norm))
            values_BCP = _leaky(values_BCP)
        return values_BCP


class _Foreground(nn.Module):
    """The instance itself: two pooled summaries, and point features by learned weights."""

    num_channels: Final = 64 + 64 + 512

    def __init__(self) -> None:
        super().__init__()
        self.offsets = _PointLayers((2, 64, 128, 256), num_norms=3)
        self.colours = _PointLayers((3, 64, 128, 256), num_norms=3)
        self.average = _PointLayers((512, 256, 512, 64), num_norms=2)
        self.maximum = _PointLayers((512, 256, 512, 64), num_norms=2)
        self.weighting = nn.Conv1d(128, 1, kernel_size=1)

    def forward(self, values_BCP: Tensor) -> tuple[Tensor, Tensor]:
        features_BCP = torch.cat(
            [self.offsets(values_BCP[:, _OFFSETS]), self.colours(values_BCP[:, _COLOURS])], dim=1
        )
        average_BCP, maximum_BCP = self.average(features_BCP), self.maximum(features_BCP)
        logits_B1P = self.weighting(torch.cat([average_BCP, maximum_BCP], dim=1))
        weights_BP1 = logits_B1P.softmax(dim=2).transpose(1, 2)
        weighted_BC = torch.bmm(features_BCP, weights_BP1).squeeze(2)
        pooled = torch.cat([average_BCP.mean(dim=2), maximum_BCP.amax(dim=2), weighted_BC], dim=1)
        return pooled, weights_BP1.squeeze(2)


class _Environment(nn.Module):
    """What surrounds the instance; without any norm."""

    num_channels: Final = 256

    def __init__(self) -> None:
        super().__init__()
        self.offsets = _PointLayers((2, 64, 128, 128))
        self.colours = _PointLayers((3, 64, 128, 256))
        self.categories = _PointLayers((3, 64, 128, 128))
        self.joint = _PointLayers((512, 256, 512, 256))

    def forward(self, values_BCP: Tensor) -> Tensor:
        features_BCP = torch.cat(
            [
                self.offsets(values_BCP[:, _OFFSETS]),
                self.colours(values_BCP[:, _COLOURS]),
                self.categories(values_BCP[:, _CATEGORIES]),
            ],
            dim=1,
        )
        joint_BCP: Tensor = self.joint(features_BCP)
        return joint_BCP.amax(dim=2)


def _leaky(values: Tensor) -> Tensor:
    return F.leaky_relu(values, _NEGATIVE_SLOPE, inplace=True)  # no layer before it needs them


def _fold(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that both are while statistics do not change."""
    assert isinstance(conv, nn.Conv1d)
    assert isinstance(norm, nn.BatchNorm1d)
    assert conv.bias is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = (conv.bias - norm.running_mean) * scale + norm.bias
    return conv.weight * scale[:, None, None], bias
