"""How much memory ingest takes, and that it does not grow with the input.

Measures the peak of all processes together (Ray's own, its workers and the driver; shared pages
count once) over an idle Ray, while 720p video is ingested on 2 workers: once a few frames, once
many, each in a Ray of its own. Ten times a second, as proportional set size.

    python -m benchmarks.ingest_memory
    python -m benchmarks.ingest_memory --few 100 --many 400     # a minute
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.ingest import HEIGHT, ingest_videos, start_ray, write_videos
from benchmarks.processes import memory_bytes, process_tree

NUM_VIDEOS = 4
TARGET = 1.2
_INTERVAL_S = 0.1
_MIB = 1 << 20


def main() -> None:
    """Print both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=500, help="frames in all (%(default)s)")
    parser.add_argument("--many", type=int, default=2000, help="frames in all (%(default)s)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        _measure(arguments.measure)
        return
    peaks = []
    for num_frames in (arguments.few, arguments.many):
        with tempfile.TemporaryDirectory(prefix="quasar-memory-") as folder:
            write_videos(Path(folder) / "raw", NUM_VIDEOS, num_frames // NUM_VIDEOS)
            # A process of its own: what the first run left behind must not hide in the second.
            command = [sys.executable, "-m", "benchmarks.ingest_memory", "--measure", folder]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        idle, peak = map(int, output.split()[-2:])
        peaks.append(peak - idle)
        print(
            f"{num_frames:5} frames of {HEIGHT}p: peak {(peak - idle) / _MIB:.0f} MiB over "
            f"{idle / _MIB:.0f} MiB of an idle Ray"
        )
    print(f"ratio {peaks[1] / peaks[0]:.2f} (target at most {TARGET})")


def _measure(folder: Path) -> None:
    """Print the memory of an idle Ray and the peak while ingesting, in bytes."""
    start_ray()
    time.sleep(5)  # Ray starts its first workers in the background
    idle = memory_bytes(process_tree(os.getpid()))
    peaks = [idle]
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(_INTERVAL_S):
            peaks.append(memory_bytes(process_tree(os.getpid())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ingest_videos(folder / "raw", folder / "out")
    finally:
        is_done.set()
        watcher.join()
    print(idle, max(peaks))


if __name__ == "__main__":
    main()
