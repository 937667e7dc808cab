"""BDD100K's segmentation tracking: JSON and bitmasks give the same, and errors name the place."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datasets import bdd100k_mots
from datasets.bdd100k import CLASSES
from datasets.masks import Rle, decode_mask
from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, SequenceSource
from tests.bdd100k_files import NAME, frame, write
from tests.mots_files import SIZE, random_scene, rectangle

NUM_FRAMES = 6


def label(identity: Any = "1", mask: Rle | None = None, **fields: Any) -> dict[str, Any]:
    mask = mask or rectangle(2, 3, 10, 30)
    rle = {"size": mask["size"], "counts": mask["counts"].decode()}
    return {"id": identity, "category": "car", "rle": rle, **fields}


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


def pixels(*objects: tuple[Rle, int, int, int]) -> Any:
    """RGBA of objects given as mask, category, attributes, instance."""
    rgba = np.zeros((*SIZE, 4), np.uint8)
    for mask, category, attributes, instance in objects:
        rgba[decode_mask(mask)] = (category, attributes, instance >> 8, instance & 255)
    return rgba


def write_bitmask(path: Path, rgba: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgba[..., [2, 1, 0, 3]])


def bitmask_name(index: int, name: str = NAME) -> str:
    return f"{name}/{name}-{index + 1:07d}.png"


ATTRIBUTES = ("ignored", "crowd", "occluded", "truncated")


def write_both(root: Path, *, is_result: bool = False) -> tuple[Path, Path]:
    """A scene as a label file and as a folder of bitmasks; attributes of all kinds, in truth."""
    objects = random_scene(5, NUM_FRAMES)[is_result]
    frames = []
    for index in range(NUM_FRAMES):
        here = sorted((one for one in objects if one.frame == index), key=lambda o: o.identity)
        kinds = [(abs(one.class_index) + 1, one.identity % 16 * (not is_result)) for one in here]
        labels = [
            label(
                str(one.identity),
                one.mask,
                category=CLASSES[category - 1],
                attributes={n: bool(bits >> i & 1) for i, n in enumerate(ATTRIBUTES)},
            )
            for one, (category, bits) in zip(here, kinds, strict=True)
        ]
        frames.append(frame(index, *labels))
        rgba = pixels(
            *((o.mask, c, bits, o.identity) for o, (c, bits) in zip(here, kinds, strict=True))
        )
        write_bitmask(root / "bitmasks" / bitmask_name(index), rgba)
    return write(root / "rles" / f"{NAME}.json", frames), root / "bitmasks"


def same(first: Any, second: Any) -> bool:
    columns = vars(first).keys()
    return all(
        np.array_equal(getattr(first, c), getattr(second, c), equal_nan=c == "visibility")
        if isinstance(getattr(first, c), np.ndarray)
        else getattr(first, c) == getattr(second, c)
        for c in columns
    )


class TestBothForms:
    def test_truth_is_the_same(self, tmp_path: Path) -> None:
        codes, bitmasks = write_both(tmp_path)
        by_code = bdd100k_mots.read_truth(codes)[NAME]
        for path in (bitmasks, bitmasks / NAME):
            by_bitmask = bdd100k_mots.read_truth(path)[NAME]
            assert same(by_code.annotations, by_bitmask.annotations)
            assert by_bitmask.num_frames == by_code.num_frames == NUM_FRAMES
        annotations = by_code.annotations
        assert len(annotations) > 20
        assert all(getattr(annotations, name).any() for name in ATTRIBUTES)
        assert not all(getattr(annotations, name).all() for name in ATTRIBUTES)
        assert by_bitmask.frame_names[0] == f"{NAME}-0000001.png"

    def test_results_are_the_same(self, tmp_path: Path) -> None:
        codes, bitmasks = write_both(tmp_path, is_result=True)
        by_code = bdd100k_mots.read_results(codes)[NAME]
        by_bitmask = BENCHMARKS["bdd100k_mots"].read_results(bitmasks)[NAME]
        assert same(by_code.tracks, by_bitmask.tracks)
        assert by_bitmask.num_frames == by_code.num_frames == NUM_FRAMES
        assert len(by_code.tracks) > 20
        assert set(by_code.tracks.class_index.tolist()) == {0, 1}


class TestCodes:
    def test_boxes_are_those_around_the_masks(self, tmp_path: Path) -> None:
        mask = rectangle(2, 3, 10, 30)
        box = {"x1": 0, "y1": 0, "x2": 1, "y2": 1}  # not looked at
        frames = [frame(0, label("00122063", mask, box2d=box, category="trailer"))]
        path = write(tmp_path / "x.json", frames)
        annotations = bdd100k_mots.read_truth(path)[NAME].annotations
        assert annotations.boxes_xyxy.tolist() == [[3, 2, 30, 10]]
        assert annotations.masks == (mask,)
        assert annotations.identity_source == ("00122063",)
        assert CLASSES[annotations.class_index[0]] == "truck"
        assert annotations.ignored.tolist() == [True]

    def test_ignored_predictions_are_dropped_with_their_masks(self, tmp_path: Path) -> None:
        mask = rectangle(20, 3, 30, 30)
        labels = [
            label("1"),
            label("2", category="other vehicle"),
            label("3", attributes={"crowd": True}),
            label("4", mask),
        ]
        path = write(tmp_path / "x.json", [frame(0, *labels)])
        tracks = bdd100k_mots.read_results(path)[NAME].tracks
        assert tracks.track_id.tolist() == [1, 4]
        assert tracks.masks == (rectangle(2, 3, 10, 30), mask)

    def test_predictions_may_overlap(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.json", [frame(0, label("1"), label("2"))])
        assert len(bdd100k_mots.read_results(path)[NAME].tracks) == 2

    def test_an_empty_list_is_a_valid_result(self, tmp_path: Path) -> None:
        assert bdd100k_mots.read_results(write(tmp_path / "x.json", [])) == {}
        with pytest.raises(ValueError, match=r"x\.json: no frame at all"):
            bdd100k_mots.read_truth(tmp_path / "x.json")

    def test_frames_without_labels_count(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.json", [frame(0), frame(1, labels=None)])
        assert bdd100k_mots.read_truth(path)[NAME].num_frames == 2
        assert bdd100k_mots.read_results(path)[NAME].num_frames == 2

    def test_a_sequence_in_two_files_is_refused(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write(tmp_path / f"{name}.json", [frame(0)])
        for read in (bdd100k_mots.read_truth, bdd100k_mots.read_results):
            with pytest.raises(ValueError, match="another file"):
                read(tmp_path)


COUNTS = rectangle(2, 3, 10, 30)["counts"].decode()
BROKEN_CODES: dict[str, tuple[dict[str, Any], str]] = {
    "no rle": (without(label("2"), "rle"), "label '2' has the rle None, expected an object with"),
    "a box only": (
        {**without(label("2"), "rle"), "box2d": {"x1": 0, "y1": 0, "x2": 1, "y2": 1}},
        "label '2' has the rle None",
    ),
    "rle of another type": (label("2", rle="abc"), "has the rle abc"),
    "no counts": (label("2", rle={"size": [48, 96]}), "has the rle {'size'"),
    "counts that are not compressed": (
        label("2", rle={"size": [48, 96], "counts": [0, 48 * 96]}),
        "counts, COCO's compressed code",
    ),
    "size of three": (label("2", rle={"size": [48, 96, 1], "counts": COUNTS}), "has the rle"),
    "size of floats": (label("2", rle={"size": [48.0, 96.0], "counts": COUNTS}), "has the rle"),
    "size of booleans": (label("2", rle={"size": [True, True], "counts": "01"}), "has the rle"),
    "no size": (label("2", rle={"counts": COUNTS}), "has the rle"),
    "cut short": (
        label("2", rle={"size": [48, 96], "counts": COUNTS[:-2]}),
        "label '2': .*(cut short|no COCO)",
    ),
    "not of this size": (
        label("2", rle={"size": [48, 97], "counts": COUNTS}),
        "label '2': the runs of the mask cover 4608 pixels",
    ),
    "another size": (
        label("2", rectangle(0, 0, 2, 2, (48, 95))),
        r"label '2' is of an image of \[48, 95\] pixels .* of the first label of \[48, 96\]",
    ),
    "no pixel": (label("2", rectangle(0, 0, 0, 0)), "mask of label '2' has no pixel"),
    "id twice": (label("1"), "'1' occurs twice|track id 1 occurs twice"),
    "unknown category": (label("2", category="tree"), "unknown category 'tree'"),
}


class TestBrokenCodes:
    @pytest.mark.parametrize("case", BROKEN_CODES)
    @pytest.mark.parametrize("read", [bdd100k_mots.read_truth, bdd100k_mots.read_results])
    def test_scoring_raises_with_file_sequence_and_frame(
        self, tmp_path: Path, case: str, read: Callable[[Path], Any]
    ) -> None:
        bad, message = BROKEN_CODES[case]
        path = write(tmp_path / "x.json", [frame(0, label("1")), frame(1, label("1"), bad)])
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert str(error.value).startswith(f"{path}, sequence {NAME}, frame 1: ")


BITMASK_FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "RGB": (lambda: np.ones((*SIZE, 3), np.uint8), "8 bits, RGB; expected 8 bits, RGBA"),
    "16 bits": (lambda: np.ones((*SIZE, 4), np.uint16), "16 bits, RGBA; expected 8 bits, RGBA"),
    "grey": (lambda: np.ones(SIZE, np.uint8), "8 bits, grey; expected"),
    "category 0": (
        lambda: pixels((rectangle(0, 0, 5, 5), 0, 0, 7)),
        "instance 7 has the category 0, expected 1 to 8",
    ),
    "category 9": (lambda: pixels((rectangle(0, 0, 5, 5), 9, 0, 300)), "instance 300 has the cat"),
    "unknown attribute": (
        lambda: pixels((rectangle(0, 0, 5, 5), 3, 16, 7)),
        "instance 7 has the attributes 16, expected 0 to 15",
    ),
    "two categories": (
        lambda: pixels((rectangle(0, 0, 5, 5), 3, 0, 7), (rectangle(6, 0, 9, 5), 4, 0, 7)),
        "instance 7 has the categories 3 and 4",
    ),
    "two attributes": (
        lambda: pixels((rectangle(0, 0, 5, 5), 3, 0, 7), (rectangle(6, 0, 9, 5), 3, 4, 7)),
        "categories 3 and 3 with the attributes 0 and 4",
    ),
    "another size": (
        lambda: pixels((rectangle(0, 0, 5, 5), 3, 0, 7))[:, :-1],
        r"image of \[48, 95\]",
    ),
}


class TestBitmasks:
    def test_the_bits(self, tmp_path: Path) -> None:
        objects = [
            (rectangle(0, 0, 5, 5), 1, 0, 1),
            (rectangle(0, 10, 5, 15), 3, 8, 255),
            (rectangle(0, 20, 5, 25), 8, 4, 256),
            (rectangle(0, 30, 5, 35), 2, 2, 513),
            (rectangle(0, 40, 5, 45), 5, 1, 65535),
        ]
        write_bitmask(tmp_path / bitmask_name(0), pixels(*objects))
        found = bdd100k_mots.read_truth(tmp_path)[NAME].annotations
        assert found.identity_source == ("1", "255", "256", "513", "65535")
        assert [CLASSES[i] for i in found.class_index] == [
            *("pedestrian", "car", "bicycle", "rider", "bus")
        ]
        assert found.truncated.tolist() == [False, True, False, False, False]
        assert found.occluded.tolist() == [False, False, True, False, False]
        assert found.crowd.tolist() == [False, False, False, True, False]
        assert found.ignored.tolist() == [False, False, False, False, True]
        assert found.masks == tuple(mask for mask, *_ in objects)

    def test_alpha_is_a_number(self, tmp_path: Path) -> None:
        # Instance 256 has an alpha of 0: a viewer shows nothing, and no colour may be lost by it.
        write_bitmask(tmp_path / bitmask_name(0), pixels((rectangle(0, 0, 5, 5), 3, 5, 256)))
        found = bdd100k_mots.read_truth(tmp_path)[NAME].annotations
        assert (found.class_index.tolist(), found.identity_source) == ([2], ("256",))

    def test_a_blank_frame_of_a_result_is_blank(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_bitmask(tmp_path / bitmask_name(0), pixels((rectangle(0, 0, 5, 5), 3, 0, 7)))
        write_bitmask(tmp_path / bitmask_name(1), pixels((rectangle(0, 0, 48, 96), 1, 3, 1)))
        with caplog.at_level(logging.INFO, "datasets.bdd100k_mots"):
            result = bdd100k_mots.read_results(tmp_path)[NAME]
        assert result.num_frames == 2
        assert result.tracks.track_id.tolist() == [7]
        assert "dropped 1 predictions" in caplog.text

    def test_a_hundred_predictions_are_taken(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        objects = [
            (rectangle(i // 24, i % 24 * 4, i // 24 + 1, i % 24 * 4 + 4), 1, 0, 500 - i)
            for i in range(103)
        ]
        write_bitmask(tmp_path / bitmask_name(0), pixels(*objects))
        with caplog.at_level(logging.INFO, "datasets.bdd100k_mots"):
            tracks = bdd100k_mots.read_results(tmp_path)[NAME].tracks
        assert tracks.track_id.tolist() == list(range(398, 498))
        assert "dropped 3 predictions" in caplog.text
        assert len(bdd100k_mots.read_truth(tmp_path)[NAME].annotations) == 103

    @pytest.mark.parametrize("case", BITMASK_FAULTS)
    @pytest.mark.parametrize("read", [bdd100k_mots.read_truth, bdd100k_mots.read_results])
    def test_scoring_raises_with_folder_and_frame(
        self, tmp_path: Path, case: str, read: Callable[[Path], Any]
    ) -> None:
        make, message = BITMASK_FAULTS[case]
        write_bitmask(tmp_path / bitmask_name(0), pixels((rectangle(0, 0, 5, 5), 3, 0, 7)))
        made = make()
        path = tmp_path / bitmask_name(1)
        if made.ndim == 3 and made.shape[2] == 4 and made.dtype == np.uint8:
            write_bitmask(path, made)
        else:
            assert cv2.imwrite(str(path), made)
        with pytest.raises(ValueError, match=message) as error:
            read(tmp_path)
        assert str(path.parent) in str(error.value)
        assert "frame 1" in str(error.value)

    def test_files_that_are_cut_short_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / bitmask_name(0)
        write_bitmask(path, pixels((rectangle(0, 0, 5, 5), 3, 0, 7)))
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match=r"0000001\.png: a PNG of \d+ bytes that is cut short"):
            bdd100k_mots.read_truth(tmp_path)

    def test_nothing_at_all_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no \*\.json"):
            bdd100k_mots.read_results(tmp_path)


def write_images(folder: Path, num_frames: int = NUM_FRAMES, size: Sequence[int] = SIZE) -> None:
    folder.mkdir(parents=True)
    for index in range(num_frames):
        path = folder / f"{NAME}-{index + 1:07d}.jpg"
        assert cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))


class TestDataSet:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        codes, bitmasks = write_both(tmp_path / "raw")
        for path, form in ((codes.parent, "rles"), (bitmasks, "bitmasks")):
            place = tmp_path / "labels" / "seg_track_20" / form
            place.mkdir(parents=True)
            path.rename(place / "train")
        write_images(tmp_path / "images" / "seg_track_20" / "train" / NAME)
        return tmp_path

    def only(self, root: Path, split: str = "train") -> SequenceSource:
        (source,), problems = bdd100k_mots.list_sequences(root, split)
        assert problems == []
        return source

    def annotations(self, source: SequenceSource) -> Annotations:
        truth, problems = bdd100k_mots.read_annotations(source)
        assert problems == []
        assert truth.frame_names == tuple(Path(path).name for path in source.images)
        return truth.annotations

    def test_json_is_preferred_and_bitmasks_give_the_same(self, root: Path) -> None:
        labels = root / "labels" / "seg_track_20"
        by_code = self.only(root)
        assert by_code.labels == str(labels / "rles" / "train" / f"{NAME}.json")
        assert by_code.options == {"frame_rate": 5.0}
        first = self.annotations(by_code)
        (labels / "rles").rename(root / "away")
        by_bitmask = self.only(root)
        assert by_bitmask.labels == str(labels / "bitmasks" / "train" / NAME)
        assert same(first, self.annotations(by_bitmask))

    def test_a_broken_bitmask_is_named_and_its_frame_kept(self, root: Path) -> None:
        labels = root / "labels" / "seg_track_20"
        (labels / "rles").rename(root / "away")
        (labels / "bitmasks" / "train" / bitmask_name(2)).write_bytes(b"x")
        truth, (problem,) = bdd100k_mots.read_annotations(self.only(root))
        assert "frame 2" in problem.where
        assert "0000003.png: no PNG" in problem.what
        assert truth.num_frames == NUM_FRAMES
        assert set(truth.annotations.frame_index.tolist()) == {0, 1, 3, 4, 5}

    def test_labels_of_another_size_than_the_images_are_refused(self, root: Path) -> None:
        folder = root / "images" / "seg_track_20" / "train" / NAME
        folder.rename(root / "away")
        write_images(folder, size=(48, 95))
        with pytest.raises(
            ValueError, match=r"masks are \(48, 96\), those of .*\(48, 95\)"
        ) as error:
            bdd100k_mots.read_annotations(self.only(root))
        assert f"{NAME}.json, sequence {NAME}" in str(error.value)

    def test_what_is_missing_is_named(self, root: Path) -> None:
        (root / "images" / "seg_track_20" / "train" / NAME).rename(root / "away")
        write_images(root / "images" / "seg_track_20" / "train" / "unlabelled")
        sources, problems = bdd100k_mots.list_sequences(root, "train")
        assert sources == []
        found = {problem.where: problem.what for problem in problems}
        assert found[f"bdd100k_mots/train, sequence {NAME}"].startswith("no image in ")
        assert "no labels" in found["bdd100k_mots/train, sequence unlabelled"]

    def test_test_sequences_need_no_labels(self, root: Path) -> None:
        write_images(root / "images" / "seg_track_20" / "test" / NAME)
        assert self.only(root, "test").labels is None

    def test_unknown_splits_are_errors(self, root: Path) -> None:
        with pytest.raises(ValueError, match="bdd100k_mots has no split 'det_train'"):
            bdd100k_mots.list_sequences(root, "det_train")

    def test_expected_files(self, root: Path) -> None:
        def there() -> dict[str, bool]:
            return {file.path: file.exists for file in bdd100k_mots.expected_files(root)}

        assert there() == {
            "images/seg_track_20/train": True,
            "labels/seg_track_20/rles/train": True,
            "images/seg_track_20/val": False,
            "labels/seg_track_20/rles/val": False,
            "images/seg_track_20/test": False,
        }
        (root / "labels" / "seg_track_20" / "rles").rename(root / "away")
        assert there()["labels/seg_track_20/rles/train"]
