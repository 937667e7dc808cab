"""Video files: frame-exact decoding with timestamps and rotation, and writing of H.264.

PyAV brings its own FFmpeg and is imported inside the functions that need it. Frames are counted in
presentation order from 0, as a decoder gives them that starts at the beginning of the file.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_SUFFIXES: Final = (".mp4", ".mov")

_REORDER_MARGIN: Final = 64
"""Packets read beyond a frame to be sure of its place: H.264 and HEVC reorder at most 16."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video file says of the stream that is decoded."""

    stream_index: int
    width: int
    """Of the upright image, after rotation."""
    height: int
    num_frames: int | None
    """Promised by the container, None where it does not say; only decoding tells for sure."""
    frame_rate: float
    """Average frames per second."""
    rotation: int
    """Degrees counterclockwise by which stored images are turned to stand upright: 0, 90 ..."""


def probe_video(path: Path, *, stream_index: int | None = None) -> VideoInfo:
    """Facts about a video; its first frame is decoded.

    Raises:
        ValueError: the file cannot be opened, has no such stream, or its first frame is broken.
    """
    with _open_stream(path, stream_index) as stream:
        first = next(_number(stream, _decode(stream), path, 0, None), None)
        if first is None:
            raise ValueError(f"{path}: the video has no frame")
        frame = first[2]
        quarters = _quarter_turns(frame, path)
        size = (frame.width, frame.height)
        width, height = size[::-1] if quarters % 2 else size
        return VideoInfo(
            stream_index=stream.index,
            width=width,
            height=height,
            num_frames=stream.frames or None,
            frame_rate=float(stream.average_rate or stream.guessed_rate),
            rotation=90 * quarters,
        )


def iterate_frames(
    path: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    step: int = 1,
    stream_index: int | None = None,
    on_damaged: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, int, Image]]:
    """Frames `start`, `start + step` ... before `stop`, exactly as decoding from 0 gives them.

    Args:
        path: Any video that FFmpeg reads.
        start: First frame; what lies before its key frame is not decoded.
        stop: Frame to end before, None for all; a video that is shorter just ends.
        step: Distance of the frames given; those between are decoded but not converted.
        stream_index: Stream of the container, None for the one it calls its best.
        on_damaged: Called with the index of every decoded frame whose data is damaged, before that
            frame is given; its image shows what the decoder could make of it.

    Yields:
        Frame index, time in microseconds since the first frame, and the upright image, uint8
        (H, W, 3) RGB.

    Raises:
        ValueError: the file cannot be read, or is cut short or broken further on; the frames before
            have been given then, but for the last few, and the message names the last one given.
    """
    if start < 0 or step < 1:
        raise ValueError(f"start is {start} and step {step}, expected at least 0 and 1")
    if stop is not None and stop <= start:
        return
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    for index, timestamp_us, frame in _frames_from(path, start, stream_index):
        if frame.is_corrupt and on_damaged is not None:
            on_damaged(index)
        if (index - start) % step == 0:
            # One thread: tasks of other sequences run on the other cores.
            rgb = reformatter.reformat(frame, format="rgb24", threads=1)
            image = cast(Image, rgb.to_ndarray())
            yield index, timestamp_us, _upright(image, _quarter_turns(frame, path))
        if stop is not None and index + 1 >= stop:
            return


class VideoWriter:
    """Writes RGB images as H.264 that every browser plays; the file appears when it is complete.

    Use as a context manager. An exception inside leaves neither the file nor a part of it.
    """

    def __init__(self, path: Path, *, width: int, height: int, frame_rate: float) -> None:
        """Open a new video.

        Args:
            path: File to write; the suffix (.mp4 or .mov) says which container.
            width: Of the images to come; an odd size is widened by repeating the last column.
            height: Likewise.
            frame_rate: Frames per second.

        Raises:
            ValueError: a size or rate that is not positive, or another suffix.
        """
        import av

        if path.suffix not in _SUFFIXES:
            raise ValueError(f"{path}: cannot be written, expected {' or '.join(_SUFFIXES)}")
        if width < 1 or height < 1 or not 0 < frame_rate < float("inf"):
            raise ValueError(
                f"{path}: size {width} x {height} at {frame_rate} frames per second, expected "
                "positive numbers"
            )
        self._path = path
        self._shape = (height, width, 3)
        self._is_empty = True
        self._unfinished = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        # The index in front of the data, so that playing starts before all is fetched.
        options = {"movflags": "+faststart"}
        self._container = av.open(str(self._unfinished), "w", options=options)
        rate = Fraction(frame_rate).limit_denominator(100_000)
        self._stream = self._container.add_stream("libx264", rate=rate)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import av

        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(av.FFmpegError):  # told of already, where it matters
                self._container.close()
            self._unfinished.unlink(missing_ok=True)

    def write(self, image: Image) -> None:
        """Append one image, uint8 (H, W, 3) RGB.

        Raises:
            ValueError: another size than the video's.
        """
        import av

        if image.shape != self._shape or image.dtype != np.uint8:
            raise ValueError(
                f"{self._path}: an image is {image.dtype} {image.shape}, expected uint8 "
                f"{self._shape}"
            )
        height, width, _ = self._shape
        if height % 2 or width % 2:  # yuv420p halves both sizes
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._container.mux(self._stream.encode(frame))
        self._is_empty = False

    def _finish(self) -> None:
        if self._is_empty:
            raise ValueError(f"{self._path}: no image was written, expected at least one")
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._unfinished.replace(self._path)


