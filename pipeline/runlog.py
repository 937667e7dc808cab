"""What is kept in MLflow: process runs and the rows of leaderboards.

Only this file and `runlog_connection.py` import mlflow.

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
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.leaderboard import ResultRow
from pipeline.locations import encode_name
from pipeline.overrides import flatten
from pipeline.provenance import Provenance, describe_provenance
from pipeline.runlog_address import RunLogError
from pipeline.runlog_children import ChildRun, write_children
from pipeline.runlog_connection import Connection, MetricPoint, now_ms
from pipeline.runlog_content import (
    DECIMALS,
    SAVED_VIEW,
    FileContent,
    finite_numbers,
    provenance_tags,
    row_files,
    row_tags,
    view_tags,
)
from pipeline.store import Artefact

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

PROCESS_EXPERIMENT: Final = "quasar"
RESULT_FILE: Final = "result.json"
FINGERPRINT_TAG: Final = "quasar.result_fingerprint"
PROCESS_TAG: Final = "quasar.process_run_id"

_BENCHMARK_TAG: Final = "quasar.benchmark"
_SPLIT_TAG: Final = "quasar.split"
_FLUSH_EVERY_S: Final = 5.0
_RETRY_AFTER_S: Final = 60.0


class RunLog:
    """The MLflow server or database that a driver writes to and reads from."""

    def __init__(
        self, tracking_uri: str | None, output_root: str, *, must_exist: bool = False
    ) -> None:
        """Connect; a database that is not there yet is created here, before anybody shares it.

        Args:
            tracking_uri: a server (http, https) or a database (`sqlite:////absolute/path`); None
                leaves the choice to `resolve_tracking_uri`.
            output_root: as `pipeline.locations.resolve_root` gives it.
            must_exist: refuse to create a database, for those who only read.

        Raises:
            RunLogError: an address of another kind, a server that does not answer, a database that
                is locked, damaged or not there.
        """
        self._connection = Connection(tracking_uri, output_root, must_exist=must_exist)
        self._client = self._connection.client
        self.uri: Final = self._connection.uri

    @contextmanager
    def process_run(
        self,
        name: str,
        *,
        config: "DataclassInstance",
        inputs: Mapping[str, Artefact],
        tags: Mapping[str, str] | None = None,
        resume: bool = False,
    ) -> Iterator["ProcessRun"]:
        """A run that lasts as long as the block, and ends as the block does.

        It is FINISHED when the block ends, FAILED when it raises or was marked so, KILLED when it
        is interrupted or the process is told to exit.

        Args:
            name: title of the run.
            config: logged once, flattened to dotted paths.
            inputs: what is read, by its use ("train", "val").
            tags: further tags.
            resume: go on with the latest run that has these tags; where MLflow has none, a new one
                begins.
        """
        provenance = describe_provenance()
        all_tags = {"kind": "process", **provenance_tags(provenance), **(tags or {})}
        with self._connection.refusals():
            experiment = self._experiment(PROCESS_EXPERIMENT, {})
            before = self._reopen(experiment, tags or {}) if resume else None
            if before is None:  # with its tags from the beginning, by which it is found again
                run_id = self._connection.create_run(experiment, name, all_tags)
            else:
                run_id = str(before.info.run_id)
                self._connection.log(run_id, tags=all_tags)
            if before is None or not before.data.params:  # it may have been cut off there
                self._connection.log_inputs(run_id, inputs)
                self._connection.log(run_id, tags={}, params=flatten(config))
        run = ProcessRun(self._connection, run_id, provenance)
        with self._connection.running(run_id, lambda: run.has_failed):
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
        with self._connection.refusals():
            experiment = self._leaderboard_experiment(row)
            run_id = self._run_of_row(experiment, row)
        with self._connection.running(run_id), self._connection.refusals():
            tags = {**row_tags(row), PROCESS_TAG: row.process_run_id}
            self._connection.log(run_id, tags=tags, metrics=finite_numbers(row.metrics, DECIMALS))
            self._connection.log_inputs(run_id, inputs or {})
            self._connection.log_files(run_id, {**row_files(row), **(files or {})})
            whole = json.dumps(row.to_dict(), indent=1, allow_nan=False)
            self._connection.log_files(run_id, {RESULT_FILE: whole.encode()})
        return run_id

    def results(self, benchmark: str, split: str) -> list[ResultRow]:
        """Finished rows of one leaderboard, in no particular order; none where there is none.

        A row whose `result.json` cannot be read is left out with a warning.
        """
        with self._connection.refusals():
            experiment = self._client.get_experiment_by_name(f"{benchmark}/{split}")
            if experiment is None:
                return []
            newest: dict[str, Run] = {}
            for run in self._connection.search(
                experiment.experiment_id, "attributes.status = 'FINISHED'"
            ):
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
        with self._connection.refusals(), tempfile.TemporaryDirectory() as folder:
            experiment = self._client.get_experiment_by_name(f"{row.benchmark}/{row.split}")
            runs = (
                self._connection.search(experiment.experiment_id, condition) if experiment else []
            )
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
        with self._connection.refusals():
            experiments = self._client.search_experiments(
                filter_string=f"tags.`{_BENCHMARK_TAG}` LIKE '%'"
            )
        tags = [experiment.tags for experiment in experiments]
        return sorted((tag[_BENCHMARK_TAG], tag[_SPLIT_TAG]) for tag in tags)

    def how_to_view(self, benchmark: str, split: str) -> str:
        """What a person types and opens to see a leaderboard in MLflow's own page."""
        with self._connection.refusals():
            experiment = self._client.get_experiment_by_name(f"{benchmark}/{split}")
        number = experiment.experiment_id if experiment else "0"
        query = f"viewStateShareKey={SAVED_VIEW}&workflowType=machine_learning"
        page = f"/#/experiments/{number}/runs?{query}"
        if self._connection.database is None:
            return f"{self.uri}{page}"
        return f"{sys.executable} -m mlflow server --backend-store-uri {self.uri}, then http://127.0.0.1:5000{page}"

    def _reopen(self, experiment: str, tags: Mapping[str, str]) -> "Run | None":
        """The latest run with these tags, running again; None where there is none."""
        # Compared here: MLflow's conditions cannot hold every text.
        for run in self._connection.search(
            experiment, f"tags.kind = '{tags.get('kind', 'process')}'"
        ):
            if all(run.data.tags.get(key) == value for key, value in tags.items()):
                self._client.update_run(run.info.run_id, status="RUNNING")
                return run
        return None

    def _experiment(
        self, name: str, tags: Mapping[str, str], note: Mapping[str, str] | None = None
    ) -> str:
        """Id of an MLflow experiment; tags are kept up to date, the note is only set at first."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = None  # a server knows where
            if self._connection.database is not None:
                folder = self._connection.database.parent / "mlartifacts"
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
        for run in self._connection.search(
            experiment, f"tags.`{FINGERPRINT_TAG}` = '{row.fingerprint}'"
        ):
            run_id = str(run.info.run_id)
            if run.data.metrics.keys() <= expected:
                self._client.update_run(run_id, status="RUNNING", name=row.name)
                return run_id
            self._client.delete_run(run_id)  # a metric cannot be taken back
        tags = {FINGERPRINT_TAG: row.fingerprint}
        return self._connection.create_run(experiment, row.name, tags)

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


class ProcessRun:
    """An open process run; made by `RunLog.process_run`."""

    def __init__(self, connection: Connection, run_id: str, provenance: Provenance) -> None:
        self._connection = connection
        self._pending: list[MetricPoint] = []
        self._seen: set[tuple[int, str]] = set()
        self._next_flush = time.monotonic() + _FLUSH_EVERY_S
        self.run_id: Final = run_id
        self.provenance: Final = provenance
        """Of this process, for the rows that it makes."""
        self.has_failed = False
        """Whether the run ends FAILED even where its block ends."""

    def mark_failed(self) -> None:
        """Let the run end FAILED: a part of its work failed, though the rest went on."""
        self.has_failed = True

    def log_metrics(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Numbers of a step; they reach MLflow in batches, some seconds later.

        A step that is played again, after a worker was replaced, does not count twice: what came
        first stands. Numbers wait while MLflow does not answer; the end of the run insists.
        """
        now = now_ms()
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
        """Finished runs inside this one; see `write_children`."""
        return write_children(self._connection, self.run_id, children, look_up=look_up)

    def log_files(self, files: Mapping[str, FileContent]) -> None:
        """Artefacts by path; see `RunLog.log_result`."""
        self._connection.log_files(self.run_id, files)

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            RunLogError: it stays pending.
        """
        self._connection.log_metrics(self.run_id, self._pending)
        self._pending = []
        self._next_flush = time.monotonic() + _FLUSH_EVERY_S
