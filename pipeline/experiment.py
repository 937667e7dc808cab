"""One experiment from raw files to leaderboard rows: every stage once, only what is missing.

Steps: ingest, train (or adopt weights), infer, associate, evaluate; then the same detections joined
by overlap only (a baseline) and the model's embeddings on ground-truth boxes (a bound); one overlay
video; the rows in MLflow. Each step says whether it worked or reused what was there.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from datasets.registry import BENCHMARKS
from models.config_io import config_from_dict, config_to_dict
from models.qdtrack.config import QDTrackConfig
from pipeline import cluster
from pipeline.config import ExperimentConfig
from pipeline.contestants import (
    Contestant,
    compete,
    join_notes,
    log_row,
    overlap_baseline,
    result_row,
)
from pipeline.epoch_score import EpochScorer
from pipeline.infer import infer
from pipeline.ingest import NothingFoundError, ingest
from pipeline.leaderboard import ResultRow
from pipeline.model_store import adopt_weights
from pipeline.overlay import overlay
from pipeline.store import Artefact
from pipeline.train import initial_model, train

if TYPE_CHECKING:
    from pipeline.runlog import ProcessRun, RunLog

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
"""Takes one line for the person who watches."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a job was asked for beside the config: nothing here changes a result."""

    data_root: Path
    """Folder of the benchmark's raw files."""
    output_root: str
    """Root of all artefacts."""
    weights: Path | None = None
    """Weights to use in place of training."""
    init_weights: str | None = None
    """Where training starts from; see `pipeline.train.train`."""
    tracking_uri: str | None = None
    """MLflow server or database; None is SQLite under the output root."""
    num_workers: int = 1
    """Workers of every stage."""
    gpus_per_worker: float = 0.0
    """GPUs of each training and inference worker."""
    strict: bool = False
    """Stop at the first broken input file."""
    notes: str = ""
    """Shown with every row of the leaderboard."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an experiment leaves behind."""

    rows: tuple[ResultRow, ...]
    """The model first, then what it is judged by."""
    artefacts: Mapping[str, Artefact]
    """Frames, weights, detections and tracks of the model, by stage."""
    overlay: str
    """Path or URI of the overlay video."""
    how_to_view: str
    """What to type to see the leaderboard in MLflow's own page."""


def run_experiment(config: ExperimentConfig, options: RunOptions, say: Say) -> Outcome:
    """Do everything that is missing and log it; Ray must be connected.

    Raises:
        ValueError: wrong input anywhere; what was finished before stays and is reused.
    """
    from pipeline.runlog import RunLog

    _check_before_work(config, options)
    run_log = RunLog(options.tracking_uri, options.output_root)
    given = _adopt(config, options, say) if options.weights is not None else None
    if given is not None:  # report the network that is used, not the one of the recipe
        model = config_from_dict(QDTrackConfig, given.details()["model"], "model")
        config = replace(config, model=model, recipe=f"{config.recipe}, not trained here")
    frames = _ingest_splits(config, options, say)
    evaluated = frames[config.data.evaluation_split]
    _check_has_labels(evaluated)
    with run_log.process_run(config.recipe, config=config, inputs=frames) as run:
        run.log_files({"config.json": json.dumps(config_to_dict(config), indent=1).encode()})
        weights = given or _train(config, options, frames, run, say)
        contestants = _contestants(config, options, evaluated, weights, say)
        entries = [
            _enter(config, options, evaluated, weights, contestant, run_log, run, say)
            for contestant in contestants
        ]
        rows, tracks = zip(*entries, strict=True)
        with _Step(say, "overlay video") as step:
            video = overlay(evaluated, tracks[0], BENCHMARKS[config.data.benchmark].classes)
            step.done(video)
        run.log_files({"overlay.mp4": video if "://" in video else Path(video)})
    return Outcome(
        rows=rows,
        artefacts={
            "frames": evaluated,
            "weights": weights,
            "detections": contestants[0].detections,
            "tracks": tracks[0],
        },
        overlay=video,
        how_to_view=run_log.how_to_view(config.data.dataset, config.data.evaluation_split),
    )


def _check_before_work(config: ExperimentConfig, options: RunOptions) -> None:
    """Whatever would stop the run after hours stops it now."""
    cluster.check_shared_root(options.output_root)
    if config.evaluation.protocol != config.data.benchmark:
        raise ValueError(
            f"evaluation.protocol is {config.evaluation.protocol!r} and data.benchmark is "
            f"{config.data.benchmark!r}; a benchmark is scored by its own rules: set both"
        )
    if options.weights is None:
        initial_model(config.model, config.train, options.init_weights)


def _check_has_labels(frames: Artefact) -> None:
    for name in frames.sequences():
        if not frames.part(name).details()["has_labels"]:
            raise ValueError(
                f"{frames.dataset}/{frames.split}, sequence {name!r}: has no labels to score "
                "against; for a test split use jobs.infer --associate and jobs.export"
            )


