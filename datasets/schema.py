"""The records that walk from stage to stage, and the Arrow schemas they are stored in.

Every record is columnar: one NumPy array per column, one row per box, all rows of one sequence.
Boxes are corners ``x1 y1 x2 y2`` in pixels of the original image with exclusive right and bottom
edges (width = x2 - x1), whatever the benchmark's own files say: a reader converts once.

Legend: N boxes, F frames, D embedding width.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datasets.masks import Rle

SCHEMA_VERSION: Final = 1
"""Raised by hand when a column changes; files of another version are rebuilt, never guessed at."""

_VERSION_KEY: Final = b"quasar_schema_version"
_KIND_KEY: Final = b"quasar_kind"
_OFFSETS_KEY: Final = b"quasar_frame_offsets"

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

UNMAPPED_CLASS: Final = -1
"""`class_index` of a category that is none of the benchmark's classes."""

# A fixed-size list would be natural for the size, but Parquet cannot read back its nulls.
_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.binary())])


def _schema(kind: str, columns: Sequence[pa.Field]) -> pa.Schema:
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode(), _KIND_KEY: kind.encode()}
    return pa.schema(columns, metadata=metadata)


def _column(name: str, kind: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


FRAMES_SCHEMA: Final = _schema(
    "frames",
    [
        _column("sequence", pa.string()),
        _column("frame_index", pa.int32()),
        _column("name", pa.string()),
        _column("timestamp_us", pa.int64(), nullable=True),
        _column("height", pa.int32()),
        _column("width", pa.int32()),
        _column("image", pa.binary()),
    ],
)
"""One row per frame, ordered by `frame_index` from 0 without gaps; `image` is JPEG or PNG bytes."""

ANNOTATIONS_SCHEMA: Final = _schema(
    "annotations",
    [
        _column("sequence", pa.string()),
        _column("frame_index", pa.int32()),
        _column("identity", pa.int64()),
        _column("identity_source", pa.string()),
        _column("category", pa.string()),
        _column("class_index", pa.int16()),
        _column("box", pa.list_(pa.float64(), 4)),
        _column("crowd", pa.bool_()),
        _column("ignored", pa.bool_()),
        _column("occluded", pa.bool_()),
        _column("truncated", pa.bool_()),
        _column("visibility", pa.float32(), nullable=True),
        _column("mask", _RLE, nullable=True),
    ],
)

TRACKS_SCHEMA: Final = _schema(
    "tracks",
    [
        _column("frame_index", pa.int32()),
        _column("track_id", pa.int64()),
        _column("detection_row", pa.int32()),
        _column("box", pa.list_(pa.float32(), 4)),
        _column("score", pa.float32()),
        _column("class_index", pa.int16()),
        _column("mask", _RLE, nullable=True),
    ],
)


def detections_schema(embedding_dim: int, *, half_embeddings: bool = False) -> pa.Schema:
    """Arrow schema of detections whose embeddings have `embedding_dim` columns (0 for none)."""
    value = pa.float16() if half_embeddings else pa.float32()
    return _schema(
        "detections",
        [
            _column("frame_index", pa.int32()),
            _column("box", pa.list_(pa.float32(), 4)),
            _column("score", pa.float32()),
            _column("class_index", pa.int16()),
            _column("embedding", pa.list_(value, embedding_dim)),
            _column("mask", _RLE, nullable=True),
        ],
    )


class SchemaVersionError(ValueError):
    """A stored table was written by another schema version, or is another kind of table."""


def check_table(schema: pa.Schema, *, kind: str, where: str) -> None:
    """Refuse a table that is not `kind` of this version; `where` names the file in the message.

    Raises:
        SchemaVersionError: the metadata is absent or differs.
    """
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    found_kind = metadata.get(_KIND_KEY, b"nothing of ours").decode()
    found_version = metadata.get(_VERSION_KEY, b"none").decode()
    if found_kind != kind or found_version != str(SCHEMA_VERSION):
        raise SchemaVersionError(
            f"{where}: holds {found_kind} of schema version {found_version}, expected {kind} of "
            f"version {SCHEMA_VERSION}; delete it and run the stage again to rebuild it"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """Ground truth of one sequence, rows ordered by frame, then as in the benchmark's file."""

    frame_index: Int32
    identity: Int64
    """(N,) per sequence, never comparable across sequences."""
    identity_source: tuple[str, ...]
    """(N,) the identity as written in the benchmark's file."""
    category: tuple[str, ...]
    """(N,) category name as written in the benchmark's file, before aliases."""
    class_index: Int16
    """(N,) index into the benchmark's classes, -1 where the category is none of them."""
    boxes_xyxy: Float64
    """(N, 4) original pixels, exclusive right and bottom edges."""
    crowd: Bool
    ignored: Bool
    occluded: Bool
    truncated: Bool
    visibility: Float32
    """(N,) in [0, 1], NaN where the benchmark does not say."""
    masks: tuple[Rle, ...] | None = None
    """(N,) visible pixels; None where the benchmark has boxes only."""

    def __post_init__(self) -> None:
        _check_lengths(self, len(self.frame_index))

    def __len__(self) -> int:
        return len(self.frame_index)

    @classmethod
    def empty(cls) -> Self:
        """No boxes at all, which is a valid annotation of any number of frames."""
        none = np.zeros(0, bool)
        return cls(
            frame_index=np.zeros(0, np.int32),
            identity=np.zeros(0, np.int64),
            identity_source=(),
            category=(),
            class_index=np.zeros(0, np.int16),
            boxes_xyxy=np.zeros((0, 4), np.float64),
            crowd=none,
            ignored=none,
            occluded=none,
            truncated=none,
            visibility=np.zeros(0, np.float32),
        )

    def select(self, rows: npt.NDArray[Any]) -> Self:
        """The rows chosen by a boolean mask or an index array."""
        index = np.arange(len(self))[rows]
        return type(self)(
            frame_index=self.frame_index[index],
            identity=self.identity[index],
            identity_source=tuple(self.identity_source[i] for i in index),
            category=tuple(self.category[i] for i in index),
            class_index=self.class_index[index],
            boxes_xyxy=self.boxes_xyxy[index],
            crowd=self.crowd[index],
            ignored=self.ignored[index],
            occluded=self.occluded[index],
            truncated=self.truncated[index],
            visibility=self.visibility[index],
            masks=_select_masks(self.masks, index),
        )

    def to_table(self, sequence: str) -> pa.Table:
        """Arrow table in `ANNOTATIONS_SCHEMA`."""
        missing = np.isnan(self.visibility)
        columns = {
            "sequence": pa.array([sequence] * len(self), pa.string()),
            "frame_index": self.frame_index,
            "identity": self.identity,
            "identity_source": pa.array(self.identity_source, pa.string()),
            "category": pa.array(self.category, pa.string()),
            "class_index": self.class_index,
            "box": _fixed_list(self.boxes_xyxy, pa.float64()),
            "crowd": self.crowd,
            "ignored": self.ignored,
            "occluded": self.occluded,
            "truncated": self.truncated,
            "visibility": pa.array(self.visibility, pa.float32(), mask=missing),
            "mask": _mask_column(self.masks, len(self)),
        }
        return pa.table(columns, schema=ANNOTATIONS_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table, *, where: str) -> Self:
        """Read back what `to_table` made; `where` names the file in errors."""
        check_table(table.schema, kind="annotations", where=where)
        return cls(
            frame_index=_numpy(table, "frame_index"),
            identity=_numpy(table, "identity"),
            identity_source=tuple(table["identity_source"].to_pylist()),
            category=tuple(table["category"].to_pylist()),
            class_index=_numpy(table, "class_index"),
            boxes_xyxy=_rows(table, "box", 4),
            crowd=_numpy(table, "crowd"),
            ignored=_numpy(table, "ignored"),
            occluded=_numpy(table, "occluded"),
            truncated=_numpy(table, "truncated"),
            visibility=_numpy(table, "visibility").astype(np.float32),
            masks=_read_masks(table),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """Boxes of one sequence before association; rows of a frame keep the detector's order."""

    frame_offsets: Int64
    """(F + 1,) rows of frame f are `frame_offsets[f]:frame_offsets[f + 1]`; empty frames count."""
    boxes_xyxy: Float32
    """(N, 4) original pixels, exclusive right and bottom edges."""
    scores: Float32
    class_indices: Int16
    embeddings: npt.NDArray[Any]
    """(N, D) float32, or float16 where that option was taken; D = 0 for detectors without one."""
    masks: tuple[Rle, ...] | None = None
    """(N,) masks of a segmentation, disjoint within a frame; None for detectors of boxes."""

    def __post_init__(self) -> None:
        _check_lengths(self, len(self.scores), skip=("frame_offsets",))
        assert self.frame_offsets[0] == 0
        assert self.frame_offsets[-1] == len(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def num_frames(self) -> int:
        return len(self.frame_offsets) - 1

    def rows(self, frame_index: int) -> slice:
        """Slice of the rows that belong to one frame."""
        return slice(int(self.frame_offsets[frame_index]), int(self.frame_offsets[frame_index + 1]))

    def frame_index(self) -> Int32:
        """(N,) frame of each row."""
        return np.repeat(np.arange(self.num_frames, dtype=np.int32), np.diff(self.frame_offsets))

    def to_table(self) -> pa.Table:
        """Arrow table in `detections_schema`; frame offsets travel in its metadata."""
        half = self.embeddings.dtype == np.float16
        width = self.embeddings.shape[1]
        schema = detections_schema(width, half_embeddings=half)
        offsets = json.dumps(self.frame_offsets.tolist()).encode()
        columns = {
            "frame_index": self.frame_index(),
            "box": _fixed_list(self.boxes_xyxy, pa.float32()),
            "score": self.scores,
            "class_index": self.class_indices,
            "embedding": _fixed_list(self.embeddings, pa.float16() if half else pa.float32()),
            "mask": _mask_column(self.masks, len(self)),
        }
        table = pa.table(columns, schema=schema)
        return table.replace_schema_metadata({**schema.metadata, _OFFSETS_KEY: offsets})

    @classmethod
    def from_table(cls, table: pa.Table, *, where: str) -> Self:
        """Read back what `to_table` made, without copying a table of one chunk.

        Raises:
            SchemaVersionError: not a detections table of this version.
        """
        check_table(table.schema, kind="detections", where=where)
        return cls(
            frame_offsets=np.array(json.loads(table.schema.metadata[_OFFSETS_KEY]), np.int64),
            boxes_xyxy=_rows(table, "box", 4),
            scores=_numpy(table, "score"),
            class_indices=_numpy(table, "class_index"),
            embeddings=_rows(table, "embedding", table.schema.field("embedding").type.list_size),
            masks=_read_masks(table),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """Boxes with identities, of one sequence: ours, or read from anybody's result file."""

    frame_index: Int32
    track_id: Int64
    detection_row: Int32
    """(N,) row in the sequence's detections, -1 where there are none (foreign result files)."""
    boxes_xyxy: npt.NDArray[Any]
    """(N, 4) original pixels, exclusive edges; float32 of our own, float64 from result files."""
    scores: Float32
    class_index: Int16
    masks: tuple[Rle, ...] | None = None
    """(N,) masks, disjoint within a frame; None where only boxes are tracked."""

    def __post_init__(self) -> None:
        _check_lengths(self, len(self.track_id))

    def __len__(self) -> int:
        return len(self.track_id)

    @classmethod
    def empty(cls) -> Self:
        """No tracks at all: a valid result."""
        return cls(
            frame_index=np.zeros(0, np.int32),
            track_id=np.zeros(0, np.int64),
            detection_row=np.zeros(0, np.int32),
            boxes_xyxy=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            class_index=np.zeros(0, np.int16),
        )

    def select(self, rows: npt.NDArray[Any]) -> Self:
        """The rows chosen by a boolean mask or an index array."""
        index = np.arange(len(self))[rows]
        columns = {n: column[index] for n, column in vars(self).items() if n != "masks"}
        return type(self)(**columns, masks=_select_masks(self.masks, index))

    def to_table(self) -> pa.Table:
        """Arrow table in `TRACKS_SCHEMA`: boxes are stored as float32."""
        columns = {
            "frame_index": self.frame_index,
            "track_id": self.track_id,
            "detection_row": self.detection_row,
            "box": _fixed_list(self.boxes_xyxy.astype(np.float32), pa.float32()),
            "score": self.scores,
            "class_index": self.class_index,
            "mask": _mask_column(self.masks, len(self)),
        }
        return pa.table(columns, schema=TRACKS_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table, *, where: str) -> Self:
        """Read back what `to_table` made; `where` names the file in errors."""
        check_table(table.schema, kind="tracks", where=where)
        return cls(
            frame_index=_numpy(table, "frame_index"),
            track_id=_numpy(table, "track_id"),
            detection_row=_numpy(table, "detection_row"),
            boxes_xyxy=_rows(table, "box", 4),
            scores=_numpy(table, "score"),
            class_index=_numpy(table, "class_index"),
            masks=_read_masks(table),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceTruth:
    """What one sequence is scored against: every frame, and the annotations of some of them."""

    name: str
    frame_names: tuple[str, ...]
    """(F,) names of the frames in order; frame f of every record is `frame_names[f]`."""
    annotations: Annotations

    @property
    def num_frames(self) -> int:
        return len(self.frame_names)


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceResult:
    """What a tracker said of one sequence."""

    name: str
    tracks: Tracks
    num_frames: int | None = None
    """Frames that the result lists, empty ones included; None where the format cannot say."""


@dataclass(frozen=True, kw_only=True)
class SequenceSource:
    """Where one sequence's raw files lie; nothing has been opened yet."""

    dataset: str
    split: str
    name: str
    images: tuple[str, ...] = ()
    """Paths of the image files in frame order; empty where the frames come from `video`."""
    video: str | None = None
    """Path of a video file, decoded at ingest."""
    labels: str | None = None
    """Path of the label file; None where the split has no public labels."""
    is_still: bool = False
    """A single image without a neighbour in time, paired with itself in training."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else this benchmark's reader needs to find its way (frame rate, label stride ...)."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something broken in the raw files, to be counted and named in the report."""

    where: str
    """Dataset, sequence, frame or file."""
    what: str
    """What was found, what was expected, and what to do."""


def masks_of(record: Annotations | Detections | Tracks, where: str) -> tuple[Rle, ...]:
    """(N,) the masks of a record that must have them.

    Raises:
        ValueError: rows without masks; `where` names their origin.
    """
    if record.masks is None and len(record):
        raise ValueError(f"{where}: holds boxes without masks, expected a mask for each")
    return record.masks or ()


def concatenate(parts: Sequence[Annotations]) -> Annotations:
    """Annotations one behind the other; the caller has put their frames in order."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Annotations.empty()
    columns: dict[str, Any] = {}
    for name in vars(parts[0]):
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            columns[name] = None
        elif isinstance(values[0], tuple):
            columns[name] = tuple(item for value in values for item in value)
        else:
            columns[name] = np.concatenate(values)
    return Annotations(**columns)


def _fixed_list(values: npt.NDArray[Any], value_type: pa.DataType) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), value_type)
    width = values.shape[1]
    if width == 0:  # Arrow cannot infer the number of rows of zero-wide lists
        return pa.array([[]] * len(values), pa.list_(value_type, 0))
    return pa.FixedSizeListArray.from_arrays(flat, width)


def _select_masks(masks: tuple[Rle, ...] | None, index: npt.NDArray[Any]) -> Any:
    return None if masks is None else tuple(masks[i] for i in index.tolist())


def _mask_column(masks: tuple[Rle, ...] | None, length: int) -> pa.Array:
    return pa.nulls(length, _RLE) if masks is None else pa.array(masks, _RLE)


def _read_masks(table: pa.Table) -> tuple[Rle, ...] | None:
    """All masks or none; of no rows nobody can tell, and there None says that nothing is lost."""
    column = table["mask"]
    return None if column.null_count == len(column) else tuple(column.to_pylist())


def _numpy(table: pa.Table, column: str) -> npt.NDArray[Any]:
    chunks = table[column].combine_chunks() if table[column].num_chunks != 1 else table[column]
    array = chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks
    result: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return result


def _rows(table: pa.Table, column: str, width: int) -> npt.NDArray[Any]:
    chunked = table[column]
    array = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
    values: npt.NDArray[Any] = array.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(table), width)


def _check_lengths(record: object, length: int, skip: tuple[str, ...] = ()) -> None:
    for name, column in vars(record).items():
        if name not in skip and column is not None and len(column) != length:
            raise ValueError(
                f"{type(record).__name__}.{name} has {len(column)} rows, the others have {length}"
            )
