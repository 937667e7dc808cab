"""Label files as BDD100K writes them."""

import json
from pathlib import Path
from typing import Any

from datasets.bdd100k import frame_name

NAME = "b1c66a42-6f7d68ca"


def label(identity: Any = "1", category: Any = "car", **fields: Any) -> dict[str, Any]:
    """A label whose box is 10 x 20 pixels by the inclusive convention."""
    box = {"x1": 10.0, "y1": 20.0, "x2": 19.0, "y2": 39.0}
    return {"id": identity, "category": category, "box2d": box, **fields}


def frame(index: int, *labels: Any, **fields: Any) -> dict[str, Any]:
    """A frame of the current release."""
    name = frame_name(NAME, index)
    found = {"name": name, "videoName": NAME, "frameIndex": index, "labels": list(labels)}
    return {**found, **fields}


def write(path: Path, content: Any) -> Path:
    """Content as JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
