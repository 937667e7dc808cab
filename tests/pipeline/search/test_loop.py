"""A whole search without processes: failures, interruptions, more trials, MLflow that is away."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ExperimentConfig
from pipeline.evaluate import build_protocol
from pipeline.recipes import find_recipe
from pipeline.search import study as study_module
from pipeline.search.data import SweepData, summarise
from pipeline.search.loop import Search, SweepError
from pipeline.search.options import SweepOptions, SweepPlaces
from pipeline.search.record import SweepRecord
from pipeline.search.space import default_space
from pipeline.search.study import FinishedTrial, Study
from pipeline.search.trial import Replayed
from tests.inline_pool import InlinePool, Sequences, Spoil

CONFIG: ExperimentConfig = find_recipe("qdtrack_frcnn_r18_synthetic")
PROTOCOL = build_protocol(CONFIG.evaluation)


@dataclass
class Desk:
    """Runs searches over the same study, as a person does who calls a job again and again."""

    sequences: Sequences
    folder: Path
    tracking_uri: str
    said: list[str]

    def search(self, pool: InlinePool, num_trials: int = 10, **more: Any) -> list[FinishedTrial]:
        """The study after one run of the search."""
        options = SweepOptions(
            space=default_space(CONFIG), num_trials=num_trials, batch_size=4, **more
        )
        with self.study(options) as study:
            places = SweepPlaces(
                storage=study.storage,
                study_name=study.name,
                resume=True,
                root=str(self.folder),
                tracking_uri=self.tracking_uri,
            )
            with SweepRecord(CONFIG, {}, options, places, study) as record:
                search = Search(CONFIG, options, study, record, self.said.append)
                summaries = {
                    name: summarise(sequence, len(PROTOCOL.classes))
                    for name, sequence in self.sequences.items()
                }
                data = SweepData(references={}, summaries=summaries)
                search.run(pool, data, PROTOCOL)  # type: ignore[arg-type]
            return self.trials(study)

    @contextmanager
    def study(self, options: SweepOptions) -> Iterator[Study]:
        path = self.folder / "study.db"
        yield Study(
            f"sqlite:///{path}",
            "desk",
            {"seed": options.seed},
            options.space,
            options.directions,
            resume=path.exists(),
        )

    @staticmethod
    def trials(study: Study) -> list[FinishedTrial]:
        return [replace(trial, seconds=0.0) for trial in study.trials()]

    def stored(self) -> list[FinishedTrial]:
        with self.study(SweepOptions(space=default_space(CONFIG))) as study:
            return self.trials(study)

    def statuses(self) -> list[str]:
        """Of the sweep's own runs in MLflow."""
        return [run.info.status for run in self._search("tags.kind = 'sweep'")]

    def runs(self) -> dict[str, str]:
        """Name and status of every run of a trial in MLflow; none may be there twice."""
        runs = self._search("tags.kind = 'trial'")
        names = [run.info.run_name for run in runs]
        assert len(names) == len(set(names))
        return {run.info.run_name: run.info.status for run in runs}

    def _search(self, condition: str) -> list[Any]:
        from mlflow import MlflowClient

        client = MlflowClient(self.tracking_uri)
        [experiment] = client.search_experiments(filter_string="name = 'quasar'")
        return list(client.search_runs([experiment.experiment_id], condition))


@pytest.fixture
def desk(sequences: Sequences, tmp_path: Path, make_mlflow_database: Callable[[Path], str]) -> Desk:
    return Desk(sequences, tmp_path, make_mlflow_database(tmp_path), [])


@pytest.fixture
def make_pool(sequences: Sequences) -> Callable[..., InlinePool]:
    def make(spoil: Spoil | None = None) -> InlinePool:
        return InlinePool(PROTOCOL, sequences, spoil)

    return make


def fail(*numbers: int) -> Spoil:
    def spoil(key: Any, value: dict[str, Replayed]) -> dict[str, Replayed]:
        if key[0] in numbers:
            raise ValueError(f"trial {key[0]} is no good")
        return value

    return spoil


def test_failed_trials_are_kept_counted_and_told(
    desk: Desk, make_pool: Callable[..., InlinePool]
) -> None:
    trials = desk.search(make_pool(fail(3, 6)))
    assert [trial.number for trial in trials if trial.state == "failed"] == [3, 6]
    assert trials[3].reason == "ValueError: trial 3 is no good"
    assert desk.runs()["trial 3"] == "FAILED"
    assert "2 of 10 trials failed; the page and the table say why" in desk.said


