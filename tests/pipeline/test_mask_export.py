"""Submissions of masks: disjoint before they are written, ids of their own, and read back."""

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.masks import decode_mask, find_overlap
from datasets.registry import BENCHMARKS
from datasets.schema import SequenceResult, Tracks
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate
from pipeline.export import SequenceTracks, export_tracks
from pipeline.mask_export import make_masks_disjoint, with_own_ids
from tests.mots_files import Object, random_scene, rectangle, strip, tracks_of, truth_of

NUM_FRAMES = 25


def _pixels(tracks: Tracks) -> list[set[int]]:
    return [set(np.flatnonzero(decode_mask(mask)[0]).tolist()) for mask in tracks.masks or ()]


def test_a_pixel_stays_with_the_mask_of_the_highest_score() -> None:
    objects = [Object(0, 1, 0, strip(0, 10)), Object(0, 2, 1, strip(5, 20))]
    objects += [Object(0, 3, 0, strip(18, 30)), Object(1, 1, 0, strip(0, 10))]
    found = make_masks_disjoint(tracks_of(objects, [0.5, 0.9, 0.7, 0.1]), "0001")
    expected = [range(5), range(5, 20), range(20, 30), range(10)]
    assert _pixels(found) == [set(pixels) for pixels in expected]
    assert found.track_id.tolist() == [1, 2, 3, 1]
    assert found.boxes_xyxy.tolist() == [[0, 0, 5, 1], [5, 0, 20, 1], [20, 0, 30, 1], [0, 0, 10, 1]]


def test_disjoint_masks_stay_as_they_are() -> None:
    tracks = tracks_of(random_scene(3, NUM_FRAMES)[1])
    found = make_masks_disjoint(tracks, "0001")
    assert found.masks == tracks.masks
    np.testing.assert_array_equal(found.boxes_xyxy, tracks.boxes_xyxy)


def test_masks_of_which_nothing_is_left_are_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    objects = [Object(4, 1, 0, strip(2, 8)), Object(4, 2, 0, strip(0, 10))]
    with caplog.at_level(logging.WARNING):
        found = make_masks_disjoint(tracks_of(objects, [0.5, 0.9]), "0007")
    assert found.track_id.tolist() == [2]
    assert "sequence '0007': 1 of 2 masks are left out" in caplog.text


def test_boxes_alone_cannot_be_made_disjoint() -> None:
    tracks = tracks_of([Object(0, 1, 0, strip(2, 8))])
    boxes = Tracks(**{**vars(tracks), "masks": None})
    with pytest.raises(ValueError, match="sequence '0001': holds boxes without masks"):
        make_masks_disjoint(boxes, "0001")


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0, 7), (1, 9), (0, 7)], [7, 9, 7]),
        ([(0, 7), (1, 7), (0, 7), (1, 3)], [1, 3, 1, 2]),  # two classes share an id
        ([(0, 0), (1, 5)], [1, 2]),  # not positive
        ([], []),
    ],
)
def test_ids_are_positive_and_of_one_class(
    pairs: list[tuple[int, int]], expected: list[int]
) -> None:
    objects = [Object(f, track, label, strip(0, 5)) for f, (label, track) in enumerate(pairs)]
    assert with_own_ids(tracks_of(objects)).track_id.tolist() == expected


def _sequence(name: str, tracks: Tracks, num_frames: int = NUM_FRAMES) -> SequenceTracks:
    names = tuple(f"{index:06d}.png" for index in range(num_frames))
    return SequenceTracks(name=name, frame_names=names, tracks=tracks)


def _overlapping_tracks(seed: int, class_ids: tuple[int, ...] = (1, 2)) -> Tracks:
    """Tracks that overlap and share ids over classes, in no order of frames."""
    rng = np.random.default_rng(seed)
    objects = random_scene(seed, NUM_FRAMES, class_ids)[1]
    objects += [
        Object(one.frame, one.identity + 3000, one.class_index, rectangle(10, 10, 30, 50))
        for one in objects[::11]
    ]
    unique = {(one.frame, one.identity, one.class_index): one for one in objects}
    rows = rng.permutation(len(unique))
    return tracks_of([*unique.values()], rng.uniform(0.5, 1, len(unique))).select(rows)


