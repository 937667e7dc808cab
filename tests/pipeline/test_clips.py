"""Clips of single errors: which frames, which part of the picture, which boxes in which colour."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.schema import SequenceResult, SequenceTruth
from datasets.video import iterate_frames, probe_video
from pipeline.clips import (
    CONTEXT_FRAMES,
    MOST_FRAMES,
    choose_window,
    clip_frames,
    draw_clip,
    mark_boxes,
    write_clip,
)
from pipeline.errors import Error
from pipeline.render import TRUTH_COLOUR, identity_colour

MakeTruth = Callable[..., SequenceTruth]
MakeResult = Callable[..., SequenceResult]

NAMES = ("pedestrian", "car")
GREY = np.full((240, 320, 3), 90, np.uint8)
SWITCH = Error(
    cause="switched",
    first_frame=10,
    last_frame=12,
    num_boxes=3,
    truth_class=1,
    identity=7,
    track_class=1,
    track_id=5,
    previous_track_id=4,
)
BOX, BESIDE = (100.0, 100.0, 140.0, 130.0), (110.0, 100.0, 150.0, 130.0)


def test_a_long_error_loses_its_middle() -> None:
    frames = clip_frames(replace(SWITCH, first_frame=20, last_frame=400), 1000)
    assert len(frames) == MOST_FRAMES
    assert (frames[0], frames[-1]) == (20 - CONTEXT_FRAMES, 400 + CONTEXT_FRAMES)
    steps = np.diff(frames)
    assert sorted(steps)[:-1] == [1] * (MOST_FRAMES - 2)


def test_a_clip_ends_with_its_sequence() -> None:
    assert clip_frames(replace(SWITCH, first_frame=1, last_frame=2), 4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "boxes",
    [
        [(100, 100, 110, 110)],
        [(0, 0, 5, 5)],
        [(1270, 700, 1280, 720)],
        [(-50, -50, 20, 20)],
        [(1300, 800, 1400, 900)],
        [(0, 0, 1280, 720)],
        [(10, 10, 20, 20), (1200, 600, 1250, 700)],
        [(100, 5, 101, 700)],
    ],
)
def test_the_window_lies_inside_the_picture_around_what_is_visible(
    boxes: list[tuple[float, ...]],
) -> None:
    x1, y1, x2, y2 = choose_window(np.array(boxes, np.float64), 720, 1280)
    assert 0 <= x1 < x2 <= 1280
    assert 0 <= y1 < y2 <= 720
    assert x2 - x1 >= 320
    visible = np.clip(np.array(boxes), 0, [1280, 720, 1280, 720])
    assert (visible[:, :2] >= [x1, y1]).all()
    assert (visible[:, 2:] <= [x2, y2]).all()


def test_what_is_marked(make_truth: MakeTruth, make_result: MakeResult) -> None:
    truth = make_truth([(10, 7, 1, BOX), (10, 8, 1, BESIDE), (90, 7, 1, BOX)], 100)
    rows = [(10, 4, 1, BESIDE), (10, 6, 0, BOX), (12, 5, 1, BOX), (90, 5, 1, BOX)]
    marks = mark_boxes(SWITCH, make_result(rows, 100).tracks, truth.annotations, NAMES)
    assert [(mark.frame_index, mark.text, mark.colour) for mark in marks] == [
        (10, "", (120, 120, 120)),
        (10, "true 7", TRUTH_COLOUR),
        (10, "car 4", identity_colour(4)),
        (12, "car 5", identity_colour(5)),
    ]


def test_a_false_box_has_no_true_one(make_truth: MakeTruth, make_result: MakeResult) -> None:
    error = Error(
        cause="background", first_frame=1, last_frame=1, num_boxes=1, track_class=1, track_id=0
    )
    truth = make_truth([(1, 0, 1, BOX)], 3)
    marks = mark_boxes(error, make_result([(1, 0, 1, BESIDE)]).tracks, truth.annotations, NAMES)
    assert [mark.text for mark in marks] == ["car 0"]


def test_boxes_are_drawn_where_the_window_puts_them(
    make_truth: MakeTruth, make_result: MakeResult
) -> None:
    """The window is 80 x 60 around the box, enlarged sixfold."""
    truth = make_truth([(10, 7, 1, BOX)], 20)
    marks = mark_boxes(SWITCH, make_result([], 20).tracks, truth.annotations, NAMES)
    (drawn,) = draw_clip([(10, GREY)], marks)
    assert drawn.shape == (360, 480, 3)
    x1, y1, *_ = choose_window(np.array([BOX]), 240, 320)
    left, top = round(6 * (100 - x1)), round(6 * (100 - y1))
    assert (drawn[top + 60, left] == TRUTH_COLOUR).all()
    assert (drawn[top + 60, left + 120] == 90).all()
    (elsewhere,) = draw_clip([(11, GREY)], marks)
    assert (elsewhere[top + 60, left] == 90).all()


def test_a_clip_is_a_video_of_its_frames(
    make_truth: MakeTruth, make_result: MakeResult, tmp_path: Path
) -> None:
    truth = make_truth([(frame, 7, 1, BOX) for frame in range(20)], 20)
    rows = [(frame, 4 if frame < 11 else 5, 1, BESIDE) for frame in range(20)]
    path = tmp_path / "clip.mp4"
    images = ((frame, GREY) for frame in clip_frames(SWITCH, 20))
    write_clip(images, SWITCH, make_result(rows).tracks, truth.annotations, NAMES, path)
    info = probe_video(path)
    assert (info.width, info.height, info.num_frames) == (480, 360, 15)
    pictures = [image.astype(int) for *_, image in iterate_frames(path)]

    def distance(picture: np.ndarray, track_id: int) -> int:
        """Of the nearest pixel; the codec keeps colours to some ten."""
        return int(np.abs(picture - identity_colour(track_id)).max(axis=2).min())

    assert distance(pictures[0], 4) < 60 < distance(pictures[0], 5)
    assert distance(pictures[-1], 5) < 60 < distance(pictures[-1], 4)
