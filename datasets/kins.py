"""KINS: instances on KITTI's object detection images, which PointTrack's segmentation trains on.

A COCO-like file describes each object as a whole (amodal) and as far as it is seen; only what is
seen is read here. Two releases name this mask `inmodal_seg` (as does PointTrack, which renamed the
files) and `i_segm`; it is a run-length code, compressed or not, or polygons.

Images are stills without tracks: they are trained on, never scored.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.coco_masks import parse_mask
from datasets.images import image_size
from datasets.json_stream import iterate_records, read_record
from datasets.masks import Rle, decode_mask, mask_areas, mask_boxes, remove_overlaps
from datasets.reading import ExpectedFile, Reporter, check_sequence_name, exists, read_json
from datasets.schema import (
    UNMAPPED_CLASS,
    Annotations,
    Problem,
    SequenceResult,
    SequenceSource,
    SequenceTruth,
)

logger = logging.getLogger(__name__)

NAME: Final = "kins"

CLASSES: Final = ("car", "pedestrian")
"""Those of KITTI MOTS."""
PEDESTRIAN: Final = 2
CAR: Final = 4
CATEGORIES: Final[Mapping[int, str]] = {
    1: "cyclist",
    PEDESTRIAN: "pedestrian",
    CAR: "car",
    5: "tram",
    6: "truck",
    7: "van",
    8: "misc",
}
"""Names where the file brings none of its own; which number of 5 to 8 is which is unverified."""
VEHICLES: Final = frozenset(range(4, 9))
CAR_VALUE: Final = 26000
"""Added to the number of a car in published maps."""

SPLITS: Final = ("train", "val")
IMAGE_FOLDERS: Final[Mapping[str, str]] = {"train": "training/image_2", "val": "testing/image_2"}
LABEL_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("kitti_instances_train.json", "instances_train.json", "update_train_2020.json"),
    "val": ("kitti_instances_val.json", "instances_val.json", "update_test_2020.json"),
}
"""As PointTrack renamed them, of the first release and of the revision; the first that is there is
read, in the data root or in one of `LABEL_FOLDERS`."""
LABEL_FOLDERS: Final = (".", "annotations", "KINS", "kins")
MASK_FIELDS: Final = ("inmodal_seg", "i_segm")
"""Names of the mask of what is seen."""

_CLASS_OF: Final = {CAR: CLASSES.index("car"), PEDESTRIAN: CLASSES.index("pedestrian")}
_IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
_HEADER_BYTES: Final = 1 << 16
_MOST_NAMED: Final = 3
_NO_SCORES: Final = (
    f"{NAME} is made of stills without tracks, to train on; there is no evaluation of it: score "
    "on kitti_mots"
)


class VisibleObject(NamedTuple):
    """One annotation: what is seen of an object, before others are painted over it."""

    annotation_id: str
    """As written, or the place in the file of one without."""
    category_id: int
    category: str
    is_crowd: bool
    mask: Rle


@dataclass
class _Index:
    """What the file says of its images, without the annotations themselves."""

    images: dict[str, int] = field(default_factory=dict)
    """File name -> id."""
    image_ids: set[int] = field(default_factory=set)
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Id of an image -> offset and length of its annotations, in the order of the file."""
    categories: dict[int, str] = field(default_factory=lambda: dict(CATEGORIES))


def list_sequences(data_root: Path, split: str) -> tuple[list[SequenceSource], list[Problem]]:
    """The images of a split by name, each a source of its own, and what is missing of others.

    The label file is read through once, to find the places of each image's annotations.

    Args:
        data_root: KITTI's folder, with `training` and `testing`, and the label files.
        split: "train", or "val" whose images are KITTI's testing ones.

    Raises:
        ValueError: an unknown split, or a label file that is broken.
    """
    if split not in SPLITS:
        raise ValueError(f"{NAME} has no split {split!r}, expected one of {', '.join(SPLITS)}")
    reporter = Reporter(strict=False)
    labels = _find_labels(data_root, split, reporter)
    sources = [] if labels is None else list(_list_stills(data_root, split, labels, reporter))
    return sources, reporter.problems


def read_annotations(source: SequenceSource) -> tuple[SequenceTruth, list[Problem]]:
    """Annotations of one image, and those that are broken and therefore left out.

    Masks are disjoint: an annotation covers those before it in the file, whatever their categories.
    One of which nothing is left, or nothing was seen to begin with, has no row. Boxes are those of
    the masks, identities the places in this order.

    Raises:
        ValueError: the label file changed since the images were listed.
    """
    reporter = Reporter(strict=False)
    objects = read_objects(source, reporter)
    name = Path(source.images[0]).name
    truth = SequenceTruth(
        name=source.name, frame_names=(name,), annotations=_annotations_of(objects)
    )
    return truth, reporter.problems


