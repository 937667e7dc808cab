"""Training: Ray Train over pairs that Ray Data streams, ending in a weights artefact."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from datasets.transforms import AugmentConfig
from models.config_io import config_to_dict
from models.qdtrack.config import OptimizerConfig, QDTrackConfig
from pipeline.fit import OnMetrics
from pipeline.model_store import MODEL_PART, STAGE
from pipeline.overrides import flatten
from pipeline.store import Artefact, fingerprint

if TYPE_CHECKING:
    from models.qdtrack.model import QDTrack
    from pipeline.training_input import TrainingSet

logger = logging.getLogger(__name__)

VERSION: Final = 1
"""Raised when the code changes what is trained."""

RANDOM_BACKBONE: Final = "random"

EpochScore = Callable[["QDTrack", int], dict[str, float]]
"""(model, epoch) -> metrics; picklable, runs on the worker of rank 0 after every epoch."""

_FIXED_BY_WEIGHTS: Final = (
    "classes",
    "input.",
    "detector.pooling.",
    "detector.rpn.anchor_scale",
    "detector.rpn.aspect_ratios",
    "detector.roi_head.delta_stds",
)
"""Beginnings of the fields of a model that its weights were made for."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Which pairs are trained on, in which order, and how."""

    seed: int = 0
    """Of everything random in training."""
    pairs_per_step: int = 16
    """Pairs of one optimiser step over all workers; a multiple of their number."""
    scope: int = 3
    """Largest distance between key and reference frame; 0 pairs every frame with itself."""
    window: int = 32
    """Consecutive frames of a sequence that are read together."""
    buffer: int = 256
    """Pairs of one lane are moved by less than this many places; see `datasets.pairs`."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How the images of a pair are varied."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rate, its schedule, epochs and precision."""
    backbone_weights: str | None = None
    """What the backbone starts from: a file with torchvision's ResNet state, "torchvision" to
    download it, or "random". None is an error, unless training starts from complete weights."""
    validation_pairs: int = 64
    """Pairs of the evaluation split whose losses are computed after every epoch; 0 for none."""
    validation_sequences: int = 2
    """Sequences of the evaluation split that are tracked and scored after every epoch."""

    def __post_init__(self) -> None:
        least = {
            "seed": 0,
            "pairs_per_step": 1,
            "scope": 0,
            "window": 1,
            "buffer": 1,
            "validation_pairs": 0,
            "validation_sequences": 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"train.{name} is {value}, expected at least {low}")


def weights_artefact(
    frames: Sequence[Artefact],
    model_config: QDTrackConfig,
    train_config: TrainConfig,
    init_weights: str | None = None,
) -> Artefact:
    """Where a training keeps its weights; the same for any number of workers.

    Args:
        frames: what is trained on.
        model_config: of the network.
        train_config: what only looks at the model while it trains does not count.
        init_weights: see `train`.
    """
    settings: dict[str, Any] = {
        "model": config_to_dict(model_config),
        "train": config_to_dict(train_config),
        "init_weights": _digest(init_weights) if init_weights else None,
    }
    for name in ("validation_pairs", "validation_sequences"):
        del settings["train"][name]
    backbone = train_config.backbone_weights
    if backbone is not None and Path(backbone).is_file():
        settings["train"]["backbone_weights"] = _digest(backbone)
    return Artefact(
        root=frames[0].root,
        stage=STAGE,
        dataset=frames[0].dataset,
        split="+".join(artefact.split for artefact in frames),
        fingerprint=fingerprint(STAGE, VERSION, settings, [a.fingerprint for a in frames]),
    )


