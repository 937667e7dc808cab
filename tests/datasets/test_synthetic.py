"""Synthetic scenes: what is drawn, what is labelled, and what a reader finds on the disk."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import bdd100k
from datasets.images import decode_image
from datasets.schema import SequenceTruth
from datasets.synthetic import (
    MARKER,
    VIDEO_STRIDE,
    SyntheticConfig,
    plan_sequence,
    sequence_name,
    write_synthetic_bdd100k,
)
from datasets.synthetic_painter import LEAST_VISIBLE, NOBODY, Label, ScenePainter
from datasets.synthetic_scenes import KINDS, ROAD_USERS, Scene, kinds_of_sequence, plan_scene
from datasets.video import iterate_frames, probe_video

NUM_FRAMES = 30
SMALL = SyntheticConfig(num_train=2, num_val=1, num_frames=10, num_stills=5, video_share=0.5)


def scene(seed: int, **options: Any) -> Scene:
    given = {"width": 320, "height": 192, "num_frames": NUM_FRAMES, "objects_per_frame": 6.0}
    return plan_scene(np.random.default_rng(seed), **(given | options))


def is_scored(label: Label) -> bool:
    actor = label.actor
    return actor.category in ROAD_USERS and not actor.crowd and not actor.ignored


def labels_of(seed: int, **options: Any) -> list[list[Label]]:
    painter = ScenePainter(scene(seed, **options))
    return [painter.labels(painter.draw(t)) for t in range(painter.scene.num_frames)]


@pytest.fixture(scope="module")
def sequences() -> list[list[list[Label]]]:
    """Labels of every frame of eight sequences, only those that count in evaluation."""
    return [
        [[label for label in frame if is_scored(label)] for frame in labels_of(seed)]
        for seed in range(8)
    ]


class TestPictures:
    def test_a_box_is_the_tight_hull_of_the_pixels_that_are_seen(self) -> None:
        painter = ScenePainter(scene(3))
        num_boxes = 0
        for t in (0, 11, 22):
            picture = painter.draw(t)
            pixels: dict[int, list[tuple[int, int]]] = {}
            for (y, x), index in np.ndenumerate(picture.actor_map):
                pixels.setdefault(int(index), []).append((x, y))
            pixels.pop(NOBODY)
            for label in painter.labels(picture):
                seen = pixels[painter.scene.actors.index(label.actor)]
                xs, ys = zip(*seen, strict=True)
                assert label.box == (min(xs), min(ys), max(xs), max(ys))
                num_boxes += 1
        assert num_boxes > 15

    def test_boxes_follow_the_image_itself(self) -> None:
        # Independent of the map of actors: taking a train away changes the pixels of its box and,
        # but for one smoothed pixel around, no others (trains cast no shadow).
        whole = scene(1, kinds=("train",), objects_per_frame=0.5, num_frames=10)
        trains = [i for i, actor in enumerate(whole.actors) if actor.category == "train"]
        rest = tuple(actor for i, actor in enumerate(whole.actors) if i != trains[0])
        painter, without = ScenePainter(whole), ScenePainter(replace(whole, actors=rest))
        compared = 0
        for t in range(10):
            picture = painter.draw(t)
            found = [label for label in painter.labels(picture) if label.actor not in rest]
            if not found or found[0].occluded:
                continue
            changed = (picture.image != without.draw(t).image).any(axis=2)
            rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
            hull = np.array([columns[0], rows[0], columns[-1], rows[-1]])
            assert np.abs(hull - found[0].box).max() <= 1
            compared += 1
        assert compared >= 3

    def test_frames_do_not_depend_on_the_order_of_drawing(self) -> None:
        forward, backward = ScenePainter(scene(1)), ScenePainter(scene(1))
        ahead = [forward.draw(t).image for t in range(6)]
        back = [backward.draw(t).image for t in reversed(range(6))]
        assert all(np.array_equal(a, b) for a, b in zip(ahead, reversed(back), strict=True))

    def test_nearer_ones_hide_farther_ones(self) -> None:
        num_hidden = 0
        for seed in range(4):
            painter = ScenePainter(scene(seed))
            for t in range(0, NUM_FRAMES, 5):
                picture = painter.draw(t)
                seen = np.bincount(picture.actor_map[picture.actor_map >= 0], minlength=99)
                shown = np.flatnonzero(picture.inside)
                nearest = max(shown, key=lambda i: painter.scene.actors[i].motion.at(t)[1])
                assert seen[nearest] == picture.inside[nearest]
                num_hidden += sum(seen[i] < picture.inside[i] for i in shown)
        assert num_hidden > 10

    @pytest.mark.parametrize("size", [(320, 192), (640, 360)])
    def test_a_larger_image_shows_the_same_scene_larger(self, size: tuple[int, int]) -> None:
        width, height = size
        painter = ScenePainter(scene(2, width=width, height=height))
        picture = painter.draw(7)
        assert picture.image.shape == (height, width, 3)
        assert picture.image.dtype == np.uint8
        sides = [(b[3] - b[1] + 1) / height for b in (x.box for x in painter.labels(picture))]
        assert 0.1 < float(np.median(sides)) < 0.5


class TestLabels:
    def test_hidden_ones_have_no_label_and_flags_follow_what_is_seen(self) -> None:
        flags: Counter[str] = Counter()
        painter = ScenePainter(scene(4))
        for t in range(NUM_FRAMES):
            picture = painter.draw(t)
            labelled = {label.actor.identity: label for label in painter.labels(picture)}
            for index, actor in enumerate(painter.scene.actors):
                seen = int((picture.actor_map == index).sum())
                label = labelled.get(actor.identity)
                if label is None:
                    flags["hidden"] += bool(picture.inside[index])
                    continue
                assert seen >= LEAST_VISIBLE * picture.whole[index] > 0
                assert label.occluded == (seen < 0.9 * picture.inside[index])
                assert label.truncated == (picture.inside[index] < 0.95 * picture.whole[index])
                x1, y1, x2, y2 = label.box
                if label.truncated and not label.occluded:
                    assert 0 in (x1, y1, 319 - x2, 191 - y2)
                flags["occluded"] += label.occluded
                flags["truncated"] += label.truncated
        assert min(flags[name] for name in ("hidden", "occluded", "truncated")) >= 5

    def test_identities_keep_their_class_and_return_after_gaps(
        self, sequences: list[list[list[Label]]]
    ) -> None:
        num_gaps = 0
        for frames in sequences:
            looks: dict[str, Any] = {}
            last: dict[str, int] = {}
            for t, frame in enumerate(frames):
                names = [label.actor.identity for label in frame]
                assert len(set(names)) == len(names)
                for label in frame:
                    name = label.actor.identity
                    assert name.isdigit()
                    look = (label.actor.category, label.actor.look)
                    assert looks.setdefault(name, look) == look
                    num_gaps += name in last and t - last[name] > 1
                    last[name] = t
        assert num_gaps >= len(sequences)

    def test_some_of_a_class_look_alike_but_never_the_same(self) -> None:
        num_alike = 0
        for seed in range(8):
            actors = [actor for actor in scene(seed).actors if actor.category in ROAD_USERS]
            looks = [(a.category, a.look.pattern, a.look.period, a.look.primary) for a in actors]
            num_alike += len(looks) - len(set(looks))
            assert len({(a.category, a.look) for a in actors}) == len(actors)
        assert num_alike >= 4

    def test_entries_and_exits_happen_in_mid_sequence(
        self, sequences: list[list[list[Label]]]
    ) -> None:
        first: Counter[int] = Counter()
        last: Counter[int] = Counter()
        for frames in sequences:
            times: dict[str, list[int]] = {}
            for t, frame in enumerate(frames):
                for label in frame:
                    times.setdefault(label.actor.identity, []).append(t)
            first.update(t[0] for t in times.values())
            last.update(t[-1] for t in times.values())
        assert sum(first.values()) - first[0] >= 16
        assert sum(last.values()) - last[NUM_FRAMES - 1] >= 16

    def test_overlap_alone_often_fails(self, sequences: list[list[list[Label]]]) -> None:
        # At 0.15 a tracker by overlap is as good as one by appearance; at 0.45 nobody could
        # follow by eye at 5 frames a second. Boxes of the same identity in consecutive frames:
        overlaps = []
        for frames in sequences:
            for before, now in itertools.pairwise(frames):
                previous = {label.actor.identity: label.box for label in before}
                overlaps += [
                    intersection_over_union(previous[label.actor.identity], label.box)
                    for label in now
                    if label.actor.identity in previous
                ]
        share = float(np.mean(np.array(overlaps) < 0.5))
        assert len(overlaps) > 700
        assert 0.15 < share < 0.45

    def test_sizes_suit_a_small_network(self, sequences: list[list[list[Label]]]) -> None:
        boxes = np.array([label.box for frames in sequences for frame in frames for label in frame])
        longer = (boxes[:, 2:] - boxes[:, :2] + 1).max(axis=1)
        low, high = np.percentile(longer, [10, 90])
        assert low >= 20
        assert high <= 110

    def test_a_wall_hides_everything_for_some_frames(self) -> None:
        frames = labels_of(0, with_wall=True)
        empty = [t for t, frame in enumerate(frames) if not any(map(is_scored, frame))]
        assert 2 <= len(empty) <= 4
        assert empty == list(range(empty[0], empty[-1] + 1))
        before = {label.actor.identity for label in frames[empty[0] - 2] if is_scored(label)}
        after = {label.actor.identity for label in frames[empty[-1] + 2] if is_scored(label)}
        assert before & after


class TestKinds:
    @pytest.mark.parametrize("num_sequences", [1, 2, 6, 13, 24, 100])
    def test_every_split_gets_every_kind(self, num_sequences: int) -> None:
        dealt = [kinds_of_sequence(index, num_sequences) for index in range(num_sequences)]
        assert {kind for kinds in dealt for kind in kinds} == set(KINDS)
        assert min(map(len, dealt)) >= 1


def intersection_over_union(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Of inclusive boxes, by counting pixels."""
    in_a = {(x, y) for x in range(a[0], a[2] + 1) for y in range(a[1], a[3] + 1)}
    in_b = {(x, y) for x in range(b[0], b[2] + 1) for y in range(b[1], b[3] + 1)}
    return len(in_a & in_b) / len(in_a | in_b)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "bdd100k"
    write_synthetic_bdd100k(root, SMALL)
    return root


