"""Checkpoints on disk: the newest sound one counts, two are kept, and none runs code."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoints import (
    STATE_FILE,
    SUMMARY_FILE,
    load_checkpoint,
    newest_checkpoint,
    remove_old_checkpoints,
    write_checkpoint,
)
from pipeline.training_loop import Checkpoint


def _store(folder: Path, name: str, checkpoint: Checkpoint) -> Path:
    (folder / name).mkdir(parents=True)
    write_checkpoint(folder / name, checkpoint)
    return folder / name


def _small_checkpoint(step: int) -> Checkpoint:
    return {"schedule": {"step": step}, "model": {"weight": torch.full((1000,), float(step))}}


def test_the_newest_checkpoint_is_the_one_with_most_steps(tmp_path: Path) -> None:
    assert newest_checkpoint(str(tmp_path / "none")) is None
    _store(tmp_path, "checkpoint_2", _small_checkpoint(9))
    _store(tmp_path, "checkpoint_1", _small_checkpoint(30))
    assert newest_checkpoint(str(tmp_path)) == "checkpoint_1"
    loaded = load_checkpoint(str(tmp_path), "checkpoint_1")
    assert loaded["model"]["weight"].tolist() == [30.0] * 1000


@pytest.mark.parametrize("damage", ["cut", "changed", "no state", "no summary", "cut summary"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    _store(tmp_path, "checkpoint_1", _small_checkpoint(5))
    newest = _store(tmp_path, "checkpoint_2", _small_checkpoint(10))
    state, summary = newest / STATE_FILE, newest / SUMMARY_FILE
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    elif damage == "changed":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(bytes(content))
    elif damage == "no state":
        state.unlink()
    elif damage == "no summary":
        summary.unlink()
    else:
        summary.write_text(summary.read_text()[:20])
    assert newest_checkpoint(str(tmp_path)) == "checkpoint_1"
    if "summary" not in damage:  # without one it is the oldest, never looked at
        assert "checkpoint_2: an incomplete or damaged checkpoint" in caplog.text


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        _store(tmp_path, f"checkpoint_{step}", _small_checkpoint(step))
    (tmp_path / "checkpoint_15" / STATE_FILE).unlink()
    (tmp_path / "something else").mkdir()
    remove_old_checkpoints(str(tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint_10", "checkpoint_5", "something else"]


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    _store(tmp_path, "checkpoint_1", _small_checkpoint(1) | {"code": Harmful()})
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(str(tmp_path), "checkpoint_1")
    assert not (tmp_path / "owned").exists()
