"""Suites whose rows would be one are refused; the run of a suite is in tests/jobs."""

from dataclasses import replace

import pytest

from models.baselines.motion import SortConfig
from pipeline.benchmark import check_rows_differ
from pipeline.recipes import RECIPES, find_recipe
from pipeline.recipes.suites import SUITES, find_suite
from pipeline.suites import OWN_TRACKER, DataSet, NamedTracker, Suite, Weights

SYNTHETIC, REAL = "qdtrack_frcnn_r18_synthetic", "qdtrack_frcnn_r50_bdd100k"
SORT = NamedTracker(name="SORT", association=SortConfig())
AGAIN = NamedTracker(name="SORT again", association=SortConfig())
EAGER = NamedTracker(name="eager", association=SortConfig(init_score_thr=0.1))
LIKE_REAL = NamedTracker(name="like real", association=find_recipe(REAL).association)


def suite(weights: tuple[Weights, ...], *trackers: NamedTracker) -> Suite:
    return Suite(name="s", data=(DataSet(data_root="/raw"),), weights=weights, trackers=trackers)


@pytest.mark.parametrize(
    ("weights", "trackers", "first", "second"),
    [
        (
            (Weights(recipe=SYNTHETIC),),
            (OWN_TRACKER, SORT, EAGER, AGAIN),
            f"tracker 'SORT' with weights '{SYNTHETIC}'",
            f"tracker 'SORT again' with weights '{SYNTHETIC}'",
        ),
        (
            (Weights(recipe=SYNTHETIC), Weights(recipe=REAL, name="real")),
            (LIKE_REAL, OWN_TRACKER),
            "tracker 'like real' with weights 'real'",
            "tracker 'own' with weights 'real'",
        ),
        (
            (Weights(recipe=REAL, file="/w/a", name="A"), Weights(recipe=REAL, file="/w/b/../a")),
            (SORT,),
            "tracker 'SORT' with weights 'A'",
            f"tracker 'SORT' with weights '{REAL}'",
        ),
        (
            (Weights(recipe=REAL), Weights(recipe=REAL, name="B")),
            (OWN_TRACKER,),
            f"tracker 'own' with weights '{REAL}'",
            "tracker 'own' with weights 'B'",
        ),
    ],
    ids=["two of one kind", "the own one of some weights", "one file by two paths", "one recipe"],
)
def test_what_would_be_one_row_is_refused(
    weights: tuple[Weights, ...], trackers: tuple[NamedTracker, ...], first: str, second: str
) -> None:
    with pytest.raises(ValueError, match="are one row of the leaderboard") as caught:
        check_rows_differ(suite(weights, *trackers))
    assert str(caught.value).startswith(f"{first} and {second} are one row")


@pytest.mark.parametrize(
    ("weights", "trackers"),
    [
        ((Weights(recipe=SYNTHETIC), Weights(recipe=REAL)), (OWN_TRACKER, SORT, EAGER)),
        ((Weights(recipe=SYNTHETIC),), (OWN_TRACKER, LIKE_REAL)),
        ((Weights(recipe=REAL, file="/a"), Weights(recipe=REAL, file="/b", name="B")), (SORT,)),
    ],
    ids=["other settings", "the own one of another recipe", "other files"],
)
def test_what_makes_a_row_of_its_own_is_taken(
    weights: tuple[Weights, ...], trackers: tuple[NamedTracker, ...]
) -> None:
    check_rows_differ(suite(weights, *trackers))


def test_one_network_may_run_in_two_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes that store other detections of the same file have rows of their own."""
    real = find_recipe(REAL)
    halved = replace(real, infer=replace(real.infer, half_embeddings=True))
    monkeypatch.setitem(RECIPES, "halved", lambda: halved)
    weights = (Weights(recipe=REAL, file="/a"), Weights(recipe="halved", file="/a"))
    check_rows_differ(suite(weights, SORT))


@pytest.mark.parametrize("name", SUITES)
def test_the_named_suites_have_no_such_rows(name: str) -> None:
    check_rows_differ(find_suite(name, "/raw", "/w.safetensors"))
