"""The training loop, its checkpoints, and the whole under Ray Train against the loop alone."""

import io
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.qdtrack.config import OptimizerConfig
from models.qdtrack.model import QDTrack
from models.weights import save_weights
from pipeline.checkpoints import (
    STATE_FILE,
    SUMMARY_FILE,
    load_checkpoint,
    newest_checkpoint,
    remove_old_checkpoints,
    write_checkpoint,
)
from pipeline.model_store import MODEL_PART, load_model
from pipeline.overrides import apply_overrides
from pipeline.store import Artefact
from pipeline.train import TrainConfig, initial_model, read_history, train, weights_artefact
from pipeline.training_collector import Collector
from pipeline.training_input import TrainingSet, iterate_steps, read_training_set
from pipeline.training_loop import (
    Checkpoint,
    History,
    Hooks,
    TrainingError,
    run_training,
)
from pipeline.training_worker import validation_losses
from pipeline.windows import read_windows
from tests.training_scene import MODEL, TRAIN, write_frames_artefact

CPU = torch.device("cpu")
STEPS_PER_EPOCH = 12


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Artefact]:
    root = tmp_path_factory.mktemp("frames")
    stills = write_frames_artefact(
        root, split="det_train", num_sequences=1, num_frames=4, is_still=True
    )
    return [write_frames_artefact(root), stills]


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
        model,
        config,
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


def assert_same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# The loop


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
        model,
        TRAIN,
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


# Checkpoints on disk


def _store(folder: Path, name: str, checkpoint: Checkpoint) -> Path:
    (folder / name).mkdir(parents=True)
    write_checkpoint(folder / name, checkpoint)
    return folder / name


def _small_checkpoint(step: int) -> Checkpoint:
    return {"schedule": {"step": step}, "model": {"weight": torch.full((1000,), float(step))}}


def test_the_newest_checkpoint_is_the_one_with_most_steps(tmp_path: Path) -> None:
    assert newest_checkpoint(str(tmp_path / "none")) is None
    _store(tmp_path, "checkpoint_2", _small_checkpoint(9))
    _store(tmp_path, "checkpoint_1", _small_checkpoint(30))
    assert newest_checkpoint(str(tmp_path)) == "checkpoint_1"
    loaded = load_checkpoint(str(tmp_path), "checkpoint_1")
    assert loaded["model"]["weight"].tolist() == [30.0] * 1000


