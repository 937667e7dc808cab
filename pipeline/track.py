"""Tracking of a user's own video: no store and no Ray, a few frames in memory at a time.

The frames are read twice, once to find the tracks and once to draw them.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.images import decode_image
from datasets.reading import check_sequence_name
from datasets.schema import Tracks
from datasets.video import iterate_frames, probe_video
from models.config_io import config_to_dict
from pipeline.associate import AssociationConfig, build_tracker, update_tracker
from pipeline.export import motchallenge_text
from pipeline.infer import FrameDetections, detect_images
from pipeline.progress import Progress
from pipeline.render import render_sequence

if TYPE_CHECKING:
    from models.qdtrack.model import QDTrack

logger = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]
TimedImage = tuple[int, int | None, Image]
"""Frame index, microseconds since the first frame where known, uint8 (H, W, 3) RGB."""

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
IMAGES_PER_SECOND: Final = 5.0
"""Frame rate of the overlay of a folder of images, which says nothing of time."""


@dataclass(frozen=True, kw_only=True)
class FrameSource:
    """A video file, or a folder of images in the order of their names; can be read repeatedly."""

    path: Path
    name: str
    """Of the sequence: the file's name without its suffix, or the folder's."""
    frame_rate: float
    """Frames per second of the overlay."""
    num_frames: int | None
    """As promised, None where a video does not say; only reading tells for sure."""
    images: tuple[Path, ...] = ()
    """The files of a folder of images; empty for a video."""

    def read(
        self, stop: int | None = None, *, on_damaged: Callable[[int], None] | None = None
    ) -> Iterator[TimedImage]:
        """Frames from the first on, at most `stop` of them.

        Args:
            stop: frame to end before, None for all.
            on_damaged: see `iterate_frames`; a damaged file of a folder of images is broken.

        Raises:
            ValueError: a broken file, named, after the frames before it; or a frame of another
                size than the first.
        """
        if self.images:
            frames = self._decode(stop)
        else:
            frames = iterate_frames(self.path, stop=stop, on_damaged=on_damaged)
        shape: tuple[int, ...] | None = None
        for index, timestamp_us, image in frames:
            shape = shape or image.shape
            if image.shape != shape:
                raise ValueError(
                    f"{self.path}: frame {index} is {image.shape[1]} x {image.shape[0]} pixels, "
                    f"expected {shape[1]} x {shape[0]} like the frames before"
                )
            yield index, timestamp_us, image

    def _decode(self, stop: int | None) -> Iterator[TimedImage]:
        for index, path in enumerate(self.images[:stop]):
            try:
                yield index, None, decode_image(path.read_bytes())
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedVideo:
    """The tracks of a video, and what made them."""

    source: FrameSource
    tracks: Tracks
    """Class indices are the model's own; every box has an area."""
    timestamps_us: tuple[int | None, ...]
    """(F,) microseconds since the first frame, None where the source does not say."""
    height: int
    width: int
    problem: str | None
    """Why the frames end too early, None where they do not."""
    class_names: tuple[str, ...]
    association: AssociationConfig
    """The settings that were used."""

    @property
    def num_frames(self) -> int:
        return len(self.timestamps_us)

    @property
    def num_tracks(self) -> int:
        return len(np.unique(self.tracks.track_id))


class OutputPaths(NamedTuple):
    """The three files of one tracked video."""

    overlay: Path
    text: Path
    json: Path


def open_source(path: Path) -> FrameSource:
    """The frames behind a path; of a video the first one is decoded.

    Raises:
        ValueError: no video that can be decoded, a folder without JPEG or PNG images, or a name
            that cannot be a sequence's.
    """
    if not path.is_dir():
        info = probe_video(path)
        return FrameSource(
            path=path,
            name=check_sequence_name(path.stem, str(path)),
            frame_rate=info.frame_rate,
            num_frames=info.num_frames,
        )
    images = tuple(sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES))
    if not images:
        raise ValueError(f"{path}: a folder without {', '.join(IMAGE_SUFFIXES)} files")
    return FrameSource(
        path=path,
        name=check_sequence_name(path.resolve().name, str(path)),
        frame_rate=IMAGES_PER_SECOND,
        num_frames=len(images),
        images=images,
    )


