"""Objects of the KITTI MOTS formats, text and PNG alike: checks, and the way into records."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np

from datasets.kitti_mots import (
    CLASS_IDS,
    IGNORE_CATEGORY,
    IGNORE_CLASS_ID,
    IGNORE_VALUE,
    VALUES_PER_CLASS,
)
from datasets.masks import (
    Rle,
    are_disjoint,
    find_overlap,
    mask_areas,
    mask_boxes,
    merge_masks,
    touching_boxes,
)
from datasets.reading import Reporter
from datasets.schema import UNMAPPED_CLASS, Annotations, Int64, Tracks

_CATEGORIES: Final = {
    **{number: name for name, number in CLASS_IDS.items()},
    IGNORE_CLASS_ID: IGNORE_CATEGORY,
}


class MotsRow(NamedTuple):
    """One object in one frame."""

    frame_index: int
    """From 0, whatever the file counts from."""
    value: int
    """The id as written."""
    class_id: int
    mask: Rle
    place: str
    """File, line and frame, for messages."""


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """What may stand in a file."""

    class_ids: frozenset[int]
    is_truth: bool
    """The id says the class: id // 1000."""
    first_frame: int = 0
    """Number of the first frame in the files."""

    def check(self, value: int, class_id: int) -> None:
        """Refuse an id or a class that the benchmark does not know.

        Raises:
            ValueError: says what was found; the caller adds the place.
        """
        if class_id not in self.class_ids:
            known = ", ".join(f"{i} ({_CATEGORIES[i]})" for i in sorted(self.class_ids))
            raise ValueError(f"id {value} has the unknown class {class_id}, expected {known}")
        if value < 1:
            raise ValueError(f"id {value}, expected 1 or more")
        if self.is_truth and value // VALUES_PER_CLASS != class_id:
            raise ValueError(
                f"id {value} does not belong to class {class_id}, expected an id from "
                f"{class_id * VALUES_PER_CLASS} to {(class_id + 1) * VALUES_PER_CLASS - 1}"
            )


def truth_rules(first_frame: int = 0) -> RowRules:
    """Rules of truth: both classes and the ignore region, whatever the benchmark evaluates."""
    return RowRules(class_ids=frozenset(_CATEGORIES), is_truth=True, first_frame=first_frame)


def result_rules(classes: Sequence[str], first_frame: int = 0) -> RowRules:
    """Rules of results: evaluated classes only, any id from 1."""
    numbers = frozenset(CLASS_IDS[name] for name in classes)
    return RowRules(class_ids=numbers, is_truth=False, first_frame=first_frame)


def keep_good_rows(
    rows: Sequence[MotsRow], reporter: Reporter, areas: Int64 | None = None
) -> list[MotsRow]:
    """Rows by frame, in their order within a frame; what is broken is reported and left out.

    Broken are: another image size than that of the first row, a mask without a pixel (there is
    nothing to see and no box around it), an id that occurs twice in a frame, and masks that
    overlap.

    Args:
        rows: N of one sequence.
        reporter: is told of what is broken.
        areas: (N,) pixels of each mask, where they are known.
    """
    if areas is None:
        areas = mask_areas([row.mask for row in rows])
    good: list[tuple[MotsRow, int]] = []
    for row, area in zip(rows, areas.tolist(), strict=True):
        size, expected = row.mask["size"], rows[0].mask["size"]
        if size != expected:
            what = f"id {row.value} has a mask of {_size(size)} pixels, expected "
            reporter.report(row.place, what + f"{_size(expected)} as in the first row")
        elif area == 0:
            what = f"the mask of id {row.value} has no pixel; leave out an object that is not seen"
            reporter.report(row.place, what)
        else:
            good.append((row, area))
    good.sort(key=lambda pair: pair[0].frame_index)
    crowded = _crowded_frames([row for row, _ in good])
    kept: list[MotsRow] = []
    for index, frame in groupby(good, key=lambda pair: pair[0].frame_index):
        unique = list(_unique(frame, reporter))
        kept += _disjoint(unique, reporter) if index in crowded else (row for row, _ in unique)
    return kept


