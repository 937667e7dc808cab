"""Find out where a result lost its score: from stored frames and tracks to a diagnosis.

A sequence is examined by a pure function; what is found is added up once, in sorted order, so that
the diagnosis is the same for any number of workers.

Legend: C classes, S thresholds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from datasets.schema import Detections, Int64, SequenceResult, SequenceTruth
from pipeline.associate import read_detections
from pipeline.bounds import (
    THRESHOLDS,
    NoBoundError,
    associate_perfectly,
    count_at_thresholds,
    find_detections,
    track_truth,
)
from pipeline.diagnosis import (
    Bound,
    Diagnosis,
    SequenceFindings,
    accuracy_points,
    choose_classes,
    has_pool,
    headline_of,
)
from pipeline.errors import Cause, SequenceErrors, count_errors, find_errors
from pipeline.evaluate import (
    EvaluationConfig,
    EvaluationReport,
    SequenceScores,
    build_protocol,
    evaluate_sequence,
    reduce_scores,
    sequences_per_task,
)
from pipeline.lineage import check_belongs
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.parallel import map_sequences
from pipeline.repairs import REPAIRS, repair
from pipeline.scores import load_pair, read_report, score
from pipeline.store import Artefact, Part
from pipeline.wording import in_words

Parts = tuple[Part, Part, Part | None]
"""Frames, tracks and, where they are still in the store, detections of one sequence."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """What one sequence adds to a diagnosis."""

    findings: SequenceFindings
    scores: SequenceScores
    repaired: Mapping[Cause, SequenceScores]
    num_boxes: Int64
    """(C,) boxes of the result, right or wrong."""
    at_thresholds: Int64 | None
    """(S, C) as `count_at_thresholds` has it; None without detections."""


def diagnose(
    frames: Artefact,
    tracks: Artefact,
    *,
    run_network: bool = False,
    num_workers: int = 1,
    gpus_per_worker: float = 0.0,
) -> Diagnosis:
    """Errors by cause, their cost, and bounds of one result.

    Args:
        frames: finished artefact that holds the truth.
        tracks: finished artefact of association over these frames.
        run_network: run the network on true boxes where that is not in the store yet; otherwise
            that bound is then left out.
        num_workers: actors; at most 1 works in this process. The diagnosis does not depend on it.
        gpus_per_worker: for the network on true boxes.

    Raises:
        ValueError: the two do not belong together, the split has no public truth, or none of its
            boxes is scored.
    """
    check_belongs(frames, tracks)
    evaluation = EvaluationConfig(protocol=frames.details()["benchmark"])
    protocol = build_protocol(evaluation)
    examined = _over_sequences(
        partial(_examine_parts, protocol), frames, tracks, num_workers, "diagnose"
    )
    classes = choose_classes(protocol, np.sum([one.num_boxes for one in examined.values()], axis=0))
    num_truth = np.sum([one.findings.num_truth for one in examined.values()], axis=0)
    if not num_truth[[protocol.classes.index(name) for name in classes]].any():
        boxes = in_words("true {boxes}", protocol)
        which = "" if has_pool(protocol) else f" of {' or '.join(classes)}"
        raise ValueError(
            f"{frames.folder}: none of its {boxes}{which} is scored by the rules of "
            f"{protocol.name}, so there is nothing to lose; diagnose a split with labels"
        )
    report = reduce_scores(protocol, {name: one.scores for name, one in examined.items()})
    repaired: dict[Cause, EvaluationReport] = {
        cause: reduce_scores(
            protocol, {name: one.repaired[cause] for name, one in examined.items()}
        )
        for cause in REPAIRS
    }
    perfect, right = _bounds_of_association(
        protocol, classes, frames, tracks, examined, num_truth, num_workers
    )
    return Diagnosis(
        title=f"{tracks.dataset} / {tracks.split}",
        inputs=_describe_inputs(frames, tracks),
        protocol=protocol,
        classes=classes,
        report=report,
        sequences={
            name: _only_of(one.findings, [protocol.classes.index(name) for name in classes])
            for name, one in examined.items()
        },
        repaired=repaired,
        result=Bound(
            name="this result",
            tells="as it is",
            metrics=headline_of(protocol, classes, report),
        ),
        perfect_association=perfect,
        right_boxes=right,
        true_boxes=_bound_of_boxes(
            protocol,
            classes,
            frames,
            tracks,
            evaluation,
            run_network=run_network,
            num_workers=num_workers,
            gpus_per_worker=gpus_per_worker,
        ),
    )


def examine(
    protocol: ScoringProtocol,
    truth: SequenceTruth,
    result: SequenceResult,
    detections: Detections | None,
) -> Examined:
    """What is wrong in one sequence and what scores would be without: a pure function."""
    found = find_errors(protocol, truth, result)
    scores = evaluate_sequence(protocol, truth, result)
    return Examined(
        findings=_findings(truth, found, len(protocol.classes)),
        scores=scores,
        repaired={
            cause: evaluate_sequence(protocol, truth, repair(cause, truth, result, found))
            for cause in REPAIRS
        },
        num_boxes=np.bincount(result.tracks.class_index, minlength=len(protocol.classes)),
        at_thresholds=(
            None if detections is None else count_at_thresholds(protocol, truth, detections)
        ),
    )


def best_threshold(protocol: ScoringProtocol, at_thresholds: Int64, num_truth: Int64) -> float:
    """The single score threshold whose missed and false boxes cost the fewest points of MOTA.

    MOTA (of masks, MOTSA) is averaged over classes where the protocol has such a row. Among equals
    the lowest.

    Args:
        protocol: the rules.
        at_thresholds: (S, C) missed and false boxes over all sequences.
        num_truth: (C,) true boxes over all sequences.
    """
    is_average = any(row.is_average for row in protocol.rows)
    members = list(range(len(protocol.classes)))
    counts = np.zeros((len(at_thresholds), len(members), 4), np.int64)
    counts[:, :, 0] = at_thresholds
    points = accuracy_points(counts, num_truth, members, is_average=is_average)
    return THRESHOLDS[int(points.argmin())]


def _over_sequences(
    function: Callable[[Parts], R],
    frames: Artefact,
    tracks: Artefact,
    num_workers: int,
    label: str,
) -> dict[str, R]:
    try:
        detections = find_detections(tracks)
    except NoBoundError:
        detections = None
    names = tracks.sequences()
    return map_sequences(
        function,
        {
            name: (
                frames.part(name),
                tracks.part(name),
                None if detections is None else detections.part(name),
            )
            for name in names
        },
        num_workers=num_workers,
        label=f"{label} {tracks.dataset}/{tracks.split}",
        per_task=sequences_per_task(len(names), num_workers),
    )


def _examine_parts(protocol: ScoringProtocol, parts: Parts) -> Examined:
    frames, tracks, detections = parts
    found = None if detections is None else read_detections(detections)
    return examine(protocol, *load_pair((frames, tracks)), found)


def _findings(truth: SequenceTruth, found: SequenceErrors, num_classes: int) -> SequenceFindings:
    named = {error.identity for error in found.errors}
    annotations = truth.annotations
    names = zip(annotations.identity.tolist(), annotations.identity_source, strict=True)
    return SequenceFindings(
        errors=found.errors,
        counts=count_errors(found.errors, num_classes),
        num_truth=found.num_truth,
        frame_names=truth.frame_names,
        identity_names={identity: name for identity, name in names if identity in named},
    )


def _only_of(findings: SequenceFindings, members: Sequence[int]) -> SequenceFindings:
    """Findings whose errors have to do with some classes."""
    errors = (e for e in findings.errors if e.truth_class in members or e.track_class in members)
    return replace(findings, errors=tuple(errors))


def _bounds_of_association(
    protocol: ScoringProtocol,
    classes: Sequence[str],
    frames: Artefact,
    tracks: Artefact,
    examined: Mapping[str, Examined],
    num_truth: Int64,
    num_workers: int,
) -> tuple[Bound, Bound]:
    right_boxes = in_words("the right {boxes} only", protocol)
    try:
        find_detections(tracks)
    except NoBoundError as error:
        tells = f"not known: {error}"
        return (
            Bound(name="perfect association", tells=tells, metrics=None),
            Bound(name=right_boxes, tells=tells, metrics=None),
        )
    counts = [one.at_thresholds for one in examined.values() if one.at_thresholds is not None]
    threshold = best_threshold(protocol, np.sum(counts, axis=0), num_truth)
    scores = _over_sequences(
        partial(_score_perfect, protocol, threshold), frames, tracks, num_workers, "bounds"
    )
    perfect, right = (
        headline_of(
            protocol,
            classes,
            reduce_scores(protocol, {name: pair[which] for name, pair in scores.items()}),
        )
        for which in (0, 1)
    )
    return (
        Bound(
            name="perfect association",
            tells=f"all detections from score {threshold:g} on with true identities; no other "
            f"single threshold costs fewer {protocol.accuracy} points (mean over classes where "
            "there is one)",
            metrics=perfect,
        ),
        Bound(
            name=right_boxes,
            tells=in_words(
                "every detection that matches a true {box}, with its identity, and no other: no "
                "tracker can make fewer errors with these detections",
                protocol,
            ),
            metrics=right,
        ),
    )


def _score_perfect(
    protocol: ScoringProtocol, threshold: float, parts: Parts
) -> tuple[SequenceScores, SequenceScores]:
    """Scores of both bounds of association, in their order."""
    frames, tracks, stored = parts
    assert stored is not None
    truth, _ = load_pair((frames, tracks))
    detections = read_detections(stored)
    perfect = associate_perfectly(protocol, truth, detections, threshold, keep_false=True)
    right = associate_perfectly(protocol, truth, detections, 0.0, keep_false=False)
    return evaluate_sequence(protocol, truth, perfect), evaluate_sequence(protocol, truth, right)


def _bound_of_boxes(
    protocol: ScoringProtocol,
    classes: Sequence[str],
    frames: Artefact,
    tracks: Artefact,
    evaluation: EvaluationConfig,
    *,
    run_network: bool,
    num_workers: int,
    gpus_per_worker: float,
) -> Bound:
    name = in_words("true {boxes}", protocol)
    try:
        on_truth = track_truth(
            frames,
            tracks,
            run_network=run_network,
            num_workers=num_workers,
            gpus_per_worker=gpus_per_worker,
        )
    except NoBoundError as error:
        return Bound(name=name, tells=f"not known: {error}", metrics=None)
    report = read_report(score(frames, on_truth, evaluation, num_workers=num_workers))
    return Bound(
        name=name,
        tells=in_words(
            "the same network and tracker on ground-truth {boxes}: what is missing is the "
            "association's",
            protocol,
        ),
        metrics=headline_of(protocol, classes, report),
    )


def _describe_inputs(frames: Artefact, tracks: Artefact) -> dict[str, str]:
    details = tracks.details()
    settings: dict[str, Any] = dict(details.get("association", {}))
    kind = settings.pop("kind", "not known")
    tracker = f"{kind} ({', '.join(f'{name}={value}' for name, value in settings.items())})"
    if "merged" in details:
        tracker = f"tracks merged from {' and '.join(details['merged'])}"
    return {"tracks": tracks.folder, "frames": frames.folder, "tracker": tracker}
