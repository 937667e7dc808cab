"""Models by name: published defaults, partial changes, and errors that name what was meant."""

from typing import Any

import pytest
import torch

from models.detectors.config import BackboneConfig, FasterRCNNConfig, RpnConfig
from models.qdtrack.config import QDTrackConfig
from models.registry import build_model, model_config
from tests.small_model import CHANGES


def test_the_default_is_the_published_bdd100k_model_ready_to_run() -> None:
    with torch.device("meta"):
        model = build_model("qdtrack_frcnn")
    assert model.config == QDTrackConfig()
    assert len(model.config.classes) == 8
    assert not model.training
    assert sum(value.numel() for value in model.parameters()) == 56_853_880
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert trained == 56_628_536


def test_the_layout_chooses_the_other_release() -> None:
    assert model_config("qdtrack_frcnn", layout="vis4d") == QDTrackConfig.vis4d()


def test_plain_dictionaries_change_only_what_they_name() -> None:
    config = model_config("qdtrack_frcnn", layout="vis4d", detector={"rpn": {"nms_iou": 0.6}})
    assert config.detector.rpn.nms_iou == 0.6
    assert config.detector.rpn.anchors_inside_only  # still vis4d's
    assert config.detector.roi_head == FasterRCNNConfig.vis4d().roi_head


def test_config_objects_are_taken_whole() -> None:
    detector = FasterRCNNConfig(rpn=RpnConfig(nms_iou=0.6))
    config = model_config("qdtrack_frcnn", layout="vis4d", detector=detector, classes=("car",))
    assert config.detector == detector
    assert config.classes == ("car",)
    nested = model_config("qdtrack_frcnn", detector={"backbone": BackboneConfig(depth=18)})
    assert nested.detector.backbone.depth == 18


def test_a_small_model_is_built_from_plain_values() -> None:
    model = build_model("qdtrack_frcnn", **CHANGES)
    assert model.detector.backbone.out_channels == (8, 16, 32, 64)
    assert model.detector.roi_head.class_logits.in_features == 32


def test_random_weights_come_from_the_global_generator() -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(build_model("qdtrack_frcnn", **CHANGES).state_dict())
    name = "detector.backbone.conv1.weight"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        pytest.param("qdtrack", {}, "unknown model 'qdtrack'; known: qdtrack_frcnn", id="model"),
        pytest.param("qdtrack_frcnn", {"layout": "mmdet3"}, "known: mmdet, vis4d", id="layout"),
        pytest.param("qdtrack_frcnn", {"detectr": {}}, "did you mean detector", id="field"),
        pytest.param(
            "qdtrack_frcnn",
            {"detector": {"rpn": {"nms_ious": 0.5}}},
            r"unknown field 'detector\.rpn\.nms_ious'; did you mean detector\.rpn\.nms_iou",
            id="nested field",
        ),
        pytest.param(
            "qdtrack_frcnn",
            {"detector": {"backbone": {"depth": 20}}},
            r"detector\.backbone.*depth is 20, expected one of 18, 34, 50, 101",
            id="a value the config refuses",
        ),
        pytest.param("qdtrack_frcnn", {"detector": 3}, "detector", id="not a table of fields"),
    ],
)
def test_wrong_names_and_values_are_refused(
    name: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, **values)
