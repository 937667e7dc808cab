"""MOTSChallenge: pedestrians, frames from 1, in MOTChallenge's folders or KITTI MOTS's."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.mots_challenge import expected_files, list_sequences, read_annotations, read_truth
from datasets.mots_png import write_map
from datasets.registry import BENCHMARKS

SIZE = (12, 20)


def line(frame: int, value: int = 2001, class_id: int = 2) -> str:
    """A row of four pixels in the first column."""
    return f"{frame} {value} {class_id} 12 20 04\\7\n"


def write_images(folder: Path, num_frames: int = 3) -> None:
    folder.mkdir(parents=True)
    for number in range(1, num_frames + 1):
        path = folder / f"{number:06d}.jpg"
        assert cv2.imwrite(str(path), np.full((*SIZE, 3), 90, np.uint8))


def write_sequence(folder: Path, truth: str | None, *, length: int = 3) -> Path:
    """A sequence in MOTChallenge's layout."""
    write_images(folder / "img1", length)
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate=30\nseqLength={length}\n"
        "imWidth=20\nimHeight=12\nimExt=.jpg\n"
    )
    if truth is not None:
        (folder / "gt").mkdir()
        (folder / "gt" / "gt.txt").write_text(truth)
    return folder


class TestSequenceFolders:
    def test_sequences_are_listed_and_read(self, tmp_path: Path) -> None:
        write_sequence(tmp_path / "train" / "MOTS20-02", line(1) + line(3))
        (source,), problems = list_sequences(tmp_path, "train")
        assert (source.dataset, source.name, problems) == ("mots_challenge", "MOTS20-02", [])
        assert source.options == {"frame_rate": 30.0}
        truth, problems = read_annotations(source)
        assert problems == []
        assert truth.frame_names == ("000001.jpg", "000002.jpg", "000003.jpg")
        assert tuple(Path(path).name for path in source.images) == truth.frame_names
        assert truth.annotations.frame_index.tolist() == [0, 2]
        assert truth.annotations.class_index.tolist() == [0, 0]
        assert truth.annotations.identity.tolist() == [2001, 2001]
        assert truth.annotations.boxes_xyxy[0].tolist() == [0, 0, 1, 4]

    def test_ignore_regions_and_other_classes_are_kept(self, tmp_path: Path) -> None:
        text = line(1, 10000, 10) + line(2, 1003, 1)
        write_sequence(tmp_path / "MOTS20-02", text)
        annotations = read_truth(tmp_path)["MOTS20-02"].annotations
        assert annotations.category == ("ignore", "car")
        assert annotations.class_index.tolist() == [-1, -1]
        assert annotations.ignored.tolist() == [True, False]

    def test_truth_is_one_folder_or_several(self, tmp_path: Path) -> None:
        for name in ("MOTS20-02", "MOTS20-05"):
            write_sequence(tmp_path / name, line(1))
        truths = BENCHMARKS["mots_challenge"].read_truth(tmp_path)
        assert {name: truth.num_frames for name, truth in truths.items()} == {
            "MOTS20-02": 3,
            "MOTS20-05": 3,
        }
        assert list(read_truth(tmp_path / "MOTS20-05")) == ["MOTS20-05"]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (line(4), "line 2, frame 4: behind the last of 3 frames, the seqLength"),
            (line(0), "line 2, frame 0: frame 0 of id 2001, expected 1 to 999999"),
            (line(1), "line 2, frame 1: id 2001 occurs twice"),
            (line(1, 2002), "line 2, frame 1: ids 2001 and 2002 overlap"),
            (line(2, 3001, 3), "line 2, frame 2: id 3001 has the unknown class 3"),
        ],
    )
    def test_broken_rows_raise_in_scoring_and_are_counted_by_ingest(
        self, tmp_path: Path, row: str, message: str
    ) -> None:
        folder = write_sequence(tmp_path / "train" / "MOTS20-02", line(1) + row)
        with pytest.raises(ValueError, match=message) as error:
            read_truth(tmp_path / "train")
        assert str(folder / "gt" / "gt.txt") in str(error.value)
        (source,), _ = list_sequences(tmp_path, "train")
        truth, (problem,) = read_annotations(source)
        assert len(truth.annotations) == 1
        with pytest.raises(ValueError, match=message):
            raise ValueError(f"{problem.where}: {problem.what}")

    def test_test_sequences_have_no_labels(self, tmp_path: Path) -> None:
        write_sequence(tmp_path / "test" / "MOTS20-01", None)
        (source,), problems = list_sequences(tmp_path, "test")
        assert (source.labels, problems) == (None, [])
        there = {file.path: file.exists for file in expected_files(tmp_path)}
        assert there["test/MOTS20-01/img1"]
        assert not there["train"]

    def test_a_missing_truth_is_named(self, tmp_path: Path) -> None:
        write_sequence(tmp_path / "train" / "MOTS20-02", None)
        sources, (problem,) = list_sequences(tmp_path, "train")
        assert sources == []
        assert problem.where == "mots_challenge/train, sequence MOTS20-02"
        with pytest.raises(ValueError, match=r"gt\.txt: No such file"):
            read_truth(tmp_path / "train")


