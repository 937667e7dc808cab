"""Frame-exact decoding, rotation, broken files, and videos that browsers play."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from datasets import video
from datasets.video import VideoWriter, iterate_frames, probe_video

WIDTH, HEIGHT = 64, 48
NUM_FRAMES = 90

Frame = tuple[int, int, np.ndarray]


def drawing(index: int) -> np.ndarray:
    """A picture that tells its own frame number: the bits of it as bright and dark stripes."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(8):
        image[:, bit * 8 : bit * 8 + 8] = 230 if index >> bit & 1 else 20
    return image


def read_drawing(image: np.ndarray) -> int:
    """Frame number of a decoded drawing."""
    bright = image[HEIGHT // 4 : -HEIGHT // 4].mean(axis=(0, 2)).reshape(8, 8).mean(axis=1) > 125
    return sum(1 << bit for bit in range(8) if bright[bit])


def write_drawings(path: Path, codec: str = "libx264", **options: str) -> Path:
    """Frames that number themselves, as the encoder is told to write them."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = options
        for index in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(drawing(index), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


_OPEN_GROUPS = "open-gop=1:keyint=12:scenecut=0:bframes=4:b-adapt=0"

ENCODINGS: dict[str, tuple[str, dict[str, str]]] = {
    "one key frame": ("a.mp4", {}),
    "key frames every 10": ("a.mp4", {"g": "10"}),
    "every frame a key frame": ("a.mp4", {"g": "1"}),
    "open groups": (
        "a.mp4",
        {"x264-params": _OPEN_GROUPS},
    ),
    "matroska": ("a.mkv", {"g": "10"}),
    "transport stream": ("a.ts", {"g": "10"}),
    "quicktime": ("a.mov", {"g": "10", "bf": "0"}),
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same drawings in every encoding."""
    return {
        case: write_drawings(tmp_path_factory.mktemp("video") / name, **options)
        for case, (name, options) in ENCODINGS.items()
    }


@pytest.fixture(scope="module")
def plain(encoded: dict[str, Path]) -> Path:
    return encoded["key frames every 10"]


class TestExactness:
    @pytest.mark.parametrize("case", ENCODINGS)
    def test_all_frames_in_order(self, encoded: dict[str, Path], case: str) -> None:
        frames = list(iterate_frames(encoded[case]))
        assert [index for index, _, _ in frames] == list(range(NUM_FRAMES))
        assert [read_drawing(image) for _, _, image in frames] == list(range(NUM_FRAMES))

    @pytest.mark.parametrize("case", ENCODINGS)
    def test_every_start_gives_that_very_frame(self, encoded: dict[str, Path], case: str) -> None:
        times = [time for _, time, _ in iterate_frames(encoded[case])]
        for start in range(0, NUM_FRAMES, 3):
            frames = list(iterate_frames(encoded[case], start=start, stop=start + 2))
            expected = list(range(start, min(start + 2, NUM_FRAMES)))
            assert [index for index, _, _ in frames] == expected
            assert [read_drawing(image) for _, _, image in frames] == expected
            assert [time for _, time, _ in frames] == times[start : start + 2]

    def test_steps_count_from_the_start(self, plain: Path) -> None:
        found = [
            (index, read_drawing(image))
            for index, _, image in iterate_frames(plain, start=7, stop=40, step=6)
        ]
        assert found == [(n, n) for n in (7, 13, 19, 25, 31, 37)]

    def test_stops_behind_the_end_and_before_the_start(self, plain: Path) -> None:
        assert len(list(iterate_frames(plain, start=80, stop=1000))) == 10
        assert list(iterate_frames(plain, start=NUM_FRAMES)) == []
        assert list(iterate_frames(plain, start=5000, stop=5010)) == []
        assert list(iterate_frames(plain, start=5, stop=5)) == []
        assert list(iterate_frames(plain, start=5, stop=3)) == []

    def test_what_lies_far_before_is_not_decoded(self, plain: Path) -> None:
        with video._open_stream(plain, None) as stream:
            place = video._find_place(stream, 75)
            assert place is not None
            frames = video._decode_from(stream, place)
            assert frames is not None
            assert read_drawing(next(iter(frames)).to_ndarray(format="rgb24")) == 75
            # The key frame before 75 is 70; 30 frames a second.
            assert place.key_frame * stream.time_base >= Fraction(60, 30)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    def test_a_stream_that_begins_amid_an_open_group(
        self, encoded: dict[str, Path], tmp_path: Path, suffix: str
    ) -> None:
        # Its first pictures lack their references: decoders drop them, so they do not count.
        path = tmp_path / f"cut{suffix}"
        with (
            av.open(str(encoded["open groups"])) as source,
            av.open(str(path), "w") as target,
        ):
            stream = source.streams.video[0]
            copied = target.add_stream_from_template(stream)
            keys = 0
            for packet in source.demux(stream):
                keys += packet.is_keyframe
                if keys > 2 and packet.dts is not None:
                    packet.stream = copied
                    target.mux(packet)
        with av.open(str(path)) as container:
            packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        assert min(packet.pts for packet in packets) < packets[0].pts
        sequential = [read_drawing(image) for _, _, image in iterate_frames(path)]
        assert sequential == list(range(sequential[0], NUM_FRAMES))
        for start in range(1, len(sequential), 5):
            _, _, image = next(iterate_frames(path, start=start))
            assert read_drawing(image) == sequential[start]

    def test_frames_that_an_edit_list_cuts_away_do_not_count(
        self, plain: Path, tmp_path: Path
    ) -> None:
        # What trimming without new encoding leaves: frames that only serve as references.
        path = tmp_path / "trimmed.mp4"
        with av.open(str(plain)) as source, av.open(str(path), "w") as target:
            stream = source.streams.video[0]
            copied = target.add_stream_from_template(stream)
            cut = 5 / (30 * stream.time_base)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.pts, packet.dts = packet.pts - int(cut), packet.dts - int(cut)
                    packet.stream = copied
                    target.mux(packet)
        frames = [(index, read_drawing(image)) for index, _, image in iterate_frames(path)]
        assert frames == [(n, n + 5) for n in range(NUM_FRAMES - 5)]
        for start in range(1, NUM_FRAMES - 5, 7):
            _, _, image = next(iterate_frames(path, start=start))
            assert read_drawing(image) == start + 5

    def test_wrong_ranges_are_errors(self, plain: Path) -> None:
        for start, step in ((-1, 1), (0, 0)):
            with pytest.raises(ValueError, match="expected at least"):
                list(iterate_frames(plain, start=start, step=step))


class TestSamples:
    def test_the_best_stream_is_chosen(self, shared: Path) -> None:
        path = shared / "data/video/nasa_13013.mp4"
        info = probe_video(path)
        assert (info.stream_index, info.width, info.height) == (3, 480, 270)
        assert info.num_frames == 390
        assert info.frame_rate == pytest.approx(30000 / 1001)
        frames = [(index, time) for index, time, _ in iterate_frames(path)]
        assert len(frames) == 390
        # 1001 / 30000 s each, to the microsecond.
        assert frames == [(n, round(n * 1_001_000_000 / 30_000)) for n in range(390)]

    def test_another_stream_can_be_asked_for(self, shared: Path) -> None:
        path = shared / "data/video/nasa_13013.mp4"
        info = probe_video(path, stream_index=0)
        assert (info.width, info.height, info.num_frames, info.frame_rate) == (320, 180, 325, 25.0)
        assert sum(1 for _ in iterate_frames(path, stream_index=0)) == 325
        for wrong in (1, 9):
            with pytest.raises(ValueError, match=f"expected video stream {wrong}"):
                probe_video(path, stream_index=wrong)

    def test_seeking_gives_the_bytes_of_a_decode_from_the_start(self, shared: Path) -> None:
        path = shared / "data/video/nasa_13013.mp4"
        wanted = {n: image.copy() for n, _, image in iterate_frames(path, step=65)}
        for start, image in wanted.items():
            _, _, found = next(iterate_frames(path, start=start))
            np.testing.assert_array_equal(found, image)

    def test_colours_agree_with_another_decoder(self, shared: Path) -> None:
        _, _, image = next(iterate_frames(shared / "data/video/demo.mp4"))
        assert image.shape == (1080, 1920, 3)
        # OpenCV's mean of this frame, says the sample's own page; decoders differ slightly.
        assert image.mean() == pytest.approx(130.0628, abs=0.5)
        assert [time for _, time, _ in iterate_frames(shared / "data/video/demo.mp4")] == [
            round(n * 1_000_000 / 3) for n in range(8)
        ]


def turned(path: Path, matrix: tuple[int, ...]) -> Path:
    """A copy whose track header holds the 2 x 2 display matrix a b c d."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version 0: header, times and ids, layer, volume
    a, b, c, d = (value * 0x10000 for value in matrix)
    struct.pack_into(">iiiiiiiii", data, at, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    copy = path.with_name("turned.mp4")
    copy.write_bytes(data)
    return copy


class TestRotation:
    @pytest.fixture
    def corners(self, tmp_path: Path) -> Path:
        """Red top left, green top right, blue bottom left, black bottom right."""
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[: HEIGHT // 2, : WIDTH // 2, 0] = 255
        image[: HEIGHT // 2, WIDTH // 2 :, 1] = 255
        image[HEIGHT // 2 :, : WIDTH // 2, 2] = 255
        path = tmp_path / "corners.mp4"
        with VideoWriter(path, width=WIDTH, height=HEIGHT, frame_rate=10) as writer:
            for _ in range(3):
                writer.write(image)
        return path

    @pytest.mark.parametrize(
        ("matrix", "degrees", "clockwise_from_top_left"),
        [
            ((1, 0, 0, 1), 0, "rgkb"),
            # QuickTime: x' = a x + c y, y' = b x + d y. A telephone held upright writes this one,
            # which puts the right edge of the stored image at the bottom.
            ((0, 1, -1, 0), 270, "brgk"),
            ((-1, 0, 0, -1), 180, "kbrg"),
            ((0, -1, 1, 0), 90, "gkbr"),
        ],
    )
    def test_images_stand_upright(
        self, corners: Path, matrix: tuple[int, ...], degrees: int, clockwise_from_top_left: str
    ) -> None:
        path = turned(corners, matrix)
        info = probe_video(path)
        assert info.rotation == degrees
        size = (HEIGHT, WIDTH) if degrees % 180 == 0 else (WIDTH, HEIGHT)
        assert (info.height, info.width) == size
        _, _, image = next(iterate_frames(path))
        assert image.shape == (*size, 3)
        assert image.flags.c_contiguous
        found = ""
        for pixel in (image[4, 4], image[4, -4], image[-4, -4], image[-4, 4]):
            found += "rgb"[int(pixel.argmax())] if pixel.max() > 128 else "k"
        assert found == clockwise_from_top_left


def decode_until_error(path: Path, **options: Any) -> tuple[list[int], str]:
    """Drawings given before the error, and what the error says."""
    found: list[int] = []
    with pytest.raises(ValueError, match="mp4") as error:
        for _, _, image in iterate_frames(path, **options):
            found.append(read_drawing(image))
    return found, str(error.value)


class TestBroken:
    @pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.99])
    def test_a_truncated_file_gives_what_it_has_and_says_how_far(
        self, plain: Path, tmp_path: Path, share: float
    ) -> None:
        data = plain.read_bytes()
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[: int(len(data) * share)])
        found, message = decode_until_error(path)
        assert found == list(range(len(found)))
        assert str(path) in message
        expected = f"after frame {len(found) - 1}" if found else "before its first frame"
        assert expected in message

    def test_a_cut_between_two_frames_is_noticed(self, plain: Path, tmp_path: Path) -> None:
        with av.open(str(plain)) as container:
            packets = [p for p in container.demux(container.streams.video[0]) if p.size]
            ends = [packet.pos + packet.size for packet in packets]
        path = tmp_path / "cut.mp4"
        path.write_bytes(plain.read_bytes()[: ends[49]])
        found, message = decode_until_error(path)
        # 50 frames in the order of the file; those that wait for others are not given.
        assert 44 <= len(found) <= 50
        assert found == list(range(len(found)))
        assert f"after frame {len(found) - 1}" in message
        assert "index reaches" in message

    def test_a_frame_that_is_cut_in_two_is_not_given(self, tmp_path: Path) -> None:
        # MPEG-4 Part 2 paints over what is missing and says nothing.
        path = write_drawings(tmp_path / "whole.mp4", codec="mpeg4")
        with av.open(str(path)) as container:
            packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(path.read_bytes()[: packets[36].pos + packets[36].size // 2])
        found, message = decode_until_error(cut)
        assert found == list(range(36))
        assert "after frame 35" in message

    def test_frames_before_the_cut_can_still_be_started_from(
        self, plain: Path, tmp_path: Path
    ) -> None:
        data = plain.read_bytes()
        path = tmp_path / "cut.mp4"
        path.write_bytes(data[: int(len(data) * 0.8)])
        everything, message = decode_until_error(path)
        some, same_message = decode_until_error(path, start=15)
        assert some == everything[15:]
        assert message == same_message
        stopped = [index for index, _, _ in iterate_frames(path, start=15, stop=20)]
        assert stopped == [15, 16, 17, 18, 19]

    def test_damaged_frames_are_given_and_told_of(self, plain: Path, tmp_path: Path) -> None:
        with av.open(str(plain)) as container:
            packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        times = sorted(packet.pts for packet in packets)
        packet = packets[33]  # of a frame that others refer to
        spoiled = times.index(packet.pts)
        end = packet.pos + packet.size
        data = bytearray(plain.read_bytes())
        data[end - 6 : end] = bytes(6)
        path = tmp_path / "damaged.mp4"
        path.write_bytes(data)
        damaged: list[int] = []
        found = [index for index, _, _ in iterate_frames(path, on_damaged=damaged.append)]
        assert found == list(range(NUM_FRAMES))
        assert damaged == [spoiled]
        # One that is decoded but not asked for is told of, too; one before `start` is not.
        for start, expected in ((spoiled - 3, [spoiled]), (spoiled + 1, [])):
            damaged.clear()
            some = iterate_frames(path, start=start, step=5, on_damaged=damaged.append)
            assert [index for index, _, _ in some] == list(range(start, NUM_FRAMES, 5))
            assert damaged == expected

    @pytest.mark.parametrize("content", [b"", b"no video at all", bytes(5000)])
    def test_what_is_no_video_is_named(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x.mp4"
        path.write_bytes(content)
        for read in (probe_video, lambda p: list(iterate_frames(p))):
            with pytest.raises(ValueError, match=r"x\.mp4: cannot be opened"):
                read(path)

    def test_an_absent_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no such file"):
            probe_video(tmp_path / "x.mp4")

    def test_a_file_with_sound_only_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(ValueError, match=r"0 \(audio\), expected a video stream"):
            probe_video(path)


class TestWriter:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "x.mp4"
        with VideoWriter(path, width=WIDTH, height=HEIGHT, frame_rate=30000 / 1001) as writer:
            for index in range(20):
                writer.write(drawing(index))
        assert [read_drawing(image) for _, _, image in iterate_frames(path)] == list(range(20))
        info = probe_video(path)
        assert (info.num_frames, info.width, info.height) == (20, WIDTH, HEIGHT)
        assert info.frame_rate == pytest.approx(30000 / 1001, rel=1e-9)

    def test_browsers_can_play_it(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mp4"
        with VideoWriter(path, width=WIDTH, height=HEIGHT, frame_rate=10) as writer:
            writer.write(drawing(1))
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"

    def test_odd_sizes_are_padded_with_the_edge(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mov"
        image = np.full((33, 51, 3), 200, np.uint8)
        with VideoWriter(path, width=51, height=33, frame_rate=10) as writer:
            writer.write(image)
        _, _, found = next(iterate_frames(path))
        assert found.shape == (34, 52, 3)
        assert found.min() > 190

    def test_an_exception_leaves_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mp4"
        with pytest.raises(KeyboardInterrupt):
            self._interrupt(path)
        assert list(tmp_path.iterdir()) == []

    def test_an_exception_keeps_the_file_that_was_there(self, tmp_path: Path) -> None:
        path = tmp_path / "x.mp4"
        path.write_bytes(b"older")
        with pytest.raises(KeyboardInterrupt):
            self._interrupt(path)
        assert path.read_bytes() == b"older"
        assert list(tmp_path.iterdir()) == [path]

    def _interrupt(self, path: Path) -> None:
        with VideoWriter(path, width=WIDTH, height=HEIGHT, frame_rate=10) as writer:
            for index in range(60):
                writer.write(drawing(index))
            assert not path.exists() or path.read_bytes() == b"older"
            raise KeyboardInterrupt

    def test_a_video_without_images_is_an_error(self, tmp_path: Path) -> None:
        with (
            pytest.raises(ValueError, match="no image was written"),
            VideoWriter(tmp_path / "x.mp4", width=8, height=8, frame_rate=10),
        ):
            pass
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "size", "rate", "message"),
        [
            ("x.avi", (8, 8), 10.0, "expected .mp4 or .mov"),
            ("x", (8, 8), 10.0, "expected .mp4 or .mov"),
            ("x.mp4", (0, 8), 10.0, "size 0 x 8"),
            ("x.mp4", (8, 8), 0.0, "0.0 frames per second"),
            ("x.mp4", (8, 8), float("nan"), "nan frames per second"),
        ],
    )
    def test_wrong_settings_are_errors(
        self, tmp_path: Path, name: str, size: tuple[int, int], rate: float, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            VideoWriter(tmp_path / name, width=size[0], height=size[1], frame_rate=rate)

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((HEIGHT, WIDTH), np.uint8),
            np.zeros((WIDTH, HEIGHT, 3), np.uint8),
            np.zeros((HEIGHT, WIDTH, 3), np.float32),
        ],
    )
    def test_an_image_of_another_shape_is_an_error(self, tmp_path: Path, image: Any) -> None:
        path = tmp_path / "x.mp4"
        with (
            pytest.raises(ValueError, match=r"expected uint8 \(48, 64, 3\)"),
            VideoWriter(path, width=WIDTH, height=HEIGHT, frame_rate=10) as writer,
        ):
            writer.write(image)
