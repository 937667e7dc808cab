"""Weights files carry their model; published layouts convert whole; pickles run nothing."""

import json
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.detectors.config import BackboneConfig, FasterRCNNConfig
from models.detectors.faster_rcnn import FasterRCNN
from models.qdtrack.model import QDTrack
from models.registry import build_model
from models.weights import (
    convert_state_dict,
    load_backbone_weights,
    load_weights,
    read_foreign_checkpoint,
    read_metadata,
    save_weights,
)

MANIFESTS = {
    "mmdet 2021": ("qdtrack_mmdet_frcnn_r50_fpn_bdd100k.json", "mmdet"),
    "mmdet 2022": ("qdtrack_mmdet_frcnn_r50_fpn_bdd100k_layout2022.json", "mmdet"),
    "vis4d": ("qdtrack_vis4d_frcnn_r50_fpn_bdd100k.json", "vis4d"),
}


def small_model(**changes: Any) -> QDTrack:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "detector": {
            "backbone": {"depth": 18, "stem_channels": 8},
            "pyramid_channels": 16,
            "roi_head": {"hidden_sizes": [32]},
        },
        "embedding": {"num_convs": 1, "conv_channels": 16, "norm_groups": 4, "embedding_dim": 8},
    }
    return build_model("qdtrack_frcnn", **(values | changes))


def manifest_state(shared: Path, name: str) -> dict[str, Tensor]:
    """A published checkpoint's keys and shapes; every tensor is filled with its own number."""
    text = (shared / "reference" / "checkpoints" / MANIFESTS[name][0]).read_text()
    state: dict[str, Tensor] = {}
    for number, (key, shape) in enumerate(json.loads(text).items()):
        is_counter = key.endswith("num_batches_tracked")
        dtype = torch.int64 if is_counter else torch.float32
        # Expanded, so that 200 MB of one number take no memory.
        state[key] = torch.tensor(number, dtype=dtype).expand(shape)
    return state


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