@pytest.mark.parametrize(
    ("benchmark", "class_ids"),
    [
        ("kitti_mots", (1, 2)),
        ("apollo_mots", (1,)),
        ("mots_challenge", (2,)),
        ("bdd100k_mots", (1, 2)),
    ],
)
def test_exporting_and_scoring_is_scoring(
    benchmark: str, class_ids: tuple[int, ...], tmp_path: Path
) -> None:
    names = ("0002", "0006")
    sequences = [
        _sequence(name, _overlapping_tracks(seed, class_ids)) for seed, name in enumerate(names)
    ]
    truths = {
        name: truth_of(random_scene(seed, NUM_FRAMES, class_ids)[0], NUM_FRAMES, name=name)
        for seed, name in enumerate(names)
    }
    num_masks = export_tracks(benchmark, sequences, tmp_path / "out")
    read = BENCHMARKS[benchmark].read_results(tmp_path / "out")
    assert num_masks == sum(len(result.tracks) for result in read.values())
    for result in read.values():
        for frame in range(NUM_FRAMES):
            rows = result.tracks.select(result.tracks.frame_index == frame)
            assert find_overlap(rows.masks or ()) is None
    protocol = build_protocol(EvaluationConfig(protocol=benchmark))
    direct = {
        one.name: SequenceResult(
            name=one.name, tracks=with_own_ids(make_masks_disjoint(one.tracks, one.name))
        )
        for one in sequences
    }
    found, expected = (evaluate(protocol, truths, results) for results in (read, direct))
    assert found.to_json() == expected.to_json()


@pytest.mark.parametrize(
    ("benchmark", "line"),
    [("kitti_mots", "3 7 2 48 96 "), ("mots_challenge", "4 7 2 48 96 ")],
)
def test_lines_and_numbers_of_frames(benchmark: str, line: str, tmp_path: Path) -> None:
    classes = BENCHMARKS[benchmark].classes
    tracks = tracks_of([Object(3, 7, classes.index("pedestrian"), strip(0, 5))])
    sequences = [_sequence("0001", tracks), _sequence("0002", Tracks.empty())]
    assert export_tracks(benchmark, sequences, tmp_path / "out") == 1
    counts = strip(0, 5)["counts"].decode()
    assert (tmp_path / "out" / "0001.txt").read_text() == f"{line}{counts}\n"
    assert (tmp_path / "out" / "0002.txt").read_bytes() == b""


def test_bdd100k_has_masks_in_place_of_boxes(tmp_path: Path) -> None:
    tracks = tracks_of([Object(1, 7, 2, strip(0, 5))], [0.5])
    sequences = [_sequence("a", tracks, 2)]
    export_tracks("bdd100k_mots", sequences, tmp_path / "out")
    export_tracks("bdd100k_mots", sequences, tmp_path / "all.json")
    frames = json.loads((tmp_path / "out" / "a.json").read_text())
    assert json.loads((tmp_path / "all.json").read_text()) == frames
    mask = {"counts": strip(0, 5)["counts"].decode(), "size": [48, 96]}
    assert [frame["labels"] for frame in frames] == [
        [],
        [{"id": "7", "category": "car", "score": 0.5, "rle": mask}],
    ]


def test_an_archive_holds_the_files_of_the_folder(tmp_path: Path) -> None:
    sequences = [_sequence("0002", _overlapping_tracks(1)), _sequence("0006", Tracks.empty())]
    for name in ("folder", "all.zip"):
        export_tracks("kitti_mots", sequences, tmp_path / name)
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert content == {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}


@pytest.mark.parametrize(
    ("benchmark", "changes", "message"),
    [
        ("kitti_mots", {"masks": None}, "sequence '0001': holds boxes without masks"),
        ("bdd100k_mots", {"masks": None}, "sequence '0001': holds boxes without masks"),
        ("kitti_mots", {"frame_index": np.array([NUM_FRAMES], np.int32)}, "tracks in frames 25"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    benchmark: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tracks = tracks_of([Object(3, 7, 0, strip(0, 5))])
    with pytest.raises(ValueError, match=message):
        export_tracks(
            benchmark,
            [_sequence("0001", Tracks(**{**vars(tracks), **changes}))],
            tmp_path / "out",
        )
    assert list(tmp_path.iterdir()) == []
