"""The released SpatialEmbedding network, straight from its description: keys, shapes and layers."""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

DOWNS = (("initial_block", 3, 16), ("layers.0", 16, 64), ("layers.6", 64, 128))
UPS = tuple(
    (f"decoders.{decoder}.layers.{block}", before, after)
    for decoder in (0, 1)
    for block, before, after in ((0, 128, 64), (3, 64, 16))
)
FACTORISED = {
    **{f"encoder.layers.{block}": 64 for block in range(1, 6)},
    **{f"encoder.layers.{block}": 128 for block in range(7, 15)},
    **{f"decoders.{decoder}.layers.{block}": 64 for decoder in (0, 1) for block in (1, 2)},
    **{f"decoders.{decoder}.layers.{block}": 16 for decoder in (0, 1) for block in (4, 5)},
}


def random_state(seed: int = 0) -> State:
    """Keys and shapes of the release, written down from its description, with random values."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, (shape, out) in layers().items():
        fan_in = torch.Size(shape).numel() // out
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * fan_in**-0.5
        state[f"{name}.bias"] = torch.randn(out, generator=generator) * 0.1
    for name, channels in norms().items():
        state[f"{name}.weight"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=generator) * 0.1
        # Small, so that the epsilon of the norm counts.
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) * 0.05
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return state


def layers() -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape of the weight and number of output channels of every convolution."""
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    for name, before, after in DOWNS:
        found[f"encoder.{name}.conv"] = (after - before, before, 3, 3), after - before
    for name, channels in FACTORISED.items():
        for half in "12":
            found[f"{name}.conv3x1_{half}"] = (channels, channels, 3, 1), channels
            found[f"{name}.conv1x3_{half}"] = (channels, channels, 1, 3), channels
    for name, before, after in UPS:
        found[f"{name}.conv"] = (before, after, 3, 3), after
    found["encoder.output_conv"] = (5, 128, 1, 1), 5
    found["decoders.0.output_conv"] = (16, 4, 2, 2), 4
    found["decoders.1.output_conv"] = (16, 1, 2, 2), 1
    return found


def norms() -> dict[str, int]:
    """Channels of every norm."""
    found = {f"encoder.{name}.bn": after for name, _, after in DOWNS}
    found |= {f"{name}.bn{half}": n for name, n in FACTORISED.items() for half in "12"}
    return found | {f"{name}.bn": after for name, _, after in UPS}


def run_layers(state: State, images: Tensor) -> Tensor:
    """The released network in evaluation mode, straight from its description."""

    def norm(name: str, x: Tensor) -> Tensor:
        values = (state[f"{name}.{part}"] for part in ("running_mean", "running_var"))
        return F.batch_norm(x, *values, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)

    def weights(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def down(name: str, x: Tensor) -> Tensor:
        convolved = F.conv2d(x, *weights(f"{name}.conv"), stride=2, padding=1)
        return norm(f"{name}.bn", torch.cat([convolved, F.max_pool2d(x, 2, 2)], dim=1)).relu()

    def factorised(name: str, x: Tensor, dilation: int) -> Tensor:
        y = F.conv2d(x, *weights(f"{name}.conv3x1_1"), padding=(1, 0)).relu()
        y = norm(f"{name}.bn1", F.conv2d(y, *weights(f"{name}.conv1x3_1"), padding=(0, 1))).relu()
        d = dilation
        y = F.conv2d(y, *weights(f"{name}.conv3x1_2"), padding=(d, 0), dilation=(d, 1)).relu()
        y = F.conv2d(y, *weights(f"{name}.conv1x3_2"), padding=(0, d), dilation=(1, d))
        return (norm(f"{name}.bn2", y) + x).relu()

    def up(name: str, x: Tensor) -> Tensor:
        conv = weights(f"{name}.conv")
        y = F.conv_transpose2d(x, *conv, stride=2, padding=1, output_padding=1)
        return norm(f"{name}.bn", y).relu()

    x = down("encoder.layers.0", down("encoder.initial_block", images))
    for block in range(1, 6):
        x = factorised(f"encoder.layers.{block}", x, 1)
    x = down("encoder.layers.6", x)
    for block, dilation in zip(range(7, 15), (2, 4, 8, 16) * 2, strict=True):
        x = factorised(f"encoder.layers.{block}", x, dilation)
    outputs = []
    for decoder in ("decoders.0", "decoders.1"):
        y = x
        for block in range(6):
            name = f"{decoder}.layers.{block}"
            y = up(name, y) if block in (0, 3) else factorised(name, y, 1)
        outputs.append(F.conv_transpose2d(y, *weights(f"{decoder}.output_conv"), stride=2))
    return torch.cat(outputs, dim=1)
