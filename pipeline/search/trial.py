"""One trial on one sequence: replay its detections with some settings and score the tracks.

Everything is in memory: a sequence is loaded and prepared once, then any number of trials replay it
without touching a disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from datasets.schema import Annotations, Int16, SequenceResult
from models.config_io import config_to_dict
from models.prepared import PreparedSequence
from pipeline.associate import (
    AssociationConfig,
    Tracker,
    build_tracker,
    prepare_sequence,
    read_detections,
    replay,
)
from pipeline.frames import read_truth
from pipeline.metrics.protocol import Fields, PreparedTruth, ScoringProtocol
from pipeline.store import Part

MASK_WINDOW_FRAMES: Final = 30
"""How far back masks are compared once for all trials: the memory of PointTrack's released run. A
trial with a longer one compares what is older by itself."""

SequenceFields = Mapping[str, Mapping[str, Fields]]
"""What a combination needs of one sequence: by class and metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplaySequence:
    """A sequence ready to be replayed: shared by all trials and never changed."""

    truth: PreparedTruth
    """Without the annotations that it was made of: names of categories and identities are no arrays
    that processes could share. What a protocol compares, masks too, it has taken from them."""
    truth_classes: Int16
    """(G,) class index of every annotation."""
    detections: PreparedSequence

    @property
    def num_bytes(self) -> int:
        """Of the detections, which are nearly all of it."""
        return sum(array.nbytes for array in self.detections.arrays())


def load_sequence(
    parts: tuple[Part, Part], tracker: Tracker, protocol: ScoringProtocol
) -> ReplaySequence:
    """Prepared truth and prepared detections of one sequence.

    Args:
        parts: of the frames and of the detections.
        tracker: of the kind that is to replay it; its settings do not matter.
        protocol: that is to score it.

    Raises:
        ValueError: the two differ in length, or hold what no tracker or no protocol can take;
            names the sequence.
    """
    frames, detections = parts
    truth, found = read_truth(frames), read_detections(detections)
    if truth.num_frames != found.num_frames:
        raise ValueError(
            f"{detections.folder}: sequence {truth.name!r} has detections for {found.num_frames} "
            f"frames, its truth has {truth.num_frames}; they are of different frames"
        )
    try:
        prepared = prepare_sequence(found, tracker, mask_window_frames=MASK_WINDOW_FRAMES)
    except ValueError as error:
        raise ValueError(f"{detections.folder}: sequence {truth.name!r}, {error}") from error
    return ReplaySequence(
        truth=replace(
            protocol.prepare_truth(truth), source=replace(truth, annotations=Annotations.empty())
        ),
        truth_classes=truth.annotations.class_index,
        detections=prepared,
    )


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What one trial achieved on one sequence."""

    settings: Mapping[str, Any]
    """Of the tracker that did it, read from the tracker itself."""
    fields: SequenceFields


def replay_sequence(
    protocol: ScoringProtocol, tracker: Tracker, sequence: ReplaySequence
) -> Replayed:
    """Replay a sequence with a new tracker and score what it gives, as the evaluation does.

    Raises:
        ValueError: the tracker or the protocol refuses something; names the sequence.
    """
    truth = sequence.truth.source
    try:
        tracks = replay(tracker, sequence.detections)
    except ValueError as error:
        raise ValueError(f"sequence {truth.name!r}, {error}") from error
    result = SequenceResult(name=truth.name, tracks=tracks, num_frames=truth.num_frames)
    fields = protocol.score_prepared(sequence.truth, result)
    return Replayed(settings=config_to_dict(tracker.config), fields=fields)


class ReplayData:
    """What all trials replay, as a worker has it: fetched when first asked for, then kept.

    What is kept are views of the memory that all workers of a node share.
    """

    def __init__(self, protocol: ScoringProtocol, references: Mapping[str, Any]) -> None:
        """Nothing is fetched yet.

        Args:
            protocol: that scores.
            references: by name of sequence, to a `ReplaySequence` in Ray's object store.
        """
        self.protocol = protocol
        self._references = references
        self._fetched: dict[str, ReplaySequence] = {}

    def sequences(self, names: Sequence[str]) -> list[ReplaySequence]:
        """Those of the names."""
        import ray

        missing = [name for name in names if name not in self._fetched]
        if missing:
            found = ray.get([self._references[name] for name in missing])
            self._fetched |= zip(missing, found, strict=True)
        return [self._fetched[name] for name in names]


class ReplayTask(NamedTuple):
    """Some sequences for one trial."""

    association: AssociationConfig
    names: Sequence[str]


def replay_task(data: ReplayData, task: ReplayTask) -> dict[str, Replayed]:
    """What a worker does with a task: by name what the trial achieved; nothing is written.

    It stands here, and not with the batches that make the tasks, so that workers need not import
    what those need: 30 MiB each.
    """
    return {
        name: replay_sequence(data.protocol, build_tracker(task.association), sequence)
        for name, sequence in zip(task.names, data.sequences(task.names), strict=True)
    }
