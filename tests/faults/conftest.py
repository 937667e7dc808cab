"""A tiny data set, and its stages run once, for the tests to damage copies of."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from datasets.synthetic import SyntheticConfig, write_synthetic_bdd100k
from jobs import command, infer, ingest
from models.qdtrack.model import QDTrack
from models.weights import save_weights
from pipeline.store import Artefact, open_artefact
from tests.small_model import MODEL

NUM_FRAMES = 6
# Random weights are sure of nothing: low thresholds give tracks all the same.
TRACKER = ("--set", "association.init_score_thr=0.1", "--set", "association.obj_score_thr=0.05")

StartJob = Callable[..., "AbstractContextManager[subprocess.Popen[str]]"]


@dataclass(frozen=True)
class Stages:
    """Finished artefacts of the validation split."""

    data_root: Path
    root: Path
    weights: Path
    frames: Artefact
    detections: Artefact
    tracks: Artefact

    def copy_to(self, root: Path) -> "Stages":
        """The same artefacts under another root, to be damaged."""
        shutil.copytree(self.root, root)
        frames, detections, tracks = (
            replace(artefact, root=str(root))
            for artefact in (self.frames, self.detections, self.tracks)
        )
        return replace(self, root=root, frames=frames, detections=detections, tracks=tracks)

    def ingest(self) -> int:
        """Run the job over these artefacts; returns its exit code."""
        return command.run(ingest.main, ingest_arguments(self.data_root, self.root))

    def infer(self) -> int:
        """Likewise, association included."""
        return command.run(infer.main, infer_arguments(self.frames, self.weights))


def ingest_arguments(data_root: Path, root: Path) -> list[str]:
    places = ["--data-root", str(data_root), "--output-root", str(root)]
    return [*places, "--split", "val", "--num-workers", "2"]


def infer_arguments(frames: Artefact, weights: Path) -> list[str]:
    files = ["--frames", frames.folder, "--weights", str(weights)]
    return [*files, "--associate", "--num-workers", "1", *TRACKER]


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two train and three val sequences of six frames, all of them image folders."""
    root = tmp_path_factory.mktemp("raw") / "bdd100k"
    config = SyntheticConfig(
        num_train=2, num_val=3, num_frames=NUM_FRAMES, num_stills=0, video_share=0.0
    )
    write_synthetic_bdd100k(root, config)
    return root


@pytest.fixture
def data_root(raw: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(raw, tmp_path / "bdd100k"))


@pytest.fixture(scope="session")
def pristine_stages(
    ray_session: None, raw: Path, tmp_path_factory: pytest.TempPathFactory
) -> Stages:
    folder = tmp_path_factory.mktemp("stages")
    weights = folder / "model.safetensors"
    torch.manual_seed(0)
    save_weights(weights, QDTrack(MODEL))
    root = folder / "root"
    assert command.run(ingest.main, ingest_arguments(raw, root)) == 0
    frames = _only_artefact(root, "frames")
    assert command.run(infer.main, infer_arguments(frames, weights)) == 0
    detections, tracks = _only_artefact(root, "detections"), _only_artefact(root, "tracks")
    assert detections.details()["num_detections"] > 0
    assert tracks.details()["num_tracks"] > 0
    return Stages(raw, root, weights, frames, detections, tracks)


@pytest.fixture
def stages(pristine_stages: Stages, tmp_path: Path) -> Stages:
    """A copy that a test may damage."""
    return pristine_stages.copy_to(tmp_path / "root")


@pytest.fixture
def start_job(repository: Path) -> StartJob:
    """Starts a job as a process in a group of its own, as a shell does; leaving it kills it."""

    @contextmanager
    def start(*arguments: object, **options: object) -> "Iterator[subprocess.Popen[str]]":
        with subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            **options,  # type: ignore[call-overload]
        ) as job:
            try:
                yield job
            finally:
                if job.poll() is None:  # a test failed: nobody else would end it
                    os.killpg(job.pid, signal.SIGKILL)

    return start


def error_line(captured: str) -> str:
    """The one line in which a job says why it failed."""
    assert "Traceback" not in captured
    (line,) = [line for line in captured.splitlines() if line.startswith("error: ")]
    return line


def _only_artefact(root: Path, stage: str) -> Artefact:
    (manifest,) = (root / stage).glob("*/*/*/manifest.json")
    return open_artefact(str(manifest.parent))
