"""The connection to MLflow that runs and rows are written through.

It knows MLflow's limits (how much a call takes, how long a text may be), keeps MLflow from trying
for many minutes, and turns whatever MLflow raises into one line of ours.
"""

import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.runlog_address import (
    RunLogError,
    check_server,
    database_path,
    resolve_tracking_uri,
    sole_opener,
)
from pipeline.runlog_content import FileContent, stage_files
from pipeline.signals import undisturbed
from pipeline.store import Artefact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

MetricPoint = tuple[int, str, float, int]
"""Step, metric, value, milliseconds since the epoch."""

_MAX_TAG: Final = 5000
_MAX_PARAM: Final = 6000
_MAX_BATCH: Final = {"metrics": 800, "params": 100, "tags": 100}
"""Of each kind in one call, and 1,000 of all kinds together."""
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors reach us as exceptions
    # MLflow's own defaults go on trying for many minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class Connection:
    """An MLflow server or database that answered; made by the driver alone."""

    def __init__(self, tracking_uri: str | None, output_root: str, *, must_exist: bool) -> None:
        """Connect; see `pipeline.runlog.RunLog`."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.uri: Final = resolve_tracking_uri(tracking_uri, output_root)
        self.database: Final = database_path(self.uri)
        """File of the database; None for a server."""
        if must_exist and self.database is not None and not self.database.exists():
            raise RunLogError(
                f"{self.database}: nothing was logged here yet; run `python -m jobs.train_bdd`, "
                "or name another place with --output-root or --tracking-uri"
            )
        self.client: Final = self._connect()

    def _connect(self) -> "MlflowClient":
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        if self.database is None:
            check_server(self.uri)
            with self.refusals():
                client = MlflowClient(self.uri)
                client.search_experiments(max_results=1)
                return client
        with sole_opener(self.database), self.refusals():
            client = MlflowClient(self.uri)
            client.search_experiments(max_results=1)  # creates the tables
            return client

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn what MLflow raises into one line of ours; Ctrl-C waits until it is done.

        Raises:
            RunLogError: what it raised.
        """
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with undisturbed():
                yield
        except (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            message = f"MLflow at {self.uri} did not do what was asked: {reason}"
            raise RunLogError(message) from error

    @contextmanager
    def running(
        self, run_id: str, has_failed: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """End a run as the block does.

        Args:
            run_id: of a run that was begun.
            has_failed: asked when the block ends; whether the run is FAILED all the same.
        """
        status = "FAILED"
        try:
            yield
            status = "FAILED" if has_failed() else "FINISHED"
        except (KeyboardInterrupt, SystemExit):  # Ray turns the signal that stops a job into exit
            status = "KILLED"
            raise
        finally:
            try:
                with self.refusals():
                    self.client.set_terminated(run_id, status)
            except RunLogError as error:
                if status == "FINISHED":
                    raise
                logger.warning("run %s stays unfinished in MLflow: %s", run_id, error)

    def create_run(
        self,
        experiment: str,
        name: str,
        tags: Mapping[str, str] | None = None,
        *,
        started_ms: int | None = None,
    ) -> str:
        """Begin a run; returns its id.

        Args:
            experiment: its id.
            name: title of the run.
            tags: that it has from the beginning.
            started_ms: milliseconds since the epoch; None is now.
        """
        shortened = {key: value[:_MAX_TAG] for key, value in (tags or {}).items()}
        run = self.client.create_run(experiment, started_ms, shortened, name)
        return str(run.info.run_id)

    def search(self, experiment: str, condition: str) -> list["Run"]:
        """All active runs that meet the condition, latest first."""
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([experiment], condition, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def log(
        self,
        run_id: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """What is stated with a run; texts that are too long for MLflow are cut."""
        from mlflow.entities import Metric, Param, RunTag

        now = now_ms()
        texts = {key: str(value)[:_MAX_PARAM] for key, value in (params or {}).items()}
        self._log_batches(
            run_id,
            tags=[RunTag(k, v[:_MAX_TAG]) for k, v in tags.items()],
            params=[Param(k, v) for k, v in texts.items()],
            metrics=[Metric(k, v, now, 0) for k, v in (metrics or {}).items()],
        )

    def log_metrics(self, run_id: str, points: Iterable[MetricPoint]) -> None:
        """Metrics of a run, in as few calls as MLflow allows."""
        from mlflow.entities import Metric

        with self.refusals():
            metrics = [Metric(name, value, at, step) for step, name, value, at in points]
            self._log_batches(run_id, metrics=metrics)

    def log_files(self, run_id: str, files: Mapping[str, FileContent]) -> None:
        """Artefacts of a run by path; a file larger than `MAX_COPIED_BYTES` is referred to."""
        with self.refusals(), tempfile.TemporaryDirectory() as folder:
            stage_files(Path(folder), files)
            self.client.log_artifacts(run_id, folder)

    def log_inputs(self, run_id: str, inputs: Mapping[str, Artefact]) -> None:
        """What a run reads, by its use."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entries = [
            DatasetInput(
                Dataset(
                    name=f"{artefact.dataset}/{artefact.split}",
                    digest=artefact.fingerprint,
                    source_type="quasar",
                    source=artefact.folder,
                ),
                [InputTag("mlflow.data.context", use)],
            )
            for use, artefact in inputs.items()
        ]
        if entries:
            self.client.log_inputs(run_id, entries)

    def _log_batches(self, run_id: str, **entries: Sequence[Any]) -> None:
        position = 0
        while any(len(rows) > position * _MAX_BATCH[what] for what, rows in entries.items()):
            chunks = {
                what: rows[position * _MAX_BATCH[what] : (position + 1) * _MAX_BATCH[what]]
                for what, rows in entries.items()
            }
            self.client.log_batch(run_id, **chunks)
            position += 1


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow counts time."""
    return time.time_ns() // 1_000_000
