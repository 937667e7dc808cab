"""Box average precision of the detections behind a result, by COCO's rules through pycocotools.

It stands beside the tracking scores and tells whether a low one is the detector's fault. Crowd and
ignored boxes absorb detections (`iscrowd`) and are never missed.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datasets.schema import Annotations, Detections


def box_average_precision(
    items: Mapping[str, tuple[Annotations, Detections]], classes: Sequence[str]
) -> dict[str, float | None]:
    """AP over IoU 0.50 to 0.95, and at 0.50 and 0.75, in percent.

    Args:
        items: truth and detections by name of sequence; the order does not matter.
        classes: of the benchmark, in the order of `class_index`.

    Returns:
        ``AP``, ``AP50``, ``AP75`` as means over the classes that have truth, then ``AP/<class>``;
        None where a class has no truth, and everywhere if none has.
    """
    # One class at a time: the library's records of a whole benchmark would fill the memory.
    precisions = [_class_precision(items, index) for index in range(len(classes))]
    return _summarise(precisions, classes)


def _class_precision(
    items: Mapping[str, tuple[Annotations, Detections]], class_index: int
) -> np.ndarray[Any, Any] | None:
    truth_rows: list[dict[str, Any]] = []
    detection_rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for name in sorted(items):
        annotations, detections = items[name]
        first_image = len(images) + 1
        images += [{"id": first_image + frame} for frame in range(detections.num_frames)]
        truth_rows += _truth_rows(annotations, class_index, first_image, len(truth_rows) + 1)
        detection_rows += _detection_rows(detections, class_index, first_image)
    return _precision(images, truth_rows, detection_rows)


def _truth_rows(
    annotations: Annotations, class_index: int, first_image: int, first_id: int
) -> list[dict[str, Any]]:
    kept = annotations.select(annotations.class_index == class_index)
    boxes = _xywh(kept.boxes_xyxy)
    absorbs = kept.crowd | kept.ignored
    return [
        {
            "id": first_id + row,
            "image_id": first_image + frame,
            "category_id": 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(crowd),
        }
        for row, (frame, box, crowd) in enumerate(
            zip(kept.frame_index.tolist(), boxes, absorbs.tolist(), strict=True)
        )
    ]


def _detection_rows(
    detections: Detections, class_index: int, first_image: int
) -> list[dict[str, Any]]:
    rows = np.flatnonzero(detections.class_indices == class_index)
    return [
        {"image_id": first_image + frame, "category_id": 1, "bbox": box, "score": score}
        for frame, box, score in zip(
            detections.frame_index()[rows].tolist(),
            _xywh(detections.boxes_xyxy[rows].astype(np.float64)),
            detections.scores[rows].tolist(),
            strict=True,
        )
    ]


def _xywh(boxes_xyxy: np.ndarray[Any, Any]) -> list[list[float]]:
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    rows: list[list[float]] = np.concatenate([boxes_xyxy[:, :2], sizes], axis=1).tolist()
    return rows


def _precision(
    images: list[dict[str, Any]],
    truth_rows: list[dict[str, Any]],
    detection_rows: list[dict[str, Any]],
) -> np.ndarray[Any, Any] | None:
    """(10 thresholds, 101 recalls) of one class, None where it has no truth."""
    if not truth_rows:
        return None
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    categories = [{"id": 1}]
    with contextlib.redirect_stdout(io.StringIO()):  # the library reports on stdout
        truth = COCO()
        truth.dataset = {"images": images, "annotations": truth_rows, "categories": categories}
        truth.createIndex()
        found = COCO()
        found.dataset = {
            "images": images,
            "annotations": [
                {"id": i + 1, "iscrowd": 0, "area": r["bbox"][2] * r["bbox"][3], **r}
                for i, r in enumerate(detection_rows)
            ],
            "categories": categories,
        }
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # Axes: threshold, recall, class, area (0 = all), detections per image (-1 = 100).
    precision: np.ndarray[Any, Any] = evaluation.eval["precision"][:, :, 0, 0, -1]
    return precision if (precision > -1).any() else None


def _summarise(
    precisions: Sequence[np.ndarray[Any, Any] | None], classes: Sequence[str]
) -> dict[str, float | None]:
    known = [precision for precision in precisions if precision is not None]
    if not known:
        return dict.fromkeys(["AP", "AP50", "AP75", *(f"AP/{name}" for name in classes)])
    stacked = 100.0 * np.stack(known)
    return {
        "AP": float(stacked.mean()),
        "AP50": float(stacked[:, 0].mean()),
        "AP75": float(stacked[:, 5].mean()),
        **{
            f"AP/{name}": None if one is None else 100.0 * float(one.mean())
            for name, one in zip(classes, precisions, strict=True)
        },
    }
