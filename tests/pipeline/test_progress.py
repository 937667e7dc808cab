"""What a stage says of its progress where no terminal is watched."""

import logging

import pytest

from pipeline.progress import Progress


def test_the_rate_leaves_out_what_came_before_the_first_unit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting took 100 s, each step takes 2 s: 0.5 a second, not one step in 100 s."""
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 100.0, 130.0, 130.0])
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: next(clock))
    with Progress("train", 100, "steps") as bar:
        bar.advance()
        bar.advance(15, note="loss 1.5")
    assert [record.message for record in caplog.records] == [
        "train: 1 of 100 steps",
        "train: 16 of 100 steps, 0.5 per second, 168 s left, loss 1.5",
        "train: 16 steps in 130.0 s",
    ]


def test_without_a_total_no_time_left_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 1.0, 41.0, 50.0])
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: next(clock))
    with Progress("frames", None, "frames") as bar:
        bar.advance()
        bar.advance(80)
    assert caplog.records[0].message == "frames: 81 frames, 2.0 per second"
