"""Scalabel JSON, the label and result format of BDD100K: labels of frames into columns.

Boxes are inclusive in the file (width = x2 - x1 + 1) and exclusive in every record: 1 is added to
x2 and y2 here, once. Masks are COCO run-length codes (`rle`); where they are read, boxes are those
around the masks.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np

from datasets.masks import Rle, find_fault, mask_areas, mask_boxes
from datasets.reading import Reporter
from datasets.scalabel_frames import LabelFrame, kind_of
from datasets.schema import Annotations, Bool, Float64, Tracks

_CORNERS: Final = itemgetter("x1", "y1", "x2", "y2")
_LARGEST_INT64: Final = 2**63 - 1
_NUMERIC_ID: Final = re.compile(r"[0-9]+")


class Category(NamedTuple):
    """What a category name of the file means."""

    class_index: int
    ignored: bool
    """The box is an ignore region in truth, and dropped from results."""


@dataclass(kw_only=True)
class _Rows:
    """Columns under construction, one entry a label."""

    frame_index: list[int] = field(default_factory=list)
    source_id: list[str] = field(default_factory=list)
    category: list[str] = field(default_factory=list)
    class_index: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    occluded: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    shape: list[Any] = field(default_factory=list)
    """Corners, still unchecked and inclusive, or masks."""

    def append(
        self,
        index: int,
        label: Any,
        categories: Mapping[str, Category],
        read_shape: Callable[[Mapping[str, Any], str], Any],
    ) -> None:
        """Add one label.

        Raises:
            ValueError: says what is wrong with it; no column has grown then.
        """
        if not isinstance(label, dict):
            raise ValueError(f"a label is {kind_of(label)}, expected an object")
        category = label.get("category")
        meaning = categories.get(category) if isinstance(category, str) else None
        if meaning is None:
            raise ValueError(
                f"unknown category {category!r}, expected one of {', '.join(categories)}"
            )
        source_id = _source_id(label)
        attributes = label.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise ValueError(
                f"attributes of {source_id!r} are {kind_of(attributes)}, not an object"
            )
        crowd, ignored, occluded, truncated = (
            _flag(attributes, name) for name in ("crowd", "ignored", "occluded", "truncated")
        )
        score = _score(label, source_id)
        shape = read_shape(label, source_id)
        self.frame_index.append(index)
        self.source_id.append(source_id)
        self.category.append(str(category))
        self.class_index.append(meaning.class_index)
        self.ignored.append(ignored or meaning.ignored)
        self.crowd.append(crowd)
        self.occluded.append(occluded)
        self.truncated.append(truncated)
        self.score.append(score)
        self.shape.append(shape)


def annotations_of(
    frames: Sequence[LabelFrame],
    categories: Mapping[str, Category],
    where: str,
    reporter: Reporter,
    *,
    dropped_categories: frozenset[str] = frozenset(),
    has_masks: bool = False,
) -> Annotations:
    """Ground truth of one sequence; `frames[f]` is frame f, whatever index it was written with.

    Identities are numbered as `number_identities` does, so that they do not depend on the order of
    rows in the file.
    """
    rows = _read_rows(frames, categories, where, reporter, dropped_categories, has_masks)
    boxes, good = _boxes_of(rows, where, reporter, has_masks)
    usable = (name for name, is_good in zip(rows.source_id, good, strict=True) if is_good)
    numbers = number_identities(usable)
    annotations = Annotations(
        frame_index=np.array(rows.frame_index, np.int32),
        identity=np.array([numbers.get(name, -1) for name in rows.source_id], np.int64),
        identity_source=tuple(rows.source_id),
        category=tuple(rows.category),
        class_index=np.array(rows.class_index, np.int16),
        boxes_xyxy=boxes,
        crowd=np.array(rows.crowd, bool),
        ignored=np.array(rows.ignored, bool),
        occluded=np.array(rows.occluded, bool),
        truncated=np.array(rows.truncated, bool),
        visibility=np.full(len(boxes), np.nan, np.float32),
        masks=tuple(rows.shape) if has_masks else None,
    )
    return annotations if good.all() else annotations.select(good)


def number_identities(names: Iterable[str]) -> dict[str, int]:
    """Numbers from 0 for the ids of a sequence, in the order of the sorted ids.

    >>> number_identities(["b", "00012", "b"])
    {'00012': 0, 'b': 1}
    """
    return {name: number for number, name in enumerate(sorted(set(names)))}


def tracks_of(
    frames: Sequence[LabelFrame],
    categories: Mapping[str, Category],
    where: str,
    *,
    has_masks: bool = False,
) -> tuple[Tracks, int]:
    """Predictions of one sequence, and how many were dropped by the official rule.

    Dropped are predictions of an ignored category and those that carry a true `crowd` or
    `ignored` (BDD100K, preparation of results). A label without a score has the score 1.

    Raises:
        ValueError: anything broken, with file, sequence and frame.
    """
    reporter = Reporter(strict=True)
    rows = _read_rows(frames, categories, where, reporter, frozenset(), has_masks)
    boxes, _ = _boxes_of(rows, where, reporter, has_masks)
    ids = [
        _track_id(name, f"{where}, frame {frame}")
        for frame, name in zip(rows.frame_index, rows.source_id, strict=True)
    ]
    tracks = Tracks(
        frame_index=np.array(rows.frame_index, np.int32),
        track_id=np.array(ids, np.int64),
        detection_row=np.full(len(ids), -1, np.int32),
        boxes_xyxy=boxes,
        scores=np.array(rows.score, np.float32),
        class_index=np.array(rows.class_index, np.int16),
        masks=tuple(rows.shape) if has_masks else None,
    )
    _check_unique(tracks.frame_index, tracks.track_id, where)
    kept = ~(np.array(rows.crowd, bool) | np.array(rows.ignored, bool))
    return tracks.select(kept), len(kept) - int(kept.sum())


def _read_rows(
    frames: Sequence[LabelFrame],
    categories: Mapping[str, Category],
    where: str,
    reporter: Reporter,
    dropped_categories: frozenset[str],
    has_masks: bool,
) -> _Rows:
    rows = _Rows()
    read_shape = _mask_of if has_masks else _corners_of
    for index, frame in enumerate(frames):
        first = len(rows.source_id)
        for label in frame.labels:
            if dropped_categories and _is_dropped(label, dropped_categories):
                continue
            try:
                rows.append(index, label, categories, read_shape)
            except ValueError as error:
                reporter.report(f"{where}, frame {index}", str(error))
        names = rows.source_id[first:]
        if len(set(names)) != len(names):
            _drop_duplicates(rows, first, f"{where}, frame {index}", reporter)
    return rows


def _is_dropped(label: Any, dropped_categories: frozenset[str]) -> bool:
    return isinstance(label, dict) and label.get("category") in dropped_categories


def _drop_duplicates(rows: _Rows, first: int, where: str, reporter: Reporter) -> None:
    """Keep the first label of every id among the rows from `first` on."""
    seen: set[str] = set()
    kept: list[int] = []
    for row in range(first, len(rows.source_id)):
        name = rows.source_id[row]
        if name in seen:
            reporter.report(where, f"id {name!r} occurs twice, expected one label of an object")
        else:
            kept.append(row)
        seen.add(name)
    for column in vars(rows).values():
        column[first:] = [column[row] for row in kept]


def _corners_of(label: Mapping[str, Any], source_id: str) -> tuple[Any, Any, Any, Any]:
    try:
        corners: tuple[Any, Any, Any, Any] = _CORNERS(label["box2d"])
    except (KeyError, TypeError):
        raise ValueError(
            f"label {source_id!r} has the box2d {label.get('box2d')!r}, expected an object with "
            "x1, y1, x2, y2"
        ) from None
    return corners


def _mask_of(label: Mapping[str, Any], source_id: str) -> Rle:
    rle = label.get("rle")
    code: Rle | None = None
    if isinstance(rle, dict) and isinstance(rle.get("counts"), str):
        size = rle.get("size")
        if isinstance(size, list) and [type(side) for side in size] == [int, int]:
            code = {"size": size, "counts": rle["counts"].encode()}
    if code is None:
        raise ValueError(
            f"label {source_id!r} has the rle {str(rle)[:80]}, expected an object with size "
            "(height, width) and counts, COCO's compressed code"
        )
    fault = find_fault(code)
    if fault is not None:
        raise ValueError(f"label {source_id!r}: {fault}")
    return code


def _boxes_of(rows: _Rows, where: str, reporter: Reporter, has_masks: bool) -> tuple[Float64, Bool]:
    """(N, 4) boxes with exclusive edges, and which rows are good."""
    if not has_masks:
        return _exclusive_boxes(rows, where, reporter)
    good = np.ones(len(rows.shape), bool)
    for row, area in enumerate(mask_areas(rows.shape).tolist()):
        size, expected = rows.shape[row]["size"], rows.shape[0]["size"]
        what = f"the mask of label {rows.source_id[row]!r} "
        if size != expected:
            what += f"is of an image of {size} pixels (height, width), that of the first label of "
            reporter.report(f"{where}, frame {rows.frame_index[row]}", what + str(expected))
        elif area == 0:
            what += "has no pixel; leave out an object that is not seen"
            reporter.report(f"{where}, frame {rows.frame_index[row]}", what)
        good[row] = size == expected and area > 0
    return mask_boxes(rows.shape), good


def _exclusive_boxes(rows: _Rows, where: str, reporter: Reporter) -> tuple[Float64, Bool]:
    """(N, 4) boxes with exclusive edges, and which of them are boxes at all."""
    corners = rows.shape
    try:
        if not set(map(type, chain.from_iterable(corners))) <= {int, float}:
            raise OverflowError
        boxes = np.array(corners, np.float64).reshape(-1, 4)
    except OverflowError:  # an integer beyond float64, or something that is no number
        plain = [[_as_float(value) for value in box] for box in corners]
        boxes = np.array(plain, np.float64).reshape(-1, 4)
    boxes[:, 2:] += 1.0
    good = np.all(np.isfinite(boxes), axis=1) & np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    for row in np.flatnonzero(~good):
        reporter.report(
            f"{where}, frame {rows.frame_index[row]}",
            f"label {rows.source_id[row]!r} has the corners x1 y1 x2 y2 = {corners[row]}, expected "
            "finite numbers with x2 > x1 - 1 and y2 > y1 - 1",
        )
    return boxes, good


def _as_float(value: Any) -> float:
    try:
        return float(value) if type(value) in (int, float) else float("nan")
    except OverflowError:
        return float("nan")


def _source_id(label: Mapping[str, Any]) -> str:
    found = label.get("id")
    if isinstance(found, str) and found:
        return found
    if type(found) is int:
        return str(found)
    raise ValueError(f"a label has the id {found!r}, expected a string")


def _flag(attributes: Mapping[str, Any], name: str) -> bool:
    value = attributes.get(name)
    if value is None:  # the first release writes Crowd, Occluded and Truncated
        value = attributes.get(name.capitalize())
    if value is None:
        return False
    if type(value) is not bool:
        raise ValueError(f"attribute {name} is {value!r}, expected true or false")
    return value


def _score(label: Mapping[str, Any], source_id: str) -> float:
    score = label.get("score")
    if score is None:
        return 1.0
    value = _as_float(score)
    if not np.isfinite(value):
        raise ValueError(f"label {source_id!r} has the score {score!r}, expected a finite number")
    return value


def _track_id(name: str, where: str) -> int:
    if _NUMERIC_ID.fullmatch(name) and len(name) < 20 and int(name) <= _LARGEST_INT64:
        return int(name)
    raise ValueError(
        f"{where}: a prediction has the id {name!r}, expected digits only (at most {2**63 - 1})"
    )


def _check_unique(frame_index: Any, track_id: Any, where: str) -> None:
    """The same number may be written in two ways ("7" and "07"), so strings are not enough."""
    order = np.lexsort((track_id, frame_index))
    frames, ids = frame_index[order], track_id[order]
    twice = np.flatnonzero((frames[1:] == frames[:-1]) & (ids[1:] == ids[:-1]))
    if len(twice):
        row = twice[0]
        raise ValueError(f"{where}, frame {frames[row]}: track id {ids[row]} occurs twice")
