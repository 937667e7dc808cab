"""The diagnose command on a small store: tables, files, and one clear line where inputs clash."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import command, diagnose
from pipeline.store import Artefact
from tests.diagnosis_scene import write_result

Stored = tuple[Artefact, Artefact]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Frames and flawed tracks."""
    return write_result(tmp_path_factory.mktemp("root"))


def _diagnose(tracks: str, frames: str, *further: str) -> int:
    return command.run(diagnose.main, ["--tracks", tracks, "--frames", frames, *further])


def test_prints_tables_and_writes_both_files(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, tracks = stored
    page, record = tmp_path / "out" / "page.html", tmp_path / "errors.json"
    assert _diagnose(tracks.folder, frames.folder, "--out", str(page), "--json", str(record)) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("MOTA loses ")
    assert "this result" in captured.out
    assert "switched" in captured.out
    assert f"wrote {page}" in captured.err
    text = page.read_text()
    assert text.count("<video") == 2
    assert "Where the score was lost: bdd100k / val" in text
    assert {error["cause"] for error in json.loads(record.read_text())["errors"]} >= {
        *("missed", "switched", "fragmented", "background", "mis-classed"),
    }


@pytest.mark.slow
def test_what_the_main_job_left_has_all_bounds(
    experiment: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(experiment.folders[stage]) for stage in ("tracks", "frames")]
    assert _diagnose(*folders) == 0
    out = capsys.readouterr().out
    (bound,) = [line for line in out.splitlines() if line.startswith("true boxes ")]
    assert "–" not in bound
    assert "not known" not in out


def test_gpus_without_the_network_are_wrong_usage(
    stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, tracks = stored
    with pytest.raises(SystemExit) as caught:
        _diagnose(tracks.folder, frames.folder, "--gpus-per-worker", "1")
    assert caught.value.code == 2
    assert "runs with --run-network only" in capsys.readouterr().err


def test_what_does_not_belong_together_is_one_line(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, tracks = stored
    others = replace(frames, fingerprint="e" * 16)
    others.finish(frames.sequences(), frames.details())
    for arguments, message in (
        ((frames.folder, tracks.folder), "holds frames, expected tracks"),
        ((tracks.folder, tracks.folder), "holds tracks, expected frames"),
        ((tracks.folder, others.folder), "not the frames that the tracks were made from"),
        ((str(tmp_path), frames.folder), "no finished artefact here"),
    ):
        assert _diagnose(*arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
