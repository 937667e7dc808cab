"""Training the segmentation of one class: from stored crops or frames to a weights artefact."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import nn

from datasets.images import decode_image
from datasets.mots_crops import IGNORE, map_instances
from datasets.mots_transforms import (
    MappedImage,
    pad_to,
    random_brightness,
    random_crop,
    random_flip,
)
from models.config_io import config_to_dict
from models.pointtrack.config import STRIDE, SegmentationTrainConfig, SpatialEmbeddingConfig
from models.pointtrack.losses import spatial_embedding_terms
from models.pointtrack.segmentation import SpatialEmbedding
from models.pointtrack.segmentation_training import (
    SegmentationBatch,
    build_optimizer,
    learning_rate,
    loss_values,
    make_batch,
    start_training,
    train_step,
)
from pipeline.fit import OnMetrics, fit
from pipeline.frames import FrameReader, read_annotations
from pipeline.model_store import MODEL_PART, STAGE, load_network
from pipeline.prepare import class_index_of
from pipeline.prepared_rows import CropRows
from pipeline.store import Artefact, fingerprint
from pipeline.training_input import work_ahead
from pipeline.training_loop import BestBy, StepPlace

VERSION: Final = 1
"""Raised when the code changes what is trained."""

_STEPS_AHEAD: Final = 2
_VALIDATION_BATCH: Final = 2


class Samples(Protocol):
    """Images with instance maps, in a fixed order."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> MappedImage:
        """One of them, decoded."""


class SampleSource(Protocol):
    """Where samples lie: small and picklable."""

    @property
    def fingerprint(self) -> str:
        """Of all that is in them."""

    def open(self) -> Samples:
        """In the process that reads them."""


@dataclass(frozen=True, kw_only=True)
class CropSource:
    """The crops of some artefacts of `prepare_crops`."""

    crops: tuple[Artefact, ...]

    @property
    def fingerprint(self) -> str:
        """See `SampleSource`."""
        return "+".join(artefact.fingerprint for artefact in self.crops)

    def open(self) -> Samples:
        """See `SampleSource`."""
        return _Crops(CropRows(self.crops))


@dataclass(frozen=True, kw_only=True)
class FrameSource:
    """Some frames of an artefact of ingest."""

    frames: Artefact
    class_name: str
    selected: tuple[tuple[str, int], ...]
    """Sequence and index, as of `pipeline.prepare.select_frames`."""

    @property
    def fingerprint(self) -> str:
        """See `SampleSource`; which frames are selected follows from the frames and the class."""
        return f"{self.frames.fingerprint}/{self.class_name}/{len(self.selected)}"

    def open(self) -> Samples:
        """See `SampleSource`."""
        return _Frames(self)


class SegmentationLearner:
    """A `pipeline.training_loop.Learner`; keeps the state with the lowest validation loss."""

    unit = "images"

    def __init__(self, model: SpatialEmbedding, config: SegmentationTrainConfig) -> None:
        self.model = model
        self.epochs = config.epochs
        self.units_per_step = config.images_per_step
        self.best_by = BestBy("validation_total", "lowest")
        self._config = config

    def settings(self) -> dict[str, Any]:
        """See `Learner`."""
        return {
            "model": config_to_dict(self.model.config),
            "train": config_to_dict(self._config),
        }

    def start_training(self) -> None:
        """See `Learner`."""
        start_training(self.model, self._config)

    def build_optimizer(self) -> torch.optim.Optimizer:
        """See `Learner`."""
        return build_optimizer(self.model, self._config)

    def build_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """Not enabled: training is in float32, as published."""
        return torch.amp.GradScaler(device.type, enabled=False)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """See `Learner`."""
        return learning_rate(step, steps_per_epoch=steps_per_epoch, config=self._config)

    def train_step(
        self,
        module: nn.Module,
        items: Sequence[MappedImage],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        place: StepPlace,
    ) -> dict[str, float]:
        """See `Learner`; dropout follows from the step and the rank."""
        batch = _make_batch(items, self._config, place.device)
        state = np.random.default_rng([self._config.seed, place.step, place.rank])
        torch.manual_seed(int(state.integers(2**63)))
        return train_step(module, batch, optimizer, rate=place.rate, config=self._config)


@dataclass(frozen=True, kw_only=True)
class SegmentationTask:
    """A `pipeline.training_worker.TrainingTask`."""

    model_config: SpatialEmbeddingConfig
    config: SegmentationTrainConfig
    source: SampleSource
    validation: SampleSource | None
    initial_state: Any
    """Reference to the model's state before the first step."""
    steps_per_epoch: int
    output: Artefact

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.config.epochs

    def build_learner(self) -> SegmentationLearner:
        """See `TrainingTask`."""
        import ray

        model = SpatialEmbedding(self.model_config)
        model.load_state_dict(ray.get(self.initial_state))
        return SegmentationLearner(model, self.config)

    def steps(
        self, rank: int, num_workers: int, start_step: int
    ) -> Generator[list[MappedImage], None, None]:
        """See `TrainingTask`."""
        return iterate_steps(
            self.source.open(),
            self.config,
            start_step=start_step,
            rank=rank,
            num_workers=num_workers,
        )

    def evaluate(self, model: SpatialEmbedding, epoch: int, num_workers: int) -> dict[str, float]:
        """See `validate`; nothing where there is nothing to validate on."""
        if self.validation is None:
            return {}
        return validate(model, self.validation.open(), self.config)