# ---------------------------------------------------------------- published layouts


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_layout_fills_the_model_exactly(shared: Path, name: str) -> None:
    layout = MANIFESTS[name][1]
    foreign = manifest_state(shared, name)
    converted = convert_state_dict(foreign, layout)
    with torch.device("meta"):
        model = build_model("qdtrack_frcnn", layout=layout)
    expected = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in converted.items()} == expected
    result = model.load_state_dict(converted, strict=True, assign=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert len(converted) == len(foreign) == 364
    # Every tensor of the checkpoint is used once.
    numbers = sorted(int(value.flatten()[0]) for value in converted.values())
    assert numbers == list(range(364))


WHERE = {
    "detector.backbone.layer2.0.downsample.1.running_var": (
        "backbone.layer2.0.downsample.1.running_var",
        "basemodel.layer2.0.downsample.1.running_var",
    ),
    "detector.pyramid.lateral.0.weight": (
        "neck.lateral_convs.0.conv.weight",
        "fpn.inner_blocks.0.0.weight",
    ),
    "detector.pyramid.output.3.bias": ("neck.fpn_convs.3.conv.bias", "fpn.layer_blocks.3.0.bias"),
    "detector.rpn.hidden.weight": (
        "rpn_head.rpn_conv.weight",
        "faster_rcnn_head.rpn_head.rpn_conv.weight",
    ),
    "detector.rpn.objectness.bias": (
        "rpn_head.rpn_cls.bias",
        "faster_rcnn_head.rpn_head.rpn_cls.bias",
    ),
    "detector.rpn.box_deltas.weight": (
        "rpn_head.rpn_reg.weight",
        "faster_rcnn_head.rpn_head.rpn_box.weight",
    ),
    "detector.roi_head.hidden.0.weight": (
        "roi_head.bbox_head.shared_fcs.0.weight",
        "faster_rcnn_head.roi_head.shared_fcs.0.weight",
    ),
    "detector.roi_head.hidden.1.bias": (
        "roi_head.bbox_head.shared_fcs.1.bias",
        "faster_rcnn_head.roi_head.shared_fcs.1.bias",
    ),
    "detector.roi_head.class_logits.weight": (
        "roi_head.bbox_head.fc_cls.weight",
        "faster_rcnn_head.roi_head.fc_cls.weight",
    ),
    "detector.roi_head.box_deltas.bias": (
        "roi_head.bbox_head.fc_reg.bias",
        "faster_rcnn_head.roi_head.fc_reg.bias",
    ),
    "embedding_head.convs.2.weight": (
        "roi_head.track_head.convs.2.conv.weight",
        "qdtrack_head.similarity_head.convs.2.weight",
    ),
    "embedding_head.norms.2.bias": (
        "roi_head.track_head.convs.2.gn.bias",
        "qdtrack_head.similarity_head.convs.2.norm.bias",
    ),
    "embedding_head.hidden.0.weight": (
        "roi_head.track_head.fcs.0.weight",
        "qdtrack_head.similarity_head.fcs.0.0.weight",
    ),
    "embedding_head.output.weight": (
        "roi_head.track_head.fc_embed.weight",
        "qdtrack_head.similarity_head.fc_embed.weight",
    ),
}


@pytest.mark.parametrize(("name", "column"), [("mmdet 2021", 0), ("vis4d", 1)])
def test_each_tensor_lands_where_it_belongs(shared: Path, name: str, column: int) -> None:
    foreign = manifest_state(shared, name)
    converted = convert_state_dict(foreign, MANIFESTS[name][1])
    for ours, theirs in WHERE.items():
        assert converted[ours] is foreign[theirs[column]], ours


def test_both_mmdet_eras_convert_to_the_same(shared: Path) -> None:
    old = convert_state_dict(manifest_state(shared, "mmdet 2021"), "mmdet")
    new = convert_state_dict(manifest_state(shared, "mmdet 2022"), "mmdet")
    for name, value in old.items():
        assert new[name].shape == value.shape
    # Same order of keys in both manifests, hence the same numbers.
    assert all(int(new[n].flatten()[0]) == int(old[n].flatten()[0]) for n in old)


def test_values_are_untouched_so_background_stays_last_and_inputs_stay_channel_first() -> None:
    """One logit of each class and one input of the flattened features, followed to the output."""
    model = small_model()
    head = model.detector.roi_head
    with torch.no_grad():
        for layer in (*head.hidden, head.class_logits, head.box_deltas):
            layer.weight.zero_()
            layer.bias.zero_()
        head.hidden[0].weight[5, 3 * 49 + 2 * 7 + 4] = 1.0  # channel 3, row 2, column 4
        head.class_logits.weight[8, 5] = 2.0  # the last of nine rows
        head.box_deltas.weight[4 * 6 + 2, 5] = 3.0  # dw of class 6
        pooled = torch.zeros(1, 16, 7, 7)
        pooled[0, 3, 2, 4] = 1.0
        logits, deltas = head(pooled)
    assert logits.tolist() == [[0.0] * 8 + [2.0]]
    assert deltas.shape == (1, 8, 4)
    assert deltas.nonzero().tolist() == [[0, 6, 2]]


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "model.module."])
@pytest.mark.parametrize("name", ["mmdet 2022", "vis4d"])
def test_prefixes_of_training_wrappers_are_dropped(shared: Path, name: str, prefix: str) -> None:
    foreign = manifest_state(shared, name)
    wrapped = {prefix + key: value for key, value in foreign.items()}
    found, expected = (
        convert_state_dict(state, MANIFESTS[name][1]) for state in (wrapped, foreign)
    )
    assert all(found[key] is expected[key] for key in expected)


def test_absent_step_counters_start_at_zero(shared: Path) -> None:
    foreign = {
        key: value
        for key, value in manifest_state(shared, "vis4d").items()
        if not key.endswith("num_batches_tracked")
    }
    converted = convert_state_dict(foreign, "vis4d")
    assert len(converted) == 364
    assert converted["detector.backbone.bn1.num_batches_tracked"].item() == 0


