"""The search space of a sweep: dotted config paths and the values that each may take.

    association.match_score_thr=0.3:0.7           numbers between
    association.match_score_thr=0.3:0.7:0.1       0.3, 0.4 ... 0.7
    association.init_score_thr=0.0001:0.1:log     by their logarithm
    association.match_metric=bisoftmax,cosine     one of these

Everything is checked against the config classes before any trial starts.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from models.config_io import KIND_FIELD
from models.search_space import Choices, Dimension, Interval, declared_dimensions
from pipeline.config import RecipeConfig
from pipeline.overrides import apply_overrides, flatten

SEARCHED: Final = "association"
"""What a sweep on stored detections can change; all else would need the network again."""

_POINTS_OF_A_RANGE: Final = 5
"""Values that a grid takes of a range without steps."""

Settings = dict[str, Any]
"""Dotted path to value."""


class SpaceError(ValueError):
    """A search space that cannot be searched; the message names the path."""


def default_space(config: RecipeConfig) -> dict[str, Dimension]:
    """What the fields of the config's tracker declare.

    Raises:
        SpaceError: the tracker declares nothing.
    """
    declared = declared_dimensions(type(config.association))
    if not declared:
        raise SpaceError(
            f"{SEARCHED}.{KIND_FIELD} is {config.association.kind!r}, a tracker that declares no "
            "ranges; name what to search with --space"
        )
    return {f"{SEARCHED}.{name}": dimension for name, dimension in declared.items()}


def parse_space(texts: Iterable[str], config: RecipeConfig) -> dict[str, Dimension]:
    """A space from `path=values` texts of a command line, checked against the config.

    Raises:
        SpaceError: a text that is no such assignment, a path twice, a path that no field of the
            config has (the nearest are listed) or that stored detections do not depend on, an
            empty range, or a value that the field does not take.
    """
    space: dict[str, Dimension] = {}
    for text in texts:
        path, mark, values = (part.strip() for part in text.partition("="))
        if not mark or not path or not values:
            raise SpaceError(
                f"--space {text!r}: expected path=low:high or path=a,b,c, for example "
                "association.match_score_thr=0.3:0.7"
            )
        if path in space:
            raise SpaceError(f"--space names {path} twice; expected each path once")
        _check_path(path, config)
        try:
            space[path] = _parse_dimension(values, path, config)
        except SpaceError:
            raise
        except ValueError as error:
            raise SpaceError(f"--space {text!r}: {error}") from error
    return space


def own_settings(space: Mapping[str, Dimension], config: RecipeConfig) -> Settings:
    """The config's own values of what is searched."""
    values = flatten(config)
    return {path: values[path] for path in space}


def describe(space: Mapping[str, Dimension]) -> dict[str, str]:
    """Path to the text that `parse_space` reads, for reports and to compare two spaces.

    >>> describe({"a.b": Interval(0.3, 0.7), "a.c": Choices((True, False))})
    {'a.b': '0.3:0.7', 'a.c': 'true,false'}
    """
    return {path: _text(dimension) for path, dimension in space.items()}


def grid(space: Mapping[str, Dimension]) -> list[Settings]:
    """Every combination; a range without steps gives five values from its low to its high end.

    >>> [point["a"] for point in grid({"a": Interval(0.2, 0.6, step=0.2)})]
    [0.2, 0.4, 0.6]
    """
    axes = [_points(dimension) for dimension in space.values()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]


def grid_size(space: Mapping[str, Dimension]) -> int:
    """Number of points of the grid, without making them."""
    return math.prod(len(_points(dimension)) for dimension in space.values())


def is_whole(dimension: Interval) -> bool:
    """Whether the interval is of whole numbers: as its low end is written."""
    return isinstance(dimension.low, int)


def _check_path(path: str, config: RecipeConfig) -> None:
    known = flatten(config)
    if path in known and path.startswith(f"{SEARCHED}.") and not path.endswith(f".{KIND_FIELD}"):
        return
    if path in known:
        raise SpaceError(
            f"--space {path}: a sweep replays stored detections, which this changes or which it "
            f"does not touch; only the settings of one tracker can be searched ({SEARCHED}.*)"
        )
    inside = [name for name in known if name.startswith(f"{path}.")]
    if inside:
        raise SpaceError(f"--space {path}: is a group of fields; name one of them: {inside[0]} ...")
    try:
        apply_overrides(config, {path: ""})
    except ValueError as error:
        raise SpaceError(f"--space {path}: {error}") from error


def _parse_dimension(text: str, path: str, config: RecipeConfig) -> Dimension:
    if ":" not in text:
        values = tuple(_read(path, value.strip(), config) for value in text.split(","))
        return Choices(values)
    own = flatten(config)[path]
    if isinstance(own, bool) or not isinstance(own, int | float):
        raise SpaceError(
            f"--space {path}: holds {own!r}, which has no range; expected choices such as a,b,c"
        )
    low, high, *rest = (part.strip() for part in text.split(":"))
    if len(rest) > 1:
        raise SpaceError(f"--space {path}={text}: expected low:high, low:high:step or low:high:log")
    first, last = (_read(path, end, config) for end in (low, high))
    if rest == ["log"]:
        return Interval(first, last, log=True)
    step = None
    if rest:
        try:
            step = type(own)(rest[0])
        except ValueError:
            raise SpaceError(
                f"--space {path}={text}: the step is {rest[0]!r}, expected a number or log"
            ) from None
    return Interval(first, last, step=step)


def _read(path: str, text: str, config: RecipeConfig) -> Any:
    """The value that a text means for a field; refused if its config refuses it."""
    value = flatten(apply_overrides(config, {path: text}))[path]
    if isinstance(value, float) and not math.isfinite(value):
        raise SpaceError(f"--space {path}: {text} is no finite number")
    return value


def _points(dimension: Dimension) -> list[Any]:
    if isinstance(dimension, Choices):
        return list(dimension.values)
    low, high = dimension.low, dimension.high
    if dimension.step is not None:
        count = int((high - low) / dimension.step + 1e-9) + 1
        points = [low + index * dimension.step for index in range(count)]
    else:
        shares = [index / (_POINTS_OF_A_RANGE - 1) for index in range(_POINTS_OF_A_RANGE)]
        if dimension.log:
            points = [low * (high / low) ** share for share in shares]
        else:
            points = [low + share * (high - low) for share in shares]
    if is_whole(dimension):
        return sorted({round(point) for point in points})
    # Sums and powers miss round numbers and the ends by a last bit.
    return [min(max(float(f"{point:.12g}"), low), high) for point in points]


def _text(dimension: Dimension) -> str:
    if isinstance(dimension, Choices):
        return ",".join(
            str(value).lower() if isinstance(value, bool) else str(value)
            for value in dimension.values
        )
    parts = [f"{dimension.low!r}", f"{dimension.high!r}"]
    if dimension.log:
        parts.append("log")
    elif dimension.step is not None:
        parts.append(f"{dimension.step!r}")
    return ":".join(parts)
