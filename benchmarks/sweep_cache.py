"""Stored frames and detections of the size of BDD100K val, made up: what a sweep is measured on.

Truth is as in `benchmarks.scoring`: about 12 boxes a frame, 8 classes, crowds among them. The
detections are truth boxes with noise, of which some are missing, duplicates of some of them at a
lower score, and false boxes: about 30 a frame, with embeddings that follow the identity.
"""

import numpy as np

from benchmarks.scoring import CLASSES, HEIGHT, WIDTH, make_sequence
from datasets.schema import Annotations, Detections, SequenceTruth
from pipeline.associate import DETECTIONS_FILE
from pipeline.frames import ANNOTATIONS_FILE, Frame, write_frames
from pipeline.store import Artefact

EMBEDDING_DIM = 256
_FALSE_BOXES = 17
"""A frame, at scores up to 0.6."""


def make_cache(
    root: str, *, num_sequences: int, num_frames: int = 200
) -> tuple[Artefact, Artefact]:
    """Finished artefacts of frames without images and of detections, or those that lie there."""
    frames = Artefact(
        root=root, stage="frames", dataset="made_up", split="val", fingerprint=f"{num_frames:016d}"
    )
    detections = Artefact(
        root=root,
        stage="detections",
        dataset="made_up",
        split="val",
        fingerprint=f"{num_sequences:016d}",
    )
    names = [f"sequence-{index:03d}" for index in range(num_sequences)]
    for name in detections.missing(names):
        truth, _ = make_sequence(name, num_frames=num_frames, num_objects=12)
        _store_truth(frames, truth)
        found = make_detections(truth)
        with detections.part(name).write() as writer:
            writer.write_arrow(DETECTIONS_FILE, found.to_table())
            writer.details = {"num_frames": num_frames, "num_detections": len(found)}
    facts = {"benchmark": "bdd100k", "num_frames": num_sequences * num_frames}
    frames.finish(names, facts)
    detections.finish(names, {"frames": frames.fingerprint, "weights": "0" * 16})
    return frames, detections


def make_detections(truth: SequenceTruth) -> Detections:
    """What a fair detector with embeddings might find of a sequence."""
    rng = np.random.default_rng([21, *truth.name.encode()])
    annotations = truth.annotations
    looks = rng.normal(size=(int(annotations.identity.max()) + 1, EMBEDDING_DIM))
    found = np.flatnonzero(rng.random(len(annotations)) < 0.9)
    twins = found[rng.random(len(found)) < 0.2]
    rows = np.concatenate([found, twins])
    scores = np.concatenate([rng.beta(6, 2, len(found)), rng.uniform(0.05, 0.5, len(twins))])
    seen = looks[annotations.identity[rows]] + rng.normal(
        scale=0.5, size=(len(rows), EMBEDDING_DIM)
    )
    boxes = annotations.boxes_xyxy[rows] + rng.normal(0, 3, (len(rows), 4))
    num_false = _FALSE_BOXES * truth.num_frames
    corners = rng.uniform([0, 0], [WIDTH - 160, HEIGHT - 160], (num_false, 2))
    false = np.concatenate([corners, corners + rng.uniform(20, 160, (num_false, 2))], axis=1)
    frame = np.concatenate(
        [annotations.frame_index[rows], np.repeat(np.arange(truth.num_frames), _FALSE_BOXES)]
    )
    columns = {
        "boxes_xyxy": np.concatenate([boxes, false]).astype(np.float32),
        "scores": np.concatenate([scores, rng.uniform(0.05, 0.6, num_false)]).astype(np.float32),
        "class_indices": np.concatenate(
            [annotations.class_index[rows], rng.integers(len(CLASSES), size=num_false)]
        ).astype(np.int16),
        "embeddings": np.concatenate([seen, rng.normal(size=(num_false, EMBEDDING_DIM))]).astype(
            np.float32
        )
        * np.float32(0.25),
    }
    order = np.lexsort((-columns["scores"], frame))
    counts = np.bincount(frame, minlength=truth.num_frames)
    return Detections(
        frame_offsets=np.concatenate([[0], np.cumsum(counts)]),
        **{name: column[order] for name, column in columns.items()},
    )


def _store_truth(frames: Artefact, truth: SequenceTruth) -> None:
    annotations: Annotations = truth.annotations
    rows = [
        Frame(frame_index=i, name=name, timestamp_us=None, height=HEIGHT, width=WIDTH, image=b"")
        for i, name in enumerate(truth.frame_names)
    ]
    with frames.part(truth.name).write() as writer:
        write_frames(writer, truth.name, rows)
        writer.write_parquet(ANNOTATIONS_FILE, annotations.to_table(truth.name))
        writer.details = {"has_labels": True, "num_frames": truth.num_frames}
