"""Pairs in the order of the plan, whoever reads the frames."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.images import decode_image
from datasets.pairs import WindowRead, plan_epoch
from datasets.transforms import AugmentConfig
from pipeline.frames import FrameReader
from pipeline.store import Artefact
from pipeline.train import TrainConfig
from pipeline.training_input import (
    StepPairs,
    TrainingSet,
    iterate_steps,
    read_training_set,
    work_ahead,
)
from pipeline.windows import Window, WindowReader, read_windows, stream_windows
from tests.small_model import MODEL
from tests.training_scene import TRAIN, write_training_frames

PLAIN = replace(TRAIN, augment=AugmentConfig(flip_probability=0.0))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Artefact]:
    return write_training_frames(tmp_path_factory.mktemp("frames"))


@pytest.fixture
def training_set(frames: list[Artefact]) -> TrainingSet:
    return read_training_set(frames, MODEL.classes, scope=3, window=5)


def steps_of(
    training_set: TrainingSet,
    config: TrainConfig = TRAIN,
    *,
    start_step: int = 0,
    rank: int = 0,
    num_workers: int = 1,
    read: WindowReader = read_windows,
) -> list[StepPairs]:
    made = iterate_steps(
        training_set,
        config,
        MODEL.input,
        start_step=start_step,
        rank=rank,
        num_workers=num_workers,
        read=read,
    )
    return list(made)


def assert_equal(first: list[StepPairs], second: list[StepPairs]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert len(one) == len(other)
        for pair, other_pair in zip(one, other, strict=True):
            for view, other_view in zip(pair, other_pair, strict=True):
                for column, other_column in zip(view, other_view, strict=True):
                    np.testing.assert_array_equal(column, other_column)


def test_training_set_knows_boxes_in_the_models_classes(training_set: TrainingSet) -> None:
    assert training_set.index.names == (
        "bdd100k/train/train-0",
        "bdd100k/train/train-1",
        "bdd100k/train/train-2",
        "bdd100k/det_train/det_train-0",
    )
    # car and bus, 2 and 4 of BDD100K, are 0 and 1 of the model.
    assert training_set.targets[0].class_indices.tolist() == [0, 0, 1] * 7
    assert len(training_set.index) == 3 * 7 + 4


def test_classes_that_the_model_lacks_are_dropped(frames: list[Artefact]) -> None:
    only_buses = read_training_set(frames, ["bus"], scope=3, window=5)
    assert only_buses.targets[0].class_indices.tolist() == [0] * 7
    assert only_buses.targets[0].identities.tolist() == [2] * 7


def test_a_model_for_something_else_is_refused(frames: list[Artefact]) -> None:
    with pytest.raises(ValueError, match="the model's classes boat have none in common"):
        read_training_set(frames, ["boat"], scope=3, window=5)


def test_steps_hold_the_planned_frames_and_boxes(
    frames: list[Artefact], training_set: TrainingSet
) -> None:
    plan = plan_epoch(training_set.index, seed=0, epoch=1, pairs_per_step=2, buffer=8)
    made = steps_of(training_set, PLAIN, start_step=12)
    assert len(made) == plan.num_steps == 12
    for step, lane in np.ndindex(12, 2):
        sequence = int(plan.sequence_index[step, lane])
        name = training_set.index.names[sequence].rpartition("/")[2]
        part = frames[int(sequence == 3)].part(name)
        planned = (plan.key_frames[step, lane], plan.reference_frames[step, lane])
        for frame, view in zip(map(int, planned), made[step][lane], strict=True):
            stored = FrameReader(part).read(frame, frame + 1)[0]
            np.testing.assert_array_equal(view.image, decode_image(stored.image))
            targets = training_set.targets[sequence]
            rows = targets.rows(frame)
            np.testing.assert_array_equal(view.boxes_xyxy, targets.boxes_xyxy[rows])
            assert view.class_indices.tolist() == [0, 0, 1]
            assert view.identities.tolist() == [0, 1, 2]


def test_resuming_gives_the_remaining_steps(training_set: TrainingSet) -> None:
    whole = steps_of(training_set)
    assert len(whole) == 24
    for start_step in (5, 12, 13, 24):
        assert_equal(whole[start_step:], steps_of(training_set, start_step=start_step))


def test_workers_share_every_step(training_set: TrainingSet) -> None:
    whole = steps_of(training_set)
    shares = [steps_of(training_set, rank=rank, num_workers=2) for rank in range(2)]
    assert_equal(whole, [first + second for first, second in zip(*shares, strict=True)])


def test_epochs_vary_the_pairs(training_set: TrainingSet) -> None:
    steps = steps_of(training_set)
    first, second = steps[0][0][0].image, steps[12][0][0].image
    assert first.shape != second.shape or not np.array_equal(first, second)


def test_windows_are_read_once_and_given_back(training_set: TrainingSet) -> None:
    """At the end of a lane nothing is held any more but the steps ahead."""
    alive: list[int] = []

    class Counted(Window):
        def __del__(self) -> None:
            alive[self[-1]] = 0

    def read(reads: tuple[WindowRead, ...], parts: object) -> Iterator[Window]:
        assert len(set(reads)) == len(reads)
        for window in read_windows(reads, training_set.parts):
            alive.append(1)
            yield Counted({**window, -1: len(alive) - 1})

    once = replace(TRAIN.optimizer, epochs=1)
    config = replace(PLAIN, pairs_per_step=1, buffer=1, optimizer=once)
    for _ in iterate_steps(training_set, config, MODEL.input, read=read):  # type: ignore[arg-type]
        # One in use, one for each step ahead, one not yet collected.
        assert sum(alive) <= 4
    assert len(alive) == 3 * 2 + 1


def test_a_frame_that_cannot_be_decoded_is_named(training_set: TrainingSet) -> None:
    def broken(reads: tuple[WindowRead, ...], parts: object) -> Iterator[Window]:
        for read in reads:
            yield dict.fromkeys(range(read.start, read.stop), b"\xff\xd8 cut short")

    with pytest.raises(ValueError, match=r"bdd100k/(det_)?train/\S+, frame \d: .*run ingest again"):
        steps_of(training_set, read=broken)  # type: ignore[arg-type]


def test_work_ahead_keeps_the_order_and_stops_at_errors() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise KeyError("six")

    ahead = work_ahead(items(), 3)  # type: ignore[arg-type]
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="six"):
        next(ahead)


def test_work_ahead_closes_what_it_reads() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    ahead = work_ahead(items(), 3)  # type: ignore[arg-type]
    assert next(ahead) == 0
    ahead.close()
    assert closed == [True]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ray_data_gives_the_same_pairs_even_without_a_free_cpu(
    training_set: TrainingSet,
) -> None:
    """Consumers that hold every CPU starve lazy Ray Data work silently, for ever."""
    import ray

    @ray.remote(num_cpus=2)
    class Consumer:
        def steps(self, training_set: TrainingSet, start_step: int) -> list[StepPairs]:
            made = iterate_steps(
                training_set,
                TRAIN,
                MODEL.input,
                start_step=start_step,
                read=stream_windows,
            )
            return list(made)

    consumer = Consumer.remote()
    for start_step in (0, 7):
        found = ray.get(consumer.steps.remote(training_set, start_step), timeout=120)
        assert_equal(found, steps_of(training_set, start_step=start_step))
    ray.kill(consumer)


def test_the_window_module_imports_no_torch(repository: Path) -> None:
    """Every Ray Data process imports it; torch would cost each of them seconds."""
    import subprocess
    import sys

    code = "import sys, pipeline.windows; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"
