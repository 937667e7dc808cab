"""A small result to diagnose: the scenes of training, tracked with every kind of error."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.schema import Annotations, Detections, Tracks
from models.config_io import config_to_dict
from models.qdtrack.association import TrackerConfig
from pipeline.associate import DETECTIONS_FILE, TRACKS_FILE
from pipeline.frames import read_annotations
from pipeline.infer import InferConfig
from pipeline.store import Artefact
from tests.training_scene import write_frames_artefact

TRUCK = 3
CORNER = (0.0, 0.0, 3.0, 3.0)


def write_result(root: Path, *, weights: str = "w" * 16) -> tuple[Artefact, Artefact]:
    """Frames of two sequences, and tracks of them with the detections that they were made from.

    Args:
        root: of the store.
        weights: fingerprint of the weights that the detections name.

    Returns:
        The frames and the tracks.
    """
    frames = write_frames_artefact(root, split="val", num_sequences=2)
    detections = replace(frames, stage="detections", fingerprint="d" * 16)
    tracks = replace(frames, stage="tracks", fingerprint="t" * 16)
    names = frames.sequences()
    for name in names:
        found = flawed_tracks(read_annotations(frames.part(name)))
        with tracks.part(name).write() as writer:
            writer.write_parquet(TRACKS_FILE, found.to_table())
            writer.details = {"num_boxes": len(found), "num_tracks": len(set(found.track_id))}
        with detections.part(name).write() as writer:
            writer.write_arrow(DETECTIONS_FILE, detections_behind(found, 7).to_table())
    details: dict[str, Any] = {"infer": config_to_dict(InferConfig()), "boxes": "detector"}
    detections.finish(names, details | {"frames": frames.fingerprint, "weights": weights})
    tracks.finish(
        names,
        {"detections": detections.fingerprint, "association": config_to_dict(TrackerConfig())},
    )
    return frames, tracks


def flawed_tracks(truth: Annotations) -> Tracks:
    """Tracks of the three objects of a scene, seven frames long.

    Object 0 changes from track 10 to 11 in frame 3 and is found twice in frame 1; object 1 is
    missed in frames 2 and 3; object 2 is called a truck in frames 4 and 5 and badly placed in frame
    6; and there is a box on nothing in frames 0 to 4.
    """
    rows: list[tuple[int, int, int, Any, float]] = []
    for row in range(len(truth)):
        frame, identity = int(truth.frame_index[row]), int(truth.identity[row])
        label, box = int(truth.class_index[row]), truth.boxes_xyxy[row]
        if identity == 0:
            rows.append((frame, 10 if frame < 3 else 11, label, box, 0.9))
            if frame == 1:
                rows.append((frame, 14, label, _moved(box, 2), 0.6))
        elif identity == 1 and frame not in (2, 3):
            rows.append((frame, 12, label, box, 0.8))
        elif identity == 2:
            shift = 0.5 * (box[2] - box[0]) if frame == 6 else 0.0
            label = TRUCK if frame in (4, 5) else label
            rows.append((frame, 13, label, _moved(box, shift), 0.7))
    rows += [(frame, 15, TRUCK, np.array(CORNER), 0.3) for frame in range(5)]
    rows.sort(key=lambda entry: entry[0])
    return Tracks(
        frame_index=np.array([entry[0] for entry in rows], np.int32),
        track_id=np.array([entry[1] for entry in rows], np.int64),
        detection_row=np.arange(len(rows), dtype=np.int32),
        boxes_xyxy=np.array([entry[3] for entry in rows], np.float32),
        scores=np.array([entry[4] for entry in rows], np.float32),
        class_index=np.array([entry[2] for entry in rows], np.int16),
    )


def detections_behind(tracks: Tracks, num_frames: int) -> Detections:
    """The boxes of tracks whose rows are ordered by frame, as detections without embeddings."""
    return Detections(
        frame_offsets=np.searchsorted(tracks.frame_index, np.arange(num_frames + 1)),
        boxes_xyxy=tracks.boxes_xyxy.astype(np.float32),
        scores=tracks.scores,
        class_indices=tracks.class_index,
        embeddings=np.zeros((len(tracks), 0), np.float32),
    )


def _moved(box: Any, right_px: float) -> Any:
    return box + np.array([right_px, 0.0, right_px, 0.0])
