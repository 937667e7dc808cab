"""From stored frames to the pairs of every training step, in the order of the plan.

Windows of encoded frames come in (`pipeline.windows`); decoding and augmentation happen in the
training worker, in a thread that works ahead. Pixels stay bytes: they are normalised on the device
that trains, which costs a CPU as much as decoding them.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datasets.images import decode_image
from datasets.pairs import (
    PairIndex,
    PairSequence,
    WorkerPlan,
    index_pairs,
    pair_generator,
    plan_epoch,
)
from datasets.registry import BENCHMARKS
from datasets.schema import UNMAPPED_CLASS
from datasets.transforms import TrainingTargets, View, augment_pair, select_targets
from models.qdtrack import training
from models.qdtrack.config import InputConfig
from pipeline.frames import read_annotations
from pipeline.store import Artefact, Part
from pipeline.train import TrainConfig
from pipeline.windows import Window, WindowReader

T = TypeVar("T")

StepPairs = list[tuple[training.View, training.View]]
"""(key, reference) of every pair that a worker contributes to one step."""

_READ_THREADS: Final = 8
_STEPS_AHEAD: Final = 2
_WINDOWS_PER_READ: Final = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSet:
    """What the training workers know of the data beforehand: everything but the images."""

    index: PairIndex
    """Keys with their possible references."""
    parts: tuple[Part, ...]
    """Where the frames of each sequence of the index lie."""
    targets: tuple[TrainingTargets, ...]
    """Usable boxes of each sequence of the index; classes are the model's."""


def read_training_set(
    frames: Sequence[Artefact], classes: Sequence[str], *, scope: int, window: int
) -> TrainingSet:
    """Read the annotations of all sequences and find the possible pairs.

    Args:
        frames: finished artefacts of ingest, of video sequences and of stills.
        classes: of the model; boxes of other classes are not trained on.
        scope: see `TrainConfig`.
        window: see `TrainConfig`.

    Raises:
        ValueError: the model and a benchmark have no class in common.
    """
    places: list[tuple[Part, str, npt.NDArray[np.int16]]] = []
    for artefact in frames:
        benchmark = artefact.details()["benchmark"]
        class_map = _class_indices(benchmark, BENCHMARKS[benchmark].classes, classes)
        places += [
            (artefact.part(name), f"{artefact.dataset}/{artefact.split}/{name}", class_map)
            for name in artefact.sequences()
        ]
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        sequences = list(pool.map(lambda place: _read_sequence(*place), places))
    return TrainingSet(
        index=index_pairs(sequences, scope=scope, window=window),
        parts=tuple(part for part, _, _ in places),
        targets=tuple(sequence.targets for sequence in sequences),
    )


def iterate_steps(
    training_set: TrainingSet,
    config: TrainConfig,
    model_input: InputConfig,
    *,
    start_step: int = 0,
    rank: int = 0,
    num_workers: int = 1,
    read: WindowReader,
) -> Generator[StepPairs, None, None]:
    """Pairs of one worker for what is left of the training, a list per optimiser step.

    Everything about them follows from the arguments; `read` only brings the bytes.

    Args:
        training_set: of `read_training_set`.
        config: seed, epochs, order of pairs and augmentation.
        model_input: size of images.
        start_step: optimiser steps done already, in all.
        rank: of the worker.
        num_workers: over which the pairs of a step are shared.
        read: `stream_windows` or `read_windows`.

    Raises:
        ValueError: a stored frame cannot be decoded; names it.
    """
    preparer = _Preparer(training_set, config, model_input)
    plans = _plan(training_set.index, config, start_step, rank, num_workers)
    return work_ahead(preparer.steps(plans, read), _STEPS_AHEAD)


def _plan(
    index: PairIndex, config: TrainConfig, start_step: int, rank: int, num_workers: int
) -> Iterator[tuple[int, WorkerPlan]]:
    """What is left of every epoch."""
    epoch = 0
    while epoch < config.optimizer.epochs:
        whole = plan_epoch(
            index,
            seed=config.seed,
            epoch=epoch,
            pairs_per_step=config.pairs_per_step,
            buffer=config.buffer,
        )
        if start_step >= whole.num_steps:
            epoch += start_step // whole.num_steps
            start_step %= whole.num_steps
            continue
        yield epoch, whole.for_worker(rank, num_workers, start_step=start_step)
        epoch, start_step = epoch + 1, 0


