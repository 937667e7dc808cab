"""How fast tracks are scored, against trackeval on the same data; and two processes against one.

Measures seconds per sequence on one core for preparation, HOTA, CLEAR, Identity and BDD100K's
official counting of ours, and for preparation (trackeval's own BDD100K class, fed from memory),
HOTA, CLEAR and Identity of trackeval, which has no official counting. Both sides must give the
same scores where they share rules.

    python -m benchmarks.scoring
    python -m benchmarks.scoring --num-peer-sequences 200     # all with trackeval too: a minute
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import trackeval

from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, SequenceResult, SequenceTruth, Tracks
from pipeline.associate import TRACKS_FILE
from pipeline.evaluate import SequenceScores, evaluate_sequence, reduce_scores, sequences_per_task
from pipeline.frames import ANNOTATIONS_FILE, Frame, write_frames
from pipeline.metrics.bdd100k import Bdd100kProtocol
from pipeline.metrics.clear import CLEAR
from pipeline.parallel import map_sequences
from pipeline.scores import load_pair
from pipeline.store import Artefact, Part

CLASSES = BENCHMARKS["bdd100k"].classes
HEIGHT, WIDTH = 720, 1280

Pair = tuple[SequenceTruth, SequenceResult]


def make_sequence(name: str, *, num_frames: int, num_objects: int) -> Pair:
    """A sequence as crowded as BDD100K's: about 12 boxes a frame, 100 identities, 600 track ids.

    Objects live 10 to 40 frames and move on straight lines; every third one stays beside another
    of its class and overlaps it. Predictions are truth boxes with noise, of which some are missing,
    ids change every seven frames, and one box in six is false. A few truth boxes are crowd.
    """
    rng = np.random.default_rng([20, *name.encode()])
    truth = _make_truth_columns(rng, num_frames, num_objects)
    num_rows = len(truth["frame_index"])
    no = np.zeros(num_rows, bool)
    annotations = Annotations(
        **truth,
        identity_source=("",) * num_rows,
        category=tuple(CLASSES[i] for i in truth["class_index"]),
        crowd=rng.random(num_rows) < 0.03,
        ignored=no,
        occluded=no,
        truncated=no,
        visibility=np.full(num_rows, np.nan, np.float32),
    )
    frame_names = tuple(f"{name}-{number:07d}.jpg" for number in range(1, num_frames + 1))
    return (
        SequenceTruth(name=name, frame_names=frame_names, annotations=annotations),
        SequenceResult(
            name=name, tracks=_make_tracks(rng, truth, num_frames), num_frames=num_frames
        ),
    )


def _make_truth_columns(
    rng: np.random.Generator, num_frames: int, num_objects: int
) -> dict[str, Any]:
    frames, identities, labels, boxes = [], [], [], []
    corner, size, step, label = np.zeros(2), np.zeros(2), np.zeros(2), 0
    identity = 0
    for _ in range(num_objects):
        frame = int(rng.integers(-20, 1))
        while frame < num_frames:
            length = int(rng.integers(10, 41))
            if rng.random() < 1 / 3:  # beside the last object
                corner = corner + 0.6 * size * rng.choice([-1, 1], 2) * [1, 0.2]
            else:
                corner = rng.uniform([0, 0], [WIDTH - 160, HEIGHT - 160])
                size, step = rng.uniform(20, 160, 2), rng.normal(0, 4, 2)
                label = int(rng.integers(len(CLASSES)))
            inside = np.arange(max(frame, 0), min(frame + length, num_frames))
            corners = corner + step * (inside - frame)[:, None]
            frames.append(inside)
            identities.append(np.full(len(inside), identity))
            labels.append(np.full(len(inside), label))
            boxes.append(np.concatenate([corners, corners + size], axis=1))
            identity += 1
            frame += length
    order = np.argsort(np.concatenate(frames), kind="stable")
    return {
        "frame_index": np.concatenate(frames)[order].astype(np.int32),
        "identity": np.concatenate(identities)[order],
        "class_index": np.concatenate(labels)[order].astype(np.int16),
        "boxes_xyxy": np.concatenate(boxes)[order],
    }


def _make_tracks(rng: np.random.Generator, truth: dict[str, Any], num_frames: int) -> Tracks:
    found = np.flatnonzero(rng.random(len(truth["identity"])) < 0.85)
    identity, frame = truth["identity"][found], truth["frame_index"][found]
    phase = rng.integers(0, 7, truth["identity"].max() + 1)
    num_false = 2 * num_frames
    false = np.arange(num_false)
    corners = rng.uniform([0, 0], [WIDTH - 160, HEIGHT - 160], (num_false, 2))
    false_boxes = np.concatenate([corners, corners + rng.uniform(20, 160, (num_false, 2))], axis=1)
    track_id = 1000 * identity + (frame + phase[identity]) // 7
    noisy_boxes = truth["boxes_xyxy"][found] + rng.normal(0, 3, (len(found), 4))
    columns = {
        "frame_index": [frame, false // 2],
        "track_id": [track_id, 10**6 + false // 6 * 2 + false % 2],
        "boxes_xyxy": [noisy_boxes, false_boxes],
        "class_index": [truth["class_index"][found], rng.integers(len(CLASSES), size=num_false)],
    }
    order = np.argsort(np.concatenate(columns["frame_index"]), kind="stable")
    rows = {name: np.concatenate(parts)[order] for name, parts in columns.items()}
    return Tracks(
        frame_index=rows["frame_index"].astype(np.int32),
        track_id=rows["track_id"],
        detection_row=np.full(len(order), -1, np.int32),
        boxes_xyxy=rows["boxes_xyxy"],
        scores=np.ones(len(order), np.float32),
        class_index=rows["class_index"].astype(np.int16),
    )


class ProtocolWithClear(Bdd100kProtocol):
    """The benchmark's rules and, beside them, trackeval's CLEAR, so that both sides do it."""

    def __init__(self) -> None:
        super().__init__(CLASSES, BENCHMARKS["bdd100k"].super_classes)
        self.metrics = {**self.metrics, "CLEAR": CLEAR()}

    def compare(self, prepared: Any, result: SequenceResult) -> Any:
        classes = super().compare(prepared, result)
        return {name: {**data, "CLEAR": data["HOTA"]} for name, data in classes.items()}


class StockInMemory(trackeval.datasets.BDD100K):
    """trackeval's BDD100K loader whose two raw files come from memory; all else is its own."""

    def __init__(self, sequences: dict[str, Pair]) -> None:
        self.sequences = sequences
        self.class_name_to_class_id = {name: i for i, name in enumerate(CLASSES)}

    def _load_raw_file(self, tracker: str, seq: str, is_gt: bool) -> dict[str, Any]:
        truth, result = self.sequences[seq]
        rows = truth.annotations if is_gt else result.tracks
        ids = rows.identity if is_gt else rows.track_id
        crowd = rows.crowd if is_gt else np.zeros(len(ids), bool)
        edges = np.searchsorted(rows.frame_index, np.arange(truth.num_frames + 1))
        frames = [np.arange(a, b) for a, b in pairwise(edges)]
        side = "gt" if is_gt else "tracker"
        raw: dict[str, Any] = {
            "num_timesteps": truth.num_frames,
            f"{side}_ids": [ids[f[~crowd[f]]] for f in frames],
            f"{side}_classes": [rows.class_index[f[~crowd[f]]] for f in frames],
            f"{side}_dets": [rows.boxes_xyxy[f[~crowd[f]]] for f in frames],
        }
        if is_gt:
            raw["gt_crowd_ignore_regions"] = [rows.boxes_xyxy[f[crowd[f]]] for f in frames]
        return raw


