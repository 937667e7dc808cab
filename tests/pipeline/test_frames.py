"""Frames are read back by range, touching only what is needed, across segments of a sequence."""

from pathlib import Path

import pytest

from datasets.schema import Annotations
from pipeline.frames import (
    ANNOTATIONS_FILE,
    Frame,
    FrameReader,
    FramesFile,
    frames_file_name,
    read_truth,
    write_frames,
)
from pipeline.store import Part, StoreError


def frame(index: int) -> Frame:
    return Frame(
        frame_index=index,
        name=f"{index:07d}.jpg",
        timestamp_us=None,
        height=4,
        width=6,
        image=bytes([index % 256]) * 10,
    )


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """100 frames, cut into segments of 70 and 30."""
    part = Part(folder=str(tmp_path / "s"), name="s")
    with part.write() as writer:
        for segment, (start, stop) in enumerate([(0, 70), (70, 100)]):
            with (
                writer.open_file(frames_file_name(segment)) as sink,
                FramesFile(sink, "s") as file,
            ):
                for index in range(start, stop):
                    file.append(frame(index))
        writer.write_parquet(ANNOTATIONS_FILE, Annotations.empty().to_table("s"))
        writer.details["has_labels"] = True
    return part


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (31, 33), (60, 80), (69, 71), (0, 100), (-5, 3), (98, 120), (7, 7)]
)
def test_any_range_gives_exactly_its_frames(part: Part, start: int, stop: int) -> None:
    expected = [frame(i) for i in range(max(0, start), min(100, stop))]
    assert FrameReader(part).read(start, stop) == expected
    images = FrameReader(part).read_images(start, stop).to_pylist()
    assert images == [{"frame_index": f.frame_index, "image": f.image} for f in expected]


@pytest.mark.parametrize("rows", [1, 16, 32, 45, 1000])
def test_iterating_gives_every_frame_once_in_order(part: Part, rows: int) -> None:
    reader = FrameReader(part)
    chunks = list(reader.iterate(rows))
    assert [f.frame_index for chunk in chunks for f in chunk] == list(range(100))
    assert {len(chunk) for chunk in chunks[:-1]} <= {rows}
    assert reader.num_frames == 100
    assert reader.names()[99] == "0000099.jpg"


def test_a_sequence_without_frames_is_readable(tmp_path: Path) -> None:
    part = Part(folder=str(tmp_path / "e"), name="e")
    with part.write() as writer:
        write_frames(writer, "e", [])
    assert FrameReader(part).read(0, 10) == []
    assert FrameReader(part).names() == ()


def test_a_shard_cut_in_half_names_itself(part: Part) -> None:
    shard = Path(part.folder) / frames_file_name(1)
    shard.write_bytes(shard.read_bytes()[:200])
    assert not part.is_valid()
    with pytest.raises(StoreError, match="frames-00001"):
        FrameReader(part).read(70, 71)


def test_truth_lists_every_frame_and_is_refused_where_there_are_no_labels(part: Part) -> None:
    truth = read_truth(part)
    assert truth.num_frames == 100
    assert len(truth.annotations) == 0
    with part.write() as writer:
        write_frames(writer, "s", [frame(0)])
        writer.details["has_labels"] = False
    with pytest.raises(StoreError, match="without labels"):
        read_truth(part)
