"""One line per stage that says unit, rate and time left; quiet when nobody watches a terminal."""

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
"""Takes one line for the person who watches."""

_LOG_EVERY_S: Final = 30.0


class Progress:
    """Counts finished units of a stage, on a terminal as a bar, else as a log line now and then."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        """Start counting; a `total` of None is not known, and no time left is told then."""
        self._label = label
        self._total = total
        self._unit = unit
        self._done = 0
        self._started = time.monotonic()
        self._logged = self._started
        self._first: tuple[float, int] | None = None
        self._bar = (
            tqdm(total=total, desc=label, unit=f" {unit}", file=sys.stderr, smoothing=0.1)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            elapsed = time.monotonic() - self._started
            logger.info("%s: %d %s in %.1f s", self._label, self._done, self._unit, elapsed)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished units; `note` is shown behind the bar (a loss, a name)."""
        self._done += count
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (now, self._done)
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            logger.info("%s: %s", self._label, self._describe(now, note))

    def _describe(self, now: float, note: str) -> str:
        total = "" if self._total is None else f" of {self._total}"
        parts = [f"{self._done}{total} {self._unit}"]
        assert self._first is not None
        # The first unit waits for workers, models and data to start: the rate is of the others.
        elapsed, counted = now - self._first[0], self._done - self._first[1]
        if counted > 0 and elapsed > 0:
            rate = counted / elapsed
            parts.append(f"{rate:.1f} per second")
            if self._total is not None:
                parts.append(f"{(self._total - self._done) / rate:.0f} s left")
        if note:
            parts.append(note)
        return ", ".join(parts)
