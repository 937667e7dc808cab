"""Steps that experiments and benchmarks share, each with the line that says what it did."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from datasets.registry import BENCHMARKS
from pipeline.config import ExperimentConfig
from pipeline.contestants import Contestant, Result, compete
from pipeline.epoch_score import EpochScorer
from pipeline.evaluate import EvaluationConfig
from pipeline.fit import OnMetrics
from pipeline.infer import BoxSource, InferConfig, infer
from pipeline.ingest import DataConfig, NothingFoundError, ingest
from pipeline.leaderboard import format_number, ranking_metrics
from pipeline.model_store import adopt_weights
from pipeline.progress import Say
from pipeline.store import Artefact
from pipeline.train import train

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Where a job works, and with what: nothing here changes a result."""

    output_root: str
    """Root of all artefacts."""
    tracking_uri: str | None = None
    """MLflow server or database; None is SQLite under the output root."""
    num_workers: int = 1
    """Workers of every stage."""
    gpus_per_worker: float = 0.0
    """GPUs of each training and inference worker."""
    strict: bool = False
    """Stop at the first broken input file."""


class Step:
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


def check_has_labels(frames: Artefact) -> None:
    """Refuse frames that nothing can be scored against.

    Raises:
        ValueError: a sequence without labels; names it.
    """
    for name in frames.sequences():
        if not frames.part(name).details()["has_labels"]:
            raise ValueError(
                f"{frames.dataset}/{frames.split}, sequence {name!r}: has no labels to score "
                "against; for a test split use jobs.infer --associate and jobs.export"
            )


def ingest_splits(
    config: DataConfig, splits: Sequence[str], data_root: Path, options: WorkOptions, say: Say
) -> dict[str, Artefact]:
    """Frames of some splits; only the first one to train on must be there."""
    frames = {}
    for split in splits:
        with Step(say, f"ingest {split}") as step:
            try:
                artefact = ingest(
                    BENCHMARKS[config.benchmark],
                    data_root,
                    split,
                    config,
                    options.output_root,
                    strict=options.strict,
                )
            except NothingFoundError:
                if split not in config.train_splits[1:]:
                    raise
                step.done(f"not under {data_root}, left out")
                continue
            details = artefact.details()
            step.done(
                f"{len(artefact.sequences())} sequences, {details['num_frames']} frames, "
                f"{len(details['problems'])} problems",
                artefact,
            )
            frames[split] = artefact
    return frames


def adopt(path: Path, dataset: str, options: WorkOptions, say: Say) -> Artefact:
    """A user's weights file as an artefact; see `adopt_weights`."""
    with Step(say, "weights") as step:
        weights = adopt_weights(path, options.output_root, dataset)
        step.done(str(path), weights)
    return weights


def train_recipe(
    config: ExperimentConfig,
    frames: Mapping[str, Artefact],
    options: WorkOptions,
    on_metrics: OnMetrics,
    say: Say,
    *,
    init_weights: str | None = None,
) -> Artefact:
    """The weights of a recipe: those that are there, or trained now.

    Args:
        config: the recipe.
        frames: by split, those to train on and the one to look at after every epoch.
        options: where and with what.
        on_metrics: see `train`.
        say: hears of it.
        init_weights: see `train`.
    """
    validation = frames[config.data.evaluation_split]
    with Step(say, "train") as step:
        weights = train(
            [frames[split] for split in config.data.train_splits if split in frames],
            config.model,
            config.train,
            num_workers=training_workers(
                "train.pairs_per_step", config.train.pairs_per_step, options.num_workers
            ),
            gpus_per_worker=options.gpus_per_worker,
            init_weights=init_weights,
            validation=validation,
            score_epoch=EpochScorer(
                frames=validation,
                benchmark=config.data.benchmark,
                num_sequences=config.train.validation_sequences,
                infer=config.infer,
                association=config.association,
                evaluation=config.evaluation,
            ),
            on_metrics=on_metrics,
        )
        details = weights.details()
        step.done(f"{details['steps']} steps, {details['pairs']} pairs an epoch", weights)
    return weights


def detect(
    frames: Artefact,
    weights: Artefact,
    config: InferConfig,
    options: WorkOptions,
    say: Say,
    *,
    boxes: BoxSource = "detector",
) -> Artefact:
    """The network over all frames; see `infer`."""
    with Step(say, "infer" if boxes == "detector" else "embed truth") as step:
        found = infer(
            frames,
            weights,
            config,
            boxes=boxes,
            num_workers=options.num_workers,
            num_gpus=options.gpus_per_worker,
        )
        step.done(f"{found.details()['num_detections']} boxes", found)
    return found


def score_contestant(
    frames: Artefact,
    contestant: Contestant,
    evaluation: EvaluationConfig,
    label: str,
    options: WorkOptions,
    say: Say,
) -> Result:
    """Join and score one contestant; see `compete`."""
    with Step(say, label) as step:
        result = compete(frames, contestant, evaluation, num_workers=options.num_workers)
        numbers = (
            f"{name} {format_number(name, result.metrics[name])}"
            for name in ranking_metrics(evaluation.protocol)[:2]
        )
        step.done(", ".join(numbers), result.scores)
    return result


def training_workers(path: str, per_step: int, num_workers: int) -> int:
    """As many workers as there are, but so that each gets the same share of a step.

    Args:
        path: of the field that says how much a step learns from, for the message.
        per_step: its value.
        num_workers: that there are.
    """
    count = max(n for n in range(1, num_workers + 1) if per_step % n == 0)
    if count < num_workers:
        logger.warning(
            "training uses %d of %d workers: %s is %d, which %d would not share evenly",
            *(count, num_workers, path, per_step, num_workers),
        )
    return count
