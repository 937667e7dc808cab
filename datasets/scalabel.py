"""Scalabel JSON, the label and result format of BDD100K: frames of labels into columns.

A file is a list of frames, or an object whose `frames` is that list. Boxes are inclusive in the
file (width = x2 - x1 + 1) and exclusive in every record: 1 is added to x2 and y2 here, once.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np

from datasets.reading import Reporter, check_sequence_name
from datasets.schema import Annotations, Bool, Float64, Tracks

_CORNERS: Final = itemgetter("x1", "y1", "x2", "y2")
_LARGEST_INT64: Final = 2**63 - 1
_NUMERIC_ID: Final = re.compile(r"[0-9]+")


class Category(NamedTuple):
    """What a category name of the file means."""

    class_index: int
    ignored: bool
    """The box is an ignore region in truth, and dropped from results."""


class LabelFrame(NamedTuple):
    """One frame of a sequence as the file has it, its labels not looked at yet."""

    frame_index: int
    """As written, from 0."""
    name: str
    labels: Sequence[Any]


def frames_of(content: Any, path: Path) -> list[dict[str, Any]]:
    """The list of frames of a parsed file.

    Raises:
        ValueError: neither a list of objects nor an object with such a list in `frames`.
    """
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list):
        raise ValueError(
            f"{path}: found {_kind(content)}, expected a list of frames or an object with `frames`"
        )
    for position, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise ValueError(
                f"{path}: entry {position} of the frames is {_kind(frame)}, expected an object"
            )
    return frames


def group_by_sequence(
    frames: Iterable[dict[str, Any]], path: Path
) -> dict[str, list[dict[str, Any]]]:
    """Frames of each sequence by `videoName`, or by the file's name where a frame has none.

    Raises:
        ValueError: a name that is no string or could step out of a folder.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for frame in frames:
        name = frame.get("videoName")
        if name is None:
            name = path.stem
        if not isinstance(name, str):
            raise ValueError(f"{path}: videoName is {name!r}, expected a string")
        group = groups.get(name)
        if group is None:
            group = groups[check_sequence_name(name, str(path))] = []
        group.append(frame)
    return groups


def order_frames(
    frames: Iterable[dict[str, Any]], where: str, reporter: Reporter, *, needs_names: bool
) -> list[LabelFrame]:
    """Frames by frame index; what is broken is reported and left out.

    The index is `frameIndex`, or `index` as in the first release; gaps stay.
    """
    found: dict[int, LabelFrame] = {}
    names: set[str] = set()
    for position, frame in enumerate(frames):
        try:
            one = _label_frame(frame, f"at position {position}", needs_names=needs_names)
            if one.frame_index in found:
                raise ValueError(f"frame index {one.frame_index} occurs twice")
            if needs_names and one.name in names:
                raise ValueError(f"frame {one.frame_index}: name {one.name!r} occurs twice")
        except ValueError as error:
            reporter.report(where, str(error))
            continue
        found[one.frame_index] = one
        names.add(one.name)
    return [found[index] for index in sorted(found)]


def check_gaps(frames: Sequence[LabelFrame], where: str) -> None:
    """Refuse frame indices other than 0, 1, 2 ...

    Raises:
        ValueError: names the first missing index.
    """
    for expected, frame in enumerate(frames):
        if frame.frame_index != expected:
            raise ValueError(
                f"{where}: no frame with index {expected}, the next is {frame.frame_index}; "
                "every frame of the sequence must be listed, also one without boxes"
            )


def _label_frame(frame: dict[str, Any], place: str, *, needs_names: bool) -> LabelFrame:
    index = frame.get("frameIndex")
    if index is None:
        index = frame.get("index")
    if type(index) is not int or not 0 <= index <= _LARGEST_INT64:
        raise ValueError(f"frame {place} has the frameIndex {index!r}, expected an integer from 0")
    name = frame.get("name")
    if needs_names and (not isinstance(name, str) or not name):
        raise ValueError(f"frame {index} has the name {name!r}, expected the name of its image")
    labels = frame.get("labels")
    if labels is None:
        labels = []
    if not isinstance(labels, list):
        raise ValueError(f"frame {index}: labels is {_kind(labels)}, expected a list or null")
    return LabelFrame(index, PurePosixPath(str(name)).name, labels)


