"""Submissions: what is written, that it reads back, and that nothing is replaced unasked."""

import json
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.registry import BENCHMARKS
from datasets.schema import SequenceResult, SequenceTruth, Tracks
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate
from pipeline.export import SequenceTracks, export_tracks, motchallenge_text, scalabel_frames

CLASSES = BENCHMARKS["bdd100k"].classes
RandomSequence = Callable[..., tuple[SequenceTruth, SequenceResult]]


def _tracks(boxes: list[tuple[float, ...]], frames: list[int], ids: list[int]) -> Tracks:
    """Tracks as association makes them: float32, class car."""
    return Tracks(
        frame_index=np.array(frames, np.int32),
        track_id=np.array(ids, np.int64),
        detection_row=np.arange(len(ids), dtype=np.int32),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.5, 0.75, len(ids), dtype=np.float32),
        class_index=np.full(len(ids), 2, np.int16),
    )


def _as_stored(result: SequenceResult) -> Tracks:
    """What the store keeps of a result: boxes and scores in float32."""
    tracks = result.tracks
    return Tracks(**(vars(tracks) | {"boxes_xyxy": tracks.boxes_xyxy.astype(np.float32)}))


@pytest.fixture(scope="module")
def pair(random_sequence: RandomSequence) -> dict[str, tuple[SequenceTruth, SequenceResult]]:
    return {name: random_sequence(name) for name in ("one", "two")}


def _sequences(pair: dict[str, tuple[SequenceTruth, SequenceResult]]) -> list[SequenceTracks]:
    return [
        SequenceTracks(name=name, frame_names=truth.frame_names, tracks=_as_stored(result))
        for name, (truth, result) in pair.items()
    ]


def test_a_bdd100k_frame_by_hand() -> None:
    """Exclusive (10, 20, 30, 50) is 20 x 30 pixels, whose last ones are 29 and 49."""
    tracks = _tracks([(10, 20, 30, 50), (0, 0, 1.5, 2.5)], [1, 1], [7, 12])
    sequence = SequenceTracks(name="v", frame_names=("v-1.jpg", "v-2.jpg"), tracks=tracks)
    assert scalabel_frames(sequence, CLASSES) == [
        {"name": "v-1.jpg", "videoName": "v", "frameIndex": 0, "labels": []},
        {
            "name": "v-2.jpg",
            "videoName": "v",
            "frameIndex": 1,
            "labels": [
                {
                    "id": "7",
                    "category": "car",
                    "score": 0.5,
                    "box2d": {"x1": 10.0, "y1": 20.0, "x2": 29.0, "y2": 49.0},
                },
                {
                    "id": "12",
                    "category": "car",
                    "score": 0.75,
                    "box2d": {"x1": 0.0, "y1": 0.0, "x2": 0.5, "y2": 1.5},
                },
            ],
        },
    ]


def test_motchallenge_rows_by_hand() -> None:
    tracks = _tracks([(10, 20, 30, 50), (-4, 0, 1.5, 2.5)], [3, 0], [7, 12])
    assert motchallenge_text(tracks).splitlines() == [
        "1,12,-4.0,0.0,5.5,2.5,0.75,-1,-1,-1",
        "4,7,10.0,20.0,20.0,30.0,0.5,-1,-1,-1",
    ]


@pytest.mark.parametrize("form", ["folder", "one.json"])
def test_exporting_and_scoring_is_scoring(
    form: str, pair: dict[str, tuple[SequenceTruth, SequenceResult]], tmp_path: Path
) -> None:
    protocol = build_protocol(EvaluationConfig())
    truths = {name: truth for name, (truth, _) in pair.items()}
    direct = {
        sequence.name: SequenceResult(name=sequence.name, tracks=sequence.tracks, num_frames=30)
        for sequence in _sequences(pair)
    }
    num_boxes = export_tracks("bdd100k", _sequences(pair), tmp_path / form)
    assert num_boxes == sum(len(result.tracks) for result in direct.values())
    read = BENCHMARKS["bdd100k"].read_results(tmp_path / form)
    expected = evaluate(protocol, truths, direct)
    assert evaluate(protocol, truths, read).to_json() == expected.to_json()
    assert os.listdir(tmp_path) == [form]