class _CutShortError(ValueError):
    """The file ends before the data that its own index promises."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a frame lies, in units of the stream's time base."""

    origin: int
    """Presentation time of frame 0."""
    target: int
    """Presentation time of the frame looked for."""
    key_frame: int
    """Decoding time of the last key frame that is not presented after the target."""


@contextmanager
def _open_stream(path: Path, stream_index: int | None) -> Iterator[Any]:
    """The video stream to decode, its file open."""
    import av

    if not path.is_file():  # FFmpeg would also take addresses and devices
        raise ValueError(f"{path}: no such file")
    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be opened as a video ({error.strerror})") from error
    with container:
        stream = container.streams.best("video")
        if stream_index is not None:
            stream = next((s for s in container.streams.video if s.index == stream_index), None)
        if stream is None:
            found = ", ".join(f"{s.index} ({s.type})" for s in container.streams) or "none"
            wanted = "a video stream" if stream_index is None else f"video stream {stream_index}"
            raise ValueError(f"{path}: the streams are {found}, expected {wanted}")
        stream.codec_context.thread_count = 1
        yield stream


def _frames_from(
    path: Path, start: int, stream_index: int | None
) -> Iterator[tuple[int, int, Any]]:
    """Index, time and decoded frame, from `start` to the end of the file."""
    if start:
        with _open_stream(path, stream_index) as stream:
            place = _find_place(stream, start)
            frames = _decode_from(stream, place) if place else None
            if place and frames:
                yield from _number(stream, frames, path, start, place.origin)
                return
    # No way to jump there: count from the beginning, which also finds where a file breaks.
    with _open_stream(path, stream_index) as stream:
        for index, timestamp_us, frame in _number(stream, _decode(stream), path, 0, None):
            if index >= start:
                yield index, timestamp_us, frame


def _find_place(stream: Any, index: int) -> _Place | None:
    """Read packets, without decoding, up to frame `index`; None where they do not tell enough."""
    import av

    times: list[int] = []
    keys: list[tuple[int, int]] = []
    try:
        for packet in stream.container.demux(stream):
            if packet.size == 0:  # the end of the file
                continue
            if packet.pts is None:
                return None
            if packet.is_keyframe:  # Matroska leaves decoding times out, and seeks by the other
                keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
            if not packet.is_discard:
                times.append(packet.pts)
            if len(times) > index + _REORDER_MARGIN:
                break
    except av.FFmpegError:
        return None
    # What is presented before the first key frame lacks its references, so decoders drop it.
    times = sorted(time for time in times if keys and time >= keys[0][0])
    if len(times) <= index or len(set(times)) < len(times):
        return None
    target = times[index]
    key_frame = max(key for key in keys if key[0] <= target)
    return _Place(origin=times[0], target=target, key_frame=key_frame[1])


def _decode_from(stream: Any, place: _Place) -> Iterator[Any] | None:
    """Frames from the place on, None if jumping there does not give that very frame."""
    import av

    try:
        stream.container.seek(place.key_frame, stream=stream)
        frames = _decode(stream)
        first = next((f for f in frames if f.pts is not None and f.pts >= place.target), None)
    except (av.FFmpegError, _CutShortError):
        return None
    if first is None or first.pts != place.target:
        return None
    return chain([first], frames)


def _decode(stream: Any) -> Iterator[Any]:
    """Frames in presentation order.

    Where the file breaks, the few frames that the decoder still holds are lost: frames that belong
    between them may be missing, so that nobody could tell their numbers.

    Raises:
        av.FFmpegError: the data cannot be decoded.
        _CutShortError: the file ends too early.
    """
    for packet in stream.container.demux(stream):
        if packet.is_corrupt:
            raise _CutShortError("the file ends in the middle of a frame")
        if packet.size == 0:
            _check_complete(stream)
        yield from packet.decode()


def _check_complete(stream: Any) -> None:
    """A file that is cut exactly between two frames just ends: only its index knows better."""
    size = os.path.getsize(stream.container.name)
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > size:
        raise _CutShortError(f"the file has {size} bytes, its index reaches to byte {end}")


def _number(
    stream: Any, frames: Iterator[Any], path: Path, index: int, origin: int | None
) -> Iterator[tuple[int, int, Any]]:
    """Count frames from `index` on and tell the time of each; names the file where it breaks."""
    import av

    try:
        for frame in frames:
            origin = frame.pts if origin is None else origin
            yield index, _microseconds(stream, frame, index, origin), frame
            index += 1
    except (av.FFmpegError, _CutShortError) as error:
        reached = f"after frame {index - 1}" if index else "before its first frame"
        raise ValueError(f"{path}: the video is broken or cut short {reached} ({error})") from error


def _microseconds(stream: Any, frame: Any, index: int, origin: int | None) -> int:
    if frame.pts is None or origin is None:  # raw streams carry no times
        time_s = index / (stream.average_rate or stream.guessed_rate)
    else:
        time_s = (frame.pts - origin) * stream.time_base
    microseconds: int = round(time_s * 1_000_000)
    return microseconds


def _quarter_turns(frame: Any, path: Path) -> int:
    """Quarter turns counterclockwise that the file asks players to make, 0 to 3."""
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        raise ValueError(
            f"{path}: asks to be turned by {frame.rotation} degrees, expected a multiple of 90; "
            "write it again without rotation"
        )
    return int(turns) % 4


def _upright(image: Image, quarter_turns: int) -> Image:
    return image if quarter_turns == 0 else np.ascontiguousarray(np.rot90(image, quarter_turns))