def train(
    frames: Sequence[Artefact],
    model_config: QDTrackConfig,
    train_config: TrainConfig,
    *,
    num_workers: int = 1,
    gpus_per_worker: float = 0.0,
    init_weights: str | None = None,
    validation: Artefact | None = None,
    score_epoch: EpochScore | None = None,
    on_metrics: OnMetrics | None = None,
    checkpoint_every: int = 500,
) -> Artefact:
    """Train, or go on with a training that was stopped; Ray must be connected.

    A training that was stopped, or whose workers were killed, takes up its newest checkpoint: the
    same number of optimiser steps in all, every planned pair once, and on CPUs with as many workers
    the same weights bit for bit. With another number of workers the pairs of each step stay the
    same, but random samples within images differ.

    Args:
        frames: finished artefacts of ingest: video sequences, stills, or both.
        model_config: of the network.
        train_config: of the training.
        num_workers: must divide `pairs_per_step`.
        gpus_per_worker: 0 trains on CPUs, one thread per worker.
        init_weights: a weights file of ours to start from, made with the same classes, input and
            conventions; see `initial_model`.
        validation: artefact whose losses are computed after every epoch.
        score_epoch: whatever else there is to measure after every epoch.
        on_metrics: called in this process for every step once, in order. After a restart of the
            job it is called for the steps before as well.
        checkpoint_every: steps between checkpoints; there is one after every epoch, too.

    Returns:
        The finished artefact: weights of the last step, and their history.

    Raises:
        ValueError: a config that does not fit the data, the workers or the initial weights.
        TrainingError: training cannot go on: a loss that is not finite, a frame that cannot be
            decoded, workers that died more than three times.
    """
    if train_config.pairs_per_step % num_workers:
        raise ValueError(
            f"train.pairs_per_step is {train_config.pairs_per_step}, which does not divide over "
            f"{num_workers} workers; choose a multiple of their number"
        )
    output = weights_artefact(frames, model_config, train_config, init_weights)
    if output.is_complete():
        return output
    import ray

    from pipeline.fit import fit
    from pipeline.qdtrack_training import QDTrackTask
    from pipeline.training_input import read_training_set

    def read(artefacts: Sequence[Artefact]) -> "TrainingSet":
        return read_training_set(
            artefacts, model_config.classes, scope=train_config.scope, window=train_config.window
        )

    training_set = read(frames)
    steps_per_epoch = _plan_first_epoch(training_set, train_config)
    validation_set = read([validation]) if validation and train_config.validation_pairs else None
    if validation_set is not None and len(validation_set.index) == 0:
        logger.warning("no validation losses: the validation split has no pair to compute them of")
        validation_set = None
    task = QDTrackTask(
        model_config=model_config,
        train_config=train_config,
        training_set=ray.put(training_set),
        validation_set=ray.put(validation_set),
        initial_state=ray.put(initial_model(model_config, train_config, init_weights).state_dict()),
        steps_per_epoch=steps_per_epoch,
        output=output,
        score_epoch=score_epoch,
    )

    def tell(step: int, metrics: dict[str, float]) -> None:
        unmatched = round(metrics["pairs_without_shared_identity"] * num_workers)
        if unmatched:
            logger.warning("step %d: %d pairs without a shared identity", step, unmatched)
        if on_metrics is not None:
            on_metrics(step, metrics)

    fit(
        task,
        num_workers=num_workers,
        gpus_per_worker=gpus_per_worker,
        on_metrics=tell,
        checkpoint_every=checkpoint_every,
    )
    inputs = {artefact.split: artefact.fingerprint for artefact in frames}
    details = {
        "origin": "quasar",
        "model": config_to_dict(model_config),
        "train": config_to_dict(train_config),
        "inputs": inputs,
        "steps": steps_per_epoch * train_config.optimizer.epochs,
        "num_workers": num_workers,
        "pairs": len(training_set.index),
        "frames_without_boxes": training_set.index.num_without_boxes,
        "frames_without_reference": training_set.index.num_without_reference,
    }
    output.finish([MODEL_PART], details)
    return output


def initial_model(
    model_config: QDTrackConfig, train_config: TrainConfig, init_weights: str | None = None
) -> "QDTrack":
    """The network before the first step.

    Args:
        model_config: of the network.
        train_config: its seed draws what is not loaded, its backbone weights are.
        init_weights: a weights file of ours, which is then all that is loaded. Its config may
            differ in what only training or suppression reads, but not in what the weights mean.

    Raises:
        ValueError: neither weights nor `backbone_weights` are given, or they do not fit; names the
            first field that differs.
    """
    import torch

    from models.qdtrack.model import QDTrack
    from models.weights import load_backbone_weights, load_weights

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train_config.seed)
        model = QDTrack(model_config)
    if init_weights is not None:
        loaded = load_weights(init_weights, QDTrack)
        _check_same_meaning(loaded.model.config, model_config, init_weights)
        try:
            model.load_state_dict(loaded.model.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{init_weights} does not fit the model's config: {error}") from error
    elif train_config.backbone_weights != RANDOM_BACKBONE:
        load_backbone_weights(model, train_config.backbone_weights)
    return model


def _check_same_meaning(found: QDTrackConfig, expected: QDTrackConfig, path: str) -> None:
    """Fields that no shape of a tensor shows, yet without which the numbers are worth nothing."""
    values = flatten(found)
    for name, value in flatten(expected).items():
        if name.startswith(_FIXED_BY_WEIGHTS) and values[name] != value:
            raise ValueError(
                f"{path} was trained with model.{name} {values[name]!r}, the config has {value!r}: "
                "they must be the same, change the config or start from other weights"
            )


def _plan_first_epoch(training_set: "TrainingSet", config: TrainConfig) -> int:
    """Steps of every epoch; says what is left out."""
    from datasets.pairs import plan_epoch

    index = training_set.index
    plan = plan_epoch(
        index,
        seed=config.seed,
        epoch=0,
        pairs_per_step=config.pairs_per_step,
        buffer=config.buffer,
    )
    logger.info(
        "%d pairs an epoch in %d steps of %d, %d other ones left out each time; %d frames without "
        "a usable box, %d that share no identity with a frame %d or fewer away",
        *(len(index) - plan.num_left_out, plan.num_steps, config.pairs_per_step),
        *(plan.num_left_out, index.num_without_boxes, index.num_without_reference, config.scope),
    )
    return plan.num_steps


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
