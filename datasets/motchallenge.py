"""MOTChallenge (MOT15, MOT17, MOT20): folders of sequences, truth and results as text tables.

Boxes are left, top, width, height in the files, floats without any +1; they may leave the image
and are not clipped. Frame numbers count from 1 in the files, frame indices from 0 everywhere else.
"""

import configparser
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from datasets.reading import ExpectedFile, Reporter, check_sequence_name, exists, read_text
from datasets.schema import (
    UNMAPPED_CLASS,
    Annotations,
    Float64,
    Problem,
    SequenceResult,
    SequenceSource,
    SequenceTruth,
    Tracks,
)

CLASSES: Final = ("pedestrian",)
"""What is evaluated: boxes of this class whose flag is not 0."""

CATEGORY_NAMES: Final[Mapping[int, str]] = {
    1: "pedestrian",
    2: "person_on_vehicle",
    3: "car",
    4: "bicycle",
    5: "motorbike",
    6: "non_mot_vehicle",
    7: "static_person",
    8: "distractor",
    9: "occluder",
    10: "occluder_on_ground",
    11: "occluder_full",
    12: "reflection",
    13: "crowd",
}
"""Class column of a truth file -> `category` of the annotation."""

DISTRACTORS: Final[Mapping[str, tuple[str, ...]]] = {
    "mot15": (),
    "mot17": ("person_on_vehicle", "static_person", "distractor", "reflection"),
    "mot20": (
        "person_on_vehicle",
        "static_person",
        "distractor",
        "reflection",
        "non_mot_vehicle",
    ),
}
"""Categories whose matched predictions are deleted before scoring, by benchmark."""

SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    "mot15": ("train", "test"),
    "mot17": ("train", "half_train", "half_val", "test"),
    "mot20": ("train", "test"),
    "mots_challenge": ("train", "test"),
}
"""`half_train` is the first n // 2 + 1 frames of every training sequence, `half_val` the rest."""

_LARGEST_FRAME_NUMBER: Final = 2**31 - 1
"""Frames are stored as int32."""
_LARGEST_ID: Final = 2**53
"""Beyond it, two ids could read as one: the numbers of a row are read as float64."""
_COLUMNS_OF_BOX: Final = 7
_COLUMNS_OF_TRUTH: Final = {"mot15": 7, "mot17": 9, "mot20": 9}


@dataclass(frozen=True, kw_only=True)
class SequenceInfo:
    """What `seqinfo.ini` says of a sequence."""

    num_frames: int
    image_folder: str
    image_suffix: str
    frame_rate: float | None
    """Frames per second, None where the file does not say."""

    def frame_name(self, frame_index: int) -> str:
        """File name of a frame, which counts from 1."""
        return f"{frame_index + 1:06d}{self.image_suffix}"


