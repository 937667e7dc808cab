"""Weights on disk: ours, those of published checkpoints, and those a backbone starts from.

Our files are safetensors whose metadata holds the complete model config, so whoever loads one
needs nothing else and cannot pair it wrongly. A foreign checkpoint is a pickle: it is read with
torch's restricted unpickler and a fixed list of inert types, and then saved as one of ours.
"""

import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    cast,
    get_args,
    overload,
)

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.backbones.resnet import ResNet
from models.config_io import config_from_dict, config_to_dict
from models.layouts import COUNTER_SUFFIX, LAYOUTS, Layout, expected_names, list_names, rename_keys
from models.qdtrack.config import QDTrackConfig
from models.registry import MODELS, name_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT_VERSION: Final = 1
"""Raised by hand when what the metadata says changes its meaning."""

Origin = Literal["quasar", "mmdet", "vis4d", "pointtrack"]
"""Who trained the weights: this project, or the code base whose release they were converted from;
PointTrack released both a `spatial_embedding` and a `pointtrack` network."""

Network = TypeVar("Network", bound=nn.Module)

_METADATA_KEY: Final = "quasar_weights"
_CLASSIFIER: Final = "detector.roi_head.class_logits.weight"
_CONVERT_HINT: Final = (
    "a checkpoint of another code base is converted once with `python -m jobs.import_weights`"
)


@dataclass(frozen=True, kw_only=True)
class WeightsMetadata:
    """What a weights file says of itself."""

    model: str
    """Name of the model in `models.registry`."""
    origin: Origin
    """Who trained the weights."""
    config: "DataclassInstance"
    """The complete config, of the class that belongs to the model: all conventions, and what the
    model finds."""


class LoadedWeights(NamedTuple, Generic[Network]):
    """A model with its weights, and what the file says of it."""

    model: Network
    metadata: WeightsMetadata


