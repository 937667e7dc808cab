"""Synthetic KITTI MOTS: what is in it, and that the reader of the real one reads it."""

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datasets.kitti_mots import CAR, IGNORE_VALUE, PEDESTRIAN, SEQUENCES, VALUES_PER_CLASS
from datasets.masks import decode_mask, find_overlap
from datasets.registry import BENCHMARKS
from datasets.synthetic import MARKER, VERSION, SyntheticConfig
from datasets.synthetic_mots import (
    SyntheticMotsConfig,
    draw_sequence,
    instance_map,
    write_synthetic_mots,
)
from datasets.synthetic_painter import LEAST_VISIBLE

SMALL = SyntheticMotsConfig(num_train=2, num_val=1, num_frames=4, width=160, height=96)
KITTI_MOTS = BENCHMARKS["kitti_mots"]
NUM_FRAMES = 40
"""Of the scenes that are looked at."""


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def classes_of(values: np.ndarray[Any, Any]) -> set[int]:
    return set((np.unique(values) // VALUES_PER_CLASS).tolist())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "kitti_mots"
    write_synthetic_mots(root, SMALL)
    return root


@pytest.fixture(scope="module")
def maps() -> list[list[np.ndarray[Any, Any]]]:
    """Every fourth map of two sequences; a wall passes through the first."""
    config = SyntheticMotsConfig(num_frames=NUM_FRAMES)
    found = []
    for index in range(2):
        painter = draw_sequence(config, "train", index)
        found.append([instance_map(painter, painter.draw(f / 2)) for f in range(0, NUM_FRAMES, 4)])
    return found


class TestContent:
    def test_cars_pedestrians_and_ignore_regions_are_in_it(
        self, maps: list[list[np.ndarray[Any, Any]]]
    ) -> None:
        for sequence in maps:
            seen = set().union(*(classes_of(values) for values in sequence))
            assert seen == {0, CAR, PEDESTRIAN, IGNORE_VALUE // VALUES_PER_CLASS}
            assert {values.dtype for values in sequence} == {np.dtype(np.uint16)}
            assert max(int(values.max()) for values in sequence) == IGNORE_VALUE

    def test_instances_are_seen_again_in_later_frames(
        self, maps: list[list[np.ndarray[Any, Any]]]
    ) -> None:
        for sequence in maps:
            present = [set(np.unique(values)) - {0, IGNORE_VALUE} for values in sequence]
            pairs = list(itertools.pairwise(present))
            assert any(first & second for first, second in pairs)
            assert any(first != second for first, second in pairs)

    def test_a_wall_leaves_frames_empty_in_every_fourth_sequence(
        self, maps: list[list[np.ndarray[Any, Any]]]
    ) -> None:
        with_wall, without = ([values.any() for values in sequence] for sequence in maps)
        assert all(without)
        assert [with_wall[0], all(with_wall), with_wall[-1]] == [True, False, True]

    def test_nearer_ones_cover_farther_ones(self) -> None:
        """Some labelled instances lose pixels to others, and none keeps fewer than are labelled."""
        painter = draw_sequence(SyntheticMotsConfig(num_frames=NUM_FRAMES), "train", 1)
        num_covered = 0
        for frame in range(0, NUM_FRAMES, 5):
            picture = painter.draw(frame / 2)
            values = instance_map(painter, picture)
            for place in np.flatnonzero(picture.inside):
                seen = picture.actor_map == place
                number = values[seen][0] if seen.any() else 0
                if 0 < number < IGNORE_VALUE:
                    # An instance has one value, and it is nobody else's.
                    assert np.array_equal(values == number, seen)
                    assert seen.sum() >= LEAST_VISIBLE * picture.whole[place]
                    num_covered += int(seen.sum()) < picture.inside[place]
        assert num_covered > 3

    def test_frames_between_those_of_the_scene_differ(self) -> None:
        painter = draw_sequence(SMALL, "train", 0)
        first, second = (instance_map(painter, painter.draw(time)) for time in (0.0, 0.5))
        assert not np.array_equal(first, second)


class TestFolder:
    def test_same_config_same_bytes(self, written: Path, tmp_path: Path) -> None:
        write_synthetic_mots(tmp_path / "again", SMALL)
        assert digests(tmp_path / "again") == digests(written)

    def test_sequences_and_frames_have_the_published_names(self, written: Path) -> None:
        names = [*SEQUENCES["train"][:2], *SEQUENCES["val"][:1]]
        expected = {
            f"{folder}/{name}/{frame:06d}.png"
            for folder in ("images", "instances")
            for name in names
            for frame in range(SMALL.num_frames)
        }
        assert set(digests(written)) == expected | {MARKER}

    def test_the_reader_of_the_real_one_reads_it(self, written: Path) -> None:
        for split, count in (("train", 2), ("val", 1)):
            sources, _ = KITTI_MOTS.list_sequences(written, split)
            assert [source.name for source in sources] == list(SEQUENCES[split][:count])
            for source in sources:
                truth, problems = KITTI_MOTS.read_annotations(source)
                assert problems == []
                assert truth.num_frames == SMALL.num_frames
                self.check_masks(written, source.name, truth.annotations)

    @staticmethod
    def check_masks(root: Path, name: str, annotations: Any) -> None:
        """The masks of every frame rebuild its map, and none shares a pixel with another."""
        for frame in range(SMALL.num_frames):
            path = root / "instances" / name / f"{frame:06d}.png"
            values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert values is not None
            rebuilt = np.zeros_like(values)
            rows = np.flatnonzero(annotations.frame_index == frame)
            masks = [annotations.masks[row] for row in rows]
            assert find_overlap(masks) is None
            for row, mask in zip(rows, masks, strict=True):
                rebuilt[decode_mask(mask)] = annotations.identity[row]
            assert np.array_equal(rebuilt, values)
            assert (annotations.ignored == (annotations.identity == IGNORE_VALUE)).all()

    def test_the_same_config_again_touches_nothing(self, written: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
        write_synthetic_mots(written, SMALL)
        assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before

    def test_another_config_takes_the_place_of_the_folder(self, tmp_path: Path) -> None:
        one = SyntheticMotsConfig(num_train=1, num_val=1, num_frames=2, width=160, height=96)
        write_synthetic_mots(tmp_path / "set", SyntheticMotsConfig(**{**vars(one), "num_train": 2}))
        write_synthetic_mots(tmp_path / "set", one)
        assert sorted(path.name for path in (tmp_path / "set" / "images").iterdir()) == [
            SEQUENCES["train"][0],
            SEQUENCES["val"][0],
        ]
        assert list(tmp_path.iterdir()) == [tmp_path / "set"]
        marker = json.loads((tmp_path / "set" / MARKER).read_text())
        assert (marker["set"], marker["config"]["num_train"]) == ("mots", 1)

    def test_a_synthetic_set_of_another_kind_is_not_taken_for_this_one(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "set" / "labels").mkdir(parents=True)
        marker = json.dumps({"version": VERSION, "config": vars(SyntheticConfig())})
        (tmp_path / "set" / MARKER).write_text(marker)
        write_synthetic_mots(tmp_path / "set", SMALL)
        assert (tmp_path / "set" / "instances").is_dir()
        assert not (tmp_path / "set" / "labels").exists()

    def test_a_folder_of_somebody_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("precious")
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
            write_synthetic_mots(tmp_path, SMALL)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_train", 13, "1 to 12"),
        ("num_train", 0, "1 to 12"),
        ("num_val", 10, "1 to 9"),
        ("num_frames", 1, "2 to"),
        ("width", 80, "160 to 2048"),
        ("height", 4096, "96 to 1024"),
        ("objects_per_frame", 0.1, "0.5 to 50"),
        ("seed", -1, "0 to"),
    ],
)
def test_a_config_out_of_range_is_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}, expected {message}"):
        SyntheticMotsConfig(**{name: value})
