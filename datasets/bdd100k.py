"""BDD100K: layout of its folders, its categories, and readers of its labels and results.

Two label releases are read (`frameIndex` or `index`; `crowd` or `Crowd`), tracking frames as image
folders or raw video, and the detection set of still images as extra training data.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from datasets.json_stream import iterate_records, read_record
from datasets.reading import ExpectedFile, Reporter, exists, json_files, read_json
from datasets.scalabel import Category, annotations_of, tracks_of
from datasets.scalabel_frames import (
    LabelFrame,
    check_gaps,
    frames_of,
    group_by_sequence,
    order_frames,
)
from datasets.schema import Problem, SequenceResult, SequenceSource, SequenceTruth

logger = logging.getLogger(__name__)

NAME: Final = "bdd100k"

CLASSES: Final = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
SUPER_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "human": ("pedestrian", "rider"),
    "vehicle": ("car", "truck", "bus", "train"),
    "bike": ("motorcycle", "bicycle"),
}
ALIASES: Final[Mapping[str, str]] = {
    "bike": "bicycle",
    "motor": "motorcycle",
    "person": "pedestrian",
    "van": "car",
    "caravan": "car",
}
"""Names of older releases."""
IGNORED: Final[Mapping[str, str]] = {
    "other person": "pedestrian",
    "other vehicle": "car",
    "trailer": "truck",
}
"""Categories that count as the named class with `ignored` set."""
DROPPED_FROM_STILLS: Final = frozenset({"traffic light", "traffic sign"})
"""Categories of the detection set that the tracking set does not know."""

SPLITS: Final = ("train", "val", "test", "det_train", "det_val")
PUBLISHED_SEQUENCES: Final[Mapping[str, int]] = {"train": 1400, "val": 200}
"""Tracking sequences that come with labels."""
FRAME_RATE: Final = 5.0
"""Labelled frames per second."""
LABEL_STRIDE: Final = 6
LABEL_PHASE: Final = 0
"""Raw videos name no frames: label i is taken as video frame i * stride + phase. Unverified."""

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")
_VIDEO_SUFFIXES: Final = (".mov", ".mp4")
_MOST_NAMED: Final = 3

CATEGORIES: Final[Mapping[str, Category]] = {
    **{name: Category(index, False) for index, name in enumerate(CLASSES)},
    **{old: Category(CLASSES.index(new), False) for old, new in ALIASES.items()},
    **{name: Category(CLASSES.index(counts_as), True) for name, counts_as in IGNORED.items()},
}


def list_sequences(data_root: Path, split: str) -> tuple[list[SequenceSource], list[Problem]]:
    """Sequences of a split by name, and what is missing of others.

    `train`, `val` and `test` are tracking sequences; `det_train` and `det_val` are still images,
    one source each, whose label file is read through once to find the place of each image.

    Args:
        data_root: The folder that holds `images`, `labels` and `videos`.
        split: One of `SPLITS`.

    Raises:
        ValueError: an unknown split, or a label file of stills that is broken.
    """
    if split not in SPLITS:
        raise ValueError(f"{NAME} has no split {split!r}, expected one of {', '.join(SPLITS)}")
    reporter = Reporter(strict=False)
    if split.startswith("det_"):
        sources = list(_list_stills(data_root, split, reporter))
    else:
        sources = list(_list_tracking(data_root, split, reporter))
    return sources, reporter.problems


def read_annotations(source: SequenceSource) -> tuple[SequenceTruth, list[Problem]]:
    """Annotations of a sequence, and what is broken in its labels and therefore left out.

    Frame f is the frame that the labels give the index f. Images are matched by file name, never
    by time: an image without a label frame takes the free index that its name belongs to, a label
    frame without an image stays, and an index with neither becomes a frame without annotations.

    Raises:
        ValueError: the label file as a whole cannot be used; names it.
    """
    assert source.labels is not None, "a split without public labels has no annotations"
    path = Path(source.labels)
    reporter = Reporter(strict=False)
    if source.is_still:
        frames = [_still_frame(source, path, reporter)]
    else:
        listed = read_label_frames(path, source.name, reporter)
        frames = number_frames(listed, source, f"{path}, sequence {source.name}", reporter)
    truth = SequenceTruth(
        name=source.name,
        frame_names=tuple(frame.name for frame in frames),
        annotations=annotations_of(
            frames,
            CATEGORIES,
            f"{path}, sequence {source.name}",
            reporter,
            dropped_categories=DROPPED_FROM_STILLS if source.is_still else frozenset(),
        ),
    )
    return truth, reporter.problems


def read_truth(path: Path) -> dict[str, SequenceTruth]:
    """Ground truth of every sequence in a label file, or in a folder of them, by sequence name.

    Raises:
        ValueError: anything broken or unknown, with file, sequence and frame.
    """
    reporter = Reporter(strict=True)
    truths: dict[str, SequenceTruth] = {}
    for file, name, where, listed in sequences_in(path, needs_names=True):
        if name in truths:
            raise ValueError(f"{file}: sequence {name!r} is in another file of the folder as well")
        truths[name] = SequenceTruth(
            name=name,
            frame_names=tuple(frame.name for frame in listed),
            annotations=annotations_of(listed, CATEGORIES, where, reporter),
        )
    if not truths:
        raise ValueError(f"{path}: no frame at all, expected the labels of at least one sequence")
    return truths


def read_results(path: Path) -> dict[str, SequenceResult]:
    """Results of every sequence in a JSON file, or in a folder of them, by sequence name.

    A file that holds `[]` is valid and adds nothing. How many predictions the official rule drops
    is logged.

    Raises:
        ValueError: anything broken or unknown, with file, sequence and frame.
    """
    results: dict[str, SequenceResult] = {}
    num_dropped = 0
    for file, name, where, listed in sequences_in(path, needs_names=False):
        if name in results:
            raise ValueError(f"{file}: sequence {name!r} is in another file of the folder as well")
        tracks, dropped = tracks_of(listed, CATEGORIES, where)
        results[name] = SequenceResult(name=name, tracks=tracks, num_frames=len(listed))
        num_dropped += dropped
    if num_dropped:
        logger.info(
            "%s: dropped %d predictions of ignored categories or marked crowd or ignored",
            path,
            num_dropped,
        )
    return results


def expected_files(data_root: Path) -> list[ExpectedFile]:
    """What the data set consists of, and what of it is there."""
    rows = []
    for split, count in PUBLISHED_SEQUENCES.items():
        images, videos = f"images/track/{split}", f"videos/{split}"
        has_frames = exists(data_root / images) or exists(data_root / videos)
        what = f"frames of the {count} tracking sequences (or raw video in {videos})"
        rows.append(ExpectedFile(images, what, True, has_frames))
        labels = f"labels/box_track_20/{split}"
        what = f"box tracking labels, {count} files"
        rows.append(ExpectedFile(labels, what, True, exists(data_root / labels)))
    for path, what in (
        ("images/track/test", "frames of the 400 test sequences, for a submission"),
        ("images/100k/train", "still images of the detection set, extra training data"),
        ("labels/det_20/det_train.json", "labels of these still images"),
        ("images/100k/val", "still images of the detection set, validation"),
        ("labels/det_20/det_val.json", "labels of these still images"),
    ):
        rows.append(ExpectedFile(path, what, False, exists(data_root / path)))
    return rows


def frame_name(sequence: str, frame_index: int) -> str:
    """BDD100K's file name of a frame, which counts from 1.

    >>> frame_name("b1c66a42-6f7d68ca", 0)
    'b1c66a42-6f7d68ca-0000001.jpg'
    """
    return f"{sequence}-{frame_index + 1:07d}.jpg"


def sequences_in(
    path: Path, *, needs_names: bool
) -> Iterator[tuple[Path, str, str, list[LabelFrame]]]:
    """File, name, place in messages and frames of each sequence, strictly checked."""
    reporter = Reporter(strict=True)
    for file, content in json_files(path):
        for name, frames in group_by_sequence(frames_of(content, file), file).items():
            where = f"{file}, sequence {name}"
            listed = order_frames(frames, where, reporter, needs_names=needs_names)
            check_gaps(listed, where)
            yield file, name, where, listed


def read_label_frames(path: Path, name: str, reporter: Reporter) -> list[LabelFrame]:
    """Frames of one sequence in its label file, by frame index; gaps stay.

    Raises:
        ValueError: the file as a whole cannot be used; names it.
    """
    groups = group_by_sequence(frames_of(read_json(path), path), path)
    for other in sorted(groups.keys() - {name}):
        reporter.report(str(path), f"holds frames of another sequence, {other!r}: left out")
    where = f"{path}, sequence {name}"
    return order_frames(groups.get(name, []), where, reporter, needs_names=True)


def number_frames(
    listed: Sequence[LabelFrame], source: SequenceSource, where: str, reporter: Reporter
) -> list[LabelFrame]:
    """Frames 0, 1, 2 ... of a sequence: those of the labels, gaps filled, further images behind.

    Raises:
        ValueError: no frame in the labels, or frame indices far beyond the number of frames.
    """
    if not listed:
        raise ValueError(f"{where}: no usable frame of this sequence in its label file")
    images = {Path(path).name for path in source.images}
    num_frames = listed[-1].frame_index + 1
    if num_frames > 2 * len(listed) + len(images):
        raise ValueError(
            f"{where}: frame indices reach {num_frames - 1} while {len(listed)} frames are listed"
        )
    unlabelled = images - {frame.name for frame in listed}
    while frame_name(source.name, num_frames) in unlabelled:
        num_frames += 1
    by_index = {frame.frame_index: frame for frame in listed}
    frames = [
        by_index.get(index) or LabelFrame(index, frame_name(source.name, index), ())
        for index in range(num_frames)
    ]
    for frame in frames:
        if frame.frame_index not in by_index:
            what = f"not in the labels (image {frame.name}): kept as a frame without objects"
            reporter.report(f"{where}, frame {frame.frame_index}", what)
    for name in sorted(unlabelled - {frame.name for frame in frames}):
        reporter.report(where, f"image {name} has neither labels nor a free frame index: left out")
    return frames


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of these suffixes by name; hidden ones are not listed."""
    return [path for path in entries_of(folder) if path.suffix.lower() in suffixes]


