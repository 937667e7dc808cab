"""KITTI MOTS text: real files byte for byte, and every line that is refused."""

import time
from pathlib import Path

import numpy as np
import pytest

from datasets.kitti_mots import CLASSES, KITTI_MOTS
from datasets.masks import encode_mask, mask_boxes
from datasets.mots_reading import read_results, read_truth
from datasets.mots_rows import result_rules, truth_rules
from datasets.mots_text import annotation_lines, mots_lines, read_rows, track_lines
from datasets.reading import Reporter
from datasets.schema import Annotations, SequenceResult, SequenceTruth, Tracks
from tests.mots_files import rectangle, strip

CAR = strip(0, 10)
OTHER = strip(20, 30)


def line(frame: object, identity: object, class_id: object, mask: object = CAR) -> str:
    if isinstance(mask, dict):
        mask = f"{mask['size'][0]} {mask['size'][1]} {mask['counts'].decode()}"
    return f"{frame} {identity} {class_id} {mask}\n"


def truth_of(tmp_path: Path, text: str) -> SequenceTruth:
    (tmp_path / "0002.txt").write_text(text)
    return read_truth(KITTI_MOTS, tmp_path)["0002"]


def result_of(tmp_path: Path, text: str) -> SequenceResult:
    (tmp_path / "0002.txt").write_text(text)
    return read_results(KITTI_MOTS, tmp_path)["0002"]


class TestRealFiles:
    @pytest.mark.parametrize("folder", ["car", "person"])
    def test_results_are_written_back_byte_for_byte(self, shared: Path, folder: str) -> None:
        place = shared / "data" / "kitti_mots_segs" / folder
        results = read_results(KITTI_MOTS, place)
        assert sorted(results) == ["0006", "0020", "0027"]
        for name, result in results.items():
            text = "".join(track_lines(result.tracks, CLASSES))
            assert text.encode() == (place / f"{name}.txt").read_bytes()

    def test_they_have_the_counts_of_their_page(self, shared: Path) -> None:
        place = shared / "data" / "kitti_mots_segs"
        cars = {n: r.tracks for n, r in read_results(KITTI_MOTS, place / "car").items()}
        persons = {n: r.tracks for n, r in read_results(KITTI_MOTS, place / "person").items()}
        assert {name: len(tracks) for name, tracks in cars.items()} == {
            "0006": 247,
            "0020": 688,
            "0027": 620,
        }
        assert [len(persons[name]) for name in ("0006", "0020", "0027")] == [0, 793, 288]
        assert [len(np.unique(cars[name].track_id)) for name in ("0006", "0020", "0027")] == [
            *(4, 5, 11)
        ]
        assert int(cars["0020"].frame_index.max()) == 172
        assert set(cars["0020"].class_index.tolist()) == {0}
        assert set(persons["0020"].class_index.tolist()) == {1}
        masks = cars["0027"].masks
        assert masks is not None
        assert masks[0]["size"] == [370, 1226]


class TestResults:
    def test_boxes_come_from_masks(self, tmp_path: Path) -> None:
        mask = rectangle(3, 5, 9, 17)
        tracks = result_of(tmp_path, line(2, 77, 2, mask)).tracks
        assert tracks.boxes_xyxy.tolist() == [[5, 3, 17, 9]]
        assert tracks.masks == (mask,)
        assert tracks.frame_index.tolist() == [2]
        assert tracks.track_id.tolist() == [77]
        assert tracks.class_index.tolist() == [1]
        assert tracks.scores.tolist() == [1.0]
        assert tracks.detection_row.tolist() == [-1]

    def test_an_empty_file_is_a_valid_result(self, tmp_path: Path) -> None:
        result = result_of(tmp_path, "")
        assert len(result.tracks) == 0
        assert result.num_frames is None

    def test_rows_come_by_frame_and_keep_their_order_within_one(self, tmp_path: Path) -> None:
        text = line(9, 5, 1) + line(2, 3, 1) + line(9, 1, 1, OTHER)
        tracks = result_of(tmp_path, text).tracks
        assert tracks.frame_index.tolist() == [2, 9, 9]
        assert tracks.track_id.tolist() == [3, 5, 1]

    @pytest.mark.parametrize("identity", [1, 1005, 2003, 9999, 10**18 - 1])
    def test_any_positive_id_will_do(self, tmp_path: Path, identity: int) -> None:
        assert result_of(tmp_path, line(0, identity, 1)).tracks.track_id.tolist() == [identity]

    def test_windows_line_ends_and_blank_lines_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "0002.txt").write_bytes((line(0, 1, 1) + "\n").replace("\n", "\r\n").encode())
        assert len(read_results(KITTI_MOTS, tmp_path)["0002"].tracks) == 1

    def test_a_list_of_sequences_is_no_result(self, tmp_path: Path) -> None:
        (tmp_path / "val_seqmap.txt").write_text("0002 empty 000000 000009\n")
        (tmp_path / "0002.txt").write_text("")
        assert list(read_results(KITTI_MOTS, tmp_path)) == ["0002"]

    def test_no_result_at_all_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no \*\.txt and no folder of \*\.png"):
            read_results(KITTI_MOTS, tmp_path)
        with pytest.raises(ValueError, match=r"absent\.txt"):
            read_results(KITTI_MOTS, tmp_path / "absent.txt")


