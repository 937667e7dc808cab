"""The part of preparation that looks at masks: what they must satisfy, and how they overlap.

Masks are compared by pycocotools, as in the official tools: one call for the truth and the tracks
of a class in a frame, which looks closely only where the boxes of two masks overlap.

Legend: N rows of one side, T track rows, K overlapping pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.masks import (
    Rle,
    are_disjoint,
    covered_by,
    find_overlap,
    mask_areas,
    mask_boxes,
    mask_iou,
    merge_masks,
    touching_boxes,
)
from datasets.schema import Bool, Int64, SequenceResult, SequenceTruth, masks_of
from pipeline.metrics.preparation import (
    MAX_COVERED_SHARE,
    Pairs,
    Side,
    check_boxes,
    check_result,
    check_rows,
    check_unique_ids,
    make_side,
)
from pipeline.metrics.protocol import PreparedTruth

IgnoreMasks = Mapping[int, Sequence[Rle]]
"""Frame index to what is ignored there; frames without any are left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskTruth(PreparedTruth):
    """Truth with the masks that are to be found, and those that excuse what they cover."""

    side: Side
    masks: tuple[Rle, ...]
    """One for each row of the side."""
    ignore: IgnoreMasks
    size: tuple[int, int] | None
    """Height and width of the images, None where the truth has no mask."""


def prepare_mask_truth(truth: SequenceTruth, num_classes: int) -> MaskTruth:
    """Truth of benchmarks of masks; crowd and ignored ones of any class are what is ignored.

    Raises:
        ValueError: boxes without masks, masks of different sizes, numbers that are not finite, or
            an identity that appears twice in a frame; names the sequence and the frame.
    """
    annotations = truth.annotations
    masks = masks_of(annotations, f"sequence {truth.name!r}: the truth")
    check_boxes(truth, annotations.frame_index, annotations.boxes_xyxy, "the truth")
    size = _size_of(masks)
    _check_sizes(truth, annotations.frame_index, masks, size, "the truth")
    is_ignored = annotations.crowd | annotations.ignored
    is_class = (annotations.class_index >= 0) & (annotations.class_index < num_classes)
    targets = np.flatnonzero(is_class & ~is_ignored)
    # Ignored regions may share an identity; nothing ever asks for it.
    check_unique_ids(
        truth,
        annotations.frame_index[targets],
        annotations.identity[targets],
        "the truth",
        "identity",
    )
    side = make_side(
        frame_index=annotations.frame_index,
        class_index=annotations.class_index,
        ids=annotations.identity,
        boxes=annotations.boxes_xyxy,
        rows=is_class & ~is_ignored,
        num_frames=truth.num_frames,
    )
    ignore: dict[int, list[Rle]] = {}
    for row in np.flatnonzero(is_ignored).tolist():
        ignore.setdefault(int(annotations.frame_index[row]), []).append(masks[row])
    return MaskTruth(
        source=truth,
        side=side,
        masks=tuple(masks[row] for row in side.source_row.tolist()),
        ignore=ignore,
        size=size,
    )


def merge_ignored(ignore: IgnoreMasks) -> dict[int, tuple[Rle]]:
    """One mask a frame: the union of what is ignored there."""
    return {frame: (merge_masks(masks),) for frame, masks in ignore.items()}


def check_mask_result(
    prepared: MaskTruth, result: SequenceResult, num_classes: int
) -> tuple[Rle, ...]:
    """The masks of a result that can be scored, in its own order; see `check_result`.

    Raises:
        ValueError: as `check_result`, and: boxes without masks, masks of another size than the
            truth's, a score that is not finite; names the sequence and the frame.
    """
    truth, tracks = prepared.source, result.tracks
    check_result(truth, result, num_classes)
    masks = masks_of(tracks, f"sequence {truth.name!r}: the result")
    check_rows(
        truth,
        tracks.frame_index,
        ~np.isfinite(tracks.scores),
        lambda row: (
            f"track {tracks.track_id[row]} has the score {tracks.scores[row]}, expected a finite "
            "number"
        ),
    )
    size = prepared.size or _size_of(masks)
    _check_sizes(truth, tracks.frame_index, masks, size, "the result")
    return masks


