"""Decoding, header sizes and encoding of images, and what broken ones do."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.images import decode_image, encode_jpeg, image_size


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth colours, odd sizes, channels that differ."""
    noise = np.random.default_rng(0).integers(0, 255, (7, 11, 3), dtype=np.uint8)
    return cv2.resize(noise, (123, 45))


def png(picture: np.ndarray) -> bytes:
    """PNG bytes of an RGB picture."""
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class TestDecode:
    def test_png_is_exact_and_in_rgb_order(self, picture: np.ndarray) -> None:
        decoded = decode_image(png(picture))
        assert decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, picture)

    def test_jpeg_equals_another_decoder(self, picture: np.ndarray) -> None:
        data = encode_jpeg(picture, 90)
        other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        decoded = decode_image(data)
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, other)

    def test_a_real_png(self, shared: Path) -> None:
        data = (shared / "data/kitti_tracking_sample/image_02/0001/000000.png").read_bytes()
        assert decode_image(data).shape == (375, 1242, 3)
        assert image_size(data) == (375, 1242)

    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    def test_grey_becomes_three_channels(self, picture: np.ndarray, suffix: str) -> None:
        data = cv2.imencode(suffix, picture[..., 0])[1].tobytes()
        decoded = decode_image(data)
        assert decoded.shape == (45, 123, 3)
        assert (decoded[..., 0] == decoded[..., 1]).all()
        assert (decoded[..., 0] == decoded[..., 2]).all()

    def test_alpha_is_dropped(self, picture: np.ndarray) -> None:
        with_alpha = np.dstack([picture[..., ::-1], np.full((45, 123), 7, np.uint8)])
        data = cv2.imencode(".png", with_alpha)[1].tobytes()
        np.testing.assert_array_equal(decode_image(data), picture)

    def test_an_orientation_tag_is_not_applied(self, picture: np.ndarray) -> None:
        # Labels are made on the stored pixels.
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
        data = encode_jpeg(picture, 90)
        tagged = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
        assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape[0] == 123
        np.testing.assert_array_equal(decode_image(tagged), decode_image(data))
        assert image_size(tagged) == (45, 123)

    def test_every_cut_of_a_jpeg_is_an_error(self, picture: np.ndarray) -> None:
        data = encode_jpeg(picture, 90)
        for length in [*range(0, len(data) - 2, 97), len(data) - 2, len(data) - 1]:
            with pytest.raises(ValueError, match="JPEG"):
                decode_image(data[:length])

    def test_every_cut_of_a_png_is_an_error(self, picture: np.ndarray) -> None:
        data = png(picture)
        for length in [*range(0, len(data), 997), len(data) - 12, len(data) - 1]:
            with pytest.raises(ValueError, match="PNG"):
                decode_image(data[:length])

    def test_corrupt_pngs_are_errors_and_not_crashes(self, picture: np.ndarray) -> None:
        # torchvision 0.29.2 ends the process with a segmentation fault on both.
        data = bytearray(png(picture))
        data[len(data) // 2] ^= 0xFF
        with pytest.raises(ValueError, match="corrupt"):
            decode_image(bytes(data))
        rows = b"".join(b"\x09" + row.tobytes() for row in picture)
        header = struct.pack(">IIBBBBB", 123, 45, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        whole = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)
        with pytest.raises(ValueError, match="corrupt"):
            decode_image(whole)

    @pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(50), b"not an image", bytes(100)])
    def test_other_formats_are_errors(self, data: bytes) -> None:
        for read in (decode_image, image_size):
            with pytest.raises(ValueError, match="expected a whole JPEG or PNG"):
                read(data)


class TestSize:
    @pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
    def test_jpeg(self, picture: np.ndarray, flags: list[int]) -> None:
        data = cv2.imencode(".jpg", picture, flags)[1].tobytes()
        assert image_size(data) == (45, 123)

    def test_png(self, picture: np.ndarray) -> None:
        assert image_size(png(picture)) == (45, 123)

    def test_the_header_is_enough(self, picture: np.ndarray) -> None:
        assert image_size(png(picture)[:24]) == (45, 123)
        data = encode_jpeg(picture, 90)
        start = data.index(b"\xff\xc0")
        assert image_size(data[: start + 9]) == (45, 123)
        with pytest.raises(ValueError, match="expected a whole"):
            image_size(data[: start + 8])

    def test_restart_markers_and_padding_are_stepped_over(self, picture: np.ndarray) -> None:
        data = encode_jpeg(picture, 90)
        assert image_size(data[:2] + b"\xff\xff\xff\xd0" + data[2:]) == (45, 123)


class TestEncode:
    def test_higher_quality_is_closer_and_larger(self, picture: np.ndarray) -> None:
        low, high = encode_jpeg(picture, 30), encode_jpeg(picture, 98)
        errors = [
            float(np.abs(decode_image(d).astype(float) - picture).mean()) for d in (low, high)
        ]
        assert len(low) < len(high)
        assert errors[1] < errors[0]
        assert errors[1] < 3

    def test_a_view_is_encoded_like_its_copy(self, picture: np.ndarray) -> None:
        assert encode_jpeg(picture[:, ::-1], 90) == encode_jpeg(picture[:, ::-1].copy(), 90)

    @pytest.mark.parametrize(
        ("image", "quality", "message"),
        [
            (np.zeros((4, 4), np.uint8), 90, r"\(4, 4\)"),
            (np.zeros((4, 4, 4), np.uint8), 90, r"\(4, 4, 4\)"),
            (np.zeros((4, 4, 3), np.float32), 90, "float32"),
            (np.zeros((0, 4, 3), np.uint8), 90, r"\(0, 4, 3\)"),
            (np.zeros((4, 4, 3), np.uint8), 0, "quality is 0"),
            (np.zeros((4, 4, 3), np.uint8), 101, "quality is 101"),
        ],
    )
    def test_wrong_input_is_named(self, image: np.ndarray, quality: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            encode_jpeg(image, quality)
