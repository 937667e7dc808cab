"""The plan of training pairs: which key frame meets which reference, in which order, in which step.

A pure function of the annotations, the seed and the epoch, so that every process can work it out
by itself and training can go on from any step. The steps of an epoch do not depend on the number
of workers either: the order of an epoch is cut into as many lanes as a step has pairs, step s takes
the pair at position s of every lane, and a worker serves some of the lanes.

Within a lane, windows (runs of consecutive frames of one sequence) follow each other in random
order, and pairs are then moved by less than `buffer` places at random. So a worker needs few
windows at a time, reads each about once per epoch, and a step still mixes many sequences.

Legend: K key frames that have a pair, S sequences, G pairs per step (lanes), L lanes of a worker.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.schema import Int32, Int64
from datasets.transforms import TrainingTargets

# What a random number is drawn for; the same (seed, epoch, ...) must not give related draws.
_REFERENCES: Final = 0
_WINDOW_ORDER: Final = 1
_PLACES: Final = 2
_AUGMENTATION: Final = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSequence:
    """What the plan has to know of one sequence."""

    name: str
    """Unique among all sequences of a training; its random numbers derive from it."""
    targets: TrainingTargets
    is_still: bool = False
    """The frames have nothing to do with each other: each is paired with itself."""
    broken_frames: Sequence[int] = ()
    """Frames without an image; never part of a pair."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairIndex:
    """All key frames that have at least one possible reference, with these references."""

    names: tuple[str, ...]
    """(S,) names of the sequences."""
    sequence_index: Int32
    """(K,) rising."""
    key_frames: Int32
    """(K,) rising within a sequence."""
    references: npt.NDArray[np.bool_]
    """(K, 2 * scope + 1) whether frame key - scope + column may be the reference."""
    windows: Int32
    """(K,) rising from 0 without gaps; the same for all keys of one window."""
    num_without_boxes: int
    """Frames that are no key because they have no usable box, or no image."""
    num_without_reference: int
    """Frames with boxes none of whose identities is on any frame within the scope."""

    def __len__(self) -> int:
        return len(self.key_frames)


