"""Overlay videos of stored tracks: the one kept beside the artefacts, and any asked for."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final, Literal

import numpy as np

from pipeline.associate import read_tracks
from pipeline.clips import clip_frames, write_clip
from pipeline.errors import Error
from pipeline.frames import ROWS_PER_GROUP, FrameReader, read_annotations, read_truth
from pipeline.render import Image, render_sequence
from pipeline.store import Artefact, Part, fingerprint

STAGE: Final = "overlays"
VERSION: Final = 1
"""Raised when the code draws something else."""

VIDEO_FILE: Final = "overlay.mp4"
_DEFAULT_FRAME_RATE: Final = 5.0

TruthStyle = Literal["over", "beside"]


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
            render_tracks(frames.part(name), tracks.part(name), class_names, path)
            with part.write() as writer, writer.open_file(VIDEO_FILE) as sink:
                sink.write(path.read_bytes())
    return part.location(VIDEO_FILE)


def render_tracks(
    frames: Part,
    tracks: Part,
    class_names: Sequence[str],
    path: Path,
    *,
    truth: TruthStyle | None = None,
    frame_range: tuple[int, int | None] = (0, None),
) -> None:
    """Draw the tracks of one sequence into a video file.

    Args:
        frames: finished part of the sequence.
        tracks: likewise.
        class_names: of the benchmark, by class index.
        path: the video to write.
        truth: whether true boxes are drawn, over the same picture or in one beside it.
        frame_range: first frame and the one to end before, None for all that follow.

    Raises:
        ValueError: the truth is asked for where there is none, or no frame lies in the range.
    """
    start, stop = frame_range
    details = frames.details()
    if start >= details["num_frames"]:
        raise ValueError(
            f"sequence {frames.name!r} has {details['num_frames']} frames, the range begins at "
            f"frame index {start}; choose an earlier one"
        )
    render_sequence(
        images_of(frames, start, stop),
        read_tracks(tracks),
        class_names,
        path,
        frame_rate=details["frame_rate"] or _DEFAULT_FRAME_RATE,
        truth=read_truth(frames).annotations if truth is not None else None,
        beside=truth == "beside",
    )


def render_error(
    frames: Part, tracks: Part, class_names: Sequence[str], error: Error, path: Path
) -> None:
    """Write the clip of one error of a sequence; see `write_clip`."""
    wanted = clip_frames(error, frames.details()["num_frames"])
    gap = next((i for i in range(1, len(wanted)) if wanted[i] != wanted[i - 1] + 1), len(wanted))
    runs = [run for run in (wanted[:gap], wanted[gap:]) if run]
    write_clip(
        chain.from_iterable(images_of(frames, run[0], run[-1] + 1) for run in runs),
        error,
        read_tracks(tracks),
        read_annotations(frames),
        class_names,
        path,
    )


def clips_of_errors(
    frames: Artefact,
    tracks: Artefact,
    class_names: Sequence[str],
    errors: Iterable[tuple[str, Error]],
    *,
    limit: int,
    limit_bytes: int,
) -> list[bytes]:
    """Clips of the first errors as MP4 data, for pages that carry them.

    Args:
        frames: finished artefact.
        tracks: finished artefact over these frames.
        class_names: of the benchmark, by class index.
        errors: sequence and error, the most important first.
        limit: clips at the most.
        limit_bytes: of all clips together; the first that would exceed it ends the list.
    """
    clips: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / VIDEO_FILE
        for name, error in islice(errors, limit):
            render_error(frames.part(name), tracks.part(name), class_names, error, path)
            clip = path.read_bytes()
            if sum(map(len, clips)) + len(clip) > limit_bytes:
                break
            clips.append(clip)
    return clips


def images_of(frames: Part, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Image]]:
    """Decoded frames one at a time, all in the size of the first; grey where there is no image.

    Args:
        frames: finished part of a sequence.
        start: first frame index.
        stop: frame to end before, None for all.
    """
    from datasets.images import decode_image

    details, reader = frames.details(), FrameReader(frames)
    height, width = details["height"], details["width"]
    stop = reader.num_frames if stop is None else min(stop, reader.num_frames)
    for position in range(start, stop, ROWS_PER_GROUP):
        for frame in reader.read(position, min(stop, position + ROWS_PER_GROUP)):
            canvas = np.full((height, width, 3), 128, np.uint8)
            if frame.image:
                # Drawn boxes are in pixels of the frame: one of another size is cut, not scaled.
                image = decode_image(frame.image)[:height, :width]
                canvas[: image.shape[0], : image.shape[1]] = image
            yield frame.frame_index, canvas
