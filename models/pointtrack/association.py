"""The tracker of PointTrack: instances joined by their embeddings and by how masks overlap.

Section 3.4 of Xu et al., "Segment as Points for Efficient Online Multi-Object Tracking and
Segmentation" (ECCV 2020), with the constants of the released run. NumPy only, so that association
runs where there is no torch.

Legend: N detections of one frame, T tracks alive, D embedding width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from models.mask_tracking import (
    LiveTracks,
    PerClassTracker,
    Segments,
    check_has_masks,
    masks_of_frame,
)
from models.masks import Rle
from models.prepared import PreparedFrame, prepare_in_order
from models.search_space import Choices, Interval
from models.tracking import (
    Float64,
    Int64,
    check_choice,
    check_finite,
    check_frames,
    check_rows,
)

_MIN_NORM: Final = 1e-12
_DISTANCES: Final = ("euclidean", "cosine")


@dataclass(frozen=True, kw_only=True)
class PointTrackerConfig:
    """Constants and memory of `PointTracker`; the defaults are those of the released run on cars.

    The similarity of a detection to a track is

        distance_scale * (distance_offset - distance) + mask_iou_weight * IoU

    Embeddings are not normalised: all constants are tied to the scale that training gave them.
    Scale and offset declare no range to search: with the threshold t, whom a detection may match
    depends on offset - t / scale and weight / scale alone.
    """

    kind: Literal["point"] = "point"
    """Tells this tracker from the others."""
    distance_scale: float = 1.0090931467228708
    """Weight of the distance of embeddings; above 0."""
    distance_offset: float = 8.810218833503743
    """Distance that is worth nothing."""
    match_threshold: Annotated[float, Interval(0.0, 8.0)] = 0.8165986526897969
    """Similarity that a match must be above."""
    mask_iou_weight: Annotated[float, Interval(0.0, 4.0)] = 0.74
    """Worth of a mask that overlaps fully; 0 or above."""
    keep_alive_frames: Annotated[int, Interval(1, 60, log=True)] = 30
    """A track can be continued up to this many frames after it was last seen. The published class
    has 5 for cars and 30 for pedestrians; the released run on cars sets 30."""
    use_mask_iou: Annotated[bool, Choices((True, False))] = True
    """Compare masks, too; without, detections need none."""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """How embeddings are compared; the cosine distance is from 0 to 2 and wants other constants."""

    def __post_init__(self) -> None:
        for name in ("distance_offset", "match_threshold"):
            _check_number(name, getattr(self, name))
        _check_number(
            "mask_iou_weight", self.mask_iou_weight, "0 or above", self.mask_iou_weight >= 0
        )
        _check_number("distance_scale", self.distance_scale, "above 0", self.distance_scale > 0)
        check_frames("keep_alive_frames", self.keep_alive_frames)
        check_choice("distance", self.distance, _DISTANCES)

    @classmethod
    def car(cls) -> Self:
        """Of the released run on cars: without overlap a match needs a distance below 8.0010."""
        return cls()

    @classmethod
    def pedestrian(cls) -> Self:
        """Published for pedestrians: without overlap a match needs a distance below 9.0900."""
        return cls(
            distance_scale=1.3437965549876354,
            distance_offset=9.447084376750222,
            match_threshold=0.47985540892434836,
            mask_iou_weight=0.54,
            keep_alive_frames=30,
        )


class PointTracker:
    """Joins the instances of one class of one sequence; give it the frames in order.

    A detection is compared with the last embedding and the last mask of every live track, however
    old: there is neither motion nor averaging. The assignment makes as many allowed matches as
    there can be. Every detection has an id.

    All is computed in float64 from float32 embeddings. Float32 would differ in the seventh digit of
    a similarity, which decides only where two assignments are as good as equal.

    >>> tracker = PointTracker(PointTrackerConfig(use_mask_iou=False))
    >>> looks = np.array([[0, 0], [0, 30]], np.float32)
    >>> tracker.update(0, looks, None).tolist()
    [1, 2]
    >>> tracker.update(1, looks[::-1] + 3, None).tolist()
    [2, 1]
    """

    def __init__(self, config: PointTrackerConfig) -> None:
        self.config = config
        """The settings really used."""
        self._tracks = LiveTracks(config.keep_alive_frames)

    def update(
        self, frame_index: int, embeddings: npt.ArrayLike, masks: Sequence[Rle] | None
    ) -> Int64:
        """Give the instances of the next frame their track ids.

        Args:
            frame_index: must ascend from call to call; frames may be left out.
            embeddings: (N, D), not normalised; the published D is 32.
            masks: (N,) COCO run-length codes of one image size; None where they are not compared.

        Returns:
            int64, (N,), aligned with the input rows: the id, from 1 and consecutive over the
            sequence in the order in which tracks start, in a frame in that of the rows.

        Raises:
            ValueError: wrong shapes, numbers that are not finite, another width or size of image
                than before, no masks where they are compared, or a frame that does not ascend. The
                tracker is left as it was.
        """
        features = np.asarray(embeddings, np.float32)
        check_rows(frame_index, "embeddings", features, len(features), num_axes=2)
        check_finite(frame_index, "embeddings", features)
        found = masks_of_frame(frame_index, masks, len(features))
        return self.step(frame_index, Segments(features.astype(np.float64), found))

    def step(self, frame_index: int, segments: Segments) -> Int64:
        """`update` with what was checked."""
        if not self.config.use_mask_iou:
            segments = segments._replace(masks=None)
        else:
            check_has_masks(frame_index, segments, "the tracker `point` with use_mask_iou=true")
        return self._tracks.join(
            frame_index, segments, self._similarity, self.config.match_threshold
        )

    def _similarity(self, segments: Segments, tracks: LiveTracks) -> Float64:
        config = self.config
        measure = cosine_distance if config.distance == "cosine" else cdist
        distance = measure(segments.embeddings, tracks.embeddings)
        similarity: Float64 = config.distance_scale * (config.distance_offset - distance)
        if segments.masks is not None:
            similarity += config.mask_iou_weight * segments.masks.iou(tracks.masks)
        return similarity


class PointSequenceTracker(PerClassTracker):
    """`PointTracker` for all classes of a sequence, none of which is ever matched with another.

    Published models have one class each; see `PerClassTracker` for the ids of several.
    """

    prepare = staticmethod(prepare_in_order)

    def __init__(self, config: PointTrackerConfig) -> None:
        super().__init__(lambda: PointTracker(config))
        self.config = config
        """The settings really used."""

    def step(self, frame_index: int, frame: PreparedFrame) -> Int64:
        """Track ids of the next frame's detections in the order they were given.

        Raises:
            ValueError: a frame that does not ascend, or detections that no tracker can take.
        """
        _check_has_embeddings(frame_index, frame)
        return super().step(frame_index, frame)


def cosine_distance(first: Float64, second: Float64) -> Float64:
    """1 - cos of every vector with every other; a vector of zeros is at 1 from all.

    >>> cosine_distance(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 3.0]])).tolist()
    [[0.0, 1.0]]
    """
    distance: Float64 = 1.0 - _unit(first) @ _unit(second).T
    return distance


def _unit(vectors: Float64) -> Float64:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Float64 = vectors / np.maximum(norms, _MIN_NORM)
    return unit


def _check_has_embeddings(frame_index: int, frame: PreparedFrame) -> None:
    features = frame.detections.features
    if len(features) and features.shape[1] == 0:
        raise ValueError(
            f"frame {frame_index}: embeddings have width 0, expected at least 1; these detections "
            "come from a model without an embedding network"
        )


def _check_number(name: str, value: float, expected: str = "", is_met: bool = True) -> None:
    if not (math.isfinite(value) and is_met):
        text = f"a finite number, {expected}" if expected else "a finite number"
        raise ValueError(f"{name} is {value!r}, expected {text}")
