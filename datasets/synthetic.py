"""Synthetic street scenes as a BDD100K folder: tracking videos, image folders, stills and labels.

The demo and the tests go through the real reader with them. Everything follows from the config:
the labels and the JPEG files have the same bytes each time.
"""

import json
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np

from datasets.images import encode_jpeg
from datasets.synthetic_painter import Label, ScenePainter
from datasets.synthetic_scenes import ROAD_USERS, Scene, kinds_of_sequence, plan_scene
from datasets.video import VideoWriter

MARKER: Final = "synthetic.json"
"""Holds the config that a finished folder was written with."""

VERSION: Final = 1
"""Raised by hand when the scenes change, so that an older folder is not taken for a new one."""

VIDEO_RATE: Final = 30
"""Frames a second of the raw videos; every sixth is labelled, as in BDD100K."""

VIDEO_STRIDE: Final = 6

TRACKING_CATEGORIES: Final = (*ROAD_USERS, "other vehicle", "other person", "trailer")
DETECTION_CATEGORIES: Final = (*TRACKING_CATEGORIES, "traffic light", "traffic sign")

_JPEG_QUALITY: Final = 92
_SHORTEST_WITH_WALL: Final = 8
_MOST_KINDS_OF_STILL: Final = 2  # more of them hide each other
_ATTEMPTS: Final = 50


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """What to write; the defaults are the demo's set."""

    num_train: int = 48
    """Tracking sequences of the split train."""
    num_val: int = 8
    """Tracking sequences of the split val."""
    num_frames: int = 24
    """Labelled frames of each sequence, 5 a second."""
    num_stills: int = 320
    """Single images of the detection set's train; its val has a fifth of them."""
    width: int = 320
    """Of every image in pixels."""
    height: int = 192
    """Of every image in pixels."""
    objects_per_frame: float = 6.0
    """Road users in a frame on average, those counted that others hide."""
    video_share: float = 0.125
    """Part of the sequences that exist as raw H.264 video; the others are folders of JPEG files."""
    seed: int = 0
    """Another seed, other scenes."""

    def __post_init__(self) -> None:
        least = {"num_train": 1, "num_val": 1, "num_frames": 2, "num_stills": 0, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {bound}")
        # H.264 in 4:2:0 takes even sizes only; smaller images leave nothing to recognise.
        for name, bound in (("width", 160), ("height", 96)):
            if getattr(self, name) < bound or getattr(self, name) % 2:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected an even number from {bound}"
                )
        if not 0.5 <= self.objects_per_frame <= 50:
            raise ValueError(f"objects_per_frame is {self.objects_per_frame}, expected 0.5 to 50")
        if not 0.0 <= self.video_share <= 1.0:
            raise ValueError(f"video_share is {self.video_share}, expected 0 to 1")

    def count(self, part: str) -> int:
        """Sequences of `train` and `val`, images of `det_train` and `det_val`."""
        counts = {
            "train": self.num_train,
            "val": self.num_val,
            "det_train": self.num_stills,
            "det_val": self.num_stills // 5,
        }
        return counts[part]


def write_synthetic_bdd100k(root: Path, config: SyntheticConfig) -> None:
    """Write the folder, or leave it as it is where it was written with the same config.

    It appears under its name when it is complete and not before. A synthetic folder of another
    config is replaced.

    Args:
        root: the folder that a BDD100K reader takes as its data root.
        config: what to write.

    Raises:
        ValueError: `root` exists and is not a folder that this function wrote.
    """
    marker = {"version": VERSION, "config": asdict(config)}
    if read_marker(root) == marker:
        return
    refuse_foreign(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as name:
        partial = Path(name) / "new"
        for split in ("train", "val"):
            for index in range(config.count(split)):
                _write_sequence(partial, config, split, index)
            _write_stills(partial, config, split)
        (partial / MARKER).write_text(json.dumps(marker, indent=1))
        if root.exists():
            root.rename(Path(name) / "old")
        partial.rename(root)


def sequence_name(config: SyntheticConfig, part: str, index: int) -> str:
    """Name of a sequence or still, 8 and 8 hexadecimal digits as BDD100K's.

    >>> sequence_name(SyntheticConfig(), "val", 0)
    '51c63ff2-ef1f1f4b'
    """
    digits = sha256(f"{config.seed}/{part}/{index}".encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:16]}"