def track_video(
    source: FrameSource,
    model: "QDTrack",
    association: AssociationConfig,
    *,
    batch_size: int,
    max_frames: int | None = None,
) -> TrackedVideo:
    """Detect and join, a batch of frames at a time; embeddings are dropped frame by frame.

    Args:
        source: where the frames come from.
        model: in evaluation mode, on its device.
        association: the tracker.
        batch_size: frames per forward pass, which is what is held in memory.
        max_frames: stop after so many; None goes on to the end.

    Returns:
        The tracks of all frames that could be read, and in `problem` why they are not more.

    Raises:
        ValueError: not even the first frame can be read.
    """
    tracker = build_tracker(association)
    class_names = model.config.classes
    class_map = np.arange(len(class_names), dtype=np.int16)
    damaged: list[int] = []
    frames = _UntilBroken(source.read(max_frames, on_damaged=damaged.append))
    parts: list[Tracks] = []
    timestamps_us: list[int | None] = []
    height, width, num_detections = 0, 0, 0
    with Progress(f"track {source.name}", _total(source, max_frames), "frames") as progress:
        remaining = iter(frames)
        while batch := list(islice(remaining, batch_size)):
            images = [image for *_, image in batch]
            height, width = images[0].shape[:2]
            detected = detect_images(model, images, class_map)
            for (frame_index, timestamp_us, _), found in zip(batch, detected, strict=True):
                track_ids, scores = update_tracker(
                    tracker,
                    frame_index,
                    found.boxes_xyxy,
                    found.scores,
                    found.class_indices,
                    found.embeddings,
                )
                parts.append(_tracks_of(frame_index, found, track_ids, scores, num_detections))
                num_detections += len(found.scores)
                timestamps_us.append(timestamp_us)
            progress.advance(len(batch))
    if not timestamps_us:
        raise ValueError(frames.problem or f"{source.path}: there is no frame")
    if damaged:
        logger.warning(
            "%s: damaged frames: %d, the first is frame %d; used as far as they decode",
            *(source.path, len(damaged), damaged[0]),
        )
    return TrackedVideo(
        source=source,
        tracks=_concatenate(parts),
        timestamps_us=tuple(timestamps_us),
        height=height,
        width=width,
        problem=frames.problem,
        class_names=class_names,
        association=tracker.config,
    )


def output_paths(folder: Path, name: str, *, is_partial: bool) -> OutputPaths:
    """Where the results of a video go; those of one that broke off say so in their names.

    >>> output_paths(Path("out"), "night", is_partial=True).text.as_posix()
    'out/night-partial.txt'
    """
    stem = f"{name}-partial" if is_partial else name
    return OutputPaths(
        overlay=folder / f"{stem}-overlay.mp4",
        text=folder / f"{stem}.txt",
        json=folder / f"{stem}.json",
    )


