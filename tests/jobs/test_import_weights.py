"""The command that converts published checkpoints: both layouts whole, everything else refused."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs import command, import_weights
from models.weights import load_weights

MANIFESTS = {
    "mmdet": "qdtrack_mmdet_frcnn_r50_fpn_bdd100k.json",
    "vis4d": "qdtrack_vis4d_frcnn_r50_fpn_bdd100k.json",
}
STEM = {"mmdet": "backbone.conv1.weight", "vis4d": "basemodel.conv1.weight"}
SCALABEL_ORDER = (
    *("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)


class Payload:
    """Unpickling this would create the file that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def write_checkpoint(shared: Path, folder: Path, layout: str) -> Path:
    """A checkpoint with the published keys and shapes; each tensor repeats one number of its own.

    Repeated by a stride of 0, so that the file is small.
    """
    text = (shared / "reference" / "checkpoints" / MANIFESTS[layout]).read_text()
    state: dict[str, Tensor] = {}
    for number, (key, shape) in enumerate(json.loads(text).items()):
        dtype = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
        state[key] = torch.tensor(number, dtype=dtype).expand(shape)
    path = folder / f"{layout}.pth"
    # What the release calls its classes is another order than the one it was trained in.
    meta = {"CLASSES": ("pedestrian", "rider", "car", "bus", "truck", "bicycle")}
    torch.save({"state_dict": state, "meta": meta}, path)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """Where to write, removed again: a published model has 227 MB."""
    path = tmp_path / "out.safetensors"
    yield path
    path.unlink(missing_ok=True)


def run(layout: str, checkpoint: Path, output: Path, *further: str) -> int:
    arguments = ["--layout", layout, str(checkpoint), str(output), *further]
    return command.run(import_weights.main, arguments)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.slow
@pytest.mark.parametrize("layout", MANIFESTS)
def test_a_published_layout_becomes_weights_that_carry_their_config(
    shared: Path, tmp_path: Path, output: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default class order is that of the label files, whatever the checkpoint calls it."""
    checkpoint = write_checkpoint(shared, tmp_path, layout)
    assert run(layout, checkpoint, output) == 0
    assert "classes pedestrian, rider, car, truck, bus, train, mot" in capsys.readouterr().out
    model, metadata = load_weights(output)
    assert metadata.origin == layout
    assert model.config.classes == SCALABEL_ORDER
    assert model.config.input.channels == {"mmdet": "rgb", "vis4d": "bgr"}[layout]
    assert model.config.detector.pooling.level_rule == layout
    given = torch.load(checkpoint, weights_only=True)["state_dict"]
    stem = model.state_dict()["detector.backbone.conv1.weight"]
    assert torch.equal(stem, given[STEM[layout]])


@pytest.mark.slow
def test_another_class_order_is_given_by_name(
    shared: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(shared, tmp_path, "mmdet")
    assert run("mmdet", checkpoint, output, "--classes", "car", "bus") == 1
    assert "does not fit the model" in error_line(capsys)
    assert not output.exists()
    order = SCALABEL_ORDER[::-1]
    assert run("mmdet", checkpoint, output, "--classes", *order) == 0
    assert load_weights(output).model.config.classes == order


def test_an_existing_file_is_kept_unless_forced(
    shared: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output.write_text("precious")
    checkpoint = write_checkpoint(shared, tmp_path, "mmdet")
    assert run("mmdet", checkpoint, output) == 1
    assert error_line(capsys).endswith("exists; name another file or give --force")
    assert run("vis4d", checkpoint, output, "--force") == 1  # gets as far as the layout
    assert "layout" in error_line(capsys)
    assert output.read_text() == "precious"


def test_the_wrong_layout_is_one_line_that_names_the_right_one(
    shared: Path, tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(shared, tmp_path, "vis4d")
    assert run("mmdet", checkpoint, output) == 1
    assert "all of them are of layout 'vis4d'" in error_line(capsys)
    assert not output.exists()


def test_a_malicious_pickle_is_one_line_and_is_not_run(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "payload-ran"
    checkpoint = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "meta": Payload(trace)}, checkpoint)
    assert run("mmdet", checkpoint, output) == 1
    assert "nothing of it was run" in error_line(capsys)
    assert not trace.exists()
    assert not output.exists()
    torch.load(checkpoint, weights_only=False)
    assert trace.exists()  # the payload is a real one


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mmdet", tmp_path / "absent.pth", output) == 1
    assert "absent.pth" in error_line(capsys)
