"""One trial on one sequence: replay its detections with some settings and score the tracks.

Everything is in memory: a sequence is loaded and prepared once, then any number of trials replay it
without touching a disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from datasets.schema import SequenceResult, SequenceTruth
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
from pipeline.metrics.protocol import Fields, ScoringProtocol
from pipeline.store import Part

SequenceFields = Mapping[str, Mapping[str, Fields]]
"""What a combination needs of one sequence: by class and metric."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReplaySequence:
    """A sequence ready to be replayed: shared by all trials and never changed."""

    truth: SequenceTruth
    detections: PreparedSequence

    @property
    def num_bytes(self) -> int:
        """Of the detections, which are nearly all of it."""
        return sum(array.nbytes for array in vars(self.detections).values())


def load_sequence(parts: tuple[Part, Part], tracker: Tracker) -> ReplaySequence:
    """Truth and prepared detections of one sequence.

    Args:
        parts: of the frames and of the detections.
        tracker: of the kind that is to replay it; its settings do not matter.

    Raises:
        ValueError: the two differ in length, or hold what no tracker can take; names the sequence.
    """
    frames, detections = parts
    truth, found = read_truth(frames), read_detections(detections)
    if truth.num_frames != found.num_frames:
        raise ValueError(
            f"{detections.folder}: sequence {truth.name!r} has detections for {found.num_frames} "
            f"frames, its truth has {truth.num_frames}; they are of different frames"
        )
    try:
        prepared = prepare_sequence(found, tracker)
    except ValueError as error:
        raise ValueError(f"{detections.folder}: sequence {truth.name!r}, {error}") from error
    return ReplaySequence(truth=truth, detections=prepared)


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What one trial achieved on one sequence."""

    settings: Mapping[str, Any]
    """Of the tracker that did it, read from the tracker itself."""
    fields: SequenceFields


def replay_sequence(
    protocol: ScoringProtocol, tracker: Tracker, sequence: ReplaySequence
) -> Replayed:
    """Replay a sequence with a new tracker and score what it gives, as the evaluation does."""
    tracks = replay(tracker, sequence.detections)
    truth = sequence.truth
    result = SequenceResult(name=truth.name, tracks=tracks, num_frames=truth.num_frames)
    fields = protocol.score_sequence(truth, result)
    return Replayed(settings=config_to_dict(tracker.config), fields=fields)


class ReplayTask(NamedTuple):
    """Some sequences for one trial."""

    protocol: ScoringProtocol
    association: AssociationConfig
    sequences: list[tuple[str, Any]]
    """Name, and reference to a `ReplaySequence`."""


def replay_task(task: ReplayTask) -> dict[str, Replayed]:
    """What a worker does with a task; nothing is copied and nothing is written.

    It stands here, and not with the batches that make the tasks, so that workers need not import
    what those need: 30 MiB each.
    """
    import ray

    sequences = ray.get([reference for _, reference in task.sequences])
    return {
        name: replay_sequence(task.protocol, build_tracker(task.association), sequence)
        for (name, _), sequence in zip(task.sequences, sequences, strict=True)
    }


def check_settings(asked: AssociationConfig, held: Mapping[str, Any]) -> None:
    """Refuse a trial whose tracker did not hold what was asked of it.

    Raises:
        ValueError: names the settings that differ.
    """
    wanted = config_to_dict(asked)
    wrong = [
        f"{name} is {held.get(name)!r} in place of {wanted.get(name)!r}"
        for name in sorted({*wanted, *held})
        if held.get(name) != wanted.get(name) or name not in held or name not in wanted
    ]
    if wrong:
        raise ValueError(f"the tracker did not hold the sampled settings: {', '.join(wrong)}")
