"""Where runs may go, and how soon one hears that they cannot."""

import logging
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from pipeline.runlog_address import (
    RunLogError,
    check_server,
    database_path,
    resolve_tracking_uri,
    sole_opener,
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_default_is_a_database_under_a_local_root(tmp_path: Path) -> None:
    uri = resolve_tracking_uri(None, str(tmp_path))
    assert uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert database_path(uri) == tmp_path / "mlflow.db"


def test_a_remote_root_cannot_hold_a_database_and_it_is_said_where_runs_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        uri = resolve_tracking_uri(None, "s3://bucket/root")
    assert uri == f"sqlite:///{tmp_path}/quasar/mlflow.db"
    assert f"{tmp_path}/quasar/mlflow.db" in caplog.text


def test_option_before_environment_before_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1/")
    assert resolve_tracking_uri(None, "/root") == "http://127.0.0.1:1"
    assert resolve_tracking_uri("https://host/mlflow", "/root") == "https://host/mlflow"
    assert database_path("https://host/mlflow") is None


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///data/mlruns", "no longer keeps runs in folders"),
        ("/data/mlruns", "no longer keeps runs in folders"),
        ("mlruns", "expected a server"),
        ("postgresql://host/db", "other databases belong behind a server"),
        ("sqlite:///mlflow.db", "four slashes"),
        ("sqlite://", "four slashes"),
    ],
)
def test_addresses_that_cannot_work(uri: str, message: str) -> None:
    with pytest.raises(RunLogError, match=message) as raised:
        resolve_tracking_uri(uri, "/root")
    assert repr(uri) in str(raised.value)


def test_a_server_that_is_down_is_reported_at_once() -> None:
    with socket.socket() as probe:  # bound but not listening: connections are refused
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(RunLogError, match="does not answer"):
            check_server(address)
    assert time.monotonic() - started < 3


@pytest.mark.slow
def test_a_locked_database_is_reported_within_seconds(tmp_path: Path) -> None:
    """MLflow goes on trying for minutes, and prints a traceback for every try."""
    database = tmp_path / "mlflow.db"
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with (
        pytest.raises(RunLogError, match=r"mlflow\.db: .*locked") as raised,
        sole_opener(database),
    ):
        pytest.fail("nobody may open it")
    assert "--tracking-uri" in str(raised.value)
    assert 4 < time.monotonic() - started < 10
    holder.close()
    with sole_opener(database):
        pass


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("precious notes " * 100)
    with pytest.raises(RunLogError, match="not a database"), sole_opener(path):
        pytest.fail("nobody may open it")
    assert path.read_text().startswith("precious notes")


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunLogError, match="cannot be written"), sole_opener(tmp_path / "file/x.db"):
        pytest.fail("nobody may open it")
