"""How many frames the published network detects, and how many pairs it trains on, in a second.

    python -m benchmarks.network_rate [--device cuda] [--frames 4] [--pairs 2]

ResNet-50 Faster R-CNN with the embedding head in its published size (720 x 1296 pixels), random
weights, made-up images; on the CPU one thread. Runs without Ray.
"""

import argparse
import time

import numpy as np
import torch

from models.qdtrack.config import OptimizerConfig
from models.qdtrack.training import (
    View,
    build_optimizer,
    build_scaler,
    make_batch,
    step_generator,
    train_step,
)
from models.registry import build_model
from pipeline.infer import detect_images

HEIGHT, WIDTH = 720, 1280


def main() -> None:
    """Print both rates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=4, help="that are timed")
    parser.add_argument("--pairs", type=int, default=2, help="steps of one pair that are timed")
    parser.add_argument("--precision", default="float32", help="of training on a GPU")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model("qdtrack_frcnn").to(device)
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (arguments.frames + 1, HEIGHT, WIDTH, 3), np.uint8))
    classes = np.arange(len(model.config.classes), dtype=np.int16)
    detect_images(model, images[:1], classes)
    started = _now(device)
    for image in images[1:]:
        detect_images(model, [image], classes)
    frames_s = arguments.frames / (_now(device) - started)
    print(f"{device}: {frames_s:.3f} frames a second detected")

    corner = rng.uniform(0, 500, (12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(30, 200, (12, 2))], axis=1)
    view = View(images[0], boxes.astype(np.float32), np.arange(12) % 8, np.arange(12))
    config = OptimizerConfig(precision=arguments.precision)
    batch = make_batch([(view, view)], model.config.input, device)
    optimizer, scaler = build_optimizer(model.train(), config), build_scaler(config, device)
    for step in range(arguments.pairs + 1):
        if step == 1:
            started = _now(device)
        train_step(
            model,
            batch,
            optimizer,
            scaler,
            rate=1e-5,
            generator=step_generator(0, step=step, rank=0).manual_seed(step),
            config=config,
        )
    pairs_s = arguments.pairs / (_now(device) - started)
    print(f"{device}: {pairs_s:.4f} pairs a second trained on ({arguments.precision})")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
