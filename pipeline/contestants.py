"""From detections and a tracker to a row of a leaderboard, whoever asks: one path for all.

Experiments, sweeps and benchmarks enter contestants; a contestant is joined, scored and written
down in the same way whatever made it.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from datasets.registry import BENCHMARKS
from models.baselines.mask_overlap import MaskOverlapConfig
from models.baselines.motion import MotionConfig
from models.baselines.overlap import OverlapConfig
from models.config_io import config_to_dict
from models.pointtrack.association import PointTrackerConfig
from models.qdtrack.association import TaoTrackerConfig
from pipeline.associate import AssociationConfig, associate, read_detections
from pipeline.evaluate import EvaluationConfig, EvaluationReport, build_protocol
from pipeline.export import export_tracks, stored_tracks
from pipeline.fit import HISTORY_PART, read_history
from pipeline.frames import read_annotations
from pipeline.leaderboard import Kind, Number, ResultRow, headline_numbers, summary_curves
from pipeline.metrics.box_ap import box_average_precision
from pipeline.model_store import MODEL_FILE, model_file
from pipeline.runlog_content import FileContent
from pipeline.scores import (
    FIELDS_FILE,
    read_fields_file,
    read_intervals,
    read_report,
    score,
)
from pipeline.store import Artefact, fingerprint

if TYPE_CHECKING:
    from pipeline.runlog import ProcessRun, RunLog

_FEW_SEQUENCES: Final = 32
"""Joined and scored in this process: that takes less than starting workers."""
_LOSSES: Final = ("rpn_cls", "rpn_bbox", "cls", "bbox", "track", "track_aux", "total")


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One row to be: detections joined by one tracker."""

    kind: Kind
    title: str
    detections: Artefact
    association: AssociationConfig
    detection_source: str
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a contestant achieved."""

    contestant: Contestant
    frames: Artefact
    tracks: Artefact
    scores: Artefact
    report: EvaluationReport
    metrics: Mapping[str, Number]
    """The numbers that stand for it, with the detections' box AP unless it is a bound or masks
    are compared."""


def compete(
    frames: Artefact,
    contestant: Contestant,
    evaluation: EvaluationConfig,
    *,
    num_workers: int,
) -> Result:
    """Join a contestant's detections and score its tracks, or find both in the store.

    Args:
        frames: finished artefact that the detections are of.
        contestant: what competes.
        evaluation: the rules.
        num_workers: processes where there are many sequences; the result does not depend on it.
    """
    if len(frames.sequences()) <= _FEW_SEQUENCES:
        num_workers = 1
    tracks = associate(contestant.detections, contestant.association, num_workers=num_workers)
    scores = score(frames, tracks, evaluation, num_workers=num_workers)
    report = read_report(scores)
    metrics = headline_numbers(report.metrics)
    if contestant.kind != "bound" and not build_protocol(evaluation).compares_masks:
        metrics |= _box_ap(frames, contestant.detections)
    return Result(
        contestant=contestant,
        frames=frames,
        tracks=tracks,
        scores=scores,
        report=report,
        metrics=metrics,
    )


def result_row(
    result: Result, weights: Artefact | None, run: "ProcessRun", *, recipe: str
) -> ResultRow:
    """The row of a leaderboard that states a result.

    Args:
        result: the result.
        weights: of the network; None where the detections came without one.
        run: the process run that made it.
        recipe: name of the recipe.
    """
    contestant, report = result.contestant, result.report
    settings = config_to_dict(contestant.association)
    kind = settings.pop("kind")
    return ResultRow(
        benchmark=result.frames.dataset,
        split=result.frames.split,
        truth=_describe_truth(result.frames),
        protocol=report.evaluator["protocol"],
        name=contestant.title,
        kind=contestant.kind,
        fingerprint=row_fingerprint(result),
        recipe=recipe,
        weights=f"{weights.split} {weights.fingerprint}" if weights is not None else "not known",
        detections=contestant.detection_source,
        tracker=f"{kind} ({', '.join(f'{k}={v}' for k, v in settings.items())})",
        evaluator=", ".join(f"{k} {v}" for k, v in report.evaluator.items()),
        revision=run.provenance.revision,
        source_digest=run.provenance.source_digest,
        hardware=run.provenance.hardware,
        date=run.provenance.date,
        metrics=result.metrics,
        intervals=read_intervals(result.scores),
        per_class=report.metrics,
        per_sequence=report.sequences,
        hota_curves=summary_curves(report.curves),
        loss_curves=_loss_curves(weights) if weights is not None else {},
        process_run_id=run.run_id,
        notes=contestant.notes,
    )


def row_fingerprint(result: Result) -> str:
    """What the row of a result is found by: the same scores of the same kind are the same row."""
    kind = {"kind": result.contestant.kind}
    return fingerprint("row", 1, kind, [result.scores.fingerprint])


def log_row(row: ResultRow, result: Result, weights: Artefact | None, run_log: "RunLog") -> None:
    """Write a row with all that it may be asked for later.

    That is its results in the benchmark's format, what its metrics combined, and for a model its
    weights.
    """
    benchmark = result.frames.details()["benchmark"]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.zip"
        export_tracks(benchmark, stored_tracks(result.frames, result.tracks), results)
        files: dict[str, FileContent] = {
            "tracks": result.tracks.folder,
            results.name: results,
            FIELDS_FILE: read_fields_file(result.scores),
        }
        inputs = {result.frames.split: result.frames}
        if weights is None or row.kind != "model":
            run_log.log_result(row, inputs=inputs, files=files)
            return
        with model_file(weights) as path:
            run_log.log_result(row, inputs=inputs, files={**files, MODEL_FILE: path})


def overlap_baseline(association: AssociationConfig) -> OverlapConfig | MaskOverlapConfig:
    """Association by overlap alone, with everything else as the tracker has it.

    That is the overlap of masks beside a tracker of masks. The trackers by motion have no such
    settings: beside them stands the overlap tracker's default.

    >>> from models.qdtrack.association import TrackerConfig
    >>> overlap_baseline(TrackerConfig(memo_tracklet_frames=30)).memo_frames
    30
    """
    if isinstance(association, OverlapConfig | MaskOverlapConfig):
        return association
    if isinstance(association, PointTrackerConfig):
        return MaskOverlapConfig(memo_frames=association.keep_alive_frames)
    if isinstance(association, MotionConfig):
        return OverlapConfig()
    births = OverlapConfig(
        init_score_thr=association.init_score_thr, obj_score_thr=association.obj_score_thr
    )
    if isinstance(association, TaoTrackerConfig):
        return replace(births, memo_frames=association.memo_frames)
    return replace(
        births,
        memo_frames=association.memo_tracklet_frames,
        nms_backdrop_iou_thr=association.nms_backdrop_iou_thr,
        nms_class_iou_thr=association.nms_class_iou_thr,
        with_cats=association.with_cats,
    )


def overlap_words(baseline: OverlapConfig | MaskOverlapConfig) -> str:
    """How titles and notes call what `overlap_baseline` gave.

    >>> overlap_words(overlap_baseline(PointTrackerConfig()))
    'mask overlap only'
    """
    return "mask overlap only" if isinstance(baseline, MaskOverlapConfig) else "overlap only"


def join_notes(*notes: str) -> str:
    """Those notes that say something, as one.

    >>> join_notes("synthetic data", "")
    'synthetic data'
    """
    return "; ".join(note for note in notes if note)


def _box_ap(frames: Artefact, detections: Artefact) -> dict[str, float | None]:
    """Box AP of some detections, computed once and kept."""
    kept = Artefact(
        root=frames.root,
        stage="box_ap",
        dataset=frames.dataset,
        split=frames.split,
        fingerprint=fingerprint("box_ap", 1, {}, [frames.fingerprint, detections.fingerprint]),
    )
    if kept.manifest() is None:
        items = {
            name: (read_annotations(frames.part(name)), read_detections(detections.part(name)))
            for name in frames.sequences()
        }
        classes = BENCHMARKS[frames.details()["benchmark"]].classes
        kept.finish([], box_average_precision(items, classes))
    return {name: kept.details()[name] for name in ("AP", "AP50", "AP75")}


def _describe_truth(frames: Artefact) -> str:
    num_frames = frames.details()["num_frames"]
    return f"{len(frames.sequences())} sequences, {num_frames} frames ({frames.fingerprint})"


def _loss_curves(weights: Artefact) -> dict[str, list[tuple[float, float]]]:
    """Losses by step, where this project trained the weights."""
    if HISTORY_PART not in weights.part_names():
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for step, metrics in read_history(weights):
        for name in _LOSSES:
            if name in metrics:
                curves.setdefault(name, []).append((step, metrics[name]))
    return curves
