"""KITTI MOTS and APOLLO MOTS: layouts, splits, lengths of sequences, and ingest of them."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.kitti_mots import (
    APOLLO_MOTS,
    KITTI_MOTS,
    SEQUENCES,
    MotsLayout,
    expected_files,
    list_sequences,
)
from datasets.masks import decode_mask
from datasets.mots_png import write_map
from datasets.mots_reading import read_annotations, read_truth
from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, Problem, SequenceSource
from pipeline.frames import FrameReader
from pipeline.frames import read_annotations as read_stored_annotations
from pipeline.ingest import _raw_files
from pipeline.ingest_segment import Outcome, cut_segments, ingest_segment
from pipeline.store import Artefact

SIZE = (12, 20)
LINE = "{} {} 1 12 20 {}\n"


def write_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))


def car(column: int, value: int = 1000) -> np.ndarray:
    instance_map = np.zeros(SIZE, np.uint16)
    instance_map[2:6, column : column + 3] = value
    return instance_map


def write_maps(folder: Path, num_frames: int = 3, *, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for index in range(num_frames):
        write_map(folder / f"{index + first:06d}.png", car(index))
    return folder


def write_images(folder: Path, num_frames: int = 3, *, first: int = 0) -> Path:
    for index in range(num_frames):
        write_image(folder / f"{index + first:06d}.png")
    return folder


def write_lines(path: Path, *frames: int) -> Path:
    """One car in each of the frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Four pixels in the first column.
    path.write_text("".join(LINE.format(frame, 1000, "04\\7") for frame in frames))
    return path


def only(split: str, name: str, root: Path) -> SequenceSource:
    sources, _ = list_sequences(KITTI_MOTS, root, split)
    assert [source.name for source in sources] == [name]
    return sources[0]


def names(paths: tuple[str, ...]) -> list[str]:
    return [Path(path).name for path in paths]


class TestSplits:
    def test_the_published_ones(self) -> None:
        assert [len(SEQUENCES[split]) for split in ("train", "val", "test")] == [12, 9, 29]
        assert sorted(SEQUENCES["train"] + SEQUENCES["val"]) == [f"{n:04d}" for n in range(21)]
        assert KITTI_MOTS.splits == APOLLO_MOTS.splits == ("train", "val", "test")

    @pytest.mark.parametrize("folder", ["images", "training/image_02"])
    @pytest.mark.parametrize("split", ["train", "val"])
    def test_both_layouts_are_found(self, tmp_path: Path, folder: str, split: str) -> None:
        name = SEQUENCES[split][1]
        write_images(tmp_path / folder / name)
        maps = write_maps(tmp_path / "instances" / name)
        source = only(split, name, tmp_path)
        assert names(source.images) == ["000000.png", "000001.png", "000002.png"]
        assert Path(source.images[0]).parent == tmp_path / folder / name
        assert source.labels == str(maps)
        assert source.options == {"frame_rate": 10.0}
        assert (source.dataset, source.split) == ("kitti_mots", split)

    def test_test_sequences_have_folders_of_their_own_and_no_labels(self, tmp_path: Path) -> None:
        # 0000 of the test set is another sequence than 0000 of the training set.
        write_images(tmp_path / "images" / "0000", 2)
        write_maps(tmp_path / "instances" / "0000", 2)
        assert list_sequences(KITTI_MOTS, tmp_path, "test")[0] == []
        write_images(tmp_path / "testing" / "image_02" / "0000", 5)
        source = only("test", "0000", tmp_path)
        assert source.labels is None
        assert len(source.images) == 5
        assert len(only("train", "0000", tmp_path).images) == 2

    def test_maps_are_preferred_to_text(self, tmp_path: Path) -> None:
        for name in ("0002", "0006"):
            write_images(tmp_path / "images" / name)
            write_lines(tmp_path / "instances_txt" / f"{name}.txt", 0)
        maps = write_maps(tmp_path / "instances" / "0002")
        sources, _ = list_sequences(KITTI_MOTS, tmp_path, "val")
        texts = tmp_path / "instances_txt"
        assert [source.labels for source in sources] == [str(maps), str(texts / "0006.txt")]

    @pytest.mark.parametrize("name", ["val.seqmap", "evaluate_mots.seqmap.val"])
    def test_a_list_in_the_data_root_decides(self, tmp_path: Path, name: str) -> None:
        for sequence in ("0000", "0001", "0002"):
            write_images(tmp_path / "images" / sequence)
            write_maps(tmp_path / "instances" / sequence)
        (tmp_path / name).write_text("0001 empty 000000 000002\n0000 empty 000000 000002\n")
        sources, problems = list_sequences(KITTI_MOTS, tmp_path, "val")
        assert [source.name for source in sources] == ["0001", "0000"]
        assert problems == []

    def test_apollo_needs_a_list(self, tmp_path: Path) -> None:
        name = "road0_Record037_1"
        write_images(tmp_path / "images" / name)
        write_maps(tmp_path / "instances" / name)
        sources, (problem,) = list_sequences(APOLLO_MOTS, tmp_path, "train")
        assert sources == []
        assert str(tmp_path / "train.seqmap") in problem.what
        (tmp_path / "train.seqmap").write_text(f"{name} empty 000000 000002\n")
        (source,), problems = list_sequences(APOLLO_MOTS, tmp_path, "train")
        assert (source.name, source.dataset, problems) == (name, "apollo_mots", [])
        assert source.options == {}
        truth, problems = read_annotations(APOLLO_MOTS, source)
        assert (truth.name, len(truth.annotations), problems) == (name, 3, [])
        assert list(read_truth(APOLLO_MOTS, tmp_path)) == [name]

    def test_apollo_test_sequences_lie_beside_the_others(self, tmp_path: Path) -> None:
        write_images(tmp_path / "images" / "road1_a")
        (tmp_path / "test.seqmap").write_text("road1_a empty 000000 000002\n")
        (source,), problems = list_sequences(APOLLO_MOTS, tmp_path, "test")
        assert (source.labels, problems) == (None, [])

    def test_unknown_splits_are_errors(self, tmp_path: Path) -> None:
        for layout in (KITTI_MOTS, APOLLO_MOTS):
            with pytest.raises(ValueError, match=f"{layout.name} has no split 'dev', expected one"):
                list_sequences(layout, tmp_path, "dev")

    def test_a_list_that_steps_out_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "train.seqmap").write_text("../../etc empty 000000 000002\n")
        with pytest.raises(ValueError, match=r"train\.seqmap, line 1: .*name of a sequence"):
            list_sequences(KITTI_MOTS, tmp_path, "train")


