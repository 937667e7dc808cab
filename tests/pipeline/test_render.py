"""Overlay videos: what is drawn where, and a file that is complete or absent."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.masks import decode_mask, encode_mask
from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, Tracks
from datasets.video import iterate_frames, probe_video
from pipeline.render import (
    IGNORED_COLOUR,
    TRAIL_FRAMES,
    TRUTH_COLOUR,
    Overlay,
    identity_colour,
    render_sequence,
    truth_overlay,
)

NAMES = ("pedestrian", "car")
GREY = np.full((400, 500, 3), 90, np.uint8)


def tracks(rows: list[tuple[int, int, tuple[float, float, float, float]]]) -> Tracks:
    """Rows of frame index, track id and box."""
    return Tracks(
        frame_index=np.array([row[0] for row in rows], np.int32),
        track_id=np.array([row[1] for row in rows], np.int64),
        detection_row=np.full(len(rows), -1, np.int32),
        boxes_xyxy=np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        scores=np.full(len(rows), 0.9, np.float32),
        class_index=np.zeros(len(rows), np.int16),
    )


def truth(box: tuple[float, float, float, float], *, crowd: bool = False) -> Annotations:
    none = np.zeros(1, bool)
    return Annotations(
        frame_index=np.zeros(1, np.int32),
        identity=np.zeros(1, np.int64),
        identity_source=("0",),
        category=("car",),
        class_index=np.ones(1, np.int16),
        boxes_xyxy=np.array([box]),
        crowd=np.array([crowd]),
        ignored=none,
        occluded=none,
        truncated=none,
        visibility=np.full(1, np.nan, np.float32),
    )


def changed(image: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    """Hull of all pixels that are not grey, exclusive edges."""
    rows, columns = np.nonzero((image != 90).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def has_colour(image: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> bool:
    return bool((image == colour).all(axis=2).any())


class TestOverlay:
    def test_right_and_bottom_edges_are_exclusive(self) -> None:
        drawn = Overlay(Tracks.empty(), NAMES, truth=truth((30, 40, 60, 80))).draw(0, GREY)
        assert changed(drawn) == (30, 40, 60, 80)
        assert has_colour(drawn, TRUTH_COLOUR)
        assert (drawn[41:79, 31:59] == 90).all()

    def test_crowds_are_grey(self) -> None:
        overlay = Overlay(Tracks.empty(), NAMES, truth=truth((30, 40, 60, 80), crowd=True))
        drawn = overlay.draw(0, GREY)
        assert has_colour(drawn, IGNORED_COLOUR)
        assert not has_colour(drawn, TRUTH_COLOUR)

    def test_a_track_is_drawn_in_its_colour_and_the_frame_is_left_alone(self) -> None:
        image = GREY.copy()
        drawn = Overlay(tracks([(0, 7, (100, 100, 180, 200))]), NAMES).draw(0, image)
        assert (drawn[150, 100] == identity_colour(7)).all()
        assert (image == 90).all()

    def test_a_small_frame_is_enlarged_and_its_boxes_with_it(self) -> None:
        small = np.full((192, 320, 3), 90, np.uint8)
        drawn = Overlay(Tracks.empty(), NAMES, truth=truth((30, 40, 60, 80))).draw(0, small)
        assert drawn.shape == (384, 640, 3)
        assert changed(drawn) == (60, 80, 120, 160)

    @pytest.mark.parametrize(
        "box", [(-30, -20, 20, 20), (480, 390, 700, 600), (0, 0, 500, 400), (900, 900, 950, 950)]
    )
    def test_boxes_may_leave_the_image(self, box: tuple[float, float, float, float]) -> None:
        assert Overlay(tracks([(0, 1, box)]), NAMES).draw(0, GREY).shape == GREY.shape

    def test_masks_are_tinted_with_an_outline_and_no_box(self) -> None:
        shape = np.zeros((400, 500), bool)
        shape[200:300, 100:150] = shape[250:300, 100:220] = True
        plain = tracks([(0, 7, (100, 200, 220, 300))])
        drawn = Overlay(replace(plain, masks=(encode_mask(shape),)), NAMES).draw(0, GREY)
        colour = np.array(identity_colour(7))
        assert drawn[270, 130].tolist() == np.rint(90 * 0.55 + colour * 0.45).astype(int).tolist()
        assert drawn[270, 100].tolist() == colour.tolist()
        assert drawn[220, 200].tolist() == [90, 90, 90]
        assert drawn[230, 219].tolist() == [90, 90, 90], "the corner of the box"

    def test_masks_grow_with_a_small_frame(self) -> None:
        shape = np.zeros((100, 160), bool)
        shape[40:60, 30:50] = True
        plain = tracks([(0, 7, (30, 40, 50, 60))])
        small = np.full((100, 160, 3), 90, np.uint8)
        drawn = Overlay(replace(plain, masks=(encode_mask(shape),)), NAMES).draw(0, small)
        assert drawn.shape == (400, 640, 3)
        assert drawn[239, 199].tolist() == list(identity_colour(7))
        assert drawn[240, 200].tolist() == [90, 90, 90]

    def test_true_masks_are_outlines(self) -> None:
        shape = np.zeros((400, 500), bool)
        shape[200:300, 100:150] = True
        masked = replace(truth((100, 200, 150, 300), crowd=True), masks=(encode_mask(shape),))
        drawn = Overlay(Tracks.empty(), NAMES, truth=masked).draw(0, GREY)
        assert drawn[250, 100].tolist() == list(IGNORED_COLOUR)
        assert drawn[250, 125].tolist() == [90, 90, 90]

    def test_an_unknown_class_is_drawn_without_a_name(self) -> None:
        rows = replace(tracks([(0, 1, (10, 50, 60, 90))]), class_index=np.array([-1], np.int16))
        assert has_colour(Overlay(rows, NAMES).draw(0, GREY), identity_colour(1))

    def test_rows_may_be_stored_in_any_order_of_frames(self) -> None:
        rows = [(frame, 3, (100 + 9 * frame, 100, 180, 200)) for frame in range(5)]
        in_order, shuffled = Overlay(tracks(rows), NAMES), Overlay(tracks(rows[::-1]), NAMES)
        for frame in range(5):
            assert np.array_equal(in_order.draw(frame, GREY), shuffled.draw(frame, GREY))

    def test_the_trail_follows_the_foot_and_fades_after_the_track_is_gone(self) -> None:
        overlay = Overlay(tracks([(0, 5, (0, 0, 20, 100)), (1, 5, (200, 0, 220, 100))]), NAMES)
        alone = overlay.draw(0, GREY)
        assert (alone[100, 60:150] == 90).all()
        moved = overlay.draw(1, GREY)
        assert (moved[100, 60:150] == identity_colour(5)).all()
        gone = overlay.draw(TRAIL_FRAMES, GREY)
        assert has_colour(gone, identity_colour(5))
        assert (overlay.draw(TRAIL_FRAMES + 2, GREY) == 90).all()

    def test_true_boxes_have_no_score_and_crowds_stay_grey(self) -> None:
        drawn = truth_overlay(truth((100, 100, 110, 200)), NAMES).draw(0, GREY)
        assert (drawn[150, 100] == identity_colour(0)).all()
        strip = (drawn == identity_colour(0)).all(axis=2)[80:100].any(axis=0)
        with_score = Overlay(tracks([(0, 0, (100, 100, 110, 200))]), NAMES).draw(0, GREY)
        longer = (with_score == identity_colour(0)).all(axis=2)[80:100].any(axis=0)
        assert strip.sum() < longer.sum() - 20
        crowd = truth_overlay(truth((30, 40, 60, 80), crowd=True), NAMES).draw(0, GREY)
        assert has_colour(crowd, IGNORED_COLOUR)
        assert not has_colour(crowd, identity_colour(0))

    def test_neighbouring_identities_differ_in_colour(self) -> None:
        colours = np.array([identity_colour(i) for i in range(200)])
        for distance in (1, 2, 3):
            steps = np.abs(colours[distance:] - colours[:-distance]).sum(axis=1)
            assert steps.min() > 90


class TestVideo:
    def test_every_frame_is_written_also_those_without_tracks(self, tmp_path: Path) -> None:
        path = tmp_path / "overlay.mp4"
        rows = tracks([(1, 1, (10, 50, 60, 90))])
        render_sequence(((i, GREY) for i in range(6)), rows, NAMES, path, frame_rate=5)
        info = probe_video(path)
        assert (info.width, info.height, info.num_frames) == (500, 400, 6)
        assert info.frame_rate == pytest.approx(5)
        written = [image.astype(int) for _, _, image in iterate_frames(path)]
        assert np.abs(written[0] - 90).max() < 12
        assert np.abs(written[1] - 90).max() > 60

    def test_truth_beside_is_drawn_in_the_colours_of_its_identities(self, tmp_path: Path) -> None:
        path = tmp_path / "beside.mp4"
        rows = tracks([(0, 7, (100, 100, 180, 200))])
        true = truth((200, 100, 280, 200))
        frames = [(0, GREY)]
        render_sequence(frames, rows, NAMES, path, frame_rate=5, truth=true, beside=True)
        ((_, _, image),) = iterate_frames(path)
        assert image.shape == (400, 1000, 3)
        found = {
            (x, i): bool(np.abs(image[150, x].astype(int) - identity_colour(i)).max() < 60)
            for x in (100, 500 + 200)
            for i in (0, 7)
        }
        assert found == {(100, 7): True, (100, 0): False, (700, 0): True, (700, 7): False}
        assert np.abs(image[150, [200, 600]].astype(int) - 90).max() < 20, "each in one picture"

    def test_one_frame_at_a_time_is_in_memory(self, tmp_path: Path) -> None:
        alive: list[weakref.ref[Any]] = []
        most = 0

        def frames() -> Iterator[tuple[int, Any]]:
            nonlocal most
            for index in range(12):
                most = max(most, sum(image() is not None for image in alive))
                image = GREY.copy()
                alive.append(weakref.ref(image))
                yield index, image
                del image

        render_sequence(frames(), Tracks.empty(), NAMES, tmp_path / "o.mp4", frame_rate=5)
        assert len(alive) == 12
        assert most <= 1

    def test_a_failure_halfway_leaves_no_file(self, tmp_path: Path) -> None:
        def frames() -> Iterator[tuple[int, Any]]:
            yield 0, GREY
            yield 1, GREY
            raise ValueError("frame 2 is broken")

        with pytest.raises(ValueError, match="frame 2"):
            render_sequence(frames(), Tracks.empty(), NAMES, tmp_path / "o.mp4", frame_rate=5)
        assert list(tmp_path.iterdir()) == []

    def test_frames_of_another_size_are_refused(self, tmp_path: Path) -> None:
        frames = [(0, GREY), (1, GREY[:380])]
        with pytest.raises(ValueError, match="380"):
            render_sequence(frames, Tracks.empty(), NAMES, tmp_path / "o.mp4", frame_rate=5)

    def test_a_sequence_without_frames_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no frame"):
            render_sequence([], Tracks.empty(), NAMES, tmp_path / "o.mp4", frame_rate=5)
        assert list(tmp_path.iterdir()) == []


def test_published_masks_are_rendered(shared: Path, tmp_path: Path) -> None:
    """The authors' results of one sequence, over grey frames: the images are KITTI's."""
    tracks = (
        BENCHMARKS["kitti_mots"].read_results(shared / "data/kitti_mots_segs/car")["0027"].tracks
    )
    grey = ((index, np.full((370, 1226, 3), 90, np.uint8)) for index in range(12))
    names = BENCHMARKS["kitti_mots"].classes
    render_sequence(grey, tracks, names, tmp_path / "x.mp4", frame_rate=10)
    frames = [image for _, _, image in iterate_frames(tmp_path / "x.mp4")]
    assert len(frames) == 12
    row = int(np.flatnonzero(tracks.frame_index == 5)[0])
    assert tracks.masks is not None
    inside = decode_mask(tracks.masks[row])
    assert np.abs(frames[5].astype(int) - 90)[: len(inside), : inside.shape[1]][inside].mean() > 20
