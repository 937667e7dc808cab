"""Tracks of one split that were made class by class, as one result.

PointTrack has networks of its own for cars and for pedestrians, each with its detections and
tracks. A benchmark wants them together: ids unique over the classes, and no pixel claimed twice.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from datasets.schema import Int64, Tracks, masks_of
from pipeline.associate import STAGE, TRACKS_FILE, read_tracks
from pipeline.lineage import frames_of
from pipeline.mask_export import make_masks_disjoint
from pipeline.parallel import map_sequences
from pipeline.store import Artefact, Part, fingerprint

VERSION: Final = 1
"""Raised when the code changes a merged track."""


def merge_classes(parts: Sequence[Artefact], *, num_workers: int = 1) -> Artefact:
    """Merged tracks of every sequence; does only what is missing.

    Args:
        parts: finished artefacts of tracks over the same frames, each with classes of its own.
            Their order decides between masks of equal score, and about the numbers of tracks.
        num_workers: actors; at most 1 runs in this process. The tracks do not depend on it.

    Returns:
        An artefact of tracks that names its frames, and as `merged` the parts. There are no
        detections that all its tracks are of, so it can be scored, exported and rendered, and
        questions about detections are for the parts.

    Raises:
        ValueError: parts that do not belong together, or a class in two of them.
    """
    frames = _frames_of_all(parts)
    names = [part.fingerprint for part in parts]
    artefact = Artefact(
        root=parts[0].root,
        stage=STAGE,
        dataset=parts[0].dataset,
        split=parts[0].split,
        fingerprint=fingerprint(STAGE, VERSION, {"kind": "merge_classes"}, names),
    )
    if artefact.is_complete():
        return artefact
    sequences = parts[0].sequences()
    map_sequences(
        _merge_part,
        {
            name: ([part.part(name) for part in parts], artefact.part(name))
            for name in artefact.missing(sequences)
        },
        num_workers=num_workers,
        label=f"merge classes of {artefact.dataset}/{artefact.split}",
    )
    details = [artefact.part(name).details() for name in sequences]
    artefact.finish(
        sequences,
        {
            "frames": frames.fingerprint,
            "merged": names,
            "num_tracks": sum(part["num_tracks"] for part in details),
            "num_hidden": sum(part["num_hidden"] for part in details),
        },
    )
    return artefact


def merge_tracks(parts: Sequence[Tracks], name: str) -> Tracks:
    """Tracks of several classes of one sequence as one result: a pure function of its arguments.

    Where masks of a frame overlap, a pixel stays with the mask of the highest score, and among
    equal scores with that of the earlier part. A mask of which nothing is left is dropped; how many
    are is the difference in length, and logged.

    Args:
        parts: with masks, each with classes of its own.
        name: of the sequence, for messages.

    Returns:
        Rows by frame, in a frame by part and then as they were. Ids are consecutive from 0,
        numbered as they come. Rows of detections are -1, as there are no detections of all.

    Raises:
        ValueError: a class in two parts, or tracks without masks.
    """
    parts = [part for part in parts if len(part)]
    _check_classes(parts, name)
    if not parts:
        return Tracks.empty()
    whole = _concatenate(parts, name)
    merged = make_masks_disjoint(whole.select(np.argsort(whole.frame_index, kind="stable")), name)
    # What was dropped leaves no gap between the ids, so they are given last.
    return replace(merged, track_id=_numbered_as_they_come(merged.track_id))


def _merge_part(parts: tuple[list[Part], Part]) -> None:
    sources, target = parts
    found = [read_tracks(source) for source in sources]
    tracks = merge_tracks(found, target.name)
    with target.write() as writer:
        writer.write_parquet(TRACKS_FILE, tracks.to_table())
        writer.details = {
            "num_boxes": len(tracks),
            "num_tracks": len(np.unique(tracks.track_id)),
            "num_hidden": sum(map(len, found)) - len(tracks),
        }


def _frames_of_all(parts: Sequence[Artefact]) -> Artefact:
    if len({part.fingerprint for part in parts}) < max(2, len(parts)):
        folders = ", ".join(part.folder for part in parts) or "none"
        raise ValueError(f"expected at least two different tracks to merge, found {folders}")
    first, *others = parts
    frames = frames_of(first)
    for part in others:
        if frames_of(part) != frames or part.sequences() != first.sequences():
            raise ValueError(
                f"{part.folder}: tracks of {frames_of(part).folder} cannot be merged with "
                f"{first.folder}, which are tracks of {frames.folder}; expected the same frames "
                "and sequences"
            )
    return frames


def _check_classes(parts: Sequence[Tracks], name: str) -> None:
    classes = [label for part in parts for label in np.unique(part.class_index).tolist()]
    twice = sorted({label for label in classes if classes.count(label) > 1})
    if twice:
        raise ValueError(
            f"sequence {name!r}: class {twice[0]} is in two of the tracks to merge, expected every "
            "class in one of them"
        )


def _concatenate(parts: Sequence[Tracks], name: str) -> Tracks:
    """One behind the other, with ids that are unique over the parts."""
    columns: dict[str, Any] = {
        column: np.concatenate([getattr(part, column) for part in parts])
        for column in ("frame_index", "boxes_xyxy", "scores", "class_index")
    }
    num_before, ids = 0, []
    for part in parts:
        unique, number = np.unique(part.track_id, return_inverse=True)
        ids.append(num_before + number)
        num_before += len(unique)
    masks = (mask for part in parts for mask in masks_of(part, f"sequence {name!r}: the tracks"))
    return Tracks(
        **columns,
        track_id=np.concatenate(ids),
        detection_row=np.full(sum(map(len, parts)), -1, np.int32),
        masks=tuple(masks),
    )


def _numbered_as_they_come(ids: Int64) -> Int64:
    _, first, number = np.unique(ids, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[number]