def annotations_of(rows: Sequence[MotsRow], classes: Sequence[str]) -> Annotations:
    """Good rows of truth as a record, by frame and ascending value.

    All ignore regions of a frame are one row. Objects of a class that is not evaluated keep their
    category and have `class_index` -1.
    """
    rows = sorted(_merge_ignored(rows), key=lambda row: (row.frame_index, row.value))
    indices = {CLASS_IDS[name]: index for index, name in enumerate(classes)}
    class_index = [indices.get(row.class_id, UNMAPPED_CLASS) for row in rows]
    is_false = np.zeros(len(rows), bool)
    return Annotations(
        frame_index=np.array([row.frame_index for row in rows], np.int32),
        identity=np.array([row.value for row in rows], np.int64),
        identity_source=tuple(str(row.value) for row in rows),
        category=tuple(_CATEGORIES[row.class_id] for row in rows),
        class_index=np.array(class_index, np.int16),
        boxes_xyxy=mask_boxes([row.mask for row in rows]),
        crowd=is_false,
        ignored=np.array([row.class_id == IGNORE_CLASS_ID for row in rows], bool),
        occluded=is_false.copy(),
        truncated=is_false.copy(),
        visibility=np.full(len(rows), np.nan, np.float32),
        masks=tuple(row.mask for row in rows),
    )


def tracks_of(rows: Sequence[MotsRow], classes: Sequence[str]) -> Tracks:
    """Good rows of results as a record, in their order."""
    indices = {CLASS_IDS[name]: index for index, name in enumerate(classes)}
    return Tracks(
        frame_index=np.array([row.frame_index for row in rows], np.int32),
        track_id=np.array([row.value for row in rows], np.int64),
        detection_row=np.full(len(rows), -1, np.int32),
        boxes_xyxy=mask_boxes([row.mask for row in rows]),
        scores=np.ones(len(rows), np.float32),
        class_index=np.array([indices[row.class_id] for row in rows], np.int16),
        masks=tuple(row.mask for row in rows),
    )


def _unique(
    frame: Iterable[tuple[MotsRow, int]], reporter: Reporter
) -> Iterator[tuple[MotsRow, int]]:
    seen: set[int] = set()
    for row, area in frame:
        if row.value in seen:
            what = f"id {row.value} occurs twice in this frame, expected one mask of an object"
            reporter.report(row.place, what)
        else:
            seen.add(row.value)
            yield row, area


def _crowded_frames(rows: Sequence[MotsRow]) -> set[int]:
    """Frames in which boxes overlap; masks of the others cannot."""
    frame_index = np.array([row.frame_index for row in rows], np.int64)
    touches = touching_boxes(frame_index, mask_boxes([row.mask for row in rows]))
    return set(frame_index[touches].tolist())


def _disjoint(pairs: Sequence[tuple[MotsRow, int]], reporter: Reporter) -> list[MotsRow]:
    """Rows of one frame without those that overlap an earlier one."""
    rows = [row for row, _ in pairs]
    # The usual frame is settled by areas that are known already.
    if are_disjoint([row.mask for row in rows], np.array([area for _, area in pairs], np.int64)):
        return rows
    while (places := find_overlap([row.mask for row in rows])) is not None:
        first, second = places
        what = f"ids {rows[first].value} and {rows[second].value} overlap; a pixel has one owner"
        reporter.report(rows[second].place, what)
        del rows[second]
    return rows


def _merge_ignored(rows: Sequence[MotsRow]) -> Iterator[MotsRow]:
    """Rows of objects, and one row for all ignore regions of a frame."""
    pieces: dict[int, list[MotsRow]] = {}
    for row in rows:
        if row.class_id == IGNORE_CLASS_ID:
            pieces.setdefault(row.frame_index, []).append(row)
        else:
            yield row
    for same_frame in pieces.values():
        masks = [row.mask for row in same_frame]
        whole = masks[0] if len(masks) == 1 else merge_masks(masks)
        yield same_frame[0]._replace(value=IGNORE_VALUE, mask=whole)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
