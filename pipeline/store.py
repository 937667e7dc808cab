"""Artefacts of the stages: where they lie, when they are valid, and how they are written.

Layout: ``<root>/<stage>/<dataset>/<split>/<fingerprint>/parts/<name>/<files>``, with a manifest
beside the files of every part and one beside ``parts``. The root is a folder or a URI that
`pyarrow.fs` understands (``s3://``, ``gs://``). A part exists when its manifest does: the manifest
is written last, so that an interrupted write never looks finished. Locally each file is also
written under a temporary name first.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from datasets.schema import SCHEMA_VERSION
from pipeline.files import FileRecord, HashingStream, delete_file, read_json, write_file, write_json
from pipeline.locations import (
    decode_name,
    encode_name,
    join_location,
    list_folders,
    open_filesystem,
    resolve_root,
)

MANIFEST: Final = "manifest.json"
_LOOK_UP_THREADS: Final = 16


class StoreError(ValueError):
    """An artefact is missing, incomplete or damaged; the message says which and what to do."""


def fingerprint(
    stage: str, version: int, settings: Mapping[str, Any], inputs: Sequence[str] = ()
) -> str:
    """16 hexadecimal digits naming a result: same settings, inputs and columns, same name.

    Args:
        stage: name of the stage.
        version: raised by hand when the code of the stage changes its results.
        settings: the configuration that changes the result; JSON values only.
        inputs: fingerprints of the artefacts or files that are read.
    """
    content = {
        "stage": stage,
        "version": version,
        "schema_version": SCHEMA_VERSION,
        "settings": settings,
        "inputs": list(inputs),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint_files(paths: Iterable[Path], root: Path) -> str:
    """Name of a set of raw files by relative path, size and time of change, not by content.

    A file that is not there is part of the name, too: whoever reads it reports it.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            status = path.stat()
            state = f"{status.st_size}\t{status.st_mtime_ns}"
        except FileNotFoundError:
            state = "missing"
        digest.update(f"{path.relative_to(root).as_posix()}\t{state}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The files of one sequence (or of one model) inside an artefact."""

    folder: str
    """Path or URI of the folder."""
    name: str

    def manifest(self) -> dict[str, Any] | None:
        """What `PartWriter.finish` wrote; None where the part was never finished."""
        return read_json(join_location(self.folder, MANIFEST))

    def is_valid(self) -> bool:
        """Whether the manifest exists and every file it lists has the size it lists."""
        manifest = self.manifest()
        if manifest is None:
            return False
        filesystem, base = open_filesystem(self.folder)
        infos = filesystem.get_file_info([f"{base}/{f['name']}" for f in manifest["files"]])
        return all(
            info.type == pafs.FileType.File and info.size == entry["size"]
            for info, entry in zip(infos, manifest["files"], strict=True)
        )

    def files(self) -> list[FileRecord]:
        """Files of a finished part, in the order they were written.

        Raises:
            StoreError: the part is not there.
        """
        return [FileRecord(**entry) for entry in self._finished()["files"]]

    def details(self) -> dict[str, Any]:
        """What the stage noted about this part when it finished it; see `files` for the error."""
        return cast("dict[str, Any]", self._finished()["details"])

    def location(self, file_name: str) -> str:
        """Path or URI of one file."""
        return join_location(self.folder, file_name)

    def verify(self) -> None:
        """Read every file again and compare its checksum.

        Raises:
            StoreError: a file is missing or its content changed.
        """
        for record in self.files():
            with self.open_input(record.name) as stream:
                found = hashlib.sha256(stream.read()).hexdigest()
            if found != record.sha256:
                raise StoreError(
                    f"{self.folder}/{record.name}: content changed since it was written (checksum "
                    f"{found[:12]}, expected {record.sha256[:12]}); delete the folder and run again"
                )

    def open_input(self, file_name: str) -> pa.NativeFile:
        """Random-access stream on one file; memory-mapped where the root is local."""
        filesystem, base = open_filesystem(self.folder)
        path = f"{base}/{file_name}"
        try:
            if isinstance(filesystem, pafs.LocalFileSystem):
                return pa.memory_map(path, "r") if os.path.getsize(path) else pa.BufferReader(b"")
            return filesystem.open_input_file(path)
        except FileNotFoundError as error:
            raise StoreError(f"{self.folder}/{file_name}: missing; run the stage again") from error

    def read_parquet(self, file_name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole Parquet file, or some of its columns."""
        with self._readable(file_name) as stream:
            return pq.read_table(stream, columns=list(columns) if columns else None)

    def read_arrow(self, file_name: str) -> pa.Table:
        """A whole Arrow IPC file; without a copy where the root is local."""
        with self._readable(file_name) as stream:
            return pa.ipc.open_file(stream).read_all()

    def _finished(self) -> dict[str, Any]:
        manifest = self.manifest()
        if manifest is None:
            raise StoreError(
                f"{self.folder}: no finished part for {self.name!r}; run the stage that makes it"
            )
        return manifest

    @contextmanager
    def _readable(self, file_name: str) -> Iterator[pa.NativeFile]:
        try:
            yield self.open_input(file_name)
        except pa.ArrowInvalid as error:
            raise StoreError(
                f"{self.folder}/{file_name}: cannot be read ({error}); it was cut short or changed "
                "after it was written: delete the folder and run the stage again"
            ) from error

    def write(self) -> "PartWriter":
        """A writer for this part; leaving its context without an error finishes the part."""
        return PartWriter(self)


class PartWriter:
    """Writes the files of one part and, last of all, its manifest."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self.files: list[FileRecord] = []
        """Finished files so far, in the order they were written."""
        self.details: dict[str, Any] = {}
        """Anything the stage wants to remember about this part; JSON values."""

    def __enter__(self) -> "PartWriter":
        # A manifest of an earlier, damaged version must not vouch for the new files.
        delete_file(join_location(self._part.folder, MANIFEST))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            content = {"files": [vars(record) for record in self.files], "details": self.details}
            write_json(join_location(self._part.folder, MANIFEST), content)

    def adopt(self, files: Iterable[FileRecord]) -> None:
        """Vouch for files that other tasks wrote into this part."""
        self.files += files

    @contextmanager
    def open_file(self, file_name: str) -> Iterator[HashingStream]:
        """A binary stream that becomes `file_name` when the block ends without an error."""
        with write_file(join_location(self._part.folder, file_name)) as stream:
            yield stream
        self.files.append(stream.record(file_name))

    def write_parquet(self, file_name: str, table: pa.Table) -> None:
        """One table as one Parquet file."""
        with self.open_file(file_name) as stream:
            pq.write_table(table, stream, compression="zstd")
            stream.num_rows = len(table)

    def write_arrow(self, file_name: str, table: pa.Table) -> None:
        """One table as one uncompressed, memory-mappable Arrow IPC file."""
        with self.open_file(file_name) as stream:
            with pa.ipc.new_file(stream, table.schema) as writer:
                # One record batch: readers get each column as one array, without a copy.
                writer.write_table(table.combine_chunks(), max_chunksize=max(1, len(table)))
            stream.num_rows = len(table)


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """The result of one stage on one split under one fingerprint; cheap to pass to workers."""

    root: str
    stage: str
    dataset: str
    split: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """Path or URI of the artefact."""
        names = (self.stage, encode_name(self.dataset), encode_name(self.split), self.fingerprint)
        return join_location(self.root, *names)

    def part(self, name: str) -> Part:
        """The part of a sequence, finished or not."""
        return Part(folder=join_location(self.folder, "parts", encode_name(name)), name=name)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of the names whose part is not valid, in sorted order: what is left to do."""
        existing = set(self.part_names())
        wanted = sorted(names)

        def is_valid(name: str) -> bool:
            return name in existing and self.part(name).is_valid()

        # Two requests a part: on a remote root the time is spent waiting for answers.
        with ThreadPoolExecutor(_LOOK_UP_THREADS) as pool:
            return [
                name for name, ok in zip(wanted, pool.map(is_valid, wanted), strict=True) if not ok
            ]

    def part_names(self) -> list[str]:
        """Names of all parts that were begun, sorted."""
        return sorted(
            decode_name(name) for name in list_folders(join_location(self.folder, "parts"))
        )

    def manifest(self) -> dict[str, Any] | None:
        """What `finish` wrote; None while parts are missing."""
        return read_json(join_location(self.folder, MANIFEST))

    def sequences(self) -> list[str]:
        """Names of the sequences of a finished artefact, sorted.

        Raises:
            StoreError: the stage did not finish.
        """
        return list(self._finished()["sequences"])

    def details(self) -> dict[str, Any]:
        """What the stage noted about the whole; see `sequences` for the error."""
        return cast("dict[str, Any]", self._finished()["details"])

    def finished_at(self) -> float:
        """When the stage finished, in seconds since the epoch; see `sequences` for the error."""
        return float(self._finished()["finished_at"])

    def is_complete(self) -> bool:
        """Whether the stage finished here and every part is still there in its whole size."""
        manifest = self.manifest()
        return manifest is not None and not self.missing(manifest["sequences"])

    def finish(self, sequences: Iterable[str], details: Mapping[str, Any]) -> None:
        """Declare the artefact complete. The caller has checked that every part is valid."""
        content = {
            "stage": self.stage,
            "dataset": self.dataset,
            "split": self.split,
            "fingerprint": self.fingerprint,
            "sequences": sorted(sequences),
            "details": dict(details),
            "finished_at": time.time(),
        }
        write_json(join_location(self.folder, MANIFEST), content)

    def _finished(self) -> dict[str, Any]:
        manifest = self.manifest()
        if manifest is None:
            raise StoreError(
                f"{self.folder}: the stage {self.stage!r} did not finish here; run it again, it "
                "will do only what is missing"
            )
        return manifest


def open_artefact(folder: str) -> Artefact:
    """The artefact whose folder a user names on a command line.

    Raises:
        StoreError: the folder holds no finished artefact.
    """
    location = resolve_root(folder)
    content = read_json(join_location(location, MANIFEST))
    if content is None or "fingerprint" not in content:
        raise StoreError(
            f"{folder}: no finished artefact here (no {MANIFEST} of a stage); name a folder "
            "<root>/<stage>/<dataset>/<split>/<fingerprint> as the jobs print it"
        )
    base, mark, query = location.partition("?") if "://" in location else (location, "", "")
    root = "/".join(base.rstrip("/").split("/")[:-4]) + mark + query
    fields = ("stage", "dataset", "split", "fingerprint")
    return Artefact(root=root, **{name: content[name] for name in fields})


def find_artefacts(root: str, stage: str, fingerprint: str) -> list[Artefact]:
    """Finished artefacts of a name, whatever data set and split they are kept under."""
    top = join_location(root, stage)
    places = [
        (dataset, split)
        for dataset in list_folders(top)
        for split in list_folders(join_location(top, dataset))
    ]
    candidates = [
        Artefact(
            root=root,
            stage=stage,
            dataset=decode_name(dataset),
            split=decode_name(split),
            fingerprint=fingerprint,
        )
        for dataset, split in sorted(places)
    ]
    return [artefact for artefact in candidates if artefact.manifest() is not None]