def list_sequences(
    benchmark: str, data_root: Path, split: str
) -> tuple[list[SequenceSource], list[Problem]]:
    """Sequences of a split by name, and what is missing of others.

    Args:
        benchmark: Key of `SPLITS`.
        data_root: The folder that holds `train` and `test`.
        split: One of `SPLITS[benchmark]`.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS[benchmark]:
        known = ", ".join(SPLITS[benchmark])
        raise ValueError(f"{benchmark} has no split {split!r}, expected one of {known}")
    reporter = Reporter(strict=False)
    folder = data_root / ("test" if split == "test" else "train")
    sequences = _sequence_folders(folder)
    if not sequences:
        reporter.report(f"{benchmark}/{split}", f"no sequence in {folder}")
    sources = []
    for sequence in sequences:
        try:
            sources.append(_list_sequence(benchmark, split, sequence, reporter))
        except ValueError as error:
            where = f"{benchmark}/{split}, sequence {sequence.name}"
            reporter.report(where, f"{error}; left out")
    return sources, reporter.problems


def read_annotations(source: SequenceSource) -> tuple[SequenceTruth, list[Problem]]:
    """Annotations of a sequence or half of one, and the rows that are broken and left out.

    Raises:
        ValueError: `seqinfo.ini` or the truth file as a whole cannot be used; names it.
    """
    assert source.labels is not None, "a split without public labels has no annotations"
    path = Path(source.labels)
    reporter = Reporter(strict=False)
    info = read_info(path.parent.parent)
    annotations = _read_truth_file(path, source.dataset, info.num_frames, reporter)
    frames = _frames_of_split(source.split, info.num_frames)
    inside = (annotations.frame_index >= frames.start) & (annotations.frame_index < frames.stop)
    part = annotations.select(inside)
    part.frame_index[:] -= frames.start
    names = tuple(info.frame_name(index) for index in frames)
    truth = SequenceTruth(name=source.name, frame_names=names, annotations=part)
    return truth, reporter.problems


def read_truth(benchmark: str, path: Path) -> dict[str, SequenceTruth]:
    """Ground truth of every sequence folder in `path` (or of `path` itself), by sequence name.

    All rows are kept: other classes than pedestrian have `class_index` -1, flag 0 is `ignored`.

    Raises:
        ValueError: no sequence, or anything broken, with file and line.
    """
    folders = [path] if (path / "seqinfo.ini").exists() else _sequence_folders(path)
    if not folders:
        raise ValueError(f"{path}: no sequence, expected folders with seqinfo.ini and gt/gt.txt")
    reporter = Reporter(strict=True)
    truths = {}
    for folder in folders:
        info = read_info(folder)
        file = folder / "gt" / "gt.txt"
        truths[folder.name] = SequenceTruth(
            name=folder.name,
            frame_names=tuple(info.frame_name(index) for index in range(info.num_frames)),
            annotations=_read_truth_file(file, benchmark, info.num_frames, reporter),
        )
    return truths


def read_results(path: Path) -> dict[str, SequenceResult]:
    """Results of every `<sequence>.txt` in a folder (or of one such file), by sequence name.

    An empty file is a valid result. The format cannot say how long a sequence is, so whoever
    knows the truth checks that no frame lies beyond it and that no file is missing.

    Raises:
        ValueError: no file, a class other than pedestrian, or anything broken, with file and line.
    """
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no *.txt in this folder, expected one result per sequence")
    results = {}
    for file in files:
        name = check_sequence_name(file.stem, str(file))
        results[name] = SequenceResult(name=name, tracks=_read_result_file(file))
    return results


def expected_files(data_root: Path) -> list[ExpectedFile]:
    """What the data set consists of, and what of it is there."""
    rows = [
        ExpectedFile("train", "training sequences", True, exists(data_root / "train")),
        ExpectedFile("test", "test sequences, for a submission", False, exists(data_root / "test")),
    ]
    for split in ("train", "test"):
        for folder in _sequence_folders(data_root / split):
            place = f"{split}/{folder.name}"
            contents = [("seqinfo.ini", "length and frame rate"), ("img1", "frames")]
            if split == "train":
                contents.append(("gt/gt.txt", "ground truth"))
            rows += [
                ExpectedFile(f"{place}/{name}", f"{what} of {folder.name}", True, exists(path))
                for name, what in contents
                for path in [folder / name]
            ]
    return rows


def read_info(folder: Path) -> SequenceInfo:
    """The `seqinfo.ini` of a sequence folder.

    Raises:
        ValueError: absent, broken, or without a usable `seqLength`.
    """
    path = folder / "seqinfo.ini"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path), str(path))
        section = parser["Sequence"]
    except (configparser.Error, KeyError) as error:
        raise ValueError(f"{path}: no section [Sequence] can be read ({error})") from error
    try:
        num_frames = int(section.get("seqLength", ""))
        frame_rate = float(section["frameRate"]) if "frameRate" in section else None
    except ValueError as error:
        raise ValueError(f"{path}: seqLength and frameRate must be numbers ({error})") from error
    if num_frames < 1 or (frame_rate is not None and not 0 < frame_rate < math.inf):
        raise ValueError(
            f"{path}: seqLength is {num_frames} and frameRate {frame_rate}, expected at least one "
            "frame and a positive rate"
        )
    return SequenceInfo(
        num_frames=num_frames,
        image_folder=check_sequence_name(section.get("imDir", "img1"), f"{path}, imDir"),
        image_suffix=section.get("imExt", ".jpg"),
        frame_rate=frame_rate,
    )


def _list_sequence(benchmark: str, split: str, folder: Path, reporter: Reporter) -> SequenceSource:
    info = read_info(folder)
    image_folder = folder / info.image_folder
    names = [info.frame_name(index) for index in range(info.num_frames)]
    present = {path.name for path in image_folder.glob(f"*{info.image_suffix}")}
    if not present:
        raise ValueError(f"no {info.image_suffix} image in {image_folder}")
    labels = folder / "gt" / "gt.txt"
    if split != "test" and not labels.exists():
        raise ValueError(f"no truth file {labels}")
    further = sorted(present.difference(names))
    if further:
        where = f"{benchmark}/{split}, sequence {folder.name}"
        what = f"{len(further)} images beyond seqLength {info.num_frames} ({further[0]} ...)"
        reporter.report(where, f"{what}: left out")
    frames = _frames_of_split(split, info.num_frames)
    return SequenceSource(
        dataset=benchmark,
        split=split,
        name=folder.name,
        images=tuple(str(image_folder / name) for name in names[frames.start : frames.stop]),
        labels=None if split == "test" else str(labels),
        options={} if info.frame_rate is None else {"frame_rate": info.frame_rate},
    )


def _frames_of_split(split: str, num_frames: int) -> range:
    """Frames of a whole sequence that belong to the split.

    >>> _frames_of_split("half_train", 600), _frames_of_split("half_val", 525)
    (range(0, 301), range(263, 525))
    """
    middle = num_frames // 2 + 1
    halves = {"half_train": range(min(middle, num_frames)), "half_val": range(middle, num_frames)}
    return halves.get(split, range(num_frames))


def _sequence_folders(folder: Path) -> list[Path]:
    """Folders that look like a sequence, by name."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if (path / "seqinfo.ini").exists() or (path / "gt" / "gt.txt").exists()
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """The columns that truth and results share, and the whole rows for the others."""

    frame_index: list[int]
    ids: list[int]
    boxes_xyxy: Float64
    values: list[list[float]]
    """All columns of the file."""