class TestFoldersOfKittiMots:
    @pytest.mark.parametrize("maps", [False, True])
    def test_frames_count_from_one(self, tmp_path: Path, maps: bool) -> None:
        write_images(tmp_path / "images" / "0002")
        if maps:
            (tmp_path / "instances" / "0002").mkdir(parents=True)
            for number in (1, 2, 3):
                pixels = np.zeros(SIZE, int)
                pixels[:4, 0] = 2001
                write_map(tmp_path / "instances" / "0002" / f"{number:06d}.png", pixels)
        else:
            (tmp_path / "instances_txt").mkdir()
            text = line(1) + line(2) + line(3)
            (tmp_path / "instances_txt" / "0002.txt").write_text(text)
        (source,), _ = list_sequences(tmp_path, "train")
        truth, problems = read_annotations(source)
        assert problems == []
        assert truth.frame_names == ("000001.jpg", "000002.jpg", "000003.jpg")
        assert truth.annotations.frame_index.tolist() == [0, 1, 2]
        found = read_truth(tmp_path)["0002"]
        assert found.num_frames == 3
        assert found.annotations.boxes_xyxy.tolist() == [[0, 0, 1, 4]] * 3

    def test_a_map_of_frame_zero_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "0002").mkdir()
        write_map(tmp_path / "0002" / "000000.png", np.zeros(SIZE, int))
        with pytest.raises(ValueError, match=r"000000\.png: not named by a frame number from 1"):
            read_truth(tmp_path)

    def test_expected_files(self, tmp_path: Path) -> None:
        assert [file.path for file in expected_files(tmp_path)] == ["images", "instances"]

    def test_unknown_splits_are_errors(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="mots_challenge has no split 'val'"):
            list_sequences(tmp_path, "val")


class TestResults:
    def test_frames_count_from_one(self, tmp_path: Path) -> None:
        (tmp_path / "MOTS20-02.txt").write_text(line(1, 7) + line(3, 7))
        (tmp_path / "MOTS20-05.txt").write_text("")
        results = BENCHMARKS["mots_challenge"].read_results(tmp_path)
        assert results["MOTS20-02"].tracks.frame_index.tolist() == [0, 2]
        assert results["MOTS20-02"].tracks.class_index.tolist() == [0, 0]
        assert len(results["MOTS20-05"].tracks) == 0

    def test_cars_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "MOTS20-02.txt").write_text(line(1, 7, 1))
        expected = (
            r"MOTS20-02\.txt, line 1, frame 1: id 7 has the unknown class 1, expected 2 \(ped"
        )
        with pytest.raises(ValueError, match=expected):
            BENCHMARKS["mots_challenge"].read_results(tmp_path)