def work_ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The same items, made by a thread that is up to `depth` of them ahead.

    Errors of the thread are raised here. Closing this iterator closes `items` too.
    """
    # One thread: calls of `next` follow each other, in order.
    with ThreadPoolExecutor(1, thread_name_prefix="work-ahead") as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
            items.close()


class _Preparer:
    """Decodes and augments pairs."""

    def __init__(
        self, training_set: TrainingSet, config: TrainConfig, model_input: InputConfig
    ) -> None:
        self._set = training_set
        self._config = config
        self._input = model_input

    def steps(
        self, plans: Iterator[tuple[int, WorkerPlan]], read: WindowReader
    ) -> Generator[StepPairs, None, None]:
        """All epochs one after the other."""
        for group in _grouped(plans):
            reads = [one for _, plan in group for one in plan.reads]
            windows = read(reads, self._set.parts)
            for epoch, plan in group:
                yield from self._epoch(epoch, plan, windows)

    def _epoch(
        self, epoch: int, plan: WorkerPlan, windows: Iterator[Window]
    ) -> Iterator[StepPairs]:
        """A window is held from its first pair to its last."""
        last_step = dict(zip(plan.read_index.ravel().tolist(), _step_numbers(plan), strict=True))
        held: dict[int, Window] = {}
        num_read = 0
        for step, (sequences, keys, references, reads) in enumerate(_steps(plan)):
            pairs = []
            for sequence, key, reference, read in zip(
                sequences, keys, references, reads, strict=True
            ):
                while num_read <= read:
                    held[num_read] = next(windows)
                    num_read += 1
                pairs.append(self._pair(epoch, sequence, key, reference, held[read]))
            for read in [read for read in held if last_step[read] <= step]:
                del held[read]
            yield pairs

    def _pair(
        self, epoch: int, sequence: int, key_frame: int, reference_frame: int, window: Window
    ) -> tuple[training.View, training.View]:
        key = self._decode(sequence, key_frame, window)
        is_same = key_frame == reference_frame
        reference = key if is_same else self._decode(sequence, reference_frame, window)
        name = self._set.index.names[sequence]
        views = augment_pair(
            key,
            reference,
            self._config.augment,
            long_side=self._input.long_side,
            short_side=self._input.short_side,
            rng=pair_generator(self._config.seed, epoch, name, key_frame),
        )
        return (
            self._label(sequence, key_frame, views[0]),
            self._label(sequence, reference_frame, views[1]),
        )

    def _decode(self, sequence: int, frame: int, window: Window) -> View:
        targets = self._set.targets[sequence]
        try:
            image = decode_image(window[frame])
        except ValueError as error:
            name = self._set.index.names[sequence]
            raise ValueError(f"{name}, frame {frame}: {error}; run ingest again") from error
        return View(image, targets.boxes_xyxy[targets.rows(frame)])

    def _label(self, sequence: int, frame: int, view: View) -> training.View:
        targets = self._set.targets[sequence]
        rows = targets.rows(frame)
        return training.View(*view, targets.class_indices[rows], targets.identities[rows])


def _grouped(
    plans: Iterator[tuple[int, WorkerPlan]],
) -> Iterator[list[tuple[int, WorkerPlan]]]:
    """Short epochs are read together, because starting to read takes seconds."""
    group: list[tuple[int, WorkerPlan]] = []
    for epoch, plan in plans:
        group.append((epoch, plan))
        if sum(len(plan.reads) for _, plan in group) >= _WINDOWS_PER_READ:
            yield group
            group = []
    if group:
        yield group


def _steps(
    plan: WorkerPlan,
) -> Iterator[tuple[list[int], list[int], list[int], list[int]]]:
    columns = (plan.sequence_index, plan.key_frames, plan.reference_frames, plan.read_index)
    for row in zip(*columns, strict=True):
        sequences, keys, references, reads = (values.tolist() for values in row)
        yield sequences, keys, references, reads


def _step_numbers(plan: WorkerPlan) -> list[int]:
    """Step of every pair, row by row."""
    steps: list[int] = np.repeat(np.arange(len(plan.key_frames)), plan.key_frames.shape[1]).tolist()
    return steps


def _read_sequence(part: Part, name: str, class_indices: npt.NDArray[np.int16]) -> PairSequence:
    details = part.details()
    sizes = [
        part.read_parquet(record.name, columns=["height", "width"])
        for record in part.files()
        if record.name.startswith("frames-")
    ]
    table = pa.concat_tables(sizes)
    image_sizes: npt.NDArray[Any] = np.stack(
        [table[column].to_numpy() for column in ("height", "width")], axis=1
    )
    annotations = read_annotations(part)
    mapped = replace(annotations, class_index=class_indices[annotations.class_index])
    return PairSequence(
        name=name,
        targets=select_targets(mapped, image_sizes, is_still=details["is_still"]),
        is_still=details["is_still"],
        broken_frames=details["broken_frames"],
    )


def _class_indices(
    benchmark: str, benchmark_classes: Sequence[str], classes: Sequence[str]
) -> npt.NDArray[np.int16]:
    """Class of the model for every class of the benchmark, and a last entry for -1: unmapped."""
    position = {name: index for index, name in enumerate(classes)}
    found = [position.get(name, UNMAPPED_CLASS) for name in benchmark_classes]
    if max(found) == UNMAPPED_CLASS:
        raise ValueError(
            f"the model's classes {', '.join(classes)} have none in common with those of "
            f"{benchmark}, {', '.join(benchmark_classes)}; change model.classes or the data"
        )
    return np.array([*found, UNMAPPED_CLASS], np.int16)
