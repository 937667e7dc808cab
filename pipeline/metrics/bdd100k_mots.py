"""Scoring by the rules of BDD100K's segmentation tracking.

They are those of its box tracking with masks in place of boxes: an IoU of 0.5 matches, and what a
single crowd or ignored mask covers by more than half is excused where it matches nothing. The
numbers bear the names of the benchmark's paper: MOTSA and MOTSP are the MOTA and MOTP of masks.

The reference says nothing of masks of the truth that overlap; they are scored as they are.
"""

import logging
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from datasets.schema import Bool, SequenceResult, SequenceTruth
from pipeline.metrics.bdd100k import find_unmatched, make_rows, official_numbers
from pipeline.metrics.bdd_counting import BddCounting
from pipeline.metrics.class_data import ClassData
from pipeline.metrics.hota import HOTA
from pipeline.metrics.identity import Identity
from pipeline.metrics.mask_preparation import (
    MaskTruth,
    check_mask_result,
    find_covered,
    find_mask_pairs,
    find_overlapping,
    prepare_mask_truth,
)
from pipeline.metrics.preparation import make_side, split_classes
from pipeline.metrics.protocol import Fields, Numbers, Row, ScoringProtocol

logger = logging.getLogger(__name__)


class Bdd100kMotsProtocol(ScoringProtocol):
    """Official counts, IDF1 and HOTA of masks: eight classes, three super-classes, both means."""

    metric_names: ClassVar[tuple[str, ...]] = (
        *("HOTA", "DetA", "AssA", "MOTSA", "MOTSP", "IDF1"),
        *("FP", "FN", "IDSw", "MT", "PT", "ML", "FM"),
    )
    missing_is_empty: ClassVar[bool] = True
    compares_masks: ClassVar[bool] = True
    counted_by: ClassVar[str] = "BddCounting"

    def __init__(
        self, classes: tuple[str, ...], super_classes: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Rules for the benchmark's classes.

        Args:
            classes: names in order of class index.
            super_classes: members of each pooled row.
        """
        self.name = "bdd100k_mots"
        self.classes = classes
        self.rows = make_rows(classes, super_classes)
        self.metrics = {"HOTA": HOTA(), "Identity": Identity(), "BddCounting": BddCounting()}

    def prepare_truth(self, truth: SequenceTruth) -> MaskTruth:
        """See `ScoringProtocol.prepare_truth`."""
        return prepare_mask_truth(truth, len(self.classes))

    def compare(
        self, prepared: MaskTruth, result: SequenceResult
    ) -> Mapping[str, Mapping[str, ClassData]]:
        """Class data without crowd, ignored and excused masks; see `ScoringProtocol.compare`.

        A frame with tracks whose masks overlap loses all its tracks, as in the official tool; that
        is warned about.
        """
        num_frames = prepared.source.num_frames
        check_mask_result(prepared, result, len(self.classes))
        tracks = result.tracks
        side = make_side(
            frame_index=tracks.frame_index,
            class_index=tracks.class_index,
            ids=tracks.track_id,
            boxes=tracks.boxes_xyxy,
            rows=_find_scored(result),
            num_frames=num_frames,
        )
        masks = [(tracks.masks or ())[row] for row in side.source_row.tolist()]
        pairs = find_mask_pairs(prepared.side, prepared.masks, side, masks)
        everything = np.ones(len(side), bool)
        is_covered = find_covered(side.key % num_frames, masks, everything, prepared.ignore)
        classes = split_classes(
            prepared.side,
            side,
            pairs,
            keep_truth=np.ones(len(prepared.side), bool),
            keep_tracks=~find_unmatched(prepared.side, side, pairs, is_covered),
            num_classes=len(self.classes),
            num_frames=num_frames,
        )
        return {
            name: dict.fromkeys(self.metrics, data)
            for name, data in zip(self.classes, classes, strict=True)
        }

    def numbers(self, row: Row, fields: Mapping[str, Fields]) -> Numbers:
        """See `Bdd100kProtocol.numbers`."""
        return official_numbers(row, fields, self.metric_names)


def _find_scored(result: SequenceResult) -> Bool:
    """(T,) tracks in frames without an overlap."""
    tracks = result.tracks
    frames = [frame for frame, _, _ in find_overlapping(tracks.frame_index, tracks.masks or ())]
    is_kept = ~np.isin(tracks.frame_index, frames)
    if is_kept.all():
        return is_kept
    logger.warning(
        "sequence %r: masks of the result overlap in %d frames, first in frame index %d; by the "
        "benchmark's rules these frames lose all their %d masks",
        *(result.name, len(frames), frames[0], int((~is_kept).sum())),
    )
    return is_kept
