"""Short videos of single errors: the part of the picture where it happens, what is wrong in colour.

Legend: N rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.masks import Rle
from datasets.schema import Annotations, Bool, Tracks
from datasets.video import VideoWriter
from pipeline.errors import Error
from pipeline.render import (
    MASK_OPACITY,
    TRUTH_COLOUR,
    Colour,
    Image,
    draw_box,
    draw_mask,
    draw_text,
    identity_colour,
)

CONTEXT_FRAMES: Final = 6
"""Shown before and after an error."""
MOST_FRAMES: Final = 48
"""Of a longer clip the middle is left out."""
FRAME_RATE: Final = 4.0
"""Slow enough to follow one object."""

_WIDTH, _HEIGHT = 480, 360
_LEAST_SHARE: Final = 1 / 4
"""Of the picture that is shown, so that small objects keep their surroundings."""
_TEXT_HEIGHT: Final = 16
_OTHER_COLOUR: Final[Colour] = (120, 120, 120)

Window = tuple[int, int, int, int]


def clip_frames(error: Error, num_frames: int) -> list[int]:
    """Frame indices of a clip, rising: the error with some frames around it.

    >>> error = Error(cause="switched", first_frame=9, last_frame=11, num_boxes=3)
    >>> clip_frames(error, 15)
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    """
    first = max(0, error.first_frame - CONTEXT_FRAMES)
    frames = list(range(first, min(num_frames, error.last_frame + CONTEXT_FRAMES + 1)))
    if len(frames) <= MOST_FRAMES:
        return frames
    half = MOST_FRAMES // 2
    return frames[:half] + frames[-half:]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mark:
    """One box or mask to be drawn."""

    frame_index: int
    box: npt.NDArray[Any]
    """(4,) corners x1 y1 x2 y2 in pixels of the frame."""
    colour: Colour
    text: str
    """Empty for boxes that are only there as surroundings."""
    is_below: bool = False
    """Whether the text stands below the box."""
    mask: Rle | None = None
    """Drawn in place of the box: tinted if it is a track with a text, otherwise its outline."""


def write_clip(
    images: Iterable[tuple[int, Image]],
    error: Error,
    tracks: Tracks,
    truth: Annotations,
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Write the H.264 video of an error; it appears when it is complete.

    The true boxes of its identity are white, its tracks have their own colours, all other boxes of
    the result are thin and grey. Where there are masks, the outline of the true one is white, its
    tracks are tinted, and others have a grey outline.

    Args:
        images: frame index and uint8 (H, W, 3) RGB image of the `clip_frames`, all of one size.
        error: what is shown.
        tracks: of the sequence, boxes in pixels of the images.
        truth: likewise.
        class_names: name of each class index.
        path: the video to write, .mp4 or .mov.
    """
    drawn = draw_clip(images, mark_boxes(error, tracks, truth, class_names))
    first = next(drawn)
    height, width = first.shape[:2]
    with VideoWriter(path, width=width, height=height, frame_rate=FRAME_RATE) as writer:
        for image in chain([first], drawn):
            writer.write(image)


def mark_boxes(
    error: Error, tracks: Tracks, truth: Annotations, class_names: Sequence[str]
) -> list[Mark]:
    """The boxes that a clip shows, in the order of drawing: the others, the true ones, the tracks.

    Of masks, the outline of the true one comes last, as tracks that fit it would hide it.

    Args:
        error: what is shown; only boxes near it in time are marked.
        tracks: of the sequence.
        truth: likewise.
        class_names: name of each class index.
    """
    names = [i for i in (error.track_id, error.previous_track_id) if i is not None]
    is_concerned = np.isin(tracks.track_id, names)
    others: list[Mark] = []
    true: list[Mark] = []
    concerned: list[Mark] = []
    for row in np.flatnonzero(_is_near(tracks.frame_index, error)).tolist():
        track_id = int(tracks.track_id[row])
        is_other = not is_concerned[row]
        mark = Mark(
            frame_index=int(tracks.frame_index[row]),
            box=tracks.boxes_xyxy[row],
            colour=_OTHER_COLOUR if is_other else identity_colour(track_id),
            text="" if is_other else f"{class_names[tracks.class_index[row]]} {track_id}",
            mask=None if tracks.masks is None else tracks.masks[row],
        )
        (others if is_other else concerned).append(mark)
    if error.identity is not None:
        is_true = (truth.identity == error.identity) & _is_near(truth.frame_index, error)
        true = [
            Mark(
                frame_index=int(truth.frame_index[row]),
                box=truth.boxes_xyxy[row],
                colour=TRUTH_COLOUR,
                text=f"true {truth.identity_source[row]}",
                is_below=True,
                mask=None if truth.masks is None else truth.masks[row],
            )
            for row in np.flatnonzero(is_true).tolist()
        ]
    has_masks = tracks.masks is not None
    return [*others, *concerned, *true] if has_masks else [*others, *true, *concerned]


