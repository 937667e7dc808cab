"""Search the settings of a tracker: the network ran once, trials replay its stored detections.

Trials come in batches of a fixed size, are scored by long-lived Ray Tune workers and enter the
study in the order of their numbers. So a seeded search gives the same study with any number of
workers, whatever dies on the way, and a sweep that was killed goes on from its study alone. MLflow
is told of a batch while the workers are busy with the next one.
"""

import difflib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from datasets.schema import Annotations, SequenceResult, SequenceTruth, Tracks
from models.config_io import config_to_dict
from models.search_space import Dimension
from pipeline import cluster
from pipeline.config import ExperimentConfig
from pipeline.contestants import Contestant, Result, compete, log_row, result_row
from pipeline.evaluate import build_protocol
from pipeline.leaderboard import LESS_IS_BETTER
from pipeline.lineage import check_made_from, weights_of
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.overrides import apply_overrides
from pipeline.progress import Progress
from pipeline.runlog import ProcessRun, RunLog
from pipeline.runlog_address import RunLogError
from pipeline.search.batch import Plan, headline, run_batch
from pipeline.search.data import SweepData, check_classes, features, load_all
from pipeline.search.proposals import GRID, Proposal, check_sampler, propose
from pipeline.search.ranking import best_trials, spread
from pipeline.search.report import TRIAL_PREFIX, report_files, trial_run
from pipeline.search.rungs import REDUCTION, rung_sizes, stratified_order
from pipeline.search.space import describe, grid_size, own_settings
from pipeline.search.study import FinishedTrial, Study
from pipeline.search.trial import Replayed, ReplayTask, replay_task
from pipeline.search.workers import TunePool
from pipeline.store import Artefact

logger = logging.getLogger(__name__)

_LARGEST_GRID: Final = 100_000
_RUN_NOTE: Final = "mlflow_run"
_VERSION: Final = 1
"""Raised when the code changes what a trial would score or a search would try."""


