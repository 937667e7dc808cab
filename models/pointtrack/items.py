"""What PointTrack's association network is trained on: items of some tracks, three crops of each.

Items are planned from lists of entries alone, as a function of (seed, epoch, item), so that every
process can work out any of them by itself.

Legend: K crops of an item, P points of one.
"""

import hashlib
import random
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from models.pointtrack.points import (
    NUM_ENVIRONMENT_POINTS,
    NUM_POINTS,
    NUM_VALUES,
    OFFSET_NOISE,
    Float32,
    InstanceCrop,
    crop_points,
)

# What a random number is drawn for; the same (seed, epoch, item) must not give related draws.
_PLAN: Final = "plan"
_POINTS: Final = "points"


@dataclass(frozen=True, kw_only=True)
class ItemConfig:
    """Which crops make one training item."""

    num_tracks: int = 24
    """Tracks of an item; all of them where there are fewer."""
    max_gap: int = 10
    """Largest distance between the middle crop of a track and the two others."""
    gap_in: Literal["frames", "entries"] = "frames"
    """Whether that distance is one of frames or of entries of the track, which span more frames
    where the track was hidden in between; the release counts entries."""
    offset_noise: float = OFFSET_NOISE
    """Standard deviation of normal noise on the offsets of points, in units of 128 pixels."""

    def __post_init__(self) -> None:
        for name in ("num_tracks", "max_gap"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value!r}, expected a number of at least 1")
        if self.gap_in not in ("frames", "entries"):
            raise ValueError(f"gap_in is {self.gap_in!r}, expected 'frames' or 'entries'")
        if not 0 <= self.offset_noise < float("inf"):
            raise ValueError(f"offset_noise is {self.offset_noise!r}, expected at least 0")

    @classmethod
    def published(cls) -> "ItemConfig":
        """As released: gaps count entries."""
        return cls(gap_in="entries")


class TrackEntry(NamedTuple):
    """One instance of a track."""

    frame_index: int
    """Within its sequence."""
    entry: int
    """Where the crop is found, in the caller's numbering."""


class TrainingItem(NamedTuple):
    """What one optimiser step is made of."""

    entries: tuple[int, ...]
    """Of the crops: those of the first track drawn in order of time, then those of the next."""
    labels: tuple[int, ...]
    """Of each crop the place of its track in the draw, from 1."""


class ItemArrays(NamedTuple):
    """A training item as the network and the loss take it."""

    points: Float32
    """(K, P, 8)."""
    positions: Float32
    """(K, 4)."""
    labels: npt.NDArray[np.int64]
    """(K,) equal where crops are of the same track."""


def draw_item(
    tracks: Mapping[str, Sequence[TrackEntry]], rng: random.Random, config: ItemConfig
) -> TrainingItem:
    """Draw tracks without replacement, and up to three entries of each.

    As released, `rng` draws the tracks with one `sample` over their keys; a track of n > 2 entries
    then draws its middle, 1 to n - 2, and its gap, 1 to `max_gap`. The other two entries are the
    gap before and after the middle, or the first and last one. Where the gap counts frames, they
    are the farthest entries that are not further away than this, and at least the neighbours. A
    track of one or two entries gives all of them and draws nothing.

    Args:
        tracks: entries of each track in ascending order of frames; the order of the keys decides
            what a random number means, in the release that of first appearance in the data.
        rng: source of the draws.
        config: how many tracks and which gaps. Where there are fewer tracks, all of them are
            drawn, in random order; the release would redraw without end.

    Raises:
        ValueError: no tracks at all, a track without entries, or entries out of order.

    >>> track = [TrackEntry(frame, 100 + frame) for frame in range(30)]
    >>> draw_item({"a": track, "b": track[:1]}, random.Random(1), ItemConfig())
    TrainingItem(entries=(107, 109, 111, 100), labels=(1, 1, 1, 2))
    """
    if not tracks:
        raise ValueError("there are no tracks to draw a training item from")
    entries: list[int] = []
    labels: list[int] = []
    drawn = rng.sample(list(tracks), min(config.num_tracks, len(tracks)))
    for label, key in enumerate(drawn, start=1):
        chosen = _draw_entries(key, tracks[key], rng, config)
        entries += chosen
        labels += [label] * len(chosen)
    return TrainingItem(tuple(entries), tuple(labels))


def item_random(seed: int, epoch: int, item: int) -> random.Random:
    """Source of the draws of one item, the same in whichever process it is planned."""
    return random.Random(_digest(_PLAN, seed, epoch, item))  # noqa: S311


def item_generator(seed: int, epoch: int, item: int) -> np.random.RandomState:
    """Source of the points of one item, the same in whichever process they are drawn."""
    return np.random.RandomState(np.frombuffer(_digest(_POINTS, seed, epoch, item), "<u4"))


def assemble_item(
    crops: Sequence[InstanceCrop],
    labels: Sequence[int],
    rng: np.random.RandomState,
    *,
    offset_noise: float = OFFSET_NOISE,
    num_points: int = NUM_POINTS,
    num_environment_points: int = NUM_ENVIRONMENT_POINTS,
) -> ItemArrays:
    """Points, positions and labels of an item, ready for `torch.from_numpy`.

    Args:
        crops: of a `TrainingItem`'s entries, in their order.
        labels: of the same item.
        rng: source of noise and draws, crop after crop.
        offset_noise: of `ItemConfig`.
        num_points: foreground points of each crop.
        num_environment_points: environment points of each crop.

    Raises:
        ValueError: not as many labels as crops, or a crop with an empty mask.
    """
    if len(crops) != len(labels):
        raise ValueError(f"{len(crops)} crops and {len(labels)} labels, expected as many of both")
    points = np.zeros((len(crops), num_points + num_environment_points, NUM_VALUES), np.float32)
    positions = np.zeros((len(crops), 4), np.float32)
    for row, crop in enumerate(crops):
        points[row], positions[row] = crop_points(
            crop,
            rng,
            offset_noise=offset_noise,
            num_points=num_points,
            num_environment_points=num_environment_points,
        )
    return ItemArrays(points, positions, np.array(labels, np.int64))


def _draw_entries(
    key: str, track: Sequence[TrackEntry], rng: random.Random, config: ItemConfig
) -> list[int]:
    frames = [entry.frame_index for entry in track]
    if not frames or any(after <= before for before, after in pairwise(frames)):
        raise ValueError(
            f"track {key!r} has entries in frames {frames[:20]}, expected at least one entry and "
            "rising frames"
        )
    if len(track) <= 2:
        return [entry.entry for entry in track]
    middle = rng.randint(1, len(track) - 2)
    gap = rng.randint(1, config.max_gap)
    if config.gap_in == "entries":
        first, last = max(0, middle - gap), min(len(track) - 1, middle + gap)
    else:
        first = min(bisect_left(frames, frames[middle] - gap), middle - 1)
        last = max(bisect_right(frames, frames[middle] + gap) - 1, middle + 1)
    return [track[place].entry for place in (first, middle, last)]


def _digest(purpose: str, seed: int, epoch: int, item: int) -> bytes:
    return hashlib.blake2b(f"{purpose} {seed} {epoch} {item}".encode(), digest_size=32).digest()
