"""What tells one identity of the synthetic scenes from another: two colours and a pattern."""

import colorsys
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.schema import Bool, Float32

UInt8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

PATTERNS: Final = ("plain", "bands", "stripes", "slant", "checks", "dots", "halves")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What tells one identity from another of its class."""

    primary: Colour
    secondary: Colour
    pattern: str
    """One of `PATTERNS`."""
    period: float
    """Length of the pattern in pixels of an object at scale 1."""
    variant: int
    """0, 1 or 2: skin, length of a bonnet and the like."""


def random_look(generator: np.random.Generator) -> Look:
    """A look of strong contrast between its two colours."""
    hue = generator.uniform()
    primary = _from_hsv(hue, generator.uniform(0.65, 1.0), generator.uniform(0.55, 1.0))
    if generator.uniform() < 0.2:
        primary = _grey(int(generator.choice([25, 110, 240])))
    other = (hue + generator.uniform(0.25, 0.75)) % 1.0
    secondary = _from_hsv(other, generator.uniform(0.6, 1.0), generator.uniform(0.6, 1.0))
    if generator.uniform() < 0.35:
        secondary = _grey(245 if sum(primary) < 380 else 20)
    return Look(
        primary=primary,
        secondary=secondary,
        pattern=str(generator.choice(PATTERNS)),
        period=float(generator.uniform(8, 15)),
        variant=int(generator.integers(3)),
    )


def similar_look(look: Look, generator: np.random.Generator) -> Look:
    """A look-alike: the same pattern and main colour, another shade of the second one."""
    change = generator.uniform(50, 110, 3) * generator.choice([-1, 1], 3)
    red, green, blue = np.clip(look.secondary + change, 0, 255).astype(int).tolist()
    return replace(look, secondary=(red, green, blue))


def paint_pattern(look: Look, width: int, height: int, *, oversampling: int) -> UInt8:
    """The look's pattern as an image, (height, width, 3) RGB, a little darker towards the foot."""
    period = look.period * oversampling
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    second = _second_colour(look.pattern, x / period, y / period, y / height)
    shade = 1.08 - 0.3 * (y / height)  # light falls from above
    colours = np.array([look.primary, look.secondary], np.float32)
    image: UInt8 = np.minimum(colours[second.astype(np.intp)] * shade[..., None], 255).astype(
        np.uint8
    )
    return image


def _second_colour(pattern: str, x: Float32, y: Float32, height_share: Float32) -> Bool:
    """(H, W) where the second colour shows; `x` and `y` count periods."""
    second: Bool = np.zeros(x.shape, np.bool_)
    match pattern:
        case "bands":
            second = y % 1 < 0.5
        case "stripes":
            second = x % 1 < 0.5
        case "slant":
            second = (x + y) % 1 < 0.5
        case "checks":
            second = (x % 1 < 0.5) != (y % 1 < 0.5)
        case "dots":
            second = (x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.09
        case "halves":
            second = height_share > 0.6
    return second


def _from_hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _grey(level: int) -> Colour:
    return level, level, level
