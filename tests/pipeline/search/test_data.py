"""Whether detections and truth have anything to do with each other."""

import pytest

from pipeline.evaluate import EvaluationConfig, build_protocol
from pipeline.search.data import SequenceSummary, SweepData, check_classes

PROTOCOL = build_protocol(EvaluationConfig())
NUM_CLASSES = len(PROTOCOL.classes)


def make_data(truth: dict[int, int], found: dict[int, int]) -> SweepData:
    """Two sequences with so many boxes of each class, of which the last number is of none."""
    counts = (
        tuple(boxes.get(index, 0) for index in range(NUM_CLASSES + 1)) for boxes in (truth, found)
    )
    one = SequenceSummary(
        num_frames=9, truth_per_class=next(counts), detections_per_class=next(counts), num_bytes=1
    )
    return SweepData(references={}, summaries={"a": one, "b": one})


@pytest.mark.parametrize(
    ("truth", "found"),
    [
        ({0: 5, 2: 5}, {2: 9}),
        ({0: 5, NUM_CLASSES: 7}, {0: 9}),  # truth of other classes is ignored, as in scoring
        ({}, {0: 9}),
        ({0: 5}, {}),
    ],
)
def test_what_can_be_scored_is_accepted(truth: dict[int, int], found: dict[int, int]) -> None:
    check_classes(make_data(truth, found), PROTOCOL)


def test_detections_of_classes_that_the_benchmark_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="6 detections are of classes that bdd100k does not have"):
        check_classes(make_data({0: 5}, {0: 9, NUM_CLASSES: 3}), PROTOCOL)


def test_detections_and_truth_without_a_class_in_common_are_refused() -> None:
    message = "the truth has pedestrian, rider, the detections are of car: no class in common"
    with pytest.raises(ValueError, match=message):
        check_classes(make_data({0: 5, 1: 1}, {2: 9}), PROTOCOL)
