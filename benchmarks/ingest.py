"""How fast video is ingested on two Ray processes, against bare loops over the same files.

Measures frames per second from 720p H.264 to stored JPEG frames: the ingest stage on 2 Ray workers,
and 2 plain processes that decode with PyAV and encode JPEG with the same calls, settings and
quality, and throw the bytes away. Both sides run in turns and the best run of each counts. Writing
the videos, starting Ray and the first ingest of each worker (imports) are not timed.

Frames per second mean nothing while other programs use the cores. CPU time per frame, which counts
Ray's own processes and the driver too, is told as well: where both sides keep 2 cores busy, its
ratio is the ratio of their speeds.

    python -m benchmarks.ingest
    python -m benchmarks.ingest --videos 2 --frames 100 --repeats 1     # half a minute
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.processes import cpu_seconds, process_tree

HEIGHT, WIDTH = 720, 1280
QUALITY = 95
NUM_PROCESSES = 2
TARGET = 0.75


def main() -> None:
    """Print frames per second of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=4, help="sequences (%(default)s)")
    parser.add_argument("--frames", type=int, default=1200, help="of each (%(default)s, BDD100K's)")
    parser.add_argument("--repeats", type=int, default=2, help="turns; the best counts")
    arguments = parser.parse_args()
    num_frames = arguments.videos * arguments.frames
    with tempfile.TemporaryDirectory(prefix="quasar-ingest-") as name:
        folder = Path(name)
        videos = write_videos(folder / "raw", arguments.videos, arguments.frames)
        write_videos(folder / "warm", NUM_PROCESSES, 8)
        start_ray()
        ingest_videos(folder / "warm", folder / "out-warm")
        ours, loops = [], []
        with BareLoops(videos) as bare:
            ray = process_tree(os.getpid()) - bare.processes()
            for turn in range(arguments.repeats):
                loops.append(_measure(bare.run, bare.processes()))
                out = folder / f"out-{turn}"
                ours.append(_measure(partial(ingest_videos, folder / "raw", out), ray))
                shutil.rmtree(out)
    print(f"{arguments.videos} videos of {arguments.frames} frames, {HEIGHT}p")
    figures = {}
    for name, turns in (("bare loops, 2 processes", loops), ("ingest, 2 Ray workers", ours)):
        wall_s, cpu_s = (min(column) for column in zip(*turns, strict=True))
        figures[name] = (wall_s, cpu_s)
        rate, cost = num_frames / wall_s, 1e3 * cpu_s / num_frames
        print(f"{name:24} {rate:6.1f} frames/s, {cost:5.2f} ms of CPU a frame")
    bare_best, ours_best = figures.values()
    print(f"ratio of frames/s {bare_best[0] / ours_best[0]:.2f} (target {TARGET})")
    print(f"ratio of CPU time {bare_best[1] / ours_best[1]:.2f}")


def _measure(work: Callable[[], object], processes: set[int]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of CPU that the processes used."""
    start, used = time.perf_counter(), cpu_seconds(processes)
    work()
    return time.perf_counter() - start, cpu_seconds(processes) - used


def write_videos(root: Path, num_videos: int, num_frames: int) -> list[Path]:
    """Sequences of a test split in BDD100K's layout, as raw video without labels."""
    from datasets.video import VideoWriter

    paths = []
    for number in range(num_videos):
        name = f"street-{number:02d}"
        (root / "images" / "track" / "test" / name).mkdir(parents=True)
        paths.append(root / "videos" / "test" / f"{name}.mp4")
        with VideoWriter(paths[-1], width=WIDTH, height=HEIGHT, frame_rate=30) as writer:
            scene = _draw_scene(seed=number)
            for index in range(num_frames):
                writer.write(_view(scene, index, number))
    return paths


def _draw_scene(seed: int) -> npt.NDArray[np.uint8]:
    """A picture three times as wide as a frame, with detail at every scale as photographs have."""
    import cv2

    random = np.random.default_rng([seed, 720])
    picture = np.full((HEIGHT, 3 * WIDTH, 3), 128.0, np.float32)
    for octave in range(1, 9):
        shape = (max(2, HEIGHT >> octave), (3 * WIDTH) >> octave, 3)
        noise = random.normal(0, 3.0 * 1.5**octave, shape).astype(np.float32)
        picture += cv2.resize(noise, (3 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _view(scene: npt.NDArray[np.uint8], index: int, seed: int) -> npt.NDArray[np.uint8]:
    """The camera turns back and forth; things of another brightness pass."""
    travel = 2 * WIDTH
    left = travel - abs((6 * index) % (2 * travel) - travel)
    image = scene[:, left : left + WIDTH].copy()
    for thing in range(6):
        x = (index * (4 + 3 * thing) + 211 * (thing + seed)) % (WIDTH - 160)
        y = 80 + 95 * thing
        image[y : y + 90, x : x + 160] = 255 - image[y : y + 90, x : x + 160]
    return image


def start_ray() -> None:
    """A Ray of two workers on this machine."""
    from pipeline.cluster import connect

    connect(num_cpus=NUM_PROCESSES)


def ingest_videos(data_root: Path, root: Path) -> int:
    """Run the stage with every frame of the videos; returns how many were stored."""
    from datasets.registry import BENCHMARKS
    from pipeline.ingest import DataConfig, ingest

    config = DataConfig(label_stride=1, label_phase=0, jpeg_quality=QUALITY)
    artefact = ingest(BENCHMARKS["bdd100k"], data_root, "test", config, str(root))
    details = artefact.details()
    assert details["num_broken_frames"] == 0
    return int(details["num_frames"])


class BareLoops:
    """Two plain processes, started and warm before they are timed."""

    def __init__(self, videos: Sequence[Path]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes = []
        self._processes = []
        for number in range(NUM_PROCESSES):
            ours, theirs = context.Pipe()
            share = [str(path) for path in videos[number::NUM_PROCESSES]]
            process = context.Process(target=_serve, args=(theirs, share), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "BareLoops":
        for pipe in self._pipes:
            pipe.recv()  # imports are done
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(False)
        for process in self._processes:
            process.join()

    def processes(self) -> set[int]:
        """Their process ids."""
        return {process.pid for process in self._processes if process.pid is not None}

    def run(self) -> None:
        """Return when both processes are through their videos."""
        for pipe in self._pipes:
            pipe.send(True)
        for pipe in self._pipes:
            pipe.recv()


def _serve(pipe: Connection, paths: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    transcode(paths[0], 3)
    pipe.send(0)
    while pipe.recv():
        pipe.send(sum(transcode(path) for path in paths))


def transcode(path: str, num_frames: int | None = None) -> int:
    """Decode a video and encode every frame; returns the number of bytes."""
    import av
    import torch
    from av.video.reformatter import VideoReformatter
    from torchvision.io import encode_jpeg

    reformatter = VideoReformatter()
    num_bytes = 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index == num_frames:
                break
            rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            pixels = torch.from_numpy(rgb).permute(2, 0, 1)
            num_bytes += len(encode_jpeg(pixels, QUALITY).numpy().tobytes())
    return num_bytes


if __name__ == "__main__":
    main()
