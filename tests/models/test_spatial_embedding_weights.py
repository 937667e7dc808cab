"""Weights of SpatialEmbedding: the released layout, and files that hold one model of several."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models.registry
from models.pointtrack.segmentation import SpatialEmbedding, SpatialEmbeddingConfig
from models.qdtrack.model import QDTrack
from models.registry import ModelKind, build_model, model_config, name_of
from models.weights import (
    convert_state_dict,
    load_weights,
    read_foreign_checkpoint,
    read_metadata,
    save_weights,
)
from tests.released_erfnet import random_state, run_layers
from tests.small_model import small_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def manifest(shared: Path) -> dict[str, Any]:
    path = shared / "reference" / "checkpoints" / "spatial_embedding_branched_erfnet.json"
    return json.loads(path.read_text())


def manifest_state(manifest: dict[str, Any]) -> dict[str, Tensor]:
    """Keys and shapes as released; every tensor is filled with its own number."""
    return {
        manifest["prefix_in_official_checkpoint"] + key: torch.tensor(
            number, dtype=getattr(torch, entry["dtype"])
        ).expand(entry["shape"])
        for number, (key, entry) in enumerate(manifest["state_dict"].items())
    }


# ---------------------------------------------------------------- released layout


def test_the_released_layout_fills_the_model_exactly(manifest: dict[str, Any]) -> None:
    foreign = manifest_state(manifest)
    converted = convert_state_dict(foreign, "spatial_embedding")
    with torch.device("meta"):
        model = build_model("spatial_embedding")
    expected = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in converted.items()} == expected
    model.load_state_dict(converted, strict=True, assign=True)
    assert len(converted) == manifest["num_entries"] == 433
    assert sum(value.numel() for value in model.parameters()) == manifest["num_parameters"]
    # Every tensor of the checkpoint is used once.
    numbers = sorted(int(value.flatten()[0]) for value in converted.values())
    assert numbers == list(range(433))


def test_the_state_of_these_tests_is_of_the_released_layout(manifest: dict[str, Any]) -> None:
    ours = {name: list(value.shape) for name, value in random_state().items()}
    assert ours == {name: entry["shape"] for name, entry in manifest["state_dict"].items()}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("encoder.stem.conv.weight", "encoder.initial_block.conv.weight"),
        ("encoder.blocks.6.norm.running_var", "encoder.layers.6.bn.running_var"),
        ("encoder.blocks.14.horizontal2.bias", "encoder.layers.14.conv1x3_2.bias"),
        ("encoder.unused_output.bias", "encoder.output_conv.bias"),
        ("shape_decoder.blocks.1.vertical1.weight", "decoders.0.layers.1.conv3x1_1.weight"),
        ("seed_decoder.blocks.5.norm2.bias", "decoders.1.layers.5.bn2.bias"),
        ("seed_decoder.output.weight", "decoders.1.output_conv.weight"),
    ],
)
def test_each_tensor_lands_where_it_belongs(ours: str, theirs: str) -> None:
    foreign = random_state()
    assert convert_state_dict(foreign, "spatial_embedding")[ours] is foreign[theirs]


def test_a_missing_and_an_unused_key_are_named() -> None:
    state = random_state()
    bias = state.pop("decoders.1.output_conv.bias")
    with pytest.raises(ValueError, match=r"1 missing keys: seed_decoder\.output\.bias"):
        convert_state_dict(state, "spatial_embedding")
    state["decoders.1.output_conv.bias"] = bias
    with pytest.raises(ValueError, match=r"not of layout .*: decoders\.2\.output_conv\.bias"):
        convert_state_dict(state | {"decoders.2.output_conv.bias": bias}, "spatial_embedding")
    with pytest.raises(ValueError, match=r"1 unused keys: encoder\.blocks\.15\.norm1\.bias"):
        convert_state_dict(state | {"encoder.layers.15.bn1.bias": bias}, "spatial_embedding")


def test_layouts_of_other_models_are_recognised() -> None:
    state = {f"module.{name}": value for name, value in random_state().items()}
    with pytest.raises(ValueError, match="all of them are of layout 'spatial_embedding'"):
        convert_state_dict(state, "mmdet")
    with pytest.raises(ValueError, match="missing keys"):
        convert_state_dict({}, "spatial_embedding")


def test_from_the_released_checkpoint_to_our_file(tmp_path: Path) -> None:
    """The output of the released layers comes out of a file of ours."""
    state = random_state(3)
    checkpoint = {
        "epoch": 41,
        "best_iou": 0.8,
        "best_seed": 0.1,
        "model_state_dict": {f"module.{name}": value for name, value in state.items()},
        "optim_state_dict": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}},
        "logger_data": {"train": [0.5, 0.4]},
    }
    torch.save(checkpoint, tmp_path / "c.pthCar")
    found = read_foreign_checkpoint(tmp_path / "c.pthCar")
    model = build_model("spatial_embedding", layout="spatial_embedding", min_pixels=150)
    model.load_state_dict(convert_state_dict(found, "spatial_embedding"), strict=True)
    save_weights(tmp_path / "w.safetensors", model, origin="pointtrack")
    loaded, metadata = load_weights(tmp_path / "w.safetensors", SpatialEmbedding)
    assert (metadata.model, metadata.origin) == ("spatial_embedding", "pointtrack")
    assert loaded.config == metadata.config == SpatialEmbeddingConfig(min_pixels=150)
    assert not loaded.training
    images = torch.rand(1, 3, 16, 24)
    doubles = {name: value.double() for name, value in state.items()}
    expected = run_layers(doubles, images.double())
    torch.testing.assert_close(loaded.double()(images.double()), expected, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- files of several models


def test_a_file_builds_the_model_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    models_saved = (small_model(), build_model("spatial_embedding", class_name="pedestrian"))
    for model in models_saved:
        save_weights(path, model)
        loaded, metadata = load_weights(path)
        assert type(loaded) is type(model)
        assert metadata == read_metadata(path)
        assert metadata.config == loaded.config == model.config
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name


def test_who_needs_a_model_is_told_that_the_file_holds_another(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model("spatial_embedding"))
    assert isinstance(load_weights(path, SpatialEmbedding).model, SpatialEmbedding)
    with pytest.raises(ValueError, match="'spatial_embedding', expected those of 'qdtrack_frcnn'"):
        load_weights(path, QDTrack)
    save_weights(path, small_model())
    with pytest.raises(ValueError, match="'qdtrack_frcnn', expected those of 'spatial_embedding'"):
        load_weights(path, SpatialEmbedding)


def test_a_model_outside_the_registry_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear is no model of ours; known: qdtrack_frcnn"):
        save_weights(tmp_path / "w.safetensors", nn.Linear(2, 2))
    assert list(tmp_path.iterdir()) == []


class Copy(SpatialEmbedding):
    """Another network with a config of the same class."""


def test_one_line_of_the_table_makes_a_model_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = ModelKind(Copy, SpatialEmbeddingConfig, {"us": SpatialEmbeddingConfig.pedestrian})
    monkeypatch.setitem(models.registry.MODELS, "copy", kind)
    model = build_model("copy", seed_threshold=0.9)
    assert name_of(model) == "copy"
    save_weights(tmp_path / "w.safetensors", model)
    loaded, metadata = load_weights(tmp_path / "w.safetensors", Copy)
    assert metadata.model == "copy"
    assert loaded.config == model_config("copy", layout="us", seed_threshold=0.9)
    assert loaded.config.class_name == "pedestrian"


def test_the_registry_knows_each_models_own_layouts() -> None:
    assert build_model("spatial_embedding").config == SpatialEmbeddingConfig()
    assert not build_model("spatial_embedding").training
    with pytest.raises(ValueError, match="of spatial_embedding; known: spatial_embedding"):
        build_model("spatial_embedding", layout="mmdet")
    with pytest.raises(ValueError, match="did you mean min_pixels"):
        model_config("spatial_embedding", min_pixel=3)
