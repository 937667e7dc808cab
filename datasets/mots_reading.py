"""Truth and results in the formats of KITTI MOTS, of any benchmark that uses them."""

import logging
from collections.abc import Sequence
from pathlib import Path

from datasets.images import check_label_size
from datasets.kitti_mots import (
    IMAGE_SUFFIXES,
    LABEL_FOLDERS,
    MotsLayout,
    find_image_folder,
)
from datasets.mots_png import read_folder
from datasets.mots_rows import MotsRow, annotations_of, result_rules, tracks_of, truth_rules
from datasets.mots_text import read_rows
from datasets.reading import Reporter, check_sequence_name, exists, numbered_files
from datasets.schema import Problem, SequenceResult, SequenceSource, SequenceTruth
from datasets.seqmap import read_seqmap

logger = logging.getLogger(__name__)


def read_annotations(
    layout: MotsLayout, source: SequenceSource
) -> tuple[SequenceTruth, list[Problem]]:
    """Annotations of a sequence, and the objects and maps that are broken and left out.

    Every image is a frame, and so is every labelled frame whose image is missing.

    Raises:
        ValueError: the labels as a whole cannot be used, or are of another size than the images.
    """
    assert source.labels is not None, "a split without public labels has no annotations"
    reporter = Reporter(strict=False)
    place = Path(source.labels)
    rows, num_labelled = _read_truth_rows(layout, place, reporter)
    if rows:
        check_label_size(rows[0].mask["size"], rows[0].place, source.images)
    if place.is_dir() and num_labelled != len(source.images):
        what = f"{num_labelled} maps for {len(source.images)} images; the others have no objects"
        reporter.report(str(place), what)
    names = [Path(path).name for path in source.images]
    # Behind the images: frames that are labelled and whose image was lost.
    names += [layout.frame_name(index) for index in range(len(names), num_labelled)]
    return _truth(layout, source.name, rows, names), reporter.problems


def read_truth(layout: MotsLayout, path: Path) -> dict[str, SequenceTruth]:
    """Ground truth by sequence name.

    Text does not say how many frames follow the last object. This is looked up in any `*seqmap*`
    beside the file or in the folder above, then in the images of the data set, if they are there;
    else the sequence ends with its last object, which is logged.

    Args:
        layout: The benchmark.
        path: A data root with `instances` or `instances_txt`; a folder of `<sequence>.txt`, or of
            folders of maps; one text file; or one folder of maps.

    Raises:
        ValueError: no labels, or anything broken, with file, line and frame.
    """
    if path.is_dir():
        inner = [path / name for name in LABEL_FOLDERS if exists(path / name)]
        path = inner[0] if inner else path
    truths = {}
    for name, place in _label_places(path).items():
        rows, num_frames = _read_truth_rows(layout, place, Reporter(strict=True))
        if not place.is_dir():
            num_frames = _length_of_text(layout, place, rows, num_frames)
        names = [layout.frame_name(index) for index in range(num_frames)]
        truths[name] = _truth(layout, name, rows, names)
    return truths


def read_results(layout: MotsLayout, path: Path) -> dict[str, SequenceResult]:
    """Results of every `<sequence>.txt` in a folder, or of every folder of maps, by sequence name.

    An empty text file is a valid result. Text cannot say how long a sequence is, so whoever knows
    the truth checks that no frame lies beyond it. The id of a track in a map is the value itself.

    Raises:
        ValueError: no result, a class that is not evaluated, or anything broken, with file, line
            and frame.
    """
    rules = result_rules(layout.classes, layout.first_frame)
    reporter = Reporter(strict=True)
    results = {}
    for name, place in _label_places(path).items():
        num_frames = None
        if place.is_dir():
            rows, maps = read_folder(place, rules, reporter)
            num_frames = len(maps)
        else:
            rows = read_rows(place, rules, reporter)
        tracks = tracks_of(rows, layout.classes)
        results[name] = SequenceResult(name=name, tracks=tracks, num_frames=num_frames)
    return results


def _label_places(path: Path) -> dict[str, Path]:
    """Sequence name -> text file or folder of maps.

    Raises:
        ValueError: there is neither.
    """
    if not path.is_dir():
        return {check_sequence_name(path.stem, str(path)): path}
    files = [file for file in sorted(path.glob("*.txt")) if "seqmap" not in file.name]
    places = {file.stem: file for file in files}
    if not places:
        folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
        places = {folder.name: folder for folder in folders if any(folder.glob("*.png"))}
    if not places and any(path.glob("*.png")):
        places = {path.resolve().name: path}
    if not places:
        raise ValueError(
            f"{path}: no *.txt and no folder of *.png, expected one of either per sequence"
        )
    return {check_sequence_name(name, str(path)): place for name, place in places.items()}


def _read_truth_rows(
    layout: MotsLayout, place: Path, reporter: Reporter
) -> tuple[list[MotsRow], int]:
    """Objects of a sequence, and how many frames its labels reach."""
    rules = truth_rules(layout.first_frame)
    if place.is_dir():
        rows, maps = read_folder(place, rules, reporter)
        return rows, max(maps, default=-1) + 1
    rows = read_rows(place, rules, reporter)
    return rows, max((row.frame_index for row in rows), default=-1) + 1


def _length_of_text(
    layout: MotsLayout, path: Path, rows: Sequence[MotsRow], num_labelled: int
) -> int:
    """Number of frames of a sequence whose labels are text.

    Raises:
        ValueError: an object behind the last frame, or nothing that says how many frames there are.
    """
    num_frames, source = _known_length(layout, path)
    if num_frames is None:
        if not rows:
            raise ValueError(
                f"{path}: no object in the file, and neither a seqmap nor images that say how many "
                "frames the sequence has; put a seqmap beside it"
            )
        last = num_labelled - 1 + layout.first_frame
        logger.info("%s: neither seqmap nor images: the sequence ends at frame %d", path, last)
        return num_labelled
    if num_labelled > num_frames:
        raise ValueError(f"{rows[-1].place}: behind the last of {num_frames} frames in {source}")
    return num_frames


def _known_length(layout: MotsLayout, path: Path) -> tuple[int | None, Path]:
    """What a seqmap, else the images say of the sequence of a text file."""
    found: dict[Path, int] = {}
    for folder in (path.parent, path.resolve().parent.parent):
        for seqmap in sorted(file for file in folder.glob("*seqmap*") if file.is_file()):
            lengths = read_seqmap(seqmap, first_frame=layout.first_frame)
            if path.stem in lengths:
                found[seqmap] = lengths[path.stem]
    if len(set(found.values())) > 1:
        said = ", ".join(f"{length} in {seqmap}" for seqmap, length in found.items())
        raise ValueError(f"{path}: the number of frames differs between seqmaps: {said}")
    if found:
        seqmap, length = next(iter(found.items()))
        return length, seqmap
    root = path.resolve().parent.parent
    image_folder = find_image_folder(layout, root, "train", path.stem)
    if image_folder is None:
        return None, path
    first = layout.first_frame
    images = numbered_files(image_folder, IMAGE_SUFFIXES, Reporter(strict=True), first_frame=first)
    return max(images, default=-1) + 1 or None, image_folder


def _truth(
    layout: MotsLayout, name: str, rows: Sequence[MotsRow], frame_names: Sequence[str]
) -> SequenceTruth:
    return SequenceTruth(
        name=name,
        frame_names=tuple(frame_names),
        annotations=annotations_of(rows, layout.classes),
    )
