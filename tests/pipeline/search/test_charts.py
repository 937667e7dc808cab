"""Charts of a sweep, parsed: every trial has its mark, and the marks lie where the values say."""

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from models.search_space import Choices, Interval
from pipeline.search.charts import smooth, sweep_charts
from pipeline.search.ranking import best_trials
from pipeline.search.study import FinishedTrial
from tests.made_up_study import OWN, SPACE, make_options, make_study

SVG = "{http://www.w3.org/2000/svg}"
SLICES = [f"slice-{path.removeprefix('association.')}" for path in SPACE]


def _charts(
    trials: list[FinishedTrial], num_objectives: int = 1, *, standalone: bool = False
) -> dict[str, ElementTree.Element]:
    options = make_options(num_objectives)
    arguments = (trials, options.space, options.objectives, options.directions)
    charts = sweep_charts(*arguments, standalone=standalone)
    return {name: ElementTree.fromstring(svg) for name, svg in charts.items()}


def _marks(chart: ElementTree.Element, shape: str) -> dict[int, tuple[float, float]]:
    """Trial number to the middle of its mark, in pixels; to the upper tip of a star."""
    found = {}
    for group in chart.findall(f"{SVG}g"):
        if group.attrib["class"].split()[0] != shape:
            continue
        for mark in group:
            title = mark.findtext(f"{SVG}title")
            if title is None:  # of the legend
                continue
            number = re.match(r"trial (\d+)", title)
            assert number is not None
            found[int(number[1])] = _place(mark)
    return found


def _place(mark: ElementTree.Element) -> tuple[float, float]:
    if "cx" in mark.attrib:
        return float(mark.attrib["cx"]), float(mark.attrib["cy"])
    numbers = re.findall(r"-?[\d.]+", mark.attrib.get("points") or mark.attrib["d"])
    return float(numbers[0]), float(numbers[1])


def _texts(chart: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in chart.iter(f"{SVG}text")]


def test_one_objective_has_all_charts_but_the_front() -> None:
    assert list(_charts(make_study(60))) == ["history", "importance", "contour", *SLICES]


def test_several_objectives_have_a_front_and_a_history_each() -> None:
    expected = ["history-mMOTA", "history-IDSw", "pareto", "importance-mMOTA", "importance-IDSw"]
    assert list(_charts(make_study(60, 2), 2)) == [*expected, "contour", *SLICES]


def test_the_history_shows_every_trial_once_by_what_became_of_it() -> None:
    trials = make_study(60)
    chart = _charts(trials)["history"]
    found = {shape: _marks(chart, shape) for shape in ("dot", "ring", "cross", "diamond", "star")}
    best = best_trials(trials, ["maximize"])[0].number
    by_state = {
        state: {trial.number for trial in trials if trial.state == state}
        for state in ("complete", "pruned", "failed")
    }
    assert found["dot"].keys() == by_state["complete"] - {0, best}
    assert found["ring"].keys() == by_state["pruned"]
    assert found["cross"].keys() == by_state["failed"]
    assert found["diamond"].keys() == {0}
    assert found["star"].keys() == {best}
    scored = {**found["dot"], **found["ring"]}
    assert [x for _, (x, _) in sorted(scored.items())] == sorted(x for x, _ in scored.values())
    heights = [(trials[n].values or (trials[n].rungs[max(trials[n].rungs)],))[0] for n in scored]
    pixels = [y for _, y in scored.values()]
    order = np.argsort(heights)
    assert np.all(np.diff(np.array(pixels)[order]) <= 0.1), "higher scores lie higher"


def test_the_best_so_far_never_gets_worse_and_ends_at_the_best() -> None:
    for num_objectives, name in ((1, "history"), (2, "history-IDSw")):
        chart = _charts(make_study(60, num_objectives), num_objectives)[name]
        [line] = chart.findall(f"{SVG}polyline")
        points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        heights = [y for _, y in points]
        assert heights == sorted(heights, reverse=num_objectives == 1)
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(points))
        [(_, star)] = _marks(chart, "star").values()
        assert heights[-1] == pytest.approx(star + 6.5, abs=0.2)


def test_the_front_is_the_ranking_s_and_the_others_are_dots() -> None:
    trials = make_study(60, 2)
    chart = _charts(trials, 2)["pareto"]
    front = {trial.number for trial in best_trials(trials, ["maximize", "minimize"])}
    assert _marks(chart, "star").keys() == front
    complete = {trial.number for trial in trials if trial.state == "complete"}
    assert _marks(chart, "dot").keys() == complete - front - {0}
    [line] = chart.findall(f"{SVG}polyline")
    assert len(line.attrib["points"].split()) == 2 * len(front) - 1


