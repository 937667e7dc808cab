"""Models by name."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

from torch import nn

from models.config_io import config_from_dict, config_to_dict
from models.pointtrack.config import PointTrackConfig, SpatialEmbeddingConfig
from models.pointtrack.network import PointTrackNet
from models.pointtrack.segmentation import SpatialEmbedding
from models.qdtrack.config import QDTrackConfig
from models.qdtrack.model import QDTrack

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class ModelKind(NamedTuple):
    """What belongs to the name of a model."""

    network: Callable[[Any], nn.Module]
    """Its class: built from the config alone, which it keeps as `config`."""
    config: "type[DataclassInstance]"
    """Class of its config."""
    layouts: "Mapping[str, Callable[[], DataclassInstance]]"
    """The published configurations by the code base that released them, the usual one first."""


MODELS: Final[dict[str, ModelKind]] = {
    "qdtrack_frcnn": ModelKind(
        QDTrack, QDTrackConfig, {"mmdet": QDTrackConfig, "vis4d": QDTrackConfig.vis4d}
    ),
    "spatial_embedding": ModelKind(
        SpatialEmbedding, SpatialEmbeddingConfig, {"spatial_embedding": SpatialEmbeddingConfig}
    ),
    "pointtrack": ModelKind(PointTrackNet, PointTrackConfig, {"pointtrack": PointTrackConfig}),
}
"""Every model that weights can be of."""


@overload
def build_model(
    name: Literal["qdtrack_frcnn"], *, layout: str | None = None, **config: Any
) -> QDTrack: ...
@overload
def build_model(
    name: Literal["spatial_embedding"], *, layout: str | None = None, **config: Any
) -> SpatialEmbedding: ...
@overload
def build_model(
    name: Literal["pointtrack"], *, layout: str | None = None, **config: Any
) -> PointTrackNet: ...
@overload
def build_model(name: str, *, layout: str | None = None, **config: Any) -> nn.Module: ...
def build_model(name: str, *, layout: str | None = None, **config: Any) -> nn.Module:
    """A model in evaluation mode whose weights are random, from torch's global generator.

    Nothing is loaded here: see `models.weights` for trained weights and for the backbone's.

    Args:
        name: "qdtrack_frcnn", "spatial_embedding" or "pointtrack".
        layout: the release whose conventions are the defaults: "mmdet", the default, or "vis4d"
            for the first; the two others have one each, of their own name.
        **config: fields of the model's config to change, each as the config object itself or as
            a plain dictionary of the fields to change in it.

    Raises:
        ValueError: an unknown name, layout or field (the nearest names are listed), or a value
            that its config refuses.
    """
    complete = model_config(name, layout=layout, **config)
    return MODELS[name].network(complete).eval()


def model_config(name: str, *, layout: str | None = None, **config: Any) -> Any:
    """The complete config that `build_model` would build from, an object of the model's own class.

    >>> model_config("qdtrack_frcnn", detector={"rpn": {"max_proposals": 300}}).detector.rpn.nms_iou
    0.7
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    layouts = MODELS[name].layouts
    if layout is None:
        layout = next(iter(layouts))
    if layout not in layouts:
        raise ValueError(f"unknown layout {layout!r} of {name}; known: {', '.join(layouts)}")
    base = layouts[layout]()
    return config_from_dict(type(base), _merge(config_to_dict(base), config))


def name_of(model: nn.Module) -> str:
    """The name that a model has here.

    Raises:
        ValueError: it has none; says of which class it is.

    >>> name_of(build_model("spatial_embedding"))
    'spatial_embedding'
    """
    for name, kind in MODELS.items():
        if type(model) is kind.network:
            return name
    raise ValueError(f"{type(model).__name__} is no model of ours; known: {', '.join(MODELS)}")


def model_of_layout(layout: str) -> str:
    """Name of the model that a code base released under this layout.

    >>> model_of_layout("vis4d")
    'qdtrack_frcnn'
    """
    return next(name for name, kind in MODELS.items() if layout in kind.layouts)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        inner = base.get(name)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[name] = _merge(inner, value)
        else:
            merged[name] = value
    return merged
