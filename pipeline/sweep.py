"""Search the settings of a tracker: the network ran once, trials replay its stored detections.

Trials come in batches of a fixed size, are scored by long-lived Ray Tune workers and enter the
study in the order of their numbers. So a seeded search gives the same study with any number of
workers, whatever dies on the way, and a sweep that was killed goes on from its study alone. MLflow
is told of a batch while the workers are busy with the next one.
"""

import difflib
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from datasets.schema import Annotations, SequenceResult, SequenceTruth, Tracks
from models.config_io import config_to_dict
from pipeline import cluster
from pipeline.config import RecipeConfig
from pipeline.contestants import Contestant, Result, compete, log_row, result_row
from pipeline.evaluate import build_protocol
from pipeline.lineage import check_made_from, weights_of
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.overrides import apply_overrides
from pipeline.progress import Say
from pipeline.search.batch import headline
from pipeline.search.data import check_classes, load_all
from pipeline.search.loop import Search
from pipeline.search.options import SweepOptions, SweepPlaces
from pipeline.search.proposals import GRID, check_sampler, describe_limits
from pipeline.search.ranking import best_trials, spread
from pipeline.search.record import SweepRecord
from pipeline.search.report import report_files
from pipeline.search.rungs import REDUCTION
from pipeline.search.space import describe, grid_size, own_settings
from pipeline.search.study import FinishedTrial, Study
from pipeline.search.trial import ReplayData, replay_task
from pipeline.search.workers import TunePool
from pipeline.store import Artefact

logger = logging.getLogger(__name__)

_LARGEST_GRID: Final = 100_000
_VERSION: Final = 2
"""Raised when the code changes what a trial would score or a search would try."""


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


def run_sweep(
    config: RecipeConfig,
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
        RunLogError: MLflow cannot be used.
    """
    started = time.monotonic()
    protocol = _check_before_work(config, frames, detections, options)
    for line in describe_limits(
        options.sampler, options.space, own_settings(options.space, config)
    ):
        say(line)
    if options.may_prune and not options.is_pruned:
        say("every trial is scored on all sequences: " + _why_not_pruned(options))
    study = Study(
        places.storage,
        places.study_name,
        _definition(config, frames, detections, options),
        options.space,
        options.directions,
        resume=places.resume,
    )
    inputs = {"detections": detections, "truth": frames}
    with ExitStack() as stack:
        record = stack.enter_context(SweepRecord(config, inputs, options, places, study))
        search = Search(config, options, study, record, say)
        if search.num_missing:
            # The workers start while the data are loaded.
            pool = stack.enter_context(TunePool(replay_task, places.num_workers))
            data = load_all(frames, detections, config.association, protocol)
            check_classes(data, protocol)
            say(f"loaded {len(data.references)} sequences, {data.num_bytes / 2**20:.0f} MiB")
            pool.share(ReplayData(protocol, data.references))
            search.run(pool, data, protocol)
            pool.close()
        else:
            search.finish()
        trials = study.trials()
        seconds = time.monotonic() - started
        say(f"{len(trials)} trials in the study, {seconds:.0f} s")
        best, own = _score_best(config, frames, detections, options, places, trials, record)
        files = report_files(
            trials,
            best,
            own,
            options,
            study_name=places.study_name,
            provenance=record.run.provenance,
        )
        record.run.log_files(files)
        record.run.log_metrics(
            len(trials), {f"best_{n}": best[0][1].metrics[n] for n in options.objectives}
        )
    return SweepOutcome(trials=tuple(trials), best=tuple(best), own=own, files=files)


def _why_not_pruned(options: SweepOptions) -> str:
    if len(options.objectives) > 1:
        return "several metrics have no one order"
    return f"--sampler {options.sampler} does not learn from trials that were stopped early"


def known_metrics(protocol: ScoringProtocol) -> list[str]:
    """Names of the headline metrics of some rules."""
    truth = SequenceTruth(name="none", frame_names=("none",), annotations=Annotations.empty())
    result = SequenceResult(name="none", tracks=Tracks.empty())
    return list(headline(protocol, {"none": protocol.score_sequence(truth, result)}))


def _check_before_work(
    config: RecipeConfig, frames: Artefact, detections: Artefact, options: SweepOptions
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
    config: RecipeConfig, frames: Artefact, detections: Artefact, options: SweepOptions
) -> dict[str, Any]:
    """All that decides what a trial is and what it scores; neither how many there are nor where."""
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
    config: RecipeConfig,
    frames: Artefact,
    detections: Artefact,
    options: SweepOptions,
    places: SweepPlaces,
    trials: Sequence[FinishedTrial],
    record: SweepRecord,
) -> tuple[list[tuple[FinishedTrial, Result]], Result]:
    """The best trials and the recipe's own setting by the full evaluation, as rows as well."""
    weights, run_log = weights_of(detections), record.run_log
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
        row = result_row(result, weights, record.run, recipe=config.recipe)
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