class TestTruth:
    def test_identity_is_the_whole_value(self, tmp_path: Path) -> None:
        text = (
            line(0, 2003, 2, strip(40, 50))
            + line(0, 1000, 1, CAR)
            + line(0, 10000, 10, strip(60, 70))
            + line(0, 1005, 1, OTHER)
        )
        annotations = truth_of(tmp_path, text).annotations
        assert annotations.identity.tolist() == [1000, 1005, 2003, 10000]
        assert annotations.identity_source == ("1000", "1005", "2003", "10000")
        assert annotations.category == ("car", "car", "pedestrian", "ignore")
        assert annotations.class_index.tolist() == [0, 0, 1, -1]
        assert annotations.ignored.tolist() == [False, False, False, True]
        assert not (annotations.crowd | annotations.occluded | annotations.truncated).any()
        assert np.isnan(annotations.visibility).all()
        assert annotations.masks == (CAR, OTHER, strip(40, 50), strip(60, 70))
        assert np.array_equal(annotations.boxes_xyxy, mask_boxes(annotations.masks))

    def test_pieces_of_the_ignore_region_are_one_mask(self, tmp_path: Path) -> None:
        text = (
            line(0, 10001, 10, CAR)
            + line(0, 10000, 10, OTHER)
            + line(0, 1001, 1, strip(40, 50))
            + line(1, 10002, 10, CAR)
        )
        annotations = truth_of(tmp_path, text).annotations
        assert annotations.frame_index.tolist() == [0, 0, 1]
        assert annotations.identity.tolist() == [1001, 10000, 10000]
        assert annotations.identity_source == ("1001", "10000", "10000")
        pieces = np.zeros((48, 96), bool)
        pieces[0, :10] = pieces[0, 20:30] = True
        assert annotations.masks is not None
        assert annotations.masks[1] == encode_mask(pieces)

    def test_it_is_written_back(self, tmp_path: Path) -> None:
        text = line(0, 1000, 1, CAR) + line(0, 10000, 10, OTHER) + line(3, 2001, 2, CAR)
        annotations = truth_of(tmp_path, text).annotations
        assert "".join(annotation_lines(annotations)) == text

    def test_masks_of_a_few_pixels_are_masks(self, tmp_path: Path) -> None:
        assert len(truth_of(tmp_path, line(0, 1001, 1, strip(0, 3))).annotations) == 1


