"""From annotations and decoded frames to what training sees: usable boxes, resizing, augmentation.

Both images of a training pair go through every transform with one draw of its parameters: their
motion must stay the motion of the scene.

Legend: N boxes, F frames, h and w of an image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.schema import UNMAPPED_CLASS, Annotations, Float32, Int64

Image = npt.NDArray[Any]
"""(h, w, 3) RGB; uint8, or float32 in about 0..255 after photometric distortion."""

_MIN_SIDE_PX: Final = 2.0**-6
"""What clipping leaves of a box at least: a box without area would make its losses infinite."""

# Photometric distortion as published for MOT17, each step taken with probability one half.
_STEP_PROBABILITY: Final = 0.5
_BRIGHTNESS: Final = 32.0
_CONTRAST: Final = (0.5, 1.5)
_SATURATION: Final = (0.5, 1.5)
_HUE_DEGREES: Final = 18.0


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How the two images of a training pair are varied, always together."""

    flip_probability: float = 0.5
    """Chance that both images are mirrored left to right."""
    min_scale: float = 1.0
    """Least factor on the limits of the image size, drawn once per pair."""
    max_scale: float = 1.0
    """Largest such factor; equal to `min_scale` for training at one size."""
    photometric: bool = False
    """Vary brightness, contrast, saturation, hue and the order of the channels."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(
                f"augment.flip_probability is {self.flip_probability}, expected a share between 0 "
                "and 1"
            )
        if not 0 < self.min_scale <= self.max_scale < math.inf:
            raise ValueError(
                f"augment.min_scale is {self.min_scale} and augment.max_scale {self.max_scale}, "
                "expected two numbers above 0, the first at most the second"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingTargets:
    """Boxes of one sequence that are trained on, rows ordered by frame."""

    frame_offsets: Int64
    """(F + 1,) rows of frame f are `frame_offsets[f]:frame_offsets[f + 1]`."""
    boxes_xyxy: Float32
    """(N, 4) original pixels, exclusive right and bottom edges."""
    class_indices: npt.NDArray[np.int16]
    """(N,) index into the benchmark's classes, never -1."""
    identities: Int64
    """(N,) comparable between frames of this sequence only; in stills the row within the frame."""

    @property
    def num_frames(self) -> int:
        return len(self.frame_offsets) - 1

    def rows(self, frame_index: int) -> slice:
        """Slice of the rows that belong to one frame."""
        return slice(int(self.frame_offsets[frame_index]), int(self.frame_offsets[frame_index + 1]))


class View(NamedTuple):
    """One image of a pair with its boxes."""

    image: Image
    boxes_xyxy: Float32
    """(N, 4) pixels of `image`."""


def select_targets(
    annotations: Annotations, image_sizes: npt.NDArray[Any], *, is_still: bool = False
) -> TrainingTargets:
    """Keep the boxes that training may use (QDTrack, filtering of ground truth).

    Dropped are ignored boxes, crowds (they then count as background), categories that are none of
    the benchmark's classes, boxes that nowhere meet the image, and boxes without area or narrower
    or lower than one pixel.

    Args:
        annotations: of one sequence.
        image_sizes: (F, 2) height and width of every frame.
        is_still: the frames have nothing to do with each other; identities become row numbers
            within the frame, so that a still paired with itself matches every box.

    >>> select_targets(Annotations.empty(), np.array([[720, 1280]])).frame_offsets.tolist()
    [0, 0]
    """
    heights, widths = image_sizes[annotations.frame_index].T
    x1, y1, x2, y2 = annotations.boxes_xyxy.T
    overlap_width = np.minimum(x2, widths) - np.maximum(x1, 0)
    overlap_height = np.minimum(y2, heights) - np.maximum(y1, 0)
    usable = (
        ~annotations.ignored
        & ~annotations.crowd
        & (annotations.class_index != UNMAPPED_CLASS)
        & (overlap_width > 0)
        & (overlap_height > 0)
        & (x2 - x1 >= 1)
        & (y2 - y1 >= 1)
    )
    frame_index = annotations.frame_index[usable]
    offsets = np.zeros(len(image_sizes) + 1, np.int64)
    np.cumsum(np.bincount(frame_index, minlength=len(image_sizes)), out=offsets[1:])
    identities = annotations.identity[usable]
    if is_still:
        identities = np.arange(len(frame_index)) - offsets[frame_index]
    return TrainingTargets(
        frame_offsets=offsets,
        boxes_xyxy=annotations.boxes_xyxy[usable].astype(np.float32),
        class_indices=annotations.class_index[usable],
        identities=identities,
    )


