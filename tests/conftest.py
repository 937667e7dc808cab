"""Fixtures of the whole suite: one Ray, and the samples that lie beside the checkout."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pipeline.leaderboard import ResultRow

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
# Of the S3 server on loopback (tests/remote): here, so that the workers of the one Ray know them.
os.environ.update(
    AWS_ACCESS_KEY_ID="nobody",
    AWS_SECRET_ACCESS_KEY="nothing",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
)

# Who starts the suite in the background may have it ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared/` beside the checkout, with reference manifests and real samples."""
    path = REPOSITORY.parent / "shared"
    if not path.is_dir():
        pytest.skip("the folder shared/ with real samples does not lie beside the checkout")
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Images as small as tests have cost thirty times as much on two threads of a busy machine."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one Ray of the suite: 2 CPUs, no dashboard, a small object store."""
    import ray

    from pipeline.cluster import quiet_ray_data, start_ray

    # Short: Unix socket paths are limited to 107 bytes.
    folder = tempfile.mkdtemp(prefix="q", dir="/tmp")
    start_ray(
        {
            "num_cpus": 2,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": "ERROR",
            "object_store_memory": 1 << 30,
            "_temp_dir": folder,
        }
    )
    quiet_ray_data()
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def make_mlflow_database(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path], str]:
    """Puts an empty MLflow database into a folder and gives its address: a copy of one that MLflow
    made, which takes it seconds."""
    from pipeline.runlog import RunLog

    made = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    RunLog(f"sqlite:///{made}", str(made.parent))

    def make(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{shutil.copy(made, folder / 'mlflow.db')}"

    return make


@pytest.fixture(scope="session")
def start_mlflow_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> "Callable[[], AbstractContextManager[str]]":
    """Starts a real MLflow server on loopback; its address lasts as long as the block."""
    return lambda: _running_mlflow_server(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def mlflow_server(
    start_mlflow_server: "Callable[[], AbstractContextManager[str]]",
) -> Iterator[str]:
    """Address of the MLflow server that tests share."""
    with start_mlflow_server() as address:
        yield address


@contextmanager
def _running_mlflow_server(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    try:
        _wait_for_server(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:  # it waits for connections that clients keep open
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_server(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
        else:
            return
    pytest.fail("the MLflow server did not start")


@pytest.fixture(scope="session")
def make_row() -> "Callable[..., ResultRow]":
    """Rows of a leaderboard: a name, and whatever is to differ from the usual."""
    from pipeline.leaderboard import ResultRow

    def make(name: str, **changes: Any) -> ResultRow:
        usual: dict[str, Any] = {
            "benchmark": "bdd100k",
            "split": "val",
            "truth": "2 sequences, 40 frames (3fa9c0de12ab34cd)",
            "protocol": "bdd100k",
            "name": name,
            "kind": "model",
            "fingerprint": name.encode().hex(),
            "recipe": "qdtrack_frcnn_r18_synthetic",
            "weights": "trained here (a1b2c3d4e5f60718)",
            "detections": "own detector",
            "tracker": "quasi_dense: init_score_thr 0.7",
            "evaluator": "bdd100k rules, trackeval 1.3.0, quasar 0.1.0",
            "revision": "0" * 40,
            "source_digest": "105b1af206866fa9",
            "hardware": "2 cores of a processor, 24 GiB",
            "date": "2026-11-21T07:28:58+00:00",
            "metrics": {"mMOTA": 24.3, "mIDF1": 32.2, "MOTA": 64.2, "FP": 126},
        }
        return ResultRow(**{**usual, **changes})

    return make


@pytest.fixture(scope="session")
def full_row(make_row: "Callable[..., ResultRow]") -> "ResultRow":
    """A row with everything that a row can have."""
    table = {
        "car": {"MOTA": 70.5, "MOTP": 88.0, "FP": 100},
        "bus": {"MOTA": 0.0, "MOTP": float("nan"), "FP": 26},
        "AVERAGE": {"MOTA": 24.324205, "MOTP": 44.0, "FP": 126},
        "OVERALL": {"MOTA": 64.2, "MOTP": 87.2, "FP": 126},
    }
    curve = [70.0 - 3.0 * index for index in range(19)]
    return make_row(
        "QDTrack, all of it",
        metrics={"mMOTA": 24.324205123, "MOTA": 64.2, "MOTP": float("nan"), "FP": 126},
        per_class=table,
        per_sequence={"b1c66a42-6f7d68ca": table, "b251064f-4696b75e": table},
        hota_curves={"HOTA": curve, "DetA": curve, "AssA": [*curve[:18], None]},
        loss_curves={"total": [(step, 4.0 / (step + 1)) for step in range(500)]},
        process_run_id="f" * 32,
        notes="synthetic data",
    )
