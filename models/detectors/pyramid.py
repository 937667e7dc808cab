"""Feature pyramid network (FPN, Lin et al. 2017) with a fifth level by subsampling."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Strides 4 to 64 from the four outputs of a backbone, all with the same number of channels.

    `lateral[0]` and `output[0]` belong to the finest level. The fifth level is every second pixel
    of the fourth, without a convolution.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Levels P2 to P6 of (B, C_i, H_i, W_i) backbone outputs, finest first."""
        merged = [convolve(level) for convolve, level in zip(self.lateral, features, strict=True)]
        for finer in range(len(merged) - 2, -1, -1):
            size = merged[finer].shape[-2:]  # not a factor of 2: odd sizes must fit exactly
            coarser = F.interpolate(merged[finer + 1], size=size, mode="nearest")
            merged[finer] = merged[finer] + coarser
        levels = [convolve(level) for convolve, level in zip(self.output, merged, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]