def resize_keep_ratio(image: Image, *, long_side: int, short_side: int) -> tuple[Image, Float32]:
    """Scale an image as far as both limits allow, up or down, without changing its proportions.

    The factor is min(long_side / longer side, short_side / shorter side); sides are rounded half
    up. Bilinear as OpenCV does it, without smoothing: published weights were trained on that.

    Returns:
        The image, the same object where its size does not change; and float32 (2,), new size over
        old size in x and y, which differ a little by rounding.

    >>> image, scale = resize_keep_ratio(np.zeros((100, 151, 3), np.uint8), long_side=60,
    ...     short_side=40)
    >>> image.shape, scale.tolist()
    ((40, 60, 3), [0.3973509967327118, 0.4000000059604645])
    """
    height, width = image.shape[:2]
    ratio = min(long_side / max(height, width), short_side / min(height, width))
    new_height, new_width = (max(1, int(side * ratio + 0.5)) for side in (height, width))
    scale = np.array([new_width / width, new_height / height], np.float32)
    if (new_height, new_width) == (height, width):
        return image, scale
    import cv2

    resized: Image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return resized, scale


def augment_pair(
    key: View,
    reference: View,
    config: AugmentConfig,
    *,
    long_side: int,
    short_side: int,
    rng: np.random.Generator,
) -> tuple[View, View]:
    """Resize, distort and flip both images of a pair with the same parameters.

    Boxes are clipped to their image. No box is added or dropped: rows of the result are rows of
    the input.

    Args:
        key: decoded image and boxes in its pixels.
        reference: likewise; may be the same object as `key`.
        config: what to vary.
        long_side: limit of the longer side before `config`'s scale.
        short_side: limit of the shorter side.
        rng: source of every draw.
    """
    factor = rng.uniform(config.min_scale, config.max_scale)
    is_flipped = rng.random() < config.flip_probability
    distort = _draw_distortion(rng) if config.photometric else None

    def transform(view: View) -> View:
        image, scale = resize_keep_ratio(
            view.image, long_side=int(long_side * factor), short_side=int(short_side * factor)
        )
        boxes = _clip(view.boxes_xyxy * np.tile(scale, 2), *image.shape[:2])
        if distort is not None:
            image = distort(image)
        if is_flipped:
            image, boxes = _flip(image, boxes)
        return View(image, boxes)

    transformed = transform(key)
    return transformed, transformed if reference is key else transform(reference)


def _clip(boxes: Float32, height: int, width: int) -> Float32:
    limits = np.array([width, height], np.float32)
    low = np.clip(boxes[:, :2], 0, limits - _MIN_SIDE_PX)
    high = np.clip(boxes[:, 2:], low + _MIN_SIDE_PX, limits)
    return np.concatenate([low, high], axis=1, dtype=np.float32)


def _flip(image: Image, boxes: Float32) -> tuple[Image, Float32]:
    width = np.float32(image.shape[1])
    flipped = boxes.copy()
    flipped[:, 0] = width - boxes[:, 2]
    flipped[:, 2] = width - boxes[:, 0]
    import cv2

    mirrored: Image = cv2.flip(image, 1)
    return mirrored, flipped


def _draw_distortion(rng: np.random.Generator) -> Callable[[Image], Image]:
    """Draw the parameters of one photometric distortion, to be applied to several images.

    Works on float32 and does not clip, as published.
    """

    def draw(low: float, high: float, neutral: float) -> float:
        is_taken = rng.random() < _STEP_PROBABILITY
        return float(rng.uniform(low, high)) if is_taken else neutral

    brightness = draw(-_BRIGHTNESS, _BRIGHTNESS, 0.0)
    is_contrast_first = rng.random() < _STEP_PROBABILITY
    contrast = draw(*_CONTRAST, 1.0)
    saturation = draw(*_SATURATION, 1.0)
    hue = draw(-_HUE_DEGREES, _HUE_DEGREES, 0.0)
    channels = rng.permutation(3) if rng.random() < _STEP_PROBABILITY else np.arange(3)

    def distort(image: Image) -> Image:
        import cv2

        pixels = image.astype(np.float32) + np.float32(brightness)
        if is_contrast_first:
            pixels *= np.float32(contrast)
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + np.float32(hue)) % 360
        hsv[..., 1] *= np.float32(saturation)
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if not is_contrast_first:
            pixels *= np.float32(contrast)
        result: Image = pixels[..., channels]
        return result

    return distort
