"""Ingesting one segment of one sequence: a pure function of its source, safe to run twice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from datasets.images import decode_image, encode_jpeg
from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, Problem, SequenceSource, SequenceTruth, concatenate
from datasets.video import iterate_frames, probe_video
from pipeline.files import FileRecord
from pipeline.frames import ANNOTATIONS_FILE, Frame, FramesFile, frames_file_name
from pipeline.store import Artefact

FRAMES_PER_SEGMENT: Final = 1800
"""Longer sequences are cut, so that several workers decode one long video: a minute at 30 fps."""


_MEMBERS: Final = "members"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Frames `start` to `stop` of one sequence; `stop` is None for the rest of it."""

    source: SequenceSource
    index: int
    num_segments: int
    start: int
    stop: int | None


@dataclass(kw_only=True)
class Outcome:
    """What became of one segment; broken input is reported here, it never raises."""

    sequence: str
    segment: int
    num_segments: int
    files: list[FileRecord] = field(default_factory=list)
    num_frames: int = 0
    broken_frames: list[int] = field(default_factory=list)
    """Frames that cannot be decoded: stored with an empty image."""
    details: dict[str, Any] = field(default_factory=dict)
    """What is the same for all segments of the sequence."""
    problems: list[Problem] = field(default_factory=list)
    is_lost: bool = False
    """The whole sequence is left out."""


def cut_segments(source: SequenceSource) -> list[Segment]:
    """The segments of a sequence, at least one; opens videos to learn their length."""
    length = len(source.images) if source.video is None else _video_length(source)
    starts = range(0, max(1, length), FRAMES_PER_SEGMENT)
    # Only decoding tells where a video really ends, so the last segment is left open.
    stops = [*starts[1:], None]
    return [
        Segment(source=source, index=i, num_segments=len(starts), start=start, stop=stop)
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True))
    ]


def ingest_segment(artefact: Artefact, segment: Segment, jpeg_quality: int) -> Outcome:
    """Write the frames of one segment and, with the first, the annotations of the sequence.

    The manifest of the part is left to the caller, who knows when all segments are there.

    Raises:
        OSError: the storage failed. Broken input is in the outcome instead.
    """
    source = segment.source
    outcome = Outcome(
        sequence=source.name, segment=segment.index, num_segments=segment.num_segments
    )
    try:
        truth = _read_labels(source, outcome) if source.labels is not None else None
        _write_frames(artefact, segment, truth, jpeg_quality, outcome)
    except ValueError as error:
        what = f"{error}; the sequence is left out"
        outcome.problems.append(Problem(where=_where(source), what=what))
        outcome.is_lost = True
        return outcome
    if segment.index == 0:
        annotations = truth.annotations if truth else Annotations.empty()
        writer = artefact.part(source.name).write()
        writer.write_parquet(ANNOTATIONS_FILE, annotations.to_table(source.name))
        outcome.files += writer.files
    return outcome


def group_stills(
    sources: Sequence[SequenceSource], *, stills_per_group: int = 256
) -> list[SequenceSource]:
    """Many stills as few sequences of unrelated frames; other sources as they are.

    A part per still would mean 70,000 folders for BDD100K's detection set.
    """
    grouped = [source for source in sources if not source.is_still]
    stills = [source for source in sources if source.is_still]
    for start in range(0, len(stills), stills_per_group):
        members = stills[start : start + stills_per_group]
        group = replace(
            members[0],
            name=f"{members[0].split}-{start // stills_per_group:05d}",
            images=tuple(image for member in members for image in member.images),
            options={_MEMBERS: tuple(members)},
        )
        grouped.append(group)
    return grouped


def _read_labels(source: SequenceSource, outcome: Outcome) -> SequenceTruth:
    read = BENCHMARKS[source.dataset].read_annotations
    truths = []
    for member in source.options.get(_MEMBERS, (source,)):
        truth, problems = read(member)
        truths.append(truth)
        if outcome.segment == 0:  # every segment reads the labels, one reports what is wrong
            outcome.problems += problems
    return truths[0] if len(truths) == 1 else _join_stills(source.name, truths)


def _join_stills(name: str, truths: Sequence[SequenceTruth]) -> SequenceTruth:
    """One frame each, one behind the other; identities stay apart."""
    annotations = [truth.annotations for truth in truths]
    first_identity = np.cumsum([0, *(len(a) for a in annotations)])
    moved = [
        replace(a, frame_index=a.frame_index + frame, identity=a.identity + first_identity[frame])
        for frame, a in enumerate(annotations)
    ]
    return SequenceTruth(
        name=name,
        frame_names=tuple(truth.frame_names[0] for truth in truths),
        annotations=concatenate(moved),
    )


