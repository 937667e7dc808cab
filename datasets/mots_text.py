"""The text format of KITTI MOTS: one object a line.

A line is ``frame id class height width rle``, separated by single blanks, newline at the end. An
empty file is a whole sequence without an object.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from datasets.kitti_mots import CLASS_IDS, VALUES_PER_CLASS
from datasets.masks import Rle, inspect_masks
from datasets.mots_rows import MotsRow, RowRules, keep_good_rows
from datasets.reading import LAST_FRAME, Reporter, read_text
from datasets.schema import Annotations, Problem, Tracks, masks_of

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_FIELDS: Final = ("frame", "id", "class", "height", "width")
_LINE: Final = re.compile(rf"({_INTEGER.pattern}) " * len(_FIELDS) + "([^ ]*)")


def read_rows(path: Path, rules: RowRules, reporter: Reporter) -> list[MotsRow]:
    """Objects of a text file by frame; what is broken is reported with its line and left out.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    rows: dict[int, MotsRow] = {}
    problems: dict[int, Problem] = {}
    name = str(path)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where = f"{name}, line {number}"
        match = _LINE.fullmatch(line)
        if match is None:
            if line.strip():
                problems[number] = Problem(where=where, what=_explain_line(line))
            continue
        *integers, counts = match.groups()
        frame, value, class_id, height, width = map(int, integers)
        where = f"{where}, frame {frame}"
        try:
            _check_numbers(frame, value, class_id, rules)
        except ValueError as error:
            problems[number] = Problem(where=where, what=str(error))
            continue
        mask: Rle = {"size": [height, width], "counts": counts.encode("utf-8")}
        rows[number] = MotsRow(frame - rules.first_frame, value, class_id, mask, where)
    # All codes at once: one by one they would take most of the time.
    found = inspect_masks([row.mask for row in rows.values()])
    numbers = list(rows)
    for place, fault in found.faults.items():
        row = rows.pop(numbers[place])
        problems[numbers[place]] = Problem(where=row.place, what=f"id {row.value}: {fault}")
    for _, problem in sorted(problems.items()):
        reporter.report(problem.where, problem.what)
    areas = np.delete(found.areas, list(found.faults))
    return keep_good_rows(list(rows.values()), reporter, areas)


def mots_lines(
    frame_index: Iterable[int],
    ids: Iterable[int],
    class_ids: Iterable[int],
    masks: Iterable[Rle],
    *,
    first_frame: int = 0,
) -> Iterator[str]:
    """Lines of a text file with their newlines, in the order given.

    Args:
        frame_index: (N,) from 0.
        ids: (N,) track ids, or class * 1000 + instance in truth.
        class_ids: (N,) numbers of classes as in the files: 1 car, 2 pedestrian, 10 ignore.
        masks: (N,) disjoint within a frame.
        first_frame: Number of frame 0 in the file.

    >>> list(mots_lines([0], [1005], [1], [{"size": [2, 2], "counts": b"22"}]))
    ['0 1005 1 2 2 22\\n']
    """
    for frame, identity, class_id, mask in zip(frame_index, ids, class_ids, masks, strict=True):
        height, width = mask["size"]
        counts = mask["counts"].decode("ascii")
        yield f"{frame + first_frame} {identity} {class_id} {height} {width} {counts}\n"


def track_lines(tracks: Tracks, classes: Sequence[str], *, first_frame: int = 0) -> Iterator[str]:
    """Lines of a result file, in the order of the tracks.

    Raises:
        ValueError: tracks without masks.
    """
    numbers = [CLASS_IDS[name] for name in classes]
    return mots_lines(
        tracks.frame_index.tolist(),
        tracks.track_id.tolist(),
        [numbers[index] for index in tracks.class_index.tolist()],
        masks_of(tracks, "tracks to be written as KITTI MOTS"),
        first_frame=first_frame,
    )


def annotation_lines(annotations: Annotations, *, first_frame: int = 0) -> Iterator[str]:
    """Lines of a truth file; identities are class * 1000 + instance, as the readers give them.

    Raises:
        ValueError: annotations without masks.
    """
    values = annotations.identity.tolist()
    return mots_lines(
        annotations.frame_index.tolist(),
        values,
        [value // VALUES_PER_CLASS for value in values],
        masks_of(annotations, "annotations to be written as KITTI MOTS"),
        first_frame=first_frame,
    )


def _explain_line(line: str) -> str:
    """Why a line is none of this format."""
    fields = line.split(" ")
    if len(fields) != len(_FIELDS) + 1:
        return f"{len(fields)} fields separated by single blanks, expected {' '.join(_FIELDS)} rle"
    name, field = next(
        (name, field)
        for name, field in zip(_FIELDS, fields, strict=False)
        if not _INTEGER.fullmatch(field)
    )
    return f"frame {fields[0][:20]}: {name} is {field[:40]!r}, expected an integer"


def _check_numbers(frame: int, value: int, class_id: int, rules: RowRules) -> None:
    if not rules.first_frame <= frame <= LAST_FRAME:
        raise ValueError(
            f"frame {frame} of id {value}, expected {rules.first_frame} to {LAST_FRAME}"
        )
    rules.check(value, class_id)
