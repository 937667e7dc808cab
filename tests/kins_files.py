"""A KINS folder of tiny images, in the words of either release."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.masks import encode_mask

SIZE = (10, 14)
"""Height and width of the images."""
Box = tuple[int, int, int, int]
"""Rows top to bottom and columns left to right."""


def code(box: Box, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """The run-length code of a rectangle as JSON writes it."""
    mask = np.zeros(size, bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    packed = encode_mask(mask)
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def annotation(number: int, image_id: int, category_id: int, box: Box, **fields: Any) -> Any:
    """One object in the words of the first release."""
    found = {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": 0}
    found |= {"segmentation": [[0, 0, 9, 0, 9, 9]], "inmodal_seg": code(box)}
    return {**found, **fields}


def write_kins(
    root: Path,
    annotations: Sequence[Any],
    *,
    images: Mapping[int, str] | None = None,
    split: str = "train",
    file: str = "instances_train.json",
    **fields: Any,
) -> Path:
    """Images of noise and the label file, whose path is returned; by default images 7, 8 and 9."""
    images = images or {7: "000007.png", 8: "000008.png", 9: "000009.png"}
    folder = root / {"train": "training", "val": "testing"}[split] / "image_2"
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in images.items():
        noise = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
        (folder / name).write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    height, width = SIZE
    listed = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, name in images.items()
    ]
    content = {"annotations": list(annotations), "images": listed, **fields}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root / file
