"""The MOTChallenge reader: truth, results, halves, and errors that name the place."""

from pathlib import Path

import numpy as np
import pytest

from datasets import motchallenge
from datasets.registry import BENCHMARKS

GT = """\
1,1,10.5,20,30,40.25,1,1,0.5
1,2,-5,-6,20,20,0,1,1
2,1,11,21,30,40,1,1,1
2,7,0,0,10,10,1,8,0.25
5,3,0,0,10,10,1,3,1
"""


def make_sequence(
    folder: Path, *, length: int = 5, truth: str | None = GT, images: int | None = None
) -> Path:
    """A sequence folder in MOTChallenge's layout, with empty image files."""
    (folder / "img1").mkdir(parents=True)
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate=25\nseqLength={length}\n"
        "imWidth=640\nimHeight=480\nimExt=.jpg\n"
    )
    for number in range(1, (length if images is None else images) + 1):
        (folder / "img1" / f"{number:06d}.jpg").touch()
    if truth is not None:
        (folder / "gt").mkdir()
        (folder / "gt" / "gt.txt").write_text(truth)
    return folder


class TestTruth:
    def test_the_real_sample_has_its_counts(self, shared: Path) -> None:
        truths = BENCHMARKS["mot15"].read_truth(shared / "data/mot15_demo/gt")
        assert {name: truth.num_frames for name, truth in truths.items()} == {
            "TUD-Campus": 71,
            "TUD-Stadtmitte": 179,
        }
        # 1515 boxes and 18 tracks in all, says the sample's own page.
        assert sum(len(truth.annotations) for truth in truths.values()) == 1515
        identities = [np.unique(truth.annotations.identity) for truth in truths.values()]
        assert sum(map(len, identities)) == 18
        campus = truths["TUD-Campus"].annotations
        assert campus.boxes_xyxy[0].tolist() == [399, 182, 399 + 121, 182 + 229]
        assert campus.frame_index[0] == 0
        assert set(campus.class_index.tolist()) == {0}
        assert np.isnan(campus.visibility).all()

    def test_all_rows_are_kept_with_class_flag_and_visibility(self, tmp_path: Path) -> None:
        make_sequence(tmp_path / "MOT17-02-FRCNN")
        truth = motchallenge.read_truth("mot17", tmp_path)["MOT17-02-FRCNN"]
        annotations = truth.annotations
        assert truth.frame_names == tuple(f"{n:06d}.jpg" for n in range(1, 6))
        assert annotations.frame_index.tolist() == [0, 0, 1, 1, 4]
        assert annotations.identity.tolist() == [1, 2, 1, 7, 3]
        assert annotations.identity_source == ("1", "2", "1", "7", "3")
        assert annotations.category == (
            "pedestrian",
            "pedestrian",
            "pedestrian",
            "distractor",
            "car",
        )
        assert annotations.class_index.tolist() == [0, 0, 0, -1, -1]
        assert annotations.ignored.tolist() == [False, True, False, False, False]
        assert annotations.visibility.tolist() == [0.5, 1, 1, 0.25, 1]
        assert not annotations.crowd.any()

    def test_boxes_are_neither_widened_nor_clipped(self, tmp_path: Path) -> None:
        make_sequence(tmp_path / "s")
        boxes = motchallenge.read_truth("mot17", tmp_path)["s"].annotations.boxes_xyxy
        assert boxes[0].tolist() == [10.5, 20, 40.5, 60.25]
        assert boxes[1].tolist() == [-5, -6, 15, 14]

    def test_a_path_may_be_one_sequence(self, tmp_path: Path) -> None:
        folder = make_sequence(tmp_path / "s")
        assert list(motchallenge.read_truth("mot17", folder)) == ["s"]

    def test_rows_are_ordered_by_frame(self, tmp_path: Path) -> None:
        make_sequence(
            tmp_path / "s", truth="3,1,0,0,1,1,1,1,1\n1,9,0,0,1,1,1,1,1\n3,0,0,0,1,1,1,1,1\n"
        )
        annotations = motchallenge.read_truth("mot20", tmp_path)["s"].annotations
        assert annotations.frame_index.tolist() == [0, 2, 2]
        assert annotations.identity.tolist() == [9, 1, 0]

    def test_mot15_has_no_classes(self, tmp_path: Path) -> None:
        make_sequence(tmp_path / "s", truth="1,1,0,0,1,1,1,-1,-1,-1\n1,2,0,0,1,1,0,5.2,3.1,0\n")
        annotations = motchallenge.read_truth("mot15", tmp_path)["s"].annotations
        assert annotations.class_index.tolist() == [0, 0]
        assert annotations.ignored.tolist() == [False, True]

    def test_an_empty_truth_has_all_frames(self, tmp_path: Path) -> None:
        make_sequence(tmp_path / "s", truth="")
        truth = motchallenge.read_truth("mot17", tmp_path)["s"]
        assert truth.num_frames == 5
        assert truth.annotations.boxes_xyxy.shape == (0, 4)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1,1,0,0,1,1,1,1", "8 columns"),
            ("1,1,0,0,one,1,1,1,1", "'one'"),
            ("1,1,0,0,nan,1,1,1,1", "not finite"),
            ("1,1,0,0,inf,1,1,1,1", "not finite"),
            ("1.5,1,0,0,1,1,1,1,1", "integers"),
            ("1,1.5,0,0,1,1,1,1,1", "integers"),
            ("0,1,0,0,1,1,1,1,1", "frame number 0"),
            ("6,1,0,0,1,1,1,1,1", "frame number 6.*seqLength"),
            ("1,1,0,0,0,1,1,1,1", "frame number 1, id 1: size 0.0 x 1.0"),
            ("1,1,0,0,1,-2,1,1,1", "size"),
            ("5,3,0,0,1,1,1,1,1", "frame number 5: id 3 occurs twice"),
            ("1,1,0,0,1,1,1,14,1", "class 14"),
            ("1,5,0,0,1,1,1,1.5,1", "class 1.5"),
            ("1,5,0,0,1,1,1,-1,1", "class -1"),
            ("5000000000,1,0,0,1,1,1,1,1", "expected a frame number up to 2147483647"),
            ("1,1e30,0,0,1,1,1,1,1", "id 1e.30: expected"),
        ],
    )
    def test_broken_rows_raise_in_scoring_and_are_counted_by_ingest(
        self, tmp_path: Path, row: str, message: str
    ) -> None:
        truth = "1,1,0,0,1,1,1,1,1\n" * ("class 14" in message) + GT + row + "\n"
        truth = truth.replace("1,1,0,0,1,1,1,14,1", "4,1,0,0,1,1,1,14,1")
        truth = truth.removeprefix("1,1,0,0,1,1,1,1,1\n")
        make_sequence(tmp_path / "train" / "s", truth=truth)
        with pytest.raises(ValueError, match=message) as error:
            motchallenge.read_truth("mot17", tmp_path / "train")
        assert "s/gt/gt.txt" in str(error.value)
        sources, _ = motchallenge.list_sequences("mot17", tmp_path, "train")
        kept, problems = motchallenge.read_annotations(sources[0])
        assert len(kept.annotations) == 5
        assert len(problems) == 1

    @pytest.mark.parametrize(
        ("ini", "message"),
        [
            ("", "Sequence"),
            ("[Other]\nseqLength=5\n", "Sequence"),
            ("seqLength=5\n", "Sequence"),
            ("[Sequence]\nname=s\n", "seqLength"),
            ("[Sequence]\nseqLength=many\n", "seqLength"),
            ("[Sequence]\nseqLength=0\n", "seqLength is 0"),
            ("[Sequence]\nseqLength=5\nframeRate=0\n", "frameRate 0"),
            ("[Sequence]\nseqLength=5\nimDir=../../etc\n", "imDir"),
        ],
    )
    def test_a_broken_seqinfo_is_named(self, tmp_path: Path, ini: str, message: str) -> None:
        folder = make_sequence(tmp_path / "s")
        (folder / "seqinfo.ini").write_text(ini)
        with pytest.raises(ValueError, match=message) as error:
            motchallenge.read_truth("mot17", tmp_path)
        assert "seqinfo.ini" in str(error.value)

    def test_absent_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no sequence"):
            motchallenge.read_truth("mot17", tmp_path / "nothing")
        make_sequence(tmp_path / "s", truth=None)
        with pytest.raises(ValueError, match=r"gt\.txt"):
            motchallenge.read_truth("mot17", tmp_path)
        make_sequence(tmp_path / "t" / "u")
        (tmp_path / "t" / "u" / "seqinfo.ini").unlink()
        with pytest.raises(ValueError, match=r"seqinfo\.ini"):
            motchallenge.read_truth("mot17", tmp_path / "t")


