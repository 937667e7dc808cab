"""The cost of making instances of a SpatialEmbedding prediction, beside a plain loop over seeds.

    python benchmarks/clustering.py [--repeats 100]

Prints, for maps of 375 x 1242 with 15 objects (one thread): the time of `cluster_with_scores`, of a
plain loop in torch that asks all foreground pixels at every seed, and the ratio beside its limit.
Both start from the network's raw output, both decode foreground pixels only, and both must give the
same maps, seed by seed. Times are lower quartiles over the maps, because whatever else the machine
does only ever adds; the two take turns, so that it adds to both.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read once, when NumPy is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from models.pointtrack.clustering import cluster_with_scores  # noqa: E402
from models.pointtrack.coordinates import coordinate_map  # noqa: E402
from models.pointtrack.segmentation import SpatialEmbeddingConfig  # noqa: E402

HEIGHT, WIDTH, NUM_OBJECTS = 375, 1242, 15
NUM_MAPS = 10
LIMIT = 1 / 3


def street(seed: int) -> Tensor:
    """A prediction such as a trained network gives: ellipses on the lower part of the image.

    Nearer objects are lower, larger and in front. Offsets point at the centre of the object and
    miss it by 3 % of its size; the bandwidth has the border of the object where phi is 0.5, and is
    noisy too; the seed is phi with noise. Outside, all is noise, and seeds are low.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    shape = np.zeros((4, HEIGHT, WIDTH))
    phi = np.zeros((HEIGHT, WIDTH))
    shape[:2] = rng.normal(scale=0.02, size=shape[:2].shape)
    shape[2:] = rng.normal(0.7, 0.05, size=shape[:2].shape)
    step = np.array([2 / 2047, 1 / 1023])
    lanes = rng.permutation(NUM_OBJECTS)
    for lane, half_height in zip(lanes, np.sort(rng.uniform(12, 55, NUM_OBJECTS)), strict=True):
        radius = np.array([half_height * rng.uniform(0.8, 1.6), half_height])
        column = (lane + rng.uniform(0.3, 0.7)) * WIDTH / NUM_OBJECTS
        centre = np.array([column, 150 + 2 * half_height + rng.uniform(-10, 10)])
        away = np.stack([columns - centre[0], rows - centre[1]])
        distance = ((away / radius[:, None, None]) ** 2).sum(axis=0)
        mask = distance < 1
        noise = rng.normal(scale=0.03, size=(2, mask.sum())) * radius[:, None]
        target = (noise - away[:, mask]) * step[:, None]
        shape[:2, mask] = np.arctanh(target.clip(-0.99, 0.99))
        sigma = np.log(np.log(2) / (radius * step * 0.95) ** 2) / 10
        shape[2:, mask] = sigma[:, None] + rng.normal(scale=0.005, size=target.shape)
        phi[mask] = np.exp(-np.log(2) * distance[mask] * 0.6)
    logit = np.log(np.clip(phi, 0.01, 0.99) / (1 - np.clip(phi, 0.01, 0.99)))
    logit += rng.normal(scale=0.15, size=logit.shape)
    return torch.from_numpy(np.concatenate([shape, logit[None]])).float()


def plain_loop(
    prediction: Tensor, *, seed_threshold: float, min_pixels: int
) -> tuple[Tensor, list[float]]:
    """The same as a person would first write it: every seed asks every foreground pixel."""
    seed_map = prediction[4].sigmoid()
    mask = seed_map > 0.5
    instances = torch.zeros(mask.shape, dtype=torch.int32)
    scores: list[float] = []
    if mask.sum() <= min_pixels:
        return instances, scores
    pixels = mask.flatten().nonzero()[:, 0]
    seeds = seed_map.flatten()[pixels]
    coordinates = coordinate_map(*mask.shape).flatten(1)[:, pixels]
    embeddings = prediction[:2].flatten(1)[:, pixels].tanh() + coordinates
    sigmas = prediction[2:4].flatten(1)[:, pixels]
    unclustered = torch.ones_like(seeds)
    ids = torch.zeros(len(seeds), dtype=torch.int32)
    while unclustered.sum() > min_pixels:
        left = seeds * unclustered
        k = left.argmax()
        if left[k].item() < seed_threshold:
            break
        unclustered[k] = 0
        squared = (embeddings - embeddings[:, k, None]).pow(2) * (sigmas[:, k, None] * 10).exp()
        proposal = (-squared.sum(dim=0)).exp() > 0.5
        size = proposal.sum()
        if size > min_pixels and unclustered[proposal].sum() / size > 0.5:
            scores.append(seeds[k].item())
            ids[proposal] = len(scores)
        unclustered[proposal] = 0
    instances.view(-1)[pixels] = ids
    return instances, scores


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return (time.perf_counter() - start) * 1e3, result


def measure(repeats: int) -> dict[str, float]:
    """Lower quartiles in milliseconds, and what the maps hold on average."""
    config = SpatialEmbeddingConfig()
    settings: dict[str, Any] = {
        "seed_threshold": config.seed_threshold,
        "min_pixels": config.min_pixels,
    }
    maps = [street(seed) for seed in range(NUM_MAPS)]
    ours, plain, found, foreground = [], [], [], []
    for turn in range(NUM_MAPS + repeats):  # each map once to warm up
        prediction = maps[turn % NUM_MAPS]
        spent, clustering = _timed(lambda p=prediction: cluster_with_scores(p, **settings))
        ours.append(spent)
        spent, (instances, scores) = _timed(lambda p=prediction: plain_loop(p, **settings))
        plain.append(spent)
        assert np.array_equal(clustering.instances, instances.numpy()), "the loop's map differs"
        assert clustering.scores.tolist() == scores, "the loop gives other scores"
        found.append(len(scores))
        foreground.append(int((prediction[4].sigmoid() > 0.5).sum()))
    return {
        "ours ms": float(np.quantile(ours[NUM_MAPS:], 0.25)),
        "loop ms": float(np.quantile(plain[NUM_MAPS:], 0.25)),
        "instances": float(np.mean(found)),
        "foreground": float(np.mean(foreground)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=100, help="maps measured (%(default)s)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    figures = measure(repeats)
    ours, loop = figures["ours ms"], figures["loop ms"]
    print(
        f"{HEIGHT} x {WIDTH}, {NUM_OBJECTS} objects ({figures['instances']:.1f} found), "
        f"{figures['foreground']:.0f} foreground pixels: ours {ours:.2f} ms, plain loop "
        f"{loop:.2f} ms, ratio {ours / loop:.2f} (limit {LIMIT:.2f})"
    )


if __name__ == "__main__":
    main()
