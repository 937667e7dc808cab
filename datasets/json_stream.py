"""One JSON list read record by record: labels of 70,000 images in one file, in bounded memory.

The file is looked at as Latin-1, where one character is one byte, so that a position found in the
text is a position in the file. JSON's own signs are ASCII; strings of a record are decoded again.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

_CHUNK_BYTES: Final = 1 << 20
_LARGEST_RECORD_BYTES: Final = 1 << 26
_SPACE: Final = " \t\r\n"
_BEHIND_VALUE: Final = frozenset(",:]}" + _SPACE)
_DECODER: Final = json.JSONDecoder()


def iterate_records(path: Path, key: str) -> Iterator[tuple[int, int, Any]]:
    """Records of a top-level list, or of the list under `key` of a top-level object, in order.

    Yields:
        Byte offset, byte length and content of each record.

    Raises:
        ValueError: the file is empty, cut short, not JSON or without such a list; names the byte.
    """
    with path.open("rb") as file:
        window = _Window(file, path)
        if window.peek() == "{":
            _enter_list(window, key)
        elif window.peek() != "[":
            raise window.error(f"expected a list of records or an object with {key!r}")
        window.take("[")
        if window.peek() == "]":
            return
        while True:
            window.peek()
            offset = window.offset
            record = window.value()
            yield offset, window.offset - offset, record
            if window.take(",]") == "]":
                return


def read_record(path: Path, offset: int, length: int) -> Any:
    """One record at the place that `iterate_records` found it.

    Raises:
        ValueError: there is no JSON value of this length; the file was changed since.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: no record in the {length} bytes from byte {offset} ({error}); the file "
            "changed since it was listed: run again"
        ) from error


class _Window:
    """A stretch of the file that moves forward and grows only while one value needs it."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._text = ""
        self._at = 0
        self._start = 0
        """Byte of the file at which the text begins."""

    @property
    def offset(self) -> int:
        return self._start + self._at

    def error(self, what: str) -> ValueError:
        return ValueError(
            f"{self._path}, byte {self.offset}: {what}; the file may have been cut short: fetch or "
            "write it again"
        )

    def peek(self) -> str:
        """The next character that is no space, "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._grow():
                return ""

    def take(self, expected: str) -> str:
        """Step over the next character, which must be one of those expected."""
        found = self.peek()
        if not found or found not in expected:
            raise self.error(
                f"found {found or 'the end of the file'!r}, expected one of {expected}"
            )
        self._at += 1
        return found

    def value(self) -> Any:
        """Parse and step over one JSON value."""
        self.peek()
        value, end, is_rest = None, 0, False
        while True:
            problem = ""
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                problem = str(error)
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from error
            if is_rest or (not problem and self._text[end : end + 1] in _BEHIND_VALUE):
                break
            # Cut by the window's end, as far as one can tell: "1." may go on as 1.5.
            is_rest = not self._grow()
        if problem:
            raise self.error(f"not valid JSON ({problem})")
        text, self._at = self._text[self._at : end], end
        return value if text.isascii() else json.loads(text.encode("latin-1"))

    def _grow(self) -> bool:
        """Forget what was stepped over and append more; False at the end of the file."""
        kept = self._text[self._at :]
        if len(kept) > _LARGEST_RECORD_BYTES:
            raise self.error(f"not valid JSON, or a record of more than {len(kept)} bytes")
        # Twice as much every time, so that a long record is not parsed from its start too often.
        data = self._file.read(max(_CHUNK_BYTES, len(kept)))
        self._text = kept + data.decode("latin-1")
        self._start += self._at
        self._at = 0
        return bool(data)


def _enter_list(window: _Window, key: str) -> None:
    """Step into a top-level object up to the value of `key`."""
    window.take("{")
    while True:
        if window.peek() != '"':
            raise window.error(f"no list {key!r} in the top-level object")
        found = window.value()
        window.take(":")
        if found == key:
            return
        window.value()
        if window.take(",}") == "}":
            raise window.error(f"no list {key!r} in the top-level object")
