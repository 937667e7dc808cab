"""A small store with frames and detections on which the settings of a tracker matter."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, Detections, SequenceTruth
from pipeline.associate import DETECTIONS_FILE
from pipeline.store import Artefact
from tests.stored_truth import write_truth

CLASSES = BENCHMARKS["bdd100k"].classes
NUM_FRAMES = 24


class Stored(NamedTuple):
    frames: Artefact
    detections: Artefact


def make_pair(name: str, num_objects: int = 5) -> tuple[SequenceTruth, Detections]:
    """Truth and fair detections: objects cross, some are missed, some twice, some boxes false."""
    rng = np.random.default_rng([3, *name.encode()])
    frame, identity = (grid.ravel() for grid in np.mgrid[:NUM_FRAMES, :num_objects])
    class_of = rng.integers(0, 3, num_objects)
    start, speed = rng.uniform(0, 200, (num_objects, 2)), rng.normal(0, 8, (num_objects, 2))
    corner = start[identity] + speed[identity] * frame[:, None]
    # Eighths of a pixel, which formats with inclusive boxes give back exactly.
    boxes = np.round(np.concatenate([corner, corner + 40], axis=1) * 8) / 8
    count = len(frame)
    no = np.zeros(count, bool)
    annotations = Annotations(
        frame_index=frame.astype(np.int32),
        identity=identity.astype(np.int64),
        identity_source=tuple(map(str, identity)),
        category=tuple(CLASSES[i] for i in class_of[identity]),
        class_index=class_of[identity].astype(np.int16),
        boxes_xyxy=boxes,
        crowd=rng.random(count) < 0.05,
        ignored=no,
        occluded=no,
        truncated=no,
        visibility=np.full(count, np.nan, np.float32),
    )
    names = tuple(f"{name}-{number:07d}.jpg" for number in range(1, NUM_FRAMES + 1))
    truth = SequenceTruth(name=name, frame_names=names, annotations=annotations)
    looks = rng.normal(size=(num_objects, 8))
    seen = np.flatnonzero(rng.random(count) < 0.85)
    num_false = 3 * NUM_FRAMES
    false_corner = rng.uniform(0, 250, (num_false, 2))
    columns = {
        "frame": np.concatenate([frame[seen], np.repeat(np.arange(NUM_FRAMES), 3)]),
        "boxes_xyxy": np.concatenate(
            [
                boxes[seen] + rng.normal(0, 3, (len(seen), 4)),
                np.concatenate([false_corner, false_corner + 35], axis=1),
            ]
        ).astype(np.float32),
        "scores": np.concatenate(
            [rng.beta(5, 2, len(seen)), rng.uniform(0.05, 0.75, num_false)]
        ).astype(np.float32),
        "class_indices": np.concatenate(
            [class_of[identity[seen]], rng.integers(0, 3, num_false)]
        ).astype(np.int16),
        "embeddings": np.concatenate(
            [
                looks[identity[seen]] + rng.normal(0, 0.6, (len(seen), 8)),
                rng.normal(size=(num_false, 8)),
            ]
        ).astype(np.float32),
    }
    order = np.lexsort((-columns["scores"], columns["frame"]))
    counts = np.bincount(columns.pop("frame"), minlength=NUM_FRAMES)
    detections = Detections(
        frame_offsets=np.concatenate([[0], np.cumsum(counts)]),
        **{name: column[order] for name, column in columns.items()},
    )
    return truth, detections


def store_pairs(
    root: str, pairs: Mapping[str, tuple[SequenceTruth, Detections]], benchmark: str = "bdd100k"
) -> Stored:
    """Finished artefacts of frames without images and of detections."""
    frames, detections = (
        Artefact(root=root, stage=stage, dataset="small", split="val", fingerprint=name * 16)
        for stage, name in (("frames", "a"), ("detections", "b"))
    )
    for name, (truth, found) in pairs.items():
        write_truth(frames.part(name), truth)
        with detections.part(name).write() as writer:
            writer.write_arrow(DETECTIONS_FILE, found.to_table())
    num_frames = sum(truth.num_frames for truth, _ in pairs.values())
    frames.finish(pairs, {"benchmark": benchmark, "num_frames": num_frames})
    detections.finish(pairs, {"frames": frames.fingerprint, "boxes": "detector"})
    return Stored(frames, detections)


def write_store(root: str, num_sequences: int = 12) -> Stored:
    """A store of its own with some sequences."""
    names = [f"s{index:02d}" for index in range(num_sequences)]
    return store_pairs(
        root, {name: make_pair(name, 3 + index % 4) for index, name in enumerate(names)}
    )
