"""Weights files carry their model; a backbone takes the weights of ImageNet."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.detectors.config import BackboneConfig, FasterRCNNConfig
from models.detectors.faster_rcnn import FasterRCNN
from models.weights import load_backbone_weights, load_weights, read_metadata, save_weights
from tests.small_model import small_model

# ---------------------------------------------------------------- our own files


def test_a_model_comes_back_from_its_file_alone(tmp_path: Path) -> None:
    model = small_model(classes=("car", "bus"), input={"channels": "bgr"})
    model.train()
    save_weights(tmp_path / "w.safetensors", model, origin="vis4d")
    loaded, metadata = load_weights(tmp_path / "w.safetensors")
    assert loaded.config == metadata.config == model.config
    assert (metadata.model, metadata.origin) == ("qdtrack_frcnn", "vis4d")
    assert not loaded.training
    assert list(loaded.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    frozen = {name: value.requires_grad for name, value in model.named_parameters()}
    assert {name: value.requires_grad for name, value in loaded.named_parameters()} == frozen
    images, sizes = torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]])
    found, expected = loaded.detect(images, sizes)[0], model.detect(images, sizes)[0]
    assert torch.equal(found.boxes_xyxy, expected.boxes_xyxy)
    assert torch.equal(found.embeddings, expected.embeddings)


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", small_model())
    before = torch.random.get_rng_state()
    load_weights(tmp_path / "w.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_a_loaded_model_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small_model())
    before = path.read_bytes()
    model, _ = load_weights(path)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1)
    assert path.read_bytes() == before


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_weights(tmp_path / name, small_model())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small_model())
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_weights(path, small_model(classes=("car",)))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


def rewrite(path: Path, change: Any) -> None:
    """Apply `change(tensors, header)` to a weights file; a header of None drops the metadata."""
    tensors = load_file(path)
    metadata = read_header(path)
    header = change(tensors, metadata)
    text = None if header is None else {"quasar_weights": json.dumps(header)}
    save_file(tensors, path, metadata=text)


def read_header(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["quasar_weights"])


def drop_tensor(tensors: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    del tensors["detector.rpn.hidden.bias"]
    return header


def add_tensor(tensors: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    tensors["detector.mask_head.weight"] = torch.zeros(1)
    return header


def halve_tensor(tensors: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    tensors["detector.rpn.hidden.bias"] = tensors["detector.rpn.hidden.bias"].half()
    return header


def widen_tensor(tensors: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    tensors["detector.rpn.hidden.bias"] = torch.zeros(17)
    return header


def drop_class(_: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    header["config"]["classes"].pop()
    return header


def drop_field(_: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    del header["config"]["input"]["channels"]
    return header


def add_field(_: dict[str, Tensor], header: dict[str, Any]) -> dict[str, Any]:
    header["config"]["input"]["chanels"] = "rgb"
    return header


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda *_: None, "metadata has no 'quasar_weights'", id="no metadata"),
        pytest.param(lambda *_: [], "does not hold exactly", id="metadata of another kind"),
        pytest.param(lambda _, h: h | {"version": 99}, "format version 99, expected 1", id="newer"),
        pytest.param(lambda _, h: h | {"model": "yolo"}, "model 'yolo'", id="another model"),
        pytest.param(lambda _, h: h | {"origin": "x"}, "origin 'x'", id="another origin"),
        pytest.param(drop_field, "config in its metadata is not complete", id="field left out"),
        pytest.param(add_field, "did you mean input.channels", id="unknown field"),
        pytest.param(drop_class, "8 classes and background apart, but.*7: ped", id="class count"),
        pytest.param(drop_tensor, "1 missing keys: detector.rpn.hidden.bias", id="missing key"),
        pytest.param(add_tensor, "1 unused keys: detector.mask_head.weight", id="unused key"),
        pytest.param(halve_tensor, "hidden.bias is torch.float16", id="another precision"),
        pytest.param(widen_tensor, r"of shape \(17,\), expected .*\(16,\)", id="another shape"),
    ],
)
def test_files_that_do_not_fit_their_own_config_are_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small_model())
    rewrite(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_the_way_of_rewriting_files_in_these_tests_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small_model())
    rewrite(path, lambda _, header: header)
    assert load_weights(path).metadata == read_metadata(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 64], ids=["empty", "text", "noise"])
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.safetensors: not a safetensors file.*import_weights"):
        load_weights(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, small_model())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_weights(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.safetensors")


# ---------------------------------------------------------------- ImageNet weights of the backbone


def detector_of_depth(depth: int, **values: Any) -> FasterRCNN:
    backbone = BackboneConfig(depth=depth, **values)
    return FasterRCNN(FasterRCNNConfig(backbone=backbone, pyramid_channels=16), num_classes=2)


@pytest.mark.parametrize("with_counters", [True, False], ids=["", "without step counters"])
def test_the_backbone_takes_torchvisions_file(tmp_path: Path, with_counters: bool) -> None:
    torch.manual_seed(2)
    state = torchvision.models.resnet18(weights=None).state_dict()
    if not with_counters:
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "resnet18.pth")
    detector = detector_of_depth(18)
    load_backbone_weights(detector, tmp_path / "resnet18.pth")
    for name, value in detector.backbone.state_dict().items():
        assert torch.equal(value, state.get(name, torch.tensor(0))), name


def test_without_a_source_there_is_an_error_and_no_random_backbone() -> None:
    with pytest.raises(ValueError, match="backbone_weights is not set"):
        load_backbone_weights(detector_of_depth(18), None)


def test_a_source_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which is no file; give the path of a torchvision"):
        load_backbone_weights(detector_of_depth(18), tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"depth": 34}, "missing keys: layer1.2.conv1.weight", id="another depth"),
        pytest.param(
            {"depth": 18, "stem_channels": 32}, r"conv1.weight is .*\(64, 3, 7, 7\)", id="narrower"
        ),
        pytest.param({"depth": 18, "norm": "group"}, "backbone.norm is 'group'", id="group norm"),
    ],
)
def test_backbone_weights_must_fit_exactly(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(detector_of_depth(**values), tmp_path / "resnet18.pth")
