"""Foreign checkpoints: published layouts convert whole; pickles run nothing."""

import json
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.registry import build_model
from models.weights import (
    convert_state_dict,
    load_weights,
    read_foreign_checkpoint,
    save_weights,
)
from tests.small_model import small_model

MANIFESTS = {
    "mmdet 2021": ("qdtrack_mmdet_frcnn_r50_fpn_bdd100k.json", "mmdet"),
    "mmdet 2022": ("qdtrack_mmdet_frcnn_r50_fpn_bdd100k_layout2022.json", "mmdet"),
    "vis4d": ("qdtrack_vis4d_frcnn_r50_fpn_bdd100k.json", "vis4d"),
}


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
