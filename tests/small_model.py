"""A network that runs in milliseconds, for tests whose numbers mean nothing."""

from typing import Any

import torch

from models.detectors.config import BackboneConfig, FasterRCNNConfig, RoiHeadConfig, RpnConfig
from models.qdtrack.config import (
    EmbeddingHeadConfig,
    InputConfig,
    QDTrackConfig,
    QuasiDenseConfig,
)
from models.qdtrack.model import QDTrack
from models.registry import build_model

HEIGHT, WIDTH = 64, 96
"""Of the images that it takes as they are."""

MODEL = QDTrackConfig(
    input=InputConfig(long_side=WIDTH, short_side=HEIGHT),
    detector=FasterRCNNConfig(
        backbone=BackboneConfig(
            depth=18, stem_channels=8, norm="group", norm_groups=4, frozen_stages=-1
        ),
        pyramid_channels=16,
        rpn=RpnConfig(
            anchor_scale=4.0,
            candidates_per_level_train=100,
            candidates_per_level_test=50,
            max_proposals=100,
            sample_size=64,
        ),
        roi_head=RoiHeadConfig(hidden_sizes=(64,), sample_size=64),
    ),
    embedding=EmbeddingHeadConfig(
        num_convs=1, conv_channels=16, norm_groups=4, hidden_sizes=(64,), embedding_dim=16
    ),
    quasi_dense=QuasiDenseConfig(sample_size=64),
    classes=("car", "bus"),
)

CHANGES: dict[str, Any] = {
    "detector": {
        "backbone": {"depth": 18, "stem_channels": 8},
        "pyramid_channels": 16,
        "roi_head": {"hidden_sizes": [32]},
    },
    "embedding": {"num_convs": 1, "conv_channels": 16, "norm_groups": 4, "embedding_dim": 8},
}
"""What makes the published network small, for those who build it by name."""


def small_model(**changes: Any) -> QDTrack:
    """The published network made small, with further changes; the same weights every time."""
    torch.manual_seed(0)
    return build_model("qdtrack_frcnn", **(CHANGES | changes))
