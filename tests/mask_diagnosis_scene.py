"""A small result with masks to diagnose: the cars of a point scene, with every kind of error."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.masks import decode_mask, encode_mask, mask_boxes
from datasets.schema import Annotations, Detections, Tracks
from models.config_io import config_to_dict
from models.pointtrack.association import PointTrackerConfig
from pipeline.associate import DETECTIONS_FILE, TRACKS_FILE, AssociationConfig
from pipeline.frames import FrameReader, read_annotations
from pipeline.segment import EmbedConfig
from pipeline.store import Artefact
from tests.point_scene import HEIGHT, WIDTH, write_scenes

CAR, PEDESTRIAN = 0, 1

Row = tuple[int, int, int, Any, float]
"""Frame, track, class, mask and score."""


def write_mask_result(
    root: Path,
    *,
    weights: str = "w" * 16,
    association: AssociationConfig | None = None,
    with_pedestrians: bool = False,
) -> tuple[Artefact, Artefact]:
    """Frames of three sequences, and tracks of them with the detections that they were made from.

    Args:
        root: of the store.
        weights: fingerprint of the association network that the detections name.
        association: the tracker that the tracks name, PointTrack's by default.
        with_pedestrians: whether one is tracked, too.

    Returns:
        The frames and the tracks.
    """
    frames = write_scenes(root)
    detections = replace(frames, stage="detections", fingerprint="d" * 16)
    tracks = replace(frames, stage="tracks", fingerprint="t" * 16)
    names = frames.sequences()
    for name in names:
        part = frames.part(name)
        found = flawed_masks(name, read_annotations(part), with_pedestrians=with_pedestrians)
        with tracks.part(name).write() as writer:
            writer.write_parquet(TRACKS_FILE, found.to_table())
            writer.details = {"num_boxes": len(found), "num_tracks": len(set(found.track_id))}
        with detections.part(name).write() as writer:
            behind = masks_behind(found, FrameReader(part).num_frames)
            writer.write_arrow(DETECTIONS_FILE, behind.to_table())
    inputs = {"detections": "s" * 16, "weights": weights, "frames": frames.fingerprint}
    detections.finish(names, {"embed": config_to_dict(EmbedConfig()), **inputs})
    settings = config_to_dict(association or PointTrackerConfig())
    tracks.finish(names, {"detections": detections.fingerprint, "association": settings})
    return frames, tracks


def flawed_masks(name: str, truth: Annotations, *, with_pedestrians: bool = False) -> Tracks:
    """Tracks of the cars of a scene.

    In sequence 0000 car 1001 changes from track 10 to 11 in frame 2, and is found in two pieces in
    frame 0; car 1002 is missed in frame 2, and half of it in frame 4; the pedestrian is called a
    car in frames 1 and 3, or only in frame 3; and there is a mask on nothing in frames 0 to 2. In
    sequence 0001 the car is found in its last frame only.
    """
    rows: list[Row] = []
    for row in range(len(truth)):
        frame, identity = int(truth.frame_index[row]), int(truth.identity[row])
        mask = decode_mask((truth.masks or ())[row])
        if name == "0001":
            if (frame, identity) == (3, 1001):
                rows.append((frame, 20, CAR, mask, 0.9))
        elif identity == 1001:
            rows += _pieces(frame, 10 if frame < 2 else 11, 15, mask, at=0.75 * (frame == 0))
        elif identity == 1002 and frame == 4:
            rows += _pieces(frame, 12, -1, mask, at=0.4)
        elif identity == 1002 and frame != 2:
            rows.append((frame, 12, CAR, mask, 0.8))
        elif identity == 2001:
            is_seen = with_pedestrians and frame == 1
            rows.append((frame, 13, PEDESTRIAN if is_seen else CAR, mask, 0.7))
    if name == "0000":
        corner = np.zeros((HEIGHT, WIDTH), bool)
        corner[:4, :2] = True
        rows += [(frame, 16, CAR, corner, 0.3) for frame in range(3)]
    rows.sort(key=lambda entry: entry[0])
    masks = tuple(encode_mask(entry[3]) for entry in rows)
    return Tracks(
        frame_index=np.array([entry[0] for entry in rows], np.int32),
        track_id=np.array([entry[1] for entry in rows], np.int64),
        detection_row=np.arange(len(rows), dtype=np.int32),
        boxes_xyxy=mask_boxes(masks).astype(np.float32),
        scores=np.array([entry[4] for entry in rows], np.float32),
        class_index=np.array([entry[2] for entry in rows], np.int16),
        masks=masks,
    )


def masks_behind(tracks: Tracks, num_frames: int) -> Detections:
    """Masks of tracks whose rows are ordered by frame, as detections with empty embeddings."""
    return Detections(
        frame_offsets=np.searchsorted(tracks.frame_index, np.arange(num_frames + 1)),
        boxes_xyxy=tracks.boxes_xyxy.astype(np.float32),
        scores=tracks.scores,
        class_indices=tracks.class_index,
        embeddings=np.zeros((len(tracks), 0), np.float32),
        masks=tracks.masks,
    )


def _pieces(frame: int, track: int, other: int, mask: Any, *, at: float) -> list[Row]:
    """The left share of a mask, and the rest under another track unless that is negative."""
    if at == 0:
        return [(frame, track, CAR, mask, 0.9)]
    columns = np.flatnonzero(mask.any(axis=0))
    is_left = np.arange(WIDTH) < columns[0] + round(at * len(columns))
    rows: list[Row] = [(frame, track, CAR, mask & is_left, 0.9)]
    return rows if other < 0 else [*rows, (frame, other, CAR, mask & ~is_left, 0.6)]