def test_too_many_failures_stop_the_search_and_a_higher_share_goes_on(
    desk: Desk, make_pool: Callable[..., InlinePool]
) -> None:
    with pytest.raises(SweepError, match=r"3 of 5 trials failed, more than 20% of 10; .*trial 4 "):
        desk.search(make_pool(fail(1, 2, 4)))
    before = desk.stored()
    assert [trial.number for trial in before] == [0, 1, 2, 3, 4]
    after = desk.search(make_pool(), max_failed_share=0.3)
    assert after[:5] == before
    assert len(after) == len(desk.runs()) == 10


def test_a_recipe_that_fails_is_one_error_and_leaves_no_trial(
    desk: Desk, make_pool: Callable[..., InlinePool]
) -> None:
    message = "own setting cannot be scored: ValueError: trial 0 is no good"
    with pytest.raises(SweepError, match=message):
        desk.search(make_pool(fail(0)))
    assert desk.stored() == []
    assert desk.statuses() == ["FAILED"]
    assert desk.search(make_pool())[0].state == "complete"


def test_a_search_can_be_made_longer(desk: Desk, make_pool: Callable[..., InlinePool]) -> None:
    first = desk.search(make_pool(), num_trials=5)
    longer = desk.search(make_pool(), num_trials=9)
    assert longer[:5] == first
    assert [trial.number for trial in longer] == list(range(9))
    assert len(desk.runs()) == 9
    pool = make_pool()
    assert desk.search(pool, num_trials=9) == longer
    assert pool.done == []


def test_what_was_finished_is_stored_when_the_next_batch_is_cut_off(
    desk: Desk, make_pool: Callable[..., InlinePool]
) -> None:
    class CutOff(InlinePool):
        def run(self, tasks: Any, meanwhile: Any = None) -> Any:
            if any(key[0] == 5 for key in tasks):
                raise KeyboardInterrupt  # before anybody could write
            return super().run(tasks, meanwhile)

    with pytest.raises(KeyboardInterrupt):
        desk.search(CutOff(PROTOCOL, desk.sequences))
    assert desk.statuses() == ["KILLED"]
    before = desk.stored()
    assert [trial.number for trial in before] == [0, 1, 2, 3, 4]
    assert desk.search(make_pool())[:5] == before


def test_an_interruption_between_two_trials_of_a_batch_leaves_a_study_that_goes_on(
    desk: Desk, make_pool: Callable[..., InlinePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze = study_module._freeze

    def interrupt(trial: FinishedTrial, *more: Any) -> Any:
        if trial.number == 3:
            raise KeyboardInterrupt
        return freeze(trial, *more)

    with monkeypatch.context() as patch:
        patch.setattr(study_module, "_freeze", interrupt)
        with pytest.raises(KeyboardInterrupt):
            desk.search(make_pool())
    before = desk.stored()
    assert [trial.number for trial in before] == [0, 1, 2]
    after = desk.search(make_pool())
    assert after[:3] == before
    assert "3 trials are in the study already" in desk.said
    assert len(desk.runs()) == len(after) == 10
    assert desk.statuses() == ["FINISHED"]


def test_a_new_study_of_an_old_name_gets_a_run_of_its_own(
    desk: Desk, make_pool: Callable[..., InlinePool]
) -> None:
    desk.search(make_pool(), num_trials=1)
    (desk.folder / "study.db").unlink()
    desk.search(make_pool(), num_trials=1)
    assert desk.statuses() == ["FINISHED", "FINISHED"]


@pytest.mark.slow
def test_trials_wait_while_the_database_of_runs_is_locked(
    desk: Desk, make_pool: Callable[..., InlinePool], caplog: pytest.LogCaptureFixture
) -> None:
    held: list[sqlite3.Connection] = []

    def lock_for_a_batch(key: Any, value: dict[str, Replayed]) -> dict[str, Replayed]:
        if key[0] == 1 and not held:  # while the first batch is scored
            held.append(sqlite3.connect(desk.folder / "mlflow.db"))
            held[0].execute("BEGIN EXCLUSIVE")
        if key[0] == 5:
            held[0].close()
        return value

    trials = desk.search(make_pool(lock_for_a_batch))
    assert "trials wait for MLflow" in caplog.text
    assert len(trials) == len(desk.runs()) == 10
