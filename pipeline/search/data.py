"""The sequences of a sweep in Ray's object store: loaded and prepared once for all trials.

The driver loads them, while the workers start, into the store of its node, which lives as long as
the sweep does. Every other node fetches what its workers ask for once; on a node all workers read
the same memory without a copy.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipeline.associate import AssociationConfig, build_tracker
from pipeline.locations import is_local
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.progress import Progress
from pipeline.search.trial import ReplaySequence, load_sequence
from pipeline.store import Artefact

_REMOTE_READERS: Final = 8
"""Sequences read at a time where the time is spent waiting for answers. On a local root a second
reader only takes turns with the first, and both take twice as long."""


@dataclass(frozen=True, kw_only=True)
class SequenceSummary:
    """What the driver has to know of a loaded sequence."""

    num_frames: int
    truth_per_class: tuple[int, ...]
    """Boxes of the truth, the last number those of no class of the benchmark."""
    detections_per_class: tuple[int, ...]
    """Likewise."""
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class SweepData:
    """All sequences, by name; nothing of them is in the driver."""

    references: Mapping[str, Any]
    """To a `ReplaySequence` each."""
    summaries: Mapping[str, SequenceSummary]

    @property
    def num_bytes(self) -> int:
        return sum(summary.num_bytes for summary in self.summaries.values())


def load_all(
    frames: Artefact,
    detections: Artefact,
    association: AssociationConfig,
    protocol: ScoringProtocol,
) -> SweepData:
    """Load every sequence of the detections with its truth.

    Args:
        frames: finished artefact that holds the truth.
        detections: finished artefact over the same frames.
        association: of the kind that is to replay them.
        protocol: that is to score them.

    Raises:
        ValueError: a sequence that cannot be replayed or scored; names it.
    """
    import ray

    tracker = build_tracker(association)
    parts = {n: (frames.part(n), detections.part(n)) for n in detections.sequences()}
    num_readers = 1 if is_local(detections.root) else _REMOTE_READERS
    references: dict[str, Any] = {}
    summaries: dict[str, SequenceSummary] = {}
    with (
        Progress(f"load {detections.dataset}/{detections.split}", len(parts), "sequences") as bar,
        ThreadPoolExecutor(num_readers) as readers,
    ):
        # A few at a time: what was read waits in this process's own memory.
        everything = list(parts)
        for start in range(0, len(everything), num_readers):
            names = everything[start : start + num_readers]
            loaded = readers.map(lambda name: load_sequence(parts[name], tracker, protocol), names)
            for name, sequence in zip(names, loaded, strict=True):
                references[name] = ray.put(sequence)
                summaries[name] = summarise(sequence, len(protocol.classes))
                bar.advance(note=name)
    return SweepData(references=references, summaries=summaries)


def features(summary: SequenceSummary) -> list[float]:
    """What makes a sequence like others: boxes of every class, found boxes, frames."""
    found = sum(summary.detections_per_class)
    return [*map(float, summary.truth_per_class[:-1]), float(found), float(summary.num_frames)]


def check_classes(data: SweepData, protocol: ScoringProtocol) -> None:
    """Refuse detections that share no class with the truth: no trial could score.

    Raises:
        ValueError: names the classes of both.
    """
    summaries = data.summaries.values()
    truth, found = (
        np.sum([getattr(summary, name) for summary in summaries], axis=0)
        for name in ("truth_per_class", "detections_per_class")
    )
    if found[-1]:
        raise ValueError(
            f"{int(found[-1])} detections are of classes that {protocol.name} does not have; infer "
            "again with weights whose classes are the benchmark's"
        )
    if found.sum() and truth[:-1].sum() and not (truth[:-1] * found[:-1]).any():
        names = [
            ", ".join(protocol.classes[i] for i in np.flatnonzero(counts[:-1]))
            for counts in (truth, found)
        ]
        raise ValueError(
            f"the truth has {names[0]}, the detections are of {names[1]}: no class in common; the "
            "detections are of another data set or of weights with other classes"
        )


def summarise(sequence: ReplaySequence, num_classes: int) -> SequenceSummary:
    """What the driver keeps of a sequence; `num_classes` are the benchmark's."""
    return SequenceSummary(
        num_frames=sequence.truth.source.num_frames,
        truth_per_class=_count(sequence.truth_classes, num_classes),
        detections_per_class=_count(sequence.detections.class_indices, num_classes),
        num_bytes=sequence.num_bytes,
    )


def _count(class_indices: Any, num_classes: int) -> tuple[int, ...]:
    """Rows of every class, and of none of them."""
    is_known = (class_indices >= 0) & (class_indices < num_classes)
    known = np.bincount(class_indices[is_known].astype(np.int64), minlength=num_classes)
    return (*known.tolist(), int((~is_known).sum()))
