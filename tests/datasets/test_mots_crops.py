"""Maps of instances, windows around them, and the frames that have any."""

from typing import Any

import numpy as np
import pytest

from datasets.masks import encode_mask
from datasets.mots_crops import (
    IGNORE,
    CropWindow,
    crop_windows,
    frames_with_class,
    map_instances,
    renumber,
)
from datasets.schema import Annotations

CAR, PEDESTRIAN, NEITHER = 0, 1, -1
SIZE = (12, 20)


def annotate(*rows: tuple[Any, ...], size: tuple[int, int] = SIZE) -> Annotations:
    """Rows of frame, identity, class index, (top, bottom, left, right), then any of "ignored" and
    "crowd"."""
    masks = []
    for row in rows:
        mask = np.zeros(size, bool)
        top, bottom, left, right = row[3]
        mask[top:bottom, left:right] = True
        masks.append(encode_mask(mask))
    count = len(rows)
    no = np.zeros(count, bool)
    return Annotations(
        frame_index=np.array([row[0] for row in rows], np.int32),
        identity=np.array([row[1] for row in rows], np.int64),
        identity_source=tuple(str(row[1]) for row in rows),
        category=("thing",) * count,
        class_index=np.array([row[2] for row in rows], np.int16),
        boxes_xyxy=np.zeros((count, 4)),
        crowd=np.array(["crowd" in row for row in rows], bool),
        ignored=np.array(["ignored" in row for row in rows], bool),
        occluded=no,
        truncated=no,
        visibility=np.full(count, np.nan, np.float32),
        masks=tuple(masks) if masks else None,
    )


class TestMaps:
    def test_instances_are_numbered_by_identity_and_others_are_background(self) -> None:
        annotations = annotate(
            (0, 1007, CAR, (0, 2, 0, 3)),
            (0, 2001, PEDESTRIAN, (4, 6, 0, 3)),
            (0, 1002, CAR, (8, 10, 0, 3)),
            (0, 5, NEITHER, (4, 6, 5, 8)),
            (0, 10000, NEITHER, (0, 2, 10, 12), "ignored"),
            (0, 10001, CAR, (4, 6, 10, 12), "crowd"),
        )
        instances, identities = map_instances(annotations, CAR, SIZE, "here")
        assert identities.tolist() == [1002, 1007]
        assert instances.dtype == np.uint16
        expected = np.zeros(SIZE, np.uint16)
        expected[8:10, 0:3], expected[0:2, 0:3] = 1, 2
        unaware = expected.copy()
        expected[0:2, 10:12] = expected[4:6, 10:12] = IGNORE
        assert np.array_equal(instances, expected)
        instances, _ = map_instances(annotations, CAR, SIZE, "here", ignore_as_background=True)
        assert np.array_equal(instances, unaware)

    def test_an_instance_covers_an_ignore_region_whatever_the_order(self) -> None:
        instance, region = (0, 1000, CAR, (2, 6, 2, 6)), (0, 9, NEITHER, (0, 12, 0, 20), "ignored")
        for rows in ((instance, region), (region, instance)):
            instances, _ = map_instances(annotate(*rows), CAR, SIZE, "here")
            assert (instances[2:6, 2:6] == 1).all()
            assert (instances == IGNORE).sum() == 12 * 20 - 16

    def test_nothing_is_a_map_of_background(self) -> None:
        instances, identities = map_instances(Annotations.empty(), CAR, SIZE, "here")
        assert not instances.any()
        assert identities.shape == (0,)

    @pytest.mark.parametrize("size", [(20, 12), (12, 21)])
    def test_a_mask_of_another_size_is_refused_by_name(self, size: tuple[int, int]) -> None:
        annotations = annotate((0, 1003, CAR, (0, 2, 0, 2)))
        message = f"frame 3: the mask of '1003' .* 12 x 20 .* has {size[0]} x {size[1]}"
        with pytest.raises(ValueError, match=message):
            map_instances(annotations, CAR, size, "frame 3")


