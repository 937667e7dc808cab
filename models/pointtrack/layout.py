"""State keys of the released association network, and how they are called here.

Values never change: both sides keep every layer's channels in the same order.
"""

from collections.abc import Iterator, Mapping
from typing import Final

_PREFIX: Final = "point_feat."

_LAYERS: Final = {
    "conv1": "foreground.offsets.convs.0",
    "conv2": "foreground.offsets.convs.1",
    "conv3": "foreground.offsets.convs.2",
    "e_conv1": "foreground.colours.convs.0",
    "e_conv2": "foreground.colours.convs.1",
    "e_conv3": "foreground.colours.convs.2",
    "conv4": "foreground.average.convs.0",
    "conv5": "foreground.average.convs.1",
    "conv6": "foreground.average.convs.2",
    "conv7": "foreground.maximum.convs.0",
    "conv8": "foreground.maximum.convs.1",
    "conv9": "foreground.maximum.convs.2",
    "conv_weight": "foreground.weighting",
    "borderConv.conv1": "environment.offsets.convs.0",
    "borderConv.conv2": "environment.offsets.convs.1",
    "borderConv.conv3": "environment.offsets.convs.2",
    "borderConv.e_conv1": "environment.colours.convs.0",
    "borderConv.e_conv2": "environment.colours.convs.1",
    "borderConv.e_conv3": "environment.colours.convs.2",
    "borderConv.t_conv1": "environment.categories.convs.0",
    "borderConv.t_conv2": "environment.categories.convs.1",
    "borderConv.t_conv3": "environment.categories.convs.2",
    "borderConv.conv4": "environment.joint.convs.0",
    "borderConv.conv5": "environment.joint.convs.1",
    "borderConv.conv6": "environment.joint.convs.2",
    "last_emb.0": "hidden",
    "last_emb.2": "output",
}
"""Layers with a weight and a bias."""

_NORMS: Final = {
    "conv1_bn": "foreground.offsets.norms.0",
    "conv2_bn": "foreground.offsets.norms.1",
    "conv3_bn": "foreground.offsets.norms.2",
    "e_conv1_bn": "foreground.colours.norms.0",
    "e_conv2_bn": "foreground.colours.norms.1",
    "e_conv3_bn": "foreground.colours.norms.2",
    "conv4_bn": "foreground.average.norms.0",
    "conv5_bn": "foreground.average.norms.1",
    "conv7_bn": "foreground.maximum.norms.0",
    "conv8_bn": "foreground.maximum.norms.1",
}
"""Norms, which also have statistics and a counter of steps."""


def _all_keys() -> Iterator[tuple[str, str]]:
    for layers, values in (
        (_LAYERS, ("weight", "bias")),
        (_NORMS, ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ):
        for official, ours in layers.items():
            for value in values:
                yield f"{_PREFIX}{official}.{value}", f"{ours}.{value}"


OFFICIAL_KEYS: Final[Mapping[str, str]] = dict(_all_keys())
"""Every key of the release, without its wrapper, and our name for it."""
