"""KITTI MOTS maps: 16-bit values unchanged, and every file that is refused."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datasets.kitti_mots import APOLLO_MOTS, CLASSES, KITTI_MOTS
from datasets.masks import encode_mask
from datasets.mots_png import paint_map, read_folder, read_map, write_map
from datasets.mots_reading import read_results, read_truth
from datasets.mots_rows import truth_rules
from datasets.mots_text import annotation_lines, track_lines
from datasets.reading import Reporter
from tests.mots_files import SIZE, random_scene, write_text


def small_map(**values: tuple[int, int]) -> Any:
    """A map whose columns `from` to `to` of all rows have the values given as `v1005=(3, 7)`."""
    found = np.zeros(SIZE, np.uint16)
    for name, (start, end) in values.items():
        found[:, start:end] = int(name[1:])
    return found


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class TestMaps:
    def test_values_are_written_and_read_unchanged(self, tmp_path: Path) -> None:
        values = np.arange(48 * 96, dtype=np.int64).reshape(48, 96) * 14
        write_map(tmp_path / "a.png", values)
        found = read_map(tmp_path / "a.png")
        assert found.dtype == np.uint16
        assert np.array_equal(found, values)
        assert (tmp_path / "a.png").read_bytes()[24:26] == bytes([16, 0])

    def test_a_file_of_another_encoder_is_read(self, tmp_path: Path) -> None:
        # 16 bits, big-endian, filter 0 before each row.
        values = np.array([[0, 1005, 10000], [2003, 65535, 1]], np.uint16)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        (tmp_path / "a.png").write_bytes(png(3, 2, rows))
        assert np.array_equal(read_map(tmp_path / "a.png"), values)

    def test_masks_are_painted(self) -> None:
        first, second = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
        first[2:5, 3:8] = second[10:20, 50:60] = True
        found = paint_map([encode_mask(first), encode_mask(second)], [1005, 10000], SIZE)
        assert np.array_equal(found, first * 1005 + second * 10000)
        assert not paint_map([], [], SIZE).any()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.full((2, 2), 65536), "values are 65536 to 65536, expected 0 to 65535"),
            (np.full((2, 2), -1), "values are -1 to -1"),
            (np.zeros((2, 2, 3), int), r"shape \(2, 2, 3\)"),
            (np.zeros((0, 2), int), r"shape \(0, 2\)"),
        ],
    )
    def test_what_does_not_fit_is_not_written(
        self, tmp_path: Path, values: Any, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message) as error:
            write_map(tmp_path / "a.png", values)
        assert str(tmp_path / "a.png") in str(error.value)
        assert not (tmp_path / "a.png").exists()


def encode(pixels: Any) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    assert done
    return data.tobytes()


VALID = encode(small_map(v1005=(3, 7)))
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "8 bits": (
        lambda: encode(np.ones(SIZE, np.uint8)),
        "a PNG of 8 bits, grey; expected 16 bits, grey",
    ),
    "RGB": (lambda: encode(np.ones((*SIZE, 3), np.uint8)), "8 bits, RGB; expected 16"),
    "RGB of 16 bits": (lambda: encode(np.ones((*SIZE, 3), np.uint16)), "16 bits, RGB"),
    "RGBA": (lambda: encode(np.ones((*SIZE, 4), np.uint8)), "8 bits, RGBA"),
    "empty": (lambda: b"", "no PNG"),
    "JPEG": (lambda: cv2.imencode(".jpg", np.ones(SIZE, np.uint8))[1].tobytes(), "no PNG"),
    "text": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "no PNG"),
    "header only": (lambda: VALID[:30], "cut short or corrupt"),
    "half": (lambda: VALID[: len(VALID) // 2], "cut short or corrupt"),
    "without its end": (lambda: VALID[:-14], "cut short or corrupt"),
    "a flipped byte": (lambda: VALID[:60] + bytes([VALID[60] ^ 255]) + VALID[61:], "corrupt"),
    "too few rows": (lambda: png(96, 48, bytes(193) * 10), "cut short or corrupt"),
    "a bomb": (lambda: png(1 << 30, 1 << 30, b""), r"cannot be decoded|corrupt"),
    "unknown class": (
        lambda: encode(small_map(v3001=(3, 7))),
        "id 3001 has the unknown class 3, expected 1",
    ),
    "no class": (lambda: encode(small_map(v5=(3, 7))), "id 5 has the unknown class 0"),
    "another size": (
        lambda: encode(np.full((48, 95), 1005, np.uint16)),
        "id 1005 has a mask of 48 x 95 pixels, expected 48 x 96",
    ),
}


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "instances" / "0002"
        folder.mkdir(parents=True)
        for index in range(3):
            write_map(folder / f"{index:06d}.png", small_map(v1000=(0, 9), v10000=(20, 30)))
        return folder

    def test_every_map_is_a_frame(self, folder: Path) -> None:
        write_map(folder / "000003.png", np.zeros(SIZE, int))
        truth = read_truth(KITTI_MOTS, folder.parent)["0002"]
        assert truth.num_frames == 4
        assert truth.frame_names == tuple(f"{index:06d}.png" for index in range(4))
        assert truth.annotations.frame_index.tolist() == [0, 0, 1, 1, 2, 2]
        assert truth.annotations.identity.tolist() == [1000, 10000] * 3
        assert truth.annotations.boxes_xyxy[:2].tolist() == [[0, 0, 9, 48], [20, 0, 30, 48]]
        assert truth.annotations.ignored.tolist() == [False, True] * 3

    def test_maps_and_text_give_the_same(self, tmp_path: Path) -> None:
        objects, _ = random_scene(3)
        write_text(tmp_path / "text" / "0002.txt", objects)
        folder = tmp_path / "maps" / "0002"
        folder.mkdir(parents=True)
        for frame in range(25):
            here = [one for one in objects if one.frame == frame]
            values = [one.identity for one in here]
            pixels = paint_map([one.mask for one in here], values, SIZE)
            write_map(folder / f"{frame:06d}.png", pixels)
        text = read_truth(KITTI_MOTS, tmp_path / "text")["0002"]
        maps = read_truth(KITTI_MOTS, tmp_path / "maps")["0002"]
        assert len(text.annotations) > 50
        assert list(annotation_lines(text.annotations)) == list(annotation_lines(maps.annotations))
        assert maps.num_frames == 25

    def test_results_may_be_maps(self, tmp_path: Path) -> None:
        folder = tmp_path / "0002"
        folder.mkdir()
        write_map(folder / "000000.png", small_map(v2003=(0, 9), v1000=(20, 30)))
        write_map(folder / "000001.png", small_map())
        result = read_results(KITTI_MOTS, tmp_path)["0002"]
        assert result.num_frames == 2
        assert result.tracks.track_id.tolist() == [1000, 2003]
        assert result.tracks.class_index.tolist() == [0, 1]
        assert len(list(track_lines(result.tracks, CLASSES))) == 2
        write_map(folder / "000001.png", small_map(v10000=(0, 9)))
        with pytest.raises(ValueError, match=r"000001\.png, frame 1: id 10000 .* class 10"):
            read_results(KITTI_MOTS, tmp_path)

    def test_classes_that_are_not_evaluated_are_kept_in_truth_only(self, tmp_path: Path) -> None:
        folder = tmp_path / "road0_Record037_1"
        folder.mkdir()
        write_map(folder / "000000.png", small_map(v2003=(0, 9), v1000=(20, 30)))
        annotations = read_truth(APOLLO_MOTS, tmp_path)["road0_Record037_1"].annotations
        assert annotations.class_index.tolist() == [0, -1]
        assert annotations.category == ("car", "pedestrian")
        assert not annotations.ignored.any()
        with pytest.raises(
            ValueError, match=r"id 2003 has the unknown class 2, expected 1 \(car\)"
        ):
            read_results(APOLLO_MOTS, tmp_path)

    def test_a_missing_number_is_named(self, folder: Path) -> None:
        (folder / "000001.png").unlink()
        for read in (read_truth, read_results):
            with pytest.raises(
                ValueError, match=r"there is no 000001\.png \(1 maps are missing"
            ) as e:
                read(KITTI_MOTS, folder.parent)
            assert str(folder) in str(e.value)
        reporter = Reporter(strict=False)
        rows, maps = read_folder(folder, truth_rules(), reporter)
        assert (len(rows), sorted(maps), len(reporter.problems)) == (4, [0, 2], 1)

    @pytest.mark.parametrize("name", ["cover.png", "-00001.png", "1000000.png", "0000000001.png"])
    def test_names_that_are_no_frame_number_are_refused(self, folder: Path, name: str) -> None:
        (folder / name).write_bytes(VALID)
        with pytest.raises(ValueError, match="not named by a frame number from 0") as error:
            read_truth(KITTI_MOTS, folder.parent)
        assert str(folder / name) in str(error.value)

    def test_a_number_in_two_files_is_refused(self, folder: Path) -> None:
        (folder / "1.png").write_bytes(VALID)
        with pytest.raises(ValueError, match=r"1\.png: frame 1 is in 000001\.png as well"):
            read_truth(KITTI_MOTS, folder.parent)

    def test_hidden_and_other_files_do_not_count(self, folder: Path) -> None:
        (folder / "._000000.png").write_bytes(b"x")
        (folder / "notes.txt").write_text("x")
        assert read_truth(KITTI_MOTS, folder.parent)["0002"].num_frames == 3

    @pytest.mark.parametrize("case", BROKEN)
    def test_a_broken_map_is_refused_with_file_and_frame(self, folder: Path, case: str) -> None:
        make, message = BROKEN[case]
        (folder / "000001.png").write_bytes(make())
        with pytest.raises(ValueError, match=message) as error:
            read_truth(KITTI_MOTS, folder.parent)
        assert str(folder / "000001.png") in str(error.value)
        assert "frame 1" in str(error.value)

    @pytest.mark.parametrize("case", BROKEN)
    def test_ingest_names_it_and_keeps_the_frame(self, folder: Path, case: str) -> None:
        make, message = BROKEN[case]
        (folder / "000001.png").write_bytes(make())
        reporter = Reporter(strict=False)
        rows, maps = read_folder(folder, truth_rules(), reporter)
        assert {row.frame_index for row in rows} == {0, 2}
        assert sorted(maps) == [0, 1, 2]
        (problem,) = reporter.problems
        with pytest.raises(ValueError, match=message):
            raise ValueError(problem.what)

    def test_absent_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"x\.png: No such file"):
            read_map(tmp_path / "x.png")
