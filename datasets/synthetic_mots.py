"""Synthetic street scenes as a KITTI MOTS folder: frames, instance maps, and the same as text.

The scenes are those of `datasets.synthetic` with cars and pedestrians only, at KITTI's 10 frames a
second. What is seen of each is its mask, to the pixel; what is too small or too hidden to be
labelled, crowds and distant cars are ignore regions; a wall that passes leaves frames empty.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.images import encode_png
from datasets.kitti_mots import CAR, IGNORE_VALUE, PEDESTRIAN, SEQUENCES
from datasets.synthetic import MARKER, read_marker, refuse_foreign
from datasets.synthetic_painter import Picture, ScenePainter
from datasets.synthetic_scenes import plan_scene

VERSION: Final = 1
"""Raised by hand when the scenes change, so that an older folder is not taken for a new one."""

_CLASS_IDS: Final = {"car": CAR, "pedestrian": PEDESTRIAN}
_FRAMES_PER_STEP: Final = 2
"""Scenes are planned at 5 frames a second, KITTI MOTS has 10."""
_SHORTEST_WITH_WALL: Final = 16
_IDS_PER_CLASS: Final = 1000

UInt16 = npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class SyntheticMotsConfig:
    """What to write; the defaults are the demo's set."""

    num_train: int = 12
    """Sequences of the split train, 1 to 12; they have the names of KITTI MOTS'."""
    num_val: int = 9
    """Sequences of the split val, 1 to 9."""
    num_frames: int = 32
    """Frames of each sequence, 10 a second."""
    width: int = 320
    """Of every image in pixels."""
    height: int = 192
    """Of every image in pixels."""
    objects_per_frame: float = 7.0
    """Cars and pedestrians in a frame on average, those counted that others hide."""
    seed: int = 0
    """Another seed, other scenes."""

    def __post_init__(self) -> None:
        ranges = {
            "num_train": (1, len(SEQUENCES["train"])),
            "num_val": (1, len(SEQUENCES["val"])),
            "num_frames": (2, 1_000_000),
            "width": (160, 2048),
            "height": (96, 1024),
            "objects_per_frame": (0.5, 50),
            "seed": (0, 2**31),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {low} to {high}")


def write_synthetic_mots(root: Path, config: SyntheticMotsConfig) -> None:
    """Write the folder, or leave it as it is where it was written with the same config.

    It appears under its name when it is complete and not before. A synthetic folder of another
    config is replaced.

    Args:
        root: the folder that the reader of KITTI MOTS takes as its data root.
        config: what to write.

    Raises:
        ValueError: `root` exists and is not a folder that this function wrote.
    """
    marker = {"set": "mots", "version": VERSION, "config": asdict(config)}
    if read_marker(root) == marker:
        return
    refuse_foreign(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as name:
        partial = Path(name) / "new"
        for split, count in (("train", config.num_train), ("val", config.num_val)):
            for index, sequence in enumerate(SEQUENCES[split][:count]):
                _write_sequence(partial, config, split, index, sequence)
        (partial / MARKER).write_text(json.dumps(marker, indent=1))
        if root.exists():
            root.rename(Path(name) / "old")
        partial.rename(root)


def draw_sequence(config: SyntheticMotsConfig, split: str, index: int) -> ScenePainter:
    """The scene of sequence `index` of a split; frame f is drawn at time f / 2."""
    seeds = [config.seed, {"train": 0, "val": 1}[split], index]
    num_steps = max(2, config.num_frames // _FRAMES_PER_STEP)
    # A scene without any car would be no test of tracking cars.
    kinds = ("car", "car", "pedestrian", ("crowd", "distant car")[index % 2])
    return ScenePainter(
        plan_scene(
            np.random.default_rng(seeds),
            width=config.width,
            height=config.height,
            num_frames=num_steps,
            objects_per_frame=config.objects_per_frame,
            kinds=kinds,
            with_wall=index % 4 == 0 and config.num_frames >= _SHORTEST_WITH_WALL,
            users=tuple(_CLASS_IDS),
        )
    )


def instance_map(painter: ScenePainter, picture: Picture) -> UInt16:
    """(H, W) class * 1000 + instance as KITTI MOTS writes it, 10000 for what is to be ignored.

    Instances are counted per class from 0 in the order of the scene's actors, so 1000 is a car.
    """
    actors = painter.scene.actors
    labelled = {label.actor.identity for label in painter.labels(picture)}
    values = np.zeros(len(actors) + 1, np.uint16)  # the last one is that of `NOBODY`, -1
    counts = dict.fromkeys(_CLASS_IDS, 0)
    for place, actor in enumerate(actors):
        if actor.category not in _CLASS_IDS:
            continue
        values[place] = IGNORE_VALUE
        if actor.crowd or actor.ignored:
            continue
        number = counts[actor.category]
        counts[actor.category] += 1
        assert number < _IDS_PER_CLASS, "more instances of a class than KITTI MOTS can number"
        if actor.identity in labelled:
            values[place] = _CLASS_IDS[actor.category] * _IDS_PER_CLASS + number
    ids: UInt16 = values[picture.actor_map]
    return ids


def _write_sequence(
    root: Path, config: SyntheticMotsConfig, split: str, index: int, sequence: str
) -> None:
    painter = draw_sequence(config, split, index)
    images, maps = root / "images" / sequence, root / "instances" / sequence
    images.mkdir(parents=True)
    maps.mkdir(parents=True)
    for frame in range(config.num_frames):
        picture = painter.draw(frame / _FRAMES_PER_STEP)
        name = f"{frame:06d}.png"
        (images / name).write_bytes(encode_png(picture.image[..., ::-1]))
        (maps / name).write_bytes(encode_png(instance_map(painter, picture)))