def draw_clip(images: Iterable[tuple[int, Image]], marks: Sequence[Mark]) -> Iterator[Image]:
    """The pictures of a clip, all of one size, at most 480 x 360 pixels.

    Args:
        images: frame index and uint8 (H, W, 3) RGB image, all of one size.
        marks: boxes to draw; those with a text choose the part of the picture that is shown.
    """
    import cv2

    named = [mark.box for mark in marks if mark.text]
    for frame_index, image in images:
        height, width = image.shape[:2]
        x1, y1, x2, y2 = choose_window(np.array(named).reshape(-1, 4), height, width)
        scale = min(_WIDTH / (x2 - x1), _HEIGHT / (y2 - y1))
        size = (round((x2 - x1) * scale), round((y2 - y1) * scale))
        here = [mark for mark in marks if mark.frame_index == frame_index]
        image = _with_masks(image, here)
        canvas = np.ascontiguousarray(cv2.resize(image[y1:y2, x1:x2], size))
        for mark in here:
            _draw_mark(canvas, mark, (mark.box - np.array([x1, y1, x1, y1])) * scale)
        draw_text(canvas, f"frame {frame_index}", (0, 0), TRUTH_COLOUR)
        yield canvas


def choose_window(boxes: npt.NDArray[Any], height: int, width: int) -> Window:
    """The part of a picture that shows all boxes with some room around them, 4:3 where it can be.

    Args:
        boxes: (N, 4) corners x1 y1 x2 y2 in pixels, which may leave the picture; with none it is
            all of the picture.
        height: of the picture.
        width: likewise.

    Returns:
        x1 y1 x2 y2 in whole pixels inside the picture, exclusive right and bottom edges.

    >>> choose_window(np.array([[100.0, 100, 140, 180]]), 720, 1280)
    (0, 20, 320, 260)
    """
    if len(boxes) == 0:
        return 0, 0, width, height
    limits = np.array([width, height])
    low = np.clip(boxes[:, :2].min(axis=0), 0, limits)
    high = np.clip(boxes[:, 2:].max(axis=0), 0, limits)
    wanted = np.maximum(2.0 * (high - low), _LEAST_SHARE * limits)
    shape = np.array([_WIDTH, _HEIGHT])
    size = np.ceil(np.minimum((wanted / shape).max() * shape, limits))
    start = np.floor(np.clip((low + high - size) / 2, 0, limits - size))
    x1, y1, x2, y2 = np.concatenate([start, start + size]).astype(int).tolist()
    return x1, y1, x2, y2


def _is_near(frame_index: npt.NDArray[Any], error: Error) -> Bool:
    first, last = error.first_frame - CONTEXT_FRAMES, error.last_frame + CONTEXT_FRAMES
    is_near: Bool = (frame_index >= first) & (frame_index <= last)
    return is_near


def _with_masks(image: Image, marks: Sequence[Mark]) -> Image:
    """A copy of a frame with the masks of some marks, if there are any."""
    masks = [(mark.mask, mark) for mark in marks if mark.mask is not None]
    if not masks:
        return image
    canvas = np.ascontiguousarray(image.copy())
    for mask, mark in masks:
        is_tinted = mark.text != "" and mark.colour != TRUTH_COLOUR
        draw_mask(canvas, mask, 1, mark.colour, opacity=MASK_OPACITY if is_tinted else 0.0)
    return canvas


def _draw_mark(canvas: Image, mark: Mark, box: npt.NDArray[Any]) -> None:
    if mark.mask is None:
        draw_box(canvas, box, mark.colour, thickness=2 if mark.text else 1)
    if mark.text:
        x, y = round(float(box[0])), round(float(box[3 if mark.is_below else 1]))
        draw_text(canvas, mark.text, (x, y + _TEXT_HEIGHT * mark.is_below), mark.colour)
