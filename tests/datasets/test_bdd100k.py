"""The BDD100K reader: both releases, its traps, and errors that name the place."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import bdd100k
from datasets.schema import SequenceSource

NAME = "b1c66a42-6f7d68ca"

Frames = list[dict[str, Any]]


def label(identity: Any = "1", category: Any = "car", **fields: Any) -> dict[str, Any]:
    """A label whose box is 10 x 20 pixels by the inclusive convention."""
    box = {"x1": 10.0, "y1": 20.0, "x2": 19.0, "y2": 39.0}
    return {"id": identity, "category": category, "box2d": box, **fields}


def frame(index: int, *labels: Any, **fields: Any) -> dict[str, Any]:
    """A frame of the current release."""
    name = bdd100k.frame_name(NAME, index)
    found = {"name": name, "videoName": NAME, "frameIndex": index, "labels": list(labels)}
    return {**found, **fields}


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def truth_of(tmp_path: Path, frames: Any) -> Any:
    return bdd100k.read_truth(write(tmp_path / f"{NAME}.json", frames))[NAME]


def tracks_of(tmp_path: Path, frames: Any) -> Any:
    return bdd100k.read_results(write(tmp_path / f"{NAME}.json", frames))[NAME].tracks


class TestRealSample:
    def test_truth_has_the_counts_of_the_sample(self, shared: Path) -> None:
        truth = bdd100k.read_truth(shared / "data/bdd100k_box_track/gt.json")[NAME]
        annotations = truth.annotations
        assert truth.num_frames == 202
        assert truth.frame_names[0] == f"{NAME}-0000001.jpg"
        assert len(annotations) == 3241
        assert int(annotations.crowd.sum()) == 132
        counts = np.bincount(annotations.class_index, minlength=8)
        found = dict(zip(bdd100k.CLASSES, counts.tolist(), strict=True))
        assert found == {
            "pedestrian": 191,
            "rider": 119,
            "car": 2726,
            "truck": 65,
            "bus": 21,
            "train": 0,
            "motorcycle": 119,
            "bicycle": 0,
        }

    def test_the_first_box_is_widened_by_one_pixel(self, shared: Path) -> None:
        truth = bdd100k.read_truth(shared / "data/bdd100k_box_track/gt.json")[NAME]
        # In the file: x1 0, x2 75.41..., y1 346.55..., y2 407.44...
        expected = [0.0, 346.55482900742646, 75.41276162779963 + 1, 407.4496307987563 + 1]
        assert truth.annotations.boxes_xyxy[0].tolist() == expected
        assert truth.annotations.identity_source[0] == "a-00122062"
        assert truth.annotations.truncated[0]

    def test_results_have_the_counts_of_the_sample(self, shared: Path) -> None:
        result = bdd100k.read_results(shared / "data/bdd100k_box_track/results.json")[NAME]
        assert result.num_frames == 202
        assert len(result.tracks) == 2301
        assert result.tracks.track_id.min() >= 0
        assert set(result.tracks.detection_row.tolist()) == {-1}


class TestLabels:
    def test_boxes_are_inclusive_in_the_file_and_exclusive_in_the_record(
        self, tmp_path: Path
    ) -> None:
        annotations = truth_of(tmp_path, [frame(0, label())]).annotations
        assert annotations.boxes_xyxy.tolist() == [[10.0, 20.0, 20.0, 40.0]]
        assert annotations.boxes_xyxy.dtype == np.float64

    def test_the_first_release_and_the_current_one_give_the_same(self, tmp_path: Path) -> None:
        flags = {"crowd": True, "occluded": True, "truncated": False}
        new = [frame(t, label(attributes=flags)) for t in range(2)]
        capital = {key.capitalize(): value for key, value in flags.items()}
        old = [
            {**without(frame(t, label(attributes=capital)), "frameIndex"), "index": t}
            for t in range(2)
        ]
        for frames in (new, old, {"frames": new, "config": {"imageSize": None}, "groups": None}):
            annotations = truth_of(tmp_path, frames).annotations
            assert annotations.frame_index.tolist() == [0, 1]
            assert annotations.crowd.all()
            assert annotations.occluded.all()
            assert not annotations.truncated.any()
            assert not annotations.ignored.any()

    @pytest.mark.parametrize("attributes", [{}, None, {"crowd": None}, {"weather": "clear"}])
    def test_missing_attributes_are_false(self, tmp_path: Path, attributes: Any) -> None:
        annotations = truth_of(tmp_path, [frame(0, label(attributes=attributes))]).annotations
        assert not (annotations.crowd | annotations.occluded | annotations.ignored).any()

    @pytest.mark.parametrize(
        ("written", "meant", "ignored"),
        [
            ("bike", "bicycle", False),
            ("motor", "motorcycle", False),
            ("person", "pedestrian", False),
            ("van", "car", False),
            ("caravan", "car", False),
            ("other person", "pedestrian", True),
            ("other vehicle", "car", True),
            ("trailer", "truck", True),
        ],
    )
    def test_aliases_and_ignored_categories(
        self, tmp_path: Path, written: str, meant: str, ignored: bool
    ) -> None:
        annotations = truth_of(tmp_path, [frame(0, label(category=written))]).annotations
        assert bdd100k.CLASSES[annotations.class_index[0]] == meant
        assert annotations.ignored.tolist() == [ignored]
        assert annotations.category == (written,)

    def test_frames_without_labels_exist(self, tmp_path: Path) -> None:
        frames = [frame(0), frame(1, labels=None), without(frame(2), "labels"), frame(3, label())]
        truth = truth_of(tmp_path, frames)
        assert truth.num_frames == 4
        assert truth.annotations.frame_index.tolist() == [3]
        assert truth_of(tmp_path, frames[:3]).annotations.boxes_xyxy.shape == (0, 4)

    def test_identities_do_not_depend_on_the_order_of_rows(self, tmp_path: Path) -> None:
        labels = [label("b-7"), label("00012"), label("a"), label("12")]
        forward = truth_of(tmp_path, [frame(0, *labels), frame(1, label("a"))]).annotations
        backward = truth_of(tmp_path, [frame(1, label("a")), frame(0, *labels[::-1])]).annotations
        for annotations in (forward, backward):
            numbers = dict(zip(annotations.identity_source, annotations.identity, strict=True))
            assert numbers == {"00012": 0, "12": 1, "a": 2, "b-7": 3}

    def test_rows_keep_the_order_of_the_file_within_a_frame(self, tmp_path: Path) -> None:
        frames = [frame(1, label("z"), label("a")), frame(0, label("m"))]
        annotations = truth_of(tmp_path, frames).annotations
        assert annotations.identity_source == ("m", "z", "a")

    def test_integer_ids_are_accepted(self, tmp_path: Path) -> None:
        assert truth_of(tmp_path, [frame(0, label(7))]).annotations.identity_source == ("7",)

    def test_the_sequence_is_the_file_name_where_frames_name_no_video(self, tmp_path: Path) -> None:
        frames = [without(frame(0, label()), "videoName"), frame(1, videoName=None)]
        assert truth_of(tmp_path, frames).num_frames == 2

    def test_one_file_of_several_sequences_equals_a_folder_of_files(self, tmp_path: Path) -> None:
        frames = {
            name: [frame(0, label(), videoName=name), frame(1, videoName=name)]
            for name in ("b", "a")
        }
        single = bdd100k.read_truth(write(tmp_path / "all.json", frames["b"] + frames["a"]))
        for name, some in frames.items():
            write(tmp_path / "folder" / f"{name}.json", some)
        folder = bdd100k.read_truth(tmp_path / "folder")
        assert set(single) == set(folder) == {"a", "b"}
        for name, truth in single.items():
            assert truth.frame_names == folder[name].frame_names
            assert len(truth.annotations) == len(folder[name].annotations) == 1


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown category": (lambda: [frame(0, label(category="tree"))], "category 'tree'"),
    "category of another type": (lambda: [frame(0, label(category=["car"]))], "category"),
    "traffic light in the tracking set": (
        lambda: [frame(0, label(category="traffic light"))],
        "'traffic light'",
    ),
    "id twice in a frame": (lambda: [frame(0), frame(1, label(), label())], "frame 1.*'1'.*twice"),
    "no id": (lambda: [frame(0, label(None))], "frame 0.*id None"),
    "boolean id": (lambda: [frame(0, label(True))], "id True"),
    "no box": (lambda: [frame(0, without(label(), "box2d"))], "box2d None"),
    "box without a corner": (lambda: [frame(0, label(box2d={"x1": 1, "y1": 1}))], "x1, y1, x2"),
    "NaN": (
        lambda: [
            frame(0),
            frame(1, label(box2d={"x1": float("nan"), "y1": 0, "x2": 1, "y2": 1})),
        ],
        "frame 1.*'1'.*nan",
    ),
    "infinity": (
        lambda: [frame(0, label(box2d={"x1": 0, "y1": 0, "x2": float("inf"), "y2": 1}))],
        "inf",
    ),
    "integer beyond floats": (
        lambda: [frame(0, label(box2d={"x1": 0, "y1": 0, "x2": 10**400, "y2": 1}))],
        "finite",
    ),
    "text as a corner": (
        lambda: [frame(0, label(box2d={"x1": "1", "y1": 0, "x2": 5, "y2": 1}))],
        "finite numbers",
    ),
    "boolean as a corner": (
        lambda: [frame(0, label(box2d={"x1": True, "y1": 0, "x2": 5, "y2": 1}))],
        "finite numbers",
    ),
    "box of no width": (
        lambda: [frame(0, label(box2d={"x1": 5, "y1": 0, "x2": 4, "y2": 1}))],
        "x2 > x1 - 1",
    ),
    "flag that is no boolean": (lambda: [frame(0, label(attributes={"crowd": "yes"}))], "crowd"),
    "attributes of another type": (lambda: [frame(0, label(attributes=[1]))], "attributes"),
    "score NaN": (lambda: [frame(0, label(score=float("nan")))], "score nan"),
    "label of another type": (lambda: [frame(0, "car")], "a label is a string"),
    "labels of another type": (lambda: [frame(0, labels={"a": 1})], "labels is an object"),
    "frame index twice": (lambda: [frame(0), frame(0, name="x.jpg")], "index 0 occurs twice"),
    "frame index gap": (lambda: [frame(0), frame(2)], "no frame with index 1"),
    "frame index from one": (lambda: [frame(1)], "no frame with index 0"),
    "negative frame index": (lambda: [frame(-1)], "frameIndex -1"),
    "frame index of another type": (lambda: [frame(0, frameIndex="0")], "frameIndex '0'"),
    "boolean frame index": (lambda: [frame(0, frameIndex=True)], "frameIndex True"),
    "no frame index": (lambda: [without(frame(0), "frameIndex")], "frameIndex None"),
    "video name of another type": (lambda: [frame(0, videoName=5)], "videoName is 5"),
    "video name that steps out": (lambda: [frame(0, videoName="../../x")], "name of a sequence"),
    "absolute video name": (lambda: [frame(0, videoName="/etc/x")], "name of a sequence"),
    "frame of another type": (lambda: [[1]], "entry 0 of the frames is a list"),
    "file of another type": (lambda: 5, "found a number"),
    "object without frames": (lambda: {"config": {}}, "found an object"),
}


class TestBroken:
    @pytest.mark.parametrize("case", BROKEN)
    @pytest.mark.parametrize("read", [bdd100k.read_truth, bdd100k.read_results])
    def test_scoring_raises_with_file_and_place(
        self, tmp_path: Path, case: str, read: Callable[[Path], Any]
    ) -> None:
        make, message = BROKEN[case]
        path = write(tmp_path / f"{NAME}.json", make())
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert str(path) in str(error.value)

    def test_the_message_names_sequence_and_frame(self, tmp_path: Path) -> None:
        path = write(tmp_path / "all.json", [frame(0), frame(1, label(category="tree"))])
        with pytest.raises(ValueError, match=rf"all\.json, sequence {NAME}, frame 1: unknown"):
            bdd100k.read_truth(path)

    @pytest.mark.parametrize("read", [bdd100k.read_truth, bdd100k.read_results])
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "empty"),
            (b" \n", "empty"),
            (b'[{"name": "a', "not valid JSON"),
            (b"\xff", "UTF-8"),
        ],
        ids=["zero bytes", "blank", "cut short", "binary"],
    )
    def test_files_that_are_no_json_are_named(
        self, tmp_path: Path, content: bytes, message: str, read: Callable[[Path], Any]
    ) -> None:
        path = tmp_path / "x.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert str(path) in str(error.value)

    @pytest.mark.parametrize("text", ["[" * 100_000, '[{"frameIndex": ' + "9" * 5000 + "}]"])
    def test_hostile_json_is_an_ordinary_error(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "x.json"
        path.write_text(text)
        with pytest.raises(ValueError, match="not valid JSON"):
            bdd100k.read_truth(path)

    def test_absent_files_and_empty_folders_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"nothing\.json"):
            bdd100k.read_truth(tmp_path / "nothing.json")
        with pytest.raises(ValueError, match=r"no \*\.json"):
            bdd100k.read_results(tmp_path)

    def test_a_name_in_two_frames_is_refused_in_truth_only(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.json", [frame(0), frame(1, name=frame(0)["name"])])
        with pytest.raises(ValueError, match="occurs twice"):
            bdd100k.read_truth(path)
        assert bdd100k.read_results(path)[NAME].num_frames == 2

    def test_a_sequence_in_two_files_is_refused(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write(tmp_path / f"{name}.json", [frame(0)])
        for read in (bdd100k.read_truth, bdd100k.read_results):
            with pytest.raises(ValueError, match="another file"):
                read(tmp_path)

    def test_truth_without_a_frame_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no frame at all"):
            bdd100k.read_truth(write(tmp_path / "x.json", []))


class TestResults:
    def test_an_empty_list_is_a_valid_result(self, tmp_path: Path) -> None:
        assert bdd100k.read_results(write(tmp_path / "x.json", [])) == {}

    def test_frames_without_boxes_count(self, tmp_path: Path) -> None:
        result = bdd100k.read_results(write(tmp_path / "x.json", [frame(0), frame(1, labels=None)]))
        assert result[NAME].num_frames == 2
        assert len(result[NAME].tracks) == 0

    def test_frames_need_no_names(self, tmp_path: Path) -> None:
        assert len(tracks_of(tmp_path, [without(frame(0, label()), "name")])) == 1

    def test_ids_are_digits_and_compared_as_numbers(self, tmp_path: Path) -> None:
        tracks = tracks_of(tmp_path, [frame(0, label("007"), label(8))])
        assert tracks.track_id.tolist() == [7, 8]
        for bad in ("a-1", "1.5", "-1", "", "٣", "9" * 19, "1" * 30):
            with pytest.raises(ValueError, match=r"frame 0.*id"):
                tracks_of(tmp_path, [frame(0, label(bad))])
        with pytest.raises(ValueError, match="track id 7 occurs twice"):
            tracks_of(tmp_path, [frame(0, label("7")), frame(1, label("7"), label("07"))])

    def test_the_largest_id_fits(self, tmp_path: Path) -> None:
        tracks = tracks_of(tmp_path, [frame(0, label(str(2**63 - 1)))])
        assert tracks.track_id.tolist() == [2**63 - 1]

    def test_a_label_without_score_gets_one(self, tmp_path: Path) -> None:
        tracks = tracks_of(tmp_path, [frame(0, label("1"), label("2", score=0.25))])
        assert tracks.scores.tolist() == [1.0, 0.25]

    def test_ignored_predictions_are_dropped_and_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = [
            label("1"),
            label("2", "trailer"),
            label("3", "other person"),
            label("4", attributes={"crowd": True}),
            label("5", attributes={"Crowd": True}),
            label("6", attributes={"ignored": True}),
            label("7", "van", attributes={"crowd": False, "occluded": True}),
        ]
        with caplog.at_level(logging.INFO, "datasets.bdd100k"):
            tracks = tracks_of(tmp_path, [frame(0, *labels)])
        assert tracks.track_id.tolist() == [1, 7]
        assert "dropped 5 predictions" in caplog.text

    def test_rows_come_by_frame_whatever_the_order_of_the_file(self, tmp_path: Path) -> None:
        tracks = tracks_of(tmp_path, [frame(1, label("5")), frame(0, label("9"), label("3"))])
        assert tracks.frame_index.tolist() == [0, 0, 1]
        assert tracks.track_id.tolist() == [9, 3, 5]


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