def result_of(tmp_path: Path, text: str) -> motchallenge.SequenceResult:
    (tmp_path / "s.txt").write_text(text)
    return motchallenge.read_results(tmp_path)["s"]


class TestResults:
    def test_the_real_sample_has_its_counts(self, shared: Path) -> None:
        results = motchallenge.read_results(shared / "data/mot15_demo/results/data")
        assert sum(len(result.tracks) for result in results.values()) == 971
        campus = results["TUD-Campus"].tracks
        assert campus.boxes_xyxy[0].tolist() == [113.84, 274.5, 113.84 + 57.307, 274.5 + 130.05]
        assert campus.frame_index[0] == 0
        assert campus.track_id[0] == 3
        assert results["TUD-Campus"].num_frames is None

    @pytest.mark.parametrize("tail", ["", ",-1", ",1", ",1,0.5", ",-1,-1,-1"])
    def test_the_class_column_may_be_absent(self, tmp_path: Path, tail: str) -> None:
        tracks = result_of(tmp_path, f"2,5,1,2,3,4,0.75{tail}\n").tracks
        assert tracks.frame_index.tolist() == [1]
        assert tracks.boxes_xyxy.tolist() == [[1, 2, 4, 6]]
        assert tracks.scores.tolist() == [0.75]
        assert tracks.class_index.tolist() == [0]

    def test_an_empty_file_is_a_valid_result(self, tmp_path: Path) -> None:
        assert len(result_of(tmp_path, "").tracks) == 0

    def test_rows_are_ordered_by_frame(self, tmp_path: Path) -> None:
        tracks = result_of(tmp_path, "9,1,0,0,1,1,1\n2,3,0,0,1,1,1\n9,0,0,0,1,1,1\n").tracks
        assert tracks.frame_index.tolist() == [1, 8, 8]
        assert tracks.track_id.tolist() == [3, 1, 0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1,1,0,0,1,1\n", "line 1: 6 columns"),
            ("1,1,0,0,1,1,1,2\n", "frame number 1: class 2 of id 1"),
            ("1,1,0,0,1,1,1\n1,1,5,5,1,1,1\n", "line 2: frame number 1: id 1 occurs twice"),
            ("0,1,0,0,1,1,1\n", "frame number 0"),
            ("1,1,0,0,1,nan,1\n", "not finite"),
            ("1,1,0,0,1,1,nan\n", "not finite"),
            ("1,1,0,0,-1,1,1\n", "size -1"),
            ("frame,id\n", "line 1"),
            ("5000000000,1,0,0,1,1,1\n", "line 1: frame number 5e.09, id 1: expected a frame"),
            ("1,1e30,0,0,1,1,1\n", "line 1: frame number 1, id 1e.30: expected .* an id up to"),
            ("1,-1e19,0,0,1,1,1\n", "an id up to 9007199254740992"),
        ],
    )
    def test_broken_rows_raise_with_file_and_place(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message) as error:
            result_of(tmp_path, text)
        assert "s.txt" in str(error.value)

    def test_no_files_at_all_is_an_error(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "absent.txt"):
            with pytest.raises(ValueError, match="txt"):
                motchallenge.read_results(path)


