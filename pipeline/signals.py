"""Ctrl-C at moments when it may not come."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Ctrl-C until the block is done; a second one is not kept.

    For writes that must not be cut in two: a database connection cut in the middle of a transaction
    keeps its lock, and the run could not even be marked as killed. In threads other than the main
    one, which no signal reaches, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if kept:
            raise KeyboardInterrupt
        kept.append(number)

    before = signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if kept and callable(before):
            before(signal.SIGINT, None)
