"""The render command on a small store: which videos it writes where."""

from dataclasses import replace
from pathlib import Path

import pytest

from datasets.schema import Tracks
from datasets.video import probe_video
from jobs import command, render
from pipeline.associate import TRACKS_FILE
from pipeline.errors import CAUSES
from pipeline.lineage import detections_of
from pipeline.store import Artefact
from tests.diagnosis_scene import write_result

Stored = tuple[Artefact, Artefact]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Frames and flawed tracks."""
    return write_result(tmp_path_factory.mktemp("root"))


def _render(tracks: Artefact, *further: str) -> int:
    return command.run(render.main, ["--tracks", tracks.folder, *further])


def test_frames_are_found_and_videos_lie_under_the_root(
    stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, tracks = stored
    assert _render(tracks, "--frames-range", "2:5", "--truth") == 0
    folder = Path(tracks.root, "rendered", "bdd100k", "val", tracks.fingerprint)
    paths = [folder / "val-0.mp4", folder / "val-1.mp4"]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    assert [probe_video(path).num_frames for path in paths] == [3, 3]
    assert _render(tracks, "--frames", frames.folder, "--sequence", "val-1", "--force") == 0
    assert [probe_video(path).num_frames for path in paths] == [3, 7]
    assert _render(tracks) == 1
    assert "exists already" in capsys.readouterr().err


def test_clips_of_errors(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, tracks = stored
    assert _render(tracks, "--errors", "switched", "--limit", "1", "--out", str(tmp_path)) == 0
    assert capsys.readouterr().out == f"{tmp_path}/switched-001-val-0-2-3.mp4\n"


def test_no_such_error_is_said(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, tracks = stored
    empty = replace(tracks, fingerprint="e" * 16)
    for name in tracks.sequences():
        with empty.part(name).write() as writer:
            writer.write_parquet(TRACKS_FILE, Tracks.empty().to_table())
    empty.finish(tracks.sequences(), tracks.details())
    assert _render(empty, "--errors", "duplicate", "--out", str(tmp_path)) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no error of the cause 'duplicate'" in captured.err


@pytest.mark.parametrize("text", ["5", "5:5", "9:2", "a:b", "-3:2", "1:2:3"])
def test_a_range_must_be_one(text: str, stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _render(stored[1], f"--frames-range={text}")
    assert "is not a range of frame indices" in capsys.readouterr().err


def test_errors_bring_their_own_frames_and_truth(
    stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        _render(stored[1], "--errors", "missed", "--truth", "beside")
    assert "leave out --truth and --frames-range" in capsys.readouterr().err


def test_without_detections_the_frames_must_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, tracks = write_result(tmp_path)
    Path(detections_of(tracks).folder, "manifest.json").unlink()
    assert _render(tracks, "--out", str(tmp_path / "out")) == 1
    assert "'detections' did not finish here" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "out"), "--frames-range", ":1"]
    assert _render(tracks, "--frames", frames.folder, *out) == 0


def test_the_causes_are_those_of_the_diagnosis() -> None:
    assert render.CAUSES == CAUSES
