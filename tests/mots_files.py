"""Small scenes of masks, and the files of KITTI MOTS that hold them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.masks import Rle, encode_instances, encode_mask, mask_boxes
from datasets.schema import Annotations, SequenceResult, SequenceTruth, Tracks

IGNORE = 10000
SIZE = (48, 96)


class Object(NamedTuple):
    """One mask in one frame."""

    frame: int
    identity: int
    class_index: int
    """-1 of an ignored region."""
    mask: Rle


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> Rle:
    """Code of the pixels from the upper left corner to before the lower right one."""
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return encode_mask(mask)


def strip(start: int, end: int) -> Rle:
    """Code of some pixels of the first line, so that areas and overlaps are plain numbers."""
    return rectangle(0, start, 1, end)


def truth_of(
    objects: Sequence[Object], num_frames: int, *, name: str = "0001", with_masks: bool = True
) -> SequenceTruth:
    """Ground truth as readers make it; ignored regions have class index -1."""
    masks = tuple(one.mask for one in objects)
    no = np.zeros(len(objects), bool)
    class_index = np.array([one.class_index for one in objects], np.int16)
    annotations = Annotations(
        frame_index=np.array([one.frame for one in objects], np.int32),
        identity=np.array([one.identity for one in objects], np.int64),
        identity_source=tuple(str(one.identity) for one in objects),
        category=("",) * len(objects),
        class_index=class_index,
        boxes_xyxy=mask_boxes(masks),
        crowd=no,
        ignored=class_index < 0,
        occluded=no,
        truncated=no,
        visibility=np.full(len(objects), np.nan, np.float32),
        masks=masks if with_masks else None,
    )
    names = tuple(f"{index:06d}.png" for index in range(num_frames))
    return SequenceTruth(name=name, frame_names=names, annotations=annotations)


def tracks_of(objects: Sequence[Object], scores: Sequence[float] | None = None) -> Tracks:
    """Tracks as readers make them, with scores of 1 unless given."""
    masks = tuple(one.mask for one in objects)
    return Tracks(
        frame_index=np.array([one.frame for one in objects], np.int32),
        track_id=np.array([one.identity for one in objects], np.int64),
        detection_row=np.full(len(objects), -1, np.int32),
        boxes_xyxy=mask_boxes(masks),
        scores=np.array([1.0] * len(objects) if scores is None else scores, np.float32),
        class_index=np.array([one.class_index for one in objects], np.int16),
        masks=masks,
    )


def result_of(objects: Sequence[Object], *, name: str = "0001") -> SequenceResult:
    """A result of a sequence."""
    return SequenceResult(name=name, tracks=tracks_of(objects))


def random_scene(
    seed: int, num_frames: int = 25, class_ids: Sequence[int] = (1, 2)
) -> tuple[list[Object], list[Object]]:
    """Truth and a flawed result: noisy borders, misses, switches, false masks, ignored regions.

    Objects are painted over each other, so the masks of a frame are disjoint on either side.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(8, 22, (9, 2))
    corners, steps = rng.uniform(0, [SIZE[0], SIZE[1]], (9, 2)), rng.normal(0, 0.6, (9, 2))
    truth: list[Object] = []
    result: list[Object] = []
    for frame in range(num_frames):
        truth_map, result_map = np.zeros(SIZE, int), np.zeros(SIZE, int)
        if rng.random() < 0.7:
            _paint(truth_map, rng.uniform(0, SIZE), (14, 30), IGNORE)
        for index in np.flatnonzero(rng.random(9) < 0.85).tolist():
            class_index = index % len(class_ids)
            corner = corners[index] + frame * steps[index]
            if rng.random() < 0.9:
                _paint(truth_map, corner, sizes[index], class_ids[class_index] * 1000 + index)
            if rng.random() < 0.85:
                track = index + 1 + 20 * (rng.random() < 0.1) + 40 * (frame // 9)
                noise = rng.integers(-1, 2, 2), rng.integers(-1, 2, 2)
                _paint(result_map, corner + noise[0], sizes[index] + noise[1], _value(track, index))
        for index in range(2):
            where = rng.uniform(0, SIZE)
            _paint(result_map, where, rng.integers(4, 10, 2), _value(500 + frame + index, index))
        truth += _objects(frame, truth_map, lambda v: (v, _class_of(v, class_ids)))
        result += _objects(frame, result_map, lambda v: (v // 100, v % 100 % len(class_ids)))
    return truth, result


def write_text(path: Path, objects: Iterable[Object], class_ids: Sequence[int] = (1, 2)) -> None:
    """A KITTI MOTS file, written by hand: the writers are tested against it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for one in objects:
        class_id = class_ids[one.class_index] if one.class_index >= 0 else 10
        height, width = one.mask["size"]
        counts = one.mask["counts"].decode()
        lines.append(f"{one.frame} {one.identity} {class_id} {height} {width} {counts}\n")
    path.write_text("".join(lines))


def _class_of(value: int, class_ids: Sequence[int]) -> int:
    return -1 if value == IGNORE else class_ids.index(value // 1000)


def _value(track: int, index: int) -> int:
    return 100 * track + index


def _paint(instances: Any, corner: Any, size: Any, value: int) -> None:
    top, left = np.maximum(np.round(corner).astype(int), 0)
    bottom, right = np.maximum(np.round(np.asarray(corner) + size).astype(int), 0)
    instances[top:bottom, left:right] = value


def _objects(frame: int, instances: Any, describe: Any) -> list[Object]:
    values = [int(value) for value in np.unique(instances) if value]
    masks = encode_instances(instances, values)
    return [
        Object(frame, *describe(value), mask) for value, mask in zip(values, masks, strict=True)
    ]
