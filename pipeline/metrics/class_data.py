"""One sequence and one class, ready for the metrics: flat arrays that also answer as trackeval's.

trackeval hands its metrics a dictionary with a list over frames of ids and similarity matrices. Our
kernels work on whole sequences, so the flat form is the one that is built; the lists are made only
when one of trackeval's own metrics asks for them.

Legend: G truth rows, T track rows, K pairs that overlap, F frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from datasets.schema import Float64, Int64


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassData:
    """Everything a metric may know of one class in one sequence; filtering is already done.

    `data["gt_ids"]` and the other keys of trackeval's contract work as well.
    """

    num_frames: int
    truth_frame: Int64
    """(G,) frame of each truth row, ascending; rows of a frame in file order."""
    truth_id: Int64
    """(G,) identities relabelled 0..n-1 in ascending order of the original ones."""
    num_truth_ids: int
    truth_row: Int64
    """(G,) row of the annotations that each truth row was made from."""
    track_frame: Int64
    """(T,) frame of each track row, ascending; rows of a frame in file order."""
    track_id: Int64
    """(T,) likewise relabelled."""
    num_track_ids: int
    track_row: Int64
    """(T,) likewise the row of the tracks."""
    pair_truth: Int64
    """(K,) truth row of each overlapping pair; pairs are ordered by truth row, then track row."""
    pair_track: Int64
    """(K,) track row of each pair, in the same frame."""
    pair_iou: Float64
    """(K,) similarity in (0, 1]; pairs of a frame that are not listed have 0."""

    @property
    def num_truth(self) -> int:
        return len(self.truth_frame)

    @property
    def num_tracks(self) -> int:
        return len(self.track_frame)

    @property
    def is_one_sided(self) -> bool:
        """Whether there is nothing to match: no truth or no tracks in the whole sequence."""
        return self.num_truth == 0 or self.num_tracks == 0

    @cached_property
    def truth_offsets(self) -> Int64:
        """(F + 1,) rows of frame f are `truth_offsets[f]:truth_offsets[f + 1]`."""
        return np.searchsorted(self.truth_frame, np.arange(self.num_frames + 1))

    @cached_property
    def track_offsets(self) -> Int64:
        """(F + 1,) likewise for track rows."""
        return np.searchsorted(self.track_frame, np.arange(self.num_frames + 1))

    @cached_property
    def previous_truth_row(self) -> Int64:
        """(G,) the row of the same identity in the last earlier frame that has it, or -1."""
        return previous_rows(self.truth_id, np.arange(self.num_truth))

    def __getitem__(self, key: str) -> Any:
        """A field of trackeval's in-memory dictionary."""
        return _CONTRACT[key](self)

    @classmethod
    def of(cls, data: "ClassData | Mapping[str, Any]") -> "ClassData":
        """`data` in flat form, whichever of the two forms it has."""
        return data if isinstance(data, ClassData) else cls.from_lists(data)

    @classmethod
    def from_lists(cls, data: Mapping[str, Any]) -> Self:
        """The flat form of trackeval's dictionary."""
        truth_offsets = _offsets(data["gt_ids"])
        track_offsets = _offsets(data["tracker_ids"])
        pairs = [np.nonzero(similarity) for similarity in data["similarity_scores"]]
        rows = [row + start for (row, _), start in zip(pairs, truth_offsets, strict=False)]
        columns = [column + start for (_, column), start in zip(pairs, track_offsets, strict=False)]
        values = [s[p] for s, p in zip(data["similarity_scores"], pairs, strict=True)]
        frames = np.arange(data["num_timesteps"])
        return cls(
            num_frames=data["num_timesteps"],
            truth_frame=np.repeat(frames, np.diff(truth_offsets)),
            truth_id=_joined(data["gt_ids"], np.int64),
            num_truth_ids=data["num_gt_ids"],
            truth_row=np.arange(truth_offsets[-1]),
            track_frame=np.repeat(frames, np.diff(track_offsets)),
            track_id=_joined(data["tracker_ids"], np.int64),
            num_track_ids=data["num_tracker_ids"],
            track_row=np.arange(track_offsets[-1]),
            pair_truth=_joined(rows, np.int64),
            pair_track=_joined(columns, np.int64),
            pair_iou=_joined(values, np.float64),
        )

    def frame_matrix(self, frame: int, pair_values: Float64, background: float) -> Float64:
        """(n, m) values of the pairs of one frame, `background` where boxes do not overlap.

        Args:
            frame: frame index.
            pair_values: (K,) one value for each pair.
            background: value of all other cells.
        """
        first_truth, last_truth = self.truth_offsets[frame : frame + 2]
        first_track, last_track = self.track_offsets[frame : frame + 2]
        pairs = self.pairs_of_frame(frame)
        matrix = np.full((last_truth - first_truth, last_track - first_track), background)
        rows, columns = self.pair_truth[pairs] - first_truth, self.pair_track[pairs] - first_track
        matrix[rows, columns] = pair_values[pairs]
        return matrix

    def pairs_of_frame(self, frame: int) -> slice:
        """The pairs that belong to one frame."""
        start, stop = self.pair_offsets[frame : frame + 2]
        return slice(int(start), int(stop))

    @cached_property
    def pair_offsets(self) -> Int64:
        """(F + 1,) pairs of frame f are `pair_offsets[f]:pair_offsets[f + 1]`."""
        return np.searchsorted(self.truth_frame[self.pair_truth], np.arange(self.num_frames + 1))

    def _lists(self, values: Int64, offsets: Int64) -> list[Int64]:
        return [values[offsets[f] : offsets[f + 1]] for f in range(self.num_frames)]

    def _similarities(self) -> list[Float64]:
        return [self.frame_matrix(f, self.pair_iou, 0.0) for f in range(self.num_frames)]


_CONTRACT = {
    "num_timesteps": lambda data: data.num_frames,
    "num_gt_ids": lambda data: data.num_truth_ids,
    "num_tracker_ids": lambda data: data.num_track_ids,
    "num_gt_dets": lambda data: data.num_truth,
    "num_tracker_dets": lambda data: data.num_tracks,
    "gt_ids": lambda data: data._lists(data.truth_id, data.truth_offsets),
    "tracker_ids": lambda data: data._lists(data.track_id, data.track_offsets),
    "similarity_scores": lambda data: data._similarities(),
}


def previous_rows(ids: Int64, rows: Int64) -> Int64:
    """(N,) for each of the chosen rows the chosen row before it with the same id; -1 elsewhere.

    >>> previous_rows(np.array([5, 6, 5, 5]), np.array([0, 1, 3])).tolist()
    [-1, -1, -1, 0]
    """
    order = rows[np.argsort(ids[rows], kind="stable")]
    same = ids[order[1:]] == ids[order[:-1]]
    previous = np.full(len(ids), -1)
    previous[order[1:][same]] = order[:-1][same]
    return previous


def _offsets(lists: list[Int64]) -> Int64:
    return np.cumsum([0, *(len(ids) for ids in lists)])


def _joined(arrays: list[Any], dtype: type) -> Any:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)
