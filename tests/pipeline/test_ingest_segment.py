"""One segment at a time, without Ray."""

from pathlib import Path

import av
import numpy as np

from datasets.schema import SequenceSource
from datasets.video import VideoWriter
from pipeline.ingest_segment import cut_segments, ingest_segment
from pipeline.store import Artefact

NUM_FRAMES = 12


def write_damaged_video(path: Path) -> int:
    """Noise whose data is overwritten inside one frame; which one, in presentation order."""
    rng = np.random.default_rng(0)
    with VideoWriter(path, width=64, height=48, frame_rate=30) as writer:
        for _ in range(NUM_FRAMES):
            writer.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    spoiled = packets[5]
    data = bytearray(path.read_bytes())
    end = spoiled.pos + spoiled.size
    data[end - 60 : end] = bytes(60)
    path.write_bytes(data)
    return sorted(packet.pts for packet in packets).index(spoiled.pts)


def test_a_damaged_frame_of_a_video_keeps_its_image_and_is_reported(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    number = write_damaged_video(video)
    source = SequenceSource(
        dataset="bdd100k",
        split="train",
        name="a",
        video=str(video),
        options={"label_stride": 1, "label_phase": 0},
    )
    artefact = Artefact(
        root=str(tmp_path / "out"),
        stage="frames",
        dataset="bdd100k",
        split="train",
        fingerprint="0" * 16,
    )
    (segment,) = cut_segments(source)
    outcome = ingest_segment(artefact, segment, jpeg_quality=90)
    (problem,) = outcome.problems
    assert problem.where == "bdd100k/train, sequence a"
    assert f"{video}: frame {number} of the video is damaged" in problem.what
    assert (outcome.num_frames, outcome.broken_frames, outcome.is_lost) == (NUM_FRAMES, [], False)