def _ingest_splits(config: ExperimentConfig, options: RunOptions, say: Say) -> dict[str, Artefact]:
    """Frames of the evaluation split and, where there will be training, of the training splits."""
    splits = [config.data.evaluation_split]
    if options.weights is None:
        splits = [*config.data.train_splits, *splits]
    benchmark = BENCHMARKS[config.data.benchmark]
    frames = {}
    for split in splits:
        with _Step(say, f"ingest {split}") as step:
            try:
                artefact = ingest(
                    benchmark,
                    options.data_root,
                    split,
                    config.data,
                    options.output_root,
                    strict=options.strict,
                )
            except NothingFoundError:
                if split not in config.data.train_splits[1:]:
                    raise
                step.done(f"not under {options.data_root}, left out")
                continue
            details = artefact.details()
            step.done(
                f"{len(artefact.sequences())} sequences, {details['num_frames']} frames, "
                f"{len(details['problems'])} problems",
                artefact,
            )
            frames[split] = artefact
    return frames


def _adopt(config: ExperimentConfig, options: RunOptions, say: Say) -> Artefact:
    assert options.weights is not None
    with _Step(say, "weights") as step:
        weights = adopt_weights(options.weights, options.output_root, config.data.dataset)
        step.done(str(options.weights), weights)
    return weights


def _train(
    config: ExperimentConfig,
    options: RunOptions,
    frames: Mapping[str, Artefact],
    run: "ProcessRun",
    say: Say,
) -> Artefact:
    validation = frames[config.data.evaluation_split]
    with _Step(say, "train") as step:
        weights = train(
            [frames[split] for split in config.data.train_splits if split in frames],
            config.model,
            config.train,
            num_workers=_training_workers(config.train.pairs_per_step, options.num_workers),
            gpus_per_worker=options.gpus_per_worker,
            init_weights=options.init_weights,
            validation=validation,
            score_epoch=EpochScorer(
                frames=validation,
                benchmark=config.data.benchmark,
                num_sequences=config.train.validation_sequences,
                infer=config.infer,
                association=config.association,
                evaluation=config.evaluation,
            ),
            on_metrics=run.log_metrics,
        )
        details = weights.details()
        step.done(f"{details['steps']} steps, {details['pairs']} pairs an epoch", weights)
    return weights


def _training_workers(pairs_per_step: int, num_workers: int) -> int:
    """As many workers as there are, but so that each gets the same number of pairs a step."""
    count = max(n for n in range(1, num_workers + 1) if pairs_per_step % n == 0)
    if count < num_workers:
        logger.warning(
            "training uses %d of %d workers: train.pairs_per_step is %d, which %d would not share "
            "evenly",
            *(count, num_workers, pairs_per_step, num_workers),
        )
    return count


def _contestants(
    config: ExperimentConfig,
    options: RunOptions,
    frames: Artefact,
    weights: Artefact,
    say: Say,
) -> list[Contestant]:
    """The model, and the two rows that say how good it is: simplest association, perfect boxes."""
    detections = {}
    for boxes in ("detector", "truth"):
        with _Step(say, "infer" if boxes == "detector" else "embed truth") as step:
            detections[boxes] = infer(
                frames,
                weights,
                config.infer,
                boxes=boxes,
                num_workers=options.num_workers,
                num_gpus=options.gpus_per_worker,
            )
            found = detections[boxes]
            step.done(f"{found.details()['num_detections']} boxes", found)
    return [
        Contestant(
            kind="model",
            title=config.recipe,
            detections=detections["detector"],
            association=config.association,
            detection_source="own detector",
            notes=options.notes,
        ),
        Contestant(
            kind="baseline",
            title=f"{config.recipe}, overlap only",
            detections=detections["detector"],
            association=overlap_baseline(config.association),
            detection_source="own detector",
            notes=join_notes("the same detections joined by overlap only", options.notes),
        ),
        Contestant(
            kind="bound",
            title=f"{config.recipe}, true boxes",
            detections=detections["truth"],
            association=config.association,
            detection_source="ground truth",
            notes=join_notes("ground-truth boxes: a bound, not a tracker", options.notes),
        ),
    ]


def _enter(
    config: ExperimentConfig,
    options: RunOptions,
    frames: Artefact,
    weights: Artefact,
    contestant: Contestant,
    run_log: "RunLog",
    run: "ProcessRun",
    say: Say,
) -> tuple[ResultRow, Artefact]:
    """Associate and score one contestant, and write its row."""
    with _Step(say, f"track and score, {contestant.kind}") as step:
        result = compete(frames, contestant, config.evaluation, num_workers=options.num_workers)
        metrics = result.metrics
        step.done(f"MOTA {metrics['MOTA']:.1f}, IDF1 {metrics['IDF1']:.1f}", result.scores)
    row = result_row(result, weights, run, recipe=config.recipe)
    log_row(row, result, weights, run_log)
    return row, result.tracks


class _Step:
    """One line when a step is done: how long it took, or that it found its result there."""

    def __init__(self, say: Say, label: str) -> None:
        self._say = say
        self._label = label
        self._started = time.time()
        self._took = ""
        self._note = ""

    def __enter__(self) -> Self:
        return self

    def done(self, note: str, artefact: Artefact | None = None) -> None:
        """What came out; the artefact's own time tells whether it was made now."""
        is_reused = artefact is not None and artefact.finished_at() < self._started
        self._took = "reused" if is_reused else f"{time.time() - self._started:.1f} s"
        self._note = note

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._say(f"{self._label:28}{self._took:>9}   {self._note}".rstrip())
