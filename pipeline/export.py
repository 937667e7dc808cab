"""Tracks in the form in which a benchmark's server takes them; the only place that writes it.

What is written is read back by the benchmark's own reader and compared before it gets its name.
"""

import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from datasets.mots_text import track_lines
from datasets.reading import check_sequence_name
from datasets.registry import BENCHMARKS
from datasets.schema import Int64, SequenceResult, Tracks, masks_of
from pipeline.associate import read_tracks
from pipeline.frames import FrameReader
from pipeline.mask_export import make_masks_disjoint, with_own_ids
from pipeline.store import Artefact

logger = logging.getLogger(__name__)

_FIRST_FRAME: Final = {"kitti_mots": 0, "apollo_mots": 0, "mots_challenge": 1}
"""Number of the first frame in the files of those benchmarks whose results are masks in text."""
_OF_MASKS: Final = frozenset({*_FIRST_FRAME, "bdd100k_mots"})
_SCALABEL: Final = ("bdd100k", "bdd100k_mots")
"""Benchmarks whose results are JSON."""
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""Equal content gives equal archives."""


@dataclass(frozen=True, kw_only=True)
class SequenceTracks:
    """What is exported of one sequence."""

    name: str
    frame_names: tuple[str, ...]
    """(F,) file names of all frames; frames without tracks are listed too."""
    tracks: Tracks


def stored_tracks(frames: Artefact, tracks: Artefact) -> Iterator[SequenceTracks]:
    """All sequences of a tracks artefact, with the frames that they were made from."""
    for name in tracks.sequences():
        yield SequenceTracks(
            name=name,
            frame_names=FrameReader(frames.part(name)).names(),
            tracks=read_tracks(tracks.part(name)),
        )


def scalabel_frames(
    sequence: SequenceTracks, classes: tuple[str, ...], *, has_masks: bool = False
) -> list[dict[str, Any]]:
    """BDD100K's result of one sequence: every frame, ids as numeric strings, inclusive boxes.

    Args:
        sequence: exclusive boxes in float32 or float64; 1 is taken from x2 and y2 in float64,
            which is exact for float32 coordinates of images, so that reading gives them back.
        classes: names in order of class index.
        has_masks: masks in place of the boxes.
    """
    tracks = sequence.tracks
    shapes = _mask_labels(tracks) if has_masks else _box_labels(tracks)
    frames: list[dict[str, Any]] = [
        {"name": name, "videoName": sequence.name, "frameIndex": index, "labels": []}
        for index, name in enumerate(sequence.frame_names)
    ]
    for row in _by_frame(tracks).tolist():
        label = {
            "id": str(tracks.track_id[row]),
            "category": classes[tracks.class_index[row]],
            "score": float(tracks.scores[row]),
            **shapes[row],
        }
        frames[tracks.frame_index[row]]["labels"].append(label)
    return frames


def motchallenge_text(tracks: Tracks) -> str:
    """MOTChallenge's result of one sequence: frame,id,left,top,width,height,score,-1,-1,-1.

    Frames count from 1; numbers keep all their digits, so that reading gives them back.
    """
    boxes = tracks.boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    lines = []
    for row in _by_frame(tracks).tolist():
        box = ",".join(map(repr, boxes[row].tolist()))
        place = f"{tracks.frame_index[row] + 1},{tracks.track_id[row]}"
        lines.append(f"{place},{box},{float(tracks.scores[row])!r},-1,-1,-1\n")
    return "".join(lines)


def export_tracks(
    benchmark: str, sequences: Iterable[SequenceTracks], out: Path, *, force: bool = False
) -> int:
    """Write the submission, check it by reading it back, and only then give it its name.

    Boxes without area cannot be written in any format; they are left out with a warning. Masks are
    made disjoint first, see `make_masks_disjoint`. In text, where two classes share an id, all
    tracks get ids of their own.

    Args:
        benchmark: name of the benchmark.
        sequences: all sequences of the split, those without tracks included.
        out: a folder of one file per sequence, the same as an archive (`.zip`), or for BDD100K
            all sequences in one file (`.json`).
        force: replace what is at `out`.

    Returns:
        Number of boxes or masks written.

    Raises:
        ValueError: `out` exists, its form is not known, tracks have no masks where the benchmark
            wants them, or what was written does not read back.
    """
    if out.exists() and not force:
        raise ValueError(f"{out}: exists already; choose another name or use --force")
    if out.suffix == ".json" and benchmark not in _SCALABEL:
        raise ValueError(f"{out}: {benchmark} takes one file per sequence, a folder or a .zip")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _scratch_folder(out.parent) as scratch:
        folder = scratch / "files"
        folder.mkdir()
        kept = [_prepared(benchmark, _checked(sequence)) for sequence in sequences]
        if not kept:
            raise ValueError(f"{out}: there is no sequence to export")
        if out.suffix == ".json":
            _write_one_file(benchmark, folder / out.name, kept)
        else:
            _write_files(benchmark, folder, kept)
        _check_written(benchmark, folder, kept)
        finished = folder
        if out.suffix == ".json":
            finished = folder / out.name
        elif out.suffix == ".zip":
            finished = _zip(folder, scratch / "archive.zip")
        _give_name(finished, out, scratch)
    return sum(len(sequence.tracks) for sequence in kept)


def _checked(sequence: SequenceTracks) -> SequenceTracks:
    check_sequence_name(sequence.name, "export")
    frames = sequence.tracks.frame_index
    if len(frames) and not 0 <= frames.min() <= frames.max() < len(sequence.frame_names):
        raise ValueError(
            f"sequence {sequence.name!r}: tracks in frames {frames.min()} to {frames.max()}, "
            f"expected 0 to {len(sequence.frame_names) - 1}"
        )
    return sequence


def _with_area(sequence: SequenceTracks) -> SequenceTracks:
    tracks = sequence.tracks
    boxes = tracks.boxes_xyxy.astype(np.float64)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if has_area.all():
        return sequence
    logger.warning(
        "sequence %r: %d of %d boxes have no area and are left out",
        *(sequence.name, int((~has_area).sum()), len(tracks)),
    )
    return replace(sequence, tracks=tracks.select(has_area))


def _prepared(benchmark: str, sequence: SequenceTracks) -> SequenceTracks:
    if benchmark not in _OF_MASKS:
        return _with_area(sequence)
    tracks = make_masks_disjoint(sequence.tracks, sequence.name)
    return replace(sequence, tracks=with_own_ids(tracks) if benchmark in _FIRST_FRAME else tracks)


def _write_one_file(benchmark: str, path: Path, sequences: list[SequenceTracks]) -> None:
    classes, has_masks = BENCHMARKS[benchmark].classes, benchmark in _OF_MASKS
    with path.open("w", encoding="utf-8") as stream:
        opening = "["
        for sequence in sequences:
            for frame in scalabel_frames(sequence, classes, has_masks=has_masks):
                stream.write(opening + json.dumps(frame, allow_nan=False))
                opening = ",\n"
        stream.write("]\n")


def _write_files(benchmark: str, folder: Path, sequences: list[SequenceTracks]) -> None:
    render: Callable[[SequenceTracks], str]
    classes, suffix = BENCHMARKS[benchmark].classes, ".txt"
    if benchmark in _SCALABEL:
        suffix, has_masks = ".json", benchmark in _OF_MASKS

        def render(sequence: SequenceTracks) -> str:
            frames = scalabel_frames(sequence, classes, has_masks=has_masks)
            return json.dumps(frames, allow_nan=False)
    elif benchmark in _FIRST_FRAME:

        def render(sequence: SequenceTracks) -> str:
            tracks = sequence.tracks.select(_by_frame(sequence.tracks))
            return "".join(track_lines(tracks, classes, first_frame=_FIRST_FRAME[benchmark]))
    else:

        def render(sequence: SequenceTracks) -> str:
            return motchallenge_text(sequence.tracks)

    for sequence in sequences:
        (folder / f"{sequence.name}{suffix}").write_text(render(sequence), encoding="utf-8")


def _check_written(benchmark: str, folder: Path, sequences: list[SequenceTracks]) -> None:
    found = BENCHMARKS[benchmark].read_results(folder)
    names = {sequence.name for sequence in sequences}
    if found.keys() != names:
        raise ValueError(
            f"the files just written hold {len(found)} sequences, expected {len(names)}; two "
            "sequences of one name?"
        )
    for sequence in sequences:
        _compare(sequence, found)


def _compare(sequence: SequenceTracks, found: Mapping[str, SequenceResult]) -> None:
    result = found[sequence.name]
    tracks = sequence.tracks.select(_by_frame(sequence.tracks))
    same_frames = result.num_frames in (None, len(sequence.frame_names))
    same_rows = len(tracks) == len(result.tracks) and all(
        np.array_equal(getattr(tracks, name), getattr(result.tracks, name))
        for name in ("frame_index", "track_id", "class_index")
    )
    if not (same_frames and same_rows):
        raise ValueError(
            f"sequence {sequence.name!r}: the file just written reads back as other frames, ids "
            "or classes; are all its classes those of the benchmark?"
        )
    if result.tracks.masks is not None:
        if result.tracks.masks != tracks.masks:
            raise ValueError(f"sequence {sequence.name!r}: masks just written read back as others")
        return
    # Exact for coordinates of images; a tiny coordinate loses digits when 1 is taken from it.
    boxes = tracks.boxes_xyxy.astype(np.float64)
    if not np.allclose(boxes, result.tracks.boxes_xyxy, rtol=0, atol=1e-9):
        raise ValueError(f"sequence {sequence.name!r}: boxes just written read back as others")


def _box_labels(tracks: Tracks) -> list[dict[str, Any]]:
    corners = tracks.boxes_xyxy.astype(np.float64) - np.array([0.0, 0.0, 1.0, 1.0])
    names = ("x1", "y1", "x2", "y2")
    return [{"box2d": dict(zip(names, box, strict=True))} for box in corners.tolist()]


def _mask_labels(tracks: Tracks) -> list[dict[str, Any]]:
    masks = masks_of(tracks, "tracks to be written")
    return [
        {"rle": {"counts": mask["counts"].decode("ascii"), "size": mask["size"]}} for mask in masks
    ]


def _by_frame(tracks: Tracks) -> Int64:
    return np.argsort(tracks.frame_index, kind="stable")


def _zip(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(file.name, _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
    return path


@contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder on the same disk, so that giving the name is one rename."""
    path = Path(tempfile.mkdtemp(prefix=".export-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _give_name(finished: Path, out: Path, scratch: Path) -> None:
    if out.exists():  # a folder cannot be replaced in one step
        out.rename(scratch / "replaced")
    finished.rename(out)
