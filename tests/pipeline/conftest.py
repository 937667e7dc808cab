"""Small sequences for the tests of scoring, by hand and at random."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from datasets.schema import Annotations, SequenceResult, SequenceTruth, Tracks

TruthRow = tuple[Any, ...]
"""frame, identity, class index, (x1, y1, x2, y2), then any of "crowd", "ignored"."""

MakeTruth = Callable[..., SequenceTruth]
MakeResult = Callable[..., SequenceResult]
RandomLists = Callable[..., dict[str, Any]]
RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]


@pytest.fixture(scope="session")
def make_truth() -> MakeTruth:
    """Ground truth from rows (frame, identity, class index, box, *flags)."""

    def make(
        rows: Sequence[TruthRow],
        num_frames: int,
        *,
        name: str = "a",
        categories: Sequence[str] | None = None,
    ) -> SequenceTruth:
        count = len(rows)
        no = np.zeros(count, bool)
        annotations = Annotations(
            frame_index=np.array([row[0] for row in rows], np.int32),
            identity=np.array([row[1] for row in rows], np.int64),
            identity_source=tuple(str(row[1]) for row in rows),
            category=tuple(categories or [""] * count),
            class_index=np.array([row[2] for row in rows], np.int16),
            boxes_xyxy=np.array([row[3] for row in rows], np.float64).reshape(-1, 4),
            crowd=np.array(["crowd" in row[4:] for row in rows], bool),
            ignored=np.array(["ignored" in row[4:] for row in rows], bool),
            occluded=no,
            truncated=no,
            visibility=np.full(count, np.nan, np.float32),
        )
        names = tuple(f"{name}-{number:07d}.jpg" for number in range(1, num_frames + 1))
        return SequenceTruth(name=name, frame_names=names, annotations=annotations)

    return make


@pytest.fixture(scope="session")
def make_result() -> MakeResult:
    """A result from rows (frame, track id, class index, box)."""

    def make(
        rows: Sequence[tuple[Any, ...]], num_frames: int | None = None, *, name: str = "a"
    ) -> SequenceResult:
        count = len(rows)
        tracks = Tracks(
            frame_index=np.array([row[0] for row in rows], np.int32),
            track_id=np.array([row[1] for row in rows], np.int64),
            detection_row=np.full(count, -1, np.int32),
            boxes_xyxy=np.array([row[3] for row in rows], np.float64).reshape(-1, 4),
            scores=np.ones(count, np.float32),
            class_index=np.array([row[2] for row in rows], np.int16),
        )
        return SequenceResult(name=name, tracks=tracks, num_frames=num_frames)

    return make


@pytest.fixture(scope="session")
def random_lists() -> RandomLists:
    """trackeval's in-memory dictionary of one class, at random.

    Kinds: "dense" (all boxes overlap), "sparse" (few do), "ties" (a handful of values, among them
    exactly the thresholds), "equal" (every IoU the same: nothing but ties), "tracks" (long tracks
    that mostly follow an identity, with gaps and switches).
    """

    def make(seed: int, kind: str) -> dict[str, Any]:
        rng = np.random.default_rng([seed, *kind.encode()])
        num_frames, most = int(rng.integers(1, 16)), int(rng.integers(1, 14))
        num_truth, num_tracks = rng.integers(1, 16, 2).tolist()
        truth_ids, track_ids, similarities = [], [], []
        for _ in range(num_frames):
            if kind == "tracks":
                truth = np.flatnonzero(rng.random(num_truth) < 0.8)
                tracks = np.flatnonzero(rng.random(num_truth) < 0.8)
                similarity = 0.6 * (truth[:, None] == tracks) + 0.4 * rng.random(
                    (len(truth), len(tracks))
                ) * (rng.random((len(truth), len(tracks))) < 0.5)
                tracks = tracks + num_truth * rng.integers(0, 2, len(tracks))
            else:
                truth = rng.permutation(num_truth)[: rng.integers(0, most + 1)]
                tracks = rng.permutation(num_tracks)[: rng.integers(0, most + 1)]
                shape = (len(truth), len(tracks))
                similarity = {
                    "dense": lambda s=shape: rng.random(s),
                    "sparse": lambda s=shape: rng.random(s) * (rng.random(s) < 0.2),
                    "ties": lambda s=shape: rng.choice([0, 0.05, 0.25, 0.5, 0.75, 1.0], s),
                    "equal": lambda s=shape: np.full(s, 0.5),
                }[kind]()
            truth_ids.append(truth)
            track_ids.append(tracks)
            similarities.append(similarity)
        truth_ids, num_truth_ids = _relabelled(truth_ids)
        track_ids, num_track_ids = _relabelled(track_ids)
        return {
            "num_timesteps": num_frames,
            "num_gt_ids": num_truth_ids,
            "num_tracker_ids": num_track_ids,
            "num_gt_dets": sum(map(len, truth_ids)),
            "num_tracker_dets": sum(map(len, track_ids)),
            "gt_ids": truth_ids,
            "tracker_ids": track_ids,
            "similarity_scores": similarities,
        }

    return make


@pytest.fixture(scope="session")
def random_sequence(make_truth: MakeTruth, make_result: MakeResult) -> RandomSequence:
    """Truth and a flawed result of 30 frames and three classes, some of it crowd."""

    def make(name: str, *, num_classes: int = 3) -> tuple[SequenceTruth, SequenceResult]:
        rng = np.random.default_rng(list(name.encode()))
        truth, result = [], []
        for identity in range(12):
            label, corner = int(rng.integers(num_classes)), rng.uniform(0, 300, 2)
            size, step = rng.uniform(20, 80, 2), rng.normal(0, 3, 2)
            flags = ("crowd",) if rng.random() < 0.2 else ()
            for frame in np.flatnonzero(rng.random(30) < 0.8).tolist():
                box = np.concatenate([corner + frame * step, corner + frame * step + size])
                truth.append((frame, identity, label, box, *flags))
                if rng.random() < 0.85:
                    track = 100 * identity + frame // 9
                    result.append((frame, track, label, box + rng.normal(0, 5, 4)))
        for row in range(40):
            corner, frame = rng.uniform(0, 300, 2), int(rng.integers(30))
            box = np.concatenate([corner, corner + 40])
            result.append((frame, 10_000 + row // 4, int(rng.integers(num_classes)), box))
        unique = {(row[0], row[1]): row for row in result}
        return make_truth(truth, 30, name=name), make_result([*unique.values()], 30, name=name)

    return make


def _relabelled(lists: list[Any]) -> tuple[list[Any], int]:
    names = np.unique(np.concatenate(lists))
    return [np.searchsorted(names, ids) for ids in lists], len(names)
