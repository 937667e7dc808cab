"""The evaluate stage: tracks of the store against the truth of the store, and the report kept."""

import json
import math
from typing import Any, Final

from datasets.schema import SequenceResult, SequenceTruth
from models.config_io import config_to_dict
from pipeline.associate import read_tracks
from pipeline.evaluate import (
    EvaluationConfig,
    EvaluationReport,
    build_protocol,
    evaluate_items,
)
from pipeline.frames import read_truth
from pipeline.store import Artefact, Part, fingerprint

STAGE: Final = "scores"
VERSION: Final = 1
"""Raised when the code changes a score."""

REPORT_PART: Final = "report"
REPORT_FILE: Final = "report.json"
_CURVES_FILE: Final = "curves.json"


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
    report = evaluate_items(
        build_protocol(config),
        {name: (frames.part(name), tracks.part(name)) for name in names},
        load=load_pair,
        num_workers=num_workers,
    )
    with artefact.part(REPORT_PART).write() as writer:
        for name, text in (
            (REPORT_FILE, report.to_json()),
            (_CURVES_FILE, json.dumps(report.curves)),
        ):
            with writer.open_file(name) as stream:
                stream.write(text.encode())
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
    content = {}
    for name in (REPORT_FILE, _CURVES_FILE):
        with part.open_input(name) as stream:
            content[name] = json.loads(stream.read())
    report = _nan_for_null(content[REPORT_FILE])
    curves = {
        row: {metric: tuple(values) for metric, values in metrics.items()}
        for row, metrics in content[_CURVES_FILE].items()
    }
    return EvaluationReport(**report, curves=curves)


def _nan_for_null(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _nan_for_null(value) for key, value in content.items()}
    return math.nan if content is None else content
