"""Line charts as SVG text, for pages and for MLflow.

Drawn here because a page needs lines that follow its light and dark colours and that carry no
identifiers to clash with those of the next chart; it also starts without a plotting library.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

Point = tuple[float, float]

NUM_COLOURS: Final = 6
"""Lines beyond this many repeat the colours, dashed."""

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 12, 42
_LEGEND_LINE: Final = 17
_CHARACTER_PX: Final = 6.4
_MAX_POINTS: Final = 200
_MAX_LABEL: Final = 48

_STANDALONE_STYLE: Final = """
svg{font:12px sans-serif;background:#fff}.axis{stroke:#888}.grid{stroke:#e3e3e3}.label{fill:#333}
.line{fill:none;stroke-width:1.8}.dashed{stroke-dasharray:5 3}
.series0{stroke:#0072b2}.series1{stroke:#d55e00}.series2{stroke:#009e73}
.series3{stroke:#a65fc4}.series4{stroke:#b07d00}.series5{stroke:#56677a}
"""


def line_chart(
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    standalone: bool = False,
) -> str:
    """One SVG element with axes, a line for every curve, and a legend below.

    Long curves are thinned to means of neighbours. Points are drawn in the order given; a curve
    without points is left out, no curve at all gives empty axes.

    Args:
        curves: label to points (x, y), finite.
        title: what a screen reader says.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        standalone: bring the colours along, for a file of its own; a page has them in its style.
    """
    thinned = {label: thin(points) for label, points in curves.items() if points}
    x_axis = _ticks([x for points in thinned.values() for x, _ in points])
    y_axis = _ticks([y for points in thinned.values() for _, y in points])
    legend, height = _legend(list(thinned))
    lines = [
        f'<polyline class="{_series(index)}" points="{_path(points, x_axis, y_axis)}"/>'
        for index, points in enumerate(thinned.values())
    ]
    height += _HEIGHT
    style = f"<style>{_STANDALONE_STYLE}</style>" if standalone else ""
    # A picture without a size of its own is not shown at all by MLflow's page.
    size = f' width="{1.5 * _WIDTH:g}" height="{1.5 * height:g}"' if standalone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img"{size} '
        f'viewBox="0 0 {_WIDTH} {height}"><title>{escape(title)}</title>{style}'
        f"{_grid(x_axis, y_axis)}{_names(x_label, y_label)}{''.join(lines)}{legend}</svg>"
    )


def thin(points: Sequence[Point], limit: int = _MAX_POINTS) -> list[Point]:
    """At most `limit` points: means over equally many neighbours, the last ones perhaps fewer.

    >>> thin([(0, 1), (1, 3), (2, 5), (3, 7), (4, 9)], limit=3)
    [(0.5, 2.0), (2.5, 6.0), (4.0, 9.0)]
    """
    stride = math.ceil(len(points) / limit)
    if stride <= 1:
        return list(points)
    groups = [points[start : start + stride] for start in range(0, len(points), stride)]
    return [(_mean(x for x, _ in group), _mean(y for _, y in group)) for group in groups]


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


def _ticks(values: Sequence[float]) -> list[float]:
    return nice_ticks(min(values), max(values)) if values else [0.0, 1.0]


def _path(points: Iterable[Point], x_axis: list[float], y_axis: list[float]) -> str:
    return " ".join(f"{_x(x, x_axis):.1f},{_y(y, y_axis):.1f}" for x, y in points)


def _x(value: float, axis: list[float]) -> float:
    return _LEFT + (value - axis[0]) / (axis[-1] - axis[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, axis: list[float]) -> float:
    share = (value - axis[0]) / (axis[-1] - axis[0])
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(x_axis: list[float], y_axis: list[float]) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in y_axis:
        y = _y(value, y_axis)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{value:g}", "end"))
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts += [_text(_x(value, x_axis), bottom + 16, f"{value:g}", "middle") for value in x_axis]
    return "".join(parts)


def _names(x_label: str, y_label: str) -> str:
    across = _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_label, "middle")
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    up = _text(0, 0, y_label, "middle", f' transform="translate(11 {middle:.1f}) rotate(-90)"')
    return across + up


def _legend(labels: list[str]) -> tuple[str, int]:
    """Entries flow like words; returns them and the height they take."""
    parts, x, y = [], float(_LEFT), _HEIGHT + 4
    for index, label in enumerate(labels):
        text = label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"
        width = 40 + _CHARACTER_PX * len(text)
        if x > _LEFT and x + width > _WIDTH:
            x, y = float(_LEFT), y + _LEGEND_LINE
        parts.append(f'<line class="{_series(index)}" x1="{x}" x2="{x + 18}" y1="{y}" y2="{y}"/>')
        parts.append(_text(x + 23, y + 4, text, "start"))
        x += width
    return "".join(parts), (y - _HEIGHT + 10 if labels else 0)


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"' if not more else more.strip()
    return f'<text class="label" text-anchor="{anchor}" {place}>{escape(text)}</text>'


def _series(index: int) -> str:
    dashed = " dashed" if index >= NUM_COLOURS else ""
    return f"line series{index % NUM_COLOURS}{dashed}"


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
