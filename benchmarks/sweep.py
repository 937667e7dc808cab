"""What a sweep costs beside the bare work of its trials, and beside the plain way of doing a trial.

    python -m benchmarks.sweep --cache DIR [--what trial overhead memory scaling]

trial: one full trial of the tracker on 200 sequences of 200 frames, about 30 detections a frame, 8
classes (1.3 GB), on two workers, from the first task to the combined score; and the plain way on a
subset: one process, the tracker as Python loops, trackeval's own metrics. Both give the same
identities.
overhead: a search of 50 trials on 100 sequences, from its start until the study and MLflow hold all
of it, against the same 50 trials replayed from memory by two processes that do nothing else.
memory: what the workers hold for themselves and what Ray's object store holds, against the cache.
scaling: the same trials by one worker and by two.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.association import LoopTracker
from benchmarks.processes import process_tree
from benchmarks.scoring import score_with_trackeval
from benchmarks.sweep_cache import make_cache
from datasets.schema import SequenceResult, SequenceTruth, Tracks
from pipeline.associate import associate_sequence, build_tracker, read_detections
from pipeline.evaluate import EvaluationConfig, build_protocol
from pipeline.frames import read_truth
from pipeline.overrides import apply_overrides
from pipeline.recipes import find_recipe
from pipeline.search.batch import Plan, ReplayPool, run_batch
from pipeline.search.data import SweepData, load_all
from pipeline.search.proposals import Proposal
from pipeline.search.space import default_space
from pipeline.search.study import resolve_storage
from pipeline.search.trial import ReplayData, load_sequence, replay_sequence, replay_task
from pipeline.search.workers import TunePool
from pipeline.store import Artefact

CONFIG = find_recipe("qdtrack_frcnn_r50_bdd100k")
PROTOCOL = build_protocol(EvaluationConfig())
NUM_WORKERS = 2
MIB = 2**20


def main() -> None:
    """Print figures and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="2 GB are made here, once")
    parser.add_argument(
        "--what", nargs="+", default=["trial", "memory", "scaling", "overhead"], metavar="FIGURE"
    )
    parser.add_argument("--num-plain", type=int, default=2, help="sequences by the plain way")
    arguments = parser.parse_args()
    from pipeline.cluster import connect

    connect(num_cpus=NUM_WORKERS)
    if {"trial", "memory", "scaling"} & set(arguments.what):
        frames, detections = make_cache(str(arguments.cache / "200"), num_sequences=200)
        data = load_all(frames, detections, CONFIG.association, PROTOCOL)
        shared = ReplayData(PROTOCOL, data.references)
        with TunePool(replay_task, NUM_WORKERS) as pool:
            pool.share(shared)
            seconds = time_trials(pool, data, [0.5], "warm up")
            seconds = time_trials(pool, data, [0.5], "one")
            if "trial" in arguments.what:
                report_trial(frames, detections, seconds, arguments.num_plain)
            if "memory" in arguments.what:
                report_memory(data)
            if "scaling" in arguments.what:
                two = time_trials(pool, data, np.linspace(0.3, 0.7, 4), "two workers")
        if "scaling" in arguments.what:
            with TunePool(replay_task, 1) as pool:
                pool.share(shared)
                time_trials(pool, data, [0.5], "warm up")
                one = time_trials(pool, data, np.linspace(0.3, 0.7, 4), "one worker")
            print(f"scaling: 4 trials, one worker {one:.1f} s, two {two:.1f} s")
            print(f"                                ratio {one / two:.2f} (target 1.8)")
    if "overhead" in arguments.what:
        report_overhead(arguments.cache)


def time_trials(
    pool: ReplayPool, data: SweepData, thresholds: Sequence[float], label: str
) -> float:
    """Seconds for some full trials in one batch; the combined scores are made, too."""
    order = list(data.references)
    plan = Plan(
        protocol=PROTOCOL,
        objectives=("mMOTA",),
        order=order,
        rungs=[len(order)],
        num_frames={name: summary.num_frames for name, summary in data.summaries.items()},
    )
    trials = {
        time.time_ns(): (
            Proposal({"association.match_score_thr": threshold}, {}),
            apply_overrides(CONFIG, {"association.match_score_thr": threshold}).association,
        )
        for threshold in map(float, thresholds)
    }
    started = time.perf_counter()
    done = run_batch(pool, plan, trials, [])
    seconds = time.perf_counter() - started
    assert all(trial.state == "complete" for trial in done), (label, done[0].reason)
    return seconds


def report_trial(frames: Artefact, detections: Artefact, seconds: float, num_plain: int) -> None:
    """Print the time of a trial beside that of the plain way, scaled to as many sequences."""
    names = detections.sequences()
    pairs: dict[str, tuple[SequenceTruth, SequenceResult]] = {}
    plain_s = 0.0
    for name in names[:num_plain]:
        truth, found = read_truth(frames.part(name)), read_detections(detections.part(name))
        started = time.perf_counter()
        tracks = associate_by_loops(found)
        plain_s += time.perf_counter() - started
        ours = associate_sequence(found, CONFIG.association)
        np.testing.assert_array_equal(tracks.track_id, ours.track_id)
        pairs[name] = (truth, SequenceResult(name=name, tracks=tracks))
    started = time.perf_counter()
    score_with_trackeval(pairs)
    plain_s += time.perf_counter() - started
    whole_s = plain_s / num_plain * len(names)
    print(f"one full trial, {len(names)} sequences, two workers: {seconds:.1f} s (target 20)")
    print(f"the plain way, {num_plain} sequences: {plain_s:.1f} s, so {whole_s:.0f} s for all")
    print(f"                                ratio {whole_s / seconds:.0f} (target 8)")


