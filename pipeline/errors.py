"""Every counted error of a result with one cause: what was missed, false or switched, and why.

Boxes are prepared and matched by the benchmark's own rules, so that the counts here are those of
the scores. Where these rules compare masks, every box here stands for its mask, and all overlaps
are those of masks. The names of the causes follow TIDE (Bolya et al. 2020, section 3), which asks
the same of detectors. The differences: a mistake that a score counts twice, as a missed and as a
false box, is one error here, so the two boxes are paired one to one; and a box near an object that
is found already is a duplicate however badly it is placed.

Legend: G truth rows, T track rows, N wrong boxes, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from datasets.schema import Annotations, Bool, Float64, Int64, SequenceResult, SequenceTruth, Tracks
from pipeline.metrics.class_data import ClassData, previous_rows
from pipeline.metrics.clear import find_switches
from pipeline.metrics.mask_overlap import mask_overlaps
from pipeline.metrics.overlap import overlaps
from pipeline.metrics.protocol import ScoringProtocol

MATCH_IOU: Final = 0.5
"""Overlap from which two boxes show the same object, as in the benchmarks' own matching; some want
more than that."""
NEAR_IOU: Final = 0.1
"""Overlap from which a box is meant for an object of its class: TIDE's background threshold."""

Cause = Literal[
    "missed", "badly placed", "mis-classed", "duplicate", "background", "switched", "fragmented"
]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
MISSING: Final[tuple[Cause, ...]] = ("missed", "badly placed", "mis-classed")
"""Causes whose boxes the score counts as missed (FN), in the true class."""
FALSE: Final[tuple[Cause, ...]] = ("badly placed", "mis-classed", "duplicate", "background")
"""Causes whose boxes the score counts as false (FP), in the result's class."""
EVENTS: Final[Mapping[Cause, str]] = {"switched": "IDSw", "fragmented": "FM"}
"""Causes that the score counts once an event, in the true class, and as what."""
COUNTS: Final = ("FN", "FP", "IDSw", "FM")
"""What scores count; `ScoringProtocol.error_counts` has the names that the benchmark gives them."""

MEANING: Final[dict[Cause, str]] = {
    "missed": "a true {box}, and no {box} that could be meant for it",
    "badly placed": f"a {{box}} whose best overlap with its class, {NEAR_IOU} to {MATCH_IOU}, is "
    "with a true {box} that nothing matches: a miss and a false {box}",
    "mis-classed": "a {box} that overlaps by {half} a true {box} of another class that nothing "
    "matches: a miss and a false {box}",
    "duplicate": f"one more {{box}} on an object that has one, overlapping it by {NEAR_IOU} or "
    f"more, or by {MATCH_IOU} if it is of another class",
    "background": "a {box} on nothing that is scored",
    "switched": "an identity goes on under another track id",
    "fragmented": "an identity is lost for a while and found again{also_fragments}; not part of "
    "{accuracy}",
}
"""For `pipeline.wording.in_words`."""


