"""Channel order, normalisation and padding, against arithmetic done here pixel by pixel."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.preprocess import normalise_batch
from models.qdtrack.config import InputConfig, QDTrackConfig


def _image(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rgb_input_meets_its_own_mean() -> None:
    batch, sizes = normalise_batch([_image(32, 64)], InputConfig())
    red, green, blue = _image(32, 64)[5, 7].tolist()
    expected = [(red - 123.675) / 58.395, (green - 116.28) / 57.12, (blue - 103.53) / 57.375]
    assert batch.shape == (1, 3, 32, 64)
    assert batch.dtype == torch.float32
    assert batch[0, :, 5, 7].tolist() == pytest.approx(expected, rel=1e-5)
    assert sizes.tolist() == [[32, 64]]
    assert sizes.dtype == torch.int64


def test_bgr_input_meets_the_mean_written_for_red_with_blue() -> None:
    """The vis4d weights were trained with the channels swapped and the means left in RGB order."""
    batch, _ = normalise_batch([_image(32, 32)], QDTrackConfig.vis4d().input)
    red, green, blue = _image(32, 32)[3, 4].tolist()
    expected = [(blue - 123.675) / 58.395, (green - 116.28) / 57.12, (red - 103.53) / 57.375]
    assert batch[0, :, 3, 4].tolist() == pytest.approx(expected, rel=1e-5)


def test_epsilon_is_added_to_the_standard_deviation() -> None:
    config = InputConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), std_epsilon=1.0)
    batch, _ = normalise_batch([_image(32, 32)], config)
    assert batch[0, :, 0, 0].tolist() == [value / 2 for value in _image(32, 32)[0, 0].tolist()]


def test_padding_is_zero_after_normalisation_at_right_and_bottom() -> None:
    black = np.zeros((720, 1280, 3), np.uint8)
    batch, sizes = normalise_batch([black, _image(40, 33)], InputConfig())
    assert batch.shape == (2, 3, 736, 1280)
    assert sizes.tolist() == [[720, 1280], [40, 33]]
    assert batch[0, :, 720:].abs().max() == 0
    assert batch[0, :, :720].abs().min() > 1  # black is not zero once normalised
    assert batch[1, :, 40:].abs().max() == 0
    assert batch[1, :, :, 33:].abs().max() == 0


def test_float_images_and_read_only_views_are_taken_as_they_are() -> None:
    image = _image(32, 32)
    frozen = image[::-1]
    frozen.setflags(write=False)
    whole, _ = normalise_batch([image], InputConfig())
    as_float, _ = normalise_batch([image.astype(np.float32)], InputConfig())
    flipped, _ = normalise_batch([frozen], InputConfig())
    assert torch.equal(whole, as_float)
    assert torch.equal(whole, flipped.flip(2))
    assert np.array_equal(image, _image(32, 32))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"image 0 has shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"image 0 has shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"image 0 has shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float64), "image 0 is float64"),
    ],
    ids=["grey", "with alpha", "no rows", "double precision"],
)
def test_other_images_are_refused(image: npt.NDArray[np.uint8], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise_batch([image], InputConfig())


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="empty batch"):
        normalise_batch([], InputConfig())
