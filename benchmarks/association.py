"""The cost of one association step, beside the bare arithmetic it cannot do without.

    python benchmarks/association.py [--repeats 200]

Prints, for 50 detections against 200 tracks and 100 against 500 (256 columns, 8 classes, float32,
one thread): the time of one `QuasiDenseTracker.update`, of the bare work (one similarity
product, two softmaxes, one IoU matrix), of a plain Python loop that computes the same step, and
the ratios. Times are lower quartiles over the frames, because whatever else the machine does only
ever adds. Every step is one frame of a stream in which most detections continue a track, some
start one and as many tracks expire; the loop gets the same frames and must give the same ids.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read once, when NumPy is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402

from models.qdtrack.association import QuasiDenseTracker, TrackerConfig  # noqa: E402
from models.tracking import pairwise_iou  # noqa: E402

EMBEDDING_DIM = 256
NUM_CLASSES = 8
CASES = ((50, 200), (100, 500))
TARGET_BARE, TARGET_LOOP = 2.0, 8.0

Frame = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def stream(num_detections: int, num_tracks: int, seed: int) -> Iterator[Frame]:
    """Frames without end; after ten of them about `num_tracks` tracks are alive.

    A tenth of the memory is reborn in each frame, so each frame shows `num_detections` objects of
    which num_tracks / 10 are new and the others were shown one frame before.
    """
    rng = np.random.default_rng(seed)
    num_new = num_tracks // 10
    columns = int(np.ceil(np.sqrt(num_detections)))
    cells = np.stack(np.divmod(np.arange(num_detections), columns), axis=1) * 70.0
    looks = np.zeros((0, EMBEDDING_DIM))
    classes = np.zeros(0, np.int64)
    while True:
        num_fresh = num_new if len(looks) else num_detections
        chosen = rng.permutation(len(looks))[: num_detections - num_fresh]
        fresh = rng.normal(size=(num_fresh, EMBEDDING_DIM))
        looks = np.concatenate([looks[chosen], fresh])
        classes = np.concatenate([classes[chosen], rng.integers(0, NUM_CLASSES, num_fresh)])
        corner = cells + rng.uniform(0, 10, (num_detections, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(40, 60, corner.shape)], axis=1)
        scores = np.sort(rng.uniform(0.85, 1.0, num_detections))[::-1]
        seen = looks + rng.normal(scale=0.1, size=looks.shape)
        yield (
            boxes.astype(np.float32),
            scores.astype(np.float32),
            classes,
            seen.astype(np.float32),
        )


def bare_work(boxes: np.ndarray, embeddings: np.ndarray, memory: np.ndarray) -> None:
    """One similarity product, two softmaxes and one IoU matrix in NumPy."""
    dots = embeddings @ memory.T
    for axis in (0, 1):
        kernel = dots - dots.max(axis=axis, keepdims=True)
        np.exp(kernel, out=kernel)
        kernel /= kernel.sum(axis=axis, keepdims=True)
    pairwise_iou(boxes, boxes)


class LoopTracker:
    """The same step as a person would first write it: Python loops over detections and tracks."""

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config
        self.tracks: dict[int, dict[str, Any]] = {}
        self.backdrops: list[list[tuple[np.ndarray, int]]] = []
        self.num_created = 0

    def update(
        self,
        frame_index: int,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        embeddings: np.ndarray,
    ) -> np.ndarray:
        config = self.config
        rows = self._survivors(boxes, scores)
        similarity, memory_ids = self._similarity([(embeddings[i], classes[i]) for i in rows])
        ids = dict.fromkeys(rows, -1)
        for position, i in enumerate(rows):
            if not memory_ids:
                break
            values = similarity[position]
            best = max(range(len(values)), key=values.__getitem__)
            if values[best] <= config.match_score_thr or memory_ids[best] < 0:
                continue
            if scores[i] > config.obj_score_thr:
                ids[i] = memory_ids[best]
                for other in range(position + 1, len(rows)):
                    similarity[other][best] = 0.0
            elif values[best] > config.nms_conf_thr:
                ids[i] = -2
        for i in rows:
            if ids[i] == -1 and scores[i] > config.init_score_thr:
                ids[i] = self.num_created
                self.num_created += 1
        self._remember(frame_index, rows, ids, boxes, classes, embeddings)
        return np.array([max(ids.get(i, -1), -1) for i in range(len(scores))], np.int64)

    def _survivors(self, boxes: np.ndarray, scores: np.ndarray) -> list[int]:
        config, kept = self.config, []
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        for position, i in enumerate(order):
            is_weak = scores[i] < config.obj_score_thr
            limit = config.nms_backdrop_iou_thr if is_weak else config.nms_class_iou_thr
            if all(_iou(boxes[i], boxes[j]) <= limit for j in order[:position]):
                kept.append(i)
        return kept

    def _similarity(
        self, detections: list[tuple[np.ndarray, int]]
    ) -> tuple[list[list[float]], list[int]]:
        memory = [(t["embedding"], t["class"]) for t in self.tracks.values()]
        memory_ids = list(self.tracks)
        if not memory:
            return [], []
        for group in self.backdrops:
            memory += group
            memory_ids += [-1] * len(group)
        dots = [[float(look @ other) for other, _ in memory] for look, _ in detections]
        by_row = [_softmax(row) for row in dots]
        by_column = [_softmax(list(column)) for column in zip(*dots, strict=True)]
        similarity = [
            [
                (by_row[i][j] + by_column[j][i]) / 2 if memory[j][1] == detections[i][1] else 0.0
                for j in range(len(memory))
            ]
            for i in range(len(detections))
        ]
        return similarity, memory_ids

    def _remember(
        self,
        frame_index: int,
        rows: list[int],
        ids: dict[int, int],
        boxes: np.ndarray,
        classes: np.ndarray,
        embeddings: np.ndarray,
    ) -> None:
        config = self.config
        backdrops = []
        for position, i in enumerate(rows):
            if ids[i] >= 0:
                look = embeddings[i]
                if ids[i] in self.tracks:
                    old = self.tracks[ids[i]]["embedding"]
                    look = (1 - config.memo_momentum) * old + config.memo_momentum * look
                self.tracks[ids[i]] = {
                    "embedding": look,
                    "class": classes[i],
                    "last_frame": frame_index,
                }
            elif ids[i] == -1 and all(
                _iou(boxes[i], boxes[j]) <= config.nms_backdrop_iou_thr for j in rows[:position]
            ):
                backdrops.append((embeddings[i], classes[i]))
        self.backdrops = [backdrops, *self.backdrops][: config.memo_backdrop_frames]
        for track_id, track in list(self.tracks.items()):
            if frame_index - track["last_frame"] >= config.memo_tracklet_frames:
                del self.tracks[track_id]


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    overlap = max(width, 0) * max(height, 0)
    areas = (first[2] - first[0]) * (first[3] - first[1])
    areas += (second[2] - second[0]) * (second[3] - second[1])
    return float(overlap / max(areas - overlap, 1e-6))


def _softmax(values: list[float]) -> list[float]:
    kernel = np.exp(np.array(values) - max(values))
    return list(kernel / kernel.sum())


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return (time.perf_counter() - start) * 1e3, result


def measure(num_detections: int, num_tracks: int, repeats: int) -> dict[str, float]:
    """Lower quartiles in milliseconds over one stream; the loop runs its first frames only."""
    config = TrackerConfig()
    tracker, loop = QuasiDenseTracker(config), LoopTracker(config)
    memory = (
        np.random.default_rng(1).normal(size=(2 * num_tracks, EMBEDDING_DIM)).astype(np.float32)
    )
    warm_up, num_looped = config.memo_tracklet_frames, max(3, repeats // 20)
    ours, bare, plain, alive = [], [], [], []
    last_seen: dict[int, int] = {}
    frames = enumerate(stream(num_detections, num_tracks, seed=0))
    for frame_index, frame in itertools.islice(frames, warm_up + repeats):
        alive.append(sum(frame_index - seen <= warm_up for seen in last_seen.values()))
        spent, ids = _timed(lambda k=frame_index, f=frame: tracker.update(k, *f))
        ours.append(spent)
        bare.append(_timed(lambda f=frame: bare_work(f[0], f[3], memory[: max(alive[-1], 1)]))[0])
        last_seen |= dict.fromkeys(ids[ids >= 0].tolist(), frame_index)
        if frame_index < warm_up + num_looped:
            spent, loop_ids = _timed(lambda k=frame_index, f=frame: loop.update(k, *f))
            plain.append(spent)
            assert (ids == loop_ids).all(), f"frame {frame_index}: the loop gives other ids"
    return {
        "tracks alive": float(np.median(alive[warm_up:])),
        "ours ms": float(np.quantile(ours[warm_up:], 0.25)),
        "bare ms": float(np.quantile(bare[warm_up:], 0.25)),
        "loop ms": float(np.quantile(plain[warm_up:], 0.25)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=200, help="frames measured (%(default)s)")
    repeats = parser.parse_args().repeats
    for num_detections, num_tracks in CASES:
        figures = measure(num_detections, num_tracks, repeats)
        ours = figures["ours ms"]
        print(
            f"{num_detections} detections x {figures['tracks alive']:.0f} tracks: "
            f"update {ours:.3f} ms, bare work {figures['bare ms']:.3f} ms "
            f"({ours / figures['bare ms']:.2f}x, limit {TARGET_BARE:g}x), "
            f"plain loop {figures['loop ms']:.1f} ms "
            f"({figures['loop ms'] / ours:.0f}x, target {TARGET_LOOP:g}x)"
        )


if __name__ == "__main__":
    main()