@pytest.mark.parametrize("damage", ["cut", "changed", "no state", "no summary", "cut summary"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    _store(tmp_path, "checkpoint_1", _small_checkpoint(5))
    newest = _store(tmp_path, "checkpoint_2", _small_checkpoint(10))
    state, summary = newest / STATE_FILE, newest / SUMMARY_FILE
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "changed":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(bytes(content))
    elif damage == "no state":
        state.unlink()
    elif damage == "no summary":
        summary.unlink()
    else:
        summary.write_text(summary.read_text()[:20])
    assert newest_checkpoint(str(tmp_path)) == "checkpoint_1"
    if "summary" not in damage:  # without one it is the oldest, never looked at
        assert "checkpoint_2: an incomplete or damaged checkpoint" in caplog.text


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        _store(tmp_path, f"checkpoint_{step}", _small_checkpoint(step))
    (tmp_path / "checkpoint_15" / STATE_FILE).unlink()
    (tmp_path / "something else").mkdir()
    remove_old_checkpoints(str(tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint_10", "checkpoint_5", "something else"]


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    _store(tmp_path, "checkpoint_1", _small_checkpoint(1) | {"code": Harmful()})
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(str(tmp_path), "checkpoint_1")
    assert not (tmp_path / "owned").exists()


# Names, starts and settings


def test_the_name_of_a_training_follows_from_what_changes_it(frames: list[Artefact]) -> None:
    name = partial(weights_artefact, frames, MODEL)
    assert name(TRAIN) == name(replace(TRAIN, validation_pairs=99, validation_sequences=9))
    assert name(TRAIN).split == "train+det_train"
    assert name(TRAIN).fingerprint != name(replace(TRAIN, seed=1)).fingerprint
    assert name(TRAIN).fingerprint != weights_artefact(frames[:1], MODEL, TRAIN).fingerprint


def test_initial_weights_count_in_the_name_by_content(
    frames: list[Artefact], tmp_path: Path
) -> None:
    for file, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_weights(tmp_path / file, initial_model(MODEL, replace(TRAIN, seed=seed)))
    a, b, c = (
        weights_artefact(frames, MODEL, TRAIN, str(tmp_path / file)).fingerprint for file in "abc"
    )
    assert a == b != c


def test_the_seed_decides_random_weights_and_nothing_else_does() -> None:
    state = torch.get_rng_state()
    first, again = initial_model(MODEL, TRAIN), initial_model(MODEL, TRAIN)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_state(first.state_dict(), again.state_dict())
    other = initial_model(MODEL, replace(TRAIN, seed=1)).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_training_never_starts_from_random_weights_unasked() -> None:
    with pytest.raises(ValueError, match="backbone_weights is not set"):
        initial_model(MODEL, replace(TRAIN, backbone_weights=None))


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    given = initial_model(MODEL, replace(TRAIN, seed=5))
    save_weights(tmp_path / "w", given)
    config = replace(TRAIN, backbone_weights=None)
    found = initial_model(MODEL, config, str(tmp_path / "w"))
    assert_same_state(found.state_dict(), given.state_dict())
    other = replace(MODEL, classes=("car", "train"))
    with pytest.raises(ValueError, match=r"model\.classes .*'car', 'bus'.*has .*'car', 'train'"):
        initial_model(other, config, str(tmp_path / "w"))
    smaller = replace(MODEL, embedding=replace(MODEL.embedding, embedding_dim=8))
    with pytest.raises(ValueError, match="does not fit the model's config"):
        initial_model(smaller, config, str(tmp_path / "w"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input.channels", "bgr"),
        ("input.mean", "(103.53, 116.28, 123.675)"),
        ("input.std", "(1.0, 1.0, 1.0)"),
        ("input.short_side", "32"),
        ("detector.pooling.level_rule", "vis4d"),
        ("detector.rpn.anchor_scale", "8.0"),
        ("detector.rpn.aspect_ratios", "(1.0, 2.0, 0.5)"),
        ("detector.roi_head.delta_stds", "(0.1, 0.1, 0.1, 0.1)"),
    ],
)
def test_weights_made_for_another_meaning_of_their_numbers_are_refused(
    tmp_path: Path, field: str, value: str
) -> None:
    """Every tensor fits: only the config in the file shows it."""
    other = apply_overrides(MODEL, {field: value})
    save_weights(tmp_path / "w", initial_model(other, TRAIN))
    with pytest.raises(ValueError, match=rf"trained with model\.{re.escape(field)} "):
        initial_model(MODEL, TRAIN, str(tmp_path / "w"))


def test_weights_may_be_trained_on_in_another_way(tmp_path: Path) -> None:
    overrides = {
        "detector.rpn.sample_size": "32",
        "detector.roi_head.positive_fraction": "0.5",
        "quasi_dense.sample_size": "32",
    }
    given = initial_model(apply_overrides(MODEL, overrides), TRAIN)
    save_weights(tmp_path / "w", given)
    found = initial_model(MODEL, TRAIN, str(tmp_path / "w"))
    assert_same_state(found.state_dict(), given.state_dict())


def test_backbone_weights_count_in_the_name_by_content(
    frames: list[Artefact], tmp_path: Path
) -> None:
    def name(source: str) -> str:
        config = replace(TRAIN, backbone_weights=source)
        return weights_artefact(frames, MODEL, config).fingerprint

    for file, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / file).write_bytes(content)
    a, b, c = (name(str(tmp_path / file)) for file in "abc")
    assert a == b != c
    assert len({a, c, name("random"), name("torchvision")}) == 4


def test_weights_whose_file_is_gone_are_no_finished_training(
    frames: list[Artefact], tmp_path: Path
) -> None:
    """The manifest alone was taken for the result, and every later stage failed."""
    absent = [replace(frames[0], root=str(tmp_path))]
    output = weights_artefact(absent, MODEL, TRAIN)
    with output.part(MODEL_PART).write() as writer, writer.open_file("x") as stream:
        stream.write(b"x")
    output.finish([MODEL_PART], {})
    assert train(absent, MODEL, TRAIN) == output
    (Path(output.part(MODEL_PART).folder) / "x").unlink()
    with pytest.raises(ValueError, match=str(absent[0].folder)):  # it starts to read frames
        train(absent, MODEL, TRAIN)


def test_pairs_must_divide_over_the_workers(frames: list[Artefact]) -> None:
    with pytest.raises(ValueError, match="pairs_per_step is 2, which does not divide over 3"):
        train(frames, MODEL, TRAIN, num_workers=3)


@pytest.mark.parametrize("field", ["pairs_per_step", "window", "buffer"])
def test_config_refuses_nothing_at_all(field: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.{field} is 0, expected at least 1"):
        TrainConfig(**{field: 0})


def test_the_collector_counts_a_repeated_step_once() -> None:
    collector = Collector()
    collector.add([(1, {"total": 1.0}), (2, {"total": 2.0})])
    collector.add([(2, {"total": 2.5})])
    assert collector.take() == [(1, {"total": 1.0}), (2, {"total": 2.5})]
    collector.add([(2, {"total": 9.0}), (3, {"total": 3.0})])
    assert collector.take() == [(3, {"total": 3.0})]
    assert collector.take() == []
    collector.fail("first")
    collector.fail("second")
    assert collector.failure() == "first"


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