def train_segmentation(
    source: SampleSource,
    model_config: SpatialEmbeddingConfig,
    config: SegmentationTrainConfig,
    *,
    root: str,
    dataset: str,
    split: str,
    start: Artefact | None = None,
    validation: SampleSource | None = None,
    num_workers: int = 1,
    gpus_per_worker: float = 0.0,
    on_metrics: OnMetrics = lambda step, row: None,
    checkpoint_every: int = 500,
    must_exist: bool = False,
) -> Artefact:
    """Train one stage, or go on with one that was stopped; Ray must be connected.

    Args:
        source: what is trained on.
        model_config: of the network.
        config: of the stage.
        root: of all artefacts.
        dataset: name of the data, for the place of the weights.
        split: likewise.
        start: weights to start from; None draws them from the seed.
        validation: frames whose loss is computed after every epoch; the state with the lowest one
            is kept. Without any, the last state is.
        num_workers: must divide `images_per_step`.
        gpus_per_worker: 0 trains on CPUs, one thread per worker.
        on_metrics: see `pipeline.fit.fit`.
        checkpoint_every: steps between checkpoints.
        must_exist: train nothing, only find what was trained.

    Raises:
        ValueError: a config that does not fit the data or the workers, or nothing is found.
        TrainingError: training cannot go on.
    """
    if config.images_per_step % num_workers:
        raise ValueError(
            f"images_per_step is {config.images_per_step}, which does not divide over "
            f"{num_workers} workers; choose a multiple of their number"
        )
    if config.validation_images == 0:
        validation = None
    inputs = [source.fingerprint, start.fingerprint if start else "none"]
    # The best state depends on what it is judged on.
    inputs.append(validation.fingerprint if validation else "none")
    settings = {"model": config_to_dict(model_config), "train": config_to_dict(config)}
    output = Artefact(
        root=root,
        stage=STAGE,
        dataset=dataset,
        split=split,
        fingerprint=fingerprint("segmentation", VERSION, settings, inputs),
    )
    if output.is_complete():
        return output
    if must_exist:
        raise ValueError(
            f"{dataset}/{split}: this segmentation of {model_config.class_name} was not trained "
            "yet; train it with --stage segmentation, or give --segmentation-weights"
        )
    import ray

    num_samples = len(source.open())
    steps_per_epoch = _images_per_epoch(num_samples, config) // config.images_per_step
    if steps_per_epoch == 0:
        raise ValueError(
            f"{dataset}/{split}: {num_samples} images with a {model_config.class_name} are fewer "
            f"than the {config.images_per_step} of one step"
        )
    task = SegmentationTask(
        model_config=model_config,
        config=config,
        source=source,
        validation=validation,
        initial_state=ray.put(_initial_state(model_config, config, start)),
        steps_per_epoch=steps_per_epoch,
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
        "network": "spatial_embedding",
        **settings,
        "start": start.fingerprint if start else None,
        "steps": task.num_steps,
        "images": num_samples,
        "num_workers": num_workers,
    }
    output.finish([MODEL_PART], details)
    return output


def iterate_steps(
    samples: Samples,
    config: SegmentationTrainConfig,
    *,
    start_step: int = 0,
    rank: int = 0,
    num_workers: int = 1,
) -> Generator[list[MappedImage], None, None]:
    """Images of one worker for what is left of the training, a list per optimiser step.

    Which image a step takes and how it is varied follows from its place in the training alone, so
    steps are the same for any number of workers, and after a restart.
    """
    return work_ahead(_steps(samples, config, start_step, rank, num_workers), _STEPS_AHEAD)


