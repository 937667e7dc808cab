"""How good a result could be: the same detections with perfect association, and perfect boxes.

Perfect association gives every detection that the benchmark's matching pairs with a true box the
identity of that box. Which detections are published is the tracker's decision, too, so there are
two such bounds: one publishes all above a single score threshold, false ones included; the other
publishes exactly the right ones, and nothing that a tracker does with these boxes has fewer errors.
Where masks are compared, every box here stands for its mask.

Legend: S thresholds, C classes.
"""

from dataclasses import replace
from functools import partial
from typing import Final, cast

import numpy as np

from datasets.registry import BENCHMARKS
from datasets.schema import Detections, Int64, SequenceResult, SequenceTruth, Tracks
from models.config_io import config_from_dict, parse_value
from models.pointtrack.association import PointTrackerConfig
from models.qdtrack.association import TaoTrackerConfig, TrackerConfig
from pipeline.associate import DETECTIONS_FILE, AssociationConfig, associate
from pipeline.errors import match_with_truth
from pipeline.infer import InferConfig, infer, place_of_detections
from pipeline.lineage import detections_of, weights_of
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.repairs import with_true_identities
from pipeline.segment import (
    EmbedConfig,
    embed_masks,
    place_of_embedded,
    place_of_truth,
    take_truth,
)
from pipeline.store import Artefact, StoreError

THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(20))
"""Scores that are tried as the single threshold: 0, 0.05 ... 0.95."""

_COMPARE_EMBEDDINGS: Final = (PointTrackerConfig, TrackerConfig, TaoTrackerConfig)


class NoBoundError(ValueError):
    """A bound cannot be had; the message says why."""


def count_at_thresholds(
    protocol: ScoringProtocol, truth: SequenceTruth, detections: Detections
) -> Int64:
    """(S, C) missed and false boxes together when all detections from each threshold on count."""
    tracks = _as_tracks(detections)
    counts: dict[int, Int64] = {}
    nums_kept = [int(np.count_nonzero(tracks.scores >= threshold)) for threshold in THRESHOLDS]
    for threshold, num_kept in zip(THRESHOLDS, nums_kept, strict=True):
        if num_kept in counts:
            continue
        kept = tracks.select(tracks.scores >= threshold)
        result = SequenceResult(name=truth.name, tracks=kept)
        _, missed, false = match_with_truth(protocol, truth, result)
        counts[num_kept] = missed + false
    return np.stack([counts[num_kept] for num_kept in nums_kept])


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


def find_detections(tracks: Artefact) -> Artefact:
    """The detections that were joined into the tracks.

    Raises:
        NoBoundError: there are none of which all tracks are, or they are gone; says which.
    """
    if "merged" in tracks.details():
        raise NoBoundError(
            "the result is merged from tracks of several detections; diagnose each of these"
        )
    detections = detections_of(tracks)
    if detections.manifest() is None:
        raise NoBoundError("the detections are no longer in the store")
    return detections


def track_truth(
    frames: Artefact,
    tracks: Artefact,
    *,
    run_network: bool,
    num_workers: int,
    gpus_per_worker: float,
) -> Artefact:
    """The same network and the same tracker on ground-truth boxes or masks: found, or made.

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
    detections = find_detections(tracks)
    if "boxes" in detections.details():
        embed = partial(_embed_boxes, frames, detections)
    else:
        embed = partial(_embed_masks, frames, detections, association_of(tracks))
    truth = embed(run_network=run_network, num_workers=num_workers, num_gpus=gpus_per_worker)
    return associate(truth, association_of(tracks), num_workers=num_workers)


def association_of(tracks: Artefact) -> AssociationConfig:
    """The tracker that made the tracks, with its settings.

    Raises:
        StoreError: the tracks do not say.
    """
    settings = tracks.details().get("association")
    if settings is None:
        raise StoreError(f"{tracks.folder}: does not say which tracker made it; make it again")
    return cast(AssociationConfig, parse_value(AssociationConfig, settings, "association"))


def _embed_boxes(
    frames: Artefact,
    detections: Artefact,
    *,
    run_network: bool,
    num_workers: int,
    num_gpus: float,
) -> Artefact:
    """True boxes with what the network says of them, whatever the tracker makes of it."""
    details = detections.details()
    if details["boxes"] == "truth":
        raise NoBoundError("the result itself is made from true boxes")
    weights = _find_weights(detections)
    config = config_from_dict(InferConfig, details["infer"], "infer")
    _check_may_run(place_of_detections(frames, weights, config, "truth"), run_network, "boxes")
    return infer(frames, weights, config, boxes="truth", num_workers=num_workers, num_gpus=num_gpus)


def _embed_masks(
    frames: Artefact,
    detections: Artefact,
    association: AssociationConfig,
    *,
    run_network: bool,
    num_workers: int,
    num_gpus: float,
) -> Artefact:
    """True masks of the class of the detections, with embeddings where the tracker compares them.

    Without, they are taken from the annotations, for which no network has to run.
    """
    details = detections.details()
    class_name = _class_of(detections, frames.details()["benchmark"])
    truth = place_of_truth(frames, class_name)
    if truth.fingerprint in (detections.fingerprint, details.get("detections")):
        raise NoBoundError("the result itself is made from true masks")
    if not isinstance(association, _COMPARE_EMBEDDINGS):
        return take_truth(frames, class_name, num_workers=num_workers)
    if "embed" not in details:
        raise NoBoundError("the detections do not say which network embedded them")
    weights = _find_weights(detections)
    config = config_from_dict(EmbedConfig, details["embed"], "embed")
    _check_may_run(place_of_embedded(frames, truth, weights, config), run_network, "masks")
    take_truth(frames, class_name, num_workers=num_workers)
    return embed_masks(frames, truth, weights, config, num_workers=num_workers, num_gpus=num_gpus)


def _find_weights(detections: Artefact) -> Artefact:
    weights = weights_of(detections)
    if weights is None:
        raise NoBoundError("the weights that made the detections are not in the store")
    return weights


def _check_may_run(stored: Artefact, run_network: bool, what: str) -> None:
    if not run_network and not stored.is_complete():
        raise NoBoundError(
            f"the network has not been run on true {what} yet; --run-network does that once (hours "
            "without a GPU for a real data set)"
        )


def _class_of(detections: Artefact, benchmark: str) -> str:
    """The class of detections with masks, which are made class by class."""
    found: set[int] = set()
    for name in detections.sequences():
        table = detections.part(name).read_arrow(DETECTIONS_FILE)
        found.update(table["class_index"].unique().to_pylist())
    if len(found) != 1:
        raise NoBoundError(
            f"the detections are of {len(found)} classes; a network embeds masks of one class"
        )
    return BENCHMARKS[benchmark].classes[found.pop()]


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
        masks=detections.masks,
    )
