"""The records and their stored form: nothing changes on the way through Arrow files."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets.schema import (
    ANNOTATIONS_SCHEMA,
    FRAMES_SCHEMA,
    TRACKS_SCHEMA,
    Annotations,
    Detections,
    SchemaVersionError,
    Tracks,
    check_table,
    concatenate,
    detections_schema,
)


def annotations(num: int = 5, seed: int = 0) -> Annotations:
    random = np.random.default_rng(seed)
    visibility = random.random(num).astype(np.float32)
    visibility[::2] = np.nan
    return Annotations(
        frame_index=np.sort(random.integers(0, 3, num)).astype(np.int32),
        identity=random.integers(0, 2**62, num),
        identity_source=tuple(f"a-{n:05d}" for n in range(num)),
        category=tuple(random.choice(["car", "straße", ""], num).tolist()),
        class_index=random.integers(-1, 8, num).astype(np.int16),
        boxes_xyxy=random.random((num, 4)) * 1280,
        crowd=random.random(num) < 0.5,
        ignored=random.random(num) < 0.5,
        occluded=random.random(num) < 0.5,
        truncated=random.random(num) < 0.5,
        visibility=visibility,
    )


def detections(
    offsets: tuple[int, ...] = (0, 2, 2, 5), width: int = 4, dtype: Any = np.float32
) -> Detections:
    random = np.random.default_rng(0)
    num = offsets[-1]
    return Detections(
        frame_offsets=np.array(offsets, np.int64),
        boxes_xyxy=random.random((num, 4)).astype(np.float32),
        scores=random.random(num).astype(np.float32),
        class_indices=random.integers(0, 8, num).astype(np.int16),
        embeddings=random.random((num, width)).astype(dtype),
    )


def tracks(num: int = 4) -> Tracks:
    random = np.random.default_rng(0)
    return Tracks(
        frame_index=np.arange(num, dtype=np.int32),
        track_id=random.integers(0, 2**62, num),
        detection_row=np.arange(num, dtype=np.int32) - 1,
        boxes_xyxy=random.random((num, 4)).astype(np.float32),
        scores=random.random(num).astype(np.float32),
        class_index=random.integers(0, 8, num).astype(np.int16),
    )


def through_parquet(table: pa.Table, rows_per_group: int = 2) -> pa.Table:
    """Written in several row groups, so that columns come back in several chunks."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows_per_group)
    buffer.seek(0)
    return pq.read_table(buffer)


