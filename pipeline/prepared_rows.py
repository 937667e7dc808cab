"""The rows that `pipeline.prepare` cuts out: their schemas, and access to any of them.

Training workers read through the memory-mapped Arrow files, one row at a time and in any order.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datasets.images import Image, decode_image
from datasets.mots_crops import UInt16
from datasets.schema import FRAMES_SCHEMA, Int64, check_table
from models.pointtrack.points import InstanceCrop
from pipeline.store import Artefact

CROPS_STAGE: Final = "crops"
CROPS_FILE: Final = "crops.arrow"
INSTANCES_STAGE: Final = "instances"
INSTANCES_FILE: Final = "instances.arrow"


def _schema(kind: str, columns: Mapping[str, pa.DataType]) -> pa.Schema:
    # The version is that of all schemas, so it comes with the metadata of one of them.
    metadata = {**FRAMES_SCHEMA.metadata, b"quasar_kind": kind.encode()}
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    return pa.schema(fields, metadata=metadata)


CROPS_SCHEMA: Final = _schema(
    "crops",
    {
        "sequence": pa.string(),
        "frame_index": pa.int32(),
        "identity": pa.int64(),
        "top": pa.int32(),
        "left": pa.int32(),
        "image": pa.binary(),
        "instances": pa.binary(),
    },
)
"""One row per instance, by frame and then by identity. `image` is a PNG, `instances` a PNG of 16
bits: the map of `datasets.mots_crops`, its instances numbered from 1 within the crop."""

INSTANCES_SCHEMA: Final = _schema(
    "instances",
    {
        "frame_index": pa.int32(),
        "identity": pa.int64(),
        "start_v": pa.int32(),
        "start_u": pa.int32(),
        "height": pa.int32(),
        "width": pa.int32(),
        "image": pa.binary(),
        "mask": pa.binary(),
        "categories": pa.binary(),
    },
)
"""One row per instance, by frame and then by identity. Pixels are stored as they are, row by row:
`image` (height, width, 3) blue green red, `mask` 0 and 1, `categories` as of `InstanceCrop`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop:
    """One row of the crops."""

    sequence: str
    frame_index: int
    identity: int
    """The instance in the middle, as in the annotations of the frame."""
    top: int
    left: int
    """First row and column of the crop in the frame."""
    image: Image
    """uint8 (h, w, 3) RGB."""
    instances: UInt16
    """(h, w) 0 background, 1 to n instances of the class, `datasets.mots_crops.IGNORE`."""


class _Rows:
    """Rows of some artefacts one behind the other, read where they lie.

    A file is opened when its first row is asked for: mapped on a local root, read as a whole on
    another one. A pickled copy opens them anew.
    """

    _stage: str
    _file: str

    def __init__(self, artefacts: Sequence[Artefact]) -> None:
        """Rows in the order of the artefacts, then of their sequences' names.

        Raises:
            ValueError: an artefact of another stage.
            StoreError: an artefact is not finished, or a part of it is gone.
        """
        for artefact in artefacts:
            if artefact.stage != self._stage:
                raise ValueError(
                    f"{artefact.folder}: an artefact of the stage {artefact.stage!r}, expected one "
                    f"of {self._stage!r}"
                )
        self._artefacts = tuple(artefacts)
        self.parts = [artefact.part(n) for artefact in artefacts for n in artefact.sequences()]
        """The sequences; those of two artefacts may have the same name."""
        counts = [part.files()[0].num_rows for part in self.parts]
        self._starts = [0, *accumulate(counts)]
        self.part_index: Int64 = np.repeat(np.arange(len(counts)), counts)
        """(N,) place in `parts` of the sequence of each row."""
        self._open: dict[int, tuple[list[int], list[pa.RecordBatch]]] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __reduce__(self) -> tuple[Any, ...]:
        # Arrow would write the content of all open files into the pickle.
        return type(self), (self._artefacts,)

    def keys(self) -> Iterator[tuple[str, int, int]]:
        """Sequence, frame index and identity of each row, in order."""
        names = (self.parts[place].name for place in self.part_index.tolist())
        frames, identities = (self.column(n).tolist() for n in ("frame_index", "identity"))
        return zip(names, frames, identities, strict=True)

    def column(self, name: str) -> npt.NDArray[Any]:
        """(N,) a column of numbers, such as `frame_index` or `identity`, to plan by."""
        pieces = [
            batch.column(name).to_numpy()
            for place in range(len(self.parts))
            for batch in self._batches(place)[1]
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)

    def _cells(self, row: int) -> dict[str, pa.Scalar]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        place = bisect_right(self._starts, row) - 1
        starts, batches = self._batches(place)
        row -= self._starts[place]
        index = bisect_right(starts, row) - 1
        batch = batches[index]
        return {name: batch.column(name)[row - starts[index]] for name in batch.schema.names}

    def _batches(self, place: int) -> tuple[list[int], list[pa.RecordBatch]]:
        """Record batches of a part, and the row that each begins with."""
        if place not in self._open:
            part = self.parts[place]
            table = part.read_arrow(self._file)
            check_table(table.schema, kind=self._stage, where=part.location(self._file))
            batches = table.to_batches()
            starts = [0, *accumulate(batch.num_rows for batch in batches)]
            self._open[place] = (starts[:-1], batches)
        return self._open[place]


class CropRows(_Rows):
    """The crops of some artefacts of `prepare_crops`: those of KINS and of KITTI MOTS together."""

    _stage = CROPS_STAGE
    _file = CROPS_FILE

    def row(self, row: int) -> Crop:
        """One crop, decoded; arrays of the caller's own.

        Raises:
            IndexError: no such row.
        """
        cells = {name: value.as_py() for name, value in self._cells(row).items()}
        image, instances = decode_image(cells.pop("image")), _decode_map(cells.pop("instances"))
        return Crop(image=image, instances=instances, **cells)


class InstanceRows(_Rows):
    """The instances of some artefacts of `prepare_instances`."""

    _stage = INSTANCES_STAGE
    _file = INSTANCES_FILE

    def row(self, row: int) -> InstanceCrop:
        """One instance as `instance_crops` made it; its arrays are the file itself: read-only.

        Raises:
            IndexError: no such row.
        """
        cells = self._cells(row)
        names = ("identity", "start_v", "start_u", "height", "width")
        identity, start_v, start_u, height, width = (cells[name].as_py() for name in names)
        image, mask, categories = (
            np.frombuffer(cells[name].as_buffer(), np.uint8).reshape(height, width, -1)
            for name in ("image", "mask", "categories")
        )
        return InstanceCrop(
            identity=identity,
            start=(start_v, start_u),
            image_bgr=image,
            mask=mask[..., 0],
            categories=categories[..., 0],
        )


def _decode_map(data: bytes) -> UInt16:
    import cv2

    instances = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert instances is not None
    assert instances.dtype == np.uint16
    found: UInt16 = instances
    return found
