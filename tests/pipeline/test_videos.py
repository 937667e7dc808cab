"""Videos that are asked for: which files, of which frames, and refusals before any work."""

from pathlib import Path

import pytest

from datasets.video import iterate_frames, probe_video
from pipeline.diagnose import diagnose
from pipeline.overlay import clips_of_errors, images_of
from pipeline.store import Artefact
from pipeline.videos import render_errors, render_sequences
from tests.diagnosis_scene import write_result

Stored = tuple[Artefact, Artefact]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Two sequences of seven frames, 96 x 64 pixels, that are drawn sixfold."""
    return write_result(tmp_path_factory.mktemp("root"))


def test_all_sequences_or_some(stored: Stored, tmp_path: Path) -> None:
    everything = list(render_sequences(*stored, tmp_path / "all"))
    assert everything == [tmp_path / "all/val-0.mp4", tmp_path / "all/val-1.mp4"]
    assert [probe_video(path).num_frames for path in everything] == [7, 7]
    assert list(render_sequences(*stored, tmp_path / "one", sequences=["val-1"])) == [
        tmp_path / "one/val-1.mp4"
    ]


def test_a_range_of_frames(stored: Stored, tmp_path: Path) -> None:
    frames, _ = stored
    assert [index for index, _ in images_of(frames.part("val-0"), 2, 5)] == [2, 3, 4]
    assert [index for index, _ in images_of(frames.part("val-0"), 5, 99)] == [5, 6]
    (path,) = render_sequences(*stored, tmp_path, sequences=["val-0"], frame_range=(3, 99))
    assert probe_video(path).num_frames == 4
    with pytest.raises(ValueError, match="'val-0' has 7 frames, the range begins at frame index 7"):
        list(render_sequences(*stored, tmp_path / "x", frame_range=(7, None)))


def test_truth_over_and_beside(stored: Stored, tmp_path: Path) -> None:
    widths = {}
    for style in ("over", "beside"):
        (path,) = render_sequences(
            *stored, tmp_path / style, sequences=["val-0"], truth=style, frame_range=(0, 1)
        )
        widths[style] = next(image for *_, image in iterate_frames(path)).shape[1]
    assert widths == {"over": 576, "beside": 1152}


def test_clips_of_the_worst_errors(stored: Stored, tmp_path: Path) -> None:
    paths = list(render_errors(*stored, tmp_path, "switched", limit=5))
    assert [path.name for path in paths] == [
        "switched-001-val-0-2-3.mp4",
        "switched-002-val-1-2-3.mp4",
    ]
    assert all(probe_video(path).num_frames == 7 for path in paths)
    (path,) = render_errors(*stored, tmp_path, "background", limit=1, sequences=["val-1"])
    assert path.name == "background-001-val-1-0-4.mp4"
    (path,) = render_errors(*stored, tmp_path, "mis-classed", limit=1)
    assert path.name.startswith("mis-classed-001-val-")


def test_existing_files_are_kept_unless_forced(stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "val-1.mp4").write_text("mine")
    with pytest.raises(ValueError, match=r"val-1\.mp4: exists already"):
        list(render_sequences(*stored, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["val-1.mp4"], "before any work"
    assert len(list(render_sequences(*stored, tmp_path, force=True))) == 2
    assert probe_video(tmp_path / "val-1.mp4").num_frames == 7


def test_an_unknown_sequence_names_its_neighbours(stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no sequence 'val-7' among its 2; .* val-\d, val-\d"):
        list(render_sequences(*stored, tmp_path, sequences=["val-7"]))


def test_a_page_takes_few_clips_of_limited_size(stored: Stored) -> None:
    frames, tracks = stored
    diagnosis = diagnose(frames, tracks)

    def clips(limit: int, limit_bytes: int) -> list[bytes]:
        errors = diagnosis.worst("switched")
        classes = diagnosis.protocol.classes
        return clips_of_errors(
            frames, tracks, classes, errors, limit=limit, limit_bytes=limit_bytes
        )

    both = clips(9, 1 << 20)
    assert len(both) == 2
    assert all(clip[4:8] == b"ftyp" for clip in both)
    assert len(clips(1, 1 << 20)) == 1
    # Only sizes are compared: the encoder's bytes may differ from one call to the next.
    assert len(clips(9, len(both[0]) + len(both[1]) // 2)) == 1
    assert clips(9, 1000) == []
