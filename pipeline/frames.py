"""The frames artefact of one sequence: encoded images in small row groups, and its annotations."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.images import Image, decode_image
from datasets.schema import FRAMES_SCHEMA, Annotations, SequenceTruth, check_table
from pipeline.store import Part, PartWriter, StoreError

ROWS_PER_GROUP: Final = 8
"""Frames that are read together at the least: small, so that a window of a sequence is cheap."""

ANNOTATIONS_FILE: Final = "annotations.parquet"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One stored frame; `image` is JPEG or PNG bytes as they came from the benchmark."""

    frame_index: int
    name: str
    timestamp_us: int | None
    height: int
    width: int
    image: bytes

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"frame {self.frame_index} ({self.name})"

    def decode(self) -> Image:
        """uint8 (H, W, 3) RGB.

        Raises:
            ValueError: there is no image, or one that cannot be decoded; names the frame.
        """
        try:
            return decode_image(self.image)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from error


class FrameReader:
    """Random access to the frames of one finished part; reads only the row groups it needs."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._files = [f for f in part.files() if f.name.startswith("frames-")]
        # Row r lies in the file whose start is the last one not behind r.
        self._starts = [0, *accumulate(f.num_rows for f in self._files)]
        self._open: tuple[int, pq.ParquetFile] | None = None

    @property
    def num_frames(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> list[Frame]:
        """Frames `start` to `stop` (exclusive), cut to what exists, in order."""
        return [
            Frame(**{key: value for key, value in row.items() if key != "sequence"})
            for table in self._read_tables(start, stop)
            for row in table.to_pylist()
        ]

    def read_images(self, start: int, stop: int) -> pa.Table:
        """The same frames as a table of `frame_index` and `image`, without a Python object each."""
        columns = ["frame_index", "image"]
        tables = list(self._read_tables(start, stop, columns))
        empty = FRAMES_SCHEMA.empty_table().select(columns)
        return pa.concat_tables([empty, *tables]).combine_chunks()

    def iterate(self, rows: int = ROWS_PER_GROUP) -> Iterator[list[Frame]]:
        """All frames in order, `rows` at a time, each row group read once."""
        waiting: list[Frame] = []
        for start in range(0, self.num_frames, ROWS_PER_GROUP):
            waiting += self.read(start, start + ROWS_PER_GROUP)
            while len(waiting) >= rows:
                yield waiting[:rows]
                waiting = waiting[rows:]
        if waiting:
            yield waiting

    def names(self) -> tuple[str, ...]:
        """Names of all frames, without reading an image."""
        names: list[str] = []
        for record in self._files:
            table = self.part.read_parquet(record.name, columns=["name"])
            names += table["name"].to_pylist()
        return tuple(names)

    def _read_tables(
        self, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """One table per file that holds some of the frames."""
        position, stop = max(0, start), min(stop, self.num_frames)
        while position < stop:
            index = bisect_right(self._starts, position) - 1
            first = self._starts[index]
            end = min(stop, self._starts[index + 1])
            yield self._read_file(index, position - first, end - first, columns)
            position = end

    def _read_file(
        self, index: int, start: int, stop: int, columns: Sequence[str] | None
    ) -> pa.Table:
        where = f"{self.part.folder}/{self._files[index].name}"
        try:
            file = self._parquet(index, where)
            groups, offset = _groups_of(file.metadata, start, stop)
            table = file.read_row_groups(groups, columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(
                f"{where}: cannot be read ({error}); it was cut short or changed after it was "
                "written: delete its folder and run ingest again"
            ) from error
        return table.slice(start - offset, stop - start)

    def _parquet(self, index: int, where: str) -> pq.ParquetFile:
        if self._open is None or self._open[0] != index:
            file = pq.ParquetFile(self.part.open_input(self._files[index].name))
            check_table(file.schema_arrow, kind="frames", where=where)
            self._open = (index, file)
        return self._open[1]


class FramesFile:
    """Writes frames to one Parquet file of a part, a row group at a time."""

    def __init__(self, sink: Any, sequence: str) -> None:
        self._sink = sink
        self._sequence = sequence
        # Images want neither a dictionary nor least and greatest values, each a pass over them, and
        # the size of a page is only looked at once a batch.
        self._writer = pq.ParquetWriter(
            sink,
            FRAMES_SCHEMA,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_batch_size=1,
        )
        self._buffer: list[Frame] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self._writer.close()

    def append(self, frame: Frame) -> None:
        """Add the next frame; at most one row group is held in memory."""
        self._buffer.append(frame)
        if len(self._buffer) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        rows = [{"sequence": self._sequence, **vars(frame)} for frame in self._buffer]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=FRAMES_SCHEMA))
        self._sink.num_rows += len(rows)
        self._buffer = []


def frames_file_name(segment: int) -> str:
    """Name of the file that holds one segment of a sequence."""
    return f"frames-{segment:05d}.parquet"


def write_frames(writer: PartWriter, sequence: str, frames: Sequence[Frame]) -> None:
    """All frames of a short sequence as one file."""
    with writer.open_file(frames_file_name(0)) as sink, FramesFile(sink, sequence) as file:
        for frame in frames:
            file.append(frame)


def read_annotations(part: Part) -> Annotations:
    """Ground truth of one sequence; empty where the split has none."""
    table = part.read_parquet(ANNOTATIONS_FILE)
    return Annotations.from_table(table, where=f"{part.folder}/{ANNOTATIONS_FILE}")


def read_truth(part: Part) -> SequenceTruth:
    """What results on this sequence are scored against.

    Raises:
        StoreError: the sequence has no labels (a test split).
    """
    if not part.details()["has_labels"]:
        raise StoreError(
            f"{part.folder}: sequence {part.name!r} was ingested without labels, so there is "
            "nothing to score against; this split's truth is not public"
        )
    return SequenceTruth(
        name=part.name,
        frame_names=FrameReader(part).names(),
        annotations=read_annotations(part),
    )


def _groups_of(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """Row groups that cover the rows, and the row at which the first of them begins."""
    sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
    edges = [0, *accumulate(sizes)]
    groups = [g for g, (low, high) in enumerate(pairwise(edges)) if low < stop and start < high]
    return groups, edges[groups[0]]
