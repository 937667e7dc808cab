"""What Ray Train and Ray Data cost a training step, against the same loop under plain torch DDP.

Trains the model of the demo (ResNet-18 of half width, 192 x 320 pixels) with two workers on the
CPU, one thread each: once as the product does, under Ray Train with pairs that Ray Data streams and
the workers decode, and once in two plain processes with gloo that find decoded pairs in memory.
Both run as many steps of the same loop; the first ones, in which things start, are not counted. A
step's time is that between the ends of two steps, so whatever happens between them counts.

Steps per second mean little while other programs use the cores; CPU time per step over all
processes is told as well.

    python -m benchmarks.train_step_rate
    python -m benchmarks.train_step_rate --steps 30 --repeats 1
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.processes import cpu_seconds, process_tree
from pipeline.recipes import find_recipe

if TYPE_CHECKING:
    from pipeline.store import Artefact
    from pipeline.train import TrainConfig
    from pipeline.training_input import StepPairs, TrainingSet

RECIPE = "qdtrack_frcnn_r18_synthetic"
NUM_WORKERS = 2
WARM_UP_STEPS = 10
NUM_STEPS_IN_MEMORY = 20
TARGET = 0.9


def main() -> None:
    """Print steps per second of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="that are timed (%(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="turns; the best counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quasar-step-") as folder:
        frames = write_frames(Path(folder), arguments.steps + WARM_UP_STEPS)
        turns = [
            (plain_ddp(frames, turn), under_ray(frames, turn)) for turn in range(arguments.repeats)
        ]
    plain, ray = (tuple(map(min, zip(*side, strict=True))) for side in zip(*turns, strict=True))
    for name, (wall_s, cpu_s) in (("plain DDP from memory", plain), ("Ray Train", ray)):
        print(f"{name:22} {1 / wall_s:5.2f} steps/s, {cpu_s:5.2f} s of CPU a step")
    print(f"ratio of steps/s {plain[0] / ray[0]:.2f} (target {TARGET})")
    print(f"ratio of CPU time {plain[1] / ray[1]:.2f}")
    ray_shutdown()


def write_frames(folder: Path, num_steps: int) -> "Artefact":
    """Synthetic scenes, ingested; enough of them for one epoch of as many steps."""
    from datasets.registry import BENCHMARKS
    from datasets.synthetic import SyntheticConfig, write_synthetic_bdd100k
    from pipeline.cluster import connect
    from pipeline.ingest import ingest

    connect(num_cpus=NUM_WORKERS)
    config = find_recipe(RECIPE)
    scenes = SyntheticConfig()
    num_pairs = (num_steps + 1) * config.train.pairs_per_step
    scenes = replace(
        scenes, num_train=-(-num_pairs // scenes.num_frames), num_val=1, num_stills=0, video_share=0
    )
    write_synthetic_bdd100k(folder / "raw", scenes)
    return ingest(
        BENCHMARKS[config.data.benchmark], folder / "raw", "train", config.data, str(folder)
    )


def train_config(turn: int) -> "TrainConfig":
    """One epoch; another seed each time, or the weights of the last turn would be reused."""
    config = find_recipe(RECIPE).train
    return replace(config, seed=turn, optimizer=replace(config.optimizer, epochs=1))


def under_ray(frames: "Artefact", turn: int) -> tuple[float, float]:
    """Seconds and CPU seconds of a step as the product trains."""
    from pipeline.fit import read_history
    from pipeline.train import train

    used: list[tuple[int, dict[int, float]]] = []

    def on_metrics(step: int, row: dict[str, float]) -> None:
        if step == WARM_UP_STEPS or step % 10 == 0:
            processes = process_tree(os.getpid())
            used.append((step, {process: cpu_seconds([process]) for process in processes}))

    weights = train(
        [frames],
        find_recipe(RECIPE).model,
        train_config(turn),
        num_workers=NUM_WORKERS,
        on_metrics=on_metrics,
        checkpoint_every=10**9,
    )
    (first_step, before), (last_step, after) = used[0], used[-1]
    # Of processes that ended in between nothing is known; those that train are there.
    cpu_s = sum(spent - before.get(process, 0.0) for process, spent in after.items())
    history = read_history(weights)[WARM_UP_STEPS:]
    waiting = sum(row["data_wait_share"] for _, row in history) / len(history)
    print(f"turn {turn}: Ray Train waited for data {100 * waiting:.1f} % of the time")
    pairs = train_config(turn).pairs_per_step
    wall_s = sum(pairs / row["pairs_per_s"] for _, row in history) / len(history)
    return wall_s, cpu_s / (last_step - first_step)


def plain_ddp(frames: "Artefact", turn: int) -> tuple[float, float]:
    """Seconds and CPU seconds of a step in two processes with gloo and pairs in memory."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_serve, args=(rank, folder, frames, turn, queue))
            for rank in range(NUM_WORKERS)
        ]
        for process in processes:
            process.start()
        figures = [queue.get() for _ in processes]
        for process in processes:
            process.join()
    return max(wall_s for wall_s, _ in figures), sum(cpu_s for _, cpu_s in figures)


def _serve(rank: int, folder: str, frames: "Artefact", turn: int, queue: Any) -> None:
    import torch

    from pipeline.qdtrack_training import QDTrackLearner
    from pipeline.train import initial_model
    from pipeline.training_input import read_training_set
    from pipeline.training_loop import Hooks, run_training

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/port", rank=rank, world_size=NUM_WORKERS
    )
    model, config = find_recipe(RECIPE).model, train_config(turn)
    training_set = read_training_set(
        [frames], model.classes, scope=config.scope, window=config.window
    )
    memory = _load(training_set, config, rank)
    steps_per_epoch = len(training_set.index) // config.pairs_per_step
    ends: list[tuple[float, float]] = []

    def steps(start_step: int) -> Generator["StepPairs", None, None]:
        for number, pairs in enumerate(islice(cycle(memory), steps_per_epoch + 1)):
            if number:  # asked for the next one: the last one has ended
                ends.append((time.perf_counter(), time.process_time()))
            yield pairs

    run_training(
        QDTrackLearner(initial_model(model, config), config),
        steps,
        steps_per_epoch=steps_per_epoch,
        device=torch.device("cpu"),
        hooks=Hooks(),
        checkpoint_every=10**9,
    )
    ends.append((time.perf_counter(), time.process_time()))
    first, last = ends[WARM_UP_STEPS - 1], ends[-1]
    num_steps = len(ends) - WARM_UP_STEPS
    queue.put(
        tuple((after - before) / num_steps for before, after in zip(first, last, strict=True))
    )
    torch.distributed.destroy_process_group()


def _load(training_set: "TrainingSet", config: "TrainConfig", rank: int) -> "list[StepPairs]":
    """The first steps of this worker, decoded."""
    from pipeline.training_input import iterate_steps
    from pipeline.windows import read_windows

    steps: Iterator[StepPairs] = iterate_steps(
        training_set,
        config,
        find_recipe(RECIPE).model.input,
        rank=rank,
        num_workers=NUM_WORKERS,
        read=read_windows,
    )
    return list(islice(steps, NUM_STEPS_IN_MEMORY))


def ray_shutdown() -> None:
    """End the Ray that `write_frames` started."""
    import ray

    ray.shutdown()


if __name__ == "__main__":
    main()
