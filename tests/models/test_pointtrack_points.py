"""Points of instances: both window rules, the order of values, draws; a plain loop as referee."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.pointtrack.points import InstanceCrop, crop_points, frame_points, instance_crops

TABLE = np.array(
    [
        [0.9479751586914062, 0.4561353325843811, 0.16707628965377808],
        [0.1, -0.1, 0.1],
        [0.5455077290534973, -0.6193588972091675, -2.629554510116577],
        [-0.1, 0.1, -0.1],
    ]
)
BACKGROUND_VALUES, OTHER_VALUES = (row.astype(np.float32).tolist() for row in TABLE[[0, 2]])


def reference_frame(
    image: np.ndarray, instances: np.ndarray, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """The rule of tracking, instance by instance; cannot do those on the last row or column."""
    height, width = instances.shape
    points, positions = np.zeros((0, 1500, 8), np.float32), np.zeros((0, 4), np.float32)
    for number in sorted(set(instances.ravel().tolist()) - {0}):
        mask = instances == number
        rows, columns = np.where(mask)
        v0, v1, u0, u1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        more_v, more_u = int(0.2 * (v1 - v0)), int(0.2 * (u1 - u0))
        top, bottom = max(0, v0 - more_v), min(v1 + more_v, height - 1)
        left, right = max(0, u0 - more_u), min(u1 + more_u, width - 1)
        categories = (instances > 0) * 2
        categories[mask] = 1
        values = all_values(
            image[top:bottom, left:right],
            mask[top:bottom, left:right],
            categories[top:bottom, left:right],
        )
        own, others = values
        chosen = np.zeros((1500, 8))
        chosen[:1000] = own[rng.choice(len(own), 1000)]
        if len(others):
            chosen[1000:] = others[rng.choice(len(others), 500)]
        position = np.array([[u0 / 1242, v0 / 375, (u1 - 1) / 1242, (v1 - 1) / 375]])
        points = np.concatenate([points, chosen[None].astype(np.float32)])
        positions = np.concatenate([positions, position.astype(np.float32)])
    return points, positions


def reference_crop(
    crop: InstanceCrop, rng: np.random.RandomState, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """The rule of training for a stored crop."""
    own, others = all_values(crop.image_bgr, crop.mask == 1, crop.categories)
    chosen = np.zeros((1500, 8))
    if noise and len(others):
        others[:, 3] += rng.normal(0, noise, len(others))
        others[:, 4] += rng.normal(0, noise, len(others))
    if len(others):
        chosen[1000:] = others[rng.choice(len(others), 500)]
    if noise:
        own[:, 3] += rng.normal(0, noise, len(own))
        own[:, 4] += rng.normal(0, noise, len(own))
    chosen[:1000] = own[rng.choice(len(own), 1000)]
    rows, columns = np.where(crop.mask)
    v, u = rows + crop.start[0], columns + crop.start[1]
    position = [u.min() / 1242, v.min() / 375, u.max() / 1242, v.max() / 375]
    return chosen.astype(np.float32), np.array(position).astype(np.float32)


def all_values(
    image: np.ndarray, mask: np.ndarray, categories: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """float64 values of every pixel of a window: the instance's own, and the others."""
    rows, columns = np.indices(mask.shape)
    values = np.concatenate(
        [
            image / 255.0,
            ((rows - rows[mask].mean()) / 128)[..., None],
            ((columns - columns[mask].mean()) / 128)[..., None],
            np.where(mask[..., None], 0, TABLE[categories]),
        ],
        axis=2,
    )
    return values[mask], values[~mask]