def truths(root: Path, split: str) -> list[SequenceTruth]:
    sources, problems = bdd100k.list_sequences(root, split)
    read = [bdd100k.read_annotations(source) for source in sources]
    assert problems == [problem for _, found in read for problem in found] == []
    return [truth for truth, _ in read]


def files_of(root: Path) -> dict[str, bytes]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


class TestFiles:
    @pytest.mark.parametrize(("split", "count"), [("train", 2), ("val", 1)])
    def test_the_reader_finds_everything_in_both_splits(
        self, written: Path, split: str, count: int
    ) -> None:
        found = truths(written, split)
        assert len(found) == count
        assert {len(truth.frame_names) for truth in found} == {10}
        rows = [truth.annotations for truth in found]
        scored = [a.class_index[~a.crowd & ~a.ignored] for a in rows]
        assert set(np.concatenate(scored).tolist()) == set(range(8))
        assert any(a.crowd.any() for a in rows)
        categories = {c for a in rows for c in a.category}
        assert {"other vehicle", "other person", "trailer"} <= categories
        plain_ignored = [a.class_index[a.ignored] == bdd100k.CLASSES.index("car") for a in rows]
        assert any(flags.any() for flags in plain_ignored)
        boxes = np.concatenate([a.boxes_xyxy for a in rows])
        assert boxes.min() >= 0
        assert (boxes[:, 2:] <= (320, 192)).all()
        assert (boxes[:, 2:] - boxes[:, :2]).min() >= 4

    def test_frames_without_labels_are_null_in_the_file(self, written: Path) -> None:
        for split in ("train", "val"):
            name = sequence_name(SMALL, split, 0)
            path = written / "labels" / "box_track_20" / split / f"{name}.json"
            frames = json.loads(path.read_text())
            assert [frame["frameIndex"] for frame in frames] == list(range(10))
            assert 2 <= sum(frame["labels"] is None for frame in frames) <= 4
            assert all(frame["labels"] != [] for frame in frames)

    def test_stills_have_labels_of_the_detection_set(self, written: Path) -> None:
        assert len(truths(written, "det_train")) == 5
        assert len(truths(written, "det_val")) == 1
        frames = json.loads((written / "labels" / "det_20" / "det_train.json").read_text())
        categories = {label["category"] for frame in frames for label in frame["labels"] or []}
        assert categories & {"traffic sign", "traffic light"}
        assert not categories & {"tree", "pillar", "wall"}

    def test_folders_and_videos_show_the_same_kind_of_frames(self, written: Path) -> None:
        sources, _ = bdd100k.list_sequences(written, "train")
        by_images = {bool(source.images): source for source in sources}
        assert set(by_images) == {True, False}
        paths = by_images[True].images
        assert [Path(path).name[-11:] for path in paths[:2]] == ["0000001.jpg", "0000002.jpg"]
        assert decode_image(Path(paths[0]).read_bytes()).shape == (192, 320, 3)
        video = by_images[False].video
        assert video is not None
        info = probe_video(Path(video))
        assert (info.width, info.height) == (320, 192)
        assert info.num_frames == 10 * VIDEO_STRIDE

    def test_label_i_of_a_video_is_its_frame_6_i(self, written: Path) -> None:
        # The frames in between move on, so that a wrong stride or phase is a wrong box.
        index = 1
        painter, _ = plan_sequence(SMALL, "train", index)
        path = written / "videos" / "train" / f"{sequence_name(SMALL, 'train', index)}.mov"
        frames = [rgb.astype(float) for _, _, rgb in iterate_frames(path)]
        for t in (0, 4, 9):
            drawn = painter.draw(t).image.astype(float)
            errors = [float(np.abs(frame - drawn).mean()) for frame in frames]
            assert int(np.argmin(errors)) == t * VIDEO_STRIDE
            assert min(errors) < 8

    def test_the_same_config_gives_the_same_bytes(self, written: Path, tmp_path: Path) -> None:
        write_synthetic_bdd100k(tmp_path / "again", SMALL)
        first, second = files_of(written), files_of(tmp_path / "again")
        assert first.keys() == second.keys()
        assert all(first[name] == second[name] for name in first if not name.endswith(".mov"))

    def test_another_seed_gives_other_names_and_pictures(self) -> None:
        other = replace(SMALL, seed=1)
        names = {
            sequence_name(config, part, index)
            for config in (SMALL, other)
            for part in ("train", "val", "det_train", "det_val")
            for index in range(3)
        }
        assert len(names) == 24

    def test_a_complete_folder_is_left_alone(self, written: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
        write_synthetic_bdd100k(written, SMALL)
        assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


TINY = SyntheticConfig(num_train=2, num_val=2, num_frames=8, num_stills=0, video_share=0.0)


class TestReplacing:
    def test_another_config_replaces_the_folder(self, tmp_path: Path) -> None:
        root = tmp_path / "set"
        write_synthetic_bdd100k(root, TINY)
        write_synthetic_bdd100k(root, replace(TINY, seed=1))
        names = {path.stem for path in (root / "labels" / "box_track_20").rglob("*.json")}
        config = replace(TINY, seed=1)
        assert names == {
            sequence_name(config, split, i) for split in ("train", "val") for i in (0, 1)
        }
        assert [path.name for path in tmp_path.iterdir()] == ["set"]

    def test_a_folder_of_somebody_else_is_never_touched(self, tmp_path: Path) -> None:
        (tmp_path / "precious.txt").write_text("kept")
        with pytest.raises(ValueError, match=r"no synthetic\.json"):
            write_synthetic_bdd100k(tmp_path, TINY)
        assert (tmp_path / "precious.txt").read_text() == "kept"

    def test_an_empty_folder_is_taken(self, tmp_path: Path) -> None:
        write_synthetic_bdd100k(tmp_path, TINY)
        assert (tmp_path / MARKER).is_file()

    @pytest.mark.slow
    def test_a_killed_writer_leaves_nothing_that_looks_finished(self, tmp_path: Path) -> None:
        root = tmp_path / "set"
        code = (
            "from pathlib import Path; from datasets.synthetic import *; "
            f"write_synthetic_bdd100k(Path({str(root)!r}), SyntheticConfig(num_train=500))"
        )
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert list(tmp_path.rglob("*.jpg"))
        assert not root.exists()
        write_synthetic_bdd100k(root, TINY)
        assert truths(root, "val")


@pytest.mark.parametrize(
    "field",
    [
        {"num_train": 0},
        {"num_val": 0},
        {"num_frames": 1},
        {"num_stills": -1},
        {"seed": -1},
        {"width": 321},
        {"height": 50},
        {"objects_per_frame": 0.0},
        {"video_share": 1.5},
    ],
)
def test_values_out_of_range_are_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        SyntheticConfig(**field)
