"""KINS: both releases, what covers what, the published maps, and what is wrong with a file."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import kins
from datasets.kins import VisibleObject, published_map, read_annotations, read_objects
from datasets.masks import decode_mask, encode_mask, find_overlap
from datasets.reading import Reporter
from datasets.schema import Annotations, SequenceSource
from tests.kins_files import SIZE, Box, annotation, code, write_kins

CYCLIST, PEDESTRIAN, CAR, TRAM, VAN = 1, 2, 4, 5, 7


def sources_of(root: Path, split: str = "train") -> list[SequenceSource]:
    sources, problems = kins.list_sequences(root, split)
    assert problems == []
    return sources


def annotations_of(root: Path, image: int = 0) -> Annotations:
    truth, problems = read_annotations(sources_of(root)[image])
    assert problems == []
    return truth.annotations


def pixels(annotations: Annotations, row: int) -> list[list[int]]:
    assert annotations.masks is not None
    return np.argwhere(decode_mask(annotations.masks[row])).tolist()


class TestListing:
    def test_every_listed_image_is_a_still(self, tmp_path: Path) -> None:
        path = write_kins(tmp_path, [annotation(1, 9, CAR, (0, 1, 0, 1))])
        sources = sources_of(tmp_path)
        assert [source.name for source in sources] == ["000007", "000008", "000009"]
        assert all(source.is_still and source.labels == str(path) for source in sources)
        assert [len(source.options["label_places"]) for source in sources] == [0, 0, 1]
        assert sources[0].images == (str(tmp_path / "training/image_2/000007.png"),)

    @pytest.mark.parametrize(
        ("split", "file"),
        [
            ("train", "instances_train.json"),
            ("train", "kitti_instances_train.json"),
            ("train", "annotations/update_train_2020.json"),
            ("val", "instances_val.json"),
            ("val", "KINS/kitti_instances_val.json"),
            ("val", "update_test_2020.json"),
        ],
    )
    def test_files_of_all_releases_are_found(self, tmp_path: Path, split: str, file: str) -> None:
        write_kins(tmp_path, [], split=split, file=file)
        (source, *_) = sources_of(tmp_path, split)
        folder = "testing" if split == "val" else "training"
        assert source.images == (str(tmp_path / folder / "image_2/000007.png"),)

    def test_of_two_label_files_one_is_read_and_that_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_kins(tmp_path, [], file="update_train_2020.json")
        write_kins(tmp_path, [])
        assert {source.labels for source in sources_of(tmp_path)} == {
            str(tmp_path / "instances_train.json")
        }
        assert "update_train_2020.json" in caplog.text

    def test_images_without_a_partner_are_counted(self, tmp_path: Path) -> None:
        path = write_kins(tmp_path, [annotation(1, 8, CAR, (0, 1, 0, 1))])
        folder = tmp_path / "training" / "image_2"
        (folder / "000008.png").rename(folder / "000010.png")
        sources, problems = kins.list_sequences(tmp_path, "train")
        assert [source.name for source in sources] == ["000007", "000009"]
        assert [problem.what for problem in problems] == [
            f"1 images are not in {path} (000010.png ...): left out",
            f"1 images are not in {folder} (000008.png ...): left out",
        ]

    def test_the_order_inside_the_file_does_not_matter(self, tmp_path: Path) -> None:
        path = write_kins(tmp_path, [annotation(1, 8, CAR, (0, 1, 0, 2))], info={"a": [1]})
        content = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(content.items())), indent=1))
        assert len(annotations_of(tmp_path, 1)) == 1

    def test_nothing_there_is_one_problem_and_an_unknown_split_an_error(
        self, tmp_path: Path
    ) -> None:
        sources, (problem,) = kins.list_sequences(tmp_path, "val")
        assert sources == []
        assert "instances_val.json or update_test_2020.json" in problem.what
        with pytest.raises(ValueError, match="no split 'test', expected one of train, val"):
            kins.list_sequences(tmp_path, "test")

    def test_the_doctor_knows_what_is_there(self, tmp_path: Path) -> None:
        write_kins(tmp_path, [], file="update_train_2020.json")
        rows = {row.path: (row.required, row.exists) for row in kins.expected_files(tmp_path)}
        assert rows == {
            "training/image_2": (True, True),
            "kitti_instances_train.json": (True, True),
            "testing/image_2": (False, False),
            "kitti_instances_val.json": (False, False),
        }


class TestRecords:
    def test_later_annotations_cover_earlier_ones(self, tmp_path: Path) -> None:
        write_kins(
            tmp_path,
            [
                annotation(11, 7, CAR, (2, 6, 2, 6)),
                annotation(99, 8, CAR, (0, 9, 0, 9)),
                annotation(12, 7, PEDESTRIAN, (4, 8, 4, 8)),
                annotation(13, 7, VAN, (0, 1, 0, 14), iscrowd=1),
            ],
        )
        found = annotations_of(tmp_path)
        assert found.identity.tolist() == [0, 1, 2]
        assert found.identity_source == ("11", "12", "13")
        assert found.category == ("car", "pedestrian", "van")
        assert found.class_index.tolist() == [0, 1, -1]
        assert found.crowd.tolist() == [False, False, True]
        assert not found.ignored.any()
        assert found.masks is not None
        assert find_overlap(found.masks) is None
        assert pixels(found, 0) == [
            [v, u] for v in range(2, 6) for u in range(2, 6) if not (v >= 4 and u >= 4)
        ]
        assert len(pixels(found, 1)) == 16
        assert found.boxes_xyxy.tolist() == [[2, 2, 6, 6], [4, 4, 8, 8], [0, 0, 14, 1]]

    def test_what_is_not_seen_has_no_row(self, tmp_path: Path) -> None:
        write_kins(
            tmp_path,
            [
                annotation(1, 7, CAR, (3, 5, 3, 5)),
                annotation(2, 7, CAR, (0, 0, 0, 0)),
                annotation(3, 7, TRAM, (2, 6, 2, 6)),
            ],
        )
        found = annotations_of(tmp_path)
        assert (found.category, found.identity.tolist()) == (("tram",), [0])
        write_kins(tmp_path, [annotation(2, 7, CAR, (0, 0, 0, 0))])
        assert len(annotations_of(tmp_path)) == 0

    @pytest.mark.parametrize(
        "seen",
        [
            pytest.param({"inmodal_seg": code((2, 5, 3, 7))}, id="first release"),
            pytest.param({"i_segm": code((2, 5, 3, 7))}, id="revision"),
            pytest.param(
                {"i_segm": {"size": [10, 14], "counts": [32, 3, 7, 3, 7, 3, 7, 3, 75]}}, id="runs"
            ),
            pytest.param({"inmodal_seg": [[3, 2, 7, 2, 7, 5, 3, 5]]}, id="polygon"),
            pytest.param(
                {"i_segm": [[3, 2, 5.0, 2, 5, 5, 3, 5], [5, 2, 7, 2, 7, 5, 5, 5]]},
                id="two polygons",
            ),
        ],
    )
    def test_all_forms_of_the_visible_mask_are_read(
        self, tmp_path: Path, seen: dict[str, Any]
    ) -> None:
        record = annotation(1, 7, CAR, (0, 1, 0, 1), a_segm=code((0, 9, 0, 9)))
        del record["inmodal_seg"]
        write_kins(tmp_path, [record | seen])
        found = annotations_of(tmp_path)
        assert pixels(found, 0) == [[v, u] for v in range(2, 5) for u in range(3, 7)]
        assert found.boxes_xyxy.tolist() == [[3, 2, 7, 5]]

    def test_names_of_categories_are_those_of_the_file(self, tmp_path: Path) -> None:
        objects = [annotation(1, 7, 5, (0, 1, 0, 1)), annotation(2, 7, 3, (1, 2, 0, 1))]
        write_kins(tmp_path, objects, categories=[{"id": 5, "name": "bus"}, {"id": 3, "name": "x"}])
        assert annotations_of(tmp_path).category == ("bus", "x")

    def test_there_is_nothing_to_score(self, tmp_path: Path) -> None:
        for read in (kins.read_truth, kins.read_results):
            with pytest.raises(ValueError, match="stills without tracks"):
                read(tmp_path)


def seen(category_id: int, box: Box) -> VisibleObject:
    mask = np.zeros((4, 6), bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return VisibleObject("", category_id, "", False, encode_mask(mask))


class TestPublishedMaps:
    def test_vehicles_are_counted_together_and_painted_over_one_another(self) -> None:
        values = published_map(
            [
                seen(CAR, (0, 2, 0, 3)),
                seen(PEDESTRIAN, (0, 4, 0, 6)),
                seen(TRAM, (1, 3, 2, 4)),
                seen(CYCLIST, (0, 4, 0, 6)),
                seen(CAR, (2, 4, 3, 6)),
            ],
            *(4, 6),
        )
        assert values is not None
        assert values.dtype == np.uint16
        assert values.tolist() == [
            [26001, 26001, 26001, 0, 0, 0],
            [26001, 26001, 2, 2, 0, 0],
            [0, 0, 2, 26003, 26003, 26003],
            [0, 0, 0, 26003, 26003, 26003],
        ]

    def test_a_hidden_car_counts_all_the_same(self) -> None:
        values = published_map([seen(CAR, (0, 1, 0, 1)), seen(CAR, (0, 2, 0, 2))], 4, 6)
        assert values is not None
        assert np.unique(values).tolist() == [0, 26002]

    def test_there_is_a_map_where_there_is_a_vehicle(self) -> None:
        assert published_map([], 4, 6) is None
        assert published_map([seen(PEDESTRIAN, (0, 4, 0, 6))], 4, 6) is None
        values = published_map([seen(VAN, (0, 0, 0, 0))], 4, 6)
        assert values is not None
        assert not values.any()

    def test_maps_of_a_file(self, tmp_path: Path) -> None:
        write_kins(
            tmp_path,
            [annotation(1, 7, CAR, (0, 4, 0, 4)), annotation(2, 7, VAN, (0, 2, 0, 14))],
        )
        objects = read_objects(sources_of(tmp_path)[0], Reporter(strict=True))
        values = published_map(objects, *SIZE)
        assert values is not None
        assert (np.count_nonzero(values == 26001), np.count_nonzero(values == 2)) == (8, 28)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "another size": (
        {"inmodal_seg": code((0, 1, 0, 1), (14, 10))},
        r"inmodal_seg: the mask has the size \[14, 10\] \(height, width\), but .* \[10, 14\]",
    ),
    "a code cut short": (
        {"inmodal_seg": {"size": [10, 14], "counts": "0"}},
        "inmodal_seg: counts: the runs of the mask cover 0 pixels",
    ),
    "letters beyond ASCII": (
        {"inmodal_seg": {"size": [10, 14], "counts": "é"}},
        "has the counts 'é'",
    ),
    "runs that are too many": ({"inmodal_seg": {"size": [10, 14], "counts": [200]}}, "add up to"),
    "a negative run": ({"inmodal_seg": {"size": [10, 14], "counts": [200, -60]}}, "add up to"),
    "a number as mask": ({"inmodal_seg": 5}, "5 is neither a run-length code nor"),
    "a size that is none": ({"inmodal_seg": {"size": 3}}, "is neither"),
    "two corners": ({"inmodal_seg": [[0, 0, 5, 5]]}, "at least 3 corners"),
    "a corner far away": ({"inmodal_seg": [[0, 0, 1e9, 5, 5, 5]]}, "in or near the image"),
    "a corner without y": ({"inmodal_seg": [[0, 0, 1, 5, 5, 5, 2]]}, "at least 3 corners"),
    "a corner of text": ({"inmodal_seg": [[0, 0, 1, 5, 5, "5"]]}, "at least 3 corners"),
    "a corner that is no number": ({"inmodal_seg": [[0, 0, 1, 5, 5, float("nan")]]}, "corners"),
    "no mask": ({"inmodal_seg": None}, "no mask of what is seen, expected inmodal_seg or i_segm"),
    "an unknown category": ({"category_id": 3}, r"unknown category_id 3, expected one of 1 \(cyc"),
    "a category in words": ({"category_id": "car"}, "unknown category_id 'car'"),
}


class TestBrokenFiles:
    @pytest.mark.parametrize("name", BROKEN)
    def test_a_broken_annotation_is_named_and_its_neighbours_stay(
        self, tmp_path: Path, name: str
    ) -> None:
        fields, message = BROKEN[name]
        good = annotation(31, 8, CAR, (0, 3, 0, 3))
        path = write_kins(tmp_path, [good, annotation(32, 8, CAR, (0, 1, 0, 1)) | fields])
        source = sources_of(tmp_path)[1]
        truth, (problem,) = read_annotations(source)
        assert truth.annotations.identity_source == ("31",)
        assert problem.where == f"{path}, image 000008.png, annotation 32"
        assert re.search(message, problem.what), problem.what
        with pytest.raises(ValueError, match=r"image 000008.png, annotation 32: .*left out"):
            read_objects(source, Reporter(strict=True))

    def test_an_image_that_cannot_be_read_has_no_annotations(self, tmp_path: Path) -> None:
        write_kins(tmp_path, [annotation(1, 7, CAR, (0, 1, 0, 1))])
        source = sources_of(tmp_path)[0]
        for spoil in (lambda p: p.write_bytes(b"no image"), lambda p: p.unlink()):
            spoil(Path(source.images[0]))
            truth, (problem,) = read_annotations(source)
            assert len(truth.annotations) == 0
            assert "image 000007.png" in problem.where
            assert "1 annotations are left out" in problem.what

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected a list of records"),
            ('{"images": []}', "no list 'annotations'"),
            ('{"annotations": [{"image_id": 7}], "images"', "around its annotations"),
            ('{"annotations": [{"image_id": 7}', "found 'the end of the file'"),
            ('{"annotations": []}', "no list `images`"),
            ('[{"image_id": 7}]', "no list `images`"),
        ],
    )
    def test_a_broken_file_is_an_error_with_its_name(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        path = write_kins(tmp_path, [])
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
            kins.list_sequences(tmp_path, "train")

    def test_what_belongs_to_no_image_is_named(self, tmp_path: Path) -> None:
        path = write_kins(
            tmp_path, [annotation(1, 70, CAR, (0, 1, 0, 1)), 5, annotation(2, 7, CAR, (0, 1, 0, 1))]
        )
        content = json.loads(path.read_text())
        content["images"] += [{"id": "8"}, {"id": 7, "file_name": "000011.png"}, None]
        path.write_text(json.dumps(content))
        sources, problems = kins.list_sequences(tmp_path, "train")
        assert len(sources) == 3
        assert [problem.where for problem in problems] == [str(path)] * 5
        found = " ".join(problem.what for problem in problems)
        for text in ("image_id None", "id '8'", "id 7 is listed twice", "an image 70"):
            assert text in found

    def test_a_file_that_changes_meanwhile_is_noticed(self, tmp_path: Path) -> None:
        path = write_kins(tmp_path, [annotation(1, 7, CAR, (0, 1, 0, 1))])
        source = sources_of(tmp_path)[0]
        path.write_text(path.read_text().replace('"image_id": 7', '"image_id": 8'))
        with pytest.raises(ValueError, match="the file changed since"):
            read_annotations(source)
