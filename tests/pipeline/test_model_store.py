"""Weights in the store: adopted once whatever they are called, loaded as they were written."""

import shutil
from pathlib import Path

import pytest
import torch

from models.config_io import config_to_dict
from models.qdtrack.model import QDTrack
from models.weights import load_weights, save_weights
from pipeline.model_store import MODEL_PART, adopt_weights, keep_model, load_model, model_file
from pipeline.store import Artefact, StoreError
from tests.small_model import MODEL


@pytest.fixture(scope="module")
def model() -> QDTrack:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return QDTrack(MODEL).eval()


@pytest.fixture
def path(model: QDTrack, tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    save_weights(path, model, origin="mmdet")
    return path


def assert_equal(one: QDTrack, other: QDTrack) -> None:
    assert one.config == other.config
    expected = other.state_dict()
    assert one.state_dict().keys() == expected.keys()
    for name, value in one.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_adopted_weights_are_a_copy(model: QDTrack, path: Path, tmp_path: Path) -> None:
    artefact = adopt_weights(path, str(tmp_path / "root"), "bdd100k")
    assert artefact.folder.startswith(f"{tmp_path}/root/weights/bdd100k/adopted/")
    assert artefact.sequences() == [MODEL_PART]
    details = artefact.details()
    assert (details["source"], details["origin"]) == ("mine.safetensors", "mmdet")
    assert details["model"] == config_to_dict(MODEL)
    artefact.part(MODEL_PART).verify()
    path.unlink()
    loaded = load_model(artefact)
    assert not loaded.training
    assert_equal(loaded, model)


def test_the_same_weights_under_another_name_are_the_same(path: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    first = adopt_weights(path, root, "bdd100k")
    written = Path(first.folder, "manifest.json").stat().st_mtime_ns
    renamed = path.with_name("theirs.safetensors")
    path.rename(renamed)
    again = adopt_weights(renamed, root, "bdd100k")
    assert again == first
    assert Path(first.folder, "manifest.json").stat().st_mtime_ns == written
    assert again.details()["source"] == "mine.safetensors"


def test_other_weights_under_the_same_name_are_others(path: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    first = adopt_weights(path, root, "bdd100k")
    other = load_weights(path).model
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_weights(path, other)
    second = adopt_weights(path, root, "bdd100k")
    assert second.fingerprint != first.fingerprint
    assert_equal(load_model(second), other)


def test_an_interrupted_copy_is_made_again(model: QDTrack, path: Path, tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    artefact = adopt_weights(path, root, "bdd100k")
    Path(artefact.folder, "manifest.json").unlink()
    shutil.rmtree(artefact.part(MODEL_PART).folder)
    assert_equal(load_model(adopt_weights(path, root, "bdd100k")), model)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x02}q\x00."])
def test_a_file_that_is_not_ours_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.pth.*python -m jobs\.import_weights"):
        adopt_weights(path, str(tmp_path / "root"), "bdd100k")
    assert not (tmp_path / "root").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        adopt_weights(tmp_path / "absent.safetensors", str(tmp_path / "root"), "bdd100k")


def test_weights_that_no_stage_finished_are_named(tmp_path: Path) -> None:
    artefact = Artefact(
        root=str(tmp_path), stage="weights", dataset="d", split="train", fingerprint="f" * 16
    )
    with pytest.raises(StoreError, match="no finished part for 'model'"):
        load_model(artefact)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_trained_model_is_kept(model: QDTrack, tmp_path: Path, prefix: str) -> None:
    artefact = Artefact(
        root=f"{prefix}{tmp_path}", stage="weights", dataset="d", split="train", fingerprint="f"
    )
    keep_model(artefact, model)
    assert artefact.manifest() is None  # whoever trained it says when it is finished
    assert_equal(load_model(artefact), model)
    with model_file(artefact) as path:
        assert load_weights(path).metadata.origin == "quasar"


def test_weights_with_a_changed_bit_are_refused(path: Path, tmp_path: Path) -> None:
    artefact = adopt_weights(path, str(tmp_path / "root"), "bdd100k")
    (stored,) = Path(artefact.folder).rglob("*.safetensors")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    with pytest.raises(StoreError, match="content changed since it was written"):
        load_model(artefact)