RLE = CAR["counts"].decode()
BROKEN: dict[str, tuple[str, str]] = {
    "five fields": (f"4 2001 2 48 {RLE}", "line 2: 5 fields separated by single blanks"),
    "seven fields": (line(4, 2001, 2).rstrip() + " 0.9", "line 2: 7 fields separated by single"),
    "two blanks": (line(4, 2001, 2).replace(" ", "  "), "line 2: 11 fields"),
    "tabs": (line(4, 2001, 2).replace(" ", "\t"), "line 2: 1 fields"),
    "blank at the end": (line(4, 2001, 2).rstrip() + " ", "line 2: 7 fields"),
    "frame is no integer": (line("4.0", 2001, 2), "line 2: .*frame is '4.0', expected an integer"),
    "id is no integer": (line(4, "2e3", 2), "line 2: frame 4: id is '2e3'"),
    "class is a name": (line(4, 2001, "car"), "line 2: frame 4: class is 'car'"),
    "underscores": (line(4, "2_001", 2), "id is '2_001'"),
    "other digits": (line(4, "٣", 2), "id is '٣'"),
    "a huge id": (line(4, "9" * 30, 2), "id is '999"),
    "height is no integer": (line(4, 2001, 2, f"x 96 {RLE}"), "frame 4: height is 'x'"),
    "width is empty": (line(4, 2001, 2, f"48  {RLE}"), "line 2: frame 4: width is ''"),
    "negative frame": (line(-1, 2001, 2), "line 2, frame -1: .*expected 0 to 999999"),
    "frame without end": (line(1000000, 2001, 2), "frame 1000000 of id 2001, expected 0 to"),
    "class 0": (line(4, 2001, 0), "line 2, frame 4: id 2001 has the unknown class 0, expected 1"),
    "class 3": (line(4, 3001, 3), "line 2, frame 4: id 3001 has the unknown class 3"),
    "id 0": (line(4, 0, 2), "line 2, frame 4: id 0, expected 1 or more"),
    "negative id": (line(4, -5, 2), "line 2, frame 4: id -5"),
    "id twice in a frame": (
        line(0, 1001, 1, OTHER),
        "line 2, frame 0: id 1001 occurs twice in this frame",
    ),
    "overlap": (line(0, 1007, 1, strip(9, 12)), "line 2, frame 0: ids 1001 and 1007 overlap"),
    "overlap of classes": (line(0, 2007, 2, strip(0, 96)), "ids 1001 and 2007 overlap"),
    "another size": (
        line(4, 2001, 2, rectangle(0, 0, 3, 3, (48, 95))),
        "line 2, frame 4: id 2001 has a mask of 48 x 95 pixels, expected 48 x 96 as in the first",
    ),
    "size that is not the mask's": (
        line(4, 2001, 2, f"48 97 {RLE}"),
        "line 2, frame 4: id 2001: the runs of the mask cover 4608 pixels, expected 48 x 97",
    ),
    "mask cut short": (line(4, 2001, 2, f"48 96 {RLE[:-2]}"), "line 2, frame 4: id 2001: .*"),
    "no mask": (line(4, 2001, 2, "48 96 "), "line 2, frame 4: id 2001: the mask is no COCO"),
    "mask of other characters": (line(4, 2001, 2, "48 96 ä!"), "line 2, frame 4: .*no COCO"),
    "no pixel": (
        line(4, 2001, 2, rectangle(0, 0, 0, 0)),
        "line 2, frame 4: the mask of id 2001 has no pixel",
    ),
    "image without pixels": (line(4, 2001, 2, "0 0 0"), "line 2, frame 4: .*image of 0 x 0"),
}
OF_TRUTH = {
    "id of another class": (
        line(4, 1001, 2),
        "line 2, frame 4: id 1001 does not belong to class 2, expected an id from 2000 to 2999",
    ),
    "small id": (line(4, 7, 1), "id 7 does not belong to class 1"),
    "ignore id as a car": (line(4, 10000, 1), "id 10000 does not belong to class 1"),
    "id beyond ignore": (line(4, 11000, 10), "id 11000 does not belong to class 10"),
}
OF_RESULTS = {
    "ignore class": (
        line(4, 10000, 10),
        r"line 2, frame 4: id 10000 has the unknown class 10, expected 1 \(car\), 2 \(pedestrian\)",
    ),
}


