"""Frames of a synthetic scene, and the labels that follow from the pixels that are seen."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.schema import Float64
from datasets.synthetic_looks import UInt8
from datasets.synthetic_scenes import Actor, Scene
from datasets.synthetic_sprites import SOLID, Sprite, draw_sprite

LEAST_VISIBLE: Final = 0.35
"""Less of an object than this share counts as hidden: it has no label."""

LEAST_SIDE: Final = 4
"""A box with a shorter side, in planned pixels, counts as hidden."""

NOBODY: Final = -1
"""In the map of actors: background, shadow or pole."""

_MARGIN: Final = 40  # planned pixels of background beyond either side, for the turns of the camera
_NOISE: Final = 2.5
_HORIZON: Final = 0.46

Int16 = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One drawn frame."""

    image: UInt8
    """(H, W, 3) RGB."""
    actor_map: Int16
    """(H, W) index into the scene's actors of what is seen there, or `NOBODY`."""
    whole: npt.NDArray[np.int64]
    """(A,) pixels of each actor if nothing hid it and the image were larger, 0 where absent."""
    inside: npt.NDArray[np.int64]
    """(A,) pixels of each actor inside the image if nothing hid it."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """One labelled object of one frame."""

    actor: Actor
    box: tuple[int, int, int, int]
    """x1 y1 x2 y2 of the pixels that are seen, the last ones included, as BDD100K writes boxes."""
    occluded: bool
    truncated: bool


class ScenePainter:
    """Draws one scene; keeps the background and the sprites between frames."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        generator = np.random.default_rng(scene.seed)
        self._backdrop = _draw_backdrop(scene, generator)
        size = (scene.height + 64, scene.width + 64, 3)
        noise = generator.standard_normal(size, np.float32) * np.float32(_NOISE)
        self._noise = noise.astype(np.int16)
        levels = np.linspace(0, 1, 256)[:, None] ** scene.exponent * scene.gain
        self._light = np.clip(np.rint(levels * 255), 0, 255).astype(np.uint8)[:, None, :]
        self._sprites: dict[tuple[int, int], Sprite] = {}
        self._scaled: dict[tuple[int, int], Sprite] = {}

    def draw(self, time: float) -> Picture:
        """Draw the scene at a time in labelled frames; any order of times gives the same frames."""
        import cv2

        scene = self.scene
        image = self._view(time)
        actor_map = np.full((scene.height, scene.width), NOBODY, np.int16)
        whole = np.zeros(len(scene.actors), np.int64)
        inside = np.zeros(len(scene.actors), np.int64)
        order = sorted(
            (actor.motion.at(time)[1], index)
            for index, actor in enumerate(scene.actors)
            if scene.is_shown(actor, time)
        )
        for _, index in order:
            whole[index], inside[index] = self._paste(index, time, image, actor_map)
        lit = cv2.LUT(image, self._light)
        return Picture(
            image=cv2.add(lit, self._noise_of(time), dtype=cv2.CV_8U),
            actor_map=actor_map,
            whole=whole,
            inside=inside,
        )

    def labels(self, picture: Picture) -> list[Label]:
        """What an annotator would label in a picture, in the order of the actors."""
        found = []
        for index in np.flatnonzero(picture.inside):
            seen = picture.actor_map == index
            num_seen = int(np.count_nonzero(seen))
            if num_seen < LEAST_VISIBLE * picture.whole[index]:
                continue
            columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
            box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
            if min(box[2] - box[0], box[3] - box[1]) + 1 < LEAST_SIDE * self.scene.unit:
                continue
            found.append(
                Label(
                    actor=self.scene.actors[index],
                    box=box,
                    occluded=bool(num_seen < 0.9 * picture.inside[index]),
                    truncated=bool(picture.inside[index] < 0.95 * picture.whole[index]),
                )
            )
        return found

    def _view(self, time: float) -> UInt8:
        scene = self.scene
        left = round((_MARGIN - scene.camera.shift(time)) * scene.unit)
        image = self._backdrop[:, left : left + scene.width].copy()
        _draw_lanes(image, scene, time)
        return image

    def _noise_of(self, time: float) -> npt.NDArray[np.int16]:
        step = round(time * 30)
        top, left = (step * 37) % 64, (step * 23) % 64
        return self._noise[top : top + self.scene.height, left : left + self.scene.width]

    def _paste(self, index: int, time: float, image: UInt8, actor_map: Int16) -> tuple[int, int]:
        """Draw one actor; returns its pixels in all and inside the image."""
        scene = self.scene
        actor = scene.actors[index]
        x, scale = actor.motion.at(time)
        sprite = self._scaled_sprite(index, scale, time)
        height, width = sprite.alpha.shape
        middle = scene.width / 2 + (x + scene.camera.shift(time)) * scene.unit
        left, top = round(middle - width / 2), round(scene.foot(scale) * scene.unit) - height
        rows = slice(max(top, 0), min(top + height, scene.height))
        columns = slice(max(left, 0), min(left + width, scene.width))
        solid = sprite.alpha >= SOLID
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return int(solid.sum()), 0
        part = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        under = image[rows, columns].astype(np.int32)
        over = sprite.colour[part].astype(np.int32)
        image[rows, columns] = under + (over - under) * sprite.alpha[part][..., None] // 255
        actor_map[rows, columns][solid[part]] = index
        return int(solid.sum()), int(solid[part].sum())

    def _scaled_sprite(self, index: int, scale: float, time: float) -> Sprite:
        import cv2

        actor = self.scene.actors[index]
        pose = int(time * 2 + index) % 2
        width = max(round(actor.size[0] * scale * self.scene.unit), 2)
        height = max(round(actor.size[1] * scale * self.scene.unit), 2)
        known = self._scaled.get((index, pose))
        if known is not None and known.alpha.shape == (height, width):
            return known
        if (index, pose) not in self._sprites:
            sprite = draw_sprite(actor.shape, actor.look, actor.size, pose)
            turn = -1 if actor.motion.speed < 0 else 1
            self._sprites[index, pose] = Sprite(
                colour=np.ascontiguousarray(sprite.colour[:, ::turn]),
                alpha=np.ascontiguousarray(sprite.alpha[:, ::turn]),
            )
        large = self._sprites[index, pose]
        size = (width, height)
        scaled = Sprite(
            colour=cv2.resize(large.colour, size, interpolation=cv2.INTER_AREA),
            alpha=cv2.resize(large.alpha, size, interpolation=cv2.INTER_AREA),
        )
        self._scaled[index, pose] = scaled
        return scaled