def test_motchallenge_export_and_scoring_is_scoring(
    random_sequence: RandomSequence, tmp_path: Path
) -> None:
    truth, result = random_sequence("m", num_classes=1)
    tracks = _as_stored(result)
    export_tracks(
        "mot17",
        [SequenceTracks(name="m", frame_names=truth.frame_names, tracks=tracks)],
        tmp_path / "out",
    )
    protocol = build_protocol(EvaluationConfig(protocol="mot17"))
    read = BENCHMARKS["mot17"].read_results(tmp_path / "out")
    direct = evaluate(protocol, {"m": truth}, {"m": SequenceResult(name="m", tracks=tracks)})
    assert evaluate(protocol, {"m": truth}, read).to_json() == direct.to_json()


def test_an_archive_holds_the_files_of_the_folder_and_is_reproducible(
    pair: dict[str, tuple[SequenceTruth, SequenceResult]], tmp_path: Path
) -> None:
    for name in ("folder", "first.zip", "second.zip"):
        export_tracks("bdd100k", _sequences(pair), tmp_path / name)
    with zipfile.ZipFile(tmp_path / "first.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    files = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    assert content == files
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()


def test_a_sequence_without_tracks_lists_all_its_frames(tmp_path: Path) -> None:
    empty = SequenceTracks(name="v", frame_names=("a.jpg", "b.jpg"), tracks=Tracks.empty())
    assert export_tracks("bdd100k", [empty], tmp_path / "out") == 0
    frames = json.loads((tmp_path / "out" / "v.json").read_text())
    assert [frame["labels"] for frame in frames] == [[], []]


def test_boxes_without_area_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracks = _tracks([(0, 0, 5, 5), (5, 5, 5, 9)], [0, 0], [1, 2])
    sequence = SequenceTracks(name="v", frame_names=("a.jpg",), tracks=tracks)
    with caplog.at_level(logging.WARNING):
        assert export_tracks("bdd100k", [sequence], tmp_path / "out") == 1
    assert "sequence 'v': 1 of 2 boxes have no area" in caplog.text


@pytest.mark.parametrize("form", ["folder", "one.json", "all.zip"])
def test_nothing_is_replaced_unless_forced(
    form: str, pair: dict[str, tuple[SequenceTruth, SequenceResult]], tmp_path: Path
) -> None:
    out = tmp_path / form
    export_tracks("bdd100k", _sequences(pair)[:1], out)
    with pytest.raises(ValueError, match="exists already"):
        export_tracks("bdd100k", _sequences(pair), out)
    export_tracks("bdd100k", _sequences(pair), out, force=True)
    assert os.listdir(tmp_path) == [form]
    if form != "all.zip":
        assert len(BENCHMARKS["bdd100k"].read_results(out)) == 2


def test_a_failed_export_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").touch()
    twice = SequenceTracks(
        name="v", frame_names=("a.jpg",), tracks=_tracks([(0, 0, 5, 5)] * 2, [0, 0], [1, 1])
    )
    with pytest.raises(ValueError, match="1"):
        export_tracks("bdd100k", [twice], out, force=True)
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(out) == ["precious"]


@pytest.mark.parametrize(
    ("benchmark", "name", "frames", "out", "message"),
    [
        ("bdd100k", "../v", [0], "out", "cannot be the name of a sequence"),
        ("bdd100k", "v", [1], "out", "sequence 'v': tracks in frames 1 to 1, expected 0 to 0"),
        ("mot17", "v", [0], "out.json", "mot17 takes one file per sequence"),
        ("mot17", "v", [0], "out", "are all its classes those of the benchmark"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    benchmark: str, name: str, frames: list[int], out: str, message: str, tmp_path: Path
) -> None:
    """The last one: tracks of class index 2 cannot be pedestrians."""
    sequence = SequenceTracks(
        name=name, frame_names=("a.jpg",), tracks=_tracks([(0, 0, 5, 5)], frames, [1])
    )
    with pytest.raises(ValueError, match=message):
        export_tracks(benchmark, [sequence], tmp_path / out)
    assert os.listdir(tmp_path) == []


def test_nothing_to_export_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sequence to export"):
        export_tracks("bdd100k", [], tmp_path / "out")
