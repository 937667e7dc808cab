"""What ingest is given of BDD100K: the sequences that are there, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from datasets import bdd100k
from datasets.schema import SequenceSource
from tests.bdd100k_files import NAME, frame, label, write

Frames = list[dict[str, Any]]


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"never opened here")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Training sequences `a` (images) and `b` (raw video), and nothing else."""
    for name in ("a", "b"):
        frames = [
            frame(t, label(), name=bdd100k.frame_name(name, t), videoName=name) for t in range(3)
        ]
        write(tmp_path / f"labels/box_track_20/train/{name}.json", frames)
    write_images(tmp_path / "images/track/train/a", [bdd100k.frame_name("a", t) for t in range(3)])
    (tmp_path / "videos/train").mkdir(parents=True)
    (tmp_path / "videos/train/b.mov").touch()
    (tmp_path / "videos/train/unlabelled.mov").touch()
    return tmp_path


class TestListing:
    def test_images_come_first_and_raw_video_is_the_fallback(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (root / "videos/train/a.mov").touch()
        sources, problems = bdd100k.list_sequences(root, "train")
        assert [(s.name, len(s.images), s.video) for s in sources] == [
            ("a", 3, None),
            ("b", 0, str(root / "videos/train/b.mov")),
        ]
        assert problems == []
        assert sources[1].options == {"frame_rate": 5.0, "label_stride": 6, "label_phase": 0}
        assert "unverified" in caplog.text
        assert "1 sequences" in caplog.text

    def test_image_folders_alone_do_not_warn(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (root / "labels/box_track_20/train/b.json").unlink()
        sources, _ = bdd100k.list_sequences(root, "train")
        assert [source.name for source in sources] == ["a"]
        assert caplog.text == ""

    def test_images_are_sorted_by_name(self, root: Path) -> None:
        sources, _ = bdd100k.list_sequences(root, "train")
        assert [Path(path).name for path in sources[0].images] == [
            bdd100k.frame_name("a", t) for t in range(3)
        ]

    def test_what_is_missing_is_named(self, root: Path) -> None:
        write_images(root / "images/track/train/c", ["c-0000001.jpg"])
        write(root / "labels/box_track_20/train/d.json", [])
        sources, problems = bdd100k.list_sequences(root, "train")
        assert [source.name for source in sources] == ["a", "b"]
        assert [problem.where for problem in problems] == [
            "bdd100k/train, sequence c",
            "bdd100k/train, sequence d",
        ]
        assert "no label file" in problems[0].what
        assert "no image" in problems[1].what

    def test_an_absent_split_is_a_problem_and_an_unknown_one_an_error(self, root: Path) -> None:
        for split in ("val", "test", "det_train"):
            sources, problems = bdd100k.list_sequences(root, split)
            assert sources == []
            assert len(problems) == 1
        with pytest.raises(ValueError, match="no split 'training'"):
            bdd100k.list_sequences(root, "training")

    def test_the_test_split_has_no_labels(self, root: Path) -> None:
        write_images(root / "images/track/test/t", ["t-0000001.jpg"])
        sources, problems = bdd100k.list_sequences(root, "test")
        assert [(source.name, source.labels) for source in sources] == [("t", None)]
        assert problems == []

    def test_expected_files_tell_what_is_there(self, root: Path) -> None:
        there = {file.path: file.exists for file in bdd100k.expected_files(root)}
        assert there["images/track/train"]
        assert there["labels/box_track_20/train"]
        assert not there["labels/box_track_20/val"]
        required = {file.path for file in bdd100k.expected_files(root) if file.required}
        assert "labels/det_20/det_train.json" not in required
        assert "images/track/val" in required

    def test_raw_video_stands_in_for_images(self, root: Path) -> None:
        for path in sorted((root / "images/track/train/a").iterdir()):
            path.unlink()
        (root / "images/track/train/a").rmdir()
        there = {file.path: file.exists for file in bdd100k.expected_files(root)}
        assert there["images/track/train"]


def source_of(root: Path, name: str = "a", split: str = "train") -> SequenceSource:
    sources, _ = bdd100k.list_sequences(root, split)
    return next(source for source in sources if source.name == name)


def relabel(root: Path, frames: Frames) -> SequenceSource:
    """The source of sequence `a` with other labels."""
    for one in frames:
        if one.get("videoName") == NAME:
            one["videoName"] = "a"
        one["name"] = one["name"].replace(NAME, "a")
    write(root / "labels/box_track_20/train/a.json", frames)
    return source_of(root)


class TestIngest:
    def test_sound_labels_have_no_problem(self, root: Path) -> None:
        for name in ("a", "b"):
            truth, problems = bdd100k.read_annotations(source_of(root, name))
            assert problems == []
            assert truth.name == name
            assert truth.num_frames == 3
            assert len(truth.annotations) == 3

    def test_broken_labels_are_counted_and_the_rest_goes_on(self, root: Path) -> None:
        bad_box = {"x1": float("nan"), "y1": 0, "x2": 1, "y2": 1}
        frames = [
            frame(0, label("1"), label("2", "tree"), label("1"), label("0", box2d=bad_box)),
            frame(1, label("1"), "nonsense", label("9", attributes={"crowd": 1})),
            frame(2, label("5")),
        ]
        truth, problems = bdd100k.read_annotations(relabel(root, frames))
        assert truth.num_frames == 3
        assert truth.annotations.frame_index.tolist() == [0, 1, 2]
        assert truth.annotations.identity_source == ("1", "1", "5")
        # Numbered without the lost ones: 0 is free again.
        assert truth.annotations.identity.tolist() == [0, 0, 1]
        assert len(problems) == 5
        assert all("a.json, sequence a, frame" in problem.where for problem in problems)

    def test_an_image_without_labels_is_a_frame_without_objects(self, root: Path) -> None:
        frames = [frame(0, label("1")), frame(2, label("3"))]
        truth, problems = bdd100k.read_annotations(relabel(root, frames))
        assert truth.frame_names == tuple(bdd100k.frame_name("a", t) for t in range(3))
        assert truth.annotations.frame_index.tolist() == [0, 2]
        assert len(problems) == 1
        assert "frame 1" in problems[0].where

    def test_an_image_behind_the_labels_is_a_frame_too(self, root: Path) -> None:
        truth, problems = bdd100k.read_annotations(relabel(root, [frame(0), frame(1)]))
        assert truth.num_frames == 3
        assert "a-0000003.jpg" in problems[0].what

    def test_a_label_frame_without_image_stays(self, root: Path) -> None:
        frames = [frame(t, label("1")) for t in range(4)]
        truth, problems = bdd100k.read_annotations(relabel(root, frames))
        assert truth.num_frames == 4
        assert truth.annotations.frame_index.tolist() == [0, 1, 2, 3]
        assert problems == []  # ingest tells of the image that it does not find

    def test_images_are_matched_by_name_and_strangers_left_out(self, root: Path) -> None:
        write_images(root / "images/track/train/a", ["thumbnail.jpg"])
        truth, problems = bdd100k.read_annotations(source_of(root))
        assert truth.num_frames == 3
        assert "thumbnail.jpg" in problems[0].what
        assert "left out" in problems[0].what

    def test_a_gap_without_an_image_keeps_the_numbers_of_later_frames(self, root: Path) -> None:
        # Raw video: frame 4 of the labels is video frame 24, whatever is missing before.
        frames = [frame(t, label("1")) for t in (0, 1, 4)]
        source = relabel(root, frames)
        truth, problems = bdd100k.read_annotations(source)
        assert truth.num_frames == 5
        assert truth.annotations.frame_index.tolist() == [0, 1, 4]
        assert [problem.where[-7:] for problem in problems] == ["frame 2", "frame 3"]

    def test_a_frame_index_out_of_all_bounds_loses_the_sequence(self, root: Path) -> None:
        source = relabel(root, [frame(0), frame(10**12)])
        with pytest.raises(ValueError, match="reach 1000000000000"):
            bdd100k.read_annotations(source)

    def test_frame_index_twice_keeps_the_first(self, root: Path) -> None:
        frames = [frame(0, label("1")), frame(0, label("2"), name="x.jpg"), frame(1), frame(2)]
        truth, problems = bdd100k.read_annotations(relabel(root, frames))
        assert truth.annotations.identity_source == ("1",)
        assert len(problems) == 1

    def test_frames_of_another_sequence_are_left_out(self, root: Path) -> None:
        frames = [frame(t) for t in range(3)] + [frame(0, label(), videoName="z", name="z.jpg")]
        truth, problems = bdd100k.read_annotations(relabel(root, frames))
        assert len(truth.annotations) == 0
        assert "'z'" in problems[0].what

    @pytest.mark.parametrize("content", ["", "[{", "[]"])
    def test_an_unusable_label_file_is_named(self, root: Path, content: str) -> None:
        path = root / "labels/box_track_20/train/a.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=r"a\.json"):
            bdd100k.read_annotations(source_of(root))


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    """Four images, five label frames, three of them of these images."""
    entries = [
        {"name": "i1.jpg", "labels": [label("1"), label("2", "traffic light")]},
        {"name": "i2.jpg", "labels": None},
        {"name": "gone.jpg", "labels": [label("1")]},
        {"name": "i3.jpg", "attributes": {"scene": "straße"}, "labels": [label("1", "tree")]},
        {"labels": []},
    ]
    path = tmp_path / "labels/det_20/det_train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    write_images(tmp_path / "images/100k/train", ["i1.jpg", "i2.jpg", "i3.jpg", "new.jpg"])
    return tmp_path


class TestStills:
    def test_one_source_per_image_with_labels(self, stills: Path) -> None:
        sources, problems = bdd100k.list_sequences(stills, "det_train")
        assert [source.name for source in sources] == ["i1", "i2", "i3"]
        assert all(source.is_still and len(source.images) == 1 for source in sources)
        assert [problem.what.split(" ")[0] for problem in problems] == ["the", "1", "1"]
        assert "new.jpg" in problems[1].what
        assert "gone.jpg" in problems[2].what

    def test_each_reads_its_own_labels_only(self, stills: Path) -> None:
        sources, _ = bdd100k.list_sequences(stills, "det_train")
        truths = [bdd100k.read_annotations(source) for source in sources]
        assert [truth.frame_names for truth, _ in truths] == [("i1.jpg",), ("i2.jpg",), ("i3.jpg",)]
        first, problems = truths[0]
        assert first.annotations.category == ("car",)  # the traffic light is no class of tracking
        assert problems == []
        assert len(truths[1][0].annotations) == 0
        assert "tree" in truths[2][1][0].what

    def test_a_label_file_that_changed_meanwhile_is_noticed(self, stills: Path) -> None:
        sources, _ = bdd100k.list_sequences(stills, "det_train")
        path = stills / "labels/det_20/det_train.json"
        path.write_text(path.read_text().replace('[{"name"', '[  {"name"'))
        with pytest.raises(ValueError, match="changed"):
            bdd100k.read_annotations(sources[1])

    @pytest.mark.parametrize("content", ["", '[{"name": "i1.jpg"}', '{"config": {}}', "[1 2]"])
    def test_a_broken_label_file_is_named(self, stills: Path, content: str) -> None:
        path = stills / "labels/det_20/det_train.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=r"det_train\.json, byte \d+"):
            bdd100k.list_sequences(stills, "det_train")