def _write_frames(
    artefact: Artefact,
    segment: Segment,
    truth: SequenceTruth | None,
    jpeg_quality: int,
    outcome: Outcome,
) -> None:
    source = segment.source
    writer = artefact.part(source.name).write()
    if source.video is None:
        frames = _image_frames(segment, truth, outcome)
    else:
        frames = _video_frames(segment, truth, jpeg_quality, outcome)
    size: tuple[int, int] | None = None
    with (
        writer.open_file(frames_file_name(segment.index)) as sink,
        FramesFile(sink, source.name) as file,
    ):
        for frame in frames:
            size = size or (frame.height, frame.width) if frame.image else size
            file.append(frame)
            outcome.num_frames += 1
    if size is None and segment.index == 0:
        raise ValueError("none of its frames can be decoded")
    height, width = size or (0, 0)
    outcome.files += writer.files
    outcome.details = {
        "height": height,
        "width": width,
        "frame_rate": _frame_rate(source),
        "is_still": source.is_still,
        "has_labels": truth is not None,
    }


def _image_frames(
    segment: Segment, truth: SequenceTruth | None, outcome: Outcome
) -> Iterator[Frame]:
    """Frames of an image folder, their bytes as they are, in the order of the labels.

    Images and labels are matched by file name: a labelled frame whose image is missing stays.
    """
    height, width = 0, 0
    images = segment.source.images
    if truth is not None:
        by_name = {Path(path).name: path for path in images}
        images = tuple(by_name.get(name, name) for name in truth.frame_names)
    for index, path in enumerate(images[segment.start : segment.stop], segment.start):
        image = b""
        try:
            image = Path(path).read_bytes()
            # Decoded once, here, so that no later stage stops at a broken frame.
            height, width = decode_image(image).shape[:2]
        except (ValueError, OSError) as error:
            _report_broken(outcome, segment.source, index, f"{path}: {error}")
            image = b""
        yield Frame(
            frame_index=index,
            name=Path(path).name,
            timestamp_us=None,
            height=height,
            width=width,
            image=image,
        )


def _video_frames(
    segment: Segment, truth: SequenceTruth | None, jpeg_quality: int, outcome: Outcome
) -> Iterator[Frame]:
    """Frames decoded from a video, as many as there are labels where there are labels."""
    source = segment.source
    assert source.video is not None
    stride, phase = int(source.options["label_stride"]), int(source.options["label_phase"])
    stop = segment.stop
    if truth is not None:
        stop = min(stop or truth.num_frames, truth.num_frames)
    index, height, width = segment.start, 0, 0
    decoded = iterate_frames(
        Path(source.video),
        start=segment.start * stride + phase,
        stop=None if stop is None else (stop - 1) * stride + phase + 1,
        step=stride,
        on_damaged=lambda number: _report_damaged(outcome, source, number),
    )
    broken = "the video ends before this frame"
    try:
        for _, timestamp_us, image in decoded:
            height, width = image.shape[:2]
            yield Frame(
                frame_index=index,
                name=_frame_name(source, truth, index),
                timestamp_us=timestamp_us,
                height=height,
                width=width,
                image=encode_jpeg(image, jpeg_quality),
            )
            index += 1
    except ValueError as error:
        broken = str(error)
        if stop is None:  # nobody knows how many frames are missing: keep those that are there
            where = f"{_where(source)}, frame {index} on"
            outcome.problems.append(Problem(where=where, what=broken))
    for missing in range(index, index if stop is None else stop):
        _report_broken(outcome, source, missing, f"{source.video}: {broken}")
        name = _frame_name(source, truth, missing)
        yield Frame(
            frame_index=missing,
            name=name,
            timestamp_us=None,
            height=height,
            width=width,
            image=b"",
        )


def _report_broken(outcome: Outcome, source: SequenceSource, index: int, what: str) -> None:
    where = f"{_where(source)}, frame {index}"
    outcome.broken_frames.append(index)
    outcome.problems.append(Problem(where=where, what=f"{what}; kept without an image"))


def _report_damaged(outcome: Outcome, source: SequenceSource, number: int) -> None:
    what = f"{source.video}: frame {number} of the video is damaged; kept as far as it decodes"
    outcome.problems.append(Problem(where=_where(source), what=what))


def _frame_name(source: SequenceSource, truth: SequenceTruth | None, index: int) -> str:
    return truth.frame_names[index] if truth else f"{source.name}-{index + 1:07d}.jpg"


def _frame_rate(source: SequenceSource) -> float | None:
    """Stored frames per second, None where nobody knows."""
    if "frame_rate" in source.options:
        return float(source.options["frame_rate"])
    if source.video is None:
        return None
    return probe_video(Path(source.video)).frame_rate / int(source.options["label_stride"])


def _video_length(source: SequenceSource) -> int:
    """Frames the container promises, 0 where it does not open: the task will say why."""
    assert source.video is not None
    try:
        num_frames = probe_video(Path(source.video)).num_frames or 0
    except ValueError:
        return 0
    return -(-num_frames // int(source.options["label_stride"]))


def _where(source: SequenceSource) -> str:
    return f"{source.dataset}/{source.split}, sequence {source.name}"
