"""Plans of the synthetic scenes: who is there, what they look like, how they and the camera move.

A scene is a street seen from a slow car. Everything stands on the ground: the nearer, the larger,
the lower its foot, and the later it is drawn. At the 5 labelled frames a second of BDD100K road
users cross, pass behind each other, pillars and trees, and the camera turns, so that the boxes of
one identity often hardly overlap from frame to frame; its look is what stays.

Lengths are in pixels of an image 192 high (`Scene.unit` of the frame's pixels each), times in
labelled frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from datasets.synthetic_looks import Look, random_look, similar_look

REFERENCE_HEIGHT: Final = 192

ROAD_USERS: Final[Mapping[str, tuple[float, tuple[float, float], tuple[float, float]]]] = {
    "pedestrian": (0.20, (20, 50), (4.0, 12.0)),
    "rider": (0.11, (34, 48), (6.0, 16.0)),
    "car": (0.25, (60, 30), (8.0, 26.0)),
    "truck": (0.10, (76, 42), (8.0, 22.0)),
    "bus": (0.09, (92, 42), (8.0, 22.0)),
    "train": (0.05, (150, 34), (12.0, 30.0)),
    "motorcycle": (0.10, (44, 30), (6.0, 18.0)),
    "bicycle": (0.10, (40, 30), (5.0, 15.0)),
}
"""Class: share of all road users, width and height at scale 1, least and greatest speed."""

IGNORED_ONES: Final[Mapping[str, tuple[float, float]]] = {
    "crowd": (60, 26),
    "distant car": (24, 12),
    "other vehicle": (46, 36),
    "other person": (28, 38),
    "trailer": (56, 34),
}
"""What evaluation must ignore: width and height at scale 1."""

KINDS: Final = (*ROAD_USERS, *IGNORED_ONES)
"""Dealt out to the sequences of a split in turn, so that none is missing."""

_SCENERY: Final[Mapping[str, tuple[tuple[float, float], tuple[float, float], int]]] = {
    "pillar": ((26, 150), (1.05, 1.45), 1),
    "tree": ((52, 120), (0.75, 1.3), 1),
    "traffic sign": ((14, 70), (0.7, 1.1), 2),
    "traffic light": ((12, 70), (0.7, 1.1), 2),
}
"""What stands by the road: width and height at scale 1, range of scales, most in one scene."""

_LIGHTS: Final = (
    ("clear", "daytime", (1.0, 1.0, 1.0), 1.0),
    ("overcast", "daytime", (0.9, 0.92, 0.98), 1.0),
    ("clear", "dawn/dusk", (1.05, 0.9, 0.75), 1.05),
    ("rainy", "daytime", (0.75, 0.82, 0.9), 1.0),
    ("clear", "night", (0.6, 0.62, 0.78), 1.15),
)
"""Weather, time of day, gain of red, green and blue, exponent."""

_SCALES: Final = (0.65, 1.45)
_TRAIN_SCALES: Final = (0.6, 0.9)
_FARTHEST, _NEAREST = 0.45, 3.2
_LOOK_ALIKES: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Where an actor's foot is at any time; `x` is measured from the middle of the image."""

    start: float
    x: float
    speed: float
    """Pixels a frame at scale 1, positive to the right."""
    scale: float
    growth: float = 0.0
    """Logarithm of the scale's change a frame: positive for what comes nearer."""
    sway: float = 0.0
    """Greatest distance from the straight path."""
    sway_period: float = 1.0

    def at(self, time: float) -> tuple[float, float]:
        """Distance of the foot from the middle of the image, and the scale.

        >>> Motion(start=2.0, x=10.0, speed=4.0, scale=0.5).at(5.0)
        (16.0, 0.5)
        """
        elapsed = time - self.start
        scale = self.scale * float(np.exp(self.growth * elapsed))
        sway = self.sway * float(np.sin(2 * np.pi * elapsed / self.sway_period))
        return self.x * scale / self.scale + self.speed * self.scale * elapsed + sway, scale


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A road user, or something that stands by the road."""

    category: str
    """BDD100K's category, or the shape of something that has none."""
    shape: str
    """Key of `synthetic_sprites.SHAPES`."""
    look: Look
    size: tuple[float, float]
    motion: Motion
    identity: str = ""
    """As written in the label file; unique in the scene."""
    crowd: bool = False
    ignored: bool = False

    @property
    def kind(self) -> str:
        """Member of `KINDS`, or the category of something that stands by the road."""
        return "crowd" if self.crowd else "distant car" if self.ignored else self.category


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Slow turns of the car, as a sideways shift of all that is seen."""

    turn: float
    """Greatest shift to either side."""
    period: float
    phase: float

    def shift(self, time: float) -> float:
        """Pixels by which everything appears further right."""
        return self.turn * float(np.sin(2 * np.pi * (time / self.period + self.phase)))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All of one sequence; what it looks like follows from this alone."""

    width: int
    height: int
    num_frames: int
    actors: tuple[Actor, ...]
    camera: Camera
    weather: str
    time_of_day: str
    gain: tuple[float, float, float]
    exponent: float
    seed: int
    """Of the background and the sensor's noise."""

    @property
    def unit(self) -> float:
        """Frame pixels of one planned pixel."""
        return self.height / REFERENCE_HEIGHT

    def foot(self, scale: float) -> float:
        """Row, in planned pixels, on which something of this scale stands."""
        return REFERENCE_HEIGHT * (0.30 + 0.42 * scale)

    def is_shown(self, actor: Actor, time: float) -> bool:
        """Whether an actor is inside the frame at all, be it hidden by others or not."""
        x, scale = actor.motion.at(time)
        if not _FARTHEST <= scale <= _NEAREST:
            return False
        half = actor.size[0] * scale / 2
        return abs(x + self.camera.shift(time)) < self.width / self.unit / 2 + half


