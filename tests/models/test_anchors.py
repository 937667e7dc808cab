"""Anchors: the published numbers, and a loop over cells."""

import math

import numpy as np
import pytest
import torch

from models.detectors.anchors import STRIDES, cell_anchors, level_anchors

RATIOS = (0.5, 1.0, 2.0)


def test_anchors_of_stride_4_are_not_rounded() -> None:
    anchors = cell_anchors(4, scale=8.0, aspect_ratios=RATIOS)
    sizes = (anchors[:, 2:] - anchors[:, :2]).tolist()
    expected = [[45.2548, 22.6274], [32.0, 32.0], [22.6274, 45.2548]]
    np.testing.assert_allclose(sizes, expected, atol=1e-4)
    assert (anchors[:, :2] == -anchors[:, 2:]).all()


@pytest.mark.parametrize(
    ("stride", "side"), zip(STRIDES, [32, 64, 128, 256, 512], strict=True), ids=str
)
def test_base_size_is_eight_strides(stride: int, side: int) -> None:
    square = cell_anchors(stride, scale=8.0, aspect_ratios=(1.0,))[0]
    assert square.tolist() == [-side / 2, -side / 2, side / 2, side / 2]


def test_a_level_is_a_loop_over_rows_columns_and_ratios() -> None:
    expected = []
    for row in range(3):
        for column in range(5):
            for ratio in RATIOS:
                width, height = 128 / math.sqrt(ratio), 128 * math.sqrt(ratio)
                x, y = column * 16, row * 16  # no half cell
                expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    found = level_anchors(3, 5, 16, scale=8.0, aspect_ratios=RATIOS)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_strides_are_nominal_where_the_level_is_no_exact_fraction_of_the_image() -> None:
    # An image 736 high has 12 rows of stride 64 (11.5 rounded up): they stay 64 apart.
    anchors = level_anchors(12, 1, 64, scale=8.0, aspect_ratios=(1.0,))
    centres = (anchors[:, 1] + anchors[:, 3]) / 2
    assert centres.tolist() == [64.0 * row for row in range(12)]
