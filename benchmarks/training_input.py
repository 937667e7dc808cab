"""How fast stored frames become training pairs on two workers, against bare loops over the files.

Measures decoded frames per second in steady state: two consumers, each of half a CPU, that take the
pairs of every step (Ray Data reads windows; decoding, fitting into 1296 x 720 and collecting a step
happen in the consumer; nothing is mirrored or distorted), and two plain processes that read the
same Parquet files with pyarrow, decode as many frames with torchvision and throw them away. A pair
is two frames. Both sides run in turns and the best run of each counts. Writing the frames, starting
Ray and the first steps of each consumer are not timed.

Frames per second mean little while other programs use the cores. CPU time per frame, which counts
Ray's own processes too, is told as well: where both sides keep two cores busy, its ratio is the
ratio of their speeds.

    python -m benchmarks.training_input
    python -m benchmarks.training_input --sequences 4 --repeats 1
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.processes import cpu_seconds, process_tree
from datasets.schema import Annotations
from datasets.transforms import AugmentConfig
from pipeline.frames import ANNOTATIONS_FILE, Frame, write_frames
from pipeline.store import Artefact
from pipeline.train import TrainConfig

HEIGHT, WIDTH = 720, 1280
QUALITY = 95  # what ingest takes for decoded video
NUM_FRAMES = 200
NUM_OBJECTS = 12
NUM_PROCESSES = 2
WARM_UP_STEPS = 8
TARGET = 0.85


@dataclass(frozen=True)
class Turn:
    """One run of one side, over all its processes."""

    frames: int
    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.frames / self.wall_s

    @property
    def cost_ms(self) -> float:
        return 1e3 * self.cpu_s / self.frames


def main() -> None:
    """Print frames per second of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=10, help=f"of {NUM_FRAMES} frames")
    parser.add_argument("--repeats", type=int, default=3, help="turns; the best counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quasar-input-") as folder:
        artefact = write_artefact(folder, arguments.sequences)
        with bare_loops(artefact) as bare, consumers(artefact) as ours:
            turns = [(bare(), ours(epoch)) for epoch in range(arguments.repeats)]
    best = [
        (min(side, key=lambda turn: turn.wall_s / turn.frames), min(turn.cost_ms for turn in side))
        for side in zip(*turns, strict=True)
    ]
    print(f"{arguments.sequences} sequences of {NUM_FRAMES} frames, {HEIGHT}p")
    for name, (turn, cost) in zip(("bare loops", "training input"), best, strict=True):
        print(f"{name:14} {turn.rate:6.1f} frames/s, {cost:5.2f} ms of CPU a frame")
    (loops, loops_cost), (pairs, pairs_cost) = best
    print(f"ratio of frames/s {pairs.rate / loops.rate:.2f} (target {TARGET})")
    print(f"ratio of CPU time {loops_cost / pairs_cost:.2f}")


def write_artefact(root: str, num_sequences: int) -> Artefact:
    """Frames as ingest stores them: detail at every scale, a camera that turns."""
    artefact = Artefact(
        root=root, stage="frames", dataset="bdd100k", split="train", fingerprint="0" * 16
    )
    names = [f"street-{number:02d}" for number in range(num_sequences)]
    for number, name in enumerate(names):
        with artefact.part(name).write() as writer:
            write_frames(writer, name, _draw_frames(number))
            writer.write_parquet(ANNOTATIONS_FILE, _annotations().to_table(name))
            writer.details = {"is_still": False, "broken_frames": [], "num_frames": NUM_FRAMES}
    artefact.finish(names, {"benchmark": "bdd100k"})
    return artefact


