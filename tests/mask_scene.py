"""Masks for tests: rectangles, and sequences in which objects hide each other and are lost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.masks import Rle, encode_instances, encode_mask, mask_areas, mask_boxes
from datasets.registry import BENCHMARKS
from datasets.schema import Annotations, Detections, SequenceTruth

HEIGHT, WIDTH = 60, 80
NUM_FRAMES = 70
CLASSES = BENCHMARKS["kitti_mots"].classes


def rectangle(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Rle:
    """The mask of a box with exclusive right and bottom edges."""
    mask = np.zeros(size, bool)
    mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    return encode_mask(mask)


def paint(boxes: Sequence[Sequence[int]]) -> list[Rle]:
    """Disjoint masks of boxes of which later ones hide earlier ones; some may be empty."""
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    for number, (x1, y1, x2, y2) in enumerate(boxes, 1):
        ids[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = number
    return encode_instances(ids, range(1, len(boxes) + 1))


def make_mask_detections(
    frame: np.ndarray, masks: Sequence[Rle], class_index: np.ndarray, looks: np.ndarray
) -> Detections:
    """Detections of masks, ordered by frame; scores differ."""
    count = len(frame)
    return Detections(
        frame_offsets=np.searchsorted(frame, np.arange(NUM_FRAMES + 1)),
        boxes_xyxy=mask_boxes(masks).astype(np.float32),
        scores=np.linspace(0.95, 0.6, count, dtype=np.float32) if count else np.zeros(0, "f4"),
        class_indices=class_index.astype(np.int16),
        embeddings=looks.astype(np.float32),
        masks=tuple(masks),
    )


def make_mask_pair(name: str, num_objects: int = 6) -> tuple[SequenceTruth, Detections]:
    """Truth and fair detections of KITTI MOTS: objects cross, stay away, and some are false."""
    rng = np.random.default_rng([7, *name.encode()])
    class_of = rng.integers(0, 2, num_objects)
    looks_of = rng.normal(0, 2, (num_objects + 1, 32))
    corner = rng.uniform(0, 50, (num_objects, 2))
    speed = rng.normal(0, 0.6, (num_objects, 2))
    truth_rows: list[tuple[int, int, Rle]] = []
    found_rows: list[tuple[int, int, Rle]] = []
    is_lost = np.zeros(num_objects, bool)
    for frame in range(NUM_FRAMES):
        is_lost ^= rng.random(num_objects) < np.where(is_lost, 0.15, 0.05)
        low = (corner + speed * frame) % 60 - 5
        boxes = np.concatenate([low, low + np.array([14, 12])], axis=1)
        truth_rows += _seen(frame, paint(boxes.astype(int).tolist()), range(num_objects))
        if frame in (20, 21):  # nothing is found at all
            continue
        kept = np.flatnonzero(~is_lost)
        shaky = boxes[kept] + rng.normal(0, 1, (len(kept), 4))
        x, y = rng.integers(0, 60, 2)
        with_false = [*shaky.astype(int).tolist(), [x, y, x + 8, y + 8]]
        found_rows += _seen(frame, paint(with_false), [*kept.tolist(), num_objects])
    frames, identities, masks = (list(column) for column in zip(*truth_rows, strict=True))
    identity = np.array(identities)
    no = np.zeros(len(identity), bool)
    annotations = Annotations(
        frame_index=np.array(frames, np.int32),
        identity=identity.astype(np.int64),
        identity_source=tuple(map(str, identities)),
        category=tuple(CLASSES[i] for i in class_of[identity]),
        class_index=class_of[identity].astype(np.int16),
        boxes_xyxy=mask_boxes(masks),
        crowd=no,
        ignored=no,
        occluded=no,
        truncated=no,
        visibility=np.full(len(identity), np.nan, np.float32),
        masks=tuple(masks),
    )
    truth = SequenceTruth(
        name=name,
        frame_names=tuple(f"{index:06d}.png" for index in range(NUM_FRAMES)),
        annotations=annotations,
    )
    frames, sources, masks = (list(column) for column in zip(*found_rows, strict=True))
    source = np.array(sources)
    classes = np.append(class_of, 0)[source]
    looks = looks_of[source] + rng.normal(0, 0.7, (len(source), 32))
    return truth, make_mask_detections(np.array(frames), masks, classes, looks)


def read_real_masks(path: Path) -> tuple[list[list[Rle]], list[list[int]]]:
    """Masks and ids of every frame of a KITTI MOTS text file; line by line, without our reader."""
    lines = [line.split() for line in path.read_text().splitlines()]
    masks: list[list[Rle]] = [
        [] for _ in range(max((int(row[0]) for row in lines), default=-1) + 1)
    ]
    ids: list[list[int]] = [[] for _ in masks]
    for frame, number, _, height, width, counts in lines:
        masks[int(frame)].append({"size": [int(height), int(width)], "counts": counts.encode()})
        ids[int(frame)].append(int(number))
    return masks, ids


def _seen(frame: int, masks: Sequence[Rle], owners: Sequence[int]) -> list[tuple[int, int, Rle]]:
    areas = mask_areas(masks)
    return [
        (frame, owner, mask)
        for owner, mask, area in zip(owners, masks, areas.tolist(), strict=True)
        if area
    ]
