"""Scoring by the rules of KITTI MOTS, which MOTSChallenge and APOLLO MOTS share.

Masks of a frame never overlap, on either side. So a track that matches a truth mask with an IoU of
0.5 or more lies at least half in it, and not more than half in what is ignored: whether "unmatched"
is taken at an IoU of 0.5 (trackeval) or above it (the official tool) removes the same tracks.
Counting, HOTA and identities therefore see the same data.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from datasets.schema import Bool, SequenceResult, SequenceTruth
from pipeline.metrics.class_data import ClassData
from pipeline.metrics.hota import HOTA
from pipeline.metrics.identity import Identity
from pipeline.metrics.mask_preparation import (
    MaskTruth,
    check_disjoint,
    check_mask_result,
    find_covered,
    find_mask_pairs,
    merge_ignored,
    prepare_mask_truth,
)
from pipeline.metrics.mots_counting import MIN_IOU, MotsCounting
from pipeline.metrics.preparation import Pairs, make_side, split_classes
from pipeline.metrics.protocol import (
    Fields,
    Numbers,
    Row,
    ScoringProtocol,
    hota_numbers,
)


class MotsProtocol(ScoringProtocol):
    """Official counts of every class for itself, and trackeval's HOTA and IDF1 on the same masks.

    There is no mean or pool of classes: the benchmarks have none.
    """

    metric_names: ClassVar[tuple[str, ...]] = (
        *("sMOTSA", "MOTSA", "MOTSP", "HOTA", "DetA", "AssA", "IDF1"),
        *("TP", "FP", "FN", "IDS", "MT", "PT", "ML", "Frag"),
    )
    missing_is_empty: ClassVar[bool] = False
    compares_masks: ClassVar[bool] = True
    half_matches: ClassVar[bool] = False
    counted_by: ClassVar[str] = "MotsCounting"

    def __init__(self, benchmark: str, classes: tuple[str, ...]) -> None:
        """Rules of "kitti_mots", "apollo_mots" or "mots_challenge"; they differ in their classes.

        Args:
            benchmark: how reports name the rules.
            classes: names in order of class index.
        """
        self.name = benchmark
        self.classes = classes
        self.rows = tuple(Row(name=name, classes=(name,)) for name in classes)
        self.metrics = {"HOTA": HOTA(), "Identity": Identity(), "MotsCounting": MotsCounting()}

    def prepare_truth(self, truth: SequenceTruth) -> MaskTruth:
        """See `ScoringProtocol.prepare_truth`; what is ignored in a frame is one merged mask."""
        prepared = prepare_mask_truth(truth, len(self.classes))
        prepared = replace(prepared, ignore=merge_ignored(prepared.ignore))
        _check_truth_disjoint(prepared)
        return prepared

    def compare(
        self, prepared: MaskTruth, result: SequenceResult
    ) -> Mapping[str, Mapping[str, ClassData]]:
        """Class data without ignored tracks; see `ScoringProtocol.compare`."""
        truth, tracks = prepared.source, result.tracks
        masks = check_mask_result(prepared, result, len(self.classes))
        names = [f"track {track}" for track in tracks.track_id.tolist()]
        check_disjoint(truth, tracks.frame_index, masks, names, "the result")
        side = make_side(
            frame_index=tracks.frame_index,
            class_index=tracks.class_index,
            ids=tracks.track_id,
            boxes=tracks.boxes_xyxy,
            rows=np.ones(len(tracks), bool),
            num_frames=truth.num_frames,
        )
        ordered = [masks[row] for row in side.source_row.tolist()]
        pairs = find_mask_pairs(prepared.side, prepared.masks, side, ordered)
        is_ignored = find_covered(
            side.key % truth.num_frames, ordered, _is_unmatched(pairs, len(side)), prepared.ignore
        )
        classes = split_classes(
            prepared.side,
            side,
            pairs,
            keep_truth=np.ones(len(prepared.side), bool),
            keep_tracks=~is_ignored,
            num_classes=len(self.classes),
            num_frames=truth.num_frames,
        )
        return {
            name: dict.fromkeys(self.metrics, data)
            for name, data in zip(self.classes, classes, strict=True)
        }

    def numbers(self, row: Row, fields: Mapping[str, Fields]) -> Numbers:
        """Without truth sMOTSA and MOTSA have no finite value, without a match MOTSP has none."""
        counting = fields["MotsCounting"]
        return {
            **{name: 100.0 * float(counting[name]) for name in self.metric_names[:3]},
            **hota_numbers(fields["HOTA"]),
            "IDF1": 100.0 * float(fields["Identity"]["IDF1"]),
            **{name: int(counting[name]) for name in self.metric_names[7:]},
        }


def _is_unmatched(pairs: Pairs, num_tracks: int) -> Bool:
    is_unmatched = np.ones(num_tracks, bool)
    is_unmatched[pairs.track[pairs.iou > MIN_IOU]] = False
    return is_unmatched


def _check_truth_disjoint(prepared: MaskTruth) -> None:
    """Targets of all classes and the ignored region of a frame share no pixel."""
    side, truth = prepared.side, prepared.source
    frames = side.key % truth.num_frames
    ignored = [(frame, masks[0]) for frame, masks in prepared.ignore.items()]
    check_disjoint(
        truth,
        np.concatenate([frames, np.array([frame for frame, _ in ignored], np.int64)]),
        [*prepared.masks, *(mask for _, mask in ignored)],
        [
            *(f"identity {name}" for name in side.ids.tolist()),
            *["the ignored region"] * len(ignored),
        ],
        "the truth",
    )
