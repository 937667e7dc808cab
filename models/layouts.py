"""State keys of published releases, and how they are called here.

A layout is a list of patterns; a key that no pattern takes is an error, and so is a name of ours
that no key filled. Values never change: both releases of QDTrack keep the background last, the
deltas of a class together and the (channel, row, column) order of flattened features, as we do.
"""

import re
from collections.abc import Mapping
from itertools import product
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from models.backbones.resnet import BOTTLENECK_DEPTHS, STAGE_BLOCKS
from models.pointtrack.layout import OFFICIAL_KEYS
from models.registry import build_model, model_of_layout

Layout = Literal["mmdet", "vis4d", "spatial_embedding", "pointtrack"]
LAYOUTS: Final[tuple[Layout, ...]] = get_args(Layout)

COUNTER_SUFFIX: Final = ".num_batches_tracked"
"""Ends the names of batch norms' step counters, which nothing reads once training is over."""

_NAMES_SHOWN: Final = 8

_MMDET: Final = (
    (r"backbone\.(.+)", r"detector.backbone.\1"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(weight|bias)", r"detector.pyramid.lateral.\1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(weight|bias)", r"detector.pyramid.output.\1.\2"),
    (r"rpn_head\.rpn_conv\.(weight|bias)", r"detector.rpn.hidden.\1"),
    (r"rpn_head\.rpn_cls\.(weight|bias)", r"detector.rpn.objectness.\1"),
    (r"rpn_head\.rpn_reg\.(weight|bias)", r"detector.rpn.box_deltas.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.(\d)\.(weight|bias)", r"detector.roi_head.hidden.\1.\2"),
    (r"roi_head\.bbox_head\.fc_cls\.(weight|bias)", r"detector.roi_head.class_logits.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(weight|bias)", r"detector.roi_head.box_deltas.\1"),
    (r"roi_head\.track_head\.convs\.(\d)\.conv\.weight", r"embedding_head.convs.\1.weight"),
    (r"roi_head\.track_head\.convs\.(\d)\.gn\.(weight|bias)", r"embedding_head.norms.\1.\2"),
    (r"roi_head\.track_head\.fcs\.(\d)\.(weight|bias)", r"embedding_head.hidden.\1.\2"),
    (r"roi_head\.track_head\.fc_embed\.(weight|bias)", r"embedding_head.output.\1"),
)

_VIS4D: Final = (
    (r"basemodel\.(.+)", r"detector.backbone.\1"),
    (r"fpn\.inner_blocks\.(\d)\.0\.(weight|bias)", r"detector.pyramid.lateral.\1.\2"),
    (r"fpn\.layer_blocks\.(\d)\.0\.(weight|bias)", r"detector.pyramid.output.\1.\2"),
    (r"faster_rcnn_head\.rpn_head\.rpn_conv\.(weight|bias)", r"detector.rpn.hidden.\1"),
    (r"faster_rcnn_head\.rpn_head\.rpn_cls\.(weight|bias)", r"detector.rpn.objectness.\1"),
    (r"faster_rcnn_head\.rpn_head\.rpn_box\.(weight|bias)", r"detector.rpn.box_deltas.\1"),
    (
        r"faster_rcnn_head\.roi_head\.shared_fcs\.(\d)\.(weight|bias)",
        r"detector.roi_head.hidden.\1.\2",
    ),
    (r"faster_rcnn_head\.roi_head\.fc_cls\.(weight|bias)", r"detector.roi_head.class_logits.\1"),
    (r"faster_rcnn_head\.roi_head\.fc_reg\.(weight|bias)", r"detector.roi_head.box_deltas.\1"),
    (r"qdtrack_head\.similarity_head\.convs\.(\d)\.weight", r"embedding_head.convs.\1.weight"),
    (
        r"qdtrack_head\.similarity_head\.convs\.(\d)\.norm\.(weight|bias)",
        r"embedding_head.norms.\1.\2",
    ),
    (
        r"qdtrack_head\.similarity_head\.fcs\.(\d)\.0\.(weight|bias)",
        r"embedding_head.hidden.\1.\2",
    ),
    (r"qdtrack_head\.similarity_head\.fc_embed\.(weight|bias)", r"embedding_head.output.\1"),
)

_ERFNET_BLOCKS: Final = (
    (r"encoder\.initial_block", r"encoder.stem"),
    (r"encoder\.layers\.(?P<block>\d+)", r"encoder.blocks.\g<block>"),
    (r"decoders\.0\.layers\.(?P<block>\d+)", r"shape_decoder.blocks.\g<block>"),
    (r"decoders\.1\.layers\.(?P<block>\d+)", r"seed_decoder.blocks.\g<block>"),
)
_ERFNET_LAYERS: Final = (
    (r"conv\.(?P<value>\w+)", r"conv.\g<value>"),
    (r"conv3x1_(?P<half>[12])\.(?P<value>\w+)", r"vertical\g<half>.\g<value>"),
    (r"conv1x3_(?P<half>[12])\.(?P<value>\w+)", r"horizontal\g<half>.\g<value>"),
    (r"bn(?P<half>[12]?)\.(?P<value>\w+)", r"norm\g<half>.\g<value>"),
)

_SPATIAL_EMBEDDING: Final = (
    (r"encoder\.output_conv\.(weight|bias)", r"encoder.unused_output.\1"),
    (r"decoders\.0\.output_conv\.(weight|bias)", r"shape_decoder.output.\1"),
    (r"decoders\.1\.output_conv\.(weight|bias)", r"seed_decoder.output.\1"),
    *(
        (rf"{block}\.{layer}", f"{our_block}.{our_layer}")
        for (block, our_block), (layer, our_layer) in product(_ERFNET_BLOCKS, _ERFNET_LAYERS)
    ),
)

_PATTERNS: Final = {
    "mmdet": _MMDET,
    "vis4d": _VIS4D,
    "spatial_embedding": _SPATIAL_EMBEDDING,
    "pointtrack": tuple((re.escape(key), name) for key, name in OFFICIAL_KEYS.items()),
}


def rename_keys(state_dict: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The same tensors under our names.

    Wrappers that stand in front of every key (`module.` of distributed training, `model.` of a
    training module) are dropped. The mmdet layout of 2022, told by its `detector.` keys, is
    brought to that of 2021 first.

    Raises:
        ValueError: keys that the layout does not have; they are named.
    """
    state = _without_wrappers(state_dict)
    if layout == "mmdet" and any(key.startswith("detector.") for key in state):
        state = {_mmdet_2021_key(key): value for key, value in state.items()}
    renamed, unused = {}, []
    for key, value in state.items():
        name = _rename(key, layout)
        if name is None:
            unused.append(key)
        else:
            renamed[name] = value
    if unused:
        raise ValueError(
            f"{len(unused)} of {len(state)} keys are not of layout {layout!r}: "
            f"{list_names(unused)}{_other_layout_hint(state, layout)}"
        )
    return renamed


def expected_names(renamed: Mapping[str, Tensor], layout: Layout) -> list[str]:
    """State names of the layout's model; QDTrack's backbone is as deep as the one in `renamed`.

    Raises:
        ValueError: the blocks of the backbone are those of no known depth.
    """
    name = model_of_layout(layout)
    config: dict[str, Any] = {}
    if name == "qdtrack_frcnn":
        config = {"detector": {"backbone": {"depth": _backbone_depth(renamed)}}}
    with torch.device("meta"):
        model = build_model(name, layout=layout, **config)
    return list(model.state_dict())


def list_names(names: list[str]) -> str:
    """The first few names, and how many more there are.

    >>> list_names(["a", "b"])
    'a, b'
    """
    hidden = len(names) - _NAMES_SHOWN
    more = f" and {hidden} more" if hidden > 0 else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _without_wrappers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state_dict)
    for wrapper in ("module.", "model.", "module."):  # either may be the outer one
        if state and all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _mmdet_2021_key(key: str) -> str:
    if key.startswith("detector."):
        return key.removeprefix("detector.")
    if key.startswith("track_head.track_head."):
        return "roi_head." + key.removeprefix("track_head.")
    return f"{key} (beside detector.* keys)"


def _rename(key: str, layout: Layout) -> str | None:
    for pattern, replacement in _PATTERNS[layout]:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    return None


def _other_layout_hint(state: Mapping[str, Tensor], layout: Layout) -> str:
    for other in LAYOUTS:
        if other != layout and all(_rename(key, other) for key in state):
            return f"; all of them are of layout {other!r}"
    return ""


def _backbone_depth(renamed: Mapping[str, Tensor]) -> int:
    blocks = [0, 0, 0, 0]
    has_bottlenecks = False
    for name in renamed:
        match = re.match(r"detector\.backbone\.layer([1-4])\.(\d+)\.", name)
        if match:
            stage = int(match[1]) - 1
            blocks[stage] = max(blocks[stage], int(match[2]) + 1)
            has_bottlenecks = has_bottlenecks or ".conv3." in name
    for depth, known in STAGE_BLOCKS.items():
        if tuple(blocks) == known and (depth in BOTTLENECK_DEPTHS) == has_bottlenecks:
            return depth
    raise ValueError(
        f"the backbone's stages have {blocks} blocks, expected those of a residual network of "
        f"depth {', '.join(str(depth) for depth in STAGE_BLOCKS)}: the checkpoint is incomplete"
    )
