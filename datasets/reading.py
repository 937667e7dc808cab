"""What all readers share: broken input is told of in one way, and files are named in errors."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from datasets.schema import Problem

LAST_FRAME: Final = 999_999
"""Largest number of a frame: file names have six digits."""

_LONGEST_NAME: Final = 200


class ExpectedFile(NamedTuple):
    """One file or folder that a data set consists of, for the doctor."""

    path: str
    """Relative to the data set's root."""
    what: str
    """What it holds, and where it comes from."""
    required: bool
    exists: bool
    """A folder without anything in it does not exist."""


class Reporter:
    """Takes what a reader finds broken: scoring raises at once, ingest collects and goes on."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self.problems: list[Problem] = []

    def report(self, where: str, what: str) -> None:
        """Record one problem; `where` names file, sequence and frame as far as they are known.

        Raises:
            ValueError: under `strict`.
        """
        if self._strict:
            raise ValueError(f"{where}: {what}")
        self.problems.append(Problem(where=where, what=what))


def read_text(path: Path) -> str:
    """The whole of a small text file.

    Raises:
        ValueError: the file does not exist, is a folder, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ValueError(f"{path}: {error.strerror}, expected a file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error})") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; NaN and Infinity are let through, the reader names their place.

    Raises:
        ValueError: the file is absent, empty, cut short or not JSON.
    """
    text = read_text(path)
    if not text.strip():
        raise ValueError(
            f"{path}: the file is empty ({len(text)} characters), expected JSON; a result without "
            "any box is written as []"
        )
    try:
        return json.loads(text)
    # ValueError covers syntax and integers of thousands of digits, the other one deep nesting.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); the file has {len(text)} characters and may have "
            "been cut short: fetch or write it again"
        ) from error


def json_files(path: Path) -> Iterator[tuple[Path, Any]]:
    """Name and content of one JSON file, or of every `*.json` in a folder by name.

    Raises:
        ValueError: there is no such file, or no JSON file in the folder.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: no *.json in this folder, expected one file per sequence")
    for file in files:
        yield file, read_json(file)


def check_sequence_name(name: str, where: str) -> str:
    """The name itself, if it may be used as the name of a sequence.

    Raises:
        ValueError: it is empty, too long, not printable, or could step out of a folder.
    """
    is_safe = name.isprintable() and not set(name) & set("/\\") and not name.startswith(".")
    if not 0 < len(name) <= _LONGEST_NAME or not is_safe:
        raise ValueError(
            f"{where}: {name[:80]!r} cannot be the name of a sequence, expected 1 to "
            f"{_LONGEST_NAME} printable characters without slashes and without a leading dot"
        )
    return name


def numbered_files(
    folder: Path,
    suffixes: Collection[str],
    reporter: Reporter,
    *,
    first_frame: int = 0,
) -> dict[int, Path]:
    """Frame index -> file, of a folder whose files are named by frame number, in that order.

    Hidden files and other suffixes do not count. A name that is no number, or a number twice, is
    reported and left out; gaps stay.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        is_number = path.stem.isdecimal() and path.stem.isascii()
        number = int(path.stem) if is_number and len(path.stem) < 10 else -1
        index = number - first_frame
        if index < 0 or number > LAST_FRAME:
            what = f"not named by a frame number from {first_frame} to {LAST_FRAME}: left out"
            reporter.report(str(path), what)
        elif index in found:
            reporter.report(
                str(path), f"frame {number} is in {found[index].name} as well: left out"
            )
        else:
            found[index] = path
    return dict(sorted(found.items()))


def exists(path: Path) -> bool:
    """Whether there is such a file, or such a folder with something in it."""
    return any(path.iterdir()) if path.is_dir() else path.exists()