class TestMissing:
    def test_absent_sequences_are_one_problem(self, tmp_path: Path) -> None:
        write_images(tmp_path / "images" / "0002")
        write_maps(tmp_path / "instances" / "0002")
        sources, (problem,) = list_sequences(KITTI_MOTS, tmp_path, "val")
        assert len(sources) == 1
        assert problem.where == "kitti_mots/val"
        assert problem.what == (
            f"8 of 9 sequences are not in {tmp_path} (0006, 0007, 0008 ...), expected their images "
            "in images or training/image_02"
        )

    def test_halves_of_a_sequence_are_named(self, tmp_path: Path) -> None:
        write_images(tmp_path / "images" / "0002")
        write_maps(tmp_path / "instances" / "0006")
        sources, problems = list_sequences(KITTI_MOTS, tmp_path, "val")
        assert sources == []
        found = {problem.where: problem.what for problem in problems}
        assert "no labels" in found["kitti_mots/val, sequence 0002"]
        assert "no image" in found["kitti_mots/val, sequence 0006"]

    def test_a_lost_image_keeps_its_place(self, tmp_path: Path) -> None:
        images = write_images(tmp_path / "images" / "0002", 4)
        write_maps(tmp_path / "instances" / "0002", 4)
        (images / "000001.png").unlink()
        source = only("val", "0002", tmp_path)
        assert names(source.images) == [f"{index:06d}.png" for index in range(4)]

    def test_files_that_are_no_frame_are_named(self, tmp_path: Path) -> None:
        images = write_images(tmp_path / "images" / "0002")
        write_maps(tmp_path / "instances" / "0002")
        write_image(images / "cover.png")
        _, problems = list_sequences(KITTI_MOTS, tmp_path, "val")
        assert problems[0].where == str(images / "cover.png")

    def test_expected_files(self, tmp_path: Path) -> None:
        def there(layout: MotsLayout) -> dict[str, tuple[bool, bool]]:
            rows = expected_files(layout, tmp_path)
            return {row.path: (row.required, row.exists) for row in rows}

        assert there(KITTI_MOTS) == {
            "images": (True, False),
            "instances": (True, False),
            "testing/image_02": (False, False),
        }
        write_images(tmp_path / "training" / "image_02" / "0002")
        write_lines(tmp_path / "instances_txt" / "0002.txt", 0)
        assert there(KITTI_MOTS)["images"] == (True, True)
        assert there(KITTI_MOTS)["instances"] == (True, True)
        (tmp_path / "evaluate_mots.seqmap.val").touch()
        assert there(APOLLO_MOTS) == {
            "images": (True, True),
            "instances": (True, True),
            "train.seqmap": (True, False),
            "val.seqmap": (True, True),
            "test.seqmap": (False, False),
        }