def plan_sequence(
    config: SyntheticConfig, part: str, index: int
) -> tuple[ScenePainter, list[list[Label]]]:
    """The scene of a sequence or still, and the labels of its frames.

    Every kind that falls to it is seen and labelled at least once: another scene is invented
    where one stayed hidden behind others or outside the image.

    Args:
        config: what to write.
        part: `train`, `val`, or `det_train`, `det_val` for stills.
        index: from 0.

    Raises:
        ValueError: too many kinds for so few frames.
    """
    is_still = part.startswith("det_")
    num_frames = 1 if is_still else config.num_frames
    kinds = kinds_of_sequence(index, config.count(part))
    if is_still:
        kinds = kinds[:_MOST_KINDS_OF_STILL]
    for attempt in range(_ATTEMPTS):
        seeds = [config.seed, zlib.crc32(part.encode()), index, attempt]
        scene = plan_scene(
            np.random.default_rng(seeds),
            width=config.width,
            height=config.height,
            num_frames=num_frames,
            objects_per_frame=config.objects_per_frame,
            kinds=kinds,
            with_wall=index % 4 == 0 and num_frames >= _SHORTEST_WITH_WALL,
        )
        painter = ScenePainter(scene)
        labels = [painter.labels(painter.draw(time)) for time in range(num_frames)]
        if {label.actor.kind for found in labels for label in found}.issuperset(kinds):
            return painter, labels
    raise ValueError(
        f"{part} {index}: {_ATTEMPTS} scenes did not show all of {', '.join(kinds)}; give more "
        "frames (num_frames) or more sequences (num_train, num_val)"
    )


def read_marker(root: Path) -> Mapping[str, Any] | None:
    path = root / MARKER
    if not path.is_file():
        return None
    found: Mapping[str, Any] = json.loads(path.read_text())
    return found


def refuse_foreign(root: Path) -> None:
    is_foreign = root.exists() and not (root.is_dir() and (root / MARKER).is_file())
    if is_foreign and not (root.is_dir() and not any(root.iterdir())):
        raise ValueError(
            f"{root} exists and holds no {MARKER}, so it is no synthetic data set; choose another "
            "folder for it"
        )


def _write_sequence(root: Path, config: SyntheticConfig, split: str, index: int) -> None:
    name = sequence_name(config, split, index)
    painter, labels = plan_sequence(config, split, index)
    frames = [
        {
            "name": f"{name}-{frame_index + 1:07d}.jpg",
            "videoName": name,
            "frameIndex": frame_index,
            "attributes": _frame_attributes(painter.scene),
            "labels": _label_entries(found, TRACKING_CATEGORIES),
        }
        for frame_index, found in enumerate(labels)
    ]
    _write_json(root / "labels" / "box_track_20" / split / f"{name}.json", frames)
    if _is_video(config, index):
        _write_video(root / "videos" / split / f"{name}.mov", painter)
        return
    folder = root / "images" / "track" / split / name
    folder.mkdir(parents=True)
    for frame_index, frame in enumerate(frames):
        picture = painter.draw(frame_index)
        (folder / str(frame["name"])).write_bytes(encode_jpeg(picture.image, _JPEG_QUALITY))


def _write_video(path: Path, painter: ScenePainter) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = painter.scene
    with VideoWriter(path, width=scene.width, height=scene.height, frame_rate=VIDEO_RATE) as writer:
        for frame in range(scene.num_frames * VIDEO_STRIDE):
            writer.write(painter.draw(frame / VIDEO_STRIDE).image)


def _write_stills(root: Path, config: SyntheticConfig, split: str) -> None:
    part = f"det_{split}"
    folder = root / "images" / "100k" / split
    folder.mkdir(parents=True)
    entries = []
    for index in range(config.count(part)):
        name = f"{sequence_name(config, part, index)}.jpg"
        painter, labels = plan_sequence(config, part, index)
        (folder / name).write_bytes(encode_jpeg(painter.draw(0).image, _JPEG_QUALITY))
        entries.append(
            {
                "name": name,
                "attributes": _frame_attributes(painter.scene),
                "timestamp": 10000,
                "labels": _label_entries(labels[0], DETECTION_CATEGORIES),
            }
        )
    _write_json(root / "labels" / "det_20" / f"det_{split}.json", entries)


def _label_entries(labels: list[Label], categories: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """Labels as BDD100K writes them; None, not an empty list, where a frame has none."""
    entries = [_label_entry(label) for label in labels if label.actor.category in categories]
    return entries or None


def _label_entry(label: Label) -> dict[str, Any]:
    attributes = {
        "occluded": label.occluded,
        "truncated": label.truncated,
        "crowd": label.actor.crowd,
    }
    if label.actor.ignored:
        attributes["ignored"] = True
    corners = zip(("x1", "y1", "x2", "y2"), map(float, label.box), strict=True)
    return {
        "id": label.actor.identity,
        "category": label.actor.category,
        "attributes": attributes,
        "box2d": dict(corners),
    }


def _frame_attributes(scene: Scene) -> dict[str, str]:
    return {"weather": scene.weather, "scene": "city street", "timeofday": scene.time_of_day}


def _is_video(config: SyntheticConfig, index: int) -> bool:
    return int((index + 1) * config.video_share) > int(index * config.video_share)


def _write_json(path: Path, frames: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(frames))
