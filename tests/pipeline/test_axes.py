"""Axes: round numbers around a range, and where values lie between the ends."""

import itertools
import math

import pytest

from pipeline.axes import Axis, category_axis, nice_ticks, number_axis, range_axis, score_axis


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


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (1, 60, ["1", "2", "5", "10", "20", "50"]),
        (1e-4, 0.9, ["0.0001", "0.001", "0.01", "0.1"]),
        (0.31, 0.55, ["0.35", "0.4", "0.45", "0.5", "0.55"]),
    ],
)
def test_a_logarithmic_axis_marks_powers_of_ten_and_what_it_needs_between(
    low: float, high: float, texts: list[str]
) -> None:
    axis = range_axis("x", low, high, is_log=True)
    assert list(axis.ticks.values()) == texts
    assert (axis.share(low), axis.share(high)) == (0.0, pytest.approx(1.0))
    assert axis.share(math.sqrt(low * high)) == pytest.approx(0.5)


def test_whole_numbers_have_no_marks_between_them() -> None:
    assert list(range_axis("x", 0, 2).ticks) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert list(range_axis("x", 0, 2, is_whole=True).ticks) == [0.0, 1.0, 2.0]


def test_names_are_evenly_spaced() -> None:
    axis = category_axis("x", ["a", "b", "c", "d"])
    assert [axis.share(n) for n in axis.ticks] == [0.125, 0.375, 0.625, 0.875]
    assert list(axis.ticks.values()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("maximise", [True, False])
def test_a_few_terrible_scores_do_not_squeeze_the_others(maximise: bool) -> None:
    sign = 1 if maximise else -1
    scores = [sign * value for value in (30.0, *range(20, 40), -5000.0)]
    axis = score_axis("s", scores, maximise=maximise)
    ends = (axis.low, axis.high) if maximise else (-axis.high, -axis.low)
    assert -20 <= ends[0] <= 20
    assert ends[1] == 40
    assert axis.share(scores[-1]) == (0.0 if maximise else 1.0)
    [marked] = [text for text in axis.ticks.values() if text[0] in "≤≥"]
    assert marked[0] == ("≤" if maximise else "≥")


def test_the_first_score_is_shown_however_bad() -> None:
    axis = score_axis("s", [-500.0, *[30.0] * 20], maximise=True)
    assert axis.low <= -500
    assert "≤" not in "".join(axis.ticks.values())


def test_even_scores_and_no_values_have_an_axis() -> None:
    assert score_axis("s", [7.0, 7.0], maximise=True).share(7.0) == 0.5
    assert number_axis("n", []) == Axis(label="n", low=0, high=1, ticks={0.0: "0", 1.0: "1"})