@dataclass(frozen=True, kw_only=True)
class Error:
    """One mistake: wrong boxes in consecutive frames, or one event in the life of an identity."""

    cause: Cause
    first_frame: int
    """Frame index; of an event, the last frame before it in which the identity was matched; where
    it never was, the first that has it."""
    last_frame: int
    """Inclusive; of an event, the frame in which the identity is matched again."""
    num_boxes: int
    """Wrong boxes. Of a switch, boxes of the shorter of the two tracks that it parts: so many have
    a wrong identity whichever track is called the right one. Of a fragment, the missed boxes."""
    truth_class: int | None = None
    """Class index of the true boxes, None where there are none."""
    identity: int | None = None
    """True identity, likewise."""
    track_class: int | None = None
    """Class index of the result's boxes, None where there are none."""
    track_id: int | None = None
    """Of the result's boxes; of an event, the track after it."""
    previous_track_id: int | None = None
    """Of an event, the track before it; None where there was none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceErrors:
    """What is wrong in one sequence."""

    errors: tuple[Error, ...]
    """Those of most boxes first."""
    cause: tuple[Cause, ...]
    """(N,) why each wrong box is wrong."""
    truth_row: Int64
    """(N,) row of the annotations, -1 where no true box belongs to it."""
    track_row: Int64
    """(N,) row of the tracks, -1 where there is no box."""
    matched_truth: Int64
    """(T,) row of the annotations that each row of the tracks is matched with, -1 for none."""
    num_truth: Int64
    """(C,) true boxes that are scored, by class."""

    def rows_of(self, cause: Cause) -> Int64:
        """Positions among the N wrong boxes of those with this cause."""
        return np.flatnonzero([name == cause for name in self.cause])


def find_errors(
    protocol: ScoringProtocol, truth: SequenceTruth, result: SequenceResult
) -> SequenceErrors:
    """Everything that the protocol counts as wrong in one sequence; a pure function.

    Args:
        protocol: the rules; boxes that they excuse are no errors.
        truth: of the sequence.
        result: likewise.

    Raises:
        ValueError: the result does not fit the truth; names the sequence and the frame.
    """
    annotations, tracks = truth.annotations, result.tracks
    classes = _counted_data(protocol, truth, result)
    matches = [protocol.counter.match(data) for data in classes]
    cause, truth_row, track_row = _explain(protocol, annotations, tracks, classes, matches)
    errors = _runs(annotations, tracks, cause, truth_row, track_row)
    for data, matched in zip(classes, matches, strict=True):
        switches = find_switches(data, matched)
        errors += _events("switched", switches, annotations, tracks, data, matched)
        resumptions = protocol.counter.find_resumptions(data, matched)
        errors += _events("fragmented", resumptions, annotations, tracks, data, matched)
    return SequenceErrors(
        errors=tuple(sorted(errors, key=_worst_first)),
        cause=tuple(CAUSES[index] for index in cause),
        truth_row=truth_row,
        track_row=track_row,
        matched_truth=_matched_truth(len(tracks), classes, matches),
        num_truth=np.array([data.num_truth for data in classes]),
    )


def worst_errors(errors: Mapping[str, Iterable[Error]], cause: Cause) -> list[tuple[str, Error]]:
    """Errors of one cause over several sequences, by name, those of most boxes first."""
    named = [
        (name, error) for name in sorted(errors) for error in errors[name] if error.cause == cause
    ]
    return sorted(named, key=lambda pair: -pair[1].num_boxes)


def count_errors(errors: Iterable[Error], num_classes: int) -> Int64:
    """What the score counts for some errors.

    Returns:
        (7, C, 4) counts by cause in the order of `CAUSES`, class, and kind in that of `COUNTS`.
    """
    counts = np.zeros((len(CAUSES), num_classes, len(COUNTS)), np.int64)
    for error in errors:
        cause = CAUSES.index(error.cause)
        if error.cause in MISSING:
            counts[cause, error.truth_class, COUNTS.index("FN")] += error.num_boxes
        if error.cause in FALSE:
            counts[cause, error.track_class, COUNTS.index("FP")] += error.num_boxes
        if error.cause in EVENTS:
            counts[cause, error.truth_class, COUNTS.index(EVENTS[error.cause])] += 1
    return counts


def match_with_truth(
    protocol: ScoringProtocol, truth: SequenceTruth, result: SequenceResult
) -> tuple[Int64, Int64, Int64]:
    """Which boxes of a sequence the protocol calls right, without a cause for the others.

    Returns:
        (T,) row of the annotations that each row of the tracks is matched with, -1 for none; (C,)
        missed and (C,) false boxes by class.
    """
    classes = _counted_data(protocol, truth, result)
    matches = [protocol.counter.match(data) for data in classes]
    pairs = list(zip(classes, matches, strict=True))
    return (
        _matched_truth(len(result.tracks), classes, matches),
        np.array([np.count_nonzero(matched < 0) for _, matched in pairs]),
        np.array([data.num_tracks - np.count_nonzero(matched >= 0) for data, matched in pairs]),
    )


def _counted_data(
    protocol: ScoringProtocol, truth: SequenceTruth, result: SequenceResult
) -> list[ClassData]:
    prepared = protocol.prepare(truth, result)
    return [prepared[name][protocol.counted_by] for name in protocol.classes]


def _matched_truth(
    num_tracks: int, classes: Sequence[ClassData], matches: Sequence[Int64]
) -> Int64:
    matched_truth = np.full(num_tracks, -1)
    for data, matched in zip(classes, matches, strict=True):
        found = np.flatnonzero(matched >= 0)
        matched_truth[data.track_row[matched[found]]] = data.truth_row[found]
    return matched_truth


def _explain(
    protocol: ScoringProtocol,
    annotations: Annotations,
    tracks: Tracks,
    classes: Sequence[ClassData],
    matches: Sequence[Int64],
) -> tuple[Int64, Int64, Int64]:
    """(N,) index of the cause, row of the annotations and row of the tracks of every wrong box.

    Each cause takes from what the ones before it have left over.
    """
    pairs = list(zip(classes, matches, strict=True))
    truth_rows = np.concatenate([data.truth_row for data in classes])
    is_found = np.concatenate([matched >= 0 for _, matched in pairs])
    false_rows = np.concatenate(
        [np.delete(data.track_row, matched[matched >= 0]) for data, matched in pairs]
    )
    # Class data are ordered by class; boxes of all classes are compared here, frame by frame.
    order = np.argsort(annotations.frame_index[truth_rows], kind="stable")
    truth_rows, is_found = truth_rows[order], is_found[order]
    compare = _compare_masks if protocol.compares_masks else _compare_boxes
    rows, columns, ious = compare(annotations, truth_rows, tracks, false_rows)
    is_match = ious >= MATCH_IOU if protocol.half_matches else ious > MATCH_IOU
    is_same = tracks.class_index[false_rows][rows] == annotations.class_index[truth_rows][columns]
    cause = np.full(len(false_rows), CAUSES.index("background"))
    partner = np.full(len(false_rows), -1)

    def pair_off(name: Cause, allowed: Bool) -> None:
        free = allowed & ~is_found[columns] & (partner[rows] < 0)
        for pair in _best_first(rows[free], columns[free], ious[free]):
            row, column = rows[free][pair], columns[free][pair]
            cause[row], partner[row], is_found[column] = CAUSES.index(name), column, True

    pair_off("mis-classed", ~is_same & is_match)
    best = np.zeros(len(false_rows))
    np.maximum.at(best, rows[is_same], ious[is_same])
    pair_off("badly placed", is_same & (ious >= NEAR_IOU) & (ious == best[rows]))
    is_near = ((is_same & (ious >= NEAR_IOU)) | is_match) & is_found[columns]
    is_duplicate = np.isin(np.arange(len(false_rows)), rows[is_near]) & (partner < 0)
    cause[is_duplicate] = CAUSES.index("duplicate")

    missed = truth_rows[~is_found]
    return (
        np.concatenate([cause, np.full(len(missed), CAUSES.index("missed"))]),
        np.concatenate([_taken(truth_rows, partner), missed]),
        np.concatenate([false_rows, np.full(len(missed), -1)]),
    )


def _compare_boxes(
    annotations: Annotations, truth_rows: Int64, tracks: Tracks, false_rows: Int64
) -> tuple[Int64, Int64, Float64]:
    """Place among the false rows, place among the truth rows, and IoU of all that overlap."""
    return overlaps(
        tracks.boxes_xyxy[false_rows].astype(np.float64),
        tracks.frame_index[false_rows].astype(np.int64),
        annotations.boxes_xyxy[truth_rows],
        annotations.frame_index[truth_rows].astype(np.int64),
    )


def _compare_masks(
    annotations: Annotations, truth_rows: Int64, tracks: Tracks, false_rows: Int64
) -> tuple[Int64, Int64, Float64]:
    """Likewise of masks."""
    return mask_overlaps(
        [(tracks.masks or ())[row] for row in false_rows.tolist()],
        tracks.frame_index[false_rows].astype(np.int64),
        [(annotations.masks or ())[row] for row in truth_rows.tolist()],
        annotations.frame_index[truth_rows].astype(np.int64),
    )


def _best_first(rows: Int64, columns: Int64, ious: Float64) -> list[int]:
    """Positions of a one-to-one choice of pairs: the greatest overlap, then the next that is free.

    >>> _best_first(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.9, 0.6, 0.8]))
    [0]
    """
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    chosen = []
    for pair in np.argsort(-ious, kind="stable").tolist():
        row, column = int(rows[pair]), int(columns[pair])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            chosen.append(pair)
    return chosen


def _runs(
    annotations: Annotations, tracks: Tracks, cause: Int64, truth_row: Int64, track_row: Int64
) -> list[Error]:
    """Wrong boxes of the same kind, identity and track in consecutive frames, as one error each."""
    frame = np.maximum(
        _taken(annotations.frame_index, truth_row), _taken(tracks.frame_index, track_row)
    )
    of_truth = [_taken(v, truth_row) for v in (annotations.class_index, annotations.identity)]
    of_track = [_taken(v, track_row) for v in (tracks.class_index, tracks.track_id)]
    keys = np.stack([cause, *of_truth, *of_track])
    order = np.lexsort((frame, *keys))
    keys, frame = keys[:, order], frame[order]
    begins = np.ones(len(frame), bool)
    begins[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0) | (np.diff(frame) != 1)
    starts = np.flatnonzero(begins)
    ends = np.append(starts, len(frame))[1:]
    errors = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        kind, truth_class, identity, track_class, track_id = keys[:, start].tolist()
        is_missing, is_false = CAUSES[kind] in MISSING, CAUSES[kind] in FALSE
        errors.append(
            Error(
                cause=CAUSES[kind],
                first_frame=int(frame[start]),
                last_frame=int(frame[end - 1]),
                num_boxes=end - start,
                truth_class=truth_class if is_missing else None,
                identity=identity if is_missing else None,
                track_class=track_class if is_false else None,
                track_id=track_id if is_false else None,
            )
        )
    return errors


def _events(
    cause: Cause,
    rows: Int64,
    annotations: Annotations,
    tracks: Tracks,
    data: ClassData,
    matched_track: Int64,
) -> list[Error]:
    """An error for each of the given rows of the class data, at which something begins anew."""
    before = previous_rows(data.truth_id, np.flatnonzero(matched_track >= 0))
    sizes = _stretch_sizes(data, matched_track)
    place = _place_in_life(data.truth_id)
    errors = []
    for row in rows.tolist():
        last = int(before[row])
        # By a quirk of MotsCounting, what was never matched before can still be a fragment.
        has_last = last >= 0
        first = last if has_last else int(np.flatnonzero(data.truth_id == data.truth_id[row])[0])
        source, last_source = data.track_row[matched_track[[row, last]]]
        is_switch = cause == "switched"
        num_missed = int(place[row] - place[first] - has_last)
        errors.append(
            Error(
                cause=cause,
                first_frame=int(data.truth_frame[first]),
                last_frame=int(data.truth_frame[row]),
                num_boxes=min(sizes[row], sizes[last]) if is_switch else num_missed,
                truth_class=int(annotations.class_index[data.truth_row[row]]),
                identity=int(annotations.identity[data.truth_row[row]]),
                track_class=int(tracks.class_index[source]),
                track_id=int(tracks.track_id[source]),
                previous_track_id=int(tracks.track_id[last_source]) if has_last else None,
            )
        )
    return errors


def _stretch_sizes(data: ClassData, matched_track: Int64) -> list[int]:
    """(G,) for each matched row, the matches of its identity between the switches around it."""
    matched = np.flatnonzero(matched_track >= 0)
    order = matched[np.argsort(data.truth_id[matched], kind="stable")]
    begins = np.isin(order, find_switches(data, matched_track))
    begins[1:] |= data.truth_id[order[1:]] != data.truth_id[order[:-1]]
    stretch = np.cumsum(begins)
    sizes = np.zeros(data.num_truth, np.int64)
    sizes[order] = np.bincount(stretch)[stretch] if len(stretch) else 0
    return sizes.tolist()


def _place_in_life(truth_id: Int64) -> Int64:
    """(G,) how many rows of the same identity come before each row.

    >>> _place_in_life(np.array([5, 6, 5, 5])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(truth_id, kind="stable")
    first = np.searchsorted(truth_id[order], truth_id[order])
    place = np.zeros(len(truth_id), np.int64)
    place[order] = np.arange(len(truth_id)) - first
    return place


def _taken(values: npt.NDArray[Any], rows: Int64) -> Int64:
    """Values at the rows, -1 for rows of -1.

    >>> _taken(np.array([7, 8]), np.array([1, -1])).tolist()
    [8, -1]
    """
    taken: Int64 = np.append(values.astype(np.int64), -1)[rows]
    return taken


def _worst_first(error: Error) -> tuple[int, ...]:
    names = (error.identity, error.track_id)
    known = (-1 if name is None else name for name in names)
    return (-error.num_boxes, CAUSES.index(error.cause), error.first_frame, *known)
