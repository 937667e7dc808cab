"""A batch of trials without processes: rungs, failures, and what of it enters the study."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from datasets.schema import Annotations
from models.config_io import config_to_dict
from models.qdtrack.association import TrackerConfig
from pipeline.evaluate import EvaluationConfig, build_protocol
from pipeline.search.batch import Plan, check_settings, run_batch
from pipeline.search.proposals import Proposal
from pipeline.search.study import FinishedTrial
from pipeline.search.trial import Replayed
from tests.inline_pool import InlinePool, Sequences

PROTOCOL = build_protocol(EvaluationConfig())
PATH = "association.match_score_thr"


@pytest.fixture(scope="module")
def plan(sequences: Sequences) -> Plan:
    return Plan(
        protocol=PROTOCOL,
        objectives=("mMOTA",),
        order=list(sequences),
        rungs=(4, 12),
        num_frames=dict.fromkeys(sequences, 900),
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


def test_without_rungs_every_trial_sees_all_sequences(plan: Plan, sequences: Sequences) -> None:
    pool = InlinePool(PROTOCOL, sequences)
    trials = run_batch(pool, replace(plan, rungs=(12,)), make_trials([1, 2, 3]), [])
    assert [trial.number for trial in trials] == [1, 2, 3]
    assert {trial.state for trial in trials} == {"complete"}
    assert all(trial.values == (trial.metrics["mMOTA"],) for trial in trials)
    assert all(list(trial.rungs) == [12] for trial in trials)
    assert trials[0].held["match_score_thr"] == trials[0].settings[PATH]
    assert trials[1].sampler_state == {"state": 2}
    assert len(pool.done) == len(set(pool.done)) == 3 * 6  # blocks of two sequences


def test_the_best_third_goes_on_and_the_rest_is_pruned(plan: Plan, sequences: Sequences) -> None:
    complete = run_batch(
        InlinePool(PROTOCOL, sequences), replace(plan, rungs=(12,)), make_trials(range(1, 7)), []
    )
    trials = run_batch(InlinePool(PROTOCOL, sequences), plan, make_trials(range(1, 7)), [])
    early = {trial.number: trial.rungs[4] for trial in trials}
    best = sorted(early, key=early.__getitem__, reverse=True)[:2]
    for trial, whole in zip(trials, complete, strict=True):
        if trial.number in best:
            assert (trial.state, trial.values) == ("complete", whole.values)
        else:
            assert (trial.state, trial.values) == ("pruned", None)
            assert list(trial.rungs) == [4]


def test_the_recipe_s_own_setting_is_never_pruned(plan: Plan, sequences: Sequences) -> None:
    better = FinishedTrial(number=9, state="complete", settings={}, rungs={4: 99.0, 12: 99.0})
    [own] = run_batch(InlinePool(PROTOCOL, sequences), plan, make_trials([0]), [better] * 5)
    assert own.state == "complete"
    [other] = run_batch(InlinePool(PROTOCOL, sequences), plan, make_trials([1]), [better] * 5)
    assert other.state == "pruned"


def test_a_batch_cut_in_two_ends_as_the_whole_one(plan: Plan, sequences: Sequences) -> None:
    before = run_batch(InlinePool(PROTOCOL, sequences), plan, make_trials([0]), [])
    whole = run_batch(InlinePool(PROTOCOL, sequences), plan, make_trials(range(1, 9)), before)
    rest = run_batch(
        InlinePool(PROTOCOL, sequences), plan, make_trials([6, 7, 8]), before, whole[:5]
    )

    def without_time(trials: list[FinishedTrial]) -> list[FinishedTrial]:
        return [replace(trial, seconds=0.0) for trial in trials]

    assert without_time(whole[:5] + rest) == without_time(whole)


def test_a_task_that_fails_fails_its_trial_alone_and_what_is_left_of_it_is_dropped(
    plan: Plan,
    sequences: Sequences,
) -> None:
    def spoil(key: Any, value: dict[str, Replayed]) -> dict[str, Replayed]:
        if key[0] == 2:
            raise ValueError("sequence 's11': no")
        return value

    pool = InlinePool(PROTOCOL, sequences, spoil)
    one_rung = replace(plan, rungs=(12,))
    trials = run_batch(pool, one_rung, make_trials([1, 2, 3]), [])
    assert [trial.state for trial in trials] == ["complete", "failed", "complete"]
    assert trials[1].reason == "ValueError: sequence 's11': no"
    assert trials[1].values is None
    assert sum(key[0] == 2 for key in pool.done) == 1


def test_a_tracker_that_holds_other_settings_fails_its_trial(
    plan: Plan, sequences: Sequences
) -> None:
    def spoil(key: Any, value: dict[str, Replayed]) -> dict[str, Replayed]:
        return {
            name: replace(replayed, settings={**replayed.settings, "match_score_thr": 0.5})
            for name, replayed in value.items()
        }

    [trial] = run_batch(InlinePool(PROTOCOL, sequences, spoil), plan, make_trials([1]), [])
    assert trial.state == "failed"
    assert "did not hold the sampled settings: match_score_thr is 0.5 in place of" in trial.reason


def test_settings_that_were_not_held_are_named() -> None:
    asked = config_to_dict(TrackerConfig(match_score_thr=0.6))
    check_settings(asked, dict(asked))
    with pytest.raises(ValueError, match=r"match_score_thr is 0\.5 in place of 0\.6"):
        check_settings(asked, {**asked, "match_score_thr": 0.5})
    with pytest.raises(ValueError, match="with_cats is None in place of True"):
        check_settings(asked, {k: v for k, v in asked.items() if k != "with_cats"})


def test_a_sampled_value_that_gets_lost_before_the_tracker_is_made_fails_the_trial(
    plan: Plan, sequences: Sequences
) -> None:
    config = TrackerConfig(match_score_thr=0.5)
    trials = {1: (Proposal({PATH: 0.6}, {}), config)}
    [trial] = run_batch(InlinePool(PROTOCOL, sequences), plan, trials, [])
    assert trial.state == "failed"
    assert "match_score_thr is 0.5 in place of 0.6" in trial.reason


def test_the_reason_of_a_failure_does_not_depend_on_the_order_of_the_workers(
    plan: Plan, sequences: Sequences
) -> None:
    """The first block in the order of sequences counts, though the last one is done first here."""

    def spoil(key: Any, value: dict[str, Replayed]) -> dict[str, Replayed]:
        raise ValueError(f"block {key[2]}")

    class Hasty(InlinePool):
        def drop(self, keys: Sequence[Any]) -> None:
            """All tasks have been begun."""

    [trial] = run_batch(
        Hasty(PROTOCOL, sequences, spoil), replace(plan, rungs=(12,)), make_trials([1]), []
    )
    assert trial.reason == "ValueError: block 0"


def test_a_metric_without_a_value_fails_the_trial(plan: Plan, sequences: Sequences) -> None:
    empty = {
        name: replace(
            sequence,
            truth=PROTOCOL.prepare_truth(
                replace(sequence.truth.source, annotations=Annotations.empty())
            ),
        )
        for name, sequence in sequences.items()
    }
    nothing = replace(plan, objectives=("MOTA",))
    [trial] = run_batch(InlinePool(PROTOCOL, empty), nothing, make_trials([1]), [])
    assert trial.state == "failed"
    assert trial.reason == "MOTA has no finite value on 12 sequences (-inf)"


def test_counts_are_made_smaller(plan: Plan, sequences: Sequences) -> None:
    fewer = replace(plan, objectives=("IDSw",))
    trials = run_batch(InlinePool(PROTOCOL, sequences), fewer, make_trials(range(1, 7)), [])
    early = {trial.number: trial.rungs[4] for trial in trials}
    limit = sorted(early.values())[1]
    for trial in trials:
        assert (trial.state == "complete") == (early[trial.number] <= limit)
