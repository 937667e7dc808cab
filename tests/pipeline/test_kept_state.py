"""Which state of a training is kept: the best of those that an epoch ended with, or the last."""

import io
import math
from collections.abc import Generator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.training_loop import (
    BestBy,
    Checkpoint,
    History,
    Hooks,
    StepPlace,
    TrainingError,
    run_training,
)

CPU = torch.device("cpu")
STEPS_PER_EPOCH = 3


class Counter(nn.Module):
    """A weight that says how many steps it was trained, and a buffer that counts them too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


class CountingLearner:
    """A `Learner` whose every step adds 1."""

    unit = "things"
    units_per_step = 2

    def __init__(self, epochs: int, best_by: BestBy | None) -> None:
        self.model = Counter()
        self.epochs = epochs
        self.best_by = best_by
        self.modes: list[bool] = []

    def settings(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def start_training(self) -> None:
        self.model.train()

    def build_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=1.0)

    def build_scaler(self, device: torch.device) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device.type, enabled=False)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        return 1.0

    def train_step(
        self,
        module: nn.Module,
        items: int,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        place: StepPlace,
    ) -> dict[str, float]:
        assert items == place.step
        self.modes.append(self.model.training)
        self.model.weight.grad = -torch.ones(())
        optimizer.step()
        self.model.seen += 1
        if place.step == 1_000:
            raise FloatingPointError("a loss of nan")
        return {"total": float(place.step)}


class Record:
    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.checkpoints: dict[int, bytes] = {}

    def checkpoint(self, step: int) -> Checkpoint:
        loaded: Checkpoint = torch.load(io.BytesIO(self.checkpoints[step]), weights_only=True)
        return loaded


def count_steps(start_step: int) -> Generator[int, None, None]:
    yield from range(start_step, 10_000)


def train(
    scores: Sequence[float | None],
    best_by: BestBy | None,
    checkpoint: Checkpoint | None = None,
) -> tuple[CountingLearner, Record, History]:
    """As many epochs as there are scores, each with its own; None measures nothing."""
    learner, record = CountingLearner(len(scores), best_by), Record()

    def measure(model: Counter, epoch: int) -> dict[str, float]:
        model.eval()
        score = scores[epoch]
        return {} if score is None else {"score": score}

    def keep(found: Checkpoint | None) -> None:
        assert found is not None
        buffer = io.BytesIO()
        torch.save(found, buffer)
        record.checkpoints[found["schedule"]["step"]] = buffer.getvalue()

    history = run_training(
        learner,
        count_steps,
        steps_per_epoch=STEPS_PER_EPOCH,
        device=CPU,
        hooks=Hooks(
            on_step=lambda step, row: record.rows.update({step: row}),
            on_checkpoint=keep,
            on_epoch_end=measure,
        ),
        checkpoint_every=2,
        checkpoint=checkpoint,
    )
    return learner, record, history


def kept_epoch(learner: CountingLearner) -> int:
    """Number from 1 of the epoch whose state is kept."""
    state = learner.model.state_dict()
    assert float(state["weight"]) == int(state["seen"])
    epoch, rest = divmod(int(state["seen"]), STEPS_PER_EPOCH)
    assert rest == 0
    return epoch


HIGHEST, LOWEST = BestBy("score", "highest"), BestBy("score", "lowest")
NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "best_by", "epoch"),
    [
        ([0.1, 0.9, 0.5], HIGHEST, 2),
        ([0.1, 0.9, 0.5], LOWEST, 1),
        ([0.9, 0.5, 0.1], HIGHEST, 1),
        ([0.9, 0.5, 0.1], LOWEST, 3),
        ([0.1, 0.9, 0.5], None, 3),
        ([0.5, 0.5, 0.5], HIGHEST, 1),
        ([0.5, 0.5, 0.5], LOWEST, 1),
        ([-math.inf, -2.0, -3.0], HIGHEST, 2),
        ([math.inf, math.inf, 4.0], LOWEST, 3),
        ([None, 0.2, 0.1], HIGHEST, 2),
        ([None, None, None], HIGHEST, 3),
        ([0.3, None, None], HIGHEST, 1),
        ([NAN, 0.1, 0.5], HIGHEST, 3),
        ([NAN, 0.1, 0.5], LOWEST, 2),
        ([0.1, NAN, 0.05], HIGHEST, 1),
        ([NAN, NAN], LOWEST, 2),
    ],
)
def test_the_state_of_the_best_epoch_is_kept(
    scores: list[float | None], best_by: BestBy | None, epoch: int
) -> None:
    """A score that was no number once stayed the best for ever: nothing compares with it."""
    learner, record, history = train(scores, best_by)
    assert kept_epoch(learner) == epoch
    assert list(record.rows) == list(range(1, STEPS_PER_EPOCH * len(scores) + 1))
    measured = [row["score"] for _, row in history.rows() if "score" in row]
    assert measured == [score for score in scores if score is not None and score == score]


def test_another_metric_chooses_nothing() -> None:
    learner, _, _ = train([0.9, 0.1], BestBy("validation/other", "highest"))
    assert kept_epoch(learner) == 2


class TestCheckpoints:
    SCORES = (0.1, 0.9, 0.5, 0.7)

    @pytest.mark.parametrize("best_by", [HIGHEST, LOWEST, None])
    def test_wherever_a_training_goes_on_the_same_state_is_kept(
        self, best_by: BestBy | None
    ) -> None:
        whole, record, history = train(self.SCORES, best_by)
        assert list(record.checkpoints) == [2, 3, 4, 6, 8, 9, 10, 12]
        for step in record.checkpoints:
            resumed, rest, again = train(self.SCORES, best_by, record.checkpoint(step))
            assert resumed.model.state_dict() == whole.model.state_dict(), step
            assert list(rest.rows) == list(range(step + 1, 13))
            totals = [row["total"] for _, row in again.rows()]
            assert totals == [row["total"] for _, row in history.rows()] == list(range(12))

    def test_they_hold_both_the_last_state_and_the_best(self) -> None:
        _, record, _ = train(self.SCORES, HIGHEST)
        assert record.checkpoint(2)["best"] is None
        first = record.checkpoint(4)["best"]
        assert (first["value"], first["step"], float(first["state"]["weight"])) == (0.1, 3, 3)
        last = record.checkpoint(12)
        assert float(last["model"]["weight"]) == 12
        assert (last["best"]["value"], last["best"]["step"]) == (0.9, 6)
        assert {n: int(v) for n, v in last["best"]["state"].items()} == {"weight": 6, "seen": 6}

    def test_the_best_state_is_a_copy(self) -> None:
        """Training goes on in place; the kept weights must not move with it."""
        _, record, _ = train(self.SCORES, HIGHEST)
        for step in (6, 8, 9, 10, 12):
            assert float(record.checkpoint(step)["best"]["state"]["weight"]) == 6


def test_every_step_is_in_training_mode_whatever_measuring_left() -> None:
    learner, _, _ = train([0.1, 0.2, 0.3], HIGHEST)
    assert learner.modes == [True] * 9


def test_rows_name_the_unit_of_the_learner() -> None:
    _, record, _ = train([0.1], HIGHEST)
    assert record.rows[2]["things_per_s"] > 0
    assert record.rows[2]["learning_rate"] == 1.0
    assert record.rows[3]["epoch"] == 1.0
    assert "score" not in record.rows[2]


def test_a_learner_that_fails_says_where() -> None:
    with pytest.raises(TrainingError, match="epoch 333, step 1, worker 0: a loss of nan"):
        train([0.1] * 334, None)
