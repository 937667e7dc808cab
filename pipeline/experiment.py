"""One experiment from raw files to leaderboard rows: every stage once, only what is missing.

Steps: ingest, train (or adopt weights), infer, associate, evaluate; then the same detections joined
by overlap only (a baseline) and the model's embeddings on ground-truth boxes (a bound); one overlay
video; the rows in MLflow. Each step says whether it worked or reused what was there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.registry import BENCHMARKS
from models.config_io import config_from_dict, config_to_dict
from models.qdtrack.config import QDTrackConfig
from pipeline import cluster, steps
from pipeline.config import ExperimentConfig, RecipeConfig
from pipeline.contestants import (
    Contestant,
    join_notes,
    log_row,
    overlap_baseline,
    overlap_words,
    result_row,
)
from pipeline.leaderboard import ResultRow
from pipeline.overlay import overlay
from pipeline.progress import Say
from pipeline.steps import Step, WorkOptions
from pipeline.store import Artefact
from pipeline.train import initial_model

if TYPE_CHECKING:
    from pipeline.runlog import ProcessRun, RunLog


@dataclass(frozen=True, kw_only=True)
class RunOptions(WorkOptions):
    """What a job was asked for beside the config."""

    data_root: Path
    """Folder of the benchmark's raw files."""
    weights: Path | None = None
    """Weights to use in place of training."""
    init_weights: str | None = None
    """Where training starts from; see `pipeline.train.train`."""
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

    check_before_work(config, options)
    if options.weights is None:
        initial_model(config.model, config.train, options.init_weights)
    run_log = RunLog(options.tracking_uri, options.output_root)
    given = None
    if options.weights is not None:
        given = steps.adopt(options.weights, config.data.dataset, options, say)
    if given is not None:  # report the network that is used, not the one of the recipe
        model = config_from_dict(QDTrackConfig, given.details()["model"], "model")
        config = replace(config, model=model, recipe=f"{config.recipe}, not trained here")
    splits = [config.data.evaluation_split]
    if given is None:
        splits = [*config.data.train_splits, *splits]
    frames = steps.ingest_splits(config.data, splits, options.data_root, options, say)
    evaluated = frames[config.data.evaluation_split]
    steps.check_has_labels(evaluated)
    with run_log.process_run(config.recipe, config=config, inputs=frames) as run:
        run.log_files({"config.json": json.dumps(config_to_dict(config), indent=1).encode()})
        weights = given or steps.train_recipe(
            config,
            frames,
            options,
            run.log_metrics,
            say,
            init_weights=options.init_weights,
        )
        contestants = _contestants(config, options, evaluated, weights, say)
        entries = [
            enter(config, options, evaluated, weights, contestant, run_log, run, say)
            for contestant in contestants
        ]
        rows, tracks = zip(*entries, strict=True)
        with Step(say, "overlay video") as step:
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


def check_before_work(config: RecipeConfig, options: WorkOptions) -> None:
    """Whatever would stop any experiment after hours stops it now."""
    cluster.check_shared_root(options.output_root)
    if config.evaluation.protocol != config.data.benchmark:
        raise ValueError(
            f"evaluation.protocol is {config.evaluation.protocol!r} and data.benchmark is "
            f"{config.data.benchmark!r}; a benchmark is scored by its own rules: set both"
        )


def _contestants(
    config: ExperimentConfig,
    options: RunOptions,
    frames: Artefact,
    weights: Artefact,
    say: Say,
) -> list[Contestant]:
    """The model, and the two rows that say how good it is: simplest association, perfect boxes."""
    detected = steps.detect(frames, weights, config.infer, options, say)
    embedded = steps.detect(frames, weights, config.infer, options, say, boxes="truth")
    baseline = overlap_baseline(config.association)
    return [
        Contestant(
            kind="model",
            title=config.recipe,
            detections=detected,
            association=config.association,
            detection_source="own detector",
            notes=options.notes,
        ),
        Contestant(
            kind="baseline",
            title=f"{config.recipe}, {overlap_words(baseline)}",
            detections=detected,
            association=baseline,
            detection_source="own detector",
            notes=join_notes(
                f"the same detections joined by {overlap_words(baseline)}", options.notes
            ),
        ),
        Contestant(
            kind="bound",
            title=f"{config.recipe}, true boxes",
            detections=embedded,
            association=config.association,
            detection_source="ground truth",
            notes=join_notes("ground-truth boxes: a bound, not a tracker", options.notes),
        ),
    ]


def enter(
    config: RecipeConfig,
    options: WorkOptions,
    frames: Artefact,
    weights: Artefact,
    contestant: Contestant,
    run_log: "RunLog",
    run: "ProcessRun",
    say: Say,
) -> tuple[ResultRow, Artefact]:
    """Associate and score one contestant, and write its row."""
    label = f"track and score, {contestant.kind}"
    result = steps.score_contestant(frames, contestant, config.evaluation, label, options, say)
    row = result_row(result, weights, run, recipe=config.recipe)
    log_row(row, result, weights, run_log)
    return row, result.tracks
