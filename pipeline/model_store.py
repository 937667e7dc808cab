"""Weights as artefacts: how training keeps them, how a user's file joins, how workers load them."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from models.config_io import config_to_dict
from pipeline.locations import is_local, open_filesystem
from pipeline.store import Artefact

if TYPE_CHECKING:
    from torch import nn

    from models.qdtrack.model import QDTrack
    from models.weights import Network, Origin

STAGE: Final = "weights"
MODEL_PART: Final = "model"
MODEL_FILE: Final = "model.safetensors"

_ADOPTED_SPLIT: Final = "adopted"
_FINGERPRINT_DIGITS: Final = 16


def adopt_weights(path: Path, root: str, dataset: str) -> Artefact:
    """Copy a weights file into the store, so that workers on every node can load it.

    The fingerprint is of the file's content: the same weights under another name are the same.

    Raises:
        ValueError: not a weights file of ours; says how to convert one.
        FileNotFoundError: no such file.
    """
    from models.weights import read_metadata

    metadata = read_metadata(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    artefact = Artefact(
        root=root,
        stage=STAGE,
        dataset=dataset,
        split=_ADOPTED_SPLIT,
        fingerprint=digest[:_FINGERPRINT_DIGITS],
    )
    if not artefact.is_complete():
        _copy_in(artefact, path)
        details = {"source": path.name, "origin": metadata.origin}
        artefact.finish([MODEL_PART], details | {"model": config_to_dict(metadata.config)})
    return artefact


def keep_model(artefact: Artefact, model: "nn.Module", origin: "Origin" = "quasar") -> None:
    """Write a trained model into its artefact; `finish` is left to the caller."""
    from models.weights import save_weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        save_weights(path, model, origin=origin)
        _copy_in(artefact, path)


def load_model(artefact: Artefact, device: str = "cpu") -> "QDTrack":
    """The quasi-dense network of a weights artefact; see `load_network`."""
    from models.qdtrack.model import QDTrack

    return load_network(artefact, QDTrack, device)


def load_network(artefact: Artefact, network: "type[Network]", device: str = "cpu") -> "Network":
    """The network of a weights artefact on a device, in evaluation mode.

    Raises:
        ValueError: the weights are of another kind of network.
    """
    from models.weights import load_weights

    with model_file(artefact) as path:
        model = load_weights(path, network).model
    return model.to(device)


@contextmanager
def model_file(artefact: Artefact) -> Iterator[Path]:
    """A local path of the weights file, for as long as the block lasts."""
    part = artefact.part(MODEL_PART)
    part.verify()  # says what is missing or changed; a wrong bit here would spoil every score
    if is_local(artefact.root):
        yield Path(open_filesystem(part.folder)[1]) / MODEL_FILE
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        with part.open_input(MODEL_FILE) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield path


def _copy_in(artefact: Artefact, path: Path) -> None:
    with (
        path.open("rb") as source,
        artefact.part(MODEL_PART).write() as writer,
        writer.open_file(MODEL_FILE) as sink,
    ):
        while chunk := source.read(1 << 20):
            sink.write(chunk)