def _draw_frames(seed: int) -> list[Frame]:
    import cv2

    from datasets.images import encode_jpeg

    random = np.random.default_rng([seed, HEIGHT])
    picture = np.full((HEIGHT, 3 * WIDTH, 3), 128.0, np.float32)
    for octave in range(1, 9):
        shape = (HEIGHT >> octave, (3 * WIDTH) >> octave, 3)
        noise = random.normal(0, 3.0 * 1.5**octave, shape).astype(np.float32)
        picture += cv2.resize(noise, (3 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    scene = np.clip(picture, 0, 255).astype(np.uint8)
    return [
        Frame(
            frame_index=index,
            name=f"{index:07d}.jpg",
            timestamp_us=None,
            height=HEIGHT,
            width=WIDTH,
            image=encode_jpeg(scene[:, 12 * index : 12 * index + WIDTH], QUALITY),
        )
        for index in range(NUM_FRAMES)
    ]


def _annotations() -> Annotations:
    count = NUM_FRAMES * NUM_OBJECTS
    left = np.tile(np.arange(NUM_OBJECTS) * 100.0, NUM_FRAMES)
    no = np.zeros(count, bool)
    return Annotations(
        frame_index=np.repeat(np.arange(NUM_FRAMES, dtype=np.int32), NUM_OBJECTS),
        identity=np.tile(np.arange(NUM_OBJECTS), NUM_FRAMES),
        identity_source=("",) * count,
        category=("car",) * count,
        class_index=np.full(count, 2, np.int16),
        boxes_xyxy=np.stack([left, left * 0, left + 80, left * 0 + 60], axis=1),
        crowd=no,
        ignored=no,
        occluded=no,
        truncated=no,
        visibility=np.full(count, np.nan, np.float32),
    )


@contextmanager
def consumers(artefact: Artefact) -> Iterator[Any]:
    """Two Ray actors that take the pairs of an epoch, started and warm."""
    from models.qdtrack.config import BDD100K_CLASSES
    from pipeline.cluster import connect
    from pipeline.training_input import read_training_set

    others = process_tree(os.getpid())
    connect(num_cpus=NUM_PROCESSES)
    import ray

    config = TrainConfig()
    config = replace(
        config,
        augment=AugmentConfig(flip_probability=0.0),  # the bare loops do not mirror either
        optimizer=replace(config.optimizer, epochs=1),
    )
    training_set = ray.put(
        read_training_set([artefact], BDD100K_CLASSES, scope=config.scope, window=config.window)
    )
    actors = [
        ray.remote(Consumer).options(num_cpus=0.5).remote(training_set, config, rank)
        for rank in range(NUM_PROCESSES)
    ]

    def run(seed: int) -> Turn:
        ray.get([actor.start.remote(seed) for actor in actors])
        used = {process: cpu_seconds([process]) for process in process_tree(os.getpid()) - others}
        started = time.perf_counter()
        frames = sum(ray.get([actor.finish.remote() for actor in actors]))
        wall_s = time.perf_counter() - started
        # Idle processes that Ray ends meanwhile take their past with them.
        now = process_tree(os.getpid()) - others
        cpu_s = sum(cpu_seconds([process]) - used.get(process, 0.0) for process in now)
        return Turn(frames, wall_s, cpu_s)

    yield run
    ray.shutdown()


class Consumer:
    """Takes the pairs of one training worker and throws them away."""

    def __init__(self, training_set: Any, config: TrainConfig, rank: int) -> None:
        import torch

        from pipeline.allocation import keep_freed_memory

        torch.set_num_threads(1)
        keep_freed_memory()  # as a training worker does
        self._training_set = training_set
        self._config = config
        self._rank = rank
        self._steps: Any = None

    def start(self, seed: int) -> None:
        """Take the first steps of a training of one epoch, during which Ray Data starts."""
        from models.qdtrack.config import InputConfig
        from pipeline.training_input import iterate_steps
        from pipeline.windows import stream_windows

        self._steps = iterate_steps(
            self._training_set,
            replace(self._config, seed=seed),
            InputConfig(),
            rank=self._rank,
            num_workers=NUM_PROCESSES,
            read=stream_windows,
        )
        for _ in range(WARM_UP_STEPS):
            next(self._steps)

    def finish(self) -> int:
        """Take the others; returns how many frames that were."""
        return sum(2 * len(pairs) for pairs in self._steps)


@contextmanager
def bare_loops(artefact: Artefact) -> Iterator[Any]:
    """Two plain processes that read and decode, started and warm."""
    paths = [
        f"{artefact.part(name).folder}/{record.name}"
        for name in artefact.sequences()
        for record in artefact.part(name).files()
        if record.name.startswith("frames-")
    ]
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(NUM_PROCESSES):
        ours, theirs = context.Pipe()
        share = paths[number::NUM_PROCESSES]
        process = context.Process(target=_serve, args=(theirs, share), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    ids = {process.pid for process in processes if process.pid is not None}

    def run() -> Turn:
        started, used = time.perf_counter(), cpu_seconds(ids)
        for pipe in pipes:
            pipe.send(True)
        frames = sum(pipe.recv() for pipe in pipes)
        return Turn(frames, time.perf_counter() - started, cpu_seconds(ids) - used)

    yield run
    for pipe in pipes:
        pipe.send(False)


def _serve(pipe: Any, paths: Sequence[str]) -> None:
    import torch

    torch.set_num_threads(1)
    decode_file(paths[0])
    pipe.send(0)
    while pipe.recv():
        # Twice: as many frames as there are in pairs.
        pipe.send(sum(decode_file(path) for path in [*paths, *paths]))


def decode_file(path: str) -> int:
    """Read a Parquet file of frames and decode every one; returns how many."""
    import pyarrow.parquet as pq
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    count = 0
    for batch in pq.ParquetFile(path, memory_map=True).iter_batches(32, columns=["image"]):
        for image in batch["image"]:
            data = torch.frombuffer(bytearray(image.as_py()), dtype=torch.uint8)
            decode_jpeg(data, mode=ImageReadMode.RGB)
            count += 1
    return count


if __name__ == "__main__":
    main()