def read_objects(source: SequenceSource, reporter: Reporter) -> list[VisibleObject]:
    """The annotations of one image in the order of the file, before anything covers another.

    Raises:
        ValueError: the label file changed since the images were listed, or, of a strict reporter,
            a broken annotation; names file, image and annotation.
    """
    assert source.labels is not None
    path, image = Path(source.labels), Path(source.images[0])
    where = f"{path}, image {image.name}"
    places = source.options["label_places"]
    if not places:
        return []
    try:
        size = _read_size(image)
    except (OSError, ValueError) as error:
        what = f"its size is not known ({error}): {len(places)} annotations are left out"
        reporter.report(where, what)
        return []
    objects = []
    for offset, length in places:
        record = read_record(path, offset, length)
        if not isinstance(record, dict) or record.get("image_id") != source.options["image_id"]:
            raise ValueError(
                f"{where}: no annotation of it at byte {offset} any more; the file changed since "
                "the images were listed: run again"
            )
        annotation_id = str(record.get("id", f"at byte {offset}"))
        try:
            found = _object_of(record, annotation_id, source.options["categories"], size)
        except ValueError as error:
            reporter.report(f"{where}, annotation {annotation_id}", f"{error}: left out")
            continue
        objects.append(found)
    return objects


def published_map(
    objects: Sequence[VisibleObject], height: int, width: int
) -> npt.NDArray[np.uint16] | None:
    """The map that PointTrack trains on: uint16 (H, W), None without any vehicle.

    The categories 4 to 8 are counted from 1 in the order of the file. Cars are painted as 26000 +
    k, other vehicles as k, later ones over earlier ones; all else is 0.

    Args:
        objects: the annotations of one image in the order of the file.
        height: H, of the image.
        width: W.
    """
    vehicles = [found for found in objects if found.category_id in VEHICLES]
    if not vehicles:
        return None
    values = np.zeros((height, width), np.uint16)
    for number, vehicle in enumerate(vehicles, 1):
        value = CAR_VALUE + number if vehicle.category_id == CAR else number
        values[decode_mask(vehicle.mask)] = value
    return values


def read_truth(path: Path) -> dict[str, SequenceTruth]:
    """Refused: there is nothing to score.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{path}: {_NO_SCORES}")


def read_results(path: Path) -> dict[str, SequenceResult]:
    """Refused: there is nothing to score.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{path}: {_NO_SCORES}")


def expected_files(data_root: Path) -> list[ExpectedFile]:
    """What the data set consists of, and what of it is there."""
    rows = []
    for split, needed in (("train", True), ("val", False)):
        folder = IMAGE_FOLDERS[split]
        what = f"KITTI object detection images, the {split} split"
        rows.append(ExpectedFile(folder, what, needed, exists(data_root / folder)))
        files = LABEL_FILES[split]
        what = f"their annotations (or {' or '.join(files[1:])})"
        there = bool(_label_candidates(data_root, split))
        rows.append(ExpectedFile(files[0], what, needed, there))
    return rows


def _label_candidates(data_root: Path, split: str) -> list[Path]:
    places = (data_root / folder / n for n in LABEL_FILES[split] for folder in LABEL_FOLDERS)
    return [place for place in places if place.is_file()]


def _find_labels(data_root: Path, split: str, reporter: Reporter) -> Path | None:
    found = _label_candidates(data_root, split)
    if not found:
        files = " or ".join(LABEL_FILES[split])
        reporter.report(f"{NAME}/{split}", f"no label file in {data_root}, expected {files}")
        return None
    others = [path for path in found[1:] if not path.samefile(found[0])]
    if others:
        names = ", ".join(map(str, others))
        logger.warning("%s/%s: %s is read, and not %s", NAME, split, found[0], names)
    return found[0]


def _list_stills(
    data_root: Path, split: str, labels: Path, reporter: Reporter
) -> Iterator[SequenceSource]:
    index = _read_index(labels, reporter)
    folder = data_root / IMAGE_FOLDERS[split]
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    images = {path.name: path for path in files if path.suffix.lower() in _IMAGE_SUFFIXES}
    _report_names(images.keys() - index.images.keys(), f"images are not in {labels}", reporter)
    _report_names(index.images.keys() - images.keys(), f"images are not in {folder}", reporter)
    for name in sorted(images.keys() & index.images.keys()):
        image_id = index.images[name]
        yield SequenceSource(
            dataset=NAME,
            split=split,
            name=check_sequence_name(images[name].stem, str(images[name])),
            images=(str(images[name]),),
            labels=str(labels),
            is_still=True,
            options={
                "image_id": image_id,
                "label_places": tuple(index.places.get(image_id, ())),
                "categories": index.categories,
            },
        )