def associate_by_loops(found: Any) -> Tracks:
    """`associate_sequence` as a person would first write it."""
    tracker = LoopTracker(CONFIG.association)
    track_ids = np.full(len(found), -1, np.int64)
    for frame_index in range(found.num_frames):
        rows = found.rows(frame_index)
        if rows.start < rows.stop:
            track_ids[rows] = tracker.update(
                frame_index,
                found.boxes_xyxy[rows],
                found.scores[rows],
                found.class_indices[rows],
                found.embeddings[rows],
            )
    kept = np.flatnonzero(track_ids >= 0)
    return Tracks(
        frame_index=found.frame_index()[kept],
        track_id=track_ids[kept],
        detection_row=kept.astype(np.int32),
        boxes_xyxy=found.boxes_xyxy[kept],
        scores=found.scores[kept],
        class_index=found.class_indices[kept],
    )


def report_memory(data: SweepData) -> None:
    """Print what the workers hold apart from each other and what they share."""
    private = 0
    workers = 0
    for process in process_tree(os.getpid()):
        try:
            name = Path(f"/proc/{process}/cmdline").read_text()
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "ImplicitFunc" in name:
            workers += 1
            fields = dict(line.split()[:2] for line in rollup.splitlines()[1:])
            private += 1024 * int(fields["Anonymous:"])  # not what it maps of the store
    shared = _store_bytes()
    ratio = (private + shared) / data.num_bytes
    print(
        f"cache {data.num_bytes / MIB:.0f} MiB; {workers} workers hold {private / MIB:.0f} MiB of "
        f"their own, the object store {shared / MIB:.0f} MiB"
    )
    print(f"                                ratio {ratio:.2f} (target at most 1.3)")


def _store_bytes() -> int:
    import ray
    from ray._private.internal_api import node_stats

    [node] = ray.nodes()
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"])
    return int(stats.store_stats.object_store_bytes_used)


def report_overhead(cache: Path, num_trials: int = 50) -> None:
    """Print the time of a whole search beside the bare work of its trials."""
    from pipeline.search.options import SweepOptions, SweepPlaces
    from pipeline.sweep import run_sweep

    frames, detections = make_cache(str(cache / "100"), num_sequences=100)
    options = SweepOptions(
        space=default_space(CONFIG), num_trials=num_trials, may_prune=False, num_best=1
    )
    name = f"overhead {time.time()}"
    places = SweepPlaces(
        storage=resolve_storage(None, frames.root),
        study_name=name,
        resume=False,
        root=frames.root,
        num_workers=NUM_WORKERS,
    )
    moments: dict[str, float] = {}
    started = time.perf_counter()

    def say(line: str) -> None:
        moments[line.split(",")[0]] = time.perf_counter() - started
        print(f"  {line}")

    outcome = run_sweep(CONFIG, frames, detections, options, places, say)
    search_s = moments[f"{num_trials} trials in the study"]
    whole_s = time.perf_counter() - started
    settings = [dict(trial.settings) for trial in outcome.trials]
    whole_bare_s, bare_s = time_bare(frames, detections, settings)
    print(f"{num_trials} trials on 100 sequences: bare work {bare_s:.1f} s in two processes,")
    print(f"  {whole_bare_s:.1f} s with their start and the loading of the sequences;")
    print(f"  search {search_s:.1f} s; with full scores of the best, rows and page {whole_s:.1f} s")
    print(f"                                overhead {search_s / bare_s - 1:.0%} (target 15 %)")
    beside = search_s / whole_bare_s - 1
    print(f"                                beside start and loading of both {beside:.0%}")


def time_bare(
    frames: Artefact, detections: Artefact, settings: Sequence[Mapping[str, Any]]
) -> tuple[float, float]:
    """Seconds for two processes, each with half of the sequences in memory, to replay all: from
    their start, and of the replay alone."""
    context = multiprocessing.get_context("spawn")
    ready, times = context.Barrier(NUM_WORKERS), context.Queue()
    names = detections.sequences()
    processes = [
        context.Process(
            target=_replay_bare,
            args=(frames, detections, names[i::NUM_WORKERS], settings, ready, times),
        )
        for i in range(NUM_WORKERS)
    ]
    started = time.perf_counter()
    for process in processes:
        process.start()
    seconds = max(times.get() for _ in processes)
    whole = time.perf_counter() - started
    for process in processes:
        process.join()
    return whole, float(seconds)


def _replay_bare(
    frames: Artefact,
    detections: Artefact,
    names: Sequence[str],
    settings: Sequence[Mapping[str, Any]],
    ready: Any,
    times: Any,
) -> None:
    configs = [apply_overrides(CONFIG, values).association for values in settings]
    sequences = [
        load_sequence(
            (frames.part(name), detections.part(name)), build_tracker(configs[0]), PROTOCOL
        )
        for name in names
    ]
    replay_sequence(PROTOCOL, build_tracker(configs[0]), sequences[0])
    ready.wait()
    started = time.perf_counter()
    for config in configs:
        for sequence in sequences:
            replay_sequence(PROTOCOL, build_tracker(config), sequence)
    times.put(time.perf_counter() - started)


if __name__ == "__main__":
    main()
