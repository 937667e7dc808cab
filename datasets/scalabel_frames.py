"""Scalabel files: which frames a file lists, of which sequences; labels are not looked at.

A file is a list of frames, or an object whose `frames` is that list.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from datasets.reading import Reporter, check_sequence_name

_LARGEST_INT64: Final = 2**63 - 1


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
            f"{path}: found {kind_of(content)}, expected a list of frames or an object with "
            "`frames`"
        )
    for position, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise ValueError(
                f"{path}: entry {position} of the frames is {kind_of(frame)}, expected an object"
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


def kind_of(value: Any) -> str:
    """What a JSON value is, for messages."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


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
        raise ValueError(f"frame {index}: labels is {kind_of(labels)}, expected a list or null")
    return LabelFrame(index, PurePosixPath(str(name)).name, labels)