class TestLengths:
    """Text does not say how many frames follow the last object."""

    def length(self, path: Path) -> int:
        return read_truth(KITTI_MOTS, path)["0002"].num_frames

    @pytest.mark.parametrize("name", ["val.seqmap", "evaluate_mots.seqmap.val", "my_seqmap.txt"])
    @pytest.mark.parametrize("above", [False, True])
    def test_a_list_tells_it(self, tmp_path: Path, name: str, above: bool) -> None:
        path = write_lines(tmp_path / "root" / "instances_txt" / "0002.txt", 0, 4)
        place = path.parents[1] if above else path.parent
        (place / name).write_text("0001 empty 000000 000003\n0002 empty 000000 000009\n")
        for given in (path, path.parent, path.parents[1]):
            assert self.length(given) == 10

    def test_two_lists_must_agree(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "0002.txt", 0)
        (tmp_path / "a.seqmap").write_text("0002 empty 000000 000009\n")
        (tmp_path / "b.seqmap").write_text("0002 empty 000000 000009\n")
        assert self.length(path) == 10
        (tmp_path / "b.seqmap").write_text("0002 empty 000000 000008\n")
        with pytest.raises(ValueError, match=r"10 in .*a\.seqmap, 9 in .*b\.seqmap") as error:
            self.length(path)
        assert str(path) in str(error.value)

    def test_an_object_behind_the_list_is_an_error(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "0002.txt", 0, 4)
        (tmp_path / "a.seqmap").write_text("0002 empty 000000 000003\n")
        with pytest.raises(
            ValueError, match=r"line 2, frame 4: behind the last of 4 frames in .*a\."
        ):
            self.length(path)

    @pytest.mark.parametrize("folder", ["images", "training/image_02"])
    def test_else_the_images_do(self, tmp_path: Path, folder: str) -> None:
        path = write_lines(tmp_path / "instances_txt" / "0002.txt", 0, 4)
        write_images(tmp_path / folder / "0002", 7)
        assert self.length(tmp_path) == self.length(path) == 7

    def test_else_the_last_object_does_with_a_message(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write_lines(tmp_path / "0002.txt", 0, 4)
        with caplog.at_level(logging.INFO, "datasets.mots_reading"):
            assert self.length(path) == 5
        assert f"{path}: neither seqmap nor images: the sequence ends at frame 4" in caplog.text

    def test_without_any_object_nothing_does(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "0002.txt")
        with pytest.raises(ValueError, match=r"0002\.txt: no object in the file, and neither"):
            self.length(path)
        (tmp_path / "a.seqmap").write_text("0002 empty 000000 000009\n")
        truth = read_truth(KITTI_MOTS, path)["0002"]
        assert (truth.num_frames, len(truth.annotations)) == (10, 0)

    def test_maps_tell_it_themselves(self, tmp_path: Path) -> None:
        folder = write_maps(tmp_path / "instances" / "0002", 6)
        (tmp_path / "a.seqmap").write_text("nonsense\n")
        for given in (tmp_path, folder.parent, folder):
            assert self.length(given) == 6

    def test_no_labels_at_all_are_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "instances").mkdir()
        with pytest.raises(ValueError, match=r"no \*\.txt and no folder of \*\.png") as error:
            read_truth(KITTI_MOTS, tmp_path)
        assert str(tmp_path) in str(error.value)


def ingest_one(source: SequenceSource, tmp_path: Path) -> tuple[Artefact, Outcome]:
    artefact = Artefact(
        root=str(tmp_path / "out"),
        stage="frames",
        dataset="kitti_mots",
        split="val",
        fingerprint="0" * 16,
    )
    (segment,) = cut_segments(source)
    return artefact, ingest_segment(artefact, segment, jpeg_quality=90)


def stored(artefact: Artefact, outcome: Outcome) -> tuple[list[str], Annotations]:
    part = artefact.part(outcome.sequence)
    with part.write() as writer:
        writer.adopt(outcome.files)
        writer.details = {**outcome.details, "num_frames": outcome.num_frames}
    frames = FrameReader(part).read(0, 100)
    return [frame.name for frame in frames], read_stored_annotations(part)


def what(problems: list[Problem]) -> str:
    return "\n".join(f"{problem.where}: {problem.what}" for problem in problems)