def test_three_objectives_show_the_front_of_the_first_two() -> None:
    two, three = (_charts(make_study(40, count), count)["pareto"] for count in (2, 3))
    assert _marks(three, "star") == _marks(two, "star")
    assert "mIDF1" not in _texts(three)


def test_slices_follow_the_scale_of_their_dimension() -> None:
    trials = make_study(60)
    charts = _charts(trials)
    frames = _marks(charts["slice-memo_tracklet_frames"], "ring")
    values = [math.log(trials[n].settings["association.memo_tracklet_frames"]) for n in frames]
    slope, _ = np.polyfit(values, [x for x, _ in frames.values()], 1)
    assert np.corrcoef(values, [x for x, _ in frames.values()])[0, 1] > 0.9999
    assert slope > 0
    assert {"1", "10"} <= set(_texts(charts["slice-memo_tracklet_frames"]))


def test_choices_stand_side_by_side_under_their_names() -> None:
    trials = make_study(60)
    chart = _charts(trials)["slice-match_metric"]
    assert {"bisoftmax", "softmax", "cosine"} <= set(_texts(chart))
    assert {"true", "false"} <= set(_texts(_charts(trials)["slice-with_cats"]))
    rings = _marks(chart, "ring")
    columns: dict[str, list[float]] = {}
    for number, (x, _) in rings.items():
        columns.setdefault(trials[number].settings["association.match_metric"], []).append(x)
    first, second, third = (columns[name] for name in ("bisoftmax", "softmax", "cosine"))
    assert max(first) < min(second)
    assert max(second) < min(third)
    assert len(set(first)) > 1, "spread sideways"


def test_a_recipe_outside_of_the_space_is_said_and_has_no_mark() -> None:
    trials = make_study(60)
    trials[0] = replace(trials[0], settings={**OWN, "association.match_score_thr": 0.97})
    charts = _charts(trials)
    assert _marks(charts["slice-match_score_thr"], "diamond") == {}
    assert "recipe's own: 0.97, outside" in _texts(charts["slice-match_score_thr"])
    assert _marks(charts["slice-with_cats"], "diamond").keys() == {0}


def test_the_contour_says_what_its_shades_mean() -> None:
    chart = _charts(make_study(60))["contour"]
    texts = _texts(chart)
    assert any(text.startswith("mMOTA on 8 sequences: ") for text in texts)
    assert {"memo_tracklet_frames", "match_score_thr"} <= set(texts)
    assert len(_marks(chart, "star")) == 1


def test_one_trial_has_a_history_and_slices_and_an_empty_study_nothing() -> None:
    trials = make_study(1)
    charts = _charts(trials)
    assert list(charts) == ["history", *SLICES]
    assert _marks(charts["history"], "diamond").keys() == {0}
    assert _charts([]) == {}
    assert _charts([replace(trials[0], state="failed", values=None, rungs={})]) == {}


def test_names_are_text_whatever_they_hold() -> None:
    hostile = '</text><script>"&'
    trials = [
        replace(trial, settings={hostile: trial.settings["association.with_cats"]})
        for trial in make_study(60)
    ]
    space = {hostile: Choices((True, False))}
    charts = sweep_charts(trials, space, [hostile], ["maximize"], standalone=False)
    assert len(charts) == 3
    for svg in charts.values():
        assert "<script" not in svg
        assert any(hostile in text for text in _texts(ElementTree.fromstring(svg)))


def test_files_of_their_own_have_a_size_and_colours() -> None:
    for chart in _charts(make_study(60), standalone=True).values():
        assert float(chart.attrib["width"]) > 0
        assert ".star" in (chart.findtext(f"{SVG}style") or "")


def test_a_surface_passes_near_its_values_and_keeps_choices_apart() -> None:
    known = np.array([[0.25, 0.5, 10.0], [0.75, 0.5, 20.0]])
    apart = smooth(known, (2, 1), (True, False))
    near = smooth(known, (2, 1), (False, False))
    assert apart == pytest.approx(np.array([[10.0, 20.0]]), abs=0.01)
    assert apart[0, 0] < near[0, 0] < 10.1
    assert smooth(known, (30, 20), (False, False)).shape == (20, 30)
    flat = smooth(np.array([[0.1, 0.9, 7.0]]), (3, 3), (False, False))
    assert flat == pytest.approx(np.full((3, 3), 7.0))


def test_a_range_of_equal_scores_is_drawn() -> None:
    trials = [
        replace(trial, values=(7.0,), rungs={200: 7.0}, state="complete", reason="")
        for trial in make_study(30)
    ]
    space = {"association.match_score_thr": Interval(0.1, 0.9)}
    charts = sweep_charts(trials, space, ["mMOTA"], ["maximize"], standalone=False)
    assert list(charts) == ["history", "slice-match_score_thr"]