def score_with_trackeval(
    sequences: dict[str, Pair],
) -> dict[str, Any]:
    """Fields of trackeval's metrics over all sequences and classes, as its evaluator does it."""
    stock = StockInMemory(sequences)
    quiet = {"PRINT_CONFIG": False}
    metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR(quiet)]
    metrics.append(trackeval.metrics.Identity(quiet))
    scores: dict[str, Any] = {}
    for name in sorted(sequences):
        raw = stock.get_raw_seq_data("", name)
        scores[name] = {}
        for class_name in CLASSES:
            data = stock.get_preprocessed_seq_data(raw, class_name)
            scores[name][class_name] = [metric.eval_sequence(data) for metric in metrics]
    by_class = [
        {
            class_name: metric.combine_sequences({n: s[class_name][i] for n, s in scores.items()})
            for class_name in CLASSES
        }
        for i, metric in enumerate(metrics)
    ]
    pooled = [m.combine_classes_det_averaged(s) for m, s in zip(metrics, by_class, strict=True)]
    return {k: v for fields in pooled for k, v in fields.items()}


def main() -> None:
    """Print figures and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-sequences", type=int, default=200, help="scored by ours")
    parser.add_argument("--num-peer-sequences", type=int, default=10, help="also by trackeval")
    parser.add_argument("--num-frames", type=int, default=200)
    parser.add_argument("--num-objects", type=int, default=12, help="at a time, of 8 classes")
    parser.add_argument("--repeats", type=int, default=3, help="runs on workers; the best counts")
    parser.add_argument("--no-ray", action="store_true", help="only the figures on one core")
    arguments = parser.parse_args()

    sequences = {
        name: make_sequence(
            name, num_frames=arguments.num_frames, num_objects=arguments.num_objects
        )
        for name in (f"sequence-{index:03d}" for index in range(arguments.num_sequences))
    }
    measure_one_core(sequences, arguments.num_peer_sequences)
    if not arguments.no_ray:
        measure_processes(sequences, arguments.repeats)


def measure_one_core(sequences: dict[str, Pair], num_peer_sequences: int) -> None:
    """Print CPU time per sequence of ours and of trackeval."""
    protocol = ProtocolWithClear()
    some = dict(list(sequences.items())[:num_peer_sequences])
    evaluate_sequence(protocol, *next(iter(sequences.values())))  # imports, first allocations

    peer_s, expected = _cpu_time(lambda: score_with_trackeval(some))
    found = _pooled(protocol, {n: evaluate_sequence(protocol, *pair) for n, pair in some.items()})
    for name in ("IDTP", "IDFP", "CLR_TP", "IDSW", "MT", "Frag"):
        assert found[name] == expected[name], (name, found[name], expected[name])
    for name in ("HOTA", "AssA", "IDF1", "MOTA"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12, err_msg=name)

    ours_s, report = _cpu_time(
        lambda: reduce_scores(
            protocol, {n: evaluate_sequence(protocol, *pair) for n, pair in sequences.items()}
        )
    )
    overall = report.metrics["OVERALL"]
    scores = f"HOTA {overall['HOTA']:.2f}, MOTA {overall['MOTA']:.2f}"
    print(f"{len(sequences)} sequences, OVERALL {scores}")
    ours_ms, peer_ms = 1e3 * ours_s / len(sequences), 1e3 * peer_s / len(some)
    print(f"one core, CPU time per sequence: ours {ours_ms:.2f} ms (official counting included)")
    print(f"                            trackeval {peer_ms:.2f} ms, the same scores")
    print(f"                                ratio {peer_ms / ours_ms:.1f} (target 3)")


def measure_processes(sequences: dict[str, Pair], repeats: int) -> None:
    """Print how many sequences a second 1 and 2 processes read from the store and score."""
    from pipeline.cluster import connect

    connect(num_cpus=2)
    with tempfile.TemporaryDirectory() as root:
        parts = {name: _store(root, *pair) for name, pair in sequences.items()}
        rates = {1: 0.0, 2: 0.0}
        for _ in range(repeats):
            for num_workers in rates:
                rates[num_workers] = max(rates[num_workers], _rate(parts, num_workers))
    print(f"read and scored: one process {rates[1]:.0f} sequences a second, two {rates[2]:.0f}")
    print(f"                                ratio {rates[2] / rates[1]:.2f} (target 1.7)")


def _rate(parts: dict[str, Any], num_workers: int) -> float:
    """Sequences a second once every process has done its first one, which starts it."""
    ends = list(
        map_sequences(
            partial(_read_and_score, ProtocolWithClear()),
            parts,
            num_workers=num_workers,
            label="evaluate",
            per_task=sequences_per_task(len(parts), num_workers),
        ).values()
    )
    started = max(
        min(end for process, end, _ in ends if process == p) for p in {p for p, *_ in ends}
    )
    counted = [end for _, end, _ in ends if end > started]
    return len(counted) / (max(counted) - started)


def _read_and_score(
    protocol: Bdd100kProtocol, parts: tuple[Part, Part]
) -> tuple[int, float, SequenceScores]:
    """What a worker of the evaluate stage does and sends back; with its process and the time."""
    scores = evaluate_sequence(protocol, *load_pair(parts))
    return os.getpid(), time.monotonic(), scores


def _store(root: str, truth: SequenceTruth, result: SequenceResult) -> tuple[Part, Part]:
    """A sequence as ingest and association leave it, without images."""
    frames, tracks = (
        Artefact(root=root, stage=stage, dataset="made", split="up", fingerprint="0").part(
            truth.name
        )
        for stage in ("frames", "tracks")
    )
    rows = [
        Frame(frame_index=i, name=name, timestamp_us=None, height=HEIGHT, width=WIDTH, image=b"")
        for i, name in enumerate(truth.frame_names)
    ]
    with frames.write() as writer:
        write_frames(writer, truth.name, rows)
        writer.write_parquet(ANNOTATIONS_FILE, truth.annotations.to_table(truth.name))
        writer.details = {"has_labels": True}
    with tracks.write() as writer:
        writer.write_parquet(TRACKS_FILE, result.tracks.to_table())
    return frames, tracks


def _cpu_time(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _pooled(protocol: Bdd100kProtocol, scores: dict[str, Any]) -> dict[str, Any]:
    """All fields of the row OVERALL."""
    by_class = protocol.combine_sequences({name: score.fields for name, score in scores.items()})
    fields = protocol.combine_classes(protocol.rows[-1], by_class)
    return fields["Identity"] | fields["HOTA"] | fields["CLEAR"]


if __name__ == "__main__":
    main()
