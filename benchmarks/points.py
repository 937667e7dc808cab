"""Instances of a frame as points and as embeddings, beside a plain loop and the plain network.

    python benchmarks/points.py [--frames 20]

Made-up frames of 375 x 1242 pixels with 15 instances; one thread. Prints the time of
`frame_points` and of a plain loop that computes every candidate's values in float64 before it
draws (every frame must give the same bits), and then of sampling and network together, in float32
without gradients, beside the plain loop and the network layer by layer over the whole frame:
convolution, norm, leaky ReLU. Times are lower quartiles over the frames, because whatever else the
machine does only ever adds; both ways take turns.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read once, when NumPy is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from models.pointtrack.network import (  # noqa: E402
    PointTrackConfig,
    PointTrackNet,
    embed_positions,
)
from models.pointtrack.points import frame_points  # noqa: E402

HEIGHT, WIDTH, NUM_INSTANCES = 375, 1242, 15
TARGET_SAMPLING, TARGET_BOTH = 5.0, 1.25
TOLERANCE = 1e-4
CATEGORIES = np.array(
    [
        [0.9479751586914062, 0.4561353325843811, 0.16707628965377808],
        [0.1, -0.1, 0.1],
        [0.5455077290534973, -0.6193588972091675, -2.629554510116577],
    ]
)


def make_frame(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image, and a map of ellipses of a car's size of which some hide parts of others."""
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    v, u = np.ogrid[:HEIGHT, :WIDTH]
    while True:
        instances = np.zeros((HEIGHT, WIDTH), np.uint8)
        for number in range(1, NUM_INSTANCES + 1):
            height, width = rng.integers(25, 130), rng.integers(40, 220)
            centre_v, centre_u = rng.integers(150, 300), rng.integers(50, 1200)
            distance = ((v - centre_v) / height * 2) ** 2 + ((u - centre_u) / width * 2) ** 2
            instances[distance < 1] = number
        if len(np.unique(instances)) == NUM_INSTANCES + 1:
            return image, instances


def loop_points(
    image: np.ndarray, instances: np.ndarray, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """The same points as a person would first write it: instance by instance, all candidates."""
    points, positions = [], []
    categories = (instances > 0) * 2
    for number in np.unique(instances)[1:]:
        mask = instances == number
        rows, columns = np.nonzero(mask)
        top, bottom = rows.min(), rows.max() + 1
        left, right = columns.min(), columns.max() + 1
        positions.append([left / 1242, top / 375, (right - 1) / 1242, (bottom - 1) / 375])
        more_v, more_u = int(0.2 * (bottom - top)), int(0.2 * (right - left))
        window = (
            slice(max(0, top - more_v), min(bottom + more_v, HEIGHT - 1)),
            slice(max(0, left - more_u), min(right + more_u, WIDTH - 1)),
        )
        colours, own = image[window] / 255.0, mask[window]
        values = CATEGORIES[categories[window]]
        own_v, own_u = np.nonzero(own)
        other_v, other_u = np.nonzero(~own)
        mean_v, mean_u = own_v.mean(), own_u.mean()
        foreground = np.zeros((len(own_v), 8))
        foreground[:, :3] = colours[own_v, own_u]
        foreground[:, 3], foreground[:, 4] = (own_v - mean_v) / 128, (own_u - mean_u) / 128
        environment = np.zeros((len(other_v), 8))
        environment[:, :3] = colours[other_v, other_u]
        environment[:, 3], environment[:, 4] = (other_v - mean_v) / 128, (other_u - mean_u) / 128
        environment[:, 5:] = values[other_v, other_u]
        chosen = [
            foreground[rng.choice(len(foreground), 1000)],
            environment[rng.choice(len(environment), 500)],
        ]
        points.append(np.concatenate(chosen).astype(np.float32))
    return np.stack(points), np.array(positions, np.float32)


def plain_network(model: PointTrackNet, points: Tensor, positions: Tensor) -> Tensor:
    """The network's layers one after the other, each over all instances of the frame."""

    def run(layers: Any, values: Tensor) -> Tensor:
        for conv, norm in zip_longest(layers.convs, layers.norms):
            values = conv(values)
            values = F.leaky_relu(values if norm is None else norm(values), 0.01)
        return values

    own, around = model.foreground, model.environment
    values = points.transpose(1, 2)
    near, far = values[..., :1000], values[..., 1000:]
    features = torch.cat([run(own.offsets, near[:, 3:5]), run(own.colours, near[:, :3])], dim=1)
    average, maximum = run(own.average, features), run(own.maximum, features)
    weights = own.weighting(torch.cat([average, maximum], dim=1)).softmax(dim=2)
    parts = [
        run(around.offsets, far[:, 3:5]),
        run(around.colours, far[:, :3]),
        run(around.categories, far[:, 5:]),
    ]
    environment = run(around.joint, torch.cat(parts, dim=1))
    pooled = [
        F.avg_pool1d(average, 1000).squeeze(2),
        F.max_pool1d(maximum, 1000).squeeze(2),
        (features * weights).sum(dim=2),
        F.max_pool1d(environment, 500).squeeze(2),
        embed_positions(positions),
    ]
    embeddings: Tensor = model.output(F.leaky_relu(model.hidden(torch.cat(pooled, dim=1)), 0.01))
    return embeddings


def make_network() -> PointTrackNet:
    """The published size with random weights and statistics."""
    torch.manual_seed(0)
    model = PointTrackNet(PointTrackConfig(class_name="car")).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.05, 0.2)
    return model


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return (time.perf_counter() - start) * 1e3, result


