"""Single files in the store: written whole or, on a local root, not at all; counted and hashed."""

import errno
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pyarrow.fs as pafs

from pipeline.locations import open_filesystem

logger = logging.getLogger(__name__)

_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One finished file of a part, as its manifest lists it."""

    name: str
    size: int
    sha256: str
    num_rows: int


class HashingStream:
    """A writable stream that counts and hashes what passes through it."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._digest = hashlib.sha256()
        self._size = 0
        self.num_rows = 0
        """Set by whoever writes a table; goes into the manifest."""
        self.closed = False

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self._size += memoryview(data).nbytes
        self._sink.write(data)
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        self._sink.flush()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """Arrow's writers close what they are given; the owner closes the file itself."""

    def record(self, file_name: str) -> FileRecord:
        return FileRecord(
            name=file_name,
            size=self._size,
            sha256=self._digest.hexdigest(),
            num_rows=self.num_rows,
        )


@contextmanager
def write_file(location: str) -> Iterator[HashingStream]:
    """Write one file that appears whole or, on a local root, not at all."""
    filesystem, path = open_filesystem(location)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with filesystem.open_output_stream(path) as sink:
            yield HashingStream(sink)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as sink:
            yield HashingStream(sink)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            error.filename = path  # a write fails without saying where
        raise


def read_json(location: str) -> dict[str, Any] | None:
    """Content of a manifest; None where there is none, or (with a warning) no JSON in it."""
    filesystem, path = open_filesystem(location)
    try:
        with filesystem.open_input_stream(path) as stream:
            text = stream.read()
    except FileNotFoundError:
        return None
    try:
        return cast("dict[str, Any]", json.loads(text))
    except ValueError:
        logger.warning("%s: not valid JSON; treated as absent, the part will be rebuilt", location)
        return None


def write_json(location: str, content: Mapping[str, Any]) -> None:
    """Write a manifest, whole or not at all."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    with write_file(location) as stream:
        stream.write(text.encode())


def delete_file(location: str) -> None:
    """Remove a file; nothing where there is none."""
    filesystem, path = open_filesystem(location)
    with suppress(FileNotFoundError):
        filesystem.delete_file(path)