@dataclass(kw_only=True)
class _Rows:
    """Columns under construction, one entry a box; corners are still unchecked and inclusive."""

    frame_index: list[int] = field(default_factory=list)
    source_id: list[str] = field(default_factory=list)
    category: list[str] = field(default_factory=list)
    class_index: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    occluded: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    corners: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)

    def append(self, index: int, label: Any, categories: Mapping[str, Category]) -> None:
        """Add one label.

        Raises:
            ValueError: says what is wrong with it; no column has grown then.
        """
        if not isinstance(label, dict):
            raise ValueError(f"a label is {_kind(label)}, expected an object")
        category = label.get("category")
        meaning = categories.get(category) if isinstance(category, str) else None
        if meaning is None:
            raise ValueError(
                f"unknown category {category!r}, expected one of {', '.join(categories)}"
            )
        source_id = _source_id(label)
        attributes = label.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise ValueError(f"attributes of {source_id!r} are {_kind(attributes)}, not an object")
        crowd, ignored, occluded, truncated = (
            _flag(attributes, name) for name in ("crowd", "ignored", "occluded", "truncated")
        )
        score = _score(label, source_id)
        try:
            corners = _CORNERS(label["box2d"])
        except (KeyError, TypeError):
            raise ValueError(
                f"label {source_id!r} has the box2d {label.get('box2d')!r}, expected an object "
                "with x1, y1, x2, y2"
            ) from None
        self.frame_index.append(index)
        self.source_id.append(source_id)
        self.category.append(str(category))
        self.class_index.append(meaning.class_index)
        self.ignored.append(ignored or meaning.ignored)
        self.crowd.append(crowd)
        self.occluded.append(occluded)
        self.truncated.append(truncated)
        self.score.append(score)
        self.corners.append(corners)


def annotations_of(
    frames: Sequence[LabelFrame],
    categories: Mapping[str, Category],
    where: str,
    reporter: Reporter,
    *,
    dropped_categories: frozenset[str] = frozenset(),
) -> Annotations:
    """Ground truth of one sequence; `frames[f]` is frame f, whatever index it was written with.

    Identities are renumbered from 0 in the order of their sorted source strings, so that they do
    not depend on the order of rows in the file.
    """
    rows = _read_rows(frames, categories, where, reporter, dropped_categories)
    boxes, good = _exclusive_boxes(rows, where, reporter)
    usable = {name for name, is_good in zip(rows.source_id, good, strict=True) if is_good}
    numbers = {name: i for i, name in enumerate(sorted(usable))}
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
    )
    return annotations if good.all() else annotations.select(good)


def tracks_of(
    frames: Sequence[LabelFrame], categories: Mapping[str, Category], where: str
) -> tuple[Tracks, int]:
    """Predictions of one sequence, and how many were dropped by the official rule.

    Dropped are predictions of an ignored category and those that carry a true `crowd` or
    `ignored` (BDD100K, preparation of results). A label without a score has the score 1.

    Raises:
        ValueError: anything broken, with file, sequence and frame.
    """
    reporter = Reporter(strict=True)
    rows = _read_rows(frames, categories, where, reporter, frozenset())
    boxes, _ = _exclusive_boxes(rows, where, reporter)
    ids = [
        _track_id(name, f"{where}, frame {frame}")
        for frame, name in zip(rows.frame_index, rows.source_id, strict=True)
    ]
    frame_index = np.array(rows.frame_index, np.int32)
    track_id = np.array(ids, np.int64)
    _check_unique(frame_index, track_id, where)
    kept = ~(np.array(rows.crowd, bool) | np.array(rows.ignored, bool))
    tracks = Tracks(
        frame_index=frame_index[kept],
        track_id=track_id[kept],
        detection_row=np.full(int(kept.sum()), -1, np.int32),
        boxes_xyxy=boxes[kept],
        scores=np.array(rows.score, np.float32)[kept],
        class_index=np.array(rows.class_index, np.int16)[kept],
    )
    return tracks, len(kept) - len(tracks)


def _read_rows(
    frames: Sequence[LabelFrame],
    categories: Mapping[str, Category],
    where: str,
    reporter: Reporter,
    dropped_categories: frozenset[str],
) -> _Rows:
    rows = _Rows()
    for index, frame in enumerate(frames):
        first = len(rows.source_id)
        for label in frame.labels:
            if dropped_categories and _is_dropped(label, dropped_categories):
                continue
            try:
                rows.append(index, label, categories)
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


def _exclusive_boxes(rows: _Rows, where: str, reporter: Reporter) -> tuple[Float64, Bool]:
    """(N, 4) boxes with exclusive edges, and which of them are boxes at all."""
    corners = rows.corners
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


def _kind(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
