"""The overlay video among the artefacts: of which sequence, and made only once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.schema import Tracks
from datasets.video import iterate_frames, probe_video
from pipeline.associate import TRACKS_FILE
from pipeline.frames import ANNOTATIONS_FILE, FrameReader, read_annotations, write_frames
from pipeline.overlay import overlay
from pipeline.render import identity_colour
from pipeline.store import Artefact
from tests.training_scene import write_frames_artefact

CLASSES = ("pedestrian", "car")
NUM_FRAMES = 7
# Frames of 64 x 96 are enlarged sixfold to be readable.
ZOOM = 6


def store_tracks(frames: Artefact, num_boxes: dict[str, int], fingerprint: str = "t") -> Artefact:
    """One track per sequence, a still box in its first frames."""
    artefact = replace(frames, stage="tracks", fingerprint=fingerprint)
    for name, count in num_boxes.items():
        tracks = Tracks(
            frame_index=np.arange(count, dtype=np.int32),
            track_id=np.full(count, 3),
            detection_row=np.arange(count, dtype=np.int32),
            boxes_xyxy=np.tile(np.array([20, 40, 60, 60], np.float32), (count, 1)),
            scores=np.full(count, 0.5, np.float32),
            class_index=np.ones(count, np.int16),
        )
        with artefact.part(name).write() as writer:
            writer.write_parquet(TRACKS_FILE, tracks.to_table())
            writer.details = {"num_boxes": count, "num_tracks": min(count, 1)}
    artefact.finish(num_boxes, {})
    return artefact


@pytest.fixture
def frames(tmp_path: Path) -> Artefact:
    return write_frames_artefact(tmp_path, split="val")


@pytest.fixture
def tracks(frames: Artefact) -> Artefact:
    return store_tracks(frames, {"val-0": 1, "val-1": 5, "val-2": 0})


def test_the_sequence_with_the_most_boxes_is_drawn(frames: Artefact, tracks: Artefact) -> None:
    path = Path(overlay(frames, tracks, CLASSES))
    assert path.name == "overlay.mp4"
    assert path.parent.name == "val-1"
    info = probe_video(path)
    assert (info.width, info.height, info.frame_rate) == (96 * ZOOM, 64 * ZOOM, 5)
    drawn = [image.astype(int) for *_, image in iterate_frames(path)]
    assert len(drawn) == NUM_FRAMES
    edge = [image[50 * ZOOM, 20 * ZOOM] for image in drawn]
    distances = [np.abs(pixel - identity_colour(3)).max() for pixel in edge]
    assert max(distances[:5]) < 60  # as far as the codec keeps colours
    assert min(distances[5:]) > 60


def test_a_video_that_is_there_is_not_drawn_again(frames: Artefact, tracks: Artefact) -> None:
    path = Path(overlay(frames, tracks, CLASSES))
    before = path.stat().st_mtime_ns
    assert overlay(frames, tracks, CLASSES) == str(path)
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:100])
    assert overlay(frames, tracks, CLASSES) == str(path)
    assert len(list(iterate_frames(path))) == NUM_FRAMES


def test_other_tracks_are_drawn_into_another_video(frames: Artefact, tracks: Artefact) -> None:
    others = store_tracks(frames, {"val-0": 0, "val-1": 5, "val-2": 1}, "u")
    paths = {overlay(frames, artefact, CLASSES) for artefact in (tracks, others)}
    assert len(paths) == 2


def test_a_frame_without_an_image_is_grey(frames: Artefact, tracks: Artefact) -> None:
    part = frames.part("val-1")
    old, truth, details = FrameReader(part).read(0, 99), read_annotations(part), part.details()
    with part.write() as writer:
        write_frames(writer, "val-1", [replace(old[0], image=b""), *old[1:]])
        writer.write_parquet(ANNOTATIONS_FILE, truth.to_table("val-1"))
        writer.details = {**details, "frame_rate": None}
    path = Path(overlay(frames, tracks, CLASSES))
    images = [image.astype(int) for *_, image in iterate_frames(path)]
    assert len(images) == NUM_FRAMES
    assert np.abs(images[0][: 20 * ZOOM] - 128).max() < 8
    assert np.abs(images[1][: 20 * ZOOM] - 128).max() > 8
    assert probe_video(path).frame_rate == 5  # where nothing says how fast
