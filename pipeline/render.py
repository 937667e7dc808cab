"""Overlay videos: a sequence's frames with its tracks drawn in, one colour per identity.

Tracks with masks are drawn as tinted masks, others as boxes.

Legend: N rows of all frames.
"""

import colorsys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.masks import Rle, decode_mask
from datasets.schema import Annotations, Int64, Tracks
from datasets.video import VideoWriter

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

TRAIL_FRAMES: Final = 12
"""Past frames over which the foot of a track is drawn as a line."""

LEAST_HEIGHT: Final = 360
"""Smaller frames are enlarged by a whole number, for the writing to be readable."""

MASK_OPACITY: Final = 0.45
"""Of the tint over a mask."""

TRUTH_COLOUR: Final[Colour] = (255, 255, 255)
IGNORED_COLOUR: Final[Colour] = (150, 150, 150)

_GOLDEN_RATIO: Final = 0.6180339887498949
_BLACK: Final[Colour] = (0, 0, 0)
_WHITE: Final[Colour] = (255, 255, 255)


def render_sequence(
    frames: Iterable[tuple[int, Image]],
    tracks: Tracks,
    class_names: Sequence[str],
    path: Path,
    *,
    frame_rate: float,
    truth: Annotations | None = None,
    beside: bool = False,
) -> None:
    """Write an H.264 video of a sequence with its tracks; one frame is in memory at a time.

    The file appears under its name when it is complete.

    Args:
        frames: frame index and uint8 (H, W, 3) RGB image, in rising order, all of one size.
        tracks: of the sequence, boxes in pixels of the images.
        class_names: name of each class index.
        path: the video to write, .mp4 or .mov.
        frame_rate: of the video, frames per second.
        truth: drawn as thin white lines; crowds and ignored ones grey.
        beside: draw the truth into a second picture to the right, in the colours of its identities.

    Raises:
        ValueError: no frame at all, or frames of different sizes.
    """
    if truth is not None and beside:
        overlays = [Overlay(tracks, class_names), truth_overlay(truth, class_names)]
    else:
        overlays = [Overlay(tracks, class_names, truth=truth)]
    drawn = (
        np.concatenate([overlay.draw(index, image) for overlay in overlays], axis=1)
        for index, image in frames
    )
    first = next(drawn, None)
    if first is None:
        raise ValueError(f"{path}: the sequence has no frame, expected at least one to draw on")
    height, width = first.shape[:2]
    with VideoWriter(path, width=width, height=height, frame_rate=frame_rate) as writer:
        writer.write(first)
        for image in drawn:
            writer.write(image)


class Overlay:
    """Draws the tracks of one sequence into its frames, which must come in rising order."""

    def __init__(
        self, tracks: Tracks, class_names: Sequence[str], *, truth: Annotations | None = None
    ) -> None:
        self._tracks = tracks
        self._class_names = class_names
        self._truth = truth
        self._rows = _FrameRows(tracks.frame_index)
        self._truth_rows = _FrameRows(truth.frame_index) if truth is not None else None
        self._trails: dict[int, deque[tuple[int, int, int]]] = {}

    def draw(self, frame_index: int, image: Image) -> Image:
        """A new image with the tracks of a frame, enlarged where `image` is small.

        Args:
            frame_index: from 0.
            image: uint8, (H, W, 3) RGB; it is not changed.
        """
        zoom = zoom_factor(image.shape[0])
        canvas = np.ascontiguousarray(image.repeat(zoom, axis=0).repeat(zoom, axis=1))
        if self._truth is not None and self._truth_rows is not None:
            for row in self._truth_rows.of(frame_index):
                is_scored = not (self._truth.crowd[row] or self._truth.ignored[row])
                colour = TRUTH_COLOUR if is_scored else IGNORED_COLOUR
                if self._truth.masks is None:
                    draw_box(canvas, self._truth.boxes_xyxy[row] * zoom, colour, thickness=1)
                else:
                    draw_mask(canvas, self._truth.masks[row], zoom, colour, opacity=0.0)
        rows = self._rows.of(frame_index)
        self._extend_trails(frame_index, rows, zoom)
        self._draw_trails(canvas)
        for row in rows:
            self._draw_track(canvas, int(row), zoom)
        return canvas

    def _extend_trails(self, frame_index: int, rows: Int64, zoom: int) -> None:
        for row in rows:
            x1, _, x2, y2 = self._tracks.boxes_xyxy[row] * zoom
            trail = self._trails.setdefault(int(self._tracks.track_id[row]), deque())
            trail.append((frame_index, round(float(x1 + x2) / 2), round(float(y2))))
        for track_id, trail in list(self._trails.items()):
            while trail and trail[0][0] < frame_index - TRAIL_FRAMES:
                trail.popleft()
            if not trail:
                del self._trails[track_id]

    def _draw_trails(self, canvas: Image) -> None:
        import cv2

        for track_id, trail in self._trails.items():
            points = np.array([point for _, *point in trail], np.int32)
            cv2.polylines(canvas, [points], False, identity_colour(track_id), 2, cv2.LINE_AA)

    def _draw_track(self, canvas: Image, row: int, zoom: int) -> None:
        tracks = self._tracks
        track_id, class_index = int(tracks.track_id[row]), int(tracks.class_index[row])
        known = 0 <= class_index < len(self._class_names)
        name = self._class_names[class_index] if known else "?"
        colour = identity_colour(track_id)
        box = tracks.boxes_xyxy[row] * zoom
        thickness = max(2, round(canvas.shape[0] / 360))
        if tracks.masks is None:
            draw_box(canvas, box, colour, thickness=thickness)
        else:
            draw_mask(canvas, tracks.masks[row], zoom, colour)
        score = tracks.scores[row]
        text = f"{name} {track_id}" + ("" if np.isnan(score) else f" {score:.2f}")
        draw_text(canvas, text, (round(float(box[0])), round(float(box[1]))), colour)