class WindowRead(NamedTuple):
    """A run of frames of one sequence, to be read together."""

    sequence_index: int
    start: int
    stop: int
    """Exclusive."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkerPlan:
    """What one worker does in one epoch, or in what is left of it."""

    sequence_index: Int32
    """(steps, L) sequence of every pair; a row is the worker's share of one optimiser step."""
    key_frames: Int32
    """(steps, L)"""
    reference_frames: Int32
    """(steps, L)"""
    reads: tuple[WindowRead, ...]
    """Windows in the order in which they are first needed, keys and references included."""
    read_index: Int64
    """(steps, L) position in `reads` of the window that holds the pair."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochPlan:
    """Every pair of one epoch, row by row in the order of the optimiser steps."""

    sequence_index: Int32
    """(steps, G)"""
    key_frames: Int32
    """(steps, G)"""
    reference_frames: Int32
    """(steps, G)"""
    windows: Int32
    """(steps, G) window of the index that the key belongs to."""
    num_left_out: int
    """Pairs that do not fill a step; other ones in every epoch."""

    @property
    def num_steps(self) -> int:
        return len(self.key_frames)

    def for_worker(self, rank: int, num_workers: int, *, start_step: int = 0) -> WorkerPlan:
        """The share of one worker from a step of this epoch on.

        Args:
            rank: of the worker, from 0.
            num_workers: must divide the pairs of a step.
            start_step: steps of this epoch that are done already.
        """
        num_lanes = self.key_frames.shape[1]
        if num_lanes % num_workers:
            raise ValueError(
                f"{num_lanes} pairs per step do not divide over {num_workers} workers; choose a "
                "multiple of the number of workers"
            )
        share = num_lanes // num_workers
        lanes = np.arange(rank * share, (rank + 1) * share)
        sequence_index, keys, references, windows = (
            values[start_step:, lanes]
            for values in (
                self.sequence_index,
                self.key_frames,
                self.reference_frames,
                self.windows,
            )
        )
        # A window that was cut between two lanes is read once for each.
        runs = windows.astype(np.int64) * num_lanes + lanes
        reads, read_index = _order_reads(runs, sequence_index, keys, references)
        return WorkerPlan(
            sequence_index=sequence_index,
            key_frames=keys,
            reference_frames=references,
            reads=reads,
            read_index=read_index,
        )


def index_pairs(sequences: Sequence[PairSequence], *, scope: int, window: int) -> PairIndex:
    """Find every frame that may be a key and its possible references.

    A key has at least one usable box. Its reference is another frame of the sequence, at most
    `scope` frames away, that shows at least one of its identities. The published training draws
    among all frames within the scope, and replaces a pair that shares no identity by one of
    another random key; here such references are left out beforehand, and a key without any is not
    planned and counted. A still, or any frame with scope 0, is paired with itself.

    Args:
        sequences: in any order; plans do not depend on it beyond the numbering of sequences.
        scope: largest distance between key and reference, in frames.
        window: consecutive frames that are read together, at most; a sequence is cut evenly.

    Raises:
        ValueError: a name that occurs twice, or a scope or window out of range.
    """
    if scope < 0 or window < 1:
        raise ValueError(
            f"scope is {scope} and window {window}, expected at least 0 and at least 1"
        )
    names = tuple(sequence.name for sequence in sequences)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"sequence {twice!r} is listed twice; names must be unique in a training")
    parts: list[tuple[Int32, Int32, npt.NDArray[np.bool_], Int32]] = []
    num_windows = num_without_boxes = num_without_reference = 0
    for index, sequence in enumerate(sequences):
        possible, has_boxes = _possible_references(sequence, scope)
        keys = np.flatnonzero(possible.any(axis=1)).astype(np.int32)
        num_without_boxes += int((~has_boxes).sum())
        num_without_reference += int(has_boxes.sum()) - len(keys)
        cuts = _cut_evenly(keys, sequence.targets.num_frames, window)
        parts.append((np.full_like(keys, index), keys, possible[keys], cuts + num_windows))
        num_windows += int(cuts[-1]) + 1 if len(cuts) else 0
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else None
    sequence_index, key_frames, references, windows = columns or _no_keys(scope)
    return PairIndex(
        names=names,
        sequence_index=sequence_index,
        key_frames=key_frames,
        references=references,
        windows=windows,
        num_without_boxes=num_without_boxes,
        num_without_reference=num_without_reference,
    )


def plan_epoch(
    index: PairIndex, *, seed: int, epoch: int, pairs_per_step: int, buffer: int
) -> EpochPlan:
    """Order all pairs of one epoch.

    Every key of the index occurs once, except `num_left_out` < `pairs_per_step` of them. The
    reference is uniform over the possible ones.

    Args:
        index: of `index_pairs`.
        seed: of the training.
        epoch: from 0.
        pairs_per_step: pairs of one optimiser step over all workers.
        buffer: pairs of a lane move by less than this many places; 1 keeps windows together.

    Raises:
        ValueError: there are fewer pairs than one step needs.
    """
    num_steps = len(index) // pairs_per_step
    if num_steps == 0:
        raise ValueError(
            f"{len(index)} training pairs are fewer than the {pairs_per_step} of one step "
            f"({index.num_without_boxes} frames have no usable box, {index.num_without_reference} "
            "share no identity with a frame within the scope); use more data or lower "
            "pairs_per_step"
        )
    num_planned = num_steps * pairs_per_step
    by_window = _shuffle_windows(index.windows, np.random.default_rng([seed, epoch, _WINDOW_ORDER]))
    # Lane l is a run of the order, so a window lies in one lane or is cut in two.
    lanes = by_window[:num_planned].reshape(pairs_per_step, num_steps)
    jitter = np.random.default_rng([seed, epoch, _PLACES]).random(lanes.shape)
    places = np.argsort(np.arange(num_steps) + buffer * jitter, axis=1, kind="stable")
    rows = np.take_along_axis(lanes, places, axis=1).T
    references = _draw_references(index, seed, epoch)
    return EpochPlan(
        sequence_index=index.sequence_index[rows],
        key_frames=index.key_frames[rows],
        reference_frames=references[rows],
        windows=index.windows[rows],
        num_left_out=len(index) - num_planned,
    )


def pair_generator(seed: int, epoch: int, name: str, key_frame: int) -> np.random.Generator:
    """Source of the augmentation of one pair, the same in whichever process it is prepared."""
    return np.random.default_rng([seed, epoch, _AUGMENTATION, _hash_name(name), key_frame])


def _possible_references(
    sequence: PairSequence, scope: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(F, 2 * scope + 1) possible references, and (F,) whether a frame could be a key at all."""
    targets = sequence.targets
    num_frames = targets.num_frames
    possible = np.zeros((num_frames, 2 * scope + 1), bool)
    has_boxes = np.diff(targets.frame_offsets) > 0
    has_boxes[list(sequence.broken_frames)] = False
    if sequence.is_still or scope == 0:
        possible[:, scope] = has_boxes
        return possible, has_boxes
    frames = np.repeat(np.arange(num_frames), np.diff(targets.frame_offsets))
    known, identity = np.unique(targets.identities, return_inverse=True)
    shown = np.zeros((num_frames, len(known)), bool)
    shown[frames, identity] = True
    shown &= has_boxes[:, None]
    for distance in range(1, min(scope, num_frames - 1) + 1):
        shares = (shown[:-distance] & shown[distance:]).any(axis=1)
        possible[:-distance, scope + distance] = shares
        possible[distance:, scope - distance] = shares
    return possible, has_boxes


