"""A small world for PointTrack: cars and pedestrians in noise, stored as ingest stores KITTI MOTS.

Crops and instances are written without Ray, by the functions that its tasks run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.masks import encode_instances, mask_boxes
from datasets.schema import Annotations
from models.pointtrack.config import PointTrackConfig, SpatialEmbeddingConfig
from models.pointtrack.network import PointTrackNet
from models.pointtrack.segmentation import SpatialEmbedding
from models.weights import save_weights
from pipeline.frames import ANNOTATIONS_FILE, Frame, write_frames
from pipeline.model_store import adopt_weights
from pipeline.prepare import CropConfig, write_crops, write_instances
from pipeline.prepared_rows import CROPS_STAGE, INSTANCES_STAGE
from pipeline.store import Artefact, Part

HEIGHT, WIDTH = 40, 56
IGNORED = 10000

Blocks = Mapping[int, tuple[int, int, int, int]]
"""Value of KITTI MOTS -> rows top to bottom and columns left to right; lower values in front."""

CROSSING: tuple[Blocks, ...] = tuple(
    {1001: (8, 20, 2 + 3 * f, 18 + 3 * f), 1002: (18, 34, 36 - 3 * f, 52 - 3 * f)}
    | ({2001: (2, 14, 44, 50)} if f % 2 else {IGNORED: (36, 40, 0, 56)})
    for f in range(5)
)
SCENES: dict[str, tuple[Blocks, ...]] = {
    "0000": CROSSING,
    "0001": ({2001: (4, 20, 6, 12)}, {1001: (4, 24, 30, 50)}, {}, {1001: (6, 26, 28, 48)}),
    "0003": ({}, {}),
}
"""Cars that cross; one that comes late; nothing at all."""

EMBEDDER = PointTrackConfig(embedding_dim=4, num_points=12, num_environment_points=6)


def picture(name: str, frame: int) -> np.ndarray[Any, Any]:
    """RGB noise, redder than blue, with cars in colours of their own."""
    rng = np.random.default_rng([*name.encode(), frame])
    image = rng.integers(0, 80, (HEIGHT, WIDTH, 3)) + np.array([90, 60, 0])
    values = map_of(SCENES[name][frame]) if name in SCENES else np.zeros((HEIGHT, WIDTH), int)
    for value, colour in ((1001, (230, 40, 20)), (1002, (30, 220, 90)), (2001, (200, 200, 40))):
        image[values == value] = colour
    return image.astype(np.uint8)


def map_of(blocks: Blocks) -> np.ndarray[Any, Any]:
    """(H, W) values of KITTI MOTS."""
    values = np.zeros((HEIGHT, WIDTH), np.int32)
    for value, (top, bottom, left, right) in sorted(blocks.items(), reverse=True):
        values[top:bottom, left:right] = value
    return values


def write_sequence(part: Part, maps: Sequence[Blocks], *, broken: Sequence[int] = ()) -> None:
    """One sequence as ingest stores it; broken frames have no image."""
    import cv2

    frames, rows, codes = [], [], []
    for index, blocks in enumerate(maps):
        image = cv2.imencode(".png", picture(part.name, index)[..., ::-1])[1].tobytes()
        frames.append(
            Frame(
                frame_index=index,
                name=f"{index:06d}.png",
                timestamp_us=None,
                height=HEIGHT,
                width=WIDTH,
                image=b"" if index in broken else image,
            )
        )
        rows += [(index, value) for value in blocks]
        codes += encode_instances(map_of(blocks), list(blocks))
    values = np.array([value for _, value in rows], np.int64)
    no = np.zeros(len(rows), bool)
    annotations = Annotations(
        frame_index=np.array([frame for frame, _ in rows], np.int32),
        identity=values,
        identity_source=tuple(map(str, values)),
        category=tuple({1: "car", 2: "pedestrian"}.get(v // 1000, "ignore") for v in values),
        class_index=np.where(values == IGNORED, -1, values // 1000 - 1).astype(np.int16),
        boxes_xyxy=mask_boxes(codes),
        crowd=no,
        ignored=values == IGNORED,
        occluded=no,
        truncated=no,
        visibility=np.full(len(rows), np.nan, np.float32),
        masks=tuple(codes) if codes else None,
    )
    with part.write() as writer:
        write_frames(writer, part.name, frames)
        writer.write_parquet(ANNOTATIONS_FILE, annotations.to_table(part.name))
        writer.details = {
            "num_frames": len(maps),
            "is_still": False,
            "frame_rate": 10.0,
            "height": HEIGHT,
            "width": WIDTH,
            "has_labels": True,
            "problems": [],
            "broken_frames": list(broken),
        }


def write_scenes(
    root: Path,
    scenes: Mapping[str, Sequence[Blocks]] = SCENES,
    *,
    split: str = "train",
    broken: Mapping[str, Sequence[int]] | None = None,
    fingerprint: str = "f" * 16,
) -> Artefact:
    """A finished frames artefact."""
    artefact = Artefact(
        root=str(root), stage="frames", dataset="kitti", split=split, fingerprint=fingerprint
    )
    for name, maps in scenes.items():
        write_sequence(artefact.part(name), maps, broken=(broken or {}).get(name, ()))
    num_frames = sum(map(len, scenes.values()))
    artefact.finish(scenes, {"benchmark": "kitti_mots", "problems": [], "num_frames": num_frames})
    return artefact


def cut_crops(frames: Artefact, height: int = 32, width: int = 48) -> Artefact:
    """Crops around the cars."""
    config = CropConfig(height=height, width=width)
    artefact = Artefact(
        root=frames.root,
        stage=CROPS_STAGE,
        dataset=frames.dataset,
        split=frames.split,
        fingerprint="c" * 16,
    )
    for name in frames.sequences():
        with artefact.part(name).write() as writer:
            write_crops(frames.part(name), writer, config=config, class_index=0)
    artefact.finish(frames.sequences(), {})
    return artefact


def cut_instances(frames: Artefact) -> Artefact:
    """Instances of the cars."""
    artefact = Artefact(
        root=frames.root,
        stage=INSTANCES_STAGE,
        dataset=frames.dataset,
        split=frames.split,
        fingerprint="d" * 16,
    )
    for name in frames.sequences():
        with artefact.part(name).write() as writer:
            write_instances(frames.part(name), writer, class_index=0)
    artefact.finish(frames.sequences(), {})
    return artefact


def store_network(root: Path, network: torch.nn.Module, name: str) -> Artefact:
    """Weights in the store."""
    path = root / f"{name}.safetensors"
    save_weights(path, network)
    return adopt_weights(path, str(root), "kitti")


def make_segmenter(seed: int = 0, **changes: Any) -> SpatialEmbedding:
    """A network that was never trained but sees objects everywhere: discs of about 100 pixels."""
    config = SpatialEmbeddingConfig(**{"seed_threshold": 0.5, "min_pixels": 20, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SpatialEmbedding(config)
    with torch.no_grad():
        bias = network.seed_decoder.output.bias
        assert bias is not None
        bias.fill_(2.0)
    return network.eval()


def make_embedder(seed: int = 0, config: PointTrackConfig = EMBEDDER) -> PointTrackNet:
    """A network that was never trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PointTrackNet(config).eval()
