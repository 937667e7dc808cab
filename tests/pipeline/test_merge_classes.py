"""Tracks that were made class by class, as one result."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.masks import Rle, find_overlap, mask_boxes
from datasets.schema import Detections, Tracks
from models.pointtrack.association import PointTrackerConfig
from pipeline.associate import associate, associate_sequence, read_tracks
from pipeline.lineage import check_belongs, frames_of
from pipeline.merge_classes import merge_classes, merge_tracks
from pipeline.store import Artefact
from tests.mask_scene import make_mask_pair, rectangle
from tests.sweep_scene import Stored, store_pairs

CAR, PEDESTRIAN = 0, 1


def tracks(label: int, *rows: tuple[int, int, float, Rle]) -> Tracks:
    """Tracks of a class; each row is (frame, id, score, mask)."""
    frames, ids, scores, masks = zip(*rows, strict=True) if rows else ([], [], [], ())
    return Tracks(
        frame_index=np.array(frames, np.int32),
        track_id=np.array(ids, np.int64),
        detection_row=np.arange(len(rows), dtype=np.int32),
        boxes_xyxy=mask_boxes(masks).astype(np.float32),
        scores=np.array(scores, np.float32),
        class_index=np.full(len(rows), label, np.int16),
        masks=tuple(masks) or None,
    )


BOX = rectangle(0, 0, 10, 10)
FAR = rectangle(40, 0, 50, 10)


def test_ids_are_unique_over_the_classes_and_numbered_as_they_come() -> None:
    cars = tracks(CAR, (1, 7, 0.9, BOX), (2, 7, 0.9, BOX), (2, 3, 0.9, rectangle(0, 20, 9, 30)))
    people = tracks(PEDESTRIAN, (0, 7, 0.8, FAR), (1, 3, 0.8, FAR), (2, 7, 0.8, FAR))
    merged = merge_tracks([cars, people], "one")
    assert merged.frame_index.tolist() == [0, 1, 1, 2, 2, 2]
    assert merged.class_index.tolist() == [1, 0, 1, 0, 0, 1]
    assert merged.track_id.tolist() == [0, 1, 2, 1, 3, 0]
    assert merged.detection_row.tolist() == [-1] * 6
    assert Tracks.from_table(merged.to_table(), where="memory").masks == merged.masks


def test_the_highest_score_keeps_the_pixels_and_the_box_shrinks() -> None:
    left, right = rectangle(0, 0, 10, 10), rectangle(4, 0, 14, 10)
    for score, expected in ((0.9, [[0, 0, 10, 10], [10, 0, 14, 10]]), (0.5, None)):
        merged = merge_tracks(
            [tracks(CAR, (0, 1, score, left)), tracks(PEDESTRIAN, (0, 1, 0.7, right))], "one"
        )
        assert find_overlap(merged.masks or ()) is None
        assert merged.boxes_xyxy.tolist() == (expected or [[0, 0, 4, 10], [4, 0, 14, 10]])


def test_of_equal_scores_the_earlier_part_keeps_the_pixels() -> None:
    one, two = tracks(CAR, (0, 1, 0.5, BOX)), tracks(PEDESTRIAN, (0, 1, 0.5, BOX))
    assert merge_tracks([one, two], "one").class_index.tolist() == [CAR]
    assert merge_tracks([two, one], "one").class_index.tolist() == [PEDESTRIAN]


def test_a_hidden_mask_is_dropped_and_leaves_no_gap_in_the_ids(
    caplog: pytest.LogCaptureFixture,
) -> None:
    people = tracks(PEDESTRIAN, (0, 1, 0.3, rectangle(2, 2, 5, 5)), (0, 2, 0.3, FAR))
    merged = merge_tracks([people, tracks(CAR, (0, 1, 0.9, BOX))], "one")
    assert merged.class_index.tolist() == [PEDESTRIAN, CAR]
    assert merged.track_id.tolist() == [0, 1]
    assert "sequence 'one': 1 of 3 masks are left out" in caplog.text


def test_parts_without_tracks_are_valid() -> None:
    cars = tracks(CAR, (0, 4, 0.9, BOX))
    for parts in ([cars, Tracks.empty()], [tracks(PEDESTRIAN), cars]):
        assert merge_tracks(parts, "one").track_id.tolist() == [0]
    assert len(merge_tracks([Tracks.empty(), Tracks.empty()], "one")) == 0


def test_what_cannot_be_merged_is_refused() -> None:
    cars = tracks(CAR, (0, 1, 0.9, BOX))
    with pytest.raises(ValueError, match="sequence 'one': class 0 is in two of the tracks"):
        merge_tracks([cars, cars], "one")
    boxes = replace(tracks(PEDESTRIAN, (0, 1, 0.9, BOX)), masks=None)
    with pytest.raises(ValueError, match=r"sequence 'one'.* without masks"):
        merge_tracks([cars, boxes], "one")


def of_class(found: Detections, label: int) -> Detections:
    rows = found.class_indices == label
    kept = np.concatenate([[0], np.cumsum(rows)])
    return Detections(
        frame_offsets=kept[found.frame_offsets],
        boxes_xyxy=found.boxes_xyxy[rows],
        scores=found.scores[rows],
        class_indices=found.class_indices[rows],
        embeddings=found.embeddings[rows],
        masks=tuple(mask for mask, kept in zip(found.masks or (), rows, strict=True) if kept),
    )


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Stored, list[Artefact]]:
    """Frames with detections of both classes, and tracks of each class."""
    pairs = {name: make_mask_pair(name) for name in ("0002", "0006")}
    whole = store_pairs(str(tmp_path), pairs, "kitti_mots")
    parts = []
    for label in (CAR, PEDESTRIAN):
        detections = replace(whole.detections, fingerprint=f"{label}" * 16)
        for name, (_, found) in pairs.items():
            with detections.part(name).write() as writer:
                writer.write_arrow("detections.arrow", of_class(found, label).to_table())
        detections.finish(pairs, {"frames": whole.frames.fingerprint})
        parts.append(associate(detections, PointTrackerConfig()))
    return whole, parts


def test_merged_artefacts_have_the_tracks_of_all_classes(
    stored: tuple[Stored, list[Artefact]],
) -> None:
    whole, parts = stored
    merged = merge_classes(parts)
    assert merged.details()["merged"] == [part.fingerprint for part in parts]
    for name in merged.sequences():
        found = read_tracks(merged.part(name))
        # Detections of both classes are disjoint here and come one class after the other.
        expected = associate_sequence(make_mask_pair(name)[1], PointTrackerConfig())
        order = np.lexsort((expected.class_index, expected.frame_index))
        assert found.class_index.tolist() == expected.class_index[order].tolist()
        assert [*(found.masks or ())] == [(expected.masks or ())[row] for row in order.tolist()]
        pairs = set(zip(found.track_id.tolist(), expected.track_id[order].tolist(), strict=True))
        assert len(pairs) == found.track_id.max() + 1 == expected.track_id.max() + 1
    assert merged.details()["num_hidden"] == 0
    assert frames_of(merged) == whole.frames
    check_belongs(whole.frames, merged)


def test_merging_again_does_nothing_and_the_order_is_part_of_the_name(
    stored: tuple[Stored, list[Artefact]],
) -> None:
    _, parts = stored
    merged = merge_classes(parts)
    finished = merged.finished_at()
    assert merge_classes(parts) == merged
    assert merged.finished_at() == finished
    assert merge_classes(parts[::-1]) != merged


def test_tracks_of_other_frames_are_refused(stored: tuple[Stored, list[Artefact]]) -> None:
    whole, (cars, people) = stored
    with pytest.raises(ValueError, match="at least two different tracks"):
        merge_classes([cars])
    with pytest.raises(ValueError, match="at least two different tracks"):
        merge_classes([cars, cars])
    other = replace(whole.detections, fingerprint="9" * 16)
    other.finish(["0002", "0006"], {"frames": "elsewhere"})
    strange = replace(people, fingerprint="8" * 16)
    strange.finish(["0002", "0006"], {"detections": other.fingerprint})
    with pytest.raises(ValueError, match=r"cannot be merged with .* expected the same frames"):
        merge_classes([cars, strange])
