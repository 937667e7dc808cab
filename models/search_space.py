"""Over which values a config's field is worth searching, declared beside the field itself.

    match_score_thr: Annotated[float, Interval(0.2, 0.9)] = 0.5

The annotation changes nothing about the config: it is where a sweep takes its default space from.
"""

from dataclasses import dataclass, fields
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included; whole ones where the field is whole."""

    low: float
    high: float
    log: bool = False
    """Search the logarithm: for values that matter by their ratio."""
    step: float | None = None
    """Distance of the values looked at, from `low` on; None for all numbers between."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"the range {self.low:g}:{self.high:g} is empty, expected low < high")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(
                f"the step {self.step:g} of {self.low:g}:{self.high:g} is not between 0 and the "
                "width of the range"
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(
                f"the range {self.low:g}:{self.high:g} cannot be searched by its logarithm, "
                "expected low > 0 and no step"
            )


@dataclass(frozen=True)
class Choices:
    """A few values without an order."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise ValueError(
                f"the choices {', '.join(map(str, self.values))} leave nothing to search, expected "
                "at least two different values"
            )


Dimension = Interval | Choices


def declared_dimensions(config_class: type[Any]) -> dict[str, Dimension]:
    """Field to what its annotation declares, in the order of the class; undeclared ones left out.

    >>> from models.baselines.overlap import OverlapConfig
    >>> declared_dimensions(OverlapConfig)["memo_frames"]
    Interval(low=1, high=60, log=True, step=None)
    """
    hints = get_type_hints(config_class, include_extras=True)
    declared = {}
    for field in fields(config_class):
        for mark in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(mark, Interval | Choices):
                declared[field.name] = mark
    return declared