def truth_overlay(truth: Annotations, class_names: Sequence[str]) -> Overlay:
    """Draws true boxes as if they were tracks; crowds and ignored ones stay thin and grey."""
    is_ignored = truth.crowd | truth.ignored
    objects = truth.select(~is_ignored)
    as_tracks = Tracks(
        frame_index=objects.frame_index,
        track_id=objects.identity,
        detection_row=np.full(len(objects), -1, np.int32),
        boxes_xyxy=objects.boxes_xyxy,
        scores=np.full(len(objects), np.nan, np.float32),
        class_index=objects.class_index,
        masks=objects.masks,
    )
    return Overlay(as_tracks, class_names, truth=truth.select(is_ignored))


def identity_colour(track_id: int) -> Colour:
    """The colour of an identity, the same in every frame, video and run; neighbours differ.

    >>> identity_colour(0), identity_colour(1)
    ((255, 64, 64), (115, 156, 255))
    """
    hue = track_id * _GOLDEN_RATIO % 1.0
    saturation = (0.75, 0.55, 0.95)[track_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def zoom_factor(height: int) -> int:
    """Whole number by which a frame of this height is enlarged.

    >>> zoom_factor(192), zoom_factor(360), zoom_factor(720)
    (2, 1, 1)
    """
    return max(1, -(-LEAST_HEIGHT // height))


class _FrameRows:
    """Rows of each frame, whatever order they are stored in."""

    def __init__(self, frame_index: npt.NDArray[Any]) -> None:
        self._order = np.argsort(frame_index, kind="stable")
        self._sorted = frame_index[self._order]

    def of(self, frame_index: int) -> Int64:
        start, stop = np.searchsorted(self._sorted, [frame_index, frame_index + 1])
        rows: Int64 = self._order[start:stop]
        return rows


def draw_box(canvas: Image, box: npt.NDArray[Any], colour: Colour, *, thickness: int) -> None:
    """Outline a box, corners x1 y1 x2 y2 in pixels of the canvas with exclusive edges."""
    import cv2

    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    # The right and bottom edges are exclusive, the pixels that OpenCV is given are not.
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, thickness)


def draw_mask(
    canvas: Image, mask: Rle, zoom: int, colour: Colour, *, opacity: float = MASK_OPACITY
) -> None:
    """Tint the pixels of a mask and draw its outline.

    Args:
        canvas: uint8 (H, W, 3), changed in place.
        mask: of an image of which the canvas is `zoom` times as large; what lies outside is cut.
        zoom: whole number.
        colour: of tint and outline.
        opacity: of the tint, 0 for the outline alone.
    """
    import cv2

    pixels = decode_mask(mask).repeat(zoom, axis=0).repeat(zoom, axis=1)
    pixels = pixels[: canvas.shape[0], : canvas.shape[1]]
    under = canvas[: pixels.shape[0], : pixels.shape[1]]
    tint = np.array(colour) * opacity
    under[pixels] = np.rint(under[pixels] * (1 - opacity) + tint).astype(np.uint8)
    outlines, _ = cv2.findContours(
        pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(canvas, outlines, -1, colour, 1)


def draw_text(canvas: Image, text: str, corner: tuple[int, int], colour: Colour) -> None:
    """Write on a filled strip above the corner of a box, inside the image."""
    import cv2

    height, width = canvas.shape[:2]
    size = max(0.4, height / 1440)
    (text_width, text_height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x = min(max(corner[0], 0), max(width - text_width, 0))
    bottom = min(max(corner[1], text_height + base), height)
    top = bottom - text_height - base
    cv2.rectangle(canvas, (x, top), (x + text_width, bottom), colour, cv2.FILLED)
    is_bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 128
    ink = _BLACK if is_bright else _WHITE
    place = (x, bottom - base // 2 - 1)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)
