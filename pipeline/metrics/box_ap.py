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
    truth_rows: list[dict[str, Any]] = []
    detection_rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for name in sorted(items):
        annotations, detections = items[name]
        first_image = len(images) + 1
        images += [{"id": first_image + frame} for frame in range(detections.num_frames)]
        truth_rows += _truth_rows(annotations, first_image, len(truth_rows) + 1)
        detection_rows += _detection_rows(detections, first_image)
    precision = _precision(images, truth_rows, detection_rows, len(classes))
    return _summarise(precision, classes)


def _truth_rows(annotations: Annotations, first_image: int, first_id: int) -> list[dict[str, Any]]:
    kept = annotations.select(annotations.class_index >= 0)
    boxes = _xywh(kept.boxes_xyxy)
    absorbs = kept.crowd | kept.ignored
    return [
        {
            "id": first_id + row,
            "image_id": first_image + frame,
            "category_id": class_index + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(crowd),
        }
        for row, (frame, class_index, box, crowd) in enumerate(
            zip(
                kept.frame_index.tolist(),
                kept.class_index.tolist(),
                boxes,
                absorbs.tolist(),
                strict=True,
            )
        )
    ]


def _detection_rows(detections: Detections, first_image: int) -> list[dict[str, Any]]:
    return [
        {
            "image_id": first_image + frame,
            "category_id": class_index + 1,
            "bbox": box,
            "score": score,
        }
        for frame, class_index, box, score in zip(
            detections.frame_index().tolist(),
            detections.class_indices.tolist(),
            _xywh(detections.boxes_xyxy.astype(np.float64)),
            detections.scores.tolist(),
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
    num_classes: int,
) -> np.ndarray[Any, Any] | None:
    """(10 thresholds, 101 recalls, classes), -1 where a class has no truth; None without truth."""
    if not truth_rows:
        return None
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    categories = [{"id": index + 1} for index in range(num_classes)]
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
    precision: np.ndarray[Any, Any] = evaluation.eval["precision"][:, :, :, 0, -1]
    return precision


def _summarise(
    precision: np.ndarray[Any, Any] | None, classes: Sequence[str]
) -> dict[str, float | None]:
    names = ["AP", "AP50", "AP75", *(f"AP/{name}" for name in classes)]
    if precision is None:
        return dict.fromkeys(names)
    chosen = [precision, precision[0], precision[5], *np.moveaxis(precision, 2, 0)]
    return {name: _mean(values) for name, values in zip(names, chosen, strict=True)}


def _mean(precision: np.ndarray[Any, Any]) -> float | None:
    known = precision[precision > -1]
    return 100.0 * float(known.mean()) if known.size else None
