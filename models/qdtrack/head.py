"""The embedding head: from the features inside a box to a vector that tells identities apart.

Legend: R boxes, C channels, S grid side, D embedding width.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from models.qdtrack.config import EmbeddingHeadConfig


class EmbeddingHead(nn.Module):
    """Convolutions with group norm, fully connected layers, and one linear layer at the end.

    Args:
        config: widths, norms and initialisation.
        in_channels: channels of the pyramid.
        pooled_size: rows and columns of the grid that a box is pooled to.
    """

    def __init__(self, config: EmbeddingHeadConfig, *, in_channels: int, pooled_size: int) -> None:
        super().__init__()
        conv_widths = [in_channels, *[config.conv_channels] * config.num_convs]
        self.convs = nn.ModuleList(
            nn.Conv2d(width, next_width, kernel_size=3, padding=1, bias=False)
            for width, next_width in pairwise(conv_widths)
        )
        self.norms = nn.ModuleList(
            nn.GroupNorm(config.norm_groups, config.conv_channels) for _ in self.convs
        )
        linear_widths = [conv_widths[-1] * pooled_size**2, *config.hidden_sizes]
        self.hidden = nn.ModuleList(
            nn.Linear(width, next_width) for width, next_width in pairwise(linear_widths)
        )
        self.output = nn.Linear(linear_widths[-1], config.embedding_dim)
        self._initialise(config)

    def forward(self, pooled: Tensor) -> Tensor:
        """Embeddings of pooled boxes.

        Args:
            pooled: (R, C, S, S); R may be 0.

        Returns:
            (R, D), neither normalised nor rectified nor divided by a temperature: association and
            losses take raw dot products.
        """
        features = pooled
        for conv, norm in zip(self.convs, self.norms, strict=True):
            features = F.relu(norm(conv(features)))
        features = features.flatten(start_dim=1)
        for layer in self.hidden:
            features = F.relu(layer(features))
        embeddings: Tensor = self.output(features)
        return embeddings

    def _initialise(self, config: EmbeddingHeadConfig) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and config.conv_init == "kaiming_normal":
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.output.weight, std=0.01)