def _report_names(names: Iterable[str], what: str, reporter: Reporter) -> None:
    """One problem for all of them: a part of the images is a usual thing to have."""
    found = sorted(names)
    if found:
        first = ", ".join(found[:_MOST_NAMED])
        reporter.report(f"{NAME} stills", f"{len(found)} {what} ({first} ...): left out")


def _read_index(path: Path, reporter: Reporter) -> _Index:
    """Raises ValueError where the file as a whole is broken."""
    index = _Index()
    start = stop = None
    for offset, length, record in iterate_records(path, "annotations"):
        start, stop = offset if start is None else start, offset + length
        image_id = record.get("image_id") if isinstance(record, dict) else None
        if type(image_id) is int:
            index.places.setdefault(image_id, []).append((offset, length))
        else:
            what = f"the annotation at byte {offset} has the image_id {image_id!r}: left out"
            reporter.report(str(path), what)
    rest = read_json(path) if start is None or stop is None else _read_around(path, start, stop)
    images = rest.get("images") if isinstance(rest, dict) else None
    if not isinstance(images, list):
        raise ValueError(f"{path}: no list `images`, expected one beside `annotations`")
    for image in images:
        _add_image(index, image, path, reporter)
    for image_id in sorted(index.places.keys() - index.image_ids):
        num = len(index.places[image_id])
        what = f"{num} annotations of an image {image_id} that is not in `images`: left out"
        reporter.report(str(path), what)
    for category in rest.get("categories") or []:
        if isinstance(category, dict) and type(category.get("id")) is int:
            index.categories[category["id"]] = str(category.get("name"))
    return index


def _add_image(index: _Index, image: Any, path: Path, reporter: Reporter) -> None:
    name, image_id = (
        (image.get(key) for key in ("file_name", "id")) if isinstance(image, dict) else (None, None)
    )
    if not isinstance(name, str) or not name or type(image_id) is not int:
        what = f"an image has the file_name {name!r} and the id {image_id!r}: left out"
        reporter.report(str(path), what)
        return
    name = PurePosixPath(name).name
    if name in index.images or image_id in index.image_ids:
        what = f"image {name} or its id {image_id} is listed twice: left out the second time"
        reporter.report(str(path), what)
    else:
        index.images[name] = image_id
        index.image_ids.add(image_id)


def _read_around(path: Path, start: int, stop: int) -> Any:
    """The file without its annotations, of which the first and the last byte are known: it is
    small, wherever in the file the annotations are."""
    with path.open("rb") as stream:
        head = stream.read(start)
        stream.seek(stop)
        text = head + stream.read()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON around its annotations ({error}); the file may have been cut "
            "short: fetch it again"
        ) from error


def _read_size(image: Path) -> tuple[int, int]:
    with image.open("rb") as stream:
        return image_size(stream.read(_HEADER_BYTES))


def _object_of(
    record: Mapping[str, Any],
    annotation_id: str,
    categories: Mapping[int, str],
    size: tuple[int, int],
) -> VisibleObject:
    category_id = record.get("category_id")
    if type(category_id) is not int or category_id not in categories:
        known = ", ".join(f"{number} ({name})" for number, name in sorted(categories.items()))
        raise ValueError(f"unknown category_id {category_id!r}, expected one of {known}")
    names = [name for name in MASK_FIELDS if record.get(name) is not None]
    if not names:
        raise ValueError(f"no mask of what is seen, expected {' or '.join(MASK_FIELDS)}")
    try:
        mask = parse_mask(record[names[0]], size)
    except ValueError as error:
        raise ValueError(f"{names[0]}: {error}") from error
    return VisibleObject(
        annotation_id=annotation_id,
        category_id=category_id,
        category=categories[category_id],
        is_crowd=bool(record.get("iscrowd")),
        mask=mask,
    )


def _annotations_of(objects: Sequence[VisibleObject]) -> Annotations:
    """The last one is on top."""
    masks = remove_overlaps([found.mask for found in objects], np.arange(len(objects)) * 1.0)
    seen = [place for place, area in enumerate(mask_areas(masks)) if area]
    if not seen:
        return Annotations.empty()
    kept, masks = [objects[place] for place in seen], [masks[place] for place in seen]
    no = np.zeros(len(kept), bool)
    return Annotations(
        frame_index=np.zeros(len(kept), np.int32),
        identity=np.arange(len(kept), dtype=np.int64),
        identity_source=tuple(found.annotation_id for found in kept),
        category=tuple(found.category for found in kept),
        class_index=np.array(
            [_CLASS_OF.get(found.category_id, UNMAPPED_CLASS) for found in kept], np.int16
        ),
        boxes_xyxy=mask_boxes(masks),
        crowd=np.array([found.is_crowd for found in kept], bool),
        ignored=no,
        occluded=no,
        truncated=no,
        visibility=np.full(len(kept), np.nan, np.float32),
        masks=tuple(masks),
    )
