"""Prepare: frames with instance masks become what the two networks of PointTrack are trained on.

`prepare_crops` cuts a window around every instance, with the map of all instances in it, for the
first training of the segmentation. `prepare_instances` cuts out the instances themselves, with what
is around them, for the training of the association. Both write one Arrow file a sequence, through
Ray Data with one row a sequence, and do only what is missing. `pipeline.prepared_rows` reads them.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from datasets.images import encode_png
from datasets.mots_crops import (
    crop_windows,
    frames_with_class,
    is_instance,
    map_instances,
    renumber,
)
from datasets.registry import BENCHMARKS
from datasets.schema import Annotations
from models.config_io import config_to_dict
from models.pointtrack.points import instance_crops
from pipeline.frames import Frame, FrameReader, read_annotations
from pipeline.prepared_rows import (
    CROPS_FILE,
    CROPS_SCHEMA,
    CROPS_STAGE,
    INSTANCES_FILE,
    INSTANCES_SCHEMA,
    INSTANCES_STAGE,
)
from pipeline.prepared_rows import CropRows as CropRows  # what reads the artefacts, for importers
from pipeline.prepared_rows import InstanceRows as InstanceRows
from pipeline.progress import Progress
from pipeline.store import Artefact, Part, PartWriter, fingerprint

logger = logging.getLogger(__name__)

VERSION: Final = 1
"""Of both stages; raised when the code changes what is stored."""

_BATCH_BYTES: Final = 16 << 20
"""Rows are held in memory up to this size, and lie in the file in batches of about it."""

_Row = dict[str, Any]
_WritePart = Callable[[Part, PartWriter], int]


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Which windows are cut; the defaults are the published size for cars.

    Names of crops collide in the release, whose names hold the number of the frame without its
    sequence, so that sequences overwrite one another; here no crop is lost.
    """

    class_name: str = "car"
    """Class of the benchmark whose instances are cut out."""
    height: int = 160
    """Rows of a window; an image with fewer gives crops of all its rows."""
    width: int = 640
    """Columns of a window; an image with fewer gives crops of all its columns."""
    ignore_as_background: bool = False
    """Teach that there is nothing in ignore regions, as released, in place of nothing at all."""
    stills_only: bool = False
    """Cut nothing out of sequences: as released for cars, where the script looks for the number
    that cars have in KINS, and so finds none in KITTI MOTS."""

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 8 <= getattr(self, name) <= 8192:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 8 to 8192 pixels")


PEDESTRIAN_CROPS: Final = CropConfig(class_name="pedestrian", height=160, width=256)
"""The published size for pedestrians."""


class PrepareError(ValueError):
    """A sequence could not be prepared; the message names it, the cause and the place."""


def prepare_crops(frames: Artefact, config: CropConfig) -> Artefact:
    """A window around every instance of a class; does only what is missing.

    Ray must be connected unless the artefact is complete already. A frame without an image is
    skipped and counted in the details, `num_skipped_frames`.

    Args:
        frames: finished artefact of ingest, with masks.
        config: the class, the size, and what of the release's ways is followed.

    Returns:
        The finished artefact, one Arrow file a sequence, empty where nothing is to be cut.

    Raises:
        ValueError: a class that the benchmark does not have.
        PrepareError: a sequence without labels or masks, or with masks of another size than its
            images; or the storage failed.
    """
    settings = {"crops": config_to_dict(config)}
    class_index = class_index_of(frames, config.class_name)
    write = partial(write_crops, config=config, class_index=class_index)
    return _prepare(frames, CROPS_STAGE, settings, write)


def prepare_instances(frames: Artefact, class_name: str) -> Artefact:
    """Every instance of a class, cut out as the association is trained; does only what is missing.

    The window is that of `models.pointtrack.points.instance_crops`. See `prepare_crops` for the
    rest.

    Args:
        frames: finished artefact of ingest, with masks and tracks.
        class_name: class of the benchmark; other classes and ignore regions are background.
    """
    settings = {"class_name": class_name}
    write = partial(write_instances, class_index=class_index_of(frames, class_name))
    return _prepare(frames, INSTANCES_STAGE, settings, write)


