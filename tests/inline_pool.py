"""Workers of a sweep without processes."""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.metrics.protocol import ScoringProtocol
from pipeline.search.trial import ReplayData, Replayed, ReplaySequence, ReplayTask, replay_task
from pipeline.search.workers import DROPPED, Outcome

Sequences = Mapping[str, ReplaySequence]
Spoil = Callable[[Any, dict[str, Replayed]], Any]


class _Held(ReplayData):
    """Sequences that are here; Ray's are read-only, too."""

    def __init__(self, protocol: ScoringProtocol, held: Sequences) -> None:
        super().__init__(protocol, {})
        self._held = held
        for sequence in held.values():
            for array in sequence.detections.arrays():
                array.setflags(write=False)

    def sequences(self, names: Sequence[str]) -> list[ReplaySequence]:
        return [self._held[name] for name in names]


class InlinePool:
    """Does tasks here and now, the last one first; `spoil` may change what becomes of one."""

    def __init__(
        self, protocol: ScoringProtocol, sequences: Sequences, spoil: Spoil | None = None
    ) -> None:
        self.data = _Held(protocol, sequences)
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
                value = replay_task(self.data, pickle.loads(pickle.dumps(task)))
                value = pickle.loads(pickle.dumps(value))
                yield Outcome(key, self.spoil(key, value) if self.spoil else value, None)
            except ValueError as error:
                yield Outcome(key, None, f"ValueError: {error}")

    def drop(self, keys: Sequence[Any]) -> None:
        self._dropped |= set(keys)