def kinds_of_sequence(index: int, num_sequences: int) -> tuple[str, ...]:
    """Kinds that sequence `index` of a split must show, so that every split shows all of them.

    >>> kinds_of_sequence(5, 24)
    ('train', 'truck')
    >>> len(kinds_of_sequence(0, 1))
    13
    """
    turns = range(max(len(KINDS), 2 * num_sequences))
    kinds = (KINDS[turn % len(KINDS)] for turn in turns if turn % num_sequences == index)
    return tuple(dict.fromkeys(kinds))


def plan_scene(
    generator: np.random.Generator,
    *,
    width: int,
    height: int,
    num_frames: int,
    objects_per_frame: float,
    kinds: tuple[str, ...] = (),
    with_wall: bool = False,
    users: tuple[str, ...] = tuple(ROAD_USERS),
) -> Scene:
    """Invent one scene.

    Args:
        generator: the only source of chance.
        width: of the image in pixels.
        height: of the image in pixels.
        num_frames: labelled frames; road users come and go over this time.
        objects_per_frame: road users inside the frame on average, hidden ones included.
        kinds: members of `KINDS` that take part in any case.
        with_wall: a wall passes close by and hides everything for about three frames.
        users: classes of `ROAD_USERS` that the others are of, in the proportion of their shares.
    """
    weather, time_of_day, gain, exponent = _LIGHTS[generator.integers(len(_LIGHTS))]
    turn = generator.uniform(10, 30)
    camera = Camera(
        turn=float(turn), period=float(generator.uniform(10, 22)), phase=float(generator.uniform())
    )
    empty = Scene(
        width=width,
        height=height,
        num_frames=num_frames,
        actors=(),
        camera=camera,
        weather=weather,
        time_of_day=time_of_day,
        gain=gain,
        exponent=exponent,
        seed=int(generator.integers(2**31)),
    )
    actors = _road_users(generator, empty, objects_per_frame, list(kinds), users)
    actors += _scenery(generator, empty)
    if with_wall:
        actors.append(_wall(generator, empty))
    first = int(generator.integers(10_000, 900_000))
    named = tuple(
        replace(actor, identity=f"{first + number:08d}") for number, actor in enumerate(actors)
    )
    return replace(empty, actors=named)


