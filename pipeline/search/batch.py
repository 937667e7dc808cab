"""One batch of trials: scored rung by rung on the workers, told in the order of their numbers."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from models.config_io import config_to_dict
from pipeline.associate import AssociationConfig
from pipeline.evaluate import tabulate
from pipeline.leaderboard import headline_numbers, less_is_better
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.search.proposals import Proposal
from pipeline.search.rungs import promoted
from pipeline.search.space import SEARCHED
from pipeline.search.study import FinishedTrial
from pipeline.search.trial import ReplayData, Replayed, ReplayTask, SequenceFields
from pipeline.search.workers import DROPPED, Outcome, TunePool

ReplayPool = TunePool[ReplayData, ReplayTask, dict[str, Replayed]]
"""Workers that do `replay_task`."""

_TASKS_PER_RUNG: Final = 32
_FEWEST_FRAMES: Final = 500
_MOST_FRAMES: Final = 2000
"""Of a task, some tenths of a second: long beside a hand-over, short beside the end of a rung. In
between, a rung is cut into `_TASKS_PER_RUNG` tasks, however many workers there are."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all trials of a sweep have in common."""

    protocol: ScoringProtocol
    objectives: tuple[str, ...]
    """Headline metrics; the first one decides on the way."""
    order: Sequence[str]
    """Sequences in the order in which every trial sees them."""
    rungs: Sequence[int]
    """Numbers of sequences after which trials are compared; the last is all."""
    num_frames: Mapping[str, int]
    """By sequence."""


@dataclass(kw_only=True)
class _Running:
    """A trial that is not finished."""

    number: int
    proposal: Proposal
    association: AssociationConfig
    started: float = field(default_factory=time.monotonic)
    fields: dict[str, SequenceFields] = field(default_factory=dict)
    rungs: dict[int, float] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    held: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    is_pruned: bool = False

    @cached_property
    def asked(self) -> Mapping[str, Any]:
        """Settings that the tracker has to hold, by name: what was sampled comes last."""
        sampled = self.proposal.settings
        return {
            **config_to_dict(self.association),
            **{path.removeprefix(f"{SEARCHED}."): value for path, value in sampled.items()},
        }

    def finish(self, objectives: Sequence[str]) -> FinishedTrial:
        state: Any = "failed" if self.reason else "pruned" if self.is_pruned else "complete"
        values = None
        if state == "complete":
            values = tuple(float(self.metrics[name]) for name in objectives)
        return FinishedTrial(
            number=self.number,
            state=state,
            settings=self.proposal.settings,
            values=values,
            rungs=self.rungs,
            metrics=self.metrics,
            held=self.held,
            reason=self.reason,
            seconds=round(time.monotonic() - self.started, 3),
            sampler_state=self.proposal.sampler_state,
        )


def run_batch(
    pool: ReplayPool,
    plan: Plan,
    trials: Mapping[int, tuple[Proposal, AssociationConfig]],
    earlier: Sequence[FinishedTrial],
    mates: Sequence[FinishedTrial] = (),
    meanwhile: Callable[[], None] | None = None,
) -> list[FinishedTrial]:
    """Score the trials of a batch; a rung is decided when all of them have reached it.

    Args:
        pool: of workers that were given the data.
        plan: of the sweep.
        trials: by number, what is to be tried; number 0 is never stopped early.
        earlier: all trials of the batches before.
        mates: trials of the same batch that were finished before an interruption.
        meanwhile: something to do here while the workers have begun.

    Returns:
        The trials, finished, in order of their numbers.
    """
    running = [
        _Running(number=number, proposal=proposal, association=association)
        for number, (proposal, association) in sorted(trials.items())
    ]
    start = 0
    for size in plan.rungs:
        alive = [trial for trial in running if not (trial.reason or trial.is_pruned)]
        _score(pool, plan, alive, list(plan.order[start:size]), size, meanwhile)
        meanwhile = None
        alive = [trial for trial in alive if not trial.reason]
        for trial in alive:
            _compare(plan, trial, size)
        if size < len(plan.order):
            _prune(plan, alive, earlier, mates, size)
        start = size
    for trial in running:
        _check_objectives(plan, trial)
    return [trial.finish(plan.objectives) for trial in running]


