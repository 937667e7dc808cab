"""Truth in the store without images: all that scoring needs of frames."""

from typing import Final

from datasets.schema import SequenceTruth
from pipeline.frames import ANNOTATIONS_FILE, Frame, write_frames
from pipeline.store import Part

_SIDE_PX: Final = 300


def write_truth(part: Part, truth: SequenceTruth) -> None:
    """Finish a part of frames that has annotations, and frames of 300 x 300 without an image."""
    frames = [
        Frame(
            frame_index=index,
            name=name,
            timestamp_us=None,
            height=_SIDE_PX,
            width=_SIDE_PX,
            image=b"",
        )
        for index, name in enumerate(truth.frame_names)
    ]
    with part.write() as writer:
        write_frames(writer, truth.name, frames)
        writer.write_parquet(ANNOTATIONS_FILE, truth.annotations.to_table(truth.name))
        writer.details = {"has_labels": True}