def _cut_evenly(keys: Int32, num_frames: int, window: int) -> Int32:
    """(K,) number of each key's window within its sequence, rising from 0 without gaps."""
    num_windows = -(-num_frames // window)
    cut = keys.astype(np.int64) * num_windows // max(1, num_frames)
    numbers: Int32 = np.unique(cut, return_inverse=True)[1].astype(np.int32)
    return numbers


def _no_keys(scope: int) -> list[npt.NDArray[Any]]:
    none = np.zeros(0, np.int32)
    return [none, none, np.zeros((0, 2 * scope + 1), bool), none]


def _shuffle_windows(windows: Int32, rng: np.random.Generator) -> Int64:
    """(K,) rows of the index, window after window in random order."""
    num_windows = int(windows[-1]) + 1
    rank = rng.permutation(num_windows)
    return np.argsort(rank[windows], kind="stable")


def _draw_references(index: PairIndex, seed: int, epoch: int) -> Int32:
    """(K,) one reference per key, uniform over the possible ones."""
    scope = index.references.shape[1] // 2
    order = np.cumsum(index.references, axis=1)
    num_possible = order[:, -1]
    uniform = np.zeros(len(index))
    edges = np.searchsorted(index.sequence_index, np.arange(len(index.names) + 1))
    for name, start, stop in zip(index.names, edges[:-1], edges[1:], strict=True):
        if not (num_possible[start:stop] > 1).any():  # stills, of which there are many
            continue
        keys = index.key_frames[start:stop]
        rng = np.random.default_rng([seed, epoch, _REFERENCES, _hash_name(name)])
        # Drawn for every frame up to the last key: a key's number must not depend on other keys.
        uniform[start:stop] = rng.random(int(keys[-1]) + 1)[keys]
    chosen = np.floor(uniform * num_possible).astype(np.int64)
    column = (order > chosen[:, None]).argmax(axis=1)
    references: Int32 = (index.key_frames + column - scope).astype(np.int32)
    return references


def _order_reads(
    runs: Int64, sequence_index: Int32, keys: Int32, references: Int32
) -> tuple[tuple[WindowRead, ...], Int64]:
    """Reads in order of first need, and the position among them of every pair."""
    _, first, inverse = np.unique(runs.reshape(-1), return_index=True, return_inverse=True)
    by_need = np.argsort(first)
    position = np.empty_like(by_need)
    position[by_need] = np.arange(len(by_need))
    read_index = position[inverse]
    starts = np.full(len(by_need), np.iinfo(np.int32).max)
    stops = np.zeros(len(by_need), np.int64)
    flat_keys, flat_references = keys.reshape(-1), references.reshape(-1)
    np.minimum.at(starts, read_index, np.minimum(flat_keys, flat_references))
    np.maximum.at(stops, read_index, np.maximum(flat_keys, flat_references) + 1)
    sequences = sequence_index.reshape(-1)[first[by_need]]
    columns = zip(sequences.tolist(), starts.tolist(), stops.tolist(), strict=True)
    reads = tuple(WindowRead(*read) for read in columns)
    return reads, read_index.reshape(keys.shape)


def _hash_name(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
