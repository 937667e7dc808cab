"""Charts: scales, thinning, and text that may hold anything."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.axes import nice_ticks
from pipeline.plots import line_chart, thin

SVG = "{http://www.w3.org/2000/svg}"


def _chart(curves: dict[str, list[tuple[float, float]]], *, standalone: bool = False) -> str:
    return line_chart(curves, title="t", x_label="x", y_label="y", standalone=standalone)


def _lines(svg: str) -> list[list[tuple[float, float]]]:
    elements = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [
        [tuple(map(float, pair.split(","))) for pair in element.attrib["points"].split()]  # type: ignore[misc]
        for element in elements
    ]


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.05, 0.95), (-3, 7), (1e-6, 3e-6), (0, 123456), (5, 5), (-0.001, 0), (99.9, 100)],
)
def test_ticks_enclose_the_range_evenly_with_a_handful_of_round_numbers(
    low: float, high: float
) -> None:
    ticks = nice_ticks(low, high)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 8
    assert steps == pytest.approx([steps[0]] * len(steps))
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert any(mantissa == pytest.approx(m) for m in (1, 2, 2.5, 5))


def test_lines_run_inside_the_axes_and_upwards_is_more() -> None:
    (line,) = _lines(_chart({"a": [(0, 10), (1, 20), (2, 15)]}))
    xs, ys = zip(*line, strict=True)
    assert list(xs) == sorted(xs)
    assert ys[1] < ys[2] < ys[0]
    assert all(0 <= x <= 400 for x in xs)
    assert all(0 <= y <= 250 for y in ys)


def test_long_curves_are_thinned_to_means() -> None:
    points = [(float(index), float(index % 2)) for index in range(10_000)]
    thinned = thin(points)
    assert len(thinned) == 200
    assert {y for _, y in thinned} == {0.5}
    assert thin(points[:200]) == points[:200]
    assert thin([]) == []


@pytest.mark.parametrize("curves", [{}, {"nothing": []}, {"point": [(3.0, 4.0)]}])
def test_next_to_nothing_still_gives_a_chart(curves: dict[str, list[tuple[float, float]]]) -> None:
    assert len(_lines(_chart(curves))) == sum(1 for points in curves.values() if points)


def test_labels_are_text_whatever_they_hold() -> None:
    label = '</text><script>alert(1)</script>"&'
    svg = _chart({label: [(0, 0), (1, 1)]})
    assert "<script" not in svg
    texts = [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert label in texts


def test_a_seventh_line_is_told_apart_by_dashes() -> None:
    svg = _chart({str(index): [(0, index), (1, index)] for index in range(7)})
    assert 'class="line series0 dashed"' in svg
    assert svg.count("series0 dashed") == 2, "the line and its legend"


def test_the_legend_makes_room_for_itself() -> None:
    def height(svg: str) -> float:
        return float(re.search(r'viewBox="0 0 \d+ (\d+)"', svg)[1])  # type: ignore[index]

    few = _chart({"a": [(0, 0), (1, 1)]})
    many = _chart({f"a rather long name {i}": [(0, 0), (1, 1)] for i in range(9)})
    assert height(many) > height(few)


def test_a_file_of_its_own_has_a_size_and_colours() -> None:
    """MLflow's page shows a picture without a size of its own as nothing at all."""
    root = ElementTree.fromstring(_chart({"a": [(0, 0), (1, 1)]}, standalone=True))
    assert float(root.attrib["width"]) > 0
    assert "#0072b2" in (root.findtext(f"{SVG}style") or "")
    assert "width" not in ElementTree.fromstring(_chart({})).attrib
