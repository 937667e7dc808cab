"""Variation of images with instance maps: where a crop comes from, and that both go together."""

import numpy as np
import pytest

from datasets.mots_crops import IGNORE
from datasets.mots_transforms import (
    MappedImage,
    pad_to,
    random_brightness,
    random_crop,
    random_flip,
)

HEIGHT, WIDTH = 20, 30


def numbered(height: int = HEIGHT, width: int = WIDTH) -> MappedImage:
    """Every pixel says where it is: row and column in the image, and both in the map."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows + columns], axis=2).astype(np.uint8)
    return MappedImage(image, (100 * rows + columns).astype(np.uint16))


def assert_belongs_together(sample: MappedImage) -> None:
    rows, columns = sample.image[..., 0].astype(int), sample.image[..., 1]
    assert np.array_equal(sample.instances, 100 * rows + columns)


def grey(value: int) -> MappedImage:
    return MappedImage(
        np.full((8, 8, 3), value, np.uint8), np.arange(64, dtype=np.uint16).reshape(8, 8)
    )


class TestCrop:
    def test_it_lies_anywhere_inside(self) -> None:
        rng = np.random.default_rng(0)
        corners = set()
        for _ in range(300):
            crop = random_crop(numbered(), 17, 26, rng)
            assert crop.image.shape == (17, 26, 3)
            assert crop.instances.shape == (17, 26)
            assert_belongs_together(crop)
            corners.add((int(crop.image[0, 0, 0]), int(crop.image[0, 0, 1])))
        # 20 - 17 + 1 rows times 30 - 26 + 1 columns
        assert corners == {(top, left) for top in range(4) for left in range(5)}

    def test_a_window_of_the_whole_image_is_the_image(self) -> None:
        crop = random_crop(numbered(), HEIGHT, WIDTH, np.random.default_rng(0))
        assert np.array_equal(crop.image, numbered().image)
        assert np.array_equal(crop.instances, numbered().instances)

    def test_a_smaller_image_is_extended_and_nothing_is_taught_there(self) -> None:
        crop = random_crop(numbered(), 24, 40, np.random.default_rng(0))
        assert np.array_equal(crop.image[:HEIGHT, :WIDTH], numbered().image)
        assert np.array_equal(crop.instances[:HEIGHT, :WIDTH], numbered().instances)
        assert crop.instances.dtype == np.uint16
        assert (crop.instances[HEIGHT:] == IGNORE).all()
        assert (crop.instances[:, WIDTH:] == IGNORE).all()
        assert (crop.image[HEIGHT:, :WIDTH] == numbered().image[-1]).all()
        assert (crop.image[:HEIGHT, WIDTH:] == numbered().image[:, -1:]).all()
        assert (crop.image[HEIGHT:, WIDTH:] == numbered().image[-1, -1]).all()

    def test_one_side_may_be_too_small(self) -> None:
        crop = random_crop(numbered(), 24, 16, np.random.default_rng(0))
        assert crop.image.shape == (24, 16, 3)
        assert_belongs_together(MappedImage(crop.image[:HEIGHT], crop.instances[:HEIGHT]))
        assert (crop.instances[HEIGHT:] == IGNORE).all()

    def test_it_follows_from_its_generator(self) -> None:
        first, again, other = (
            random_crop(numbered(), 8, 8, np.random.default_rng(seed)) for seed in (3, 3, 4)
        )
        assert np.array_equal(first.image, again.image)
        assert not np.array_equal(first.image, other.image)


def test_an_image_that_is_large_enough_is_not_padded() -> None:
    sample = numbered()
    assert pad_to(sample, HEIGHT, WIDTH) is sample
    assert pad_to(sample, 8, 8) is sample


class TestFlip:
    def test_image_and_map_are_mirrored_together(self) -> None:
        flipped = random_flip(numbered(), 1.0, np.random.default_rng(0))
        assert_belongs_together(flipped)
        assert flipped.image[0, 0].tolist() == [0, WIDTH - 1, WIDTH - 1]
        assert flipped.instances[3, 0] == 300 + WIDTH - 1

    @pytest.mark.parametrize(
        ("probability", "low", "high"), [(0, 0, 0), (0.5, 440, 560), (1, 1000, 1000)]
    )
    def test_its_share(self, probability: float, low: int, high: int) -> None:
        rng, sample = np.random.default_rng(0), numbered(2, 3)
        count = sum(
            int(random_flip(sample, probability, rng).image[0, 0, 1] == 2) for _ in range(1000)
        )
        assert low <= count <= high


class TestBrightness:
    def factors(self, value: int, num: int = 2000) -> dict[float, int]:
        rng, counts = np.random.default_rng(0), {}
        for _ in range(num):
            varied = random_brightness(grey(value), rng)
            assert np.array_equal(varied.instances, grey(value).instances)
            assert varied.image.dtype == np.uint8
            assert len(np.unique(varied.image)) == 1
            factor = round(int(varied.image[0, 0, 0]) / value, 3)
            counts[factor] = counts.get(factor, 0) + 1
        return counts

    def test_a_quarter_is_made_brighter_and_a_quarter_darker(self) -> None:
        counts = self.factors(100)
        assert sorted(counts) == [0.5, 0.6, 0.7, 1.0, 1.5, 1.6, 1.7, 1.8, 1.9]
        brighter = sum(n for factor, n in counts.items() if factor > 1)
        darker = sum(n for factor, n in counts.items() if factor < 1)
        assert 440 <= brighter <= 560
        assert 440 <= darker <= 560

    @pytest.mark.parametrize("value", [20, 76, 179, 250])  # 76 / 255 is 0.298, 179 / 255 is 0.702
    def test_dark_and_bright_images_stay(self, value: int) -> None:
        assert set(self.factors(value, 100)) == {1.0}

    @pytest.mark.parametrize("value", [77, 178])
    def test_images_just_inside_vary(self, value: int) -> None:
        assert len(self.factors(value, 100)) > 3

    def test_white_is_the_end(self) -> None:
        assert max(self.factors(150, 300)) == round(255 / 150, 3)

    def test_grey_is_that_of_rgb(self) -> None:
        """Pure red has a grey of 0.299, pure blue of 0.114, and only 0.3 to 0.7 varies."""
        red, blue, green = (np.zeros((8, 8, 3), np.uint8) for _ in range(3))
        red[..., 0], red[..., 1] = 255, 20  # 0.299 + 0.587 * 20 / 255 = 0.345
        blue[..., 2], blue[..., 1] = 255, 20  # 0.160
        green[..., 1] = 255  # 0.587
        ids = np.zeros((8, 8), np.uint16)
        for image, varies in ((red, True), (blue, False), (green, True)):
            rng, sample = np.random.default_rng(0), MappedImage(image, ids)
            images = {random_brightness(sample, rng).image.tobytes() for _ in range(50)}
            assert (len(images) > 1) == varies

    def test_a_mirrored_view_is_taken(self) -> None:
        sample = MappedImage(numbered().image[:, ::-1] + np.uint8(90), numbered().instances)
        assert random_brightness(sample, np.random.default_rng(0)).image.shape == (HEIGHT, WIDTH, 3)