class SweepError(ValueError):
    """A sweep that cannot go on; what was finished stays in its study."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How to search."""

    space: Mapping[str, Dimension]
    """What is searched, by dotted path."""
    objectives: tuple[str, ...] = ("mMOTA",)
    """Headline metrics to improve; several give a Pareto front."""
    num_trials: int = 200
    """In all, the recipe's own setting and those of earlier runs of the study included."""
    sampler: str = "tpe"
    """One of `pipeline.search.proposals.SAMPLERS`."""
    seed: int = 0
    """Of the sampler and of the order of sequences."""
    is_pruned: bool = True
    """Stop trials early that do badly on the first sequences; not with several objectives."""
    batch_size: int = 8
    """Trials that are proposed together: the search depends on it, not on the workers."""
    max_failed_share: float = 0.2
    """The sweep stops when more than this share of its trials failed."""
    num_best: int = 3
    """Trials that are scored once more from all sequences by the full evaluation."""

    def __post_init__(self) -> None:
        for name in ("num_trials", "batch_size", "num_best"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share is {self.max_failed_share}, expected 0 to 1")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"the metrics {self.objectives} name one twice or none")

    @property
    def directions(self) -> tuple[str, ...]:
        """Of the objectives, in Optuna's words."""
        return tuple("minimize" if n in LESS_IS_BETTER else "maximize" for n in self.objectives)


@dataclass(frozen=True, kw_only=True)
class SweepPlaces:
    """Where a sweep keeps things; nothing here changes a result."""

    storage: str
    """Address of the database of studies."""
    study_name: str
    resume: bool
    root: str
    """Of all artefacts."""
    tracking_uri: str | None = None
    num_workers: int = 1


@dataclass(frozen=True, kw_only=True)
class SweepOutcome:
    """What a sweep leaves behind."""

    trials: tuple[FinishedTrial, ...]
    best: tuple[tuple[FinishedTrial, Result], ...]
    """Best first, or along the Pareto front; scored by the full evaluation."""
    own: Result
    """The recipe's own setting."""
    files: Mapping[str, bytes]
    """By name: best.toml, sweep.html, trials.csv and charts."""


Say = Callable[[str], None]


def run_sweep(
    config: ExperimentConfig,
    frames: Artefact,
    detections: Artefact,
    options: SweepOptions,
    places: SweepPlaces,
    say: Say,
) -> SweepOutcome:
    """Search, score the best fully, and write it all down; Ray must be connected.

    Raises:
        ValueError: input that does not fit together, before any trial.
        SweepError: the recipe's own setting fails, or too many trials do.
        StudyError: the study cannot be used.
    """
    started = time.monotonic()
    protocol = _check_before_work(config, frames, detections, options)
    study = Study(
        places.storage,
        places.study_name,
        _definition(config, frames, detections, options),
        options.space,
        options.directions,
        resume=places.resume,
    )
    with ExitStack() as stack:
        search = _Search(config, options, study, protocol, say)
        if search.num_missing:  # the workers start while the data and MLflow are made ready
            pool = stack.enter_context(TunePool(replay_task, places.num_workers))
            data = load_all(frames, detections, config.association, protocol)
            check_classes(data, protocol)
            say(f"loaded {len(data.references)} sequences, {data.num_bytes / 2**20:.0f} MiB")
        run_log = RunLog(places.tracking_uri, places.root)
        run = stack.enter_context(
            run_log.process_run(
                f"sweep {places.study_name}",
                config=config,
                inputs={"detections": detections, "truth": frames},
                tags={"kind": "sweep", "study": f"{study.storage} {study.name}"},
                resume=study.get_note(_RUN_NOTE),
            )
        )
        study.set_note(_RUN_NOTE, run.run_id)
        search.log_known(run)
        if search.num_missing:
            search.run(pool, data, run)
            pool.close()
        trials = study.trials()
        seconds = time.monotonic() - started
        say(f"{len(trials)} trials in the study, {seconds:.0f} s")
        best, own = _score_best(config, frames, detections, options, places, trials, run, run_log)
        files = report_files(
            trials, best, own, options, study_name=places.study_name, provenance=run.provenance
        )
        run.log_files(files)
        run.log_metrics(
            len(trials), {f"best_{n}": best[0][1].metrics[n] for n in options.objectives}
        )
    return SweepOutcome(trials=tuple(trials), best=tuple(best), own=own, files=files)


class _Search:
    """The trials of one sweep, from what its study holds to as many as were asked for."""

    def __init__(
        self,
        config: ExperimentConfig,
        options: SweepOptions,
        study: Study,
        protocol: ScoringProtocol,
        say: Say,
    ) -> None:
        self._config = config
        self._options = options
        self._study = study
        self._protocol = protocol
        self._say = say
        self._own = Proposal(own_settings(options.space, config), {})
        self._trials = study.trials()
        self._num_logged = 0
        self._may_know = True
        if self._trials:
            say(f"{len(self._trials)} trials are in the study already")

    @property
    def num_missing(self) -> int:
        """Trials left to do."""
        return max(0, self._options.num_trials - len(self._trials))

    def log_known(self, run: ProcessRun) -> None:
        """Tell MLflow of the trials in the study that it may not know of."""
        self._log(run)

    def run(
        self,
        pool: TunePool[ReplayTask, dict[str, Replayed]],
        data: SweepData,
        run: ProcessRun,
    ) -> None:
        """Do what is missing; the study and MLflow hold it then.

        Raises:
            SweepError: the recipe's own setting fails, or too many trials do.
        """
        plan = self._plan(data)
        with Progress("sweep", self.num_missing, "trials") as progress:
            while self.num_missing and not self._too_many_failed():
                done = self._next_batch(pool, plan, partial(self._log, run))
                if not done:
                    self._say(f"the grid ends after {len(self._trials)} trials")
                    break
                self._study.add(done)
                self._trials += done
                progress.advance(len(done), note=self._describe_best())
        self._log(run, insist=True)
        self._check_failures()

    def _plan(self, data: SweepData) -> Plan:
        order = stratified_order(
            {name: features(summary) for name, summary in data.summaries.items()},
            self._options.seed,
        )
        is_pruned = self._options.is_pruned and len(self._options.objectives) == 1
        return Plan(
            protocol=self._protocol,
            objectives=self._options.objectives,
            order=order,
            rungs=rung_sizes(len(order), is_pruned=is_pruned),
            references=data.references,
            num_frames={name: summary.num_frames for name, summary in data.summaries.items()},
        )

    def _next_batch(
        self,
        pool: TunePool[ReplayTask, dict[str, Replayed]],
        plan: Plan,
        meanwhile: Callable[[], None],
    ) -> list[FinishedTrial]:
        """The trials of the batch that the study does not hold; none when a grid is at its end.

        Batches begin at 1, 1 + size ...: where the study ends in the middle of one, the rest is
        proposed again as it was.
        """
        trials, size = self._trials, self._options.batch_size
        if not trials:
            [own] = run_batch(pool, plan, {0: (self._own, self._config.association)}, [])
            if own.state == "failed":
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
        return run_batch(pool, plan, wanted, trials[:first], trials[first:], meanwhile)

    def _log(self, run: ProcessRun, *, insist: bool = False) -> None:
        """Tell MLflow of the trials that it does not know; they wait while it does not answer.

        Raises:
            RunLogError: it does not answer, and this was the last time to ask.
        """
        waiting = self._trials[self._num_logged :]
        try:
            new = run.log_children([trial_run(trial) for trial in waiting], look_up=self._may_know)
        except RunLogError as error:
            if insist:
                raise
            self._may_know = True  # some of them may have arrived
            logger.warning("%d trials wait for MLflow: %s", len(waiting), error)
            return
        self._num_logged, self._may_know = len(self._trials), False
        for trial in waiting:
            if trial.values is not None and trial_run(trial).name in new:
                values = dict(zip(self._options.objectives, trial.values, strict=True))
                run.log_metrics(trial.number, values)

    def _describe_best(self) -> str:
        best = best_trials(self._trials, self._options.directions)
        if not best:
            return ""
        numbers = ", ".join(
            f"{name} {value:.2f}"
            for name, value in zip(self._options.objectives, best[0].values or (), strict=True)
        )
        return f"best {numbers} ({TRIAL_PREFIX}{best[0].number})"

    def _too_many_failed(self) -> bool:
        failed = sum(trial.state == "failed" for trial in self._trials)
        return failed > self._options.max_failed_share * self._options.num_trials

    def _check_failures(self) -> None:
        if self._too_many_failed():
            failed = [trial for trial in self._trials if trial.state == "failed"]
            raise SweepError(
                f"{len(failed)} of {len(self._trials)} trials failed, more than "
                f"{self._options.max_failed_share:.0%} of {self._options.num_trials}; the last "
                f"one: {failed[-1].reason}. All are in the study; go on with --resume and a "
                "higher --max-failed"
            )


def known_metrics(protocol: ScoringProtocol) -> list[str]:
    """Names of the headline metrics of some rules."""
    truth = SequenceTruth(name="none", frame_names=("none",), annotations=Annotations.empty())
    result = SequenceResult(name="none", tracks=Tracks.empty())
    return list(headline(protocol, {"none": protocol.score_sequence(truth, result)}))


def _check_before_work(
    config: ExperimentConfig, frames: Artefact, detections: Artefact, options: SweepOptions
) -> ScoringProtocol:
    cluster.check_shared_root(frames.root)
    check_made_from(frames, detections)
    check_sampler(options.sampler, len(options.objectives))
    if options.sampler == GRID and grid_size(options.space) > _LARGEST_GRID:
        raise ValueError(
            f"--sampler grid has {grid_size(options.space):,} points over {len(options.space)} "
            f"fields, more than {_LARGEST_GRID:,}; name fewer fields or values with --space"
        )
    benchmark = frames.details()["benchmark"]
    if config.evaluation.protocol != benchmark:
        raise ValueError(
            f"evaluation.protocol is {config.evaluation.protocol!r} and {frames.folder} is of "
            f"{benchmark!r}, whose classes are others; use --set evaluation.protocol={benchmark}"
        )
    protocol = build_protocol(config.evaluation)
    known = known_metrics(protocol)
    for name in options.objectives:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
            raise ValueError(f"--metric {name!r} is not known; did you mean {', '.join(nearest)}?")
    return protocol


def _definition(
    config: ExperimentConfig, frames: Artefact, detections: Artefact, options: SweepOptions
) -> dict[str, Any]:
    """All that decides what a trial is and what it scores; not how many there are."""
    return {
        "version": _VERSION,
        "frames": frames.fingerprint,
        "detections": detections.fingerprint,
        "association": config_to_dict(config.association),
        "evaluation": config_to_dict(config.evaluation),
        "space": describe(options.space),
        "metrics": list(options.objectives),
        "sampler": options.sampler,
        "seed": options.seed,
        "pruning": REDUCTION if options.is_pruned else None,
        "batch": options.batch_size,
    }


def _score_best(
    config: ExperimentConfig,
    frames: Artefact,
    detections: Artefact,
    options: SweepOptions,
    places: SweepPlaces,
    trials: Sequence[FinishedTrial],
    run: ProcessRun,
    run_log: RunLog,
) -> tuple[list[tuple[FinishedTrial, Result]], Result]:
    """The best trials and the recipe's own setting by the full evaluation, as rows as well."""
    weights = weights_of(detections)
    title = config.recipe
    is_bound = detections.details().get("boxes") == "truth"

    def enter(trial: FinishedTrial, name: str, notes: str) -> Result:
        contestant = Contestant(
            kind="bound" if is_bound else "model",
            title=name,
            detections=detections,
            association=apply_overrides(config, trial.settings).association,
            detection_source="ground truth" if is_bound else "own detector",
            notes=notes,
        )
        result = compete(frames, contestant, config.evaluation, num_workers=places.num_workers)
        _check_equal(trial, result, options.objectives)
        return result

    own = enter(trials[0], title, "")
    ranked = best_trials(trials, options.directions)
    has_one_objective = len(options.objectives) == 1
    chosen = ranked[: options.num_best] if has_one_objective else spread(ranked, options.num_best)
    best = []
    for position, trial in enumerate(chosen, 1):
        notes = f"tuned on this very split: trial {trial.number} of study {places.study_name}"
        best.append((trial, enter(trial, f"{title}, tuned {position}", notes)))
    known = {row.fingerprint for row in run_log.results(frames.dataset, frames.split)}
    for result in (own, best[0][1]):
        row = result_row(result, weights, run, recipe=config.recipe)
        if row.fingerprint not in known:
            log_row(row, result, weights, run_log)
            known.add(row.fingerprint)
    return best, own


def _check_equal(trial: FinishedTrial, result: Result, objectives: Sequence[str]) -> None:
    assert trial.values is not None
    for name, value in zip(objectives, trial.values, strict=True):
        if result.metrics[name] != value:
            logger.warning(
                "trial %d scored %s %r in the sweep and %r by the full evaluation, which stands",
                *(trial.number, name, value, result.metrics[name]),
            )