class TestIngest:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "raw"
        write_images(root / "images" / "0002", 4)
        write_maps(root / "instances" / "0002", 4)
        return root

    def test_frames_and_masks_are_stored(self, root: Path, tmp_path: Path) -> None:
        write_map(root / "instances" / "0002" / "000001.png", np.zeros(SIZE, int))
        artefact, outcome = ingest_one(only("val", "0002", root), tmp_path)
        assert (outcome.problems, outcome.is_lost, outcome.num_frames) == ([], False, 4)
        assert outcome.details["frame_rate"] == 10.0
        frame_names, annotations = stored(artefact, outcome)
        assert frame_names == [f"{index:06d}.png" for index in range(4)]
        assert annotations.frame_index.tolist() == [0, 2, 3]
        assert annotations.masks is not None
        assert np.array_equal(decode_mask(annotations.masks[1]), car(2) > 0)
        assert annotations.identity_source == ("1000",) * 3

    def test_text_has_the_length_of_the_images(self, root: Path, tmp_path: Path) -> None:
        (root / "instances").rename(root / "away")
        write_lines(root / "instances_txt" / "0002.txt", 1, 2)
        artefact, outcome = ingest_one(only("val", "0002", root), tmp_path)
        assert (outcome.problems, outcome.num_frames) == ([], 4)
        _, annotations = stored(artefact, outcome)
        assert annotations.frame_index.tolist() == [1, 2]

    def test_images_of_another_suffix_keep_their_names(self, tmp_path: Path) -> None:
        for index in range(2):
            write_image(tmp_path / "images" / "0002" / f"{index:06d}.jpg")
        write_maps(tmp_path / "instances" / "0002", 2)
        truth, problems = read_annotations(KITTI_MOTS, only("val", "0002", tmp_path))
        assert (truth.frame_names, problems) == (("000000.jpg", "000001.jpg"), [])

    def test_a_lost_image_keeps_frame_and_labels(self, root: Path, tmp_path: Path) -> None:
        (root / "images" / "0002" / "000001.png").unlink()
        artefact, outcome = ingest_one(only("val", "0002", root), tmp_path)
        assert outcome.broken_frames == [1]
        assert "000001.png" in what(outcome.problems)
        frame_names, annotations = stored(artefact, outcome)
        assert len(frame_names) == 4
        assert annotations.frame_index.tolist() == [0, 1, 2, 3]

    def test_images_lost_at_the_end_keep_frames(self, root: Path, tmp_path: Path) -> None:
        (root / "images" / "0002" / "000003.png").unlink()
        _, outcome = ingest_one(only("val", "0002", root), tmp_path)
        assert (outcome.num_frames, outcome.broken_frames) == (4, [3])
        assert "4 maps for 3 images" in what(outcome.problems)

    def test_a_broken_map_is_named_and_the_rest_goes_on(self, root: Path, tmp_path: Path) -> None:
        (root / "instances" / "0002" / "000002.png").write_bytes(b"")
        artefact, outcome = ingest_one(only("val", "0002", root), tmp_path)
        (problem,) = outcome.problems
        assert "0002, frame 2" in problem.where
        assert "000002.png: no PNG" in problem.what
        _, annotations = stored(artefact, outcome)
        assert annotations.frame_index.tolist() == [0, 1, 3]

    def test_labels_of_another_size_than_the_images_lose_the_sequence(
        self, root: Path, tmp_path: Path
    ) -> None:
        for index in range(4):
            write_image(root / "images" / "0002" / f"{index:06d}.png", (12, 21))
        _, outcome = ingest_one(only("val", "0002", root), tmp_path)
        assert outcome.is_lost
        assert "of the masks are (12, 20), those of " in what(outcome.problems)

    def test_every_label_file_belongs_to_the_fingerprint(self, root: Path) -> None:
        files = set(_raw_files(only("val", "0002", root)))
        maps = sorted((root / "instances" / "0002").iterdir())
        images = sorted((root / "images" / "0002").iterdir())
        assert files == {str(path) for path in maps + images}


def test_the_registry_reads_both(tmp_path: Path) -> None:
    write_maps(tmp_path / "instances" / "0002")
    for name in ("kitti_mots", "apollo_mots"):
        truths = BENCHMARKS[name].read_truth(tmp_path)
        assert {n: len(truth.annotations) for n, truth in truths.items()} == {"0002": 3}
    assert BENCHMARKS["kitti_mots"].classes == ("car", "pedestrian")
    assert BENCHMARKS["apollo_mots"].classes == ("car",)
