"""Workers of a sweep without processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.associate import build_tracker
from pipeline.metrics.protocol import ScoringProtocol
from pipeline.search.trial import Replayed, ReplaySequence, ReplayTask, replay_sequence
from pipeline.search.workers import DROPPED, Outcome

Sequences = Mapping[str, ReplaySequence]
Spoil = Callable[[Any, dict[str, Replayed]], Any]


class InlinePool:
    """Does tasks here and now, the last one first; `spoil` may change what becomes of one."""

    def __init__(
        self, protocol: ScoringProtocol, sequences: Sequences, spoil: Spoil | None = None
    ) -> None:
        self.protocol = protocol
        self.sequences = sequences
        self.spoil = spoil
        self.done: list[Any] = []
        self._dropped: set[Any] = set()

    def run(
        self, tasks: Mapping[Any, ReplayTask], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[Outcome]:
        if meanwhile is not None:
            meanwhile()
        for key, task in reversed(tasks.items()):
            if key in self._dropped:
                yield Outcome(key, None, DROPPED)
                continue
            self.done.append(key)
            try:
                value = {
                    name: replay_sequence(
                        self.protocol, build_tracker(task.association), self.sequences[name]
                    )
                    for name in task.names
                }
                yield Outcome(key, self.spoil(key, value) if self.spoil else value, None)
            except ValueError as error:
                yield Outcome(key, None, f"ValueError: {error}")

    def drop(self, keys: Sequence[Any]) -> None:
        self._dropped |= set(keys)
