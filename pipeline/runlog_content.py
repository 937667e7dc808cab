"""What MLflow is given of a row: tags, tables, plots, and the view that shows them together."""

import base64
import csv
import io
import json
import math
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.leaderboard import ResultRow, Table, less_is_better, rank
from pipeline.leaderboard_page import hota_chart, loss_chart
from pipeline.provenance import Provenance

FileContent = bytes | Path | str
"""Bytes to store, a file to copy, or an address to write down."""

MAX_COPIED_BYTES: Final = 512 * 2**20
"""Larger files stay where they are and are listed in `REFERENCES_FILE` with place and size."""
REFERENCES_FILE: Final = "references.json"

SAVED_VIEW: Final = "leaderboard"
"""Name of the saved view in addresses of MLflow's page: `?viewStateShareKey=leaderboard`."""

DECIMALS: Final = 4
"""Of the scores that MLflow's page shows; a row's `result.json` has them in full."""

_STATED: Final = (
    *("kind", "recipe", "weights", "detections", "tracker", "truth", "protocol", "evaluator"),
    *("revision", "source_digest", "hardware", "date"),
)
_NAME_COLUMN: Final = "attributes.`Run Name`"
_NAME_PX: Final = 380
_SCORE_PX: Final = 85


def row_tags(row: ResultRow) -> dict[str, str]:
    """What is stated with a row, and what MLflow's page needs to show its tables."""
    tables = [{"path": f"tables/{name}.json", "type": "table"} for name in _tables(row)]
    return {
        **{name: getattr(row, name) for name in _STATED},
        "mlflow.note.content": row.notes,
        "mlflow.loggedArtifacts": json.dumps(tables),
    }


def provenance_tags(provenance: Provenance) -> dict[str, str]:
    """Provenance of a process, one tag for each library."""
    facts = {**vars(provenance)}
    versions = facts.pop("versions")
    return facts | {f"version.{name}": text for name, text in versions.items()}


def row_files(row: ResultRow) -> dict[str, bytes]:
    """Tables as JSON (in the form that MLflow shows) and CSV, and curves as SVG, by path."""
    files = {}
    for name, table in _tables(row).items():
        metrics = list(dict.fromkeys(metric for numbers in table.values() for metric in numbers))
        columns = ["row", *metrics]
        lines = [[label, *(entry.get(m) for m in metrics)] for label, entry in table.items()]
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([columns, *lines])
        files[f"tables/{name}.csv"] = stream.getvalue().encode()
        files[f"tables/{name}.json"] = json.dumps({"columns": columns, "data": lines}).encode()
    if row.hota_curves:
        files["plots/hota.svg"] = hota_chart(row.hota_curves, standalone=True).encode()
    if row.loss_curves:
        files["plots/losses.svg"] = loss_chart(row.loss_curves, standalone=True).encode()
    return files


def view_tags(row: ResultRow) -> dict[str, str]:
    """Tag of an MLflow experiment that saves the view "Leaderboard": scores, best first.

    Its form is what MLflow 3.17 writes when a person saves a view; a version that cannot read it
    shows its usual columns.
    """
    metrics = rank([row])[0].metrics
    scores = [f"metrics.`{name}`" for name in metrics]
    facts = [f"tags.`{name}`" for name in _STATED]
    state = {
        "orderByKey": scores[0] if scores else "attributes.start_time",
        "orderByAsc": bool(metrics) and less_is_better(metrics[0]),
        "selectedColumns": scores + facts,
        "columnOrder": [_NAME_COLUMN, *scores, *facts],
        "columnWidths": {_NAME_COLUMN: _NAME_PX, **dict.fromkeys(scores, _SCORE_PX)},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {"name": "Leaderboard", "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"}
    return {f"mlflow.sharedViewState.{SAVED_VIEW}": json.dumps(view)}


def finite_numbers(
    metrics: Mapping[str, float | None], decimals: int | None = None
) -> dict[str, float]:
    """The metrics that have a finite value, rounded where decimals are given.

    >>> finite_numbers({"MOTA": 12.345678, "MOTP": None, "IDF1": float("nan")}, 4)
    {'MOTA': 12.3457}
    """
    return {
        name: float(value) if decimals is None else round(float(value), decimals)
        for name, value in metrics.items()
        if value is not None and math.isfinite(value)
    }


def stage_files(folder: Path, files: Mapping[str, FileContent]) -> None:
    """Lay out in a folder what is to be uploaded; what is not copied is listed in one more file.

    Args:
        folder: an empty folder.
        files: path inside the folder to content.

    Raises:
        ValueError: a path that leaves the folder.
    """
    references: dict[str, dict[str, Any]] = {}
    for name, content in files.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"artefact path {name!r} leaves its folder; expected a relative path")
        if isinstance(content, str):
            references[name] = {"location": content}
        elif isinstance(content, Path) and content.stat().st_size > MAX_COPIED_BYTES:
            size = content.stat().st_size
            references[name] = {"location": str(content.resolve()), "size": size}
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content)
    if references:
        (folder / REFERENCES_FILE).write_text(json.dumps(references, indent=1))


def _tables(row: ResultRow) -> dict[str, Table]:
    """Per class; and per sequence with all its classes, one line each."""
    sequences = {
        f"{sequence}: {name}": numbers
        for sequence, table in row.per_sequence.items()
        for name, numbers in table.items()
    }
    tables: dict[str, Table] = {"per_class": row.per_class, "per_sequence": sequences}
    return {name: table for name, table in tables.items() if table}