def check_disjoint(
    truth: SequenceTruth,
    frame_index: npt.NDArray[Any],
    masks: Sequence[Rle],
    names: Sequence[str],
    source: str,
) -> None:
    """Refuse masks of one frame that share a pixel.

    Args:
        truth: of the sequence.
        frame_index: (N,) in any order.
        masks: (N,).
        names: (N,) what errors call them.
        source: whose they are.

    Raises:
        ValueError: names the sequence, the frame and both masks.
    """
    for frame, first, second in find_overlapping(frame_index, masks):
        raise ValueError(
            f"sequence {truth.name!r}, frame index {frame} ({truth.frame_names[frame]}): {source} "
            f"has masks that overlap, {names[first]} and {names[second]}; expected every pixel in "
            "one mask at most"
        )


def find_overlapping(
    frame_index: npt.NDArray[Any], masks: Sequence[Rle]
) -> Iterator[tuple[int, int, int]]:
    """Each frame in which masks share a pixel, with the rows of two that do.

    Args:
        frame_index: (N,) in any order.
        masks: (N,).
    """
    order = np.argsort(frame_index, kind="stable")
    frames = frame_index[order].astype(np.int64)
    # Most masks have a box that no other touches.
    touches = touching_boxes(frames, mask_boxes(masks)[order])
    suspects, frames = order[touches], frames[touches]
    codes = [masks[row] for row in suspects.tolist()]
    areas = mask_areas(codes)
    for frame, group in _groups(frames):
        if are_disjoint(codes[group], areas[group]):
            continue
        found = find_overlap(codes[group])
        if found is not None:
            yield frame, int(suspects[group][found[0]]), int(suspects[group][found[1]])


def find_mask_pairs(
    truth: Side, truth_masks: Sequence[Rle], tracks: Side, track_masks: Sequence[Rle]
) -> Pairs:
    """All overlaps of a truth mask with a track mask of the same class in the same frame.

    Args:
        truth: truth side.
        truth_masks: one for each of its rows.
        tracks: track side.
        track_masks: likewise.
    """
    keys = np.intersect1d(truth.key, tracks.key)
    edges = (
        np.searchsorted(side.key, keys, where).tolist()
        for side in (truth, tracks)
        for where in ("left", "right")
    )
    rows, columns, ious = [], [], []
    for truth_start, truth_end, track_start, track_end in zip(*edges, strict=True):
        overlap = mask_iou(truth_masks[truth_start:truth_end], track_masks[track_start:track_end])
        row, column = np.nonzero(overlap)
        rows.append(row + truth_start)
        columns.append(column + track_start)
        ious.append(overlap[row, column])
    return Pairs(
        truth=_joined(rows, np.int64), track=_joined(columns, np.int64), iou=_joined(ious, float)
    )


def find_covered(
    frame_index: Int64, masks: Sequence[Rle], asked: Bool, ignore: IgnoreMasks
) -> Bool:
    """Which of the asked masks lie by more than half in a single one of the ignored masks.

    Args:
        frame_index: (T,) in any order.
        masks: (T,).
        asked: (T,).
        ignore: what is ignored in each frame.
    """
    is_covered = np.zeros(len(masks), bool)
    ignore_frames = np.fromiter(ignore, np.int64)
    rows = np.flatnonzero(asked & np.isin(frame_index, ignore_frames))
    rows = rows[np.argsort(frame_index[rows], kind="stable")]
    for frame, group in _groups(frame_index[rows]):
        members = rows[group]
        shares = covered_by([masks[row] for row in members.tolist()], ignore[frame])
        is_covered[members] = (shares > MAX_COVERED_SHARE).any(axis=1)
    return is_covered


def _groups(values: npt.NDArray[Any]) -> Iterator[tuple[int, slice]]:
    """Each value of a sorted array with where it stands."""
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    for start, end in pairwise([*starts.tolist(), len(values)]):
        yield int(values[start]), slice(start, end)


def _size_of(masks: Sequence[Rle]) -> tuple[int, int] | None:
    if not masks:
        return None
    height, width = masks[0]["size"]
    return int(height), int(width)


def _check_sizes(
    truth: SequenceTruth,
    frame_index: npt.NDArray[Any],
    masks: Sequence[Rle],
    size: tuple[int, int] | None,
    source: str,
) -> None:
    """pycocotools compares sizes only where boxes overlap, so they are looked at here."""
    sizes = np.array([mask["size"] for mask in masks], np.int64).reshape(-1, 2)
    check_rows(
        truth,
        frame_index,
        (sizes != size).any(axis=1) if size is not None else np.zeros(0, bool),
        lambda row: (
            f"{source} has a mask of {sizes[row].tolist()} pixels (height, width), expected "
            f"{[*(size or ())]} as in the other frames"
        ),
    )


def _joined(arrays: list[Any], dtype: type) -> Any:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)
