"""Jobs submitted to a real cluster: with the uploaded working tree, and with the installed project.

The cluster is this test's own: other ports, another token and another home than any Ray beside it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from models.qdtrack.config import BDD100K_CLASSES
from models.qdtrack.model import QDTrack
from models.weights import save_weights
from tests.small_model import MODEL

pytestmark = pytest.mark.slow

START_S, JOB_S = 600, 1500
"""Limits of a machine that is busy with other things; a quiet one takes a twentieth."""

STOP_S = 10
"""After this the cluster is killed; left alone it takes half a minute to go."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray that was started in the repository's root, as the README says."""

    environment: Mapping[str, str]
    repository: Path

    def submit(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`ray job submit` with these arguments, from the repository's root."""
        return subprocess.run(
            ["ray", "job", "submit", *arguments],
            env=self.environment,
            cwd=self.repository,
            capture_output=True,
            text=True,
            timeout=JOB_S,
            check=False,
        )


@pytest.fixture(scope="module")
def cluster(repository: Path) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="q", dir="/tmp"))  # socket paths are at most 107 bytes
    port, client, dashboard, *agents = free_ports(7)
    environment = {name: value for name, value in os.environ.items() if name[:4] != "RAY_"}
    environment |= {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "QUASAR_ROOT": str(folder / "quasar"),
        "RAY_AUTH_MODE": "token",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "OMP_NUM_THREADS": "1",
    }
    ports = {
        "port": port,
        "ray-client-server-port": client,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agents[0],
        "dashboard-agent-grpc-port": agents[1],
        "metrics-export-port": agents[2],
        "runtime-env-agent-port": agents[3],
    }
    command = [
        *("ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
        *("--dashboard-host=127.0.0.1", f"--object-store-memory={200 << 20}"),
        *(f"--temp-dir={folder / 't'}", *(f"--{name}={value}" for name, value in ports.items())),
    ]
    generate = ["ray", "get-auth-token", "--generate"]
    subprocess.run(generate, env=environment, check=True, capture_output=True)
    log = folder / "start.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=repository,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        wait_until_started(process, log)
        yield Cluster(environment=environment, repository=repository)
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, outside the range that Ray gives to workers."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3 * count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        return [port for port in ports if not 10002 <= port <= 19999][:count]


def wait_until_started(process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"ray start: {log.read_text()[-2000:]}")
        time.sleep(0.5)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End exactly this cluster: with --block all its processes are in one group, and its workers
    leave when they lose it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_S
        with contextlib.suppress(ProcessLookupError):  # nobody of the group is left
            os.killpg(process.pid, sign)
            while time.monotonic() < deadline:
                process.poll()  # a finished leader that nobody asks for stays in the group
                os.killpg(process.pid, 0)
                time.sleep(0.2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was never trained."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_weights(path, QDTrack(replace(MODEL, classes=BDD100K_CLASSES)))
    return path


def test_the_main_job_runs_from_the_uploaded_working_tree(
    cluster: Cluster, tiny_data: Path, weights: Path, tmp_path: Path
) -> None:
    """Ingest to leaderboard, on the cluster that the job finds itself in; nothing is trained."""
    root = tmp_path / "root"
    done = cluster.submit(
        *("--working-dir", ".", "--", "jobs/train_bdd.py"),
        *("--recipe", "qdtrack_frcnn_r18_synthetic", "--num-workers", "2"),
        *("--data-root", str(tiny_data), "--output-root", str(root), "--weights", str(weights)),
        *("--set", "association.init_score_thr=0.12", "--set", "association.obj_score_thr=0.11"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout + done.stderr
    for text in ("overlap only", "true boxes", "overlay video", "mMOTA", "jobs.leaderboard"):
        assert text in done.stdout
    for stage in ("frames", "detections", "tracks", "scores"):
        assert list((root / stage).rglob("manifest.json")), stage
    assert (root / "mlflow.db").is_file()
    assert not (Path(cluster.environment["QUASAR_ROOT"])).exists()


def test_a_job_runs_without_a_working_tree_where_the_project_is_installed(
    cluster: Cluster,
) -> None:
    done = cluster.submit("jobs/doctor.py")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["ok", "ray", "token", "RAY_AUTH_MODE=token"] in lines
    assert ["ok", "output", "root", cluster.environment["QUASAR_ROOT"]] in lines
    python = next(line for line in lines if line[:2] == ["ok", "python"])
    assert python[-1] == sys.executable
