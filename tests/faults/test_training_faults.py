"""Training whose processes are killed ends in the weights of one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.qdtrack.model import QDTrack
from pipeline.fit import read_history
from pipeline.model_store import load_model
from pipeline.qdtrack_training import QDTrackLearner
from pipeline.store import Artefact
from pipeline.train import TrainConfig, initial_model, train, weights_artefact
from pipeline.training_input import iterate_steps, read_training_set
from pipeline.training_loop import Hooks, run_training
from pipeline.windows import read_windows
from tests.small_model import MODEL
from tests.training_scene import TRAIN, write_frames_artefact

pytestmark = pytest.mark.slow

# 3 epochs of 17 steps: the kill comes in the middle of them on any machine.
CONFIG = replace(TRAIN, optimizer=replace(TRAIN.optimizer, epochs=3))
STEPS_PER_EPOCH = 17
NUM_STEPS = 3 * STEPS_PER_EPOCH
CHECKPOINT_EVERY = 5


def write_scene(root: Path) -> list[Artefact]:
    return [write_frames_artefact(root, num_sequences=5)]


def train_alone(
    frames: list[Artefact], rank: int = 0, num_workers: int = 1
) -> tuple[QDTrack, dict[int, float]]:
    """The loop without Ray, never interrupted."""
    torch.set_num_threads(1)
    model = initial_model(MODEL, CONFIG)
    training_set = read_training_set(
        frames, MODEL.classes, scope=CONFIG.scope, window=CONFIG.window
    )
    losses: dict[int, float] = {}

    def steps(start_step: int) -> Any:
        return iterate_steps(
            training_set,
            CONFIG,
            MODEL.input,
            start_step=start_step,
            rank=rank,
            num_workers=num_workers,
            read=read_windows,
        )

    run_training(
        QDTrackLearner(model, CONFIG),
        steps,
        steps_per_epoch=STEPS_PER_EPOCH,
        device=torch.device("cpu"),
        hooks=Hooks(on_step=lambda step, row: losses.update({step: row["total"]})),
        checkpoint_every=CHECKPOINT_EVERY,
    )
    return model, losses


def train_alone_on_rank(rank: int, folder: str, frames: list[Artefact]) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/port", rank=rank, world_size=2
    )
    model, losses = train_alone(frames, rank, 2)
    if rank == 0:
        torch.save({"model": model.state_dict(), "losses": losses}, f"{folder}/alone.pt")
    torch.distributed.destroy_process_group()


def assert_as_if_left_alone(
    weights: Artefact, state: dict[str, torch.Tensor], losses: dict[int, float]
) -> None:
    """Same steps, same losses in each, same weights: no pair was lost or repeated."""
    history = {step: row["total"] for step, row in read_history(weights)}
    assert list(history) == list(range(1, NUM_STEPS + 1))
    assert history == losses
    for name, value in load_model(weights).state_dict().items():
        assert torch.equal(value, state[name]), name


def descendants(name: str) -> Iterator[int]:
    """Processes of this name that this process has started, directly or not."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = (int(status[1]), command)
    for process, (_, command) in parents.items():
        ancestor = process
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor][0]
        if ancestor == os.getpid() and name in command:
            yield process


@pytest.mark.usefixtures("ray_session")
def test_a_worker_killed_in_mid_epoch_changes_nothing(tmp_path: Path) -> None:
    frames = write_scene(tmp_path)
    torch.multiprocessing.spawn(train_alone_on_rank, args=(str(tmp_path), frames), nprocs=2)
    alone = torch.load(tmp_path / "alone.pt", weights_only=True)
    killed: list[tuple[int, int]] = []
    steps: list[int] = []

    def on_metrics(step: int, row: dict[str, float]) -> None:
        steps.append(step)
        if step > CHECKPOINT_EVERY and not killed:
            victim = max(descendants("RayTrainWorker"))
            os.kill(victim, signal.SIGKILL)
            killed.append((step, victim))

    weights = train(
        frames,
        MODEL,
        CONFIG,
        num_workers=2,
        on_metrics=on_metrics,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    assert killed[0][0] < NUM_STEPS - STEPS_PER_EPOCH, "the kill came too late to test anything"
    assert steps == list(range(1, NUM_STEPS + 1))
    assert_as_if_left_alone(weights, alone["model"], alone["losses"])


DRIVER = """
import sys
from pathlib import Path
from pipeline import cluster
cluster.connect(num_cpus=2)
from pipeline.train import train
from tests.faults.test_training_faults import CHECKPOINT_EVERY, CONFIG, write_scene
from tests.small_model import MODEL

frames = write_scene(Path(sys.argv[1]))
report = lambda step, row: print("step", step, flush=True)
train(frames, MODEL, CONFIG, on_metrics=report, checkpoint_every=CHECKPOINT_EVERY)
print("finished", flush=True)
"""


def start_driver(folder: Path, repository: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_job_stopped_and_started_again_goes_on(tmp_path: Path, repository: Path) -> None:
    frames = write_scene(tmp_path)
    model, losses = train_alone(frames)
    weights = weights_artefact(frames, MODEL, CONFIG)

    with start_driver(tmp_path, repository) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.startswith("step") and int(line.split()[1]) > CHECKPOINT_EVERY:
                driver.kill()
                break
    assert weights.manifest() is None
    assert not weights.part("model").is_valid()
    checkpoints = list((tmp_path / "checkpoints" / weights.fingerprint).glob("checkpoint_*"))
    assert checkpoints, "killed before the first checkpoint: nothing to go on from"
    time.sleep(2)  # orphans of the first job notice that their node is gone

    with start_driver(tmp_path, repository) as driver:
        output, _ = driver.communicate(timeout=500)
    assert driver.returncode == 0
    assert output.split()[-1] == "finished"
    # The history comes out of the checkpoint, so that a new run's curves are complete.
    steps = [int(line.split()[1]) for line in output.splitlines() if line.startswith("step")]
    assert steps == list(range(1, NUM_STEPS + 1))
    assert_as_if_left_alone(weights, model.state_dict(), losses)


def test_config_is_what_the_test_says(tmp_path: Path) -> None:
    """The numbers above are the plan's, not a guess."""
    training_set = read_training_set(
        write_scene(tmp_path), MODEL.classes, scope=CONFIG.scope, window=CONFIG.window
    )
    assert isinstance(CONFIG, TrainConfig)
    assert len(training_set.index) // CONFIG.pairs_per_step == STEPS_PER_EPOCH
