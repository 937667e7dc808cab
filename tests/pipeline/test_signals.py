"""Ctrl-C during a write comes after it."""

import os
import signal

import pytest

from pipeline.signals import undisturbed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interruption_waits_for_the_outermost_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        with undisturbed():
            interrupt()
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    with pytest.raises(KeyboardInterrupt):  # the usual handler is back
        interrupt()


def test_a_second_one_is_not_kept() -> None:
    with pytest.raises(KeyboardInterrupt), undisturbed():
        interrupt()
        interrupt()
        pytest.fail("still running")


def test_the_error_of_the_block_comes_out_where_nobody_interrupted() -> None:
    with pytest.raises(ValueError, match="broken"), undisturbed():
        raise ValueError("broken")
