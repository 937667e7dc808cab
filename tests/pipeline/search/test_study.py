"""Study and proposals: whole trials, told apart from everything else, and the same after a stop."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from models.search_space import Choices, Dimension, Interval
from pipeline.search.proposals import (
    SAMPLERS,
    can_prune,
    check_sampler,
    describe_limits,
    propose,
)
from pipeline.search.study import FinishedTrial, Study, StudyError, resolve_storage

SPACE: dict[str, Dimension] = {
    "association.match_score_thr": Interval(0.1, 0.9),
    "association.memo_tracklet_frames": Interval(1, 60, log=True),
    "association.init_score_thr": Interval(0.3, 0.9, step=0.1),
    "association.with_cats": Choices((True, False)),
}
OWN = {
    "association.match_score_thr": 0.5,
    "association.memo_tracklet_frames": 10,
    "association.init_score_thr": 0.7,
    "association.with_cats": True,
}
BATCH = 4


def _score(settings: dict[str, Any]) -> float:
    distance = abs(settings["association.match_score_thr"] - 0.33)
    return 50.0 - 20.0 * distance - 0.1 * settings["association.memo_tracklet_frames"]


def _finish(number: int, proposal: Any, num_objectives: int) -> FinishedTrial:
    value = _score(proposal.settings)
    base = FinishedTrial(
        number=number,
        state="complete",
        settings=proposal.settings,
        sampler_state=proposal.sampler_state,
        rungs={4: value - 1, 12: value},
        seconds=1.5,
    )
    if number % 5 == 3:
        return replace(base, state="failed", reason="the tracker did not hold it", rungs={})
    if number % 3 == 2 and num_objectives == 1:
        return replace(base, state="pruned", rungs={4: value - 1})
    return replace(base, values=(value, 100.0 - value)[:num_objectives])


def _search(count: int, sampler: str, history: list[FinishedTrial], num: int = 1) -> None:
    """Go on from any number of finished trials, in batches that begin at 1, 5, 9 ..."""
    directions = ["maximize", "minimize"][:num]
    if not history:
        history.append(
            FinishedTrial(number=0, state="complete", settings=OWN, values=(30.0, 70.0)[:num])
        )
    while len(history) < count:
        first = 1 + (len(history) - 1) // BATCH * BATCH
        numbers = range(first, first + BATCH)
        proposals = propose(numbers, history[:first], SPACE, directions, sampler=sampler, seed=7)
        done = dict(zip(numbers, proposals, strict=False))
        for number in numbers[len(history) - first :]:
            history.append(_finish(number, done[number], num))


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s != "gp"])
def test_a_search_that_goes_on_proposes_what_it_would_have_proposed(sampler: str) -> None:
    whole: list[FinishedTrial] = []
    _search(25, sampler, whole)
    for stopped_after in (1, 6, 9, 14):
        history = whole[:stopped_after]
        _search(25, sampler, history)
        assert history == whole
    settings = [tuple(trial.settings.values()) for trial in whole]
    assert len(set(settings)) > 20  # and not the same again and again
    for trial in whole:
        assert 0.1 <= trial.settings["association.match_score_thr"] <= 0.9
        assert type(trial.settings["association.memo_tracklet_frames"]) is int
        assert type(trial.settings["association.with_cats"]) is bool


@pytest.mark.slow
def test_the_gaussian_process_goes_on_likewise() -> None:
    whole: list[FinishedTrial] = []
    _search(13, "gp", whole)
    history = whole[:7]
    _search(13, "gp", history)
    assert history == whole


def test_tpe_finds_better_settings_than_it_starts_with() -> None:
    history: list[FinishedTrial] = []
    _search(81, "tpe", history)
    early = [_score(dict(trial.settings)) for trial in history[1:21]]
    late = [_score(dict(trial.settings)) for trial in history[61:]]
    assert sum(late) / 20 > sum(early) / 20 + 1.0


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "nsga3", "qmc", "grid"])
def test_several_objectives(sampler: str) -> None:
    check_sampler(sampler, 2)
    history: list[FinishedTrial] = []
    _search(17, sampler, history, num=2)
    resumed = history[:7]
    _search(17, sampler, resumed, num=2)
    assert resumed == history


def test_another_seed_is_another_search() -> None:
    base = [FinishedTrial(number=0, state="complete", settings=OWN, values=(1.0,))]
    first, second = (
        propose([1, 2], base, SPACE, ["maximize"], sampler="random", seed=seed) for seed in (1, 2)
    )
    assert first != second


def test_a_grid_ends_and_a_recipe_outside_of_the_space_does_no_harm() -> None:
    space: dict[str, Dimension] = {"association.match_score_thr": Interval(0.6, 0.8, step=0.1)}
    own = FinishedTrial(
        number=0,
        state="complete",
        settings={"association.match_score_thr": 0.5},
        values=(1.0,),
    )
    found = propose([1, 2, 3, 4, 5], [own], space, ["maximize"], sampler="grid", seed=0)
    assert sorted(p.settings["association.match_score_thr"] for p in found) == [0.6, 0.7, 0.8]
    [proposal] = propose([1], [own], space, ["maximize"], sampler="tpe", seed=0)
    assert proposal.settings["association.match_score_thr"] in (0.6, 0.7, 0.8)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_failed_trial_is_worse_than_all_others(sampler: str) -> None:
    """Also than those that were pruned: the search must not go where trials fail."""
    path = "association.match_score_thr"
    space: dict[str, Dimension] = {path: Interval(0.0, 1.0)}
    is_pruned = can_prune(sampler)

    def make_trial(number: int) -> FinishedTrial:
        value = number % 30 / 30
        if 0.7 < value < 0.9:
            return FinishedTrial(number=number, state="failed", settings={path: value}, reason="x")
        score = 50.0 - 10 * abs(value - 0.2)
        if is_pruned and number:
            settings, rungs = {path: value}, {4: score}
            return FinishedTrial(number=number, state="pruned", settings=settings, rungs=rungs)
        return FinishedTrial(
            number=number, state="complete", settings={path: value}, values=(score,)
        )

    history = [make_trial(number) for number in range(61)]
    found = propose(range(61, 69), history, space, ["maximize"], sampler=sampler, seed=0)
    assert sum(0.7 < proposal.settings[path] < 0.9 for proposal in found) <= 1
    assert sum(proposal.settings[path] < 0.4 for proposal in found) >= 4


def test_what_a_sampler_cannot_do_is_said() -> None:
    space: dict[str, Dimension] = {
        "association.match_score_thr": Interval(0.6, 0.8),
        "association.with_cats": Choices((True, False)),
    }
    own = {"association.match_score_thr": 0.5, "association.with_cats": True}
    inside = {**own, "association.match_score_thr": 0.7}
    assert describe_limits("tpe", space, inside) == []
    assert describe_limits("random", space, own) == []
    [outside] = describe_limits("tpe", space, own)
    assert "match_score_thr=0.5 lies outside" in outside
    [choices] = describe_limits("cmaes", space, inside)
    assert "at random: association.with_cats" in choices


@pytest.mark.parametrize(
    ("name", "num_objectives", "message"),
    [("tqe", 1, "known: tpe, random"), ("cmaes", 2, "takes one --metric only")],
)
def test_samplers_that_cannot_do_it_are_refused(
    name: str, num_objectives: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_sampler(name, num_objectives)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sweeps.db'}"


@pytest.fixture
def open_study(storage: str) -> Callable[..., Study]:
    def make(*, resume: bool = False, name: str = "bdd", **changes: Any) -> Study:
        definition = {"space": {"a": "0:1"}, "seed": 0, **changes}
        return Study(storage, name, definition, SPACE, ["maximize"], resume=resume)

    return make


def _trials() -> list[FinishedTrial]:
    history: list[FinishedTrial] = []
    _search(9, "cmaes", history)
    return [replace(trial, metrics={"mMOTA": 1.0, "MOTP": None}) for trial in history]


def test_a_study_gives_back_what_it_was_given(open_study: Callable[..., Study]) -> None:
    trials = _trials()
    assert {trial.state for trial in trials} == {"complete", "pruned", "failed"}
    open_study().add(trials)
    again = open_study(resume=True)
    assert again.trials() == trials


def test_optuna_itself_reads_the_study(open_study: Callable[..., Study], storage: str) -> None:
    open_study().add(_trials())
    study = optuna.load_study(study_name="bdd", storage=storage)
    assert [trial.number for trial in study.trials] == list(range(9))
    states = [trial.state.name for trial in study.trials]
    expected = "COMPLETE COMPLETE PRUNED FAIL COMPLETE PRUNED COMPLETE COMPLETE FAIL"
    assert " ".join(states) == expected
    assert study.trials[3].user_attrs["reason"] == "the tracker did not hold it"
    assert study.trials[0].params == OWN
    assert study.trials[1].duration.total_seconds() == pytest.approx(1.5)
    assert study.best_value == max(t.value for t in study.trials if t.value is not None)


def test_nan_in_metrics_is_kept_as_no_value(open_study: Callable[..., Study]) -> None:
    trial = FinishedTrial(
        number=0, state="failed", settings=OWN, metrics={"IDF1": float("nan")}, reason="NaN"
    )
    study = open_study()
    study.add([trial])
    assert study.trials()[0].metrics == {"IDF1": None}


def test_nothing_starts_afresh_and_nothing_goes_on_silently(
    open_study: Callable[..., Study],
) -> None:
    with pytest.raises(StudyError, match=r"no study 'bdd' to resume \(studies there: none\)"):
        open_study(resume=True)
    open_study().add(_trials()[:1])
    with pytest.raises(StudyError, match="is there already; go on with --resume"):
        open_study()
    with pytest.raises(StudyError, match=r"no study 'other' to resume \(studies there: bdd\)"):
        open_study(resume=True, name="other")


def test_a_study_of_another_space_is_refused_with_what_differs(
    open_study: Callable[..., Study],
) -> None:
    open_study().add(_trials()[:1])
    with pytest.raises(
        StudyError, match=re.escape('space was {"a": "0:1"}, is {"a": "0:2"}')
    ) as caught:
        open_study(resume=True, space={"a": "0:2"})
    assert "seed" not in str(caught.value)


def test_a_study_without_a_trial_can_be_begun_again_otherwise(
    open_study: Callable[..., Study],
) -> None:
    """A sweep that ended by wrong input left an empty study, which refused the right input."""
    open_study()
    again = open_study(space={"a": "0:2"})
    again.add(_trials()[:1])
    assert len(open_study(resume=True, space={"a": "0:2"}).trials()) == 1


def test_the_order_in_which_paths_are_named_changes_no_proposal() -> None:
    own = FinishedTrial(number=0, state="complete", settings=OWN, values=(1.0,))
    backwards = dict(reversed(SPACE.items()))
    for sampler in ("tpe", "random", "grid", "qmc"):
        first, second = (
            propose([1, 2, 3], [own], space, ["maximize"], sampler=sampler, seed=0)
            for space in (SPACE, backwards)
        )
        assert first == second


def test_two_writers_are_noticed(open_study: Callable[..., Study]) -> None:
    first, second = open_study(), open_study(resume=True)
    trials = _trials()
    first.add(trials[:1])
    with pytest.raises(StudyError, match="another process writes to it"):
        second.add(trials[:1])
    assert len(first.trials()) == 1


def test_a_locked_database_is_one_clear_error(
    open_study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.search.study._LOCK_TIMEOUT_S", 0.2)
    study = open_study()
    with closing(sqlite3.connect(tmp_path / "sweeps.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StudyError, match="database is locked"):
            open_study(resume=True)
        with pytest.raises(StudyError, match="end the program that locks it"):
            study.add(_trials()[:1])
    study.add(_trials()[:1])
    assert len(study.trials()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"this is no database at all, but text" * 20, "not a database"), (None, "something else")],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, storage: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / "sweeps.db"
    if content is not None:
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE experiments (name TEXT)")
    with pytest.raises(StudyError, match=message) as caught:
        Study(storage, "bdd", {}, SPACE, ["maximize"], resume=False)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sqlite:///sweeps.db", "relative to the working directory"),
        ("sqlite://", "relative to the working directory"),
        ("sweeps.db", "no address of a database"),
    ],
)
def test_addresses_that_a_job_would_lose_are_refused(option: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        resolve_storage(option, "/root")


def test_databases_that_cannot_be_reached_are_one_line_without_the_password() -> None:
    with pytest.raises(StudyError, match="cannot be used") as caught:
        Study(
            "postgresql://me:secret@127.0.0.1:1/sweeps", "a", {}, SPACE, ["maximize"], resume=False
        )
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_default_lies_under_a_local_root(tmp_path: Path) -> None:
    assert resolve_storage(None, str(tmp_path)) == f"sqlite:///{tmp_path}/sweeps.db"
    assert resolve_storage(None, "s3://bucket/root").endswith("/quasar/sweeps.db")
    url = "postgresql://me@host/sweeps"
    assert resolve_storage(url, "/root") == url
