"""Axes of charts: where a value lies between two ends, and which round numbers stand beside."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_MIN_LOG_TICKS: Final = 3
_MANTISSAS: Final = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One side of a chart."""

    label: str
    low: float
    high: float
    ticks: Mapping[float, str]
    """Value to the text beside it, rising."""
    is_log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value lies, 0 to 1; one beyond an end is put at that end.

        >>> Axis(label="", low=1, high=100, ticks={}, is_log=True).share(10)
        0.5
        """
        low, high, value = self.low, self.high, self.clip(value)
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)

    def clip(self, value: float) -> float:
        """The value, or the end that it lies beyond."""
        return min(max(value, self.low), self.high)


def number_axis(label: str, values: Sequence[float]) -> Axis:
    """An axis that begins and ends at round numbers around the values; 0 to 1 for none."""
    ticks = nice_ticks(min(values), max(values)) if values else [0.0, 1.0]
    return Axis(label=label, low=ticks[0], high=ticks[-1], ticks=_named(ticks))


def score_axis(label: str, values: Sequence[float], *, maximise: bool) -> Axis:
    """An axis for scores of which a few may be much worse than all others.

    Such ones would squeeze the rest into a line. Scores that are worse than the best by more than
    twice what nine tenths of them are lie at the end of the axis, whose text says so.

    Args:
        label: name of the score.
        values: at least one; the first lies inside in any case.
        maximise: whether more is better.

    >>> score_axis("HOTA", [*[30.0] * 9, 40.0, -900.0], maximise=True).ticks[20.0]
    '≤ 20'
    """
    sign = 1.0 if maximise else -1.0
    ordered = sorted(sign * value for value in values)
    best, tenth = ordered[-1], ordered[len(ordered) // 10]
    limit = min(sign * values[0], best - 2.0 * (best - tenth))
    if ordered[0] >= limit:
        return number_axis(label, values)
    axis = number_axis(label, [sign * best, sign * limit])
    end, mark = (axis.low, "≤") if maximise else (axis.high, "≥")
    return Axis(
        label=label,
        low=axis.low,
        high=axis.high,
        ticks={**axis.ticks, end: f"{mark} {axis.ticks[end]}"},
    )


def range_axis(
    label: str, low: float, high: float, *, is_log: bool = False, is_whole: bool = False
) -> Axis:
    """An axis with given ends, low < high, and round numbers between them.

    Args:
        label: name of the axis.
        low: its beginning; above 0 for a logarithmic one.
        high: its end.
        is_log: equal distances stand for equal ratios.
        is_whole: only whole numbers are marked.
    """
    ticks = _log_ticks(low, high) if is_log else nice_ticks(low, high)
    inside = [tick for tick in ticks if low <= tick <= high]
    if is_whole:
        inside = [tick for tick in inside if tick == round(tick)]
    return Axis(label=label, low=low, high=high, ticks=_named(inside), is_log=is_log)


def category_axis(label: str, names: Sequence[str]) -> Axis:
    """An axis on which the n-th name lies at n, evenly spaced."""
    return Axis(label=label, low=-0.5, high=len(names) - 0.5, ticks=dict(enumerate(names)))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers whose first and last enclose the range.

    >>> nice_ticks(0.05, 0.95)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(7.0, 7.0)
    [6.5, 7.0, 7.5]
    """
    if high <= low:
        low, high, count = low - 0.5, low + 0.5, 2
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with round numbers between them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in _MANTISSAS:
        values = [float(f"{m * 10.0**power:.10g}") for power in powers for m in mantissas]
        ticks = [value for value in values if low <= value <= high]
        if len(ticks) >= _MIN_LOG_TICKS:
            return ticks
    return nice_ticks(low, high)


def _named(ticks: Sequence[float]) -> dict[float, str]:
    return {value: f"{value:g}" for value in ticks}