class TestWindows:
    @pytest.mark.parametrize(
        ("box", "window"),
        [
            pytest.param((100, 101, 300, 301), (60, 200, 80, 200), id="in the middle"),
            pytest.param((100, 102, 300, 301), (60, 200, 80, 200), id="half a pixel is cut off"),
            pytest.param((0, 5, 0, 5), (0, 0, 80, 200), id="in the first corner"),
            pytest.param((185, 190, 600, 610), (110, 410, 80, 200), id="in the last corner"),
            pytest.param((0, 190, 0, 610), (54, 204, 80, 200), id="larger than the window"),
        ],
    )
    def test_the_mean_is_the_centre_as_far_as_the_image_goes(
        self, box: tuple[int, ...], window: tuple[int, ...]
    ) -> None:
        instances = np.zeros((190, 610), np.uint16)
        instances[box[0] : box[1], box[2] : box[3]] = 3
        assert list(crop_windows(instances, 80, 200)) == [(3, CropWindow(*window))]

    @pytest.mark.parametrize(
        ("size", "window"),
        [((50, 610), (0, 205, 50, 200)), ((190, 90), (0, 0, 80, 90)), ((9, 9), (0, 0, 9, 9))],
    )
    def test_a_smaller_image_is_taken_whole(
        self, size: tuple[int, int], window: tuple[int, ...]
    ) -> None:
        instances = np.zeros(size, np.uint16)
        middle = size[1] // 2
        instances[2:4, middle - 3 : middle + 4] = 1
        assert list(crop_windows(instances, 80, 200)) == [(1, CropWindow(*window))]

    def test_a_mean_between_two_pieces_may_lie_outside_both(self) -> None:
        instances = np.zeros((40, 400), np.uint16)
        instances[:, :10] = instances[:, 390:] = 1
        ((_, window),) = crop_windows(instances, 40, 100)
        assert window == CropWindow(0, 149, 40, 100)
        assert not instances[window.slices].any()

    def test_every_instance_once_in_order_and_no_ignore_region(self) -> None:
        rng = np.random.default_rng(0)
        instances = rng.choice(np.array([0, 9, 2, 700, IGNORE], np.uint16), (30, 40))
        windows = list(crop_windows(instances, 10, 12))
        assert [number for number, _ in windows] == [2, 9, 700]
        for number, window in windows:
            pixels = [(v, u) for (v, u), n in np.ndenumerate(instances) if n == number]
            mean_v = sum(v for v, _ in pixels) / len(pixels)
            mean_u = sum(u for _, u in pixels) / len(pixels)
            assert window.top == int(min(max(mean_v - 5, 0), 20))
            assert window.left == int(min(max(mean_u - 6, 0), 28))

    def test_no_instance_no_window(self) -> None:
        for value in (0, IGNORE):
            assert list(crop_windows(np.full((5, 5), value, np.uint16), 2, 2)) == []

    def test_numbers_of_a_piece_begin_at_1(self) -> None:
        piece = np.array([[5, 0], [IGNORE, 65534]], np.uint16)
        assert renumber(piece).tolist() == [[1, 0], [IGNORE, 2]]
        assert renumber(np.zeros((2, 3), np.uint16)).tolist() == [[0, 0, 0], [0, 0, 0]]


ANNOTATIONS = {
    "b": annotate((4, 1000, CAR, (0, 1, 0, 1)), (4, 1001, CAR, (2, 3, 0, 1))),
    "a": annotate(
        (0, 2000, PEDESTRIAN, (0, 1, 0, 1)),
        (1, 1000, CAR, (0, 1, 0, 1)),
        (3, 1000, CAR, (0, 1, 0, 1), "ignored"),
        (5, 1000, CAR, (0, 1, 0, 1)),
    ),
    "c": Annotations.empty(),
}


class TestFrames:
    def test_frames_come_by_sequence_and_time(self) -> None:
        assert frames_with_class(ANNOTATIONS, CAR) == [("a", 1), ("a", 5), ("b", 4)]
        assert frames_with_class(ANNOTATIONS, PEDESTRIAN) == [("a", 0)]
        assert frames_with_class(ANNOTATIONS, NEITHER) == []
        assert frames_with_class({}, CAR) == []

    def test_the_release_sees_only_the_first(self) -> None:
        assert frames_with_class(ANNOTATIONS, CAR, first_frames=2) == [("a", 1), ("a", 5)]
        assert len(frames_with_class(ANNOTATIONS, CAR, first_frames=1000)) == 3
        with pytest.raises(ValueError, match="first_frames is 0"):
            frames_with_class(ANNOTATIONS, CAR, first_frames=0)
