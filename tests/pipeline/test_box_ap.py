"""Box AP on cases that can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from datasets.schema import Annotations, Detections
from pipeline.metrics.box_ap import box_average_precision

CLASSES = ("pedestrian", "car")
BOXES = np.array([[10, 10, 50, 50], [60, 60, 100, 120], [10, 10, 50, 50]], np.float64)


def truth() -> Annotations:
    """Two cars in frame 0, one pedestrian in frame 2; frame 1 is empty."""
    empty = np.zeros(3, bool)
    return Annotations(
        frame_index=np.array([0, 0, 2], np.int32),
        identity=np.arange(3, dtype=np.int64),
        identity_source=("a", "b", "c"),
        category=("car", "car", "pedestrian"),
        class_index=np.array([1, 1, 0], np.int16),
        boxes_xyxy=BOXES,
        crowd=empty,
        ignored=empty,
        occluded=empty,
        truncated=empty,
        visibility=np.full(3, np.nan, np.float32),
    )


def detections(boxes: np.ndarray, classes: list[int]) -> Detections:
    return Detections(
        frame_offsets=np.array([0, 2, 2, 3], np.int64),
        boxes_xyxy=boxes.astype(np.float32),
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        class_indices=np.array(classes, np.int16),
        embeddings=np.zeros((3, 0), np.float32),
    )


def test_perfect_boxes_reach_a_hundred() -> None:
    scores = box_average_precision({"s": (truth(), detections(BOXES, [1, 1, 0]))}, CLASSES)
    assert list(scores.values()) == pytest.approx([100.0] * 5)


def test_a_class_found_in_no_box_counts_with_zero() -> None:
    scores = box_average_precision({"s": (truth(), detections(BOXES, [1, 1, 1]))}, CLASSES)
    assert scores["AP/pedestrian"] == pytest.approx(0.0)
    assert scores["AP50"] == pytest.approx(50.0)


def test_boxes_of_iou_two_thirds_count_up_to_that_threshold() -> None:
    shrunk = BOXES.copy()
    shrunk[:, 3] = shrunk[:, 1] + (shrunk[:, 3] - shrunk[:, 1]) * (2 / 3 + 1e-6)
    scores = box_average_precision({"s": (truth(), detections(shrunk, [1, 1, 0]))}, CLASSES)
    assert scores["AP50"] == pytest.approx(100.0)
    assert scores["AP75"] == pytest.approx(0.0)
    assert scores["AP"] == pytest.approx(40.0)  # thresholds 0.50, 0.55, 0.60 and 0.65 of ten


def test_crowds_are_never_missed_and_absorb() -> None:
    crowd = replace(truth(), crowd=np.array([True, False, False]))
    scores = box_average_precision({"s": (crowd, detections(BOXES, [1, 1, 0]))}, CLASSES)
    assert scores["AP/car"] == pytest.approx(100.0)


def test_classes_without_truth_have_no_value() -> None:
    scores = box_average_precision({"s": (truth(), detections(BOXES, [1, 1, 0]))}, (*CLASSES, "x"))
    assert scores["AP/x"] is None
    assert scores["AP"] == pytest.approx(100.0)
    empty = box_average_precision(
        {"s": (Annotations.empty(), detections(BOXES, [1, 1, 0]))}, CLASSES
    )
    assert set(empty.values()) == {None}
