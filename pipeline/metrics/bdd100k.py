"""Scoring by the rules of the BDD100K multi-object-tracking benchmark.

Boxes arrive with exclusive edges: the reader has already added the pixel that BDD100K's inclusive
boxes leave out. HOTA is no part of the official evaluator; it is trackeval's, averaged over the
same eight classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from datasets.schema import (
    Annotations,
    Bool,
    Float64,
    Int64,
    SequenceResult,
    SequenceTruth,
)
from pipeline.metrics.bdd_counting import MAX_DISTANCE, BddCounting
from pipeline.metrics.class_data import ClassData
from pipeline.metrics.hota import HOTA
from pipeline.metrics.identity import Identity
from pipeline.metrics.matching import is_contested, match_most_then_cheapest
from pipeline.metrics.overlap import covered_shares
from pipeline.metrics.preparation import (
    MAX_COVERED_SHARE,
    Pairs,
    Side,
    check_boxes,
    check_result,
    check_unique_ids,
    find_pairs,
    make_side,
    split_classes,
)
from pipeline.metrics.protocol import (
    Fields,
    Numbers,
    PreparedTruth,
    Row,
    ScoringProtocol,
    hota_numbers,
)

BoxConvention = Literal["inclusive", "stock"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What a result is compared with: boxes to find, and boxes that excuse what they cover."""

    side: Side
    """Boxes of the benchmark's classes that are to be found."""
    ignore_boxes: Float64
    """(I, 4) corners of crowd and ignored boxes of any class, by frame."""
    ignore_frames: Int64
    """(I,) rising."""
    num_frames: int
    trim_px: float
    """Taken from the right and bottom edges of all these boxes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BddTruth(PreparedTruth):
    """Truth with its targets, the official ones and those for HOTA."""

    official: Targets
    for_hota: Targets
    """The same object where both use the same boxes."""


class Bdd100kProtocol(ScoringProtocol):
    """Official counts, IDF1 and HOTA of eight classes, three super-classes, and both means."""

    metric_names: ClassVar[tuple[str, ...]] = (
        *("HOTA", "DetA", "AssA", "MOTA", "MOTP", "IDF1"),
        *("FP", "FN", "IDSw", "MT", "PT", "ML", "FM"),
    )
    missing_is_empty: ClassVar[bool] = True
    counted_by: ClassVar[str] = "BddCounting"

    def __init__(
        self,
        classes: tuple[str, ...],
        super_classes: Mapping[str, tuple[str, ...]],
        box_convention: BoxConvention = "inclusive",
    ) -> None:
        """Rules for the benchmark's classes.

        Args:
            classes: names in order of class index.
            super_classes: members of each pooled row.
            box_convention: boxes of HOTA; "stock" takes back the added pixel, as trackeval's own
                loader has it. The official numbers always use the inclusive boxes.
        """
        # Reports name the rules; scores by different rules are not compared.
        self.name = "bdd100k" if box_convention == "inclusive" else "bdd100k (stock boxes)"
        self.classes = classes
        self.rows = make_rows(classes, super_classes)
        self.box_convention = box_convention
        self.metrics = {"HOTA": HOTA(), "Identity": Identity(), "BddCounting": BddCounting()}

    def prepare_truth(self, truth: SequenceTruth) -> BddTruth:
        """See `ScoringProtocol.prepare_truth`."""
        _check_truth(truth, len(self.classes))
        official = find_targets(truth, len(self.classes))
        for_hota = official
        if self.box_convention == "stock":
            for_hota = find_targets(truth, len(self.classes), trim_px=1.0)
        return BddTruth(source=truth, official=official, for_hota=for_hota)

    def compare(
        self, prepared: BddTruth, result: SequenceResult
    ) -> Mapping[str, Mapping[str, ClassData]]:
        """Class data without crowd, ignored and excused boxes; see `ScoringProtocol.compare`."""
        check_result(prepared.source, result, len(self.classes))
        official = for_hota = prepare_classes(prepared.official, result, len(self.classes))
        if prepared.for_hota is not prepared.official:
            for_hota = prepare_classes(prepared.for_hota, result, len(self.classes))
        return {
            name: {"HOTA": for_hota[i], "Identity": official[i], "BddCounting": official[i]}
            for i, name in enumerate(self.classes)
        }

    def numbers(self, row: Row, fields: Mapping[str, Fields]) -> Numbers:
        """Counts are summed in every row; without truth and predictions IDF1 has no value."""
        return official_numbers(row, fields, self.metric_names)


def make_rows(
    classes: tuple[str, ...], super_classes: Mapping[str, tuple[str, ...]]
) -> tuple[Row, ...]:
    """The benchmark's table: classes, super-classes, mean and pool of all classes."""
    return (
        *(Row(name=name, classes=(name,)) for name in classes),
        *(Row(name=name, classes=members) for name, members in super_classes.items()),
        Row(name="AVERAGE", classes=classes, is_average=True),
        Row(name="OVERALL", classes=classes),
    )


