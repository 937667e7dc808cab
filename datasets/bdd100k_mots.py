"""BDD100K's segmentation tracking: masks as run-length codes in JSON, or as bitmasks.

Labels and results are either Scalabel JSON whose labels have `rle`, or folders of RGBA PNGs; both
give the same records. Polygons are not read: their curves are no masks before someone draws them.

Frames of a bitmask folder count by the order of their names. Masks of results may overlap here:
the official tool takes all predictions of such a frame away, which is the protocol's part.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from datasets.bdd100k import (
    CATEGORIES,
    CLASSES,
    FRAME_RATE,
    IMAGE_SUFFIXES,
    entries_of,
    files_in,
    number_frames,
    read_label_frames,
    sequences_in,
)
from datasets.bdd100k_bitmask import read_bitmask
from datasets.images import check_label_size
from datasets.reading import ExpectedFile, Reporter, check_sequence_name, exists
from datasets.scalabel import annotations_of, tracks_of
from datasets.scalabel_frames import LabelFrame
from datasets.schema import Problem, SequenceResult, SequenceSource, SequenceTruth

logger = logging.getLogger(__name__)

NAME: Final = "bdd100k_mots"
SPLITS: Final = ("train", "val", "test")
PUBLISHED_SEQUENCES: Final = {"train": 154, "val": 32}
"""Sequences that come with labels."""
MAX_INSTANCES: Final = 100
"""Predictions that the official tool takes from a bitmask, the lowest ids first."""

_IMAGES: Final = "images/seg_track_20"
_CODES: Final = "labels/seg_track_20/rles"
_BITMASKS: Final = "labels/seg_track_20/bitmasks"


def list_sequences(data_root: Path, split: str) -> tuple[list[SequenceSource], list[Problem]]:
    """Sequences of a split by name, and what is missing of others.

    Where a sequence has both kinds of labels, JSON is read: its ids are the original ones.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"{NAME} has no split {split!r}, expected one of {', '.join(SPLITS)}")
    reporter = Reporter(strict=False)
    image_root = data_root / _IMAGES / split
    labels = {path.name: path for path in _bitmask_folders(data_root / _BITMASKS / split)}
    labels |= {path.stem: path for path in files_in(data_root / _CODES / split, (".json",))}
    folders = {path.name for path in entries_of(image_root) if path.is_dir()}
    if not labels and not folders:
        what = f"neither labels in {data_root / _CODES / split} nor images in {image_root}"
        reporter.report(f"{NAME}/{split}", what)
    sources = []
    for name in sorted(labels.keys() | folders):
        where = f"{NAME}/{split}, sequence {name}"
        images = tuple(str(path) for path in files_in(image_root / name, IMAGE_SUFFIXES))
        if not images:
            reporter.report(where, f"no image in {image_root / name}: left out")
        elif name not in labels and split != "test":
            what = f"no labels in {_CODES}/{split}/{name}.json or {_BITMASKS}/{split}/{name}"
            reporter.report(where, f"{what}: left out")
        else:
            source = SequenceSource(
                dataset=NAME,
                split=split,
                name=name,
                images=images,
                labels=str(labels[name]) if name in labels else None,
                options={"frame_rate": FRAME_RATE},
            )
            sources.append(source)
    return sources, reporter.problems


def read_annotations(source: SequenceSource) -> tuple[SequenceTruth, list[Problem]]:
    """Annotations of a sequence, and what is broken in its labels and therefore left out.

    Images and label frames belong together by name, whatever the suffix; otherwise as for boxes.

    Raises:
        ValueError: the labels as a whole cannot be used, or are of another size than the images.
    """
    assert source.labels is not None, "a split without public labels has no annotations"
    path = Path(source.labels)
    where = f"{path}, sequence {source.name}"
    reporter = Reporter(strict=False)
    if path.is_dir():
        listed = _read_bitmasks(path, reporter)
    else:
        listed = read_label_frames(path, source.name, reporter)
    images = {Path(image).stem: Path(image).name for image in source.images}
    listed = [
        frame._replace(name=images.get(Path(frame.name).stem, frame.name)) for frame in listed
    ]
    frames = number_frames(listed, source, where, reporter)
    annotations = annotations_of(frames, CATEGORIES, where, reporter, has_masks=True)
    if annotations.masks:
        check_label_size(annotations.masks[0]["size"], where, source.images)
    names = tuple(frame.name for frame in frames)
    truth = SequenceTruth(name=source.name, frame_names=names, annotations=annotations)
    return truth, reporter.problems


