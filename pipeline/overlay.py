"""The overlay video of one sequence, kept beside the other artefacts."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.associate import read_tracks
from pipeline.frames import FrameReader
from pipeline.render import Image, render_sequence
from pipeline.store import Artefact, Part, fingerprint

STAGE: Final = "overlays"
VERSION: Final = 1
"""Raised when the code draws something else."""

VIDEO_FILE: Final = "overlay.mp4"
_DEFAULT_FRAME_RATE: Final = 5.0


def overlay(frames: Artefact, tracks: Artefact, class_names: Sequence[str]) -> str:
    """Draw the tracks over one sequence, the one with the most boxes.

    Returns:
        Path or URI of the H.264 video.
    """
    name = max(tracks.sequences(), key=lambda name: int(tracks.part(name).details()["num_boxes"]))
    artefact = Artefact(
        root=tracks.root,
        stage=STAGE,
        dataset=tracks.dataset,
        split=tracks.split,
        fingerprint=fingerprint(STAGE, VERSION, {}, [frames.fingerprint, tracks.fingerprint]),
    )
    part = artefact.part(name)
    if not part.is_valid():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / VIDEO_FILE
            source = frames.part(name)
            render_sequence(
                _images(source),
                read_tracks(tracks.part(name)),
                class_names,
                path,
                frame_rate=source.details()["frame_rate"] or _DEFAULT_FRAME_RATE,
            )
            with part.write() as writer, writer.open_file(VIDEO_FILE) as sink:
                sink.write(path.read_bytes())
    return part.location(VIDEO_FILE)


def _images(frames: Part) -> Iterator[tuple[int, Image]]:
    """Decoded frames one at a time, all in the size of the first; grey where there is no image."""
    from datasets.images import decode_image

    details = frames.details()
    height, width = details["height"], details["width"]
    for chunk in FrameReader(frames).iterate():
        for frame in chunk:
            canvas = np.full((height, width, 3), 128, np.uint8)
            if frame.image:
                # Drawn boxes are in pixels of the frame: one of another size is cut, not scaled.
                image = decode_image(frame.image)[:height, :width]
                canvas[: image.shape[0], : image.shape[1]] = image
            yield frame.frame_index, canvas
