"""The cost of a full BDD100K run on 1, 8 and 64 machines, from measured rates.

    python -m benchmarks.scaling [--frames-per-s F] [--pairs-per-s P]

Prints the table of docs/scaling.md. A machine is that of RESULTS.md: two cores, no GPU. The two
rates of the network are per worker; give those of a GPU to see what changes.
"""

import argparse
import math
from dataclasses import dataclass

MACHINES = (1, 8, 64)

# BDD100K: frames of the tracking sets (train, val), stills of the detection set, epochs, batch.
TRAIN_FRAMES, VAL_FRAMES, STILLS, EPOCHS, BATCH = 278_079, 39_973, 69_863, 12, 16
VAL_SEQUENCES, TRIALS, TRIALS_IN_BATCH = 200, 1000, 8


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of one machine, measured; see RESULTS.md."""

    workers: int = 2
    detect_per_s: float = 0.12
    """Frames a second of one worker (benchmarks.network_rate)."""
    train_per_s: float = 0.036
    """Pairs a second of one worker (benchmarks.network_rate)."""
    train_efficiency: float = 0.98
    """Ray Train against plain DDP (benchmarks.train_step_rate)."""
    trial_s: float = 4.3
    """A full trial on 200 sequences, two workers (benchmarks.sweep)."""
    task_s: float = 0.43
    """2,000 frames of a trial on one worker."""
    batch_driver_s: float = 0.35
    """Between two batches, when the workers wait: study, proposals, combination."""
    cache_gib: float = 1.2
    """Detections of the validation set with 30 boxes a frame."""
    network_gib_per_s: float = 1.2
    """Out of the driver's node: 10 Gbit/s, assumed."""


def train_s(rates: Rates, machines: int) -> float:
    """Seconds of 12 epochs; a batch of 16 pairs has no use for more than 16 workers."""
    pairs = EPOCHS * (TRAIN_FRAMES + STILLS)
    workers = min(BATCH, machines * rates.workers)
    return pairs / (workers * rates.train_per_s * rates.train_efficiency)


def infer_s(rates: Rates, machines: int) -> float:
    """Seconds of the validation set; a sequence is the smallest piece of work."""
    per_sequence = VAL_FRAMES / VAL_SEQUENCES / rates.detect_per_s
    return math.ceil(VAL_SEQUENCES / (machines * rates.workers)) * per_sequence


def sweep_s(rates: Rates, machines: int) -> float:
    """Seconds of 1,000 trials without pruning, in batches that wait for their last task."""
    tasks = math.ceil(rates.trial_s * rates.workers / rates.task_s) * TRIALS_IN_BATCH
    rounds = math.ceil(tasks / (machines * rates.workers))
    spread_s = rates.cache_gib * (machines - 1) / rates.network_gib_per_s
    batches = math.ceil(TRIALS / TRIALS_IN_BATCH)
    return spread_s + batches * (rounds * rates.task_s + rates.batch_driver_s)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames-per-s", type=float, default=Rates.detect_per_s)
    parser.add_argument("--pairs-per-s", type=float, default=Rates.train_per_s)
    arguments = parser.parse_args()
    rates = Rates(detect_per_s=arguments.frames_per_s, train_per_s=arguments.pairs_per_s)
    print("| machines | train, 12 epochs | infer, val | 1,000 trials |")
    print("|---|---|---|---|")
    for machines in MACHINES:
        times = (stage(rates, machines) for stage in (train_s, infer_s, sweep_s))
        print(f"| {machines} | " + " | ".join(map(_text, times)) + " |")


def _text(seconds: float) -> str:
    for name, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
