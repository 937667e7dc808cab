"""How good a result could be: the same detections with perfect association, and perfect boxes.

Perfect association gives every detection that the benchmark's matching pairs with a true box the
identity of that box. Which detections are published is the tracker's decision, too, so there are
two such bounds: one publishes all above a single score threshold, false ones included; the other
publishes exactly the right ones, and nothing that a tracker does with these boxes has fewer errors.

Legend: S thresholds, C classes.
"""

from dataclasses import replace
from typing import Final, cast

import numpy as np

from datasets.schema import Detections, Int64, SequenceResult, SequenceTruth, Tracks
from models.config_io import config_from_dict, parse_value
from pipeline.associate import AssociationConfig, associate
from pipeline.errors import match_with_truth
from pipeline.infer import InferConfig, infer, place_of_detections
from pipeline.lineage import detections_of, weights_of
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.repairs import with_true_identities
from pipeline.store import Artefact, StoreError

THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(20))
"""Scores that are tried as the single threshold: 0, 0.05 ... 0.95."""


class NoBoundError(ValueError):
    """A bound cannot be had; the message says why."""


def count_at_thresholds(
    protocol: ScoringProtocol, truth: SequenceTruth, detections: Detections
) -> Int64:
    """(S, C) missed and false boxes together when all detections from each threshold on count."""
    tracks = _as_tracks(detections)
    counts = []
    for threshold in THRESHOLDS:
        result = SequenceResult(name=truth.name, tracks=tracks.select(tracks.scores >= threshold))
        _, missed, false = match_with_truth(protocol, truth, result)
        counts.append(missed + false)
    return np.stack(counts)


def associate_perfectly(
    protocol: ScoringProtocol,
    truth: SequenceTruth,
    detections: Detections,
    threshold: float,
    *,
    keep_false: bool,
) -> SequenceResult:
    """Detections of one sequence with the identities of the true boxes that they match.

    Args:
        protocol: the rules of matching.
        truth: of the sequence.
        detections: likewise.
        threshold: lower scores are left out first.
        keep_false: publish detections that match nothing, each as a track of its own.
    """
    tracks = _as_tracks(detections)
    tracks = tracks.select(tracks.scores >= threshold)
    result = SequenceResult(name=truth.name, tracks=tracks, num_frames=truth.num_frames)
    matched, _, _ = match_with_truth(protocol, truth, result)
    tracks = with_true_identities(truth.annotations, tracks, matched)
    return replace(result, tracks=tracks if keep_false else tracks.select(matched >= 0))


def track_true_boxes(
    frames: Artefact,
    tracks: Artefact,
    *,
    run_network: bool,
    num_workers: int,
    gpus_per_worker: float,
) -> Artefact:
    """The same network and the same tracker on ground-truth boxes: found in the store, or made.

    Args:
        frames: finished artefact that the tracks are of.
        tracks: finished artefact of the result.
        run_network: whether the network may run over all frames where it has not done so yet; on
            CPUs this takes hours for a real data set.
        num_workers: of the two stages, where they have to run.
        gpus_per_worker: of the network.

    Raises:
        NoBoundError: there is no network in the store that could embed the boxes, or it has not
            done so and may not run.
    """
    detections = detections_of(tracks)
    if detections.manifest() is None:
        raise NoBoundError("the detections are no longer in the store")
    details = detections.details()
    if details.get("boxes") == "truth":
        raise NoBoundError("the result itself is made from true boxes")
    weights = weights_of(detections)
    if weights is None:
        raise NoBoundError("the weights that made the detections are not in the store")
    infer_config = config_from_dict(InferConfig, details["infer"], "infer")
    stored = place_of_detections(frames, weights, infer_config, "truth")
    if not run_network and not stored.is_complete():
        raise NoBoundError(
            "the network has not been run on true boxes yet; --run-network does that once (hours "
            "without a GPU for a real data set)"
        )
    embedded = infer(
        frames,
        weights,
        infer_config,
        boxes="truth",
        num_workers=num_workers,
        num_gpus=gpus_per_worker,
    )
    return associate(embedded, association_of(tracks), num_workers=num_workers)


def association_of(tracks: Artefact) -> AssociationConfig:
    """The tracker that made the tracks, with its settings.

    Raises:
        StoreError: the tracks do not say.
    """
    settings = tracks.details().get("association")
    if settings is None:
        raise StoreError(f"{tracks.folder}: does not say which tracker made it; make it again")
    return cast(AssociationConfig, parse_value(AssociationConfig, settings, "association"))


def _as_tracks(detections: Detections) -> Tracks:
    """Every detection as a track of its own."""
    rows = np.arange(len(detections))
    return Tracks(
        frame_index=detections.frame_index(),
        track_id=rows,
        detection_row=rows.astype(np.int32),
        boxes_xyxy=detections.boxes_xyxy,
        scores=detections.scores,
        class_index=detections.class_indices,
    )
