"""The training loop: alone, on two ranks, and the whole under Ray Train against the loop alone."""

import io
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.qdtrack.config import OptimizerConfig
from models.qdtrack.model import QDTrack
from pipeline.fit import read_history
from pipeline.model_store import load_model
from pipeline.qdtrack_training import QDTrackLearner, validation_losses
from pipeline.store import Artefact
from pipeline.train import TrainConfig, initial_model, train, weights_artefact
from pipeline.training_input import TrainingSet, iterate_steps, read_training_set
from pipeline.training_loop import Checkpoint, History, Hooks, TrainingError, run_training
from pipeline.windows import read_windows
from tests.small_model import MODEL
from tests.training_scene import TRAIN, assert_same_state, write_training_frames

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
STEPS_PER_EPOCH = 12


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Artefact]:
    return write_training_frames(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def training_set(frames: list[Artefact]) -> TrainingSet:
    return read_training_set(frames, MODEL.classes, scope=TRAIN.scope, window=TRAIN.window)


class Record:
    """What the hooks were told; checkpoints as they would be on disk."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.checkpoints: dict[int, bytes] = {}

    def hooks(self) -> Hooks:
        return Hooks(on_step=self._step, on_checkpoint=self._checkpoint)

    def checkpoint(self, step: int) -> Checkpoint:
        loaded: Checkpoint = torch.load(io.BytesIO(self.checkpoints[step]), weights_only=True)
        return loaded

    def losses(self) -> dict[int, float]:
        return {step: row["total"] for step, row in self.rows.items()}

    def _step(self, step: int, row: dict[str, float]) -> None:
        assert step not in self.rows
        self.rows[step] = row

    def _checkpoint(self, checkpoint: Checkpoint | None) -> None:
        assert checkpoint is not None
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        self.checkpoints[checkpoint["schedule"]["step"]] = buffer.getvalue()


def run_here(
    training_set: TrainingSet,
    config: TrainConfig = TRAIN,
    checkpoint: Checkpoint | None = None,
) -> tuple[QDTrack, Record]:
    """The loop in this process, fed by this process."""
    model, record = initial_model(MODEL, config), Record()

    def steps(start_step: int) -> Any:
        return iterate_steps(
            training_set, config, MODEL.input, start_step=start_step, read=read_windows
        )

    run_training(
        QDTrackLearner(model, config),
        steps,
        steps_per_epoch=STEPS_PER_EPOCH,
        device=CPU,
        hooks=record.hooks(),
        checkpoint_every=5,
        checkpoint=checkpoint,
    )
    return model, record


@pytest.fixture(scope="module")
def uninterrupted(training_set: TrainingSet) -> tuple[QDTrack, Record]:
    torch.set_num_threads(1)
    return run_here(training_set)


def test_every_step_is_reported_with_every_number(uninterrupted: tuple[QDTrack, Record]) -> None:
    _, record = uninterrupted
    assert list(record.rows) == list(range(1, 2 * STEPS_PER_EPOCH + 1))
    row = record.rows[1]
    losses = ("rpn_cls", "rpn_bbox", "cls", "bbox", "track", "track_aux")
    assert row["total"] == pytest.approx(sum(row[name] for name in losses), rel=1e-6)
    assert row["positives_per_pair"] >= 3
    assert row["pairs_without_shared_identity"] == 0
    assert 0 < row["data_wait_share"] < 1
    assert row["pairs_per_s"] > 0
    # 0.01 * (1 - (1 - 1/4) * (1 - 0.001)) at the second step of four of warm-up
    assert record.rows[2]["learning_rate"] == pytest.approx(0.01 * (1 - 0.75 * 0.999))
    assert record.rows[STEPS_PER_EPOCH]["learning_rate"] == 0.01
    assert record.rows[STEPS_PER_EPOCH + 1]["learning_rate"] == pytest.approx(0.001)


def test_it_learns(uninterrupted: tuple[QDTrack, Record]) -> None:
    losses = list(uninterrupted[1].losses().values())
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


@pytest.mark.parametrize("step", [5, 10, 12, 20, 24])
def test_resuming_gives_the_same_bits(
    training_set: TrainingSet, uninterrupted: tuple[QDTrack, Record], step: int
) -> None:
    model, record = uninterrupted
    resumed, rest = run_here(training_set, checkpoint=record.checkpoint(step))
    assert_same_state(resumed.state_dict(), model.state_dict())
    expected = {s: loss for s, loss in record.losses().items() if s > step}
    assert rest.losses() == expected


def test_checkpoints_come_on_time_and_hold_what_is_needed(
    uninterrupted: tuple[QDTrack, Record],
) -> None:
    _, record = uninterrupted
    assert list(record.checkpoints) == [5, 10, 12, 15, 20, 24]
    checkpoint = record.checkpoint(15)
    assert checkpoint["position"] == {"epoch": 1, "step": 3}
    assert checkpoint["schedule"] == {"step": 15, "steps_per_epoch": STEPS_PER_EPOCH}
    assert checkpoint["random"]["cpu"].dtype == torch.uint8
    assert len(checkpoint["optimizer"]["state"]) > 0
    assert "scaler" in checkpoint
    assert checkpoint["config"]["train"]["scope"] == TRAIN.scope
    assert checkpoint["config"]["model"]["classes"] == ["car", "bus"]
    history = History.from_state(checkpoint["history"])
    assert dict(history.rows()) == {s: row for s, row in record.rows.items() if s <= 15}


def test_a_checkpoint_of_another_plan_is_refused(
    training_set: TrainingSet, uninterrupted: tuple[QDTrack, Record]
) -> None:
    checkpoint = uninterrupted[1].checkpoint(5)
    checkpoint["schedule"]["steps_per_epoch"] = 13
    with pytest.raises(TrainingError, match="13 steps per epoch, this one has 12"):
        run_here(training_set, checkpoint=checkpoint)


def test_a_loss_that_is_not_finite_stops_with_its_place_and_parts(
    training_set: TrainingSet,
) -> None:
    config = replace(TRAIN, optimizer=OptimizerConfig(learning_rate=1e30, warmup_iterations=0))
    with pytest.raises(TrainingError, match=r"epoch 0, step \d+, worker 0: .*rpn_cls .*track_aux"):
        run_here(training_set, config)


def test_history_survives_a_checkpoint_bit_for_bit() -> None:
    history = History()
    history.append(1, {"total": 0.1, "rate": 1 / 3})
    history.append(2, {"total": 0.2, "rate": math.inf, "validation_total": 5.0})
    history.append(3, {"total": 0.3, "rate": 0.5})
    back = History.from_state(history.to_state())
    assert list(back.rows()) == [
        (1, {"total": 0.1, "rate": 1 / 3}),
        (2, {"total": 0.2, "rate": math.inf, "validation_total": 5.0}),
        (3, {"total": 0.3, "rate": 0.5}),
    ]
    back.append(4, {"total": 0.4})
    assert list(back.rows())[-1] == (4, {"total": 0.4})


def test_validation_losses_are_the_same_every_time(
    training_set: TrainingSet, uninterrupted: tuple[QDTrack, Record]
) -> None:
    model, _ = uninterrupted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = validation_losses(model, training_set, TRAIN, batch_size=1)
    again = validation_losses(model, training_set, TRAIN, batch_size=1)
    assert first == again
    parts = sum(value for name, value in first.items() if name != "validation_total")
    assert first["validation_total"] == pytest.approx(parts, rel=1e-5)
    assert_same_state(before, model.state_dict())


# Two workers without Ray


def _train_on_rank(rank: int, port_file: str, frames: list[Artefact], folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{port_file}", rank=rank, world_size=2
    )
    training_set = read_training_set(frames, MODEL.classes, scope=TRAIN.scope, window=TRAIN.window)
    model = initial_model(MODEL, TRAIN)

    def steps(start_step: int) -> Any:
        return iterate_steps(
            training_set,
            TRAIN,
            MODEL.input,
            start_step=start_step,
            rank=rank,
            num_workers=2,
            read=read_windows,
        )

    losses: list[dict[str, float]] = []
    run_training(
        QDTrackLearner(model, TRAIN),
        steps,
        steps_per_epoch=STEPS_PER_EPOCH,
        device=CPU,
        hooks=Hooks(on_step=lambda step, row: losses.append(row)),
        checkpoint_every=5,
    )
    torch.save({"model": model.state_dict(), "rows": losses}, f"{folder}/rank-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_stay_equal_and_average(
    frames: list[Artefact], uninterrupted: tuple[QDTrack, Record], tmp_path: Path
) -> None:
    torch.multiprocessing.spawn(
        _train_on_rank, args=(str(tmp_path / "port"), frames, str(tmp_path)), nprocs=2
    )
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same_state(ranks[0]["model"], ranks[1]["model"])
    assert (len(ranks[0]["rows"]), len(ranks[1]["rows"])) == (2 * STEPS_PER_EPOCH, 0)
    # The first step sees the same pairs; detector losses differ by sampling within images only.
    alone, shared = uninterrupted[1].rows[1], ranks[0]["rows"][0]
    assert shared["rpn_cls"] == pytest.approx(alone["rpn_cls"], rel=0.02)
    assert shared["positives_per_pair"] == pytest.approx(alone["positives_per_pair"], abs=3)


# Under Ray


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_ray_train_is_the_loop_bit_for_bit(
    frames: list[Artefact], uninterrupted: tuple[QDTrack, Record]
) -> None:
    model, record = uninterrupted
    rows: list[tuple[int, dict[str, float]]] = []
    weights = train(
        frames,
        MODEL,
        TRAIN,
        validation=frames[0],
        score_epoch=_score_epoch,
        on_metrics=lambda step, row: rows.append((step, row)),
        checkpoint_every=5,
    )
    assert {step: row["total"] for step, row in rows} == record.losses()
    assert_same_state(load_model(weights).state_dict(), model.state_dict())
    assert read_history(weights) == rows
    scored = [step for step, row in rows if "score" in row and "validation_total" in row]
    assert scored == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
    assert rows[-1][1]["score"] == 1.0
    details = weights.details()
    assert (details["steps"], details["pairs"]) == (24, 25)
    started = time.monotonic()
    assert train(frames, MODEL, TRAIN, num_workers=2) == weights
    assert time.monotonic() - started < 1


def _score_epoch(model: QDTrack, epoch: int) -> dict[str, float]:
    return {"score": float(epoch)}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_loss_that_is_not_finite_reaches_the_driver_at_once(frames: list[Artefact]) -> None:
    config = replace(TRAIN, optimizer=OptimizerConfig(learning_rate=1e30, warmup_iterations=0))
    with pytest.raises(TrainingError, match=r"^epoch 0, step \d+, worker [01]: .*rpn_cls"):
        train(frames, MODEL, config, num_workers=2)
    assert weights_artefact(frames, MODEL, config).manifest() is None
