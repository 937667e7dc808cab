"""What is kept in MLflow: process runs and the rows of leaderboards. Only this file imports mlflow.

Process runs (an experiment with its config, inputs and metrics by step) live in the MLflow
experiment `quasar`. Rows live in one MLflow experiment for each leaderboard, `<benchmark>/<split>`,
one run for each result; the same result is found again by its fingerprint and updated in place. A
row is kept whole as the artefact `result.json`, which is what is read back; metrics and tags repeat
it for MLflow's own page, whose saved view "Leaderboard" shows the scores best first.

All of it is written by the driver. Numbers that are None or not finite are not logged as metrics:
MLflow would rank them as if they were values.
"""

import json
import logging
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.leaderboard import ResultRow
from pipeline.overrides import flatten
from pipeline.provenance import Provenance, describe_provenance
from pipeline.runlog_address import (
    RunLogError,
    check_server,
    database_path,
    resolve_tracking_uri,
    sole_opener,
)
from pipeline.runlog_content import (
    SAVED_VIEW,
    ChildRun,
    FileContent,
    finite_numbers,
    provenance_tags,
    row_files,
    row_tags,
    stage_files,
    view_tags,
)
from pipeline.signals import undisturbed
from pipeline.store import Artefact, encode_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

PROCESS_EXPERIMENT: Final = "quasar"
RESULT_FILE: Final = "result.json"
FINGERPRINT_TAG: Final = "quasar.result_fingerprint"
PROCESS_TAG: Final = "quasar.process_run_id"

_PARENT_TAG: Final = "mlflow.parentRunId"
_BENCHMARK_TAG: Final = "quasar.benchmark"
_SPLIT_TAG: Final = "quasar.split"
_DECIMALS: Final = 4
"""Of the scores that MLflow's page shows; `result.json` has them in full."""

# Limits of MLflow's interface.
_MAX_TAG: Final = 5000
_MAX_PARAM: Final = 6000
_MAX_BATCH: Final = {"metrics": 1000, "params": 100, "tags": 100}

