"""Charts as SVG text, for pages and for MLflow.

Drawn here because a page needs charts that follow its light and dark colours and that carry no
identifiers to clash with those of the next chart; it also starts without a plotting library.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Final, Literal

from pipeline.axes import Axis, number_axis

Point = tuple[float, float]
Shape = Literal["dot", "ring", "cross", "diamond", "star"]

NUM_COLOURS: Final = 6
"""Lines beyond this many repeat the colours, dashed."""
NUM_SHADES: Final = 8
"""Steps of opacity of a chart's cells."""

_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 12, 42
_LEGEND_LINE: Final = 17
_BAR_LINE: Final = 22
_CHARACTER_PX: Final = 7.5
"""Of wide fonts, which some systems have."""
_MAX_POINTS: Final = 200
_MAX_LABEL: Final = 48
_STAR: Final = [
    (radius * math.sin(index * math.pi / 5), -radius * math.cos(index * math.pi / 5))
    for index, radius in enumerate((6.5, 2.8) * 5)
]
"""Corners around the middle, the upper tip first."""

_STANDALONE_STYLE: Final = """
svg{font:12px sans-serif;background:#fff}.axis{stroke:#888}.grid{stroke:#e3e3e3}.label{fill:#333}
.line,.ring,.cross{fill:none;stroke:currentColor}.line{stroke-width:1.8}
.dashed{stroke-dasharray:5 3}.cross{stroke-width:1.5}
.ring{stroke-opacity:.55}.dot{fill:currentColor;fill-opacity:.8;stroke:#fff;stroke-width:.6}
.diamond,.star{fill:currentColor;stroke:#fff}.cell,.bar{fill:currentColor}
.series0{color:#0072b2}.series1{color:#d55e00}.series2{color:#009e73}
.series3{color:#a65fc4}.series4{color:#b07d00}.series5{color:#56677a}
"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points that are joined in the order given."""

    label: str
    """In the legend; none when empty."""
    points: Sequence[Point]
    colour: int
    """From 0; those from `NUM_COLOURS` on are dashed."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Points that stand alone."""

    label: str
    """In the legend; none when empty."""
    points: Mapping[str, Point]
    """By what is said when one points at it."""
    colour: int
    """From 0, below `NUM_COLOURS`."""
    shape: Shape = "dot"


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Shades that fill the whole chart, row by row from the bottom, all rows equally long."""

    shares: Sequence[Sequence[float]]
    """0 (faint) to 1 (strong)."""
    ends: tuple[str, str]
    """What the faintest and the strongest shade stand for."""


Layer = Line | Marks | Cells


def chart(
    x_axis: Axis, y_axis: Axis, layers: Sequence[Layer], *, title: str, standalone: bool = False
) -> str:
    """One SVG element with two axes, the layers on top of each other, and a legend below.

    Args:
        x_axis: from left to right.
        y_axis: from bottom to top.
        layers: drawn in this order.
        title: what a screen reader says.
        standalone: bring the colours along, for a file of its own; a page has them in its style.
    """
    frame = _Frame(x_axis, y_axis)
    cells = "".join(_draw(layer, frame) for layer in layers if isinstance(layer, Cells))
    others = "".join(_draw(layer, frame) for layer in layers if not isinstance(layer, Cells))
    legend, height = _legend(layers, frame.left)
    content = f"{cells}{_grid(frame)}{others}{legend}"
    return _element(content, title, _HEIGHT + height, standalone=standalone)


def line_chart(
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    standalone: bool = False,
) -> str:
    """A chart with a line for every curve.

    Long curves are thinned to means of neighbours. Points are drawn in the order given; a curve
    without points is left out, no curve at all gives empty axes.

    Args:
        curves: label to points (x, y), finite.
        title: what a screen reader says.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        standalone: as for `chart`.
    """
    thinned = {label: thin(points) for label, points in curves.items() if points}
    return chart(
        number_axis(x_label, [x for points in thinned.values() for x, _ in points]),
        number_axis(y_label, [y for points in thinned.values() for _, y in points]),
        [
            Line(label=label, points=points, colour=index)
            for index, (label, points) in enumerate(thinned.items())
        ],
        title=title,
        standalone=standalone,
    )


def bar_chart(values: Mapping[str, float], *, title: str, standalone: bool = False) -> str:
    """One SVG element with a horizontal bar for every label, its value in percent beside it.

    Args:
        values: label to a share, 0 to 1; the greatest is as long as there is room.
        title: what a screen reader says.
        standalone: as for `chart`.
    """
    left = 8 + _CHARACTER_PX * max((len(_short(label)) for label in values), default=0)
    room = _WIDTH - left - 44
    most = max(values.values(), default=0.0)
    parts = []
    for index, (label, value) in enumerate(values.items()):
        y = 4 + _BAR_LINE * index
        length = room * value / most if most > 0 else 0.0
        parts.append(_text(left - 8, y + 13, _short(label), "end"))
        parts.append(
            f'<rect class="bar series0" x="{left:.1f}" y="{y}" width="{length:.1f}" height="16"/>'
        )
        parts.append(_text(left + length + 5, y + 13, f"{value:.0%}", "start"))
    return _element("".join(parts), title, 8 + _BAR_LINE * len(values), standalone=standalone)


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


@dataclass(frozen=True)
class _Frame:
    """Where the axes put a point, in pixels of the picture."""

    x_axis: Axis
    y_axis: Axis

    @property
    def left(self) -> float:
        """The texts beside the vertical axis need room."""
        longest = max((len(_short(text)) for text in self.y_axis.ticks.values()), default=0)
        return max(_LEFT, 24 + _CHARACTER_PX * longest)

    def x(self, value: float) -> float:
        return self.left + self.x_axis.share(value) * (_WIDTH - self.left - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - self.y_axis.share(value) * (_HEIGHT - _TOP - _BOTTOM)


def _element(content: str, title: str, height: int, *, standalone: bool) -> str:
    style = f"<style>{_STANDALONE_STYLE}</style>" if standalone else ""
    # A picture without a size of its own is not shown at all by MLflow's page.
    size = f' width="{1.5 * _WIDTH:g}" height="{1.5 * height:g}"' if standalone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img"{size} '
        f'viewBox="0 0 {_WIDTH} {height}"><title>{escape(title)}</title>{style}{content}</svg>'
    )


def _draw(layer: Layer, frame: _Frame) -> str:
    if isinstance(layer, Cells):
        return _cells(layer, frame)
    if isinstance(layer, Line):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in layer.points)
        return f'<polyline class="{_line(layer.colour)}" points="{path}"/>'
    marks = "".join(
        _mark(frame.x(x), frame.y(y), layer.shape, f"<title>{escape(name)}</title>")
        for name, (x, y) in layer.points.items()
    )
    return f'<g class="{layer.shape} series{layer.colour}">{marks}</g>'


def _mark(x: float, y: float, shape: Shape, inside: str = "") -> str:
    if shape in ("dot", "ring"):
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8">{inside}</circle>'
    if shape == "star":
        corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in _STAR)
        return f'<polygon points="{corners}">{inside}</polygon>'
    path = {
        "cross": f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6",
        "diamond": f"M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    }[shape]
    return f'<path d="{path}">{inside}</path>'


def _cells(layer: Cells, frame: _Frame) -> str:
    """One path for each shade, of runs of equal neighbours."""
    height = (_HEIGHT - _TOP - _BOTTOM) / len(layer.shares)
    paths: dict[int, list[str]] = {}
    for row, shares in enumerate(layer.shares):
        y = _HEIGHT - _BOTTOM - height * (row + 1)
        width = (_WIDTH - _RIGHT - frame.left) / len(shares)
        column = 0
        for shade, run in groupby(min(int(s * NUM_SHADES), NUM_SHADES - 1) for s in shares):
            length = len(list(run))
            x, across = frame.left + width * column, width * length
            paths.setdefault(shade, []).append(
                f"M{x:.1f} {y:.1f}h{across:.1f}v{height:.1f}h{-across:.1f}z"
            )
            column += length
    return "".join(f'<path {_shade(shade)} d="{"".join(paths[shade])}"/>' for shade in paths)


def _shade(index: int) -> str:
    opacity = 0.06 + 0.74 * index / (NUM_SHADES - 1)
    # Crisp, as the seams between transparent neighbours would show.
    return f'class="cell series0" fill-opacity="{opacity:.2f}" shape-rendering="crispEdges"'


def _grid(frame: _Frame) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    left = f"{frame.left:g}"
    parts = []
    for value, text in frame.y_axis.ticks.items():
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(frame.left - 6, y + 4, _short(text), "end"))
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    fitting = int((right - frame.left) / max(len(frame.x_axis.ticks), 1) / _CHARACTER_PX)
    for value, text in frame.x_axis.ticks.items():
        parts.append(_text(frame.x(value), bottom + 16, _short(text, fitting), "middle"))
    parts.append(_text((frame.left + right) / 2, _HEIGHT - 8, _short(frame.x_axis.label), "middle"))
    place = f'transform="translate(11 {(_TOP + bottom) / 2:.1f}) rotate(-90)"'
    parts.append(_placed_text(place, _short(frame.y_axis.label), "middle"))
    return "".join(parts)


def _legend(layers: Sequence[Layer], left: float) -> tuple[str, int]:
    """Entries flow like words; returns them and the height they take."""
    parts, x, y = [], left, _HEIGHT + 4
    for layer in layers:
        text = layer.ends[0] if isinstance(layer, Cells) else _short(layer.label)
        if not text:
            continue
        width = _sign_width(layer) + _CHARACTER_PX * len(text)
        if x > left and x + width > _WIDTH:
            x, y = left, y + _LEGEND_LINE
        parts.append(_legend_entry(layer, x, y))
        x += width
    return "".join(parts), (y - _HEIGHT + 10 if parts else 0)


def _legend_entry(layer: Layer, x: float, y: float) -> str:
    if isinstance(layer, Cells):
        faint, strong = layer.ends
        start = x + _CHARACTER_PX * len(faint) + 6
        shades = "".join(
            f'<path {_shade(shade)} d="M{start + 10 * shade:.1f} {y - 5}h10v10h-10z"/>'
            for shade in range(NUM_SHADES)
        )
        end = start + 10 * NUM_SHADES + 6
        return _text(x, y + 4, faint, "start") + shades + _text(end, y + 4, strong, "start")
    if isinstance(layer, Line):
        sign = f'<line class="{_line(layer.colour)}" x1="{x}" x2="{x + 18}" y1="{y}" y2="{y}"/>'
        return sign + _text(x + 23, y + 4, _short(layer.label), "start")
    sign = f'<g class="{layer.shape} series{layer.colour}">{_mark(x + 6, y, layer.shape)}</g>'
    return sign + _text(x + 15, y + 4, _short(layer.label), "start")


def _sign_width(layer: Layer) -> float:
    """Room in the legend for all but the text."""
    if isinstance(layer, Cells):
        return 24 + 10 * NUM_SHADES + _CHARACTER_PX * len(layer.ends[1])
    return 38 if isinstance(layer, Line) else 28


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return _placed_text(f'x="{x:.1f}" y="{y:.1f}"', text, anchor)


def _placed_text(place: str, text: str, anchor: str) -> str:
    return f'<text class="label" text-anchor="{anchor}" {place}>{escape(text)}</text>'


def _short(text: str, limit: int = _MAX_LABEL) -> str:
    return text if len(text) <= limit else text[: max(limit - 1, 1)] + "…"


def _line(colour: int) -> str:
    dashed = " dashed" if colour >= NUM_COLOURS else ""
    return f"line series{colour % NUM_COLOURS}{dashed}"


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
