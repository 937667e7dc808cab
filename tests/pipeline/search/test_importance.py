"""Importance: told from scores on the same sequences, the same each time, or not at all."""

from dataclasses import replace

import pytest

from models.search_space import Interval
from pipeline.search.importance import MIN_TRIALS, Scored, comparable_scores, importances
from tests.made_up_study import SPACE, make_study


def test_pruned_studies_are_compared_on_the_first_rung_and_others_on_all() -> None:
    trials = make_study(60)
    scored, size = comparable_scores(trials)
    assert size == 8
    assert len(scored) == sum(trial.state != "failed" for trial in trials)
    assert all(score == trial.rungs[8] for trial, score in scored)
    whole, size = comparable_scores([t for t in trials if t.state == "complete"])
    assert size is None
    assert all(trial.values == (score,) for trial, score in whole)
    _, size = comparable_scores(make_study(30, 2), 1)
    assert size is None


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("num_objectives", [1, 2])
def test_what_matters_comes_first_and_always_alike(sampler: str, num_objectives: int) -> None:
    scored, _ = comparable_scores(make_study(60, num_objectives, sampler))
    found = importances(scored, SPACE, "maximize")
    # Both matter about as much in this study; nothing else comes near.
    assert set(list(found)[:2]) == {
        "association.memo_tracklet_frames",
        "association.match_score_thr",
    }
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["association.memo_backdrop_frames"] < 0.05
    assert importances(scored[::-1], SPACE, "maximize") == found


def test_too_few_or_equal_scores_tell_nothing() -> None:
    scored, _ = comparable_scores(make_study(60))
    assert importances(scored[:MIN_TRIALS], SPACE, "maximize")
    assert importances(scored[: MIN_TRIALS - 1], SPACE, "maximize") == {}
    even = [Scored(trial, 7.0) for trial, _ in scored]
    assert importances(even, SPACE, "maximize") == {}
    assert importances([], SPACE, "maximize") == {}


def test_a_recipe_outside_of_the_space_is_left_out() -> None:
    scored, _ = comparable_scores(make_study(60))
    own = replace(
        scored[0].trial,
        settings={
            "association.match_score_thr": 0.95,
            **{
                path: value
                for path, value in scored[0].trial.settings.items()
                if path != "association.match_score_thr"
            },
        },
    )
    space = {**SPACE, "association.match_score_thr": Interval(0.1, 0.9)}
    assert importances([Scored(own, -1e6), *scored[1:]], space, "maximize") == importances(
        scored[1:], space, "maximize"
    )
