"""What Ray Train costs a step of the association network, against plain torch DDP from memory.

Trains PointTrack's association network with two workers on the CPU, one thread each, on synthetic
scenes: once as the product does, under Ray Train with items that the workers read from the store
and turn into points, and once in two plain processes with gloo that find finished items in memory.
Both run as many steps of the same loop; the first ones, in which things start, are not counted.

    python -m benchmarks.association_step_rate
    python -m benchmarks.association_step_rate --steps 20 --repeats 1
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.pointtrack.config import AssociationTrainConfig
    from models.pointtrack.items import ItemArrays
    from pipeline.store import Artefact

NUM_WORKERS = 2
NUM_TRACKS = 12
"""Of an item: half of the published 24, whose steps take twice as long and wait no more."""
WARM_UP_STEPS = 5
NUM_STEPS_IN_MEMORY = 8
TARGET = 0.9


def main() -> None:
    """Print steps per second of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="that are timed (%(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="turns; the best counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quasar-step-") as folder:
        instances = write_instances(Path(folder))
        steps = arguments.steps + WARM_UP_STEPS
        turns = [
            (plain_ddp(instances, steps, turn), under_ray(instances, steps, turn))
            for turn in range(arguments.repeats)
        ]
    plain, ray = (min(side) for side in zip(*turns, strict=True))
    for name, step_s in (("plain DDP from memory", plain), ("Ray Train", ray)):
        print(f"{name:22} {1 / step_s:5.2f} steps/s")
    print(f"ratio {plain / ray:.2f} (target {TARGET})")
    ray_shutdown()


def write_instances(folder: Path) -> "Artefact":
    """Cars of synthetic scenes, ingested and cut out."""
    from datasets.registry import BENCHMARKS
    from datasets.synthetic_mots import SyntheticMotsConfig, write_synthetic_mots
    from pipeline.cluster import connect
    from pipeline.config import MotsConfig
    from pipeline.ingest import ingest
    from pipeline.prepare import prepare_instances

    connect(num_cpus=NUM_WORKERS)
    write_synthetic_mots(folder / "raw", SyntheticMotsConfig(num_train=8, num_val=1))
    data = MotsConfig(recipe="benchmark").data
    frames = ingest(BENCHMARKS[data.benchmark], folder / "raw", "train", data, str(folder))
    return prepare_instances(frames, "car")


def train_config(steps: int, turn: int) -> "AssociationTrainConfig":
    """One epoch; another seed each time, or the weights of the last turn would be reused."""
    from models.pointtrack.config import AssociationTrainConfig
    from models.pointtrack.items import ItemConfig
    from models.pointtrack.schedule import ScheduleConfig

    return AssociationTrainConfig(
        seed=turn,
        items_per_step=NUM_WORKERS,
        items=replace(ItemConfig(), num_tracks=NUM_TRACKS),
        schedule=ScheduleConfig(epochs=1, items_per_epoch=NUM_WORKERS * steps, step_epochs=()),
    )


def under_ray(instances: "Artefact", steps: int, turn: int) -> float:
    """Seconds of a step as the product trains."""
    from models.pointtrack.config import PointTrackConfig
    from pipeline.association_training import train_association
    from pipeline.fit import read_history

    weights = train_association(
        instances,
        PointTrackConfig(class_name="car"),
        train_config(steps, turn),
        num_workers=NUM_WORKERS,
        checkpoint_every=10**9,
    )
    history = read_history(weights)[WARM_UP_STEPS:]
    waiting = sum(row["data_wait_share"] for _, row in history) / len(history)
    print(f"turn {turn}: Ray Train waited for data {100 * waiting:.1f} % of the time")
    return sum(NUM_WORKERS / row["items_per_s"] for _, row in history) / len(history)


def plain_ddp(instances: "Artefact", steps: int, turn: int) -> float:
    """Seconds of a step in two processes with gloo and items in memory."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_serve, args=(rank, folder, instances, steps, turn, queue))
            for rank in range(NUM_WORKERS)
        ]
        for process in processes:
            process.start()
        figures = [queue.get() for _ in processes]
        for process in processes:
            process.join()
    return float(max(figures))


def _serve(
    rank: int, folder: str, instances: "Artefact", steps: int, turn: int, queue: Any
) -> None:
    import torch

    from models.pointtrack.config import PointTrackConfig
    from pipeline.association_training import (
        AssociationLearner,
        initial_network,
        iterate_items,
        read_tracks_of,
    )
    from pipeline.prepared_rows import InstanceRows
    from pipeline.training_loop import Hooks, run_training

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/port", rank=rank, world_size=NUM_WORKERS
    )
    model, config = PointTrackConfig(class_name="car"), train_config(steps, turn)
    source = iterate_items(
        InstanceRows([instances]),
        read_tracks_of(instances),
        model,
        config,
        rank=rank,
        num_workers=NUM_WORKERS,
    )
    memory = list(islice(source, NUM_STEPS_IN_MEMORY))
    source.close()
    ends: list[float] = []

    def items(start_step: int) -> "Generator[list[ItemArrays], None, None]":
        for number, item in enumerate(islice(cycle(memory), steps + 1)):
            if number:  # asked for the next one: the last one has ended
                ends.append(time.perf_counter())
            yield item

    run_training(
        AssociationLearner(initial_network(model, config), config),
        items,
        steps_per_epoch=steps,
        device=torch.device("cpu"),
        hooks=Hooks(),
        checkpoint_every=10**9,
    )
    ends.append(time.perf_counter())
    queue.put((ends[-1] - ends[WARM_UP_STEPS - 1]) / (len(ends) - WARM_UP_STEPS))
    torch.distributed.destroy_process_group()


def ray_shutdown() -> None:
    """End the Ray that `write_instances` started."""
    import ray

    ray.shutdown()


if __name__ == "__main__":
    main()
