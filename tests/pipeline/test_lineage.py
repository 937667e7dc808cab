"""Which artefacts belong together: found by their names, refused where they do not."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.lineage import (
    check_belongs,
    detections_of,
    frames_of,
    open_stage,
    weights_of,
)
from pipeline.store import Artefact, StoreError


@pytest.fixture
def tracks(tmp_path: Path) -> Artefact:
    """Tracks "t" of detections "d" of frames "f", whose network has the weights "w"."""
    frames = Artefact(root=str(tmp_path), stage="frames", dataset="d", split="val", fingerprint="f")
    detections = replace(frames, stage="detections", fingerprint="d")
    tracks = replace(frames, stage="tracks", fingerprint="t")
    frames.finish(["one", "two"], {})
    detections.finish(["one", "two"], {"frames": "f", "weights": "w"})
    tracks.finish(["one", "two"], {"detections": "d"})
    return tracks


def frames(tracks: Artefact, **changes: str) -> Artefact:
    return replace(tracks, stage="frames", **{"fingerprint": "f", **changes})


def test_the_way_back_is_found(tracks: Artefact) -> None:
    assert detections_of(tracks) == replace(tracks, stage="detections", fingerprint="d")
    assert frames_of(tracks) == frames(tracks)
    check_belongs(frames(tracks), tracks)


def test_weights_are_found_under_whatever_they_were_trained_on(tracks: Artefact) -> None:
    assert weights_of(detections_of(tracks)) is None
    weights = replace(tracks, stage="weights", dataset="other", split="train+det", fingerprint="w")
    weights.finish(["model"], {})
    assert weights_of(detections_of(tracks)) == weights


def test_detections_from_elsewhere_have_no_weights(tracks: Artefact) -> None:
    detections_of(tracks).finish(["one", "two"], {"frames": "f"})
    assert weights_of(detections_of(tracks)) is None


@pytest.mark.parametrize(
    ("changes", "sequences", "message"),
    [
        ({"dataset": "e"}, ["one", "two"], "frames of the data set 'e'"),
        ({"split": "train"}, ["one", "two"], "frames of the split 'train'"),
        ({"fingerprint": "g"}, ["one", "three"], "not the same ones"),
        ({"fingerprint": "g"}, ["one", "two"], "not the frames that the tracks were made from"),
    ],
    ids=["data set", "split", "sequences", "frames"],
)
def test_other_frames_are_refused(
    changes: dict[str, str], sequences: list[str], message: str, tracks: Artefact
) -> None:
    others = frames(tracks, **changes)
    others.finish(sequences, {})
    with pytest.raises(StoreError, match=message):
        check_belongs(others, tracks)


def test_without_the_detections_the_same_sequences_are_enough(tracks: Artefact) -> None:
    Path(detections_of(tracks).folder, "manifest.json").unlink()
    others = frames(tracks, fingerprint="g")
    others.finish(["one", "two"], {})
    check_belongs(others, tracks)
    with pytest.raises(StoreError, match="'detections' did not finish"):
        frames_of(tracks)


def test_another_stage_is_refused(tracks: Artefact) -> None:
    assert open_stage(tracks.folder, "tracks") == tracks
    with pytest.raises(StoreError, match=r"holds tracks, expected frames.*jobs\.ingest"):
        open_stage(tracks.folder, "frames")


def test_tracks_that_do_not_say_what_they_were_made_from(tracks: Artefact) -> None:
    tracks.finish(["one", "two"], {})
    with pytest.raises(StoreError, match="does not say which detections"):
        frames_of(tracks)
