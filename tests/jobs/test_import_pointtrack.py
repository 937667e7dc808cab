"""PointTrack's two published checkpoints become weights; what they do not say has to be given."""

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jobs import command, import_weights
from models.pointtrack.config import PointTrackConfig, SpatialEmbeddingConfig
from models.pointtrack.layout import OFFICIAL_KEYS
from models.pointtrack.network import PointTrackNet
from models.pointtrack.segmentation import SpatialEmbedding
from models.weights import load_weights
from tests.released_erfnet import random_state, run_layers

pytestmark = pytest.mark.usefixtures("one_thread")

LAYOUTS = ("spatial_embedding", "pointtrack")


def association_state() -> dict[str, Tensor]:
    """Random values under the release's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        ours = PointTrackNet(PointTrackConfig()).state_dict()
        return {
            key: torch.rand(ours[name].shape).to(ours[name].dtype)
            for key, name in OFFICIAL_KEYS.items()
        }


def write_checkpoint(folder: Path, layout: str) -> Path:
    """As the release saves it: wrapped for several GPUs, beside optimiser and history."""
    state = random_state() if layout == "spatial_embedding" else association_state()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    path = folder / f"{layout}.pth"
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).state_dict()
    content = {"epoch": 99, "best_iou": 0.8, "model_state_dict": wrapped}
    torch.save({**content, "optim_state_dict": optimizer, "logger_data": [[1.0]]}, path)
    return path


def run(layout: str, checkpoint: Path, output: Path, *further: str) -> int:
    arguments = ["--layout", layout, str(checkpoint), str(output), *further]
    return command.run(import_weights.main, arguments)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


@pytest.mark.parametrize(
    ("class_name", "min_pixels"), [("car", 160), ("pedestrian", 192), ("tram", 160)]
)
def test_the_segmentation_carries_its_class_and_its_limit(
    tmp_path: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    class_name: str,
    min_pixels: int,
) -> None:
    checkpoint = write_checkpoint(tmp_path, "spatial_embedding")
    assert run("spatial_embedding", checkpoint, output, "--class-name", class_name) == 0
    assert capsys.readouterr().out.endswith(f": 433 tensors, classes {class_name}\n")
    model, metadata = load_weights(output, SpatialEmbedding)
    assert metadata.origin == "pointtrack"
    assert model.config == SpatialEmbeddingConfig(class_name=class_name, min_pixels=min_pixels)
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = run_layers(random_state(), images)
        assert torch.allclose(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("class_name", ["car", "pedestrian"])
def test_the_association_carries_its_class(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str], class_name: str
) -> None:
    checkpoint = write_checkpoint(tmp_path, "pointtrack")
    assert run("pointtrack", checkpoint, output, "--class-name", class_name) == 0
    assert capsys.readouterr().out.endswith(f": 104 tensors, classes {class_name}\n")
    model, metadata = load_weights(output, PointTrackNet)
    assert metadata.origin == "pointtrack"
    assert model.config == PointTrackConfig(class_name=class_name)
    found = model.state_dict()
    for key, value in association_state().items():
        assert torch.equal(found[OFFICIAL_KEYS[key]], value), key


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("further", [(), ("--classes", "car")], ids=["none", "classes"])
def test_the_class_has_to_be_given(
    tmp_path: Path,
    output: Path,
    capsys: pytest.CaptureFixture[str],
    layout: str,
    further: tuple[str, ...],
) -> None:
    checkpoint = write_checkpoint(tmp_path, layout)
    assert run(layout, checkpoint, output, *further) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --layout {layout} is of a network of one class")
    assert "give --class-name car or --class-name pedestrian" in line
    assert not output.exists()


@pytest.mark.parametrize(("layout", "other"), [LAYOUTS, LAYOUTS[::-1]])
def test_the_other_layout_is_named(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str], layout: str, other: str
) -> None:
    checkpoint = write_checkpoint(tmp_path, layout)
    assert run(other, checkpoint, output, "--class-name", "car") == 1
    assert f"all of them are of layout '{layout}'" in capsys.readouterr().err
    assert not output.exists()


def test_one_class_is_nothing_for_the_other_networks(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"basemodel.conv1.weight": torch.zeros(1)}}, buffer)
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    assert run("mmdet", tmp_path / "a.pth", output, "--class-name", "car") == 1
    assert capsys.readouterr().err.startswith("error: ")
    checkpoint = write_checkpoint(tmp_path, "pointtrack")
    assert run("pointtrack", checkpoint, output, "--classes", "car", "--class-name", "car") == 1
    assert "and no --classes" in capsys.readouterr().err


def test_a_checkpoint_with_a_missing_tensor_is_refused(
    tmp_path: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_checkpoint(tmp_path, "pointtrack")
    content = torch.load(checkpoint, weights_only=True)
    del content["model_state_dict"]["module.point_feat.conv4_bn.running_mean"]
    torch.save(content, checkpoint)
    assert run("pointtrack", checkpoint, output, "--class-name", "car") == 1
    assert "foreground.average.norms.0.running_mean" in capsys.readouterr().err
    assert not output.exists()