def _draw_backdrop(scene: Scene, generator: np.random.Generator) -> UInt8:
    """Sky, houses, pavement and road, wider than the image by the margin on both sides."""
    import cv2

    width, height = scene.width + 2 * round(_MARGIN * scene.unit), scene.height
    horizon = round(_HORIZON * height)
    image = np.empty((height, width, 3), np.float64)
    rows = np.linspace(0, 1, horizon)[:, None, None]
    sky = np.array([120.0, 165.0, 215.0]) * generator.uniform(0.8, 1.1, 3)
    image[:horizon] = sky * (1 - rows) + np.array([215.0, 220.0, 225.0]) * rows
    rows = np.linspace(0, 1, height - horizon)[:, None, None]
    asphalt = generator.uniform(75, 120) * generator.uniform(0.93, 1.07, 3)
    image[horizon:] = asphalt * (1.15 - 0.3 * rows)
    _draw_houses(image, horizon, scene.unit, generator)
    pavement = round(horizon + height * generator.uniform(0.05, 0.1))
    image[horizon:pavement] = generator.uniform(120, 170, 3) * (0.6, 0.65, 0.6)
    for size, strength in ((24, 14.0), (7, 10.0), (2, 6.0)):
        cell = max(round(size * scene.unit), 1)
        coarse = generator.normal(0, strength, (height // cell + 2, width // cell + 2, 1))
        fine = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_LINEAR)
        image += fine[:height, :width, None]
    return np.clip(image, 0, 255).astype(np.uint8)


def _draw_houses(image: Float64, horizon: int, unit: float, generator: np.random.Generator) -> None:
    left = 0
    while left < image.shape[1]:
        width = round(generator.uniform(18, 60) * unit)
        height = round(generator.uniform(12, 70) * unit)
        wall = generator.uniform(60, 190) * generator.uniform(0.85, 1.15, 3)
        image[horizon - height : horizon, left : left + width] = wall
        window, gap = round(4 * unit), round(9 * unit)
        for top in range(horizon - height + round(4 * unit), horizon - gap, gap):
            for x in range(left + round(4 * unit), left + width - window, gap):
                shade = wall * generator.choice([0.6, 0.75, 1.25])
                image[top : top + window, x : x + window] = shade
        left += width + round(generator.choice([0, 0, 14]) * unit)


def _draw_lanes(image: UInt8, scene: Scene, time: float) -> None:
    """Dashes between the lanes that come towards the camera."""
    import cv2

    middle = scene.width / 2 + scene.camera.shift(time) * scene.unit
    for lane in (-150.0, 150.0):
        for dash in range(7):
            scale = 0.42 * np.exp(((dash + time * 0.3) % 7) * 0.24)
            ends = [(scale, -4), (scale, 4), (scale * 1.1, 4.4), (scale * 1.1, -4.4)]
            corners = [
                (middle + (lane + side) * s * scene.unit, scene.foot(s) * scene.unit)
                for s, side in ends
            ]
            cv2.fillConvexPoly(image, np.rint(corners).astype(np.int32), (205, 205, 195))