class TestBroken:
    @pytest.mark.parametrize("case", [*BROKEN, *OF_TRUTH])
    def test_truth_is_refused_with_file_and_place(self, tmp_path: Path, case: str) -> None:
        bad, message = {**BROKEN, **OF_TRUTH}[case]
        with pytest.raises(ValueError, match=message) as error:
            truth_of(tmp_path, line(0, 1001, 1) + bad)
        assert str(error.value).startswith(f"{tmp_path / '0002.txt'}, line 2")

    @pytest.mark.parametrize("case", [*BROKEN, *OF_RESULTS])
    def test_results_are_refused_with_file_and_place(self, tmp_path: Path, case: str) -> None:
        bad, message = {**BROKEN, **OF_RESULTS}[case]
        with pytest.raises(ValueError, match=message) as error:
            result_of(tmp_path, line(0, 1001, 1) + bad)
        assert str(error.value).startswith(f"{tmp_path / '0002.txt'}, line 2")

    @pytest.mark.parametrize("case", [*BROKEN, *OF_TRUTH])
    def test_ingest_leaves_the_row_out_and_goes_on(self, tmp_path: Path, case: str) -> None:
        bad, message = {**BROKEN, **OF_TRUTH}[case]
        path = tmp_path / "0002.txt"
        path.write_text(line(0, 1001, 1) + bad.rstrip("\n") + "\n" + line(5, 1002, 1))
        reporter = Reporter(strict=False)
        rows = read_rows(path, truth_rules(), reporter)
        assert [row.value for row in rows] == [1001, 1002]
        (problem,) = reporter.problems
        with pytest.raises(ValueError, match=message):
            raise ValueError(f"{problem.where}: {problem.what}")

    def test_an_id_may_come_again_in_another_frame_and_masks_too(self, tmp_path: Path) -> None:
        text = line(0, 1001, 1) + line(1, 1001, 1) + line(2, 1002, 1)
        assert len(truth_of(tmp_path, text).annotations) == 3

    def test_the_first_of_several_that_overlap_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        masks = (strip(0, 10), strip(9, 20), strip(19, 30), strip(2, 4))
        path.write_text("".join(line(0, 1 + i, 1, mask) for i, mask in enumerate(masks)))
        reporter = Reporter(strict=False)
        rows = read_rows(path, result_rules(CLASSES), reporter)
        assert [row.value for row in rows] == [1, 3]
        assert [problem.what.split(" overlap")[0] for problem in reporter.problems] == [
            "ids 1 and 2",
            "ids 1 and 4",
        ]

    def test_problems_are_told_in_the_order_of_the_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        bad = [bad for bad, _ in BROKEN.values()]
        path.write_text(line(0, 1001, 1) + "".join(text.rstrip("\n") + "\n" for text in bad))
        reporter = Reporter(strict=False)
        assert [row.value for row in read_rows(path, truth_rules(), reporter)] == [1001]
        numbers = [
            int(problem.where.split("line ")[1].split(",")[0]) for problem in reporter.problems
        ]
        assert sorted(numbers) == list(range(2, 2 + len(bad)))
        # What is seen in one line comes first, then what is seen beside the others.
        beside = ("overlap", "occurs twice", "as in the first row", "has no pixel")
        alone = [
            number
            for number, problem in zip(numbers, reporter.problems, strict=True)
            if not any(words in problem.what for words in beside)
        ]
        assert numbers[: len(alone)] == alone == sorted(alone)
        with pytest.raises(ValueError, match="line 2: 5 fields"):
            read_rows(path, truth_rules(), Reporter(strict=True))

    def test_binary_files_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "0002.txt").write_bytes(b"\xff\xfe0")
        with pytest.raises(ValueError, match=r"0002\.txt: not UTF-8"):
            read_results(KITTI_MOTS, tmp_path)

    def test_names_that_step_out_of_a_folder_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / ".hidden.txt").write_text("")
        with pytest.raises(ValueError, match="name of a sequence"):
            read_results(KITTI_MOTS, tmp_path / ".hidden.txt")


class TestFrameNumbers:
    def test_a_first_frame_of_one_is_index_zero(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text(line(1, 2001, 2) + line(3, 2001, 2))
        rows = read_rows(path, truth_rules(first_frame=1), Reporter(strict=True))
        assert [row.frame_index for row in rows] == [0, 2]
        path.write_text(line(0, 2001, 2))
        with pytest.raises(ValueError, match="frame 0 of id 2001, expected 1 to"):
            read_rows(path, truth_rules(first_frame=1), Reporter(strict=True))

    def test_it_is_written_so(self) -> None:
        (text,) = mots_lines([0], [2001], [2], [CAR], first_frame=1)
        assert text == line(1, 2001, 2)


def test_records_without_masks_cannot_be_written() -> None:
    tracks = Tracks(
        frame_index=np.zeros(1, np.int32),
        track_id=np.ones(1, np.int64),
        detection_row=np.zeros(1, np.int32),
        boxes_xyxy=np.zeros((1, 4)),
        scores=np.ones(1, np.float32),
        class_index=np.zeros(1, np.int16),
    )
    with pytest.raises(ValueError, match="boxes without masks"):
        list(track_lines(tracks, CLASSES))
    assert list(track_lines(Tracks.empty(), CLASSES)) == []
    assert list(annotation_lines(Annotations.empty())) == []


def test_a_long_sequence_is_read_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    masks = [rectangle(0, 60 * i, 370, 60 * i + 50, (375, 1242)) for i in range(20)]
    path.write_text(
        "".join(line(t, 1 + i, 1, mask) for t in range(1000) for i, mask in enumerate(masks))
    )
    start = time.process_time()
    assert len(read_rows(path, result_rules(CLASSES), Reporter(strict=True))) == 20_000
    # 2 s on the machine this was written on; quadratic work would take minutes.
    assert time.process_time() - start < 20
