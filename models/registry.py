"""Models by name."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from models.config_io import config_from_dict, config_to_dict
from models.qdtrack.config import QDTrackConfig
from models.qdtrack.model import QDTrack

_VARIANTS: Final[dict[str, dict[str, Callable[[], QDTrackConfig]]]] = {
    "qdtrack_frcnn": {"mmdet": QDTrackConfig, "vis4d": QDTrackConfig.vis4d},
}
"""Per model, the published configurations by the code base that released them."""


def build_model(name: str, *, layout: str = "mmdet", **config: Any) -> QDTrack:
    """A model in evaluation mode whose weights are random, from torch's global generator.

    Nothing is loaded here: see `models.weights` for trained weights and for the backbone's.

    Args:
        name: "qdtrack_frcnn".
        layout: the release whose conventions are the defaults, "mmdet" or "vis4d".
        **config: fields of the model's config to change, each as the config object itself or as
            a plain dictionary of the fields to change in it.

    Raises:
        ValueError: an unknown name, layout or field (the nearest names are listed), or a value
            that its config refuses.
    """
    return QDTrack(model_config(name, layout=layout, **config)).eval()


def model_config(name: str, *, layout: str = "mmdet", **config: Any) -> QDTrackConfig:
    """The complete config that `build_model` would build from.

    >>> model_config("qdtrack_frcnn", detector={"rpn": {"max_proposals": 300}}).detector.rpn.nms_iou
    0.7
    """
    if name not in _VARIANTS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(_VARIANTS)}")
    variants = _VARIANTS[name]
    if layout not in variants:
        raise ValueError(f"unknown layout {layout!r} of {name}; known: {', '.join(variants)}")
    base = variants[layout]()
    return config_from_dict(type(base), _merge(config_to_dict(base), config))


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        inner = base.get(name)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[name] = _merge(inner, value)
        else:
            merged[name] = value
    return merged