def _road_users(
    generator: np.random.Generator,
    scene: Scene,
    objects_per_frame: float,
    kinds: list[str],
    users: tuple[str, ...],
) -> list[Actor]:
    shares = np.array([ROAD_USERS[user][0] for user in users])
    actors: list[Actor] = []
    presence = 0
    while kinds or presence < objects_per_frame * scene.num_frames:
        kind = kinds.pop() if kinds else str(generator.choice(users, p=shares / shares.sum()))
        relatives = [actor for actor in actors if actor.category == kind]
        look = random_look(generator)
        start = generator.uniform(0, scene.num_frames - 1)
        if relatives and generator.uniform() < _LOOK_ALIKES:
            double = relatives[generator.integers(len(relatives))]
            look = similar_look(double.look, generator)
            start = double.motion.start
        actors.append(_road_user(generator, scene, kind, look, float(start)))
        presence += sum(scene.is_shown(actors[-1], time) for time in range(scene.num_frames))
    return actors


def _road_user(
    generator: np.random.Generator, scene: Scene, kind: str, look: Look, start: float
) -> Actor:
    if kind in IGNORED_ONES:
        return _ignored_one(generator, scene, kind, look, start)
    _, size, (slowest, fastest) = ROAD_USERS[kind]
    scales = _TRAIN_SCALES if kind == "train" else _SCALES
    approaches = kind != "train" and generator.uniform() < 0.25
    speed = generator.uniform(slowest, fastest) * generator.choice([-1, 1])
    walks = kind == "pedestrian"
    motion = Motion(
        start=start,
        x=_anywhere(generator, scene),
        speed=float(speed * (0.4 if approaches else 1.0)),
        scale=float(generator.uniform(*scales)),
        growth=float(generator.uniform(-0.05, 0.07)) if approaches else 0.0,
        sway=float(generator.uniform(0, 10)) if walks else 0.0,
        sway_period=float(generator.uniform(8, 20)),
    )
    return Actor(category=kind, shape=kind, look=look, size=size, motion=motion)


def _ignored_one(
    generator: np.random.Generator, scene: Scene, kind: str, look: Look, start: float
) -> Actor:
    is_crowd, is_distant = kind == "crowd", kind == "distant car"
    stands = is_crowd or is_distant
    motion = Motion(
        start=start,
        x=_anywhere(generator, scene),
        speed=float(generator.uniform(-3, 3) if stands else generator.uniform(-9, 9)),
        scale=0.5 if is_distant else float(generator.uniform(0.7, 1.1)),
    )
    return Actor(
        category="pedestrian" if is_crowd else "car" if is_distant else kind,
        shape="car" if is_distant else kind,
        look=look,
        size=IGNORED_ONES[kind],
        motion=motion,
        crowd=is_crowd,
        ignored=is_distant,
    )


def _scenery(generator: np.random.Generator, scene: Scene) -> list[Actor]:
    drift = generator.uniform(-2, 2)
    return [
        Actor(
            category=kind,
            shape=kind,
            look=random_look(generator),
            size=size,
            motion=Motion(
                start=float(generator.uniform(0, scene.num_frames - 1)),
                x=_anywhere(generator, scene),
                speed=float(drift),
                scale=float(generator.uniform(*scales)),
            ),
        )
        for kind, (size, scales, most) in _SCENERY.items()
        for _ in range(generator.integers(most + 1))
    ]


def _wall(generator: np.random.Generator, scene: Scene) -> Actor:
    # 2.6 images long, 0.7 images a frame: it covers all of the image for 2 x 1.14 frames.
    width, scale = scene.width / scene.unit, 3.0
    speed = 0.7 * width / scale * generator.choice([-1, 1])
    middle = float(round(scene.num_frames * generator.uniform(0.35, 0.65)))
    return Actor(
        category="wall",
        shape="wall",
        look=random_look(generator),
        size=(2.6 * width / scale, 1.7 * REFERENCE_HEIGHT / scale),
        motion=Motion(start=middle, x=0.0, speed=float(speed), scale=scale),
    )


def _anywhere(generator: np.random.Generator, scene: Scene) -> float:
    return float(generator.uniform(-0.45, 0.45) * scene.width / scene.unit)