def entries_of(folder: Path) -> list[Path]:
    """What lies in a folder by name, nothing if there is no such folder; hidden files are not."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _list_tracking(data_root: Path, split: str, reporter: Reporter) -> Iterator[SequenceSource]:
    image_root = data_root / "images" / "track" / split
    label_root = data_root / "labels" / "box_track_20" / split
    video_root = data_root / "videos" / split
    labels = {path.stem: path for path in files_in(label_root, (".json",))}
    folders = {path.name for path in entries_of(image_root) if path.is_dir()}
    # Raw videos are 100,000, of which few are labelled: they do not name sequences.
    videos = {path.stem: path for path in files_in(video_root, _VIDEO_SUFFIXES)}
    if not labels and not folders:
        reporter.report(f"{NAME}/{split}", f"neither labels in {label_root} nor {image_root}")
    num_raw = 0
    for name in sorted(labels.keys() | folders):
        images = tuple(str(path) for path in files_in(image_root / name, IMAGE_SUFFIXES))
        video = None if images else videos.get(name)
        if not images and not video:
            what = f"no image in {image_root / name} and no video in {video_root}: left out"
            reporter.report(f"{NAME}/{split}, sequence {name}", what)
        elif name not in labels and split != "test":
            what = f"no label file {label_root / name}.json: left out"
            reporter.report(f"{NAME}/{split}, sequence {name}", what)
        else:
            num_raw += video is not None
            yield SequenceSource(
                dataset=NAME,
                split=split,
                name=name,
                images=images,
                video=str(video) if video else None,
                labels=str(labels[name]) if name in labels else None,
                options={"frame_rate": FRAME_RATE} | (_raw_options() if video else {}),
            )
    if num_raw:
        logger.warning(
            "%s/%s: the frames of %d sequences come from raw video, by frame = label index * "
            "stride + phase (%d and %d unless set otherwise), which is unverified; results are "
            "exact with image folders only",
            NAME,
            split,
            num_raw,
            LABEL_STRIDE,
            LABEL_PHASE,
        )


def _raw_options() -> dict[str, Any]:
    return {"label_stride": LABEL_STRIDE, "label_phase": LABEL_PHASE}


def _list_stills(data_root: Path, split: str, reporter: Reporter) -> Iterator[SequenceSource]:
    labels = data_root / "labels" / "det_20" / f"{split}.json"
    folder = data_root / "images" / "100k" / split.removeprefix("det_")
    if not labels.exists():
        reporter.report(f"{NAME}/{split}", f"no label file {labels}")
        return
    places: dict[str, tuple[int, int]] = {}
    for offset, length, frame in iterate_records(labels, "frames"):
        name = frame.get("name") if isinstance(frame, dict) else None
        if isinstance(name, str) and name:
            places[PurePosixPath(name).name] = (offset, length)
        else:
            reporter.report(str(labels), f"the frame at byte {offset} has no name: left out")
    images = {path.name: path for path in files_in(folder, IMAGE_SUFFIXES)}
    _report_names(images.keys() - places.keys(), f"images without labels in {labels}", reporter)
    _report_names(
        places.keys() - images.keys(), f"label frames without image in {folder}", reporter
    )
    for name in sorted(images.keys() & places.keys()):
        offset, length = places[name]
        yield SequenceSource(
            dataset=NAME,
            split=split,
            name=images[name].stem,
            images=(str(images[name]),),
            labels=str(labels),
            is_still=True,
            options={"label_offset": offset, "label_length": length},
        )


def _report_names(names: Iterable[str], what: str, reporter: Reporter) -> None:
    """One problem for all of them: a part of the 70,000 images is a usual thing to have."""
    found = sorted(names)
    if found:
        first = ", ".join(found[:_MOST_NAMED])
        reporter.report(f"{NAME} stills", f"{len(found)} {what} ({first} ...): left out")


def _still_frame(source: SequenceSource, path: Path, reporter: Reporter) -> LabelFrame:
    offset, length = source.options["label_offset"], source.options["label_length"]
    frame = read_record(path, offset, length)
    name = Path(source.images[0]).name
    found = frame.get("name") if isinstance(frame, dict) else None
    if not isinstance(found, str) or PurePosixPath(found).name != name:
        raise ValueError(
            f"{path}: the labels of {name} are no longer at byte {offset}; the file changed since "
            "the sequences were listed: run again"
        )
    labels = frame.get("labels") or []
    if not isinstance(labels, list):
        reporter.report(f"{path}, image {name}", f"labels is {labels!r}, expected a list or null")
        labels = []
    return LabelFrame(0, name, labels)