def _quartile(times: list[float]) -> float:
    return float(np.quantile(times, 0.25))


@torch.inference_mode()
def measure(num_frames: int) -> dict[str, float]:
    """Lower quartiles in milliseconds a frame: sampling, and sampling with the network."""
    model = make_network()
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {
        name: [] for name in ("sampling", "plain sampling", "both", "plain both")
    }
    for index in range(num_frames + 1):
        image, instances = make_frame(rng)
        seeded = [np.random.RandomState(index) for _ in range(2)]
        plain_ms, plain = _timed(lambda: loop_points(image, instances, seeded[0]))  # noqa: B023
        ours_ms, ours = _timed(lambda: frame_points(image, instances, seeded[1]))  # noqa: B023
        for found, expected in zip(ours, plain, strict=True):
            assert found.tobytes() == expected.tobytes(), f"frame {index}: the loop differs"
        inputs = [torch.from_numpy(values) for values in ours]
        plain_net_ms, expected = _timed(lambda: plain_network(model, *inputs))  # noqa: B023
        net_ms, found = _timed(lambda: model(*inputs))  # noqa: B023
        furthest = float((found - expected).abs().max() / expected.abs().max())
        assert furthest < TOLERANCE, f"frame {index}: embeddings differ by {furthest:.1e}"
        if index:  # the first warms up
            times["sampling"].append(ours_ms)
            times["plain sampling"].append(plain_ms)
            times["both"].append(ours_ms + net_ms)
            times["plain both"].append(plain_ms + plain_net_ms)
    return {name: _quartile(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=20, help="frames measured (%(default)s)")
    num_frames = parser.parse_args().frames
    torch.set_num_threads(1)
    figures = measure(num_frames)
    for name, what, target in (
        ("sampling", "sampling", TARGET_SAMPLING),
        ("both", "sampling and network", TARGET_BOTH),
    ):
        ours, plain = figures[name], figures[f"plain {name}"]
        print(
            f"{NUM_INSTANCES} instances of {HEIGHT} x {WIDTH}, {what}: {ours:.2f} ms a frame, "
            f"plain {plain:.2f} ms ({plain / ours:.2f}x, target {target:g}x)"
        )


if __name__ == "__main__":
    main()