@torch.no_grad()
def validate(
    model: SpatialEmbedding, samples: Samples, config: SegmentationTrainConfig
) -> dict[str, float]:
    """Mean loss and IoU on fixed windows of the first `validation_images` samples.

    Args:
        model: is left in evaluation mode.
        samples: frames; every image has one window, whose place follows from the seed.
        config: of the stage.

    Returns:
        `validation_total` and its parts, means over images, and `validation_iou`, the mean over
        instances of the IoU of phi > 0.5 and the true mask. Empty without samples.
    """
    count = len(samples)
    if config.validation_images is not None:
        count = min(count, config.validation_images)
    if count == 0:
        return {}
    device = next(model.parameters()).device
    model.eval()
    sums: dict[str, float] = {}
    ious: list[float] = []
    for first in range(0, count, _VALIDATION_BATCH):
        indices = range(first, min(first + _VALIDATION_BATCH, count))
        windows = [_validation_window(samples.sample(i), i, config) for i in indices]
        batch = _make_batch(windows, config, device)
        terms = spatial_embedding_terms(
            model(batch.images),
            batch.instances,
            batch.labels,
            foreground_weight=config.foreground_weight,
            is_validation=True,
        )
        ious += terms.ious.tolist()
        for name, value in loss_values(terms).items():
            sums[name] = sums.get(name, 0.0) + value * len(windows)
    means = {f"validation_{name}": value / count for name, value in sums.items()}
    return {**means, "validation_iou": float(np.mean(ious)) if ious else 0.0}


class _Crops:
    def __init__(self, rows: CropRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def sample(self, index: int) -> MappedImage:
        crop = self._rows.row(index)
        return MappedImage(crop.image, crop.instances)


class _Frames:
    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._class_index = class_index_of(source.frames, source.class_name)
        parts = {name: source.frames.part(name) for name in dict(source.selected)}
        self._readers = {name: FrameReader(part) for name, part in parts.items()}
        self._annotations = {name: read_annotations(part) for name, part in parts.items()}

    def __len__(self) -> int:
        return len(self._source.selected)

    def sample(self, index: int) -> MappedImage:
        name, frame_index = self._source.selected[index]
        [frame] = self._readers[name].read(frame_index, frame_index + 1)
        where = f"{name}, frame {frame_index}"
        try:
            image = decode_image(frame.image)
        except ValueError as error:
            raise ValueError(f"{where}: {error}; run ingest again") from error
        annotations = self._annotations[name]
        here = annotations.select(annotations.frame_index == frame_index)
        instances, _ = map_instances(here, self._class_index, image.shape[:2], where)
        return MappedImage(image, instances)


def _initial_state(
    model_config: SpatialEmbeddingConfig, config: SegmentationTrainConfig, start: Artefact | None
) -> dict[str, torch.Tensor]:
    if start is not None:
        found = load_network(start, SpatialEmbedding)
        if found.config.class_name != model_config.class_name:
            raise ValueError(
                f"{start.folder}: weights that find {found.config.class_name}, expected "
                f"{model_config.class_name}"
            )
        return found.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SpatialEmbedding(model_config).state_dict()


def _images_per_epoch(num_samples: int, config: SegmentationTrainConfig) -> int:
    if config.selection == "first":
        return min(num_samples, config.images_per_epoch)
    return config.images_per_epoch if num_samples else 0


def _steps(
    samples: Samples, config: SegmentationTrainConfig, start_step: int, rank: int, num_workers: int
) -> Generator[list[MappedImage], None, None]:
    count = _images_per_epoch(len(samples), config)
    per_step = config.images_per_step
    first_epoch, in_epoch = divmod(start_step, count // per_step)
    for epoch in range(first_epoch, config.epochs):
        order = _order(len(samples), count, epoch, config)
        for step in range(in_epoch, count // per_step):
            places = range(step * per_step + rank, (step + 1) * per_step, num_workers)
            yield [_vary(samples.sample(order[p]), epoch, p, config) for p in places]
        in_epoch = 0


def _order(num_samples: int, count: int, epoch: int, config: SegmentationTrainConfig) -> list[int]:
    rng = np.random.default_rng([config.seed, epoch])
    drawn = (
        rng.permutation(count)
        if config.selection == "first"
        else rng.integers(num_samples, size=count)
    )
    order: list[int] = drawn.tolist()
    return order


def _vary(
    sample: MappedImage, epoch: int, place: int, config: SegmentationTrainConfig
) -> MappedImage:
    rng = np.random.default_rng([config.seed, epoch, place])
    if config.crop_height is not None and config.crop_width is not None:
        sample = random_crop(sample, config.crop_height, config.crop_width, rng)
    if config.vary_brightness:
        sample = random_brightness(sample, rng)
    return random_flip(sample, config.flip_probability, rng)


def _make_batch(
    items: Sequence[MappedImage], config: SegmentationTrainConfig, device: torch.device
) -> SegmentationBatch:
    """Images of different sizes, such as crops of small frames, are padded to the largest."""
    height, width = (
        -(-max(item.instances.shape[axis] for item in items) // STRIDE) * STRIDE for axis in (0, 1)
    )
    padded = [pad_to(item, height, width) for item in items]
    return make_batch(
        [item.image for item in padded],
        [item.instances for item in padded],
        dont_care_id=IGNORE,
        dont_care=config.dont_care,
        device=device,
    )


def _validation_window(
    sample: MappedImage, index: int, config: SegmentationTrainConfig
) -> MappedImage:
    rng = np.random.default_rng([config.seed, index])
    return random_crop(sample, config.validation_height, config.validation_width, rng)