def mmdet_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of ours under the names of mmdet in 2021, to test other sizes than the published."""
    replacements = {
        r"detector\.backbone\.": "backbone.",
        r"detector\.pyramid\.lateral\.(\d)": r"neck.lateral_convs.\1.conv",
        r"detector\.pyramid\.output\.(\d)": r"neck.fpn_convs.\1.conv",
        r"detector\.rpn\.hidden": "rpn_head.rpn_conv",
        r"detector\.rpn\.objectness": "rpn_head.rpn_cls",
        r"detector\.rpn\.box_deltas": "rpn_head.rpn_reg",
        r"detector\.roi_head\.hidden": "roi_head.bbox_head.shared_fcs",
        r"detector\.roi_head\.class_logits": "roi_head.bbox_head.fc_cls",
        r"detector\.roi_head\.box_deltas": "roi_head.bbox_head.fc_reg",
        r"embedding_head\.convs\.(\d)": r"roi_head.track_head.convs.\1.conv",
        r"embedding_head\.norms\.(\d)": r"roi_head.track_head.convs.\1.gn",
        r"embedding_head\.hidden": "roi_head.track_head.fcs",
        r"embedding_head\.output": "roi_head.track_head.fc_embed",
    }
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in replacements.items():
            name = re.sub("^" + pattern, replacement, name)
        renamed[name] = value
    return renamed


def test_another_backbone_and_number_of_classes_convert_too() -> None:
    with torch.device("meta"):
        state = build_model(
            "qdtrack_frcnn", detector={"backbone": {"depth": 101}}, classes=("person",)
        ).state_dict()
    assert list(convert_state_dict(mmdet_names(state), "mmdet")) == list(state)


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        pytest.param("mmdet 2021", "roi_head.bbox_head.fc_reg.bias", id="a head"),
        pytest.param("mmdet 2022", "track_head.track_head.convs.1.gn.weight", id="a norm"),
        pytest.param("vis4d", "basemodel.layer4.2.bn3.running_var", id="a statistic"),
    ],
)
def test_a_missing_key_is_named(shared: Path, name: str, dropped: str) -> None:
    foreign = manifest_state(shared, name)
    complete = convert_state_dict(foreign, MANIFESTS[name][1])
    ours = next(key for key, value in complete.items() if value is foreign[dropped])
    del foreign[dropped]
    with pytest.raises(ValueError, match=f"1 missing keys: {re.escape(ours)}"):
        convert_state_dict(foreign, MANIFESTS[name][1])


def test_a_missing_block_of_the_backbone_is_an_error(shared: Path) -> None:
    foreign = {
        key: value
        for key, value in manifest_state(shared, "mmdet 2021").items()
        if not key.startswith("backbone.layer3.5.")
    }
    with pytest.raises(ValueError, match=r"stages have \[3, 4, 5, 3\] blocks"):
        convert_state_dict(foreign, "mmdet")


@pytest.mark.parametrize(
    ("name", "added"),
    [
        pytest.param("mmdet 2021", "roi_head.mask_head.conv.weight", id="another head"),
        pytest.param("mmdet 2021", "backbone.layer1.0.conv4.weight", id="inside the backbone"),
        pytest.param("mmdet 2022", "track_head.extra.weight", id="outside the detector"),
        pytest.param("mmdet 2022", "roi_head.track_head.fc_embed.bias", id="keys of both eras"),
        pytest.param("vis4d", "qdtrack_head.similarity_head.convs.4.weight", id="a fifth conv"),
        pytest.param("vis4d", "ema_model.basemodel.conv1.weight", id="a second copy"),
    ],
)
def test_an_unused_key_is_named(shared: Path, name: str, added: str) -> None:
    foreign = manifest_state(shared, name) | {added: torch.zeros(1)}
    with pytest.raises(ValueError) as caught:
        convert_state_dict(foreign, MANIFESTS[name][1])
    assert ".".join(added.split(".")[-2:]) in str(caught.value)


def test_the_other_layout_is_recognised(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"all of them are of layout 'vis4d'"):
        convert_state_dict(manifest_state(shared, "vis4d"), "mmdet")
    with pytest.raises(ValueError, match="unknown layout 'torchvision'; known: mmdet, vis4d"):
        convert_state_dict({}, "torchvision")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="incomplete"):
        convert_state_dict({}, "mmdet")


# ---------------------------------------------------------------- foreign pickles


class Payload:
    """Unpickling this would create the file that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


