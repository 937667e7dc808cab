"""Label and result files of BDD100K: both releases, traps, and errors that name the place."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import bdd100k
from tests.bdd100k_files import NAME, frame, label, write


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


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
