"""Residual networks (ResNet, He et al. 2016) of any width, with the norm layer as a choice.

The stride of a bottleneck that halves the resolution sits in its 3x3 convolution, and parameters
are named as in torchvision's ResNet, so ImageNet weights load without renaming. A group norm keeps
the names `bn1` ... `downsample.1` of the layer it stands for.
"""

from collections.abc import Callable
from typing import Final

from torch import Tensor, nn

from models.detectors.config import BackboneConfig

STAGE_BLOCKS: Final = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks of the four stages by depth."""
BOTTLENECK_DEPTHS: Final = (50, 101)

NormLayer = Callable[[int], nn.Module]


class FrozenStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics in training too; its affine part is trained."""

    def train(self, mode: bool = True) -> "FrozenStatisticsBatchNorm":
        """Stay in evaluation mode, whatever `mode` says."""
        del mode
        super().train(False)
        return self


class ResNet(nn.Module):
    """The four stages of a residual network; there is no classifier."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        norm = _norm_layer(config)
        block = _Bottleneck if config.depth in BOTTLENECK_DEPTHS else _BasicBlock
        width = config.stem_channels
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = STAGE_BLOCKS[config.depth]
        wide = [(width << stage) * block.expansion for stage in range(4)]
        self.layer1 = _stage(block, blocks[0], width, width, 1, norm)
        self.layer2 = _stage(block, blocks[1], wide[0], width * 2, 2, norm)
        self.layer3 = _stage(block, blocks[2], wide[1], width * 4, 2, norm)
        self.layer4 = _stage(block, blocks[3], wide[2], width * 8, 2, norm)
        self.out_channels = tuple(wide)
        """Channels of the four outputs."""
        self._initialise()
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Outputs of the four stages, strides 4, 8, 16, 32, for (B, 3, H, W) float images."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        outputs = []
        for stage in self._stages():
            features = stage(features)
            outputs.append(features)
        return outputs

    def train(self, mode: bool = True) -> "ResNet":
        """Set the mode; frozen stages stay in evaluation mode, so no statistic of theirs moves."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _stages(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def _frozen_modules(self) -> list[nn.Module]:
        if self.config.frozen_stages < 0:
            return []
        return [self.conv1, self.bn1, *self._stages()[: self.config.frozen_stages]]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, norm: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride, norm)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        output: Tensor = self.relu(residual + shortcut)
        return output


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, norm: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = norm(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride, norm)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(features)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        output: Tensor = self.relu(residual + shortcut)
        return output


def _stage(
    block: type[_BasicBlock] | type[_Bottleneck],
    num_blocks: int,
    in_channels: int,
    width: int,
    stride: int,
    norm: NormLayer,
) -> nn.Sequential:
    first = block(in_channels, width, stride, norm)
    out_channels = width * block.expansion
    return nn.Sequential(
        first, *(block(out_channels, width, 1, norm) for _ in range(num_blocks - 1))
    )


def _shortcut(
    in_channels: int, out_channels: int, stride: int, norm: NormLayer
) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, norm(out_channels))


def _norm_layer(config: BackboneConfig) -> NormLayer:
    if config.norm == "group":
        return lambda channels: nn.GroupNorm(config.norm_groups, channels)
    if config.norm == "batch":
        return nn.BatchNorm2d
    return FrozenStatisticsBatchNorm
