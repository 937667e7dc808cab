"""The trials of a sweep, batch by batch, from what its study holds to as many as are wanted."""

from contextlib import suppress
from typing import Final

from pipeline.config import RecipeConfig
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.overrides import apply_overrides
from pipeline.progress import Progress, Say
from pipeline.runlog_address import RunLogError
from pipeline.search.batch import Plan, ReplayPool, run_batch
from pipeline.search.data import SweepData, features
from pipeline.search.options import SweepOptions
from pipeline.search.proposals import Proposal, propose
from pipeline.search.ranking import best_trials
from pipeline.search.record import SweepRecord
from pipeline.search.report import TRIAL_PREFIX
from pipeline.search.rungs import rung_sizes, stratified_order
from pipeline.search.space import own_settings
from pipeline.search.study import FinishedTrial, Study


class SweepError(ValueError):
    """A sweep that cannot go on; what was finished stays in its study."""


class Search:
    """A search and what it has found.

    A batch is in the study before the next one is proposed; MLflow is told while the workers are
    busy with that.
    """

    def __init__(
        self,
        config: RecipeConfig,
        options: SweepOptions,
        study: Study,
        record: SweepRecord,
        say: Say,
    ) -> None:
        """The search as its study has it."""
        self._config = config
        self._options: Final = options
        self._study = study
        self._record = record
        self._say = say
        self._own = Proposal(own_settings(options.space, config), {})
        self._trials = study.trials()
        if self._trials:
            say(f"{len(self._trials)} trials are in the study already")

    @property
    def num_missing(self) -> int:
        """Trials left to do."""
        return max(0, self._options.num_trials - len(self._trials))

    def run(self, pool: ReplayPool, data: SweepData, protocol: ScoringProtocol) -> None:
        """Do what is missing; the study and MLflow hold it then.

        Raises:
            SweepError: the recipe's own setting fails, or too many trials do.
        """
        plan = self._plan(data, protocol)
        with Progress("sweep", self.num_missing, "trials") as progress:
            while self.num_missing and not self._too_many_failed():
                done = self._next_batch(pool, plan)
                if not done:
                    self._say(f"the grid ends after {len(self._trials)} trials")
                    break
                self._study.add(done)
                self._trials += done
                progress.advance(len(done), note=self._describe_best())
        self.finish()

    def finish(self) -> None:
        """Write down all that is not, for the last time.

        Raises:
            SweepError: too many trials failed.
        """
        self._record.write(self._trials, insist=True)
        num_failed = self._num_failed()
        if num_failed:
            self._say(
                f"{num_failed} of {len(self._trials)} trials failed; the page and the table say why"
            )
        self._check_failures()

    def _write(self) -> None:
        """What is done while the workers are busy with the next batch."""
        self._record.write(self._trials)

    def _plan(self, data: SweepData, protocol: ScoringProtocol) -> Plan:
        order = stratified_order(
            {name: features(summary) for name, summary in data.summaries.items()},
            self._options.seed,
        )
        return Plan(
            protocol=protocol,
            objectives=self._options.objectives,
            order=order,
            rungs=rung_sizes(len(order), is_pruned=self._options.is_pruned),
            num_frames={name: summary.num_frames for name, summary in data.summaries.items()},
        )

    def _next_batch(self, pool: ReplayPool, plan: Plan) -> list[FinishedTrial]:
        """The trials of the batch that are not finished; none when a grid is at its end.

        Batches begin at 1, 1 + size ...: where the study ends in the middle of one, the rest is
        proposed again as it was.
        """
        trials, size = self._trials, self._options.batch_size
        if not trials:
            [own] = run_batch(pool, plan, {0: (self._own, self._config.association)}, [])
            if own.state == "failed":
                with suppress(RunLogError):  # which would hide the reason
                    self._record.write([])  # for MLflow to have a run that failed
                raise SweepError(f"the recipe's own setting cannot be scored: {own.reason}")
            return [own]
        first = 1 + (len(trials) - 1) // size * size
        numbers = range(first, first + size)
        proposals = propose(
            numbers,
            trials[:first],
            self._options.space,
            self._options.directions,
            sampler=self._options.sampler,
            seed=self._options.seed,
        )
        wanted = {
            number: (proposal, apply_overrides(self._config, proposal.settings).association)
            for number, proposal in zip(numbers, proposals, strict=False)
            if len(trials) <= number < self._options.num_trials
        }
        if not wanted:
            return []
        return run_batch(pool, plan, wanted, trials[:first], trials[first:], self._write)

    def _describe_best(self) -> str:
        best = best_trials(self._trials, self._options.directions)
        if not best:
            return ""
        numbers = ", ".join(
            f"{name} {value:.2f}"
            for name, value in zip(self._options.objectives, best[0].values or (), strict=True)
        )
        return f"best {numbers} ({TRIAL_PREFIX}{best[0].number})"

    def _num_failed(self) -> int:
        return sum(trial.state == "failed" for trial in self._trials)

    def _too_many_failed(self) -> bool:
        return self._num_failed() > self._options.max_failed_share * self._options.num_trials

    def _check_failures(self) -> None:
        if self._too_many_failed():
            failed = [trial for trial in self._trials if trial.state == "failed"]
            raise SweepError(
                f"{len(failed)} of {len(self._trials)} trials failed, more than "
                f"{self._options.max_failed_share:.0%} of {self._options.num_trials}; the last "
                f"one: {failed[-1].reason}. All are in the study; go on with --resume and a "
                "higher --max-failed"
            )
