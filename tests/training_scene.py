"""A small world to train on: coloured boxes that move, stored as ingest stores real frames."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.images import encode_jpeg
from datasets.schema import Annotations
from datasets.transforms import AugmentConfig
from models.qdtrack.config import OptimizerConfig
from pipeline.frames import ANNOTATIONS_FILE, Frame, write_frames
from pipeline.store import Artefact
from pipeline.train import TrainConfig
from tests.small_model import HEIGHT, WIDTH

COLOURS = np.array([[220, 40, 40], [40, 200, 60], [50, 70, 230]])

TRAIN = TrainConfig(
    pairs_per_step=2,
    window=5,
    buffer=8,
    augment=AugmentConfig(min_scale=0.8, max_scale=1.0),
    optimizer=OptimizerConfig(epochs=2, learning_rate=0.01, warmup_iterations=4, step_epochs=(1,)),
    backbone_weights="random",
    validation_pairs=2,
)


def write_frames_artefact(
    root: Path,
    *,
    split: str = "train",
    num_sequences: int = 3,
    num_frames: int = 7,
    is_still: bool = False,
) -> Artefact:
    """A finished frames artefact in the classes of BDD100K."""
    artefact = Artefact(
        root=str(root), stage="frames", dataset="bdd100k", split=split, fingerprint="f" * 16
    )
    names = [f"{split}-{number}" for number in range(num_sequences)]
    for number, name in enumerate(names):
        images, annotations = _scene(number, num_frames)
        frames = [
            Frame(
                frame_index=index,
                name=f"{name}-{index}.jpg",
                timestamp_us=None,
                height=HEIGHT,
                width=WIDTH,
                image=image,
            )
            for index, image in enumerate(images)
        ]
        with artefact.part(name).write() as writer:
            write_frames(writer, name, frames)
            writer.write_parquet(ANNOTATIONS_FILE, annotations.to_table(name))
            writer.details = {
                "num_frames": num_frames,
                "is_still": is_still,
                "frame_rate": 5.0,
                "height": HEIGHT,
                "width": WIDTH,
                "has_labels": True,
                "problems": [],
                "broken_frames": [],
            }
    details = {"benchmark": "bdd100k", "problems": [], "num_frames": num_sequences * num_frames}
    artefact.finish(names, details)
    return artefact


def write_training_frames(root: Path) -> list[Artefact]:
    """Video to train on, and stills beside it."""
    stills = write_frames_artefact(
        root, split="det_train", num_sequences=1, num_frames=4, is_still=True
    )
    return [write_frames_artefact(root), stills]


def assert_same_state(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Weights that are equal to the last bit; names the first that is not."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def _scene(seed: int, num_frames: int) -> tuple[list[bytes], Annotations]:
    """One box per colour; the third one is a bus."""
    random = np.random.default_rng(seed)
    size = random.integers(16, 26, (3, 2))
    start = random.integers(2, 30, (3, 2))
    speed = random.integers(-2, 3, (3, 2))
    images, boxes = [], []
    for frame in range(num_frames):
        image = random.integers(90, 140, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for identity in range(3):
            left, top = np.clip(start[identity] + speed[identity] * frame, 0, 36)
            left += 20 * identity
            right, bottom = left + size[identity, 0], top + size[identity, 1]
            image[top:bottom, left:right] = COLOURS[identity]
            boxes.append((left, top, min(right, WIDTH), min(bottom, HEIGHT)))
        images.append(encode_jpeg(image, 95))
    count = 3 * num_frames
    no = np.zeros(count, bool)
    annotations = Annotations(
        frame_index=np.repeat(np.arange(num_frames, dtype=np.int32), 3),
        identity=np.tile(np.arange(3), num_frames),
        identity_source=("1", "2", "3") * num_frames,
        category=("car", "car", "bus") * num_frames,
        class_index=np.tile(np.array([2, 2, 4], np.int16), num_frames),
        boxes_xyxy=np.array(boxes, np.float64),
        crowd=no,
        ignored=no,
        occluded=no,
        truncated=no,
        visibility=np.full(count, np.nan, np.float32),
    )
    return images, annotations
