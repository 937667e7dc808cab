"""The baseline that PointTrack's embeddings have to beat: joining masks by their overlap alone.

Assignment, births, expiry and output are those of PointTrack's tracker; only the cue differs, so
that a difference in scores is the embeddings' doing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from models.mask_tracking import (
    LiveTracks,
    PerClassTracker,
    Segments,
    check_has_masks,
    masks_of_frame,
)
from models.masks import Rle
from models.prepared import prepare_boxes_in_order
from models.search_space import Interval
from models.tracking import Float64, Int64, check_frames, check_share


@dataclass(frozen=True, kw_only=True)
class MaskOverlapConfig:
    """Threshold and memory of `MaskOverlapTracker`."""

    kind: Literal["mask_overlap"] = "mask_overlap"
    """Tells this tracker from the others."""
    match_iou_thr: Annotated[float, Interval(0.0, 0.8)] = 0.1
    """Overlap with the last mask of a track that a match must be above. Masks of what walks or
    drives by overlap little: 0.3 cuts the tracks released on KITTI MOTS into twice as many."""
    memo_frames: Annotated[int, Interval(1, 60, log=True)] = 30
    """A track can be continued up to this many frames after it was last seen, as `point` counts
    them; the trackers of boxes forget one frame earlier."""

    def __post_init__(self) -> None:
        check_share("match_iou_thr", self.match_iou_thr)
        check_frames("memo_frames", self.memo_frames)


class MaskOverlapTracker:
    """Joins the masks of one class of one sequence: as many as may be, then by the largest overlap.

    >>> tracker = MaskOverlapTracker(MaskOverlapConfig())
    >>> left, right = {"size": [2, 2], "counts": b"022"}, {"size": [2, 2], "counts": b"22"}
    >>> tracker.update(0, [left]).tolist(), tracker.update(1, [right, left]).tolist()
    ([1], [2, 1])
    """

    def __init__(self, config: MaskOverlapConfig) -> None:
        self.config = config
        """The settings really used."""
        self._tracks = LiveTracks(config.memo_frames)

    def update(self, frame_index: int, masks: Sequence[Rle]) -> Int64:
        """Give the masks of the next frame their track ids.

        Args:
            frame_index: must ascend from call to call; frames may be left out.
            masks: (N,) COCO run-length codes of one image size.

        Returns:
            int64, (N,), aligned with the input: the id, from 1 and consecutive over the sequence
            in the order in which tracks start, in a frame in that of the masks.

        Raises:
            ValueError: another size of image than before, or a frame that does not ascend. The
                tracker is left as it was.
        """
        nothing = np.zeros((len(masks), 0))
        return self.step(
            frame_index, Segments(nothing, masks_of_frame(frame_index, masks, len(masks)))
        )

    def step(self, frame_index: int, segments: Segments) -> Int64:
        """`update` with what was checked."""
        check_has_masks(frame_index, segments, "the tracker `mask_overlap`")
        return self._tracks.join(frame_index, segments, _overlap, self.config.match_iou_thr)


class MaskOverlapSequenceTracker(PerClassTracker):
    """`MaskOverlapTracker` for all classes of a sequence; see `PerClassTracker` for the ids."""

    prepare = staticmethod(prepare_boxes_in_order)

    def __init__(self, config: MaskOverlapConfig) -> None:
        super().__init__(lambda: MaskOverlapTracker(config))
        self.config = config
        """The settings really used."""


def _overlap(segments: Segments, tracks: LiveTracks) -> Float64:
    assert segments.masks is not None
    return segments.masks.iou(tracks.masks)
