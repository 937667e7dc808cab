"""What tracks of masks need before they can be written down: disjoint masks, and ids of one class.

Legend: N track rows.
"""

import logging
from dataclasses import replace

import numpy as np

from datasets.masks import Rle, mask_areas, mask_boxes, remove_overlaps
from datasets.schema import Tracks, masks_of

logger = logging.getLogger(__name__)


def make_masks_disjoint(tracks: Tracks, name: str) -> Tracks:
    """Tracks of which no two masks of a frame share a pixel, whatever their classes.

    A pixel that several masks claim stays with the one of the highest score. A mask of which
    nothing is left is dropped, which is logged. Boxes of masks that lose pixels shrink with them.

    Args:
        tracks: with masks.
        name: of the sequence, for messages.

    Raises:
        ValueError: tracks without masks.
    """
    masks = list(masks_of(tracks, f"sequence {name!r}"))
    boxes = tracks.boxes_xyxy.copy()
    for frame in np.unique(tracks.frame_index):
        rows = np.flatnonzero(tracks.frame_index == frame)
        before = [masks[row] for row in rows.tolist()]
        after = remove_overlaps(before, tracks.scores[rows])
        changed = _changed(before, after)
        boxes[rows[changed]] = mask_boxes([after[place] for place in changed])
        for place in changed:
            masks[int(rows[place])] = after[place]
    is_left = mask_areas(masks) > 0
    if not is_left.all():
        logger.warning(
            "sequence %r: %d of %d masks are left out: they have no pixel that does not belong to "
            "a mask of a higher score",
            *(name, int((~is_left).sum()), len(tracks)),
        )
    return replace(tracks, boxes_xyxy=boxes, masks=tuple(masks)).select(is_left)


def with_own_ids(tracks: Tracks) -> Tracks:
    """Tracks whose ids are positive and each of a single class.

    They keep the ids that they have where those are so already; otherwise every pair of class and
    id gets a number from 1, in ascending order of the pairs.

    >>> tracks = Tracks.empty()
    >>> len(with_own_ids(tracks))
    0
    """
    pairs = np.stack([tracks.class_index.astype(np.int64), tracks.track_id], axis=1)
    unique, number = np.unique(pairs, axis=0, return_inverse=True)
    ids = unique[:, 1]
    if len(np.unique(ids)) == len(ids) and (ids > 0).all():
        return tracks
    return replace(tracks, track_id=number.reshape(-1).astype(np.int64) + 1)


def _changed(before: list[Rle], after: list[Rle]) -> list[int]:
    pairs = zip(before, after, strict=True)
    return [place for place, (old, new) in enumerate(pairs) if old["counts"] != new["counts"]]
