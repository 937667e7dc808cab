"""Usable boxes, resizing and the augmentation of pairs, against numbers worked out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datasets.schema import Annotations
from datasets.transforms import (
    AugmentConfig,
    TrainingTargets,
    View,
    augment_pair,
    resize_keep_ratio,
    select_targets,
)

SIZES = np.array([[720, 1280], [720, 1280]])


def annotations(boxes: list[list[float]], **columns: Any) -> Annotations:
    count = len(boxes)
    values: dict[str, Any] = {
        "frame_index": np.zeros(count, np.int32),
        "identity": np.arange(count) + 100,
        "identity_source": tuple(str(i) for i in range(count)),
        "category": ("car",) * count,
        "class_index": np.full(count, 2, np.int16),
        "boxes_xyxy": np.array(boxes, np.float64).reshape(-1, 4),
        "crowd": np.zeros(count, bool),
        "ignored": np.zeros(count, bool),
        "occluded": np.zeros(count, bool),
        "truncated": np.zeros(count, bool),
        "visibility": np.full(count, np.nan, np.float32),
    }
    return Annotations(**(values | columns))


def one_box(box: list[float], **columns: Any) -> TrainingTargets:
    return select_targets(
        annotations([box], **{k: np.array([v]) for k, v in columns.items()}), SIZES
    )


@pytest.mark.parametrize(
    ("box", "columns", "is_kept"),
    [
        pytest.param([10, 10, 50, 40], {}, True, id="a plain box"),
        pytest.param([10, 10, 50, 40], {"ignored": True}, False, id="ignored"),
        pytest.param([10, 10, 50, 40], {"crowd": True}, False, id="a crowd"),
        pytest.param([10, 10, 50, 40], {"class_index": np.int16(-1)}, False, id="unmapped"),
        pytest.param([10, 10, 50, 40], {"occluded": True}, True, id="occluded"),
        pytest.param([10, 10, 11, 11], {}, True, id="exactly one pixel"),
        pytest.param([10, 10, 10.9, 40], {}, False, id="narrower than a pixel"),
        pytest.param([10, 10, 40, 10.9], {}, False, id="lower than a pixel"),
        pytest.param([50, 10, 10, 40], {}, False, id="edges swapped"),
        pytest.param([-30, 10, 0, 40], {}, False, id="touches the image from outside"),
        pytest.param([-30, 10, 0.5, 40], {}, True, id="half a pixel inside"),
        pytest.param([1280, 10, 1300, 40], {}, False, id="right of the image"),
        pytest.param([10, 720, 40, 760], {}, False, id="below the image"),
        pytest.param([np.nan, 10, 40, 60], {}, False, id="not a number"),
    ],
)
def test_which_boxes_are_trained_on(
    box: list[float], columns: dict[str, Any], is_kept: bool
) -> None:
    assert len(one_box(box, **columns).boxes_xyxy) == int(is_kept)


def test_targets_keep_rows_frames_and_full_boxes() -> None:
    boxes = [[-5.5, 0, 20, 30], [1, 1, 2, 1.5], [100, 100, 200, 200]]
    found = select_targets(annotations(boxes, frame_index=np.array([0, 0, 1], np.int32)), SIZES)
    assert found.frame_offsets.tolist() == [0, 1, 2]
    assert found.boxes_xyxy.tolist() == [[-5.5, 0, 20, 30], [100, 100, 200, 200]]
    assert found.boxes_xyxy.dtype == np.float32
    assert found.identities.tolist() == [100, 102]
    assert found.class_indices.tolist() == [2, 2]
    assert (found.rows(1), found.num_frames) == (slice(1, 2), 2)


def test_image_size_is_that_of_the_boxs_own_frame() -> None:
    boxes = annotations([[500, 10, 600, 50]] * 2, frame_index=np.array([0, 1], np.int32))
    found = select_targets(boxes, np.array([[720, 1280], [300, 400]]))
    assert found.frame_offsets.tolist() == [0, 1, 1]


def test_boxes_of_a_still_are_numbered_within_their_frame() -> None:
    frames = np.array([0, 0, 0, 1, 1], np.int32)
    boxes = annotations([[1, 1, 9, 9]] * 5, frame_index=frames, identity=np.zeros(5, np.int64))
    boxes.ignored[1] = True
    assert select_targets(boxes, SIZES, is_still=True).identities.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        # long and short limit; BDD100K frames stay as they are under (1296, 720)
        pytest.param((720, 1280), (1296, 720), (720, 1280), id="short side decides, r = 1"),
        pytest.param((1080, 1920), (1088, 1088), (612, 1088), id="long side decides"),
        pytest.param((480, 640), (1088, 1088), (816, 1088), id="scaled up"),
        pytest.param((5, 10), (15, 100), (8, 15), id="7.5 rounds half up"),
        pytest.param((100, 151), (60, 40), (40, 60), id="150.999.. rounds to the limit"),
        pytest.param((2, 1000), (100, 100), (1, 100), id="never to nothing"),
    ],
)
def test_size_after_resizing(
    size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]
) -> None:
    image, scale = resize_keep_ratio(
        np.zeros((*size, 3), np.uint8), long_side=limits[0], short_side=limits[1]
    )
    assert image.shape == (*expected, 3)
    assert scale.dtype == np.float32
    assert scale.tolist() == [
        np.float32(expected[1] / size[1]),
        np.float32(expected[0] / size[0]),
    ]


def test_unchanged_size_does_not_touch_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (72, 128, 3), np.uint8)
    assert resize_keep_ratio(image, long_side=130, short_side=72)[0] is image


def test_resizing_is_bilinear_with_half_pixel_centres() -> None:
    # Output pixel i reads input (i + 0.5) / 2 - 0.5: -0.25 (edge), 0.25, 0.75, 1.25 (edge).
    row = np.array([[0, 100], [0, 100]], np.uint8)
    image, _ = resize_keep_ratio(np.stack([row] * 3, axis=2), long_side=4, short_side=4)
    assert image[0, :, 0].tolist() == [0, 25, 75, 100]


def test_shrinking_does_not_smooth() -> None:
    # A quarter of the size reads input 1.5 and 5.5 only: the white pixel at 3 leaves no trace.
    row = np.zeros((8, 8, 3), np.uint8)
    row[:, 3] = 255
    image, _ = resize_keep_ratio(row, long_side=2, short_side=2)
    assert image.max() == 0


def key_view() -> View:
    image = np.random.default_rng(1).integers(0, 256, (20, 40, 3), np.uint8)
    return View(image, np.array([[2, 4, 12, 10], [0, 0, 40, 20]], np.float32))


NOTHING = AugmentConfig(flip_probability=0.0)


def augment(key: View, reference: View, config: AugmentConfig, seed: int = 0) -> tuple[View, View]:
    rng = np.random.default_rng(seed)
    return augment_pair(key, reference, config, long_side=80, short_side=40, rng=rng)


def test_boxes_follow_the_resize() -> None:
    key, _ = augment(key_view(), key_view(), NOTHING)
    assert key.image.shape == (40, 80, 3)
    assert key.boxes_xyxy.tolist() == [[4, 8, 24, 20], [0, 0, 80, 40]]
    assert key.boxes_xyxy.dtype == np.float32


def test_boxes_follow_the_flip() -> None:
    key, reference = augment(key_view(), key_view(), AugmentConfig(flip_probability=1.0))
    plain, _ = augment(key_view(), key_view(), NOTHING)
    assert key.boxes_xyxy.tolist() == [[80 - 24, 8, 80 - 4, 20], [0, 0, 80, 40]]
    np.testing.assert_array_equal(key.image, plain.image[:, ::-1])
    np.testing.assert_array_equal(reference.image, key.image)


def test_boxes_are_clipped_and_keep_an_area() -> None:
    boxes = np.array([[-10, -10, 5, 5], [39.999999, 3, 60, 9]], np.float32)
    key, _ = augment(key_view()._replace(boxes_xyxy=boxes), key_view(), NOTHING)
    assert key.boxes_xyxy[0].tolist() == [0, 0, 10, 10]
    # float32 rounds 39.999999 to the edge of the image: a box without area would train to NaN.
    assert key.boxes_xyxy[1].tolist() == [80 - 2**-6, 6, 80, 18]


def test_no_boxes_stay_no_boxes() -> None:
    empty = key_view()._replace(boxes_xyxy=np.zeros((0, 4), np.float32))
    key, _ = augment(empty, empty, AugmentConfig(flip_probability=1.0))
    assert key.boxes_xyxy.shape == (0, 4)


EVERYTHING = AugmentConfig(min_scale=0.5, max_scale=1.5, photometric=True)


def test_both_images_share_every_parameter() -> None:
    flips, sizes = set(), set()
    for seed in range(40):
        plain = augment(key_view(), key_view(), replace(EVERYTHING, flip_probability=0.0), seed)[0]
        key, reference = augment(key_view(), key_view(), EVERYTHING, seed)
        np.testing.assert_array_equal(key.image, reference.image)
        np.testing.assert_array_equal(key.boxes_xyxy, reference.boxes_xyxy)
        flips.add(not np.array_equal(key.boxes_xyxy, plain.boxes_xyxy))
        sizes.add(key.image.shape)
    assert flips == {True, False}
    assert len(sizes) > 10


def test_scale_stays_in_its_range_and_never_crosses_the_limits() -> None:
    config = AugmentConfig(min_scale=0.5, max_scale=1.0)
    heights = [
        augment(key_view(), key_view(), config, seed)[0].image.shape[0] for seed in range(60)
    ]
    assert 20 <= min(heights) <= 22
    assert 38 <= max(heights) <= 40


def test_a_still_stays_identical_to_itself() -> None:
    view = key_view()
    key, reference = augment(view, view, EVERYTHING, seed=3)
    assert key is reference


def test_same_generator_state_gives_the_same_pair() -> None:
    first = augment(key_view(), key_view(), EVERYTHING, seed=5)
    second = augment(key_view(), key_view(), EVERYTHING, seed=5)
    np.testing.assert_array_equal(first[0].image, second[0].image)


def test_photometric_distortion_is_one_of_its_published_steps() -> None:
    """A grey image knows neither saturation nor hue nor channel order: (v + b) * c is left."""
    grey = View(np.full((40, 80, 3), 100, np.uint8), np.zeros((0, 4), np.float32))
    config = replace(NOTHING, photometric=True)
    values = set()
    for seed in range(300):
        key, _ = augment(grey, grey, config, seed)
        assert key.image.dtype == np.float32
        assert np.ptp(key.image) < 1e-3
        values.add(round(float(key.image[0, 0, 0]), 3))
    untouched = sum(value == 100 for value in values)
    assert untouched == 1
    assert 34 <= min(values) < 50  # (100 - 32) * 0.5 at the least
    assert 150 < max(values) <= 198  # above 100 * 1.5 only with brightness, to (100 + 32) * 1.5


def test_hue_turns_by_at_most_18_degrees_and_channels_swap() -> None:
    import cv2

    red = View(np.full((40, 80, 3), (200, 50, 50), np.uint8), np.zeros((0, 4), np.float32))
    config = replace(NOTHING, photometric=True)
    hues = []
    for seed in range(300):
        key, _ = augment(red, red, config, seed)
        hsv = cv2.cvtColor(np.ascontiguousarray(key.image), cv2.COLOR_RGB2HSV)
        hues.append(float((hsv[0, 0, 0] + 60) % 120 - 60))  # red, green or blue by channel order
    assert 14 < max(hues) <= 18.001
    assert -18.001 <= min(hues) < -14


@pytest.mark.parametrize(
    ("field", "value"),
    [("flip_probability", 1.1), ("min_scale", 0.0), ("max_scale", 0.5), ("max_scale", np.inf)],
)
def test_config_refuses_what_makes_no_sense(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        AugmentConfig(**{field: value})