def scene(
    seed: int, height: int, width: int, num_boxes: int, dtype: str = "i4"
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, some over others, up to the borders, each with a pixel that every window shows."""
    rng = np.random.default_rng(seed)
    instances = np.zeros((height, width), dtype)
    for number in rng.permutation(2 * num_boxes)[:num_boxes] + 1:
        top, left = rng.integers(0, (height - 1, width - 1))
        rows, columns = rng.integers(1, (height // 3 + 2, width // 3 + 2))
        instances[top : top + rows, left : left + columns] = number
    inner = instances[:-1, :-1]
    for number in np.setdiff1d(instances, inner):
        instances[instances == number] = 0
    return rng.integers(0, 256, (height, width, 3), np.uint8), instances


def same_bits(
    found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]
) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        assert ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()


def places(points: np.ndarray, centre: tuple[float, float]) -> set[tuple[int, int]]:
    """Pixels, as (v, u) in the coordinates of the centre, that points were drawn from."""
    pixels = np.round(points[:, 3:5].astype(float) * 128 + centre).astype(int)
    return set(map(tuple, pixels.tolist()))


def block(rows: range, columns: range) -> set[tuple[int, int]]:
    return {(v, u) for v in rows for u in columns}


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


class TestFrame:
    @pytest.mark.parametrize("dtype", ["u1", "i2", ">u2", "i4", "i8", "u8"])
    def test_bits_are_those_of_the_plain_loop(self, dtype: str) -> None:
        image, instances = scene(0, 375, 1242, 15, dtype)
        assert len(np.unique(instances)) > 10
        same_bits(
            frame_points(image, instances, np.random.RandomState(0)),
            reference_frame(image, instances, np.random.RandomState(0)),
        )

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 1 << 30), st.integers(2, 40), st.integers(2, 40), st.integers(0, 8))
    def test_bits_are_those_of_the_plain_loop_for_any_frame(
        self, seed: int, height: int, width: int, num_boxes: int
    ) -> None:
        image, instances = scene(seed, height, width, num_boxes)
        ours, theirs = np.random.RandomState(seed), np.random.RandomState(seed)
        for _ in range(2):  # the second frame goes on where the first one stopped
            same_bits(
                frame_points(image, instances, ours), reference_frame(image, instances, theirs)
            )
        assert ours.randint(1 << 30) == theirs.randint(1 << 30)

    def test_views_of_images_give_the_same(self) -> None:
        image, instances = scene(1, 30, 40, 5)
        rgb = np.ascontiguousarray(image[..., ::-1])
        same_bits(
            frame_points(rgb[..., ::-1], np.asfortranarray(instances), np.random.RandomState(0)),
            frame_points(image, instances, np.random.RandomState(0)),
        )

    def test_values_of_a_point_in_their_order(self) -> None:
        image, instances = black(100, 200), np.zeros((100, 200), np.int32)
        image[:] = (255, 51, 0)  # blue, green, red
        instances[40:45, 100:111] = 1
        instances[40, 99] = 2
        points, positions = frame_points(image, instances, np.random.RandomState(0))
        own, around = points[0, :1000], points[0, 1000:]
        assert (points[0, :, :3] == np.float32([1, 0.2, 0])).all()
        assert {round(float(v) * 128, 3) for v in own[:, 3]} == {-2, -1, 0, 1, 2}  # v comes first
        assert {round(float(u) * 128, 3) for u in own[:, 4]} == set(range(-5, 6))
        assert (own[:, 5:] == 0).all()
        is_other = (np.round(around[:, 3:5] * 128) == (-2, -6)).all(axis=1)
        assert 0 < is_other.sum() < 100
        assert (around[is_other, 5:] == np.float32(OTHER_VALUES)).all()
        assert (around[~is_other, 5:] == np.float32(BACKGROUND_VALUES)).all()
        # KITTI's size, though this image has another one; the last pixel, not the one after it.
        expected = [100 / 1242, 40 / 375, 110 / 1242, 44 / 375]
        assert positions[0].tolist() == np.float32(expected).tolist()

    def test_window_is_a_fifth_larger_by_the_count_of_pixels(self) -> None:
        instances = np.zeros((60, 60), np.int32)
        instances[20:30, 20:35] = 1  # 10 x 15: 2 rows and 3 columns more on each side
        points, _ = frame_points(black(60, 60), instances, np.random.RandomState(0))
        centre = (24.5, 27.0)
        own = block(range(20, 30), range(20, 35))
        assert places(points[0, :1000], centre) == own
        drawn = places(points[0, 1000:], centre)
        assert drawn <= block(range(18, 32), range(17, 38)) - own
        for axis, limits in ((0, (18, 31)), (1, (17, 37))):
            assert (min(p[axis] for p in drawn), max(p[axis] for p in drawn)) == limits

    def test_last_row_and_column_are_never_seen(self) -> None:
        instances = np.zeros((20, 30), np.int32)
        instances[15:20, 20:30] = 1
        points, positions = frame_points(black(20, 30), instances, np.random.RandomState(0))
        centre = (16.5, 24.0)  # of rows 15 to 18 and columns 20 to 28
        assert places(points[0, :1000], centre) == block(range(15, 19), range(20, 29))
        drawn = places(points[0, 1000:], centre)
        assert max(v for v, _ in drawn) == 18
        assert max(u for _, u in drawn) == 28
        # The position is that of the whole mask.
        assert (
            positions[0].tolist() == np.float32([20 / 1242, 15 / 375, 29 / 1242, 19 / 375]).tolist()
        )

    @pytest.mark.parametrize(
        ("rows", "columns", "window"),
        [
            (slice(19, 20), slice(5, 15), block(range(19, 20), range(3, 17))),
            (slice(4, 14), slice(29, 30), block(range(2, 16), range(29, 30))),
            (slice(19, 20), slice(29, 30), block(range(19, 20), range(29, 30))),
        ],
        ids=["last row", "last column", "last pixel"],
    )
    def test_instance_on_the_last_row_or_column_alone(
        self, rows: slice, columns: slice, window: set[tuple[int, int]]
    ) -> None:
        """The release stops with an error there; others must not notice."""
        instances = np.zeros((20, 30), np.int32)
        instances[rows, columns] = 1
        own = set(map(tuple, np.argwhere(instances).tolist()))
        centre = tuple(np.argwhere(instances).mean(axis=0))
        points, _ = frame_points(black(20, 30), instances, np.random.RandomState(0))
        assert places(points[0, :1000], centre) == own
        if window > own:
            assert places(points[0, 1000:], centre) == window - own
        else:
            assert (points[0, 1000:] == 0).all()

    def test_instance_around_the_last_corner(self) -> None:
        instances = np.zeros((20, 30), np.int32)
        instances[19, 20:] = instances[10:, 29] = 1
        points, _ = frame_points(black(20, 30), instances, np.random.RandomState(0))
        own = np.argwhere(instances)
        assert places(points[0, :1000], tuple(own.mean(axis=0))) == set(map(tuple, own.tolist()))

    def test_window_without_environment_gives_zeros_and_draws_nothing(self) -> None:
        image, instances = scene(3, 20, 30, 0)
        instances[:] = 9
        rng, expected = np.random.RandomState(5), np.random.RandomState(5)
        points, _ = frame_points(image, instances, rng)
        assert (points[0, 1000:] == 0).all()
        assert (points[0, :1000, :5] != 0).any(axis=1).all()
        expected.choice(19 * 29, 1000)
        assert rng.randint(1 << 30) == expected.randint(1 << 30)

    def test_a_single_pixel_is_its_own_window(self) -> None:
        image, instances = scene(3, 20, 30, 0)
        instances[7, 8] = 1
        points, _ = frame_points(image, instances, np.random.RandomState(5))
        assert (points[0, :1000, :3] == (image[7, 8] / 255).astype(np.float32)).all()
        assert (points[0, :1000, 3:] == 0).all()
        assert (points[0, 1000:] == 0).all()

    def test_rows_are_in_ascending_order_of_the_numbers(self) -> None:
        instances = np.zeros((50, 50), np.int64)
        for number, v in ((1 << 40, 3), (70_000, 13), (5, 23), (1003, 33)):
            instances[v : v + 4, 10:30] = number
        image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
        points, positions = frame_points(image, instances, np.random.RandomState(0))
        assert np.round(positions[:, 1] * 375).tolist() == [23, 33, 13, 3]
        small = np.unique(instances, return_inverse=True)[1].reshape(50, 50)
        same_bits((points, positions), frame_points(image, small, np.random.RandomState(0)))

    def test_more_instances_than_a_byte_counts(self) -> None:
        instances = np.zeros((60, 110), np.uint16)
        numbers = np.arange(1, 261).reshape(13, 20)
        instances[: 13 * 4, : 20 * 5] = np.kron(numbers, np.ones((4, 5), np.uint16))
        image = np.random.default_rng(0).integers(0, 256, (60, 110, 3), np.uint8)
        found = frame_points(image, instances, np.random.RandomState(0))
        assert found[0].shape == (260, 1500, 8)
        same_bits(found, reference_frame(image, instances, np.random.RandomState(0)))

    @pytest.mark.parametrize("shape", [(375, 1242), (0, 0), (1, 1)])
    def test_empty_map_gives_nothing_and_draws_nothing(self, shape: tuple[int, int]) -> None:
        rng = np.random.RandomState(0)
        points, positions = frame_points(black(*shape), np.zeros(shape, np.uint8), rng)
        assert points.shape == (0, 1500, 8)
        assert positions.shape == (0, 4)
        assert points.dtype == positions.dtype == np.float32
        assert rng.randint(1 << 30) == np.random.RandomState(0).randint(1 << 30)

    def test_other_numbers_of_points(self) -> None:
        image, instances = scene(1, 30, 40, 3)
        points, _ = frame_points(
            image, instances, np.random.RandomState(0), num_points=20, num_environment_points=7
        )
        assert points.shape[1:] == (27, 8)
        assert (points[:, :20, 5:] == 0).all()
        assert (points[:, 20:, 5:] != 0).all()

    @pytest.mark.parametrize(
        ("image", "instances", "message"),
        [
            (np.zeros((4, 5, 3)), np.zeros((4, 5), int), "float64"),
            (np.zeros((4, 5), np.uint8), np.zeros((4, 5), int), r"\(H, W, 3\)"),
            (black(4, 5), np.zeros((4, 5)), "float64"),
            (black(4, 5), np.zeros((5, 4), int), r"\(4, 5\)"),
            (black(4, 5), np.zeros((4, 5, 1), int), r"\(4, 5\)"),
            (black(4, 5), np.full((4, 5), -3), "-3"),
        ],
    )
    def test_wrong_input_is_named(
        self, image: np.ndarray, instances: np.ndarray, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            frame_points(image, instances, np.random.RandomState(0))


class TestStoredCrops:
    def test_window_is_a_fifth_larger_by_the_distance_of_its_edges(self) -> None:
        """Rows 20 to 29 are 9 apart: 1 more on each side, where tracking takes 2."""
        image, instances = scene(2, 60, 60, 0)
        instances[20:30, 20:36] = 1003
        instances[30, 17] = 1001
        one, crop = instance_crops(image, instances)
        assert (one.identity, crop.identity) == (1001, 1003)
        assert crop.start == (19, 17)
        assert crop.mask.shape == crop.categories.shape == (12, 22)
        np.testing.assert_array_equal(crop.image_bgr, image[19:31, 17:39])
        np.testing.assert_array_equal(crop.mask, instances[19:31, 17:39] == 1003)
        expected = np.zeros((12, 22), np.uint8)
        expected[1:11, 3:19] = 1
        expected[11, 0] = 2
        np.testing.assert_array_equal(crop.categories, expected)
        assert crop.mask.dtype == crop.categories.dtype == crop.image_bgr.dtype == np.uint8

    def test_last_row_and_column_are_part_of_it(self) -> None:
        image, instances = scene(2, 20, 30, 0)
        instances[9:20, 19:30] = 1
        (crop,) = instance_crops(image, instances)
        assert crop.start == (7, 17)
        assert crop.mask.shape == (13, 13)
        assert crop.mask[-1, -1] == 1

    def test_first_row_and_column_stop_it(self) -> None:
        image, instances = scene(2, 20, 30, 0)
        instances[1:12, 0:11] = 1
        (crop,) = instance_crops(image, instances)
        assert crop.start == (0, 0)
        assert crop.mask.shape == (14, 13)

    def test_pixels_are_of_its_own(self) -> None:
        image, instances = scene(2, 20, 30, 3)
        crops = instance_crops(image, instances)
        before = [crop.image_bgr.copy() for crop in crops]
        image[:] = 0
        for crop, pixels in zip(crops, before, strict=True):
            np.testing.assert_array_equal(crop.image_bgr, pixels)

    def test_empty_map_gives_none(self) -> None:
        assert instance_crops(black(20, 30), np.zeros((20, 30), int)) == []

    def test_tracking_and_training_see_other_windows(self) -> None:
        """One pixel of convention decides the bits of points: neither rule may do for both."""
        instances = np.zeros((60, 60), np.int32)
        instances[20:30, 20:35] = 1
        (crop,) = instance_crops(black(60, 60), instances)
        stored, position = crop_points(crop, np.random.RandomState(0), offset_noise=0)
        tracked, positions = frame_points(black(60, 60), instances, np.random.RandomState(0))
        reach = [
            (np.abs(points[1000:, 3:5]).max(axis=0) * 128).round(3).tolist()
            for points in (stored, tracked[0])
        ]
        assert reach == [[5.5, 9], [6.5, 10]]
        assert position.tolist() == positions[0].tolist()


class TestPointsOfCrops:
    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 1 << 30),
        st.integers(2, 40),
        st.integers(2, 40),
        st.integers(1, 6),
        st.sampled_from([0.0, 0.001, 0.5]),
    )
    def test_bits_are_those_of_the_plain_rule(
        self, seed: int, height: int, width: int, num_boxes: int, noise: float
    ) -> None:
        ours, theirs = np.random.RandomState(seed), np.random.RandomState(seed)
        for crop in instance_crops(*scene(seed, height, width, num_boxes)):
            same_bits(
                crop_points(crop, ours, offset_noise=noise), reference_crop(crop, theirs, noise)
            )
        assert ours.randint(1 << 30) == theirs.randint(1 << 30)

    def test_published_noise_is_the_default(self) -> None:
        (crop,) = instance_crops(*scene(5, 40, 40, 1))
        same_bits(
            crop_points(crop, np.random.RandomState(1)),
            reference_crop(crop, np.random.RandomState(1), 0.001),
        )

    def test_environment_is_drawn_before_the_foreground(self) -> None:
        crop = self._crop(np.array([[1, 0, 0, 0]]))
        rng, expected = np.random.RandomState(0), np.random.RandomState(0)
        points, _ = crop_points(crop, rng, offset_noise=0)
        drawn = expected.choice(3, 500) + 1
        assert (np.round(points[1000:, 4] * 128) == drawn).all()

    def test_category_of_padding(self) -> None:
        crop = self._crop(np.array([[1, 3, 2, 0]]))
        points, _ = crop_points(crop, np.random.RandomState(0), offset_noise=0)
        column = np.round(points[1000:, 4] * 128)
        for distance, category in ((1, 3), (2, 2), (3, 0)):
            assert (points[1000:][column == distance, 5:] == TABLE[category].astype("f4")).all()

    def test_crop_without_environment_gives_zeros(self) -> None:
        points, _ = crop_points(self._crop(np.ones((3, 4), int)), np.random.RandomState(0))
        assert (points[1000:] == 0).all()
        assert (points[:1000, 3:5] != 0).any()

    def test_empty_mask_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"identity 7 at \(2, 3\)"):
            crop_points(self._crop(np.zeros((3, 4), int)), np.random.RandomState(0))

    @staticmethod
    def _crop(categories: np.ndarray) -> InstanceCrop:
        return InstanceCrop(
            identity=7,
            start=(2, 3),
            image_bgr=black(*categories.shape),
            mask=(categories == 1).astype(np.uint8),
            categories=categories.astype(np.uint8),
        )
