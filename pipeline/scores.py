"""The evaluate stage: tracks of the store against the truth of the store, and the report kept.

Beside the report lie its confidence intervals, and what the metrics combined: with that, two
results can be compared long after.
"""

import json
import math
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.schema import SequenceResult, SequenceTruth
from models.config_io import config_to_dict
from pipeline.associate import read_tracks
from pipeline.confidence import ResultFields, intervals
from pipeline.evaluate import (
    EvaluationConfig,
    EvaluationReport,
    build_protocol,
    reduce_scores,
    score_items,
)
from pipeline.frames import read_truth
from pipeline.store import Artefact, Part, fingerprint

STAGE: Final = "scores"
VERSION: Final = 2
"""Raised when the code changes a score or what is kept of it."""

REPORT_PART: Final = "report"
REPORT_FILE: Final = "report.json"
FIELDS_FILE: Final = "fields.parquet"
"""What the metrics combined, by sequence; see `pack_fields`."""
_CURVES_FILE: Final = "curves.json"
_INTERVALS_FILE: Final = "intervals.json"
_FIELDS_SCHEMA: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("sequence", "class", "metric", "field")),
        ("values", pa.list_(pa.float64())),
    ]
)


def score(
    frames: Artefact, tracks: Artefact, config: EvaluationConfig, *, num_workers: int = 1
) -> Artefact:
    """Score every sequence of `tracks`; does nothing where the report is there already.

    Args:
        frames: finished artefact that holds the truth.
        tracks: finished artefact of association over the same frames.
        config: the rules.
        num_workers: actors; at most 1 scores in this process. The report does not depend on it.

    Raises:
        ValueError: the two are not of the same sequences, or the split has no public truth.
    """
    artefact = Artefact(
        root=tracks.root,
        stage=STAGE,
        dataset=tracks.dataset,
        split=tracks.split,
        fingerprint=fingerprint(
            STAGE, VERSION, config_to_dict(config), [frames.fingerprint, tracks.fingerprint]
        ),
    )
    if artefact.is_complete():
        return artefact
    names = tracks.sequences()
    if names != frames.sequences():
        raise ValueError(
            f"{tracks.folder} holds {len(names)} sequences and {frames.folder} "
            f"{len(frames.sequences())}, not the same ones: the tracks are of other frames"
        )
    protocol = build_protocol(config)
    scores = score_items(
        protocol,
        {name: (frames.part(name), tracks.part(name)) for name in names},
        load=load_pair,
        num_workers=num_workers,
    )
    report = reduce_scores(protocol, scores)
    fields = {name: scores[name].fields for name in names}
    with artefact.part(REPORT_PART).write() as writer:
        for name, content in (
            (REPORT_FILE, report.to_json().encode()),
            (_CURVES_FILE, json.dumps(report.curves).encode()),
            (_INTERVALS_FILE, json.dumps(intervals(protocol, fields)).encode()),
            (FIELDS_FILE, pack_fields(fields)),
        ):
            with writer.open_file(name) as stream:
                stream.write(content)
    inputs = {"frames": frames.fingerprint, "tracks": tracks.fingerprint}
    artefact.finish([REPORT_PART], {**config_to_dict(config), **inputs})
    return artefact


def load_pair(parts: tuple[Part, Part]) -> tuple[SequenceTruth, SequenceResult]:
    """Truth and result of one sequence, from its frames and its tracks."""
    frames, tracks = parts
    truth, found = read_truth(frames), read_tracks(tracks)
    return truth, SequenceResult(name=truth.name, tracks=found, num_frames=truth.num_frames)


def read_report(artefact: Artefact) -> EvaluationReport:
    """The report that `score` kept; numbers without a finite value come back as NaN."""
    part = artefact.part(REPORT_PART)
    report = _nan_for_null(_read_json(part, REPORT_FILE))
    curves = {
        row: {metric: tuple(values) for metric, values in metrics.items()}
        for row, metrics in _read_json(part, _CURVES_FILE).items()
    }
    return EvaluationReport(**report, curves=curves)


def read_intervals(artefact: Artefact) -> dict[str, tuple[float, float]]:
    """Lower and upper end of the headline metrics that have an interval; see `intervals`."""
    kept = _read_json(artefact.part(REPORT_PART), _INTERVALS_FILE)
    return {metric: (low, high) for metric, (low, high) in kept.items()}


def read_fields_file(artefact: Artefact) -> bytes:
    """The file of what the metrics combined, as it is: 3 kilobytes a sequence of BDD100K."""
    with artefact.part(REPORT_PART).open_input(FIELDS_FILE) as stream:
        content: bytes = stream.read()
    return content


def pack_fields(fields: ResultFields) -> bytes:
    """What the metrics combined as a small Parquet file: one line for each number or array."""
    lines = [
        {
            "sequence": sequence,
            "class": class_name,
            "metric": metric,
            "field": field,
            "values": np.atleast_1d(value).tolist(),
        }
        for sequence, classes in fields.items()
        for class_name, metrics in classes.items()
        for metric, entries in metrics.items()
        for field, value in entries.items()
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(lines, _FIELDS_SCHEMA), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def parse_fields(content: bytes) -> ResultFields:
    """What `pack_fields` made its file of; all numbers come back as floats."""
    fields: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for row in pq.read_table(pa.BufferReader(content)).to_pylist():
        metrics = fields.setdefault(row["sequence"], {}).setdefault(row["class"], {})
        values = row["values"]
        value = np.array(values) if len(values) > 1 else values[0]
        metrics.setdefault(row["metric"], {})[row["field"]] = value
    return fields


def _read_json(part: Part, name: str) -> Any:
    with part.open_input(name) as stream:
        return json.loads(stream.read())


def _nan_for_null(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _nan_for_null(value) for key, value in content.items()}
    return math.nan if content is None else content