def select_frames(
    frames: Artefact, class_name: str, *, first_frames: int | None = None
) -> list[tuple[str, int]]:
    """Frames to train a segmentation on: those with an image and an instance of the class.

    Args:
        frames: finished artefact of ingest.
        class_name: class of the benchmark.
        first_frames: of the list that `datasets.mots_crops.frames_with_class` makes, in its order;
            frames without an image are taken out of what is left.
    """
    class_index = class_index_of(frames, class_name)
    parts = [frames.part(name) for name in frames.sequences()]
    annotations = {part.name: read_annotations(part) for part in parts}
    broken = {(part.name, f) for part in parts for f in part.details()["broken_frames"]}
    selected = frames_with_class(annotations, class_index, first_frames=first_frames)
    usable = [frame for frame in selected if frame not in broken]
    if len(usable) < len(selected):
        logger.warning(
            "%s/%s: %d of %d frames with a %s have no image and are left out",
            frames.dataset,
            frames.split,
            len(selected) - len(usable),
            len(selected),
            class_name,
        )
    return usable


def write_crops(part: Part, writer: PartWriter, *, config: CropConfig, class_index: int) -> int:
    """Write the crops of one sequence, a pure function of its frames; returns how many.

    Raises:
        ValueError: frames that cannot be decoded, or masks that do not fit them.
    """
    frames = _frames_to_cut(part, class_index)
    if config.stills_only and not part.details()["is_still"]:
        frames = iter(())
    rows = (
        {"sequence": part.name, "frame_index": frame.frame_index, **row}
        for frame, annotations in frames
        for row in _cut_crops(frame, annotations, config, class_index)
    )
    return _write_rows(writer, CROPS_FILE, CROPS_SCHEMA, rows)


def write_instances(part: Part, writer: PartWriter, *, class_index: int) -> int:
    """Write the instances of one sequence; see `write_crops`."""
    rows = (
        {"frame_index": frame.frame_index, **row}
        for frame, annotations in _frames_to_cut(part, class_index)
        for row in _cut_instances(frame, annotations, class_index)
    )
    return _write_rows(writer, INSTANCES_FILE, INSTANCES_SCHEMA, rows)


def class_index_of(frames: Artefact, class_name: str) -> int:
    """Index of a class of the benchmark that the frames are of; see `Benchmark.class_index`."""
    return BENCHMARKS[frames.details()["benchmark"]].class_index(class_name)


def _prepare(
    frames: Artefact, stage: str, settings: Mapping[str, Any], write: _WritePart
) -> Artefact:
    artefact = Artefact(
        root=frames.root,
        stage=stage,
        dataset=frames.dataset,
        split=frames.split,
        fingerprint=fingerprint(stage, VERSION, settings, [frames.fingerprint]),
    )
    if artefact.is_complete():
        return artefact
    sequences = frames.sequences()
    todo = [frames.part(name) for name in artefact.missing(sequences)]
    label = f"{stage} {frames.dataset}/{frames.split}"
    with Progress(label, len(todo), "sequences") as progress:
        for name in _stream(artefact, todo, write):
            progress.advance(note=name)
    found = [artefact.part(name).details() for name in sequences]
    counts = {
        f"num_{stage}": sum(details["num_rows"] for details in found),
        "num_skipped_frames": sum(details["num_skipped_frames"] for details in found),
    }
    logger.info("%s: %d rows", label, counts[f"num_{stage}"])
    if counts["num_skipped_frames"]:
        skipped = counts["num_skipped_frames"]
        logger.warning("%s: skipped %d frames that have no image", label, skipped)
    artefact.finish(sequences, {**settings, "frames": frames.fingerprint, **counts})
    return artefact