_FLUSH_EVERY_S: Final = 5.0
_RETRY_AFTER_S: Final = 60.0
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors reach us as exceptions
    # MLflow's own defaults go on trying for many minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class RunLog:
    """The MLflow server or database that a driver writes to and reads from."""

    def __init__(
        self, tracking_uri: str | None, output_root: str, *, must_exist: bool = False
    ) -> None:
        """Connect; a database that is not there yet is created here, before anybody shares it.

        Args:
            tracking_uri: a server (http, https) or a database (`sqlite:////absolute/path`); None
                leaves the choice to `resolve_tracking_uri`.
            output_root: as `pipeline.store.resolve_root` gives it.
            must_exist: refuse to create a database, for those who only read.

        Raises:
            RunLogError: an address of another kind, a server that does not answer, a database that
                is locked, damaged or not there.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.uri: Final = resolve_tracking_uri(tracking_uri, output_root)
        self._database: Final = database_path(self.uri)
        if must_exist and self._database is not None and not self._database.exists():
            raise RunLogError(
                f"{self._database}: nothing was logged here yet; run `python -m jobs.train_bdd`, "
                "or name another place with --output-root or --tracking-uri"
            )
        self._client = self._connect()

    @contextmanager
    def process_run(
        self,
        name: str,
        *,
        config: "DataclassInstance",
        inputs: Mapping[str, Artefact],
        tags: Mapping[str, str] | None = None,
        resume: str | None = None,
    ) -> Iterator["ProcessRun"]:
        """A run that lasts as long as the block, and ends as the block does.

        It is FINISHED when the block ends, FAILED when it raises, KILLED when it is interrupted or
        the process is told to exit.

        Args:
            name: title of the run.
            config: logged once, flattened to dotted paths.
            inputs: what is read, by its use ("train", "val").
            tags: further tags.
            resume: id of an earlier run that goes on; where MLflow does not have it, a new one
                takes its place.
        """
        provenance = describe_provenance()
        all_tags = {"kind": "process", **provenance_tags(provenance), **(tags or {})}
        with _refusals(self.uri):
            experiment = self._experiment(PROCESS_EXPERIMENT, {})
            run_id = self._reopen(experiment, resume) if resume is not None else None
            if run_id is None:
                run_id = self._client.create_run(experiment, run_name=name).info.run_id
                self._log(run_id, tags={}, params=flatten(config))
                self._log_inputs(run_id, inputs)
            self._log(run_id, tags=all_tags)
        run = ProcessRun(self, run_id, provenance)
        with self._running(run_id):
            try:
                yield run
            except BaseException:
                with suppress(RunLogError):
                    run.flush()
                raise
            run.flush()

    def log_result(
        self,
        row: ResultRow,
        *,
        files: Mapping[str, FileContent] | None = None,
        inputs: Mapping[str, Artefact] | None = None,
    ) -> str:
        """Write a row of a leaderboard, or bring the same row up to date; returns its run id.

        Args:
            row: the result.
            files: further artefacts by path; a file larger than `MAX_COPIED_BYTES` is referred to.
            inputs: what was scored, by use.
        """
        with _refusals(self.uri):
            experiment = self._leaderboard_experiment(row)
            run_id = self._run_of_row(experiment, row)
        with self._running(run_id), _refusals(self.uri):
            tags = {**row_tags(row), PROCESS_TAG: row.process_run_id}
            self._log(run_id, tags=tags, metrics=finite_numbers(row.metrics, _DECIMALS))
            self._log_inputs(run_id, inputs or {})
            self.log_files(run_id, {**row_files(row), **(files or {})})
            whole = json.dumps(row.to_dict(), indent=1, allow_nan=False)
            self.log_files(run_id, {RESULT_FILE: whole.encode()})
        return run_id

    def results(self, benchmark: str, split: str) -> list[ResultRow]:
        """Finished rows of one leaderboard, in no particular order; none where there is none.

        A row whose `result.json` cannot be read is left out with a warning.
        """
        with _refusals(self.uri):
            experiment = self._client.get_experiment_by_name(f"{benchmark}/{split}")
            if experiment is None:
                return []
            newest: dict[str, Run] = {}
            for run in self._search(experiment.experiment_id, "attributes.status = 'FINISHED'"):
                fingerprint = run.data.tags.get(FINGERPRINT_TAG)
                if fingerprint is not None:  # two drivers may have made the same row at once
                    newest.setdefault(fingerprint, run)
            rows = [self._read_row(run) for run in newest.values()]
        return [row for row in rows if row is not None]

    def read_file(self, row: ResultRow, name: str) -> bytes:
        """A further artefact of a finished row, as `log_result` was given it.

        Raises:
            RunLogError: the row is not there, or has no such file.
        """
        condition = f"tags.`{FINGERPRINT_TAG}` = '{row.fingerprint}'"
        with _refusals(self.uri), tempfile.TemporaryDirectory() as folder:
            experiment = self._client.get_experiment_by_name(f"{row.benchmark}/{row.split}")
            runs = self._search(experiment.experiment_id, condition) if experiment else []
            for run in runs:
                if name in {f.path for f in self._client.list_artifacts(run.info.run_id)}:
                    path = self._client.download_artifacts(run.info.run_id, name, folder)
                    return Path(path).read_bytes()
        raise RunLogError(
            f"row {row.name!r} ({row.fingerprint}) has no file {name!r} in MLflow at {self.uri}: "
            "it was logged by an older version; make it once more"
        )

    def benchmarks(self) -> list[tuple[str, str]]:
        """(benchmark, split) of every leaderboard, sorted."""
        with _refusals(self.uri):
            experiments = self._client.search_experiments(
                filter_string=f"tags.`{_BENCHMARK_TAG}` LIKE '%'"
            )
        tags = [experiment.tags for experiment in experiments]
        return sorted((tag[_BENCHMARK_TAG], tag[_SPLIT_TAG]) for tag in tags)

    def how_to_view(self, benchmark: str, split: str) -> str:
        """What a person types and opens to see a leaderboard in MLflow's own page."""
        with _refusals(self.uri):
            experiment = self._client.get_experiment_by_name(f"{benchmark}/{split}")
        number = experiment.experiment_id if experiment else "0"
        query = f"viewStateShareKey={SAVED_VIEW}&workflowType=machine_learning"
        page = f"/#/experiments/{number}/runs?{query}"
        if self._database is None:
            return f"{self.uri}{page}"
        return f"{sys.executable} -m mlflow server --backend-store-uri {self.uri}, then http://127.0.0.1:5000{page}"

    def log_files(self, run_id: str, files: Mapping[str, FileContent]) -> None:
        """Artefacts of any run by path; see `log_result`."""
        with _refusals(self.uri), tempfile.TemporaryDirectory() as folder:
            stage_files(Path(folder), files)
            self._client.log_artifacts(run_id, folder)

    def log_metrics(self, run_id: str, points: Iterable["MetricPoint"]) -> None:
        """Metrics of any run, in as few calls as MLflow allows."""
        from mlflow.entities import Metric

        with _refusals(self.uri):
            metrics = [Metric(name, value, at, step) for step, name, value, at in points]
            self._log_batches(run_id, "metrics", metrics)

    def log_children(
        self, run_id: str, children: Sequence[ChildRun], *, look_up: bool = False
    ) -> set[str]:
        """Write finished runs under a process run; returns the names of those that were new.

        Args:
            run_id: of the parent.
            children: what to write.
            look_up: leave out those that are there already, finished; others are made again.
        """
        with _refusals(self.uri):
            experiment = self._client.get_run(run_id).info.experiment_id
            known: set[str] = set()
            for run in (
                self._search(experiment, f"tags.`{_PARENT_TAG}` = '{run_id}'") if look_up else []
            ):
                if run.info.status == "RUNNING":  # cut off in the middle of being written
                    self._client.delete_run(run.info.run_id)
                else:
                    known.add(run.info.run_name)
        new = [child for child in children if child.name not in known]
        for child in new:
            with _refusals(self.uri):
                self._write_child(experiment, run_id, child)
        return {child.name for child in new}

    def _write_child(self, experiment: str, parent_id: str, child: ChildRun) -> None:
        now = _milliseconds()
        tags = {_PARENT_TAG: parent_id, "kind": "trial", **child.tags}
        run = self._client.create_run(
            experiment,
            start_time=now - round(1000 * child.seconds),
            run_name=child.name,
            tags={key: value[:_MAX_TAG] for key, value in tags.items()},
        )
        metrics = finite_numbers(child.metrics, _DECIMALS)
        self._log(run.info.run_id, tags={}, params=child.params, metrics=metrics)
        self._client.set_terminated(run.info.run_id, child.status, now)

    def _reopen(self, experiment: str, run_id: str) -> str | None:
        """The run, running again; None where it is not here."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException:
            return None
        if run.info.experiment_id != experiment or run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _connect(self) -> "MlflowClient":
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        if self._database is None:
            check_server(self.uri)
            with _refusals(self.uri):
                client = MlflowClient(self.uri)
                client.search_experiments(max_results=1)
                return client
        with sole_opener(self._database), _refusals(self.uri):
            client = MlflowClient(self.uri)
            client.search_experiments(max_results=1)  # creates the tables
            return client

    def _experiment(
        self, name: str, tags: Mapping[str, str], note: Mapping[str, str] | None = None
    ) -> str:
        """Id of an MLflow experiment; tags are kept up to date, the note is only set at first."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = None  # a server knows where
            if self._database is not None:
                folder = self._database.parent / "mlartifacts"
                place = folder.joinpath(*map(encode_name, name.split("/"))).as_uri()
            # Else MLflow's page takes it for traces of a language model.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(
                self._client.create_experiment(name, place, {**kind, **tags, **(note or {})})
            )
        if found.lifecycle_stage != "active":
            raise RunLogError(
                f"the MLflow experiment {name!r} was deleted; bring it back with `mlflow "
                f"experiments restore -x {found.experiment_id}`, or remove it with `mlflow gc`"
            )
        for key, value in tags.items():
            if found.tags.get(key) != value:
                self._client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    def _leaderboard_experiment(self, row: ResultRow) -> str:
        tags = {_BENCHMARK_TAG: row.benchmark, _SPLIT_TAG: row.split, **view_tags(row)}
        note = (
            f"Leaderboard of {row.benchmark} / {row.split}, one run for each result. The saved "
            "view **Leaderboard** (button Views) shows the scores, best first. Compare only rows "
            "of the same `truth` and `protocol`; a row of kind `bound` is no tracker."
        )
        return self._experiment(f"{row.benchmark}/{row.split}", tags, {"mlflow.note.content": note})

    def _run_of_row(self, experiment: str, row: ResultRow) -> str:
        """The run that holds this result already, or a new one."""
        expected = finite_numbers(row.metrics).keys()
        for run in self._search(experiment, f"tags.`{FINGERPRINT_TAG}` = '{row.fingerprint}'"):
            run_id = str(run.info.run_id)
            if run.data.metrics.keys() <= expected:
                self._client.update_run(run_id, status="RUNNING", name=row.name)
                return run_id
            self._client.delete_run(run_id)  # a metric cannot be taken back
        tags = {FINGERPRINT_TAG: row.fingerprint}
        return str(self._client.create_run(experiment, run_name=row.name, tags=tags).info.run_id)

    def _read_row(self, run: "Run") -> ResultRow | None:
        from mlflow.exceptions import MlflowException

        run_id = run.info.run_id
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = self._client.download_artifacts(run_id, RESULT_FILE, folder)
                return ResultRow.from_dict(json.loads(Path(path).read_bytes()))
            except (MlflowException, OSError, ValueError, TypeError) as error:
                logger.warning(
                    "row %r (run %s) is left out, its %s under %s cannot be read: %s",
                    *(run.info.run_name, run_id, RESULT_FILE, run.info.artifact_uri, error),
                )
                return None

    def _search(self, experiment: str, condition: str) -> list["Run"]:
        """All active runs that meet the condition, latest first."""
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([experiment], condition, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _log(
        self,
        run_id: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        now = _milliseconds()
        self._log_batches(run_id, "tags", [RunTag(k, v[:_MAX_TAG]) for k, v in tags.items()])
        texts = {key: str(value)[:_MAX_PARAM] for key, value in (params or {}).items()}
        self._log_batches(run_id, "params", [Param(k, v) for k, v in texts.items()])
        self.log_metrics(run_id, ((0, name, value, now) for name, value in (metrics or {}).items()))

    def _log_batches(self, run_id: str, what: str, entries: Sequence[Any]) -> None:
        size = _MAX_BATCH[what]
        for start in range(0, len(entries), size):
            self._client.log_batch(run_id, **{what: entries[start : start + size]})

    def _log_inputs(self, run_id: str, inputs: Mapping[str, Artefact]) -> None:
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
            self._client.log_inputs(run_id, entries)

    @contextmanager
    def _running(self, run_id: str) -> Iterator[None]:
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):  # Ray turns the signal that stops a job into exit
            status = "KILLED"
            raise
        finally:
            try:
                with _refusals(self.uri):
                    self._client.set_terminated(run_id, status)
            except RunLogError as error:
                if status == "FINISHED":
                    raise
                logger.warning("run %s stays unfinished in MLflow: %s", run_id, error)


MetricPoint = tuple[int, str, float, int]
"""Step, metric, value, milliseconds since the epoch."""


class ProcessRun:
    """An open process run; made by `RunLog.process_run`."""

    def __init__(self, log: RunLog, run_id: str, provenance: Provenance) -> None:
        self._log = log
        self._pending: list[MetricPoint] = []
        self._seen: set[tuple[int, str]] = set()
        self._next_flush = time.monotonic() + _FLUSH_EVERY_S
        self.run_id: Final = run_id
        self.provenance: Final = provenance
        """Of this process, for the rows that it makes."""

    def log_metrics(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Numbers of a step; they reach MLflow in batches, some seconds later.

        A step that is played again, after a worker was replaced, does not count twice: what came
        first stands. Numbers wait while MLflow does not answer; the end of the run insists.
        """
        now = _milliseconds()
        for name, value in finite_numbers(metrics).items():
            if (step, name) not in self._seen:
                self._seen.add((step, name))
                self._pending.append((step, name, value, now))
        if time.monotonic() >= self._next_flush:
            try:
                self.flush()
            except RunLogError as error:
                self._next_flush = time.monotonic() + _RETRY_AFTER_S
                logger.warning("%d numbers wait for MLflow: %s", len(self._pending), error)

    def log_children(self, children: Sequence[ChildRun], *, look_up: bool = False) -> set[str]:
        """Finished runs inside this one; see `RunLog.log_children`."""
        return self._log.log_children(self.run_id, children, look_up=look_up)

    def log_files(self, files: Mapping[str, FileContent]) -> None:
        """Artefacts by path; see `RunLog.log_result`."""
        self._log.log_files(self.run_id, files)

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            RunLogError: it stays pending.
        """
        self._log.log_metrics(self.run_id, self._pending)
        self._pending = []
        self._next_flush = time.monotonic() + _FLUSH_EVERY_S


@contextmanager
def _refusals(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one line of ours; Ctrl-C waits until it is done."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with undisturbed():
            yield
    except (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        message = f"MLflow at {uri} did not do what was asked: {reason}"
        raise RunLogError(message) from error


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