def write_results(tracked: TrackedVideo, folder: Path, *, weights: str) -> OutputPaths:
    """Write overlay, MOTChallenge text and JSON; none gets its name before all are complete.

    Files of the same names are replaced.

    Args:
        tracked: what to write.
        folder: made if need be.
        weights: name of the weights, for the JSON.

    Raises:
        ValueError: the frames cannot be read a second time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, is_partial = tracked.source.name, tracked.problem is not None
    finished = output_paths(folder, name, is_partial=is_partial)
    with tempfile.TemporaryDirectory(prefix=".track-", dir=folder) as scratch:
        written = output_paths(Path(scratch), name, is_partial=is_partial)
        written.text.write_text(motchallenge_text(tracked.tracks), encoding="utf-8")
        with written.json.open("w", encoding="utf-8") as stream:
            stream.writelines(json_lines(tracked, weights=weights))
        _draw(tracked, written.overlay)
        for source, target in zip(written, finished, strict=True):
            source.replace(target)
    return finished


def json_lines(tracked: TrackedVideo, *, weights: str) -> Iterator[str]:
    """The JSON file of a tracked video, one line a frame.

    An object with `video`, `width`, `height`, `frame_rate`, `num_frames`, `problem` (text, or null
    where the video was read to its end), `weights`, `classes`, `association` (the settings used)
    and `frames`: for each frame, those without tracks included, `frame_index` from 0,
    `timestamp_us` since the first frame (null for images) and `objects`, each with `id`, `class`,
    `score` and `box` [x1, y1, x2, y2] in pixels of the video, right and bottom edges exclusive.
    """
    tracks = tracked.tracks
    facts = {
        "video": tracked.source.path.name,
        "width": tracked.width,
        "height": tracked.height,
        "frame_rate": tracked.source.frame_rate,
        "num_frames": tracked.num_frames,
        "problem": tracked.problem,
        "weights": weights,
        "classes": list(tracked.class_names),
        "association": config_to_dict(tracked.association),
    }
    yield json.dumps(facts)[:-1] + ', "frames": [\n'
    edges = np.searchsorted(tracks.frame_index, np.arange(tracked.num_frames + 1)).tolist()
    for frame_index, timestamp_us in enumerate(tracked.timestamps_us):
        objects = [
            {
                "id": int(tracks.track_id[row]),
                "class": tracked.class_names[tracks.class_index[row]],
                "score": float(tracks.scores[row]),
                "box": tracks.boxes_xyxy[row].tolist(),
            }
            for row in range(edges[frame_index], edges[frame_index + 1])
        ]
        frame = {"frame_index": frame_index, "timestamp_us": timestamp_us, "objects": objects}
        is_last = frame_index + 1 == tracked.num_frames
        yield json.dumps(frame, allow_nan=False) + ("\n" if is_last else ",\n")
    yield "]}\n"


class _UntilBroken:
    """Frames up to the place where they cannot be read any further, which is then remembered."""

    def __init__(self, frames: Iterable[TimedImage]) -> None:
        self._frames = frames
        self.problem: str | None = None

    def __iter__(self) -> Iterator[TimedImage]:
        try:
            yield from self._frames
        except ValueError as error:
            self.problem = str(error)


def _draw(tracked: TrackedVideo, path: Path) -> None:
    source, num_frames = tracked.source, tracked.num_frames
    with Progress(f"draw {source.name}", num_frames, "frames") as progress:

        def frames() -> Iterator[tuple[int, Image]]:
            for index, _, image in source.read(num_frames):
                yield index, image
                progress.advance()

        render_sequence(
            frames(), tracked.tracks, tracked.class_names, path, frame_rate=source.frame_rate
        )


def _total(source: FrameSource, max_frames: int | None) -> int | None:
    known = [count for count in (source.num_frames, max_frames) if count is not None]
    return min(known, default=None)


def _tracks_of(
    frame_index: int,
    found: FrameDetections,
    track_ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    first_row: int,
) -> Tracks:
    """Detections of one frame with an identity; flat boxes, which no text may hold, are dropped."""
    has_area = (found.boxes_xyxy[:, 2:] > found.boxes_xyxy[:, :2]).all(axis=1)
    kept = np.flatnonzero((track_ids >= 0) & has_area)
    return Tracks(
        frame_index=np.full(len(kept), frame_index, np.int32),
        track_id=track_ids[kept],
        detection_row=(first_row + kept).astype(np.int32),
        boxes_xyxy=found.boxes_xyxy[kept],
        scores=scores[kept],
        class_index=found.class_indices[kept],
    )


def _concatenate(parts: list[Tracks]) -> Tracks:
    names = [name for name in vars(parts[0]) if name != "masks"]
    columns: dict[str, Any] = {n: np.concatenate([vars(p)[n] for p in parts]) for n in names}
    return Tracks(**columns)
