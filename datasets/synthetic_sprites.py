"""Road users of the synthetic scenes, drawn once per identity and scaled into every frame.

The class lies in the shape, the identity in the look: colours and a pattern that have nothing to
do with the class. All shapes face right. They are drawn larger than they ever appear, without
smoothing; shrinking them into a frame smooths their edges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.synthetic_looks import Colour, Look, UInt8, paint_pattern

Point = tuple[float, float]

OVERSAMPLING: Final = 3
"""Sprite pixels per pixel of an object at scale 1."""

SOLID: Final = 128
"""Alpha from which on a pixel belongs to the object; shadows and poles stay below."""

_TYRE: Final = (28, 28, 30)
_GLASS: Final = (150, 190, 215)
_METAL: Final = (130, 132, 138)
_SKIN: Final = ((236, 190, 160), (198, 146, 110), (120, 82, 60))
_SHADOW: Final = 90


@dataclass(frozen=True, kw_only=True, eq=False)
class Sprite:
    """A picture with transparency."""

    colour: UInt8
    """(H, W, 3) RGB."""
    alpha: UInt8
    """(H, W) 0 for nothing; from `SOLID` on the pixel is the object's."""


def draw_sprite(shape: str, look: Look, size: tuple[float, float], pose: int) -> Sprite:
    """Draw a shape of `SHAPES`.

    Args:
        shape: key of `SHAPES`.
        look: colours and pattern.
        size: width and height in pixels at scale 1; the sprite is `OVERSAMPLING` times as large.
        pose: 0 or 1, the two phases of a walk or of a turning wheel.
    """
    canvas = _Canvas(size, look, pose)
    SHAPES[shape](canvas)
    return Sprite(colour=canvas.colour, alpha=canvas.alpha)


class _Canvas:
    """Draws in fractions of the sprite's width and height; radii in fractions of the height."""

    def __init__(self, size: tuple[float, float], look: Look, pose: int) -> None:
        self.width = max(round(size[0] * OVERSAMPLING), 2)
        self.height = max(round(size[1] * OVERSAMPLING), 2)
        self.look = look
        self.pose = pose
        self.colour = np.zeros((self.height, self.width, 3), np.uint8)
        self.alpha = np.zeros((self.height, self.width), np.uint8)

    @cached_property
    def texture(self) -> UInt8:
        return paint_pattern(self.look, self.width, self.height, oversampling=OVERSAMPLING)

    def polygon(self, points: Sequence[Point], fill: Colour | UInt8, alpha: int = 255) -> None:
        import cv2

        corners = [self._pixels(points)]
        cv2.fillPoly(self.alpha, corners, alpha)
        if isinstance(fill, np.ndarray):
            mask = np.zeros(self.alpha.shape, np.uint8)
            cv2.fillPoly(mask, corners, 255)
            cv2.copyTo(fill, mask, self.colour)
        else:
            cv2.fillPoly(self.colour, corners, fill)

    def box(self, x1: float, y1: float, x2: float, y2: float, fill: Colour | UInt8) -> None:
        self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour | UInt8) -> None:
        self.ellipse(x, y, radius * self.height / self.width, radius, fill)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour | UInt8, alpha: int = 255
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        points = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)
        self.polygon(np.clip(points, 0, 1).tolist(), fill, alpha)

    def line(self, points: Sequence[Point], thickness: float, fill: Colour) -> None:
        import cv2

        corners, width = [self._pixels(points)], max(round(thickness * self.height), 1)
        cv2.polylines(self.alpha, corners, False, 255, width)
        cv2.polylines(self.colour, corners, False, fill, width)

    def shadow(self) -> None:
        self.ellipse(0.5, 0.95, 0.5, 0.05, (0, 0, 0), _SHADOW)

    def wheel(self, x: float, radius: float) -> None:
        y = 0.96 - radius
        self.disc(x, y, radius, _TYRE)
        self.disc(x, y, radius * 0.5, _METAL)
        reach = radius * 0.45
        across = reach * self.height / self.width
        spoke = (
            [(x - across, y), (x + across, y)] if self.pose else [(x, y - reach), (x, y + reach)]
        )
        self.line(spoke, 0.02, _TYRE)

    def _pixels(self, points: Sequence[Point]) -> npt.NDArray[np.int32]:
        corners = np.array(points) * (self.width - 1, self.height - 1)
        return np.rint(corners).astype(np.int32)


