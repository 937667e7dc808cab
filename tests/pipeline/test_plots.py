"""Charts: thinning, marks, cells, bars, and text that may hold anything."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.axes import number_axis
from pipeline.plots import Cells, Line, Marks, Shape, bar_chart, chart, line_chart, thin

SVG = "{http://www.w3.org/2000/svg}"


def _chart(curves: dict[str, list[tuple[float, float]]], *, standalone: bool = False) -> str:
    return line_chart(curves, title="t", x_label="x", y_label="y", standalone=standalone)


def _lines(svg: str) -> list[list[tuple[float, float]]]:
    elements = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [
        [tuple(map(float, pair.split(","))) for pair in element.attrib["points"].split()]  # type: ignore[misc]
        for element in elements
    ]


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


AXIS = number_axis("", [0.0, 10.0])


def _figure(*layers: Line | Marks | Cells) -> ElementTree.Element:
    return ElementTree.fromstring(chart(AXIS, AXIS, layers, title="t"))


@pytest.mark.parametrize(
    ("shape", "tag"),
    [
        ("dot", "circle"),
        ("ring", "circle"),
        ("cross", "path"),
        ("diamond", "path"),
        ("star", "polygon"),
    ],
)
def test_every_point_has_a_mark_that_says_what_it_is(shape: Shape, tag: str) -> None:
    name = "trial 3: <b>&"
    points = {name: (2.0, 3.0), "other": (4.0, 5.0)}
    root = _figure(Marks(label="", points=points, colour=1, shape=shape))
    [group] = root.findall(f"{SVG}g")
    assert group.attrib["class"] == f"{shape} series1"
    assert [mark.tag for mark in group] == [SVG + tag] * 2
    assert [mark.findtext(f"{SVG}title") for mark in group] == [name, "other"]


def test_marks_lie_where_the_axes_say() -> None:
    root = _figure(Marks(label="", points={"a": (0, 0), "b": (10, 10), "c": (99, 5)}, colour=0))
    first, second, beyond = (
        (float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")
    )
    assert first[0] < second[0] == beyond[0]
    assert first[1] > beyond[1] > second[1]
    assert first[1] - beyond[1] == pytest.approx(beyond[1] - second[1])


def test_cells_lie_below_the_marks_and_cover_the_chart_once() -> None:
    shares = [[0.0, 0.0, 1.0], [0.5, 1.0, 0.0]]
    root = _figure(
        Marks(label="", points={"a": (1, 1)}, colour=0), Cells(shares=shares, ends=("low", "high"))
    )
    drawn = root.findall(f"{SVG}path")[:3]
    opacities = [float(path.attrib["fill-opacity"]) for path in drawn]
    assert len(set(opacities)) == 3
    areas = [
        sum(float(w) * float(h) for w, h in re.findall(r"h([\d.]+)v([\d.]+)", path.attrib["d"]))
        for path in drawn
    ]
    by_opacity = dict(zip(opacities, areas, strict=True))
    low, middle, high = (by_opacity[key] for key in sorted(by_opacity))
    assert low == pytest.approx(3 * middle, rel=0.01)
    assert high == pytest.approx(2 * middle, rel=0.01)
    order = [element.tag for element in root]
    assert order.index(f"{SVG}path") < order.index(f"{SVG}line") < order.index(f"{SVG}g")
    assert {"low", "high"} <= {element.text for element in root.iter(f"{SVG}text")}


def test_bars_are_as_long_as_their_shares() -> None:
    root = ElementTree.fromstring(bar_chart({"a": 0.6, "b <": 0.3, "none": 0.0}, title="t"))
    lengths = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect")]
    assert lengths == pytest.approx([lengths[0], lengths[0] / 2, 0.0], abs=0.1)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts == ["a", "60%", "b <", "30%", "none", "0%"]
    assert "rect" not in bar_chart({}, title="t")


def test_long_texts_beside_the_axis_move_it_to_the_right() -> None:
    def left(high: float) -> float:
        root = ElementTree.fromstring(_chart({"a": [(0, 0), (1, high)]}))
        return float(next(root.iter(f"{SVG}line")).attrib["x1"])

    assert left(1_000_000) > left(1)
