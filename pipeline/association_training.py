"""Training the association of one class: from the stored instances to a weights artefact.

The state that is kept is the one that tracks best: after every epoch the validation sequences are
embedded, joined and scored as they will be in the end.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from datasets.schema import SequenceResult
from models.config_io import config_to_dict
from models.pointtrack.association_training import (
    rate_of_step,
    to_tensors,
    train_step,
)
from models.pointtrack.config import AssociationTrainConfig, PointTrackConfig
from models.pointtrack.items import (
    ItemArrays,
    TrackEntry,
    assemble_item,
    draw_item,
    item_generator,
    item_random,
)
from models.pointtrack.network import PointTrackNet
from models.pointtrack.schedule import build_optimizer
from pipeline.associate import AssociationConfig, associate_sequence, read_detections
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate
from pipeline.fit import OnMetrics, fit
from pipeline.frames import FrameReader, read_truth
from pipeline.model_store import MODEL_PART, STAGE
from pipeline.prepared_rows import InstanceRows
from pipeline.segment import EmbedConfig, embed_sequence
from pipeline.store import Artefact, fingerprint
from pipeline.training_input import work_ahead
from pipeline.training_loop import BestBy, StepPlace

VERSION: Final = 1
"""Raised when the code changes what is trained."""

SCORE: Final = "validation/sMOTSA"
"""By which the best state is chosen."""

_SHOWN: Final = ("sMOTSA", "MOTSA", "HOTA", "IDS")
_STEPS_AHEAD: Final = 2

Tracks = Mapping[str, Sequence[TrackEntry]]


class AssociationLearner:
    """A `pipeline.training_loop.Learner`; keeps the state with the best tracking score."""

    unit = "items"

    def __init__(self, model: PointTrackNet, config: AssociationTrainConfig) -> None:
        self.model = model
        self.epochs = config.schedule.epochs
        self.units_per_step = config.items_per_step
        self.best_by = BestBy(SCORE, "highest")
        self._config = config

    def settings(self) -> dict[str, Any]:
        """See `Learner`."""
        return {
            "model": config_to_dict(self.model.config),
            "train": config_to_dict(self._config),
        }

    def start_training(self) -> None:
        """See `Learner`."""
        self.model.train()

    def build_optimizer(self) -> torch.optim.Optimizer:
        """See `Learner`."""
        return build_optimizer(self.model, self._config.schedule)

    def build_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Not enabled: training is in float32, as published."""
        return torch.amp.GradScaler(device.type, enabled=False)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """See `Learner`."""
        return rate_of_step(step, steps_per_epoch=steps_per_epoch, config=self._config.schedule)

    def train_step(
        self,
        module: nn.Module,
        items: Sequence[ItemArrays],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        place: StepPlace,
    ) -> dict[str, float]:
        """See `Learner`."""
        return train_step(
            module,
            [to_tensors(item, place.device) for item in items],
            optimizer,
            rate=place.rate,
            margin=self.model.config.margin,
        )


@dataclass(frozen=True, kw_only=True)
class TrackingScorer:
    """Embeds, joins and scores the masks of some sequences with the network as it is; picklable."""

    frames: Artefact
    detections: Artefact
    """With masks of the class, of any origin."""
    class_name: str
    num_sequences: int | None
    """None for all."""
    embed: EmbedConfig
    association: AssociationConfig
    evaluation: EvaluationConfig

    def __call__(self, model: PointTrackNet, epoch: int) -> dict[str, float]:
        """Numbers of the class as ``validation/<metric>``; none where nothing is to be scored."""
        names = self.detections.sequences()[: self.num_sequences]
        if not names:
            return {}
        model.eval()
        truths, results = {}, {}
        for name in names:
            part = self.frames.part(name)
            masks = read_detections(self.detections.part(name))
            detections = embed_sequence(model, FrameReader(part), masks, self.embed)
            tracks = associate_sequence(detections, self.association)
            truths[name] = read_truth(part)
            results[name] = SequenceResult(
                name=name, tracks=tracks, num_frames=detections.num_frames
            )
        report = evaluate(build_protocol(self.evaluation), truths, results)
        numbers = report.metrics[self.class_name]
        return {f"validation/{name}": float(numbers[name]) for name in _SHOWN}


@dataclass(frozen=True, kw_only=True)
class AssociationTask:
    """A `pipeline.training_worker.TrainingTask`."""

    model_config: PointTrackConfig
    config: AssociationTrainConfig
    instances: Artefact
    tracks: Any
    """Reference to the tracks, `read_tracks_of`."""
    score_epoch: Callable[[PointTrackNet, int], dict[str, float]] | None
    output: Artefact

    @property
    def steps_per_epoch(self) -> int:
        """See `TrainingTask`."""
        return self.config.schedule.items_per_epoch // self.config.items_per_step

    @property
    def num_steps(self) -> int:
        """See `TrainingTask`."""
        return self.steps_per_epoch * self.config.schedule.epochs

    def build_learner(self) -> AssociationLearner:
        """See `TrainingTask`; every worker draws the same initial weights from the seed."""
        return AssociationLearner(initial_network(self.model_config, self.config), self.config)

    def steps(
        self, rank: int, num_workers: int, start_step: int
    ) -> Generator[list[ItemArrays], None, None]:
        """See `TrainingTask`."""
        import ray

        return iterate_items(
            InstanceRows([self.instances]),
            ray.get(self.tracks),
            self.model_config,
            self.config,
            start_step=start_step,
            rank=rank,
            num_workers=num_workers,
        )

    def evaluate(self, model: PointTrackNet, epoch: int, num_workers: int) -> dict[str, float]:
        """See `TrackingScorer`."""
        return {} if self.score_epoch is None else self.score_epoch(model, epoch)


