"""A batch of trials without processes: rungs, failures, and what of it enters the study."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from models.qdtrack.association import TrackerConfig
from pipeline.associate import build_tracker
from pipeline.evaluate import EvaluationConfig, build_protocol
from pipeline.search.batch import Plan, run_batch
from pipeline.search.proposals import Proposal
from pipeline.search.study import FinishedTrial
from pipeline.search.trial import Replayed, ReplayTask, load_sequence, replay_sequence
from pipeline.search.workers import DROPPED, Outcome
from tests.sweep_scene import Stored

PROTOCOL = build_protocol(EvaluationConfig())
PATH = "association.match_score_thr"


class Inline:
    """Does tasks here and now, in whatever order; `spoil` may change what becomes of one."""

    def __init__(self, spoil: Callable[[Any, dict[str, Replayed]], Any] | None = None) -> None:
        self.spoil = spoil
        self.done: list[Any] = []
        self._dropped: set[Any] = set()

    def run(
        self, tasks: Mapping[Any, ReplayTask], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[Outcome]:
        if meanwhile is not None:
            meanwhile()
        for key, task in reversed(tasks.items()):
            if key in self._dropped:
                yield Outcome(key, None, DROPPED)
                continue
            self.done.append(key)
            try:
                value = {
                    name: replay_sequence(task.protocol, build_tracker(task.association), sequence)
                    for name, sequence in task.sequences
                }
                yield Outcome(key, self.spoil(key, value) if self.spoil else value, None)
            except ValueError as error:
                yield Outcome(key, None, f"ValueError: {error}")

    def drop(self, keys: Sequence[Any]) -> None:
        self._dropped |= set(keys)


@pytest.fixture(scope="module")
def plan(make_store: Callable[..., Stored]) -> Plan:
    stored = make_store(12)
    tracker = build_tracker(TrackerConfig())
    names = stored.detections.sequences()
    sequences = {
        name: load_sequence((stored.frames.part(name), stored.detections.part(name)), tracker)
        for name in names
    }
    return Plan(
        protocol=PROTOCOL,
        objectives=("mMOTA",),
        order=names,
        rungs=(4, 12),
        references=sequences,
        num_frames=dict.fromkeys(names, 900),
    )


def make_trials(numbers: Sequence[int]) -> dict[int, Any]:
    """Trials whose threshold rises with their number: the higher, the fewer matches."""
    trials = {}
    for number in numbers:
        config = TrackerConfig(
            init_score_thr=0.5, obj_score_thr=0.3, match_score_thr=0.2 + 0.07 * number
        )
        trials[number] = (Proposal({PATH: config.match_score_thr}, {"state": number}), config)
    return trials


def test_without_rungs_every_trial_sees_all_sequences(plan: Plan) -> None:
    pool = Inline()
    trials = run_batch(pool, replace(plan, rungs=(12,)), make_trials([1, 2, 3]), [])
    assert [trial.number for trial in trials] == [1, 2, 3]
    assert {trial.state for trial in trials} == {"complete"}
    assert all(trial.values == (trial.metrics["mMOTA"],) for trial in trials)
    assert all(list(trial.rungs) == [12] for trial in trials)
    assert trials[0].held["match_score_thr"] == trials[0].settings[PATH]
    assert trials[1].sampler_state == {"state": 2}
    assert len(pool.done) == len(set(pool.done)) == 3 * 6  # blocks of two sequences


def test_the_best_third_goes_on_and_the_rest_is_pruned(plan: Plan) -> None:
    complete = run_batch(Inline(), replace(plan, rungs=(12,)), make_trials(range(1, 7)), [])
    trials = run_batch(Inline(), plan, make_trials(range(1, 7)), [])
    early = {trial.number: trial.rungs[4] for trial in trials}
    best = sorted(early, key=early.__getitem__, reverse=True)[:2]
    for trial, whole in zip(trials, complete, strict=True):
        if trial.number in best:
            assert (trial.state, trial.values) == ("complete", whole.values)
        else:
            assert (trial.state, trial.values) == ("pruned", None)
            assert list(trial.rungs) == [4]


def test_the_recipe_s_own_setting_is_never_pruned(plan: Plan) -> None:
    better = FinishedTrial(number=9, state="complete", settings={}, rungs={4: 99.0, 12: 99.0})
    [own] = run_batch(Inline(), plan, make_trials([0]), [better] * 5)
    assert own.state == "complete"
    [other] = run_batch(Inline(), plan, make_trials([1]), [better] * 5)
    assert other.state == "pruned"


def test_a_batch_cut_in_two_ends_as_the_whole_one(plan: Plan) -> None:
    before = run_batch(Inline(), plan, make_trials([0]), [])
    whole = run_batch(Inline(), plan, make_trials(range(1, 9)), before)
    rest = run_batch(Inline(), plan, make_trials([6, 7, 8]), before, whole[:5])

    def without_time(trials: list[FinishedTrial]) -> list[FinishedTrial]:
        return [replace(trial, seconds=0.0) for trial in trials]

    assert without_time(whole[:5] + rest) == without_time(whole)


def test_a_task_that_fails_fails_its_trial_alone_and_what_is_left_of_it_is_dropped(
    plan: Plan,
) -> None:
    def spoil(key: Any, value: dict[str, Replayed]) -> dict[str, Replayed]:
        if key[0] == 2:
            raise ValueError("sequence 's11': no")
        return value

    pool = Inline(spoil)
    one_rung = replace(plan, rungs=(12,))
    trials = run_batch(pool, one_rung, make_trials([1, 2, 3]), [])
    assert [trial.state for trial in trials] == ["complete", "failed", "complete"]
    assert trials[1].reason == "ValueError: sequence 's11': no"
    assert trials[1].values is None
    assert sum(key[0] == 2 for key in pool.done) == 1


def test_a_tracker_that_holds_other_settings_fails_its_trial(plan: Plan) -> None:
    def spoil(key: Any, value: dict[str, Replayed]) -> dict[str, Replayed]:
        return {
            name: replace(replayed, settings={**replayed.settings, "match_score_thr": 0.5})
            for name, replayed in value.items()
        }

    [trial] = run_batch(Inline(spoil), plan, make_trials([1]), [])
    assert trial.state == "failed"
    assert "did not hold the sampled settings: match_score_thr is 0.5 in place of" in trial.reason


def test_a_metric_without_a_value_fails_the_trial(plan: Plan) -> None:
    from datasets.schema import Annotations, SequenceTruth

    empty = {
        name: replace(
            sequence,
            truth=SequenceTruth(
                name=name,
                frame_names=sequence.truth.frame_names,
                annotations=Annotations.empty(),
            ),
        )
        for name, sequence in plan.references.items()
    }
    nothing = replace(plan, references=empty, objectives=("MOTA",))
    [trial] = run_batch(Inline(), nothing, make_trials([1]), [])
    assert trial.state == "failed"
    assert trial.reason == "MOTA has no finite value on 12 sequences (-inf)"


def test_counts_are_made_smaller(plan: Plan) -> None:
    fewer = replace(plan, objectives=("IDSw",))
    trials = run_batch(Inline(), fewer, make_trials(range(1, 7)), [])
    early = {trial.number: trial.rungs[4] for trial in trials}
    limit = sorted(early.values())[1]
    for trial in trials:
        assert (trial.state == "complete") == (early[trial.number] <= limit)