class TestListing:
    def test_sequences_with_images_and_rate(self, tmp_path: Path) -> None:
        make_sequence(tmp_path / "train" / "b")
        make_sequence(tmp_path / "train" / "a")
        sources, problems = motchallenge.list_sequences("mot20", tmp_path, "train")
        assert problems == []
        assert [source.name for source in sources] == ["a", "b"]
        assert [Path(p).name for p in sources[0].images] == [f"{n:06d}.jpg" for n in range(1, 6)]
        assert sources[0].options == {"frame_rate": 25.0}
        assert sources[0].dataset == "mot20"

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        make_sequence(tmp_path / "train" / "complete", images=6)
        make_sequence(tmp_path / "train" / "imageless", images=0)
        make_sequence(tmp_path / "train" / "truthless", truth=None)
        make_sequence(tmp_path / "train" / "gap", images=4)
        sources, problems = motchallenge.list_sequences("mot17", tmp_path, "train")
        assert [source.name for source in sources] == ["complete", "gap"]
        # The lost image keeps its place: ingest tells of it when it looks for the file.
        assert len(sources[1].images) == 5
        assert [problem.where.rsplit(" ", 1)[1] for problem in problems] == [
            "complete",
            "imageless",
            "truthless",
        ]
        assert "000006.jpg" in problems[0].what

    def test_halves_are_cut_behind_the_middle_and_count_from_zero(self, tmp_path: Path) -> None:
        rows = "".join(f"{n},1,{n},0,1,1,1,1,1\n" for n in range(1, 6))
        make_sequence(tmp_path / "train" / "s", truth=rows)
        found = {}
        for split in ("half_train", "half_val"):
            sources, _ = motchallenge.list_sequences("mot17", tmp_path, split)
            truth, problems = motchallenge.read_annotations(sources[0])
            assert problems == []
            assert tuple(Path(path).name for path in sources[0].images) == truth.frame_names
            left = truth.annotations.boxes_xyxy[:, 0].tolist()
            found[split] = (truth.frame_names, truth.annotations.frame_index.tolist(), left)
        # 5 // 2 + 1 = 3 frames train.
        first = ("000001.jpg", "000002.jpg", "000003.jpg")
        assert found["half_train"] == (first, [0, 1, 2], [1, 2, 3])
        assert found["half_val"] == (("000004.jpg", "000005.jpg"), [0, 1], [4, 5])

    def test_test_sequences_have_no_labels(self, tmp_path: Path) -> None:
        make_sequence(tmp_path / "test" / "s", truth=None)
        sources, problems = motchallenge.list_sequences("mot17", tmp_path, "test")
        assert [source.labels for source in sources] == [None]
        assert problems == []

    def test_unknown_splits_are_errors_and_absent_ones_problems(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no split 'half_val'"):
            motchallenge.list_sequences("mot20", tmp_path, "half_val")
        sources, problems = motchallenge.list_sequences("mot20", tmp_path, "train")
        assert sources == []
        assert len(problems) == 1

    def test_expected_files_tell_what_is_there(self, tmp_path: Path) -> None:
        make_sequence(tmp_path / "train" / "s", truth=None)
        there = {file.path: file.exists for file in motchallenge.expected_files(tmp_path)}
        assert there == {
            "train": True,
            "test": False,
            "train/s/seqinfo.ini": True,
            "train/s/img1": True,
            "train/s/gt/gt.txt": False,
        }


def test_distractors_are_categories() -> None:
    known = set(motchallenge.CATEGORY_NAMES.values())
    assert all(set(names) <= known for names in motchallenge.DISTRACTORS.values())