def train_association(
    instances: Artefact,
    model_config: PointTrackConfig,
    config: AssociationTrainConfig,
    *,
    score_epoch: TrackingScorer | None = None,
    num_workers: int = 1,
    gpus_per_worker: float = 0.0,
    on_metrics: OnMetrics = lambda step, row: None,
    checkpoint_every: int = 500,
) -> Artefact:
    """Train, or go on with a training that was stopped; Ray must be connected.

    Args:
        instances: finished artefact of `pipeline.prepare.prepare_instances`.
        model_config: of the network.
        config: of the training.
        score_epoch: scores the network after every epoch; the best state is kept. None keeps the
            last.
        num_workers: must divide `items_per_step`.
        gpus_per_worker: 0 trains on CPUs, one thread per worker.
        on_metrics: see `pipeline.fit.fit`.
        checkpoint_every: steps between checkpoints.

    Raises:
        ValueError: a config that does not fit the workers, or no tracks to train on.
        TrainingError: training cannot go on.
    """
    if config.items_per_step % num_workers:
        raise ValueError(
            f"items_per_step is {config.items_per_step}, which does not divide over {num_workers} "
            "workers; choose a multiple of their number"
        )
    if config.validation_sequences == 0:
        score_epoch = None
    settings = {"model": config_to_dict(model_config), "train": config_to_dict(config)}
    judged_by: dict[str, Any] | None = None
    if score_epoch is not None:  # the best state depends on what it is judged by
        judged_by = {
            "detections": score_epoch.detections.fingerprint,
            "embed": config_to_dict(score_epoch.embed),
            "association": config_to_dict(score_epoch.association),
            "evaluation": config_to_dict(score_epoch.evaluation),
        }
    output = Artefact(
        root=instances.root,
        stage=STAGE,
        dataset=instances.dataset,
        split=instances.split,
        fingerprint=fingerprint(
            "association", VERSION, {**settings, "judged_by": judged_by}, [instances.fingerprint]
        ),
    )
    if output.is_complete():
        return output
    import ray

    tracks = read_tracks_of(instances)
    if len(tracks) < 2:
        raise ValueError(
            f"{instances.dataset}/{instances.split}: {len(tracks)} tracks of "
            f"{model_config.class_name}, expected at least 2 to tell apart"
        )
    task = AssociationTask(
        model_config=model_config,
        config=config,
        instances=instances,
        tracks=ray.put(tracks),
        score_epoch=score_epoch,
        output=output,
    )
    fit(
        task,
        num_workers=num_workers,
        gpus_per_worker=gpus_per_worker,
        on_metrics=on_metrics,
        checkpoint_every=checkpoint_every,
    )
    details = {
        "origin": "quasar",
        "network": "pointtrack",
        **settings,
        "judged_by": judged_by,
        "inputs": {instances.split: instances.fingerprint},
        "steps": task.num_steps,
        "tracks": len(tracks),
        "num_workers": num_workers,
    }
    output.finish([MODEL_PART], details)
    return output


def initial_network(
    model_config: PointTrackConfig, config: AssociationTrainConfig
) -> PointTrackNet:
    """The network before the first step, from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return PointTrackNet(model_config)


def read_tracks_of(instances: Artefact) -> dict[str, list[TrackEntry]]:
    """Entries of every track, ``<sequence>_<identity>``, in order of first appearance.

    Entries are numbered over the sequences in order, as `InstanceRows` counts them.
    """
    tracks: dict[str, list[TrackEntry]] = {}
    rows = InstanceRows([instances])
    for place, (sequence, frame_index, identity) in enumerate(rows.keys()):
        tracks.setdefault(f"{sequence}_{identity}", []).append(TrackEntry(frame_index, place))
    return tracks


def iterate_items(
    rows: InstanceRows,
    tracks: Tracks,
    model_config: PointTrackConfig,
    config: AssociationTrainConfig,
    *,
    start_step: int = 0,
    rank: int = 0,
    num_workers: int = 1,
) -> Generator[list[ItemArrays], None, None]:
    """Items of one worker for what is left of the training, a list per optimiser step.

    An item follows from the seed, its epoch and its number alone, so items are the same for any
    number of workers, and after a restart.
    """
    steps = _items(rows, tracks, model_config, config, start_step, rank, num_workers)
    return work_ahead(steps, _STEPS_AHEAD)


def _items(
    rows: InstanceRows,
    tracks: Tracks,
    model_config: PointTrackConfig,
    config: AssociationTrainConfig,
    start_step: int,
    rank: int,
    num_workers: int,
) -> Generator[list[ItemArrays], None, None]:
    per_step = config.items_per_step
    steps_per_epoch = config.schedule.items_per_epoch // per_step
    first_epoch, in_epoch = divmod(start_step, steps_per_epoch)
    for epoch in range(first_epoch, config.schedule.epochs):
        for step in range(in_epoch, steps_per_epoch):
            numbers = range(step * per_step + rank, (step + 1) * per_step, num_workers)
            yield [_item(rows, tracks, model_config, config, epoch, n) for n in numbers]
        in_epoch = 0


def _item(
    rows: InstanceRows,
    tracks: Tracks,
    model_config: PointTrackConfig,
    config: AssociationTrainConfig,
    epoch: int,
    number: int,
) -> ItemArrays:
    drawn = draw_item(tracks, item_random(config.seed, epoch, number), config.items)
    return assemble_item(
        [rows.row(entry) for entry in drawn.entries],
        drawn.labels,
        item_generator(config.seed, epoch, number),
        offset_noise=config.items.offset_noise,
        num_points=model_config.num_points,
        num_environment_points=model_config.num_environment_points,
    )
