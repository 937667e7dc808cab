"""A small QDTrack that learns the synthetic scenes from scratch in minutes on two cores."""

from models.detectors.config import (
    BackboneConfig,
    FasterRCNNConfig,
    RoiHeadConfig,
    RpnConfig,
)
from models.qdtrack.association import TrackerConfig
from models.qdtrack.config import (
    EmbeddingHeadConfig,
    InputConfig,
    OptimizerConfig,
    QDTrackConfig,
    QuasiDenseConfig,
)
from pipeline.config import ExperimentConfig
from pipeline.ingest import DataConfig
from pipeline.train import RANDOM_BACKBONE, TrainConfig


def qdtrack_frcnn_r18_synthetic() -> ExperimentConfig:
    """ResNet-18 of half width, a 64-channel pyramid, 192 x 320 pixels; nothing frozen."""
    detector = FasterRCNNConfig(
        backbone=BackboneConfig(depth=18, stem_channels=32, norm="batch", frozen_stages=-1),
        pyramid_channels=64,
        rpn=RpnConfig(
            anchor_scale=4.0,
            candidates_per_level_train=500,
            candidates_per_level_test=250,
            max_proposals=250,
            sample_size=128,
        ),
        roi_head=RoiHeadConfig(hidden_sizes=(256, 256), sample_size=128),
    )
    model = QDTrackConfig(
        input=InputConfig(long_side=320, short_side=192),
        detector=detector,
        embedding=EmbeddingHeadConfig(
            num_convs=2, conv_channels=64, norm_groups=8, hidden_sizes=(256,), embedding_dim=64
        ),
        quasi_dense=QuasiDenseConfig(sample_size=128),
    )
    train = TrainConfig(
        pairs_per_step=8,
        backbone_weights=RANDOM_BACKBONE,
        validation_pairs=16,
        validation_sequences=1,
        optimizer=OptimizerConfig(
            epochs=4,
            learning_rate=0.04,
            warmup_iterations=50,
            warmup_ratio=0.01,
            step_epochs=(2, 3),
            step_factor=0.3,
            gradient_clip_norm=10.0,
        ),
    )
    return ExperimentConfig(
        recipe="qdtrack_frcnn_r18_synthetic",
        data=DataConfig(),
        model=model,
        train=train,
        association=TrackerConfig(init_score_thr=0.8, obj_score_thr=0.5),
    )