STATE = {"backbone.conv1.weight": torch.arange(6.0).reshape(2, 3)}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param(STATE, id="flat"),
        pytest.param(OrderedDict(STATE), id="ordered"),
        pytest.param({"state_dict": OrderedDict(STATE)}, id="state only"),
        pytest.param(
            {
                "meta": {"CLASSES": ("car",), "epoch": 12, "time": "now", "lr": np.float64(0.02)},
                "state_dict": OrderedDict(STATE),
                "optimizer": {
                    "state": {0: {"momentum_buffer": torch.ones(2)}},
                    "param_groups": [{"lr": np.float32(0.1), "steps": np.arange(3)}],
                },
            },
            id="with meta, optimiser and NumPy values",
        ),
    ],
)
def test_checkpoints_of_each_form_are_read(tmp_path: Path, checkpoint: Any, zipped: bool) -> None:
    path = tmp_path / "c.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    state = read_foreign_checkpoint(path)
    assert list(state) == list(STATE)
    assert torch.equal(state["backbone.conv1.weight"], STATE["backbone.conv1.weight"])


def test_numpy_1_names_of_inert_types_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save(
        {"meta": [np.float64(1), np.arange(2)], "state_dict": STATE},
        path,
        _use_new_zipfile_serialization=False,
    )
    renamed = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert renamed != path.read_bytes()
    path.write_bytes(renamed)
    assert list(read_foreign_checkpoint(path)) == list(STATE)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [True, False], ids=["in the state", "beside the state"])
def test_a_malicious_pickle_is_named_and_not_run(
    tmp_path: Path, zipped: bool, nested: bool
) -> None:
    trace = tmp_path / "was_run"
    checkpoint: dict[str, Any] = {"state_dict": dict(STATE)}
    (checkpoint["state_dict"] if nested else checkpoint)["x"] = Payload(trace)
    path = tmp_path / "c.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"c\.pth: the checkpoint asks for 'posix\.system'"):
        read_foreign_checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the payload is a real one
    assert trace.exists()


def test_an_object_of_any_other_class_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({"state_dict": STATE, "config": Path("somewhere")}, path)
    with pytest.raises(ValueError, match=r"asks for 'pathlib\."):
        read_foreign_checkpoint(path)


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({"state_dict": STATE, "meta": np.array([{1: 2}, None])}, path)
    with pytest.raises(ValueError, match=r"c\.pth"):
        read_foreign_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "damaged file", id="empty"),
        pytest.param(b"hello world", "no checkpoint at all", id="text"),
        pytest.param(None, "damaged file", id="cut in half"),
    ],
)
def test_broken_checkpoints_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.pth"
    torch.save({"state_dict": STATE}, path)
    path.write_bytes(path.read_bytes()[:600] if content is None else content)
    with pytest.raises(ValueError, match=rf"c\.pth: .*{message}"):
        read_foreign_checkpoint(path)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        pytest.param([1, 2], "holds list", id="a list"),
        pytest.param({}, "holds dict", id="nothing"),
        pytest.param({"state_dict": {"a": 1}}, "something else under a", id="a number"),
        pytest.param({"epoch": 3, "model": STATE}, "something else under epoch", id="other form"),
    ],
)
def test_checkpoints_without_a_state_are_refused(
    tmp_path: Path, checkpoint: Any, message: str
) -> None:
    path = tmp_path / "c.pth"
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=message):
        read_foreign_checkpoint(path)


def test_from_a_foreign_pickle_to_our_file(tmp_path: Path) -> None:
    model = small_model(
        detector={
            "backbone": {"depth": 18, "stem_channels": 8},
            "pyramid_channels": 16,
            "roi_head": {"hidden_sizes": [32, 32]},
        },
        embedding={"conv_channels": 16, "norm_groups": 4, "hidden_sizes": [24]},
    )
    state = {name: torch.randn_like(v.float()).to(v) for name, v in model.state_dict().items()}
    torch.save({"meta": {"epoch": 12}, "state_dict": mmdet_names(state)}, tmp_path / "c.pth")
    converted = convert_state_dict(read_foreign_checkpoint(tmp_path / "c.pth"), "mmdet")
    model.load_state_dict(converted, strict=True)
    save_weights(tmp_path / "w.safetensors", model, origin="mmdet")
    loaded, metadata = load_weights(tmp_path / "w.safetensors")
    assert metadata.origin == "mmdet"
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name


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