def save_weights(path: str | Path, model: nn.Module, *, origin: Origin = "quasar") -> None:
    """Write the model's weights and complete config; the file appears whole or not at all.

    Args:
        path: of the file, usually ending in .safetensors; its folder must exist.
        model: one of `models.registry`, on any device.
        origin: who trained the weights.

    Raises:
        ValueError: a model that the registry does not have.
    """
    path = Path(path)
    header = {
        "version": FORMAT_VERSION,
        "model": name_of(model),
        "origin": origin,
        "config": config_to_dict(cast("DataclassInstance", model.config)),
    }
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata={_METADATA_KEY: json.dumps(header)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@overload
def load_weights(path: str | Path) -> LoadedWeights[Any]: ...
@overload
def load_weights(path: str | Path, network: type[Network]) -> LoadedWeights[Network]: ...
def load_weights(path: str | Path, network: type[nn.Module] | None = None) -> LoadedWeights[Any]:
    """Build the model that the file describes and fill it, on the CPU in evaluation mode.

    Args:
        path: of the file.
        network: the only class of model that the caller can use; any, if left out.

    Raises:
        ValueError: not a safetensors file, no or incomplete metadata of ours, tensors that are
            not exactly those of the config, or weights of another model than `network`.
        FileNotFoundError: no such file.
    """
    metadata = read_metadata(path)
    kind = MODELS[metadata.model]
    if network is not None and network is not kind.network:
        names = [name for name, other in MODELS.items() if other.network is network]
        raise ValueError(
            f"{path}: weights of the model {metadata.model!r}, expected those of "
            f"{' or '.join(map(repr, names))}"
        )
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if isinstance(metadata.config, QDTrackConfig):
        _check_class_count(state, metadata.config, where=str(path))
    with torch.device("meta"):  # no random weights that are thrown away, and no random numbers used
        model = kind.network(metadata.config)
    _check_state(state, model.state_dict(), where=str(path))
    model.load_state_dict(state, strict=True, assign=True)
    return LoadedWeights(model.eval(), metadata)


def read_metadata(path: str | Path) -> WeightsMetadata:
    """What a weights file says of itself, without reading its tensors.

    Raises:
        ValueError: not a safetensors file, or no or incomplete metadata of ours.
        FileNotFoundError: no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); {_CONVERT_HINT}") from error
    if _METADATA_KEY not in metadata:
        raise ValueError(
            f"{path}: its metadata has no {_METADATA_KEY!r}, so it was not written by this "
            f"project and nothing says which model it belongs to; {_CONVERT_HINT}"
        )
    return _parse_header(metadata[_METADATA_KEY], where=str(path))


def convert_state_dict(state_dict: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The tensors of a published model under our names, values unchanged.

    Batch norms' step counters (`num_batches_tracked`) may be absent, as in old checkpoints; they
    are then 0, which nothing reads in a published model. Everything else must be complete.

    Args:
        state_dict: of the checkpoint, with or without the prefixes of training wrappers.
        layout: "mmdet" (the key layouts of 2021 and 2022 are told apart) or "vis4d", both of
            QDTrack on Faster R-CNN, "spatial_embedding" or "pointtrack".

    Raises:
        ValueError: an unknown layout, keys that the layout does not have, or keys that are
            missing; they are named.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    converted = rename_keys(state_dict, layout)
    names = expected_names(converted, layout)
    unused = [name for name in converted if name not in set(names)]
    _fill_counters(converted, names)
    missing = [name for name in names if name not in converted]
    if missing or unused:
        raise ValueError(
            f"the checkpoint does not fit layout {layout!r}: {_differences(missing, unused)} "
            "(our names)"
        )
    return {name: converted[name] for name in names}


def read_foreign_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """State of a checkpoint written by `torch.save`, without running any code it may hold.

    The file may hold the state itself or a dictionary with an entry `state_dict` or
    `model_state_dict`; everything else in it (optimiser, meta) is dropped. Only tensors, plain
    containers, numbers, strings and NumPy values are ever built.

    Raises:
        ValueError: the file asks for anything else (it is named), is broken, or holds no state.
        FileNotFoundError: no such file.
    """
    try:
        with torch.serialization.safe_globals(_inert_types()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: {_unpickling_problem(str(error))}") from error
    except OSError:
        raise
    except Exception as error:  # whatever the unpickler stumbles over in bytes that are no pickle
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: a damaged file, or no checkpoint at all ({reason})") from error
    state = _find_state(checkpoint)
    if not isinstance(state, dict) or not state:
        raise ValueError(
            f"{path}: holds {type(checkpoint).__name__}, expected a state dictionary or a "
            "dictionary with an entry 'state_dict' or 'model_state_dict'"
        )
    strange = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(
            f"{path}: expected only tensors in the state, found something else under "
            f"{list_names(strange)}"
        )
    return dict(state)


def load_backbone_weights(model: nn.Module, source: str | Path | None) -> None:
    """Fill the model's residual network with ImageNet weights in torchvision's layout.

    Args:
        model: holds one `ResNet` with batch norms, frozen or not.
        source: path of a file with the state of torchvision's ResNet, its classifier `fc`
            included or not; or "torchvision" for torchvision's own download (ImageNet-1k V1).

    Raises:
        ValueError: no source, or weights that do not fit exactly.
        OSError: the download failed.
    """
    backbone = next(module for module in model.modules() if isinstance(module, ResNet))
    if source is None:
        raise ValueError(
            "backbone_weights is not set, and this recipe does not train a backbone from random "
            "weights: give the path of a torchvision ResNet state, or 'torchvision' to download it"
        )
    if backbone.config.norm == "group":
        raise ValueError(
            "backbone_weights is set, but backbone.norm is 'group': ImageNet weights belong to "
            "batch norms; use norm 'frozen_batch' or 'batch', or train from scratch"
        )
    downloaded = str(source) == "torchvision"
    state = _download_resnet(backbone.config.depth) if downloaded else _read_state(source)
    state = {name: value for name, value in state.items() if name not in ("fc.weight", "fc.bias")}
    expected = backbone.state_dict()
    _fill_counters(state, list(expected))
    _check_state(state, expected, where=f"backbone weights {source}")
    backbone.load_state_dict(state, strict=True)


def _parse_header(text: str, *, where: str) -> WeightsMetadata:
    try:
        header: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: its metadata is not JSON ({error})") from error
    expected = {"version", "model", "origin", "config"}
    if not isinstance(header, dict) or set(header) != expected:
        raise ValueError(f"{where}: its metadata does not hold exactly {sorted(expected)}")
    if header["version"] != FORMAT_VERSION:
        raise ValueError(
            f"{where}: weights of format version {header['version']}, expected {FORMAT_VERSION}: "
            "write them again with this version of the project"
        )
    if header["model"] not in list(MODELS) or header["origin"] not in get_args(Origin):
        raise ValueError(
            f"{where}: model {header['model']!r} of origin {header['origin']!r}, expected "
            f"{' or '.join(map(repr, MODELS))} of origin {', '.join(get_args(Origin))}"
        )
    name = str(header["model"])
    try:
        config = config_from_dict(MODELS[name].config, header["config"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    # A field left out would silently take today's default.
    if config_to_dict(config) != header["config"]:
        raise ValueError(f"{where}: the config in its metadata is not complete")
    return WeightsMetadata(model=name, origin=cast(Origin, header["origin"]), config=config)


def _find_state(checkpoint: object) -> object:
    if not isinstance(checkpoint, dict):
        return None
    return checkpoint.get("state_dict", checkpoint.get("model_state_dict", checkpoint))


def _check_class_count(state: Mapping[str, Tensor], config: QDTrackConfig, *, where: str) -> None:
    expected = len(config.classes) + 1
    found = len(state[_CLASSIFIER]) if _CLASSIFIER in state else expected
    if found != expected:
        raise ValueError(
            f"{where}: its classifier tells {found - 1} classes and background apart, but the "
            f"config names {expected - 1}: {', '.join(config.classes)}"
        )


def _check_state(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str
) -> None:
    missing = [name for name in expected if name not in state]
    unused = [name for name in state if name not in expected]
    if missing or unused:
        raise ValueError(f"{where}: {_differences(missing, unused)}")
    for name, value in expected.items():
        found = state[name]
        if found.shape != value.shape or found.dtype != value.dtype:
            raise ValueError(
                f"{where}: {name} is {found.dtype} of shape {tuple(found.shape)}, expected "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )


def _differences(missing: list[str], unused: list[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing keys: {list_names(missing)}")
    if unused:
        parts.append(f"{len(unused)} unused keys: {list_names(unused)}")
    return "; ".join(parts)


def _fill_counters(state: dict[str, Tensor], names: list[str]) -> None:
    for name in names:
        if name.endswith(COUNTER_SUFFIX):
            state.setdefault(name, torch.zeros((), dtype=torch.int64))


def _inert_types() -> list[Any]:
    """What a checkpoint may build beside torch's own short list: NumPy values, which run no code.

    NumPy 2 moved the two builders of a scalar and an array; checkpoints name them by the place of
    their own time. Arrays of objects stay out.
    """
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    numbers = [np.bool_, *np.sctypeDict.values()]
    dtypes = {type(np.dtype(kind)) for kind in numbers if np.dtype(kind).kind in "biufSU"}
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *sorted(dtypes, key=lambda dtype: dtype.__name__),
    ]


def _unpickling_problem(message: str) -> str:
    culprit = re.search(r"GLOBAL (\S+)", message)
    if culprit:
        return (
            f"the checkpoint asks for {culprit[1]!r}, which is not among the inert types that are "
            "allowed; nothing of it was run. Save its state_dict alone with the code base that "
            "wrote it, and convert that file"
        )
    return f"not a checkpoint of torch.save ({message.strip().splitlines()[-1]})"


def _read_state(source: str | Path) -> dict[str, Tensor]:
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"backbone_weights is {str(source)!r}, which is no file; give the path of a "
            "torchvision ResNet state, or 'torchvision' to download it"
        )
    return read_foreign_checkpoint(path)


def _download_resnet(depth: int) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    weights = get_weight(f"ResNet{depth}_Weights.IMAGENET1K_V1")
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise OSError(
            f"could not download {weights.url}: {error}; give backbone_weights the path of a "
            "copy of that file"
        ) from error
