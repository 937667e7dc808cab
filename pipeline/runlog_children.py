"""Runs inside a process run: each is over when it is written, like a trial of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.runlog_connection import Connection, now_ms
from pipeline.runlog_content import DECIMALS, finite_numbers

_PARENT_TAG: Final = "mlflow.parentRunId"


@dataclass(frozen=True, kw_only=True)
class ChildRun:
    """A run inside a process run."""

    name: str
    """Unique within its parent."""
    status: Literal["FINISHED", "KILLED", "FAILED"]
    """KILLED is what was stopped on purpose: MLflow's own word for Optuna's pruned trials."""
    params: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    tags: Mapping[str, str]
    seconds: float


def write_children(
    connection: Connection, parent_id: str, children: Sequence[ChildRun], *, look_up: bool
) -> set[str]:
    """Write finished runs under a process run; returns the names of those that were new.

    Args:
        connection: to write through.
        parent_id: id of the process run.
        children: what to write.
        look_up: leave out those that are there already, finished; others are made again.

    Raises:
        RunLogError: MLflow refuses; some of them may be there then.
    """
    with connection.refusals():
        experiment = connection.client.get_run(parent_id).info.experiment_id
        known = _finished(connection, experiment, parent_id) if look_up else set()
    new = [child for child in children if child.name not in known]
    for child in new:
        with connection.refusals():
            _write(connection, experiment, parent_id, child)
    return {child.name for child in new}


def _finished(connection: Connection, experiment: str, parent_id: str) -> set[str]:
    """Names of the children that are there; those cut off in the middle of writing are deleted."""
    known = set()
    for run in connection.search(experiment, f"tags.`{_PARENT_TAG}` = '{parent_id}'"):
        if run.info.status == "RUNNING":
            connection.client.delete_run(run.info.run_id)
        else:
            known.add(run.info.run_name)
    return known


def _write(connection: Connection, experiment: str, parent_id: str, child: ChildRun) -> None:
    now = now_ms()
    run_id = connection.create_run(
        experiment,
        child.name,
        {_PARENT_TAG: parent_id, "kind": "trial", **child.tags},
        started_ms=now - round(1000 * child.seconds),
    )
    metrics = finite_numbers(child.metrics, DECIMALS)
    connection.log(run_id, tags={}, params=child.params, metrics=metrics)
    connection.client.set_terminated(run_id, child.status, now)