def _stream(artefact: Artefact, todo: Sequence[Part], write: _WritePart) -> Iterator[str]:
    """Names of the parts as Ray Data finishes them, in any order."""
    import ray.data

    if not todo:
        return
    rows = [{"part": part} for part in todo]
    # One block a row: a task holds a batch of rows of one sequence, whatever the size of the input.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _PartTask(artefact, write), num_cpus=1
    )
    for row in dataset.iter_rows():
        if row["error"] is not None:
            raise PrepareError(row["error"])
        yield row["sequence"]


class _PartTask:
    """The Ray Data function: frames of a sequence in, its finished part out."""

    def __init__(self, artefact: Artefact, write: _WritePart) -> None:
        self._artefact = artefact
        self._write = write

    def __call__(self, row: dict[str, Part]) -> dict[str, str | None]:
        frames = row["part"]
        part = self._artefact.part(frames.name)
        error = None
        try:
            _write_part(frames, part, self._write)
        except (ValueError, OSError) as reason:
            # As a value: raised here, it would reach the user inside two errors of Ray's.
            error = f"sequence {frames.name!r}, stored in {part.folder}: {reason}"
        return {"sequence": frames.name, "error": error}


def _write_part(frames: Part, part: Part, write: _WritePart) -> None:
    noted = frames.details()
    if not noted["has_labels"]:
        raise ValueError("it was ingested without labels, so there is nothing to train on")
    with part.write() as writer:
        num_rows = write(frames, writer)
        skipped = len(noted["broken_frames"])
        writer.details = {"num_rows": num_rows, "num_skipped_frames": skipped}


def _frames_to_cut(part: Part, class_index: int) -> Iterator[tuple[Frame, Annotations]]:
    """Frames that have an image and an instance of the class, with their annotations."""
    annotations = read_annotations(part)
    rows = is_instance(annotations, class_index)
    wanted = set(annotations.frame_index[rows].tolist())
    for frames in FrameReader(part).iterate():
        for frame in frames:
            if frame.image and frame.frame_index in wanted:
                yield frame, annotations.select(annotations.frame_index == frame.frame_index)


def _cut_crops(
    frame: Frame, annotations: Annotations, config: CropConfig, class_index: int
) -> Iterator[_Row]:
    image = frame.decode()
    instances, identities = map_instances(
        annotations,
        class_index,
        image.shape[:2],
        frame.where,
        ignore_as_background=config.ignore_as_background,
    )
    for number, window in crop_windows(instances, config.height, config.width):
        yield {
            "identity": int(identities[number - 1]),
            "top": window.top,
            "left": window.left,
            "image": encode_png(image[window.slices][..., ::-1]),
            "instances": encode_png(renumber(instances[window.slices])),
        }


def _cut_instances(frame: Frame, annotations: Annotations, class_index: int) -> Iterator[_Row]:
    image = np.ascontiguousarray(frame.decode()[..., ::-1])
    # Numbered, so that any identity of the annotations will do, also 0.
    instances, identities = map_instances(
        annotations, class_index, image.shape[:2], frame.where, ignore_as_background=True
    )
    for crop in instance_crops(image, instances):
        height, width = crop.mask.shape
        yield {
            "identity": int(identities[crop.identity - 1]),
            "start_v": crop.start[0],
            "start_u": crop.start[1],
            "height": height,
            "width": width,
            "image": crop.image_bgr.tobytes(),
            "mask": crop.mask.tobytes(),
            "categories": crop.categories.tobytes(),
        }


def _write_rows(writer: PartWriter, name: str, schema: pa.Schema, rows: Iterable[_Row]) -> int:
    """The rows as one Arrow file, in batches; returns how many."""
    with writer.open_file(name) as stream, pa.ipc.new_file(stream, schema) as file:
        waiting: list[_Row] = []
        size = 0
        for row in rows:
            waiting.append(row)
            size += sum(len(cell) for cell in row.values() if isinstance(cell, bytes))
            stream.num_rows += 1
            if size >= _BATCH_BYTES:
                file.write_batch(pa.RecordBatch.from_pylist(waiting, schema))
                waiting, size = [], 0
        if waiting:
            file.write_batch(pa.RecordBatch.from_pylist(waiting, schema))
        return stream.num_rows