def through_arrow(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return pa.ipc.open_file(sink.getvalue()).read_all()


def assert_same(first: object, second: object) -> None:
    assert type(first) is type(second)
    for name, column in vars(first).items():
        other = getattr(second, name)
        if isinstance(column, np.ndarray):
            assert column.dtype == other.dtype, name
            np.testing.assert_array_equal(column, other, err_msg=name)
        else:
            assert column == other, name


class TestAnnotations:
    @pytest.mark.parametrize("num", [0, 1, 5])
    def test_come_back_unchanged(self, num: int) -> None:
        record = annotations(num)
        assert record.to_table("s").schema.equals(ANNOTATIONS_SCHEMA, check_metadata=True)
        table = through_parquet(record.to_table("s"))
        assert table["sequence"].to_pylist() == ["s"] * num
        assert_same(Annotations.from_table(table, where="x"), record)

    def test_unknown_visibility_is_null_in_the_file(self) -> None:
        column = annotations().to_table("s")["visibility"]
        assert [value.is_valid for value in column] == [False, True, False, True, False]

    def test_empty_has_every_column(self) -> None:
        assert_same(Annotations.empty(), annotations(0))

    def test_rows_are_selected_by_mask_and_by_index(self) -> None:
        record = annotations()
        by_mask = record.select(np.array([True, False, False, True, False]))
        assert_same(by_mask, record.select(np.array([0, 3])))
        assert by_mask.identity_source == ("a-00000", "a-00003")
        assert_same(record.select(np.zeros(5, bool)), Annotations.empty())

    def test_parts_are_joined_in_their_order(self) -> None:
        record = annotations()
        halves = [record.select(np.arange(2)), record.select(np.arange(2, 5))]
        assert_same(concatenate(halves), record)
        assert_same(concatenate([]), Annotations.empty())

    def test_columns_of_different_lengths_are_refused(self) -> None:
        columns = vars(annotations()) | {"category": ("car",)}
        with pytest.raises(ValueError, match=r"Annotations\.category has 1 rows, .* 5"):
            Annotations(**columns)


class TestDetections:
    @pytest.mark.parametrize("offsets", [(0,), (0, 0, 0), (0, 2, 2, 5), (0, 0, 3), (0, 1, 1)])
    @pytest.mark.parametrize(
        ("width", "dtype"), [(4, np.float32), (4, np.float16), (0, np.float32)]
    )
    def test_come_back_unchanged(self, offsets: tuple[int, ...], width: int, dtype: Any) -> None:
        record = detections(offsets, width, dtype)
        table = through_arrow(record.to_table())
        expected = detections_schema(width, half_embeddings=dtype == np.float16)
        assert table.schema.equals(expected)
        assert_same(Detections.from_table(table, where="x"), record)

    def test_reading_one_chunk_copies_nothing(self) -> None:
        record = detections()
        table = record.to_table()
        back = Detections.from_table(table, where="x")
        address = table["embedding"].chunk(0).flatten().buffers()[1].address
        assert back.embeddings.ctypes.data == address

    def test_frames_without_rows_count(self) -> None:
        record = detections()
        assert record.num_frames == 3
        assert record.rows(1) == slice(2, 2)
        assert record.rows(2) == slice(2, 5)
        assert record.frame_index().tolist() == [0, 0, 2, 2, 2]

    def test_columns_of_different_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Detections\.boxes_xyxy has 4 rows"):
            Detections(**vars(detections()) | {"boxes_xyxy": np.zeros((4, 4), np.float32)})


class TestTracks:
    @pytest.mark.parametrize("num", [0, 1, 4])
    def test_come_back_unchanged(self, num: int) -> None:
        assert tracks(num).to_table().schema.equals(TRACKS_SCHEMA, check_metadata=True)
        table = through_parquet(tracks(num).to_table())
        assert_same(Tracks.from_table(table, where="x"), tracks(num))

    def test_empty_has_every_column(self) -> None:
        assert_same(Tracks.empty(), tracks(0))

    def test_rows_are_selected_by_mask_and_by_index(self) -> None:
        by_mask = tracks().select(np.array([True, False, False, True]))
        assert_same(by_mask, tracks().select(np.array([0, 3])))
        assert by_mask.detection_row.tolist() == [-1, 2]

    def test_columns_of_different_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Tracks\.scores has 1 rows, the others have 4"):
            Tracks(**vars(tracks()) | {"scores": np.zeros(1, np.float32)})


class TestVersions:
    def test_another_kind_of_table_is_refused(self) -> None:
        with pytest.raises(SchemaVersionError, match=r"x\.parquet: holds tracks.*expected annot"):
            Annotations.from_table(tracks().to_table(), where="x.parquet")

    def test_another_version_is_refused_with_the_remedy(self) -> None:
        table = tracks().to_table()
        metadata = {**table.schema.metadata, b"quasar_schema_version": b"0"}
        with pytest.raises(SchemaVersionError, match=r"schema version 0.*run the stage again"):
            Tracks.from_table(table.replace_schema_metadata(metadata), where="x")

    def test_a_foreign_table_is_refused(self) -> None:
        with pytest.raises(SchemaVersionError, match="nothing of ours"):
            check_table(pa.schema([("a", pa.int8())]), kind="frames", where="x")

    def test_frames_pass(self) -> None:
        check_table(FRAMES_SCHEMA, kind="frames", where="x")