def check_settings(asked: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """Refuse a trial whose tracker did not hold what was asked of it.

    Args:
        asked: all settings, by name.
        held: what the tracker says of itself, likewise.

    Raises:
        ValueError: names the settings that differ.
    """
    wrong = [
        f"{name} is {held.get(name)!r} in place of {asked.get(name)!r}"
        for name in sorted({*asked, *held})
        if held.get(name) != asked.get(name) or name not in held or name not in asked
    ]
    if wrong:
        raise ValueError(f"the tracker did not hold the sampled settings: {', '.join(wrong)}")


def headline(protocol: ScoringProtocol, fields: Mapping[str, SequenceFields]) -> dict[str, Any]:
    """All headline metrics over some sequences, by the combination of the full evaluation."""
    return headline_numbers(tabulate(protocol, protocol.combine_sequences(fields))[0])


def _score(
    pool: ReplayPool,
    plan: Plan,
    trials: list[_Running],
    names: list[str],
    size: int,
    meanwhile: Callable[[], None] | None,
) -> None:
    """Add to every trial what it achieves on some more sequences, or why it failed."""
    by_number = {trial.number: trial for trial in trials}
    tasks = {
        (trial.number, size, index): ReplayTask(trial.association, block)
        # Block by block, so that a trial that fails does so early.
        for index, block in enumerate(_blocks(names, plan.num_frames, len(trials)))
        for trial in trials
    }
    reasons: dict[int, dict[int, str]] = {}
    for outcome in pool.run(tasks, meanwhile):
        number, _, index = outcome.key
        reason = _take(by_number[number], outcome)
        if reason and number not in reasons:
            pool.drop([key for key in tasks if key[0] == number])
        if reason:
            reasons.setdefault(number, {})[index] = reason
    for number, by_block in reasons.items():
        # Of the first block: tasks are begun in order, so it never depends on who was faster.
        by_number[number].reason = by_block[min(by_block)]


def _take(trial: _Running, outcome: Outcome) -> str:
    """Keep what a task brought; the reason if it failed."""
    if outcome.error == DROPPED:
        return ""
    if outcome.error is not None:
        return outcome.error
    for name, replayed in outcome.value.items():
        try:
            check_settings(trial.asked, replayed.settings)
        except ValueError as error:
            return f"sequence {name!r}: {error}"
        trial.fields[name] = replayed.fields
        trial.held = replayed.settings
    return ""


def _compare(plan: Plan, trial: _Running, size: int) -> None:
    trial.metrics = headline(plan.protocol, trial.fields)
    score = trial.metrics.get(plan.objectives[0])
    if score is not None and math.isfinite(score):
        trial.rungs[size] = float(score)


def _prune(
    plan: Plan,
    trials: list[_Running],
    earlier: Sequence[FinishedTrial],
    mates: Sequence[FinishedTrial],
    size: int,
) -> None:
    """Stop those that are not among the best third; without a score nobody is stopped."""
    reached = {trial.number: trial.rungs for trial in trials}
    reached |= {trial.number: dict(trial.rungs) for trial in mates}
    scores = {number: rungs[size] for number, rungs in reached.items() if size in rungs}
    before = [trial.rungs[size] for trial in earlier if size in trial.rungs]
    maximise = not less_is_better(plan.objectives[0])
    kept = promoted(scores, before, maximise=maximise)
    for trial in trials:
        trial.is_pruned = trial.number > 0 and trial.number in scores and trial.number not in kept


def _check_objectives(plan: Plan, trial: _Running) -> None:
    if trial.reason or trial.is_pruned:
        return
    for name in plan.objectives:
        value = trial.metrics[name]
        if value is None or not math.isfinite(value):
            trial.reason = f"{name} has no finite value on {len(trial.fields)} sequences ({value})"


def _blocks(
    names: Sequence[str], num_frames: Mapping[str, int], num_trials: int
) -> Iterator[list[str]]:
    """Neighbours in groups that are worth a task."""
    everything = num_trials * sum(num_frames[name] for name in names)
    enough = min(max(everything // _TASKS_PER_RUNG, _FEWEST_FRAMES), _MOST_FRAMES)
    block: list[str] = []
    count = 0
    for name in names:
        block.append(name)
        count += num_frames[name]
        if count >= enough:
            yield block
            block, count = [], 0
    if block:
        yield block