def _pedestrian(canvas: _Canvas) -> None:
    look, step = canvas.look, 0.26 if canvas.pose else 0.08
    canvas.shadow()
    for side in (-1, 1):
        canvas.line([(0.5, 0.55), (0.5 + side * step, 0.97)], 0.085, look.secondary)
    canvas.line([(0.5, 0.24), (0.5 - step * 1.3, 0.5)], 0.06, look.primary)
    canvas.polygon([(0.22, 0.2), (0.78, 0.2), (0.72, 0.6), (0.28, 0.6)], canvas.texture)
    canvas.disc(0.5, 0.095, 0.085, _SKIN[look.variant])
    canvas.box(0.3, 0.0, 0.66, 0.06, (50, 35, 25))


def _rider(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.shadow()
    for x in (0.2, 0.82):
        canvas.disc(x, 0.84, 0.13, _TYRE)
        canvas.disc(x, 0.84, 0.06, _METAL)
    canvas.line([(0.2, 0.84), (0.45, 0.72), (0.72, 0.72), (0.82, 0.84)], 0.05, _METAL)
    canvas.line([(0.8, 0.84), (0.72, 0.45)], 0.04, _METAL)
    canvas.polygon([(0.12, 0.62), (0.3, 0.24), (0.62, 0.2), (0.5, 0.66)], canvas.texture)
    foot = 0.9 if canvas.pose else 0.8
    canvas.line([(0.3, 0.62), (0.62, 0.62), (0.55, foot)], 0.09, look.secondary)
    canvas.line([(0.52, 0.28), (0.74, 0.46)], 0.07, _SKIN[look.variant])
    canvas.disc(0.6, 0.11, 0.11, look.secondary)
    canvas.box(0.66, 0.08, 0.82, 0.17, _SKIN[look.variant])


def _car(canvas: _Canvas) -> None:
    look, shift = canvas.look, (0.0, -0.06, 0.05)[canvas.look.variant]
    canvas.shadow()
    cabin = [(0.2 + shift, 0.46), (0.32 + shift, 0.08), (0.66 + shift, 0.08), (0.8 + shift, 0.46)]
    canvas.polygon(cabin, look.primary)
    for left, right in ((0.29, 0.47), (0.51, 0.69)):
        canvas.polygon(
            [
                (left - 0.04 + shift, 0.43),
                (left + 0.03 + shift, 0.15),
                (right - 0.03 + shift, 0.15),
                (right + 0.03 + shift, 0.43),
            ],
            _GLASS,
        )
    canvas.polygon(
        [(0.0, 0.5), (0.05, 0.42), (0.93, 0.42), (1.0, 0.56), (1.0, 0.82), (0.0, 0.82)],
        canvas.texture,
    )
    canvas.box(0.95, 0.52, 1.0, 0.62, (255, 240, 150))
    canvas.box(0.0, 0.52, 0.04, 0.62, (200, 20, 20))
    canvas.wheel(0.2, 0.19)
    canvas.wheel(0.79, 0.19)


def _truck(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.shadow()
    canvas.box(0.0, 0.02, 0.68, 0.78, canvas.texture)
    canvas.box(0.0, 0.72, 0.98, 0.82, _METAL)
    canvas.polygon(
        [(0.72, 0.26), (0.93, 0.26), (1.0, 0.52), (1.0, 0.82), (0.72, 0.82)], look.secondary
    )
    canvas.polygon([(0.79, 0.32), (0.92, 0.32), (0.97, 0.52), (0.79, 0.52)], _GLASS)
    for x in (0.13, 0.32, 0.86):
        canvas.wheel(x, 0.15)


def _bus(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.shadow()
    canvas.box(0.0, 0.04, 1.0, 0.84, canvas.texture)
    canvas.box(0.0, 0.04, 1.0, 0.13, look.primary)
    canvas.box(0.0, 0.18, 1.0, 0.5, (45, 60, 75))
    for pane in range(6):
        canvas.box(0.02 + pane * 0.145, 0.2, 0.13 + pane * 0.145, 0.48, _GLASS)
    canvas.box(0.89, 0.2, 0.98, 0.8, (215, 235, 245))
    canvas.wheel(0.2, 0.16)
    canvas.wheel(0.76, 0.16)


def _train(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.box(0.0, 0.9, 1.0, 0.97, (60, 50, 45))
    hull = [(0.0, 0.06), (0.9, 0.06), (0.97, 0.35), (1.0, 0.7), (1.0, 0.9), (0.0, 0.9)]
    canvas.polygon(hull, look.primary)
    canvas.box(0.0, 0.47, 0.98, 0.81, look.secondary)
    canvas.box(0.0, 0.53, 0.98, 0.75, canvas.texture)
    for pane in range(11):
        canvas.box(0.02 + pane * 0.08, 0.2, 0.065 + pane * 0.08, 0.42, (30, 40, 60))
    for joint in (0.3, 0.6):
        canvas.box(joint, 0.04, joint + 0.012, 0.92, (20, 20, 20))
    canvas.polygon([(0.91, 0.15), (0.945, 0.35), (0.955, 0.45), (0.91, 0.45)], _GLASS)
    for x in np.arange(0.06, 0.98, 0.11):
        canvas.disc(float(x), 0.92, 0.07, _TYRE)


def _motorcycle(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.shadow()
    for x in (0.19, 0.81):
        canvas.wheel(x, 0.26)
    canvas.line([(0.81, 0.7), (0.68, 0.2), (0.56, 0.12)], 0.06, _METAL)
    canvas.line([(0.2, 0.75), (0.5, 0.8)], 0.08, (225, 225, 230))
    canvas.polygon(
        [(0.24, 0.5), (0.4, 0.34), (0.72, 0.22), (0.76, 0.5), (0.62, 0.78), (0.38, 0.78)],
        canvas.texture,
    )
    canvas.polygon([(0.04, 0.32), (0.42, 0.34), (0.4, 0.5), (0.14, 0.48)], look.secondary)
    canvas.disc(0.75, 0.32, 0.09, (255, 240, 150))


def _bicycle(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.shadow()
    for x in (0.24, 0.76):
        canvas.disc(x, 0.68, 0.29, look.primary)
        canvas.disc(x, 0.68, 0.21, look.secondary)
        canvas.disc(x, 0.68, 0.05, _TYRE)
    frame = [(0.24, 0.68), (0.42, 0.3), (0.68, 0.3), (0.47, 0.7), (0.24, 0.68)]
    canvas.line(frame, 0.075, look.primary)
    canvas.line([(0.47, 0.7), (0.4, 0.14)], 0.06, look.primary)
    canvas.line([(0.76, 0.68), (0.66, 0.1), (0.8, 0.06)], 0.06, look.primary)
    canvas.box(0.3, 0.08, 0.5, 0.16, _TYRE)


def _other_vehicle(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.shadow()
    canvas.polygon([(0.45, 0.36), (1.0, 0.42), (1.0, 0.7), (0.4, 0.74)], look.primary)
    canvas.polygon([(0.1, 0.5), (0.16, 0.0), (0.5, 0.0), (0.54, 0.5)], look.secondary)
    canvas.box(0.2, 0.08, 0.44, 0.34, _GLASS)
    canvas.box(0.82, 0.1, 0.87, 0.42, _TYRE)
    canvas.wheel(0.3, 0.32)
    canvas.wheel(0.86, 0.15)


def _other_person(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.shadow()
    canvas.line([(0.18, 0.25), (0.18, 0.7), (0.7, 0.7), (0.8, 0.92)], 0.05, _METAL)
    canvas.polygon([(0.22, 0.26), (0.56, 0.26), (0.6, 0.66), (0.22, 0.66)], look.primary)
    canvas.line([(0.4, 0.62), (0.8, 0.62), (0.84, 0.88)], 0.09, look.secondary)
    canvas.disc(0.4, 0.13, 0.12, _SKIN[look.variant])
    canvas.disc(0.36, 0.7, 0.26, _TYRE)
    canvas.disc(0.36, 0.7, 0.2, (200, 200, 205))


def _trailer(canvas: _Canvas) -> None:
    look = canvas.look
    canvas.shadow()
    canvas.line([(0.7, 0.72), (1.0, 0.78)], 0.06, _METAL)
    canvas.polygon([(0.0, 0.3), (0.8, 0.3), (0.72, 0.76), (0.08, 0.76)], look.secondary)
    canvas.polygon([(0.05, 0.3), (0.2, 0.05), (0.6, 0.0), (0.75, 0.3)], (105, 85, 60))
    canvas.wheel(0.4, 0.17)


def _crowd(canvas: _Canvas) -> None:
    look = canvas.look
    colours = (look.primary, look.secondary, (70, 70, 80), (190, 60, 60), (60, 90, 170))
    for person in range(11):
        x = 0.05 + 0.09 * person
        top = 0.08 if person % 2 else 0.0
        canvas.box(x - 0.03, top + 0.2, x + 0.03, 0.7, colours[(person * 3) % 5])
        canvas.box(x - 0.025, 0.7, x + 0.025, 0.97, colours[(person * 2 + 1) % 5])
        canvas.disc(x, top + 0.12, 0.1, _SKIN[person % 3])


def _pillar(canvas: _Canvas) -> None:
    canvas.box(0.0, 0.0, 1.0, 1.0, _mottled((118, 114, 108), canvas))
    canvas.box(0.0, 0.0, 0.12, 1.0, (84, 82, 78))


def _tree(canvas: _Canvas) -> None:
    canvas.shadow()
    canvas.box(0.4, 0.5, 0.6, 1.0, (84, 60, 40))
    green = _mottled((52, 92, 46), canvas)
    for x, y, radius in ((0.5, 0.2, 0.2), (0.3, 0.36, 0.16), (0.7, 0.36, 0.16), (0.5, 0.44, 0.17)):
        canvas.disc(x, y, radius, green)


def _wall(canvas: _Canvas) -> None:
    canvas.box(0.0, 0.0, 1.0, 1.0, _mottled((104, 100, 98), canvas))
    for row in range(9):
        canvas.box(0.0, row / 9, 1.0, row / 9 + 0.008, (80, 76, 74))


def _pole(canvas: _Canvas, colour: Colour) -> None:
    points = [(0.46, 0.0), (0.54, 0.0), (0.54, 1.0), (0.46, 1.0)]
    canvas.polygon(points, colour, SOLID - 8)


def _traffic_sign(canvas: _Canvas) -> None:
    _pole(canvas, _METAL)
    canvas.ellipse(0.5, 0.16, 0.5, 0.16, (205, 30, 35))
    canvas.ellipse(0.5, 0.16, 0.34, 0.105, (240, 240, 240))


def _traffic_light(canvas: _Canvas) -> None:
    _pole(canvas, (60, 60, 62))
    canvas.box(0.2, 0.0, 0.8, 0.34, (24, 24, 26))
    lamps: tuple[Colour, ...] = ((230, 40, 30), (240, 190, 40), (50, 210, 90))
    for lamp, colour in enumerate(lamps):
        lit = lamp == canvas.look.variant
        shade = colour if lit else (colour[0] // 5, colour[1] // 5, colour[2] // 5)
        canvas.ellipse(0.5, 0.065 + 0.1 * lamp, 0.2, 0.042, shade)


SHAPES: Final[Mapping[str, Callable[[_Canvas], None]]] = {
    "pedestrian": _pedestrian,
    "rider": _rider,
    "car": _car,
    "truck": _truck,
    "bus": _bus,
    "train": _train,
    "motorcycle": _motorcycle,
    "bicycle": _bicycle,
    "other vehicle": _other_vehicle,
    "other person": _other_person,
    "trailer": _trailer,
    "crowd": _crowd,
    "pillar": _pillar,
    "tree": _tree,
    "wall": _wall,
    "traffic sign": _traffic_sign,
    "traffic light": _traffic_light,
}
"""How each shape is drawn: the classes, what is ignored, and what only stands by the road."""


def _mottled(colour: Colour, canvas: _Canvas) -> UInt8:
    """Stone or leaves: the colour in coarse random shades, the same every time."""
    shape = (canvas.height // 8 + 1, canvas.width // 8 + 1)
    shades = np.random.default_rng(canvas.look.variant).uniform(0.8, 1.2, shape)
    fine = np.kron(shades, np.ones((8, 8)))[: canvas.height, : canvas.width, None]
    image: UInt8 = np.clip(np.array(colour) * fine, 0, 255).astype(np.uint8)
    return image