def _read_truth_file(
    path: Path, benchmark: str, num_frames: int, reporter: Reporter
) -> Annotations:
    rows = _read_rows(path, _COLUMNS_OF_TRUTH[benchmark], num_frames, reporter)
    has_classes = benchmark != "mot15"
    categories: list[str] = []
    good = np.ones(len(rows.ids), bool)
    for row, values in enumerate(rows.values):
        number = values[7] if has_classes else 1
        name = CATEGORY_NAMES.get(int(number)) if number == number // 1 else None
        if name is None:
            where = f"{path}, frame number {rows.frame_index[row] + 1}"
            reporter.report(where, f"unknown class {number:g} of id {rows.ids[row]}, expected 1-13")
            good[row] = False
        categories.append(name or "")
    is_pedestrian = np.array([name == CLASSES[0] for name in categories], bool)
    visibility = [values[8] if has_classes else math.nan for values in rows.values]
    annotations = Annotations(
        frame_index=np.array(rows.frame_index, np.int32),
        identity=np.array(rows.ids, np.int64),
        identity_source=tuple(map(str, rows.ids)),
        category=tuple(categories),
        class_index=np.where(is_pedestrian, 0, UNMAPPED_CLASS).astype(np.int16),
        boxes_xyxy=rows.boxes_xyxy,
        crowd=np.zeros(len(rows.ids), bool),
        ignored=np.array([values[6] == 0 for values in rows.values], bool),
        occluded=np.zeros(len(rows.ids), bool),
        truncated=np.zeros(len(rows.ids), bool),
        visibility=np.array(visibility, np.float32),
    )
    order = np.argsort(annotations.frame_index, kind="stable")
    return annotations.select(order[good[order]])


def _read_result_file(path: Path) -> Tracks:
    rows = _read_rows(path, _COLUMNS_OF_BOX, None, Reporter(strict=True))
    for row, values in enumerate(rows.values):
        if len(values) > 7 and values[7] > 1:
            raise ValueError(
                f"{path}, frame number {rows.frame_index[row] + 1}: class {values[7]:g} of id "
                f"{rows.ids[row]}, expected 1 (pedestrian), -1 or no class column"
            )
    frame_index = np.array(rows.frame_index, np.int32)
    order = np.argsort(frame_index, kind="stable")
    return Tracks(
        frame_index=frame_index[order],
        track_id=np.array(rows.ids, np.int64)[order],
        detection_row=np.full(len(order), -1, np.int32),
        boxes_xyxy=rows.boxes_xyxy[order],
        scores=np.array([values[6] for values in rows.values], np.float32)[order],
        class_index=np.zeros(len(order), np.int16),
    )


def _read_rows(path: Path, num_columns: int, num_frames: int | None, reporter: Reporter) -> _Rows:
    """Rows in file order; what is broken is reported and left out."""
    frame_index: list[int] = []
    ids: list[int] = []
    kept: list[list[float]] = []
    seen: set[tuple[int, int]] = set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = _parse_row(line, num_columns)
            key = _check_row(values, num_frames)
            if key in seen:
                raise ValueError(f"frame number {key[0]}: id {key[1]} occurs twice")
        except ValueError as error:
            reporter.report(f"{path}, line {number}", str(error))
            continue
        seen.add(key)
        frame_index.append(key[0] - 1)
        ids.append(key[1])
        kept.append(values)
    boxes = np.array([values[2:6] for values in kept], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return _Rows(frame_index=frame_index, ids=ids, boxes_xyxy=boxes, values=kept)


def _parse_row(line: str, num_columns: int) -> list[float]:
    values = [float(value) for value in line.split(",")]
    if len(values) < num_columns:
        raise ValueError(f"{len(values)} columns separated by commas, expected {num_columns}")
    return values


def _check_row(values: Sequence[float], num_frames: int | None) -> tuple[int, int]:
    """Frame number and id of a row whose numbers make sense."""
    place = f"frame number {values[0]:g}, id {values[1]:g}"
    if not math.isfinite(sum(values)):
        raise ValueError(f"{place}: a value is not finite: {list(values)}")
    frame_number, identity = int(values[0]), int(values[1])
    if frame_number != values[0] or identity != values[1]:
        raise ValueError(f"{place}: expected integers")
    if frame_number > _LARGEST_FRAME_NUMBER or abs(identity) > _LARGEST_ID:
        raise ValueError(
            f"{place}: expected a frame number up to {_LARGEST_FRAME_NUMBER} and an id up to "
            f"{_LARGEST_ID} either side of 0"
        )
    if not 1 <= frame_number <= (math.inf if num_frames is None else num_frames):
        last = "" if num_frames is None else f" to {num_frames}, the seqLength"
        raise ValueError(f"{place}: expected a frame number from 1{last}")
    if values[4] <= 0 or values[5] <= 0:
        raise ValueError(f"{place}: size {values[4]} x {values[5]}, expected more than 0")
    return frame_number, identity