def read_truth(path: Path) -> dict[str, SequenceTruth]:
    """Ground truth by sequence name.

    Args:
        path: A label file or a folder of them; a folder of bitmasks, or a folder of such folders.

    Raises:
        ValueError: anything broken or unknown, with file, sequence and frame.
    """
    reporter = Reporter(strict=True)
    truths: dict[str, SequenceTruth] = {}
    for file, name, where, listed in _sequences_in(path, needs_names=True):
        if name in truths:
            raise ValueError(f"{file}: sequence {name!r} is in another file of the folder as well")
        truths[name] = SequenceTruth(
            name=name,
            frame_names=tuple(frame.name for frame in listed),
            annotations=annotations_of(listed, CATEGORIES, where, reporter, has_masks=True),
        )
    if not truths:
        raise ValueError(f"{path}: no frame at all, expected the labels of at least one sequence")
    return truths


def read_results(path: Path) -> dict[str, SequenceResult]:
    """Results by sequence name, of the same kinds of files as truth.

    A JSON file that holds `[]` is valid and adds nothing. How many predictions the official rules
    drop is logged: ignored categories, those marked crowd or ignored, and all from the 101st of a
    bitmask on (counted before the others are dropped).

    Raises:
        ValueError: anything broken or unknown, with file, sequence and frame.
    """
    results: dict[str, SequenceResult] = {}
    num_dropped = 0
    for file, name, where, listed in _sequences_in(path, needs_names=False):
        if name in results:
            raise ValueError(f"{file}: sequence {name!r} is in another file of the folder as well")
        if file.is_dir():
            num_dropped += sum(max(0, len(frame.labels) - MAX_INSTANCES) for frame in listed)
            listed = [f._replace(labels=f.labels[:MAX_INSTANCES]) for f in listed]
        tracks, dropped = tracks_of(listed, CATEGORIES, where, has_masks=True)
        results[name] = SequenceResult(name=name, tracks=tracks, num_frames=len(listed))
        num_dropped += dropped
    if num_dropped:
        logger.info(
            "%s: dropped %d predictions of ignored categories, marked crowd or ignored, or behind "
            "the first %d of a bitmask",
            path,
            num_dropped,
            MAX_INSTANCES,
        )
    return results


def expected_files(data_root: Path) -> list[ExpectedFile]:
    """What the data set consists of, and what of it is there."""
    rows = []
    for split, count in PUBLISHED_SEQUENCES.items():
        images = f"{_IMAGES}/{split}"
        what = f"frames of the {count} sequences"
        rows.append(ExpectedFile(images, what, True, exists(data_root / images)))
        places = (f"{_CODES}/{split}", f"{_BITMASKS}/{split}")
        what = f"segmentation tracking labels of {count} sequences (or {places[1]})"
        there = any(exists(data_root / place) for place in places)
        rows.append(ExpectedFile(places[0], what, True, there))
    images = f"{_IMAGES}/test"
    what = "frames of the 37 test sequences, for a submission"
    rows.append(ExpectedFile(images, what, False, exists(data_root / images)))
    return rows


def _sequences_in(
    path: Path, *, needs_names: bool
) -> Iterator[tuple[Path, str, str, list[LabelFrame]]]:
    """File or folder, name, place in messages and frames of each sequence, strictly checked."""
    folders = _bitmask_folders(path)
    if not folders:
        yield from sequences_in(path, needs_names=needs_names)
        return
    reporter = Reporter(strict=True)
    for folder in folders:
        name = check_sequence_name(folder.resolve().name, str(folder))
        yield folder, name, str(folder), _read_bitmasks(folder, reporter)


def _bitmask_folders(path: Path) -> list[Path]:
    """Folders of bitmasks by name; none where there is JSON."""
    if not path.is_dir() or any(path.glob("*.json")):
        return []
    if files_in(path, (".png",)):
        return [path]
    return [folder for folder in entries_of(path) if files_in(folder, (".png",))]


def _read_bitmasks(folder: Path, reporter: Reporter) -> list[LabelFrame]:
    """Frames of a folder by name; a broken file is reported, and a frame without objects."""
    frames = []
    for index, path in enumerate(files_in(folder, (".png",))):
        labels = []
        try:
            labels = read_bitmask(path, CLASSES)
        except ValueError as error:
            reporter.report(f"{folder}, frame {index}", str(error))
        frames.append(LabelFrame(index, path.name, labels))
    return frames