def official_numbers(row: Row, fields: Mapping[str, Fields], names: tuple[str, ...]) -> Numbers:
    """Entries of a row of the table.

    Args:
        row: the row.
        fields: of HOTA, Identity and BddCounting.
        names: of the metrics: three of HOTA, accuracy, precision, IDF1, and the counts.
    """
    identity, counting = fields["Identity"], fields["BddCounting"]
    num_boxes = 2 * identity["IDTP"] + identity["IDFN"] + identity["IDFP"]
    has_identity_score = row.is_average or num_boxes > 0
    return {
        **hota_numbers(fields["HOTA"]),
        names[3]: 100.0 * float(counting["MOTA"]),
        names[4]: 100.0 * float(counting["MOTP"]),
        "IDF1": 100.0 * float(identity["IDF1"]) if has_identity_score else float("nan"),
        **{name: int(counting[name]) for name in names[6:]},
    }


def find_targets(truth: SequenceTruth, num_classes: int, *, trim_px: float = 0.0) -> Targets:
    """What a result is compared with; ground truth marked crowd or ignored is no target.

    Args:
        truth: annotations, checked.
        num_classes: classes of the benchmark.
        trim_px: taken from the right and bottom edges of all boxes.
    """
    annotations = truth.annotations
    ignored = np.flatnonzero(annotations.crowd | annotations.ignored)
    ignored = ignored[np.argsort(annotations.frame_index[ignored], kind="stable")]
    return Targets(
        side=make_side(
            frame_index=annotations.frame_index,
            class_index=annotations.class_index,
            ids=annotations.identity,
            boxes=_trimmed(annotations.boxes_xyxy, trim_px),
            rows=_is_target(annotations, num_classes),
            num_frames=truth.num_frames,
        ),
        ignore_boxes=_trimmed(annotations.boxes_xyxy[ignored], trim_px),
        ignore_frames=annotations.frame_index[ignored].astype(np.int64),
        num_frames=truth.num_frames,
        trim_px=trim_px,
    )


def prepare_classes(targets: Targets, result: SequenceResult, num_classes: int) -> list[ClassData]:
    """Class data of one sequence, in order of class index.

    What is no target, of whatever class, excuses predictions: one that matches nothing of its own
    class is removed if a single such box covers more than half of it.

    Args:
        targets: of the truth.
        result: tracks, checked.
        num_classes: classes of the benchmark.
    """
    tracks = result.tracks
    track_side = make_side(
        frame_index=tracks.frame_index,
        class_index=tracks.class_index,
        ids=tracks.track_id,
        boxes=_trimmed(tracks.boxes_xyxy, targets.trim_px),
        rows=np.ones(len(tracks), bool),
        num_frames=targets.num_frames,
    )
    pairs = find_pairs(targets.side, track_side)
    is_covered = _is_covered(track_side, targets)
    is_excused = find_unmatched(targets.side, track_side, pairs, is_covered)
    return split_classes(
        targets.side,
        track_side,
        pairs,
        keep_truth=np.ones(len(targets.side), bool),
        keep_tracks=~is_excused,
        num_classes=num_classes,
        num_frames=targets.num_frames,
    )


def find_unmatched(truth: Side, tracks: Side, pairs: Pairs, asked: Bool) -> Bool:
    """Which of the asked tracks the best matching of their class and frame leaves out.

    Args:
        truth: truth side.
        tracks: track side.
        pairs: overlaps of the two, by row.
        asked: (T,).
    """
    allowed = 1.0 - pairs.iou <= MAX_DISTANCE
    rows, columns, ious = pairs.truth[allowed], pairs.track[allowed], pairs.iou[allowed]
    is_matched = np.zeros(len(tracks), bool)
    contested = is_contested(rows, columns, len(truth), len(tracks))
    is_matched[columns[~contested]] = True
    for key in np.unique(tracks.key[columns[contested & asked[columns]]]):
        first_row, last_row = np.searchsorted(truth.key, [key, key + 1])
        first_column, last_column = np.searchsorted(tracks.key, [key, key + 1])
        here = slice(*np.searchsorted(rows, [first_row, last_row]))
        chosen = match_most_then_cheapest(
            int(last_row - first_row),
            int(last_column - first_column),
            rows[here] - first_row,
            columns[here] - first_column,
            1.0 - ious[here],
        )
        is_matched[columns[here][chosen]] = True
    return asked & ~is_matched


def _is_target(annotations: Annotations, num_classes: int) -> Bool:
    is_class = (annotations.class_index >= 0) & (annotations.class_index < num_classes)
    is_target: Bool = is_class & ~(annotations.crowd | annotations.ignored)
    return is_target


def _check_truth(truth: SequenceTruth, num_classes: int) -> None:
    annotations = truth.annotations
    check_boxes(truth, annotations.frame_index, annotations.boxes_xyxy, "the truth")
    # Crowd boxes may share an identity; nothing ever asks for it.
    targets = np.flatnonzero(_is_target(annotations, num_classes))
    check_unique_ids(
        truth,
        annotations.frame_index[targets],
        annotations.identity[targets],
        "the truth",
        "identity",
    )


def _trimmed(boxes: Any, trim_px: float) -> Float64:
    trimmed: Float64 = boxes.astype(np.float64) - np.array([0.0, 0.0, trim_px, trim_px])
    return trimmed


def _is_covered(tracks: Side, targets: Targets) -> Bool:
    """(T,) whether more than half of the box lies in a single ignore box of its frame."""
    rows, _, shares = covered_shares(
        tracks.boxes,
        tracks.key % targets.num_frames,
        targets.ignore_boxes,
        targets.ignore_frames,
    )
    is_covered = np.zeros(len(tracks), bool)
    is_covered[rows[shares > MAX_COVERED_SHARE]] = True
    return is_covered
