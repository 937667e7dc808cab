"""The export command on a small store."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, Tracks
from jobs import command, export
from pipeline.associate import TRACKS_FILE
from pipeline.frames import ANNOTATIONS_FILE, Frame, write_frames
from pipeline.store import Artefact


@pytest.fixture
def tracks(tmp_path: Path) -> Artefact:
    """Two sequences of three frames; one box in the last frame of the first."""
    frames = Artefact(
        root=str(tmp_path / "root"), stage="frames", dataset="d", split="val", fingerprint="f"
    )
    artefact = replace(frames, stage="tracks", fingerprint="t")
    for name in ("one", "two"):
        with frames.part(name).write() as writer:
            images = [
                Frame(
                    frame_index=index,
                    name=f"{name}-{index + 1}.jpg",
                    timestamp_us=None,
                    height=4,
                    width=6,
                    image=b"-",
                )
                for index in range(3)
            ]
            write_frames(writer, name, images)
            writer.write_parquet(ANNOTATIONS_FILE, Annotations.empty().to_table(name))
        found = Tracks(
            frame_index=np.array([2], np.int32),
            track_id=np.array([8]),
            detection_row=np.array([0], np.int32),
            boxes_xyxy=np.array([[1, 2, 5, 4]], np.float32),
            scores=np.array([0.5], np.float32),
            class_index=np.array([2], np.int16),
        )
        with artefact.part(name).write() as writer:
            table = found if name == "one" else Tracks.empty()
            writer.write_parquet(TRACKS_FILE, table.to_table())
    frames.finish(["one", "two"], {})
    replace(frames, stage="detections", fingerprint="d").finish(["one", "two"], {"frames": "f"})
    artefact.finish(["one", "two"], {"detections": "d"})
    return artefact


def _export(tracks: Artefact, out: Path, *further: str) -> int:
    arguments = ["--benchmark", "bdd100k", "--tracks", tracks.folder, str(out)]
    return command.run(export.main, [*arguments, *further])


def test_every_frame_of_every_sequence_is_written(
    tracks: Artefact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "submission"
    assert _export(tracks, out) == 0
    assert capsys.readouterr().out == f"{out}: 2 sequences, 1 objects\n"
    frames = json.loads((out / "one.json").read_text())
    assert [frame["name"] for frame in frames] == ["one-1.jpg", "one-2.jpg", "one-3.jpg"]
    assert frames[2]["labels"][0]["box2d"] == {"x1": 1.0, "y1": 2.0, "x2": 4.0, "y2": 3.0}
    results = BENCHMARKS["bdd100k"].read_results(out)
    assert [(len(r.tracks), r.num_frames) for r in results.values()] == [(1, 3), (0, 3)]


def test_an_existing_file_is_kept_unless_forced(
    tracks: Artefact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "submission.json"
    out.write_text("mine")
    assert _export(tracks, out) == 1
    assert out.read_text() == "mine"
    assert "submission.json: exists already" in capsys.readouterr().err
    assert _export(tracks, out, "--force") == 0
    assert len(json.loads(out.read_text())) == 6


def test_a_folder_that_holds_no_tracks_is_refused(
    tracks: Artefact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = replace(tracks, stage="frames", fingerprint="f")
    assert _export(frames, tmp_path / "out") == 1
    assert "holds frames, expected tracks" in capsys.readouterr().err
    arguments = ["--benchmark", "bdd100k", "--tracks", str(tmp_path), str(tmp_path / "out")]
    assert command.run(export.main, arguments) == 1
    assert "no finished artefact here" in capsys.readouterr().err
