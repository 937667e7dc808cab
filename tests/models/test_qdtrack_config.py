"""Configs of QDTrack refuse what cannot work and hold the published values."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.config_io import config_from_dict, config_to_dict
from models.qdtrack.config import (
    EmbeddingHeadConfig,
    InputConfig,
    OptimizerConfig,
    QDTrackConfig,
    QuasiDenseConfig,
)


@pytest.mark.parametrize(
    "config",
    [QDTrackConfig(), QDTrackConfig.vis4d(), OptimizerConfig(), OptimizerConfig.vis4d()],
    ids=["model", "vis4d model", "optimizer", "vis4d optimizer"],
)
def test_published_configs_survive_json(config: Any) -> None:
    text = json.dumps(config_to_dict(config))
    assert config_from_dict(type(config), json.loads(text)) == config


def test_trap_25_margin_follows_the_newest_release_and_stays_configurable() -> None:
    assert QDTrackConfig().quasi_dense.auxiliary_negative_margin == 0.1
    assert QDTrackConfig.vis4d().quasi_dense.auxiliary_negative_margin == 0.3
    assert QDTrackConfig().detector.roi_head.box_loss_beta == 0.0
    assert QDTrackConfig.vis4d().detector.roi_head.box_loss_beta == 1.0


@pytest.mark.parametrize(
    ("config_class", "values"),
    [
        (InputConfig, {"channels": "grb"}),
        (InputConfig, {"mean": (1.0, 2.0)}),
        (InputConfig, {"std": (0.0, 1.0, 1.0)}),
        (InputConfig, {"std_epsilon": -1.0}),
        (InputConfig, {"long_side": 0}),
        (InputConfig, {"short_side": 2000}),
        (InputConfig, {"pad_divisor": 0}),
        (EmbeddingHeadConfig, {"num_convs": -1}),
        (EmbeddingHeadConfig, {"conv_channels": 0}),
        (EmbeddingHeadConfig, {"norm_groups": 3}),
        (EmbeddingHeadConfig, {"hidden_sizes": (0,)}),
        (EmbeddingHeadConfig, {"embedding_dim": 0}),
        (EmbeddingHeadConfig, {"conv_init": "zeros"}),
        (QuasiDenseConfig, {"positive_iou": 1.1}),
        (QuasiDenseConfig, {"negative_iou": 0.8}),
        (QuasiDenseConfig, {"sample_size": 0}),
        (QuasiDenseConfig, {"positive_fraction": -0.1}),
        (QuasiDenseConfig, {"negatives_per_positive": -1}),
        (QuasiDenseConfig, {"identity_quota": "all"}),
        (QuasiDenseConfig, {"negative_sampling": "hard"}),
        (QuasiDenseConfig, {"num_iou_bins": 0}),
        (QuasiDenseConfig, {"contrastive_weight": float("nan")}),
        (QuasiDenseConfig, {"contrastive_divisor_epsilon": -1.0}),
        (QuasiDenseConfig, {"auxiliary_weight": -1.0}),
        (QuasiDenseConfig, {"auxiliary_positive_margin": -0.1}),
        (QuasiDenseConfig, {"auxiliary_negative_margin": -0.1}),
        (QDTrackConfig, {"classes": ()}),
        (QDTrackConfig, {"classes": ("car", "car")}),
        (OptimizerConfig, {"epochs": 0}),
        (OptimizerConfig, {"learning_rate": float("inf")}),
        (OptimizerConfig, {"momentum": 1.5}),
        (OptimizerConfig, {"weight_decay": -1.0}),
        (OptimizerConfig, {"warmup_iterations": -1}),
        (OptimizerConfig, {"warmup_ratio": 2.0}),
        (OptimizerConfig, {"step_epochs": (11, 8)}),
        (OptimizerConfig, {"step_epochs": (-1,)}),
        (OptimizerConfig, {"step_factor": 10.0}),
        (OptimizerConfig, {"gradient_clip_norm": 0.0}),
        (OptimizerConfig, {"precision": "int8"}),
    ],
)
def test_values_out_of_range_are_named(config_class: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(values))} is .*, expected "):
        config_class(**values)


def test_mining_may_be_switched_off_by_any_number_up_to_zero() -> None:
    for count in (0, -1):
        config = QuasiDenseConfig(auxiliary_negatives_per_positive=count)
        assert config.auxiliary_negatives_per_positive == count


def test_reading_configs_imports_no_torch(repository: Path) -> None:
    program = "import sys, models.qdtrack.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=repository).returncode == 0
