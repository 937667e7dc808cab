"""RoI features: half-pixel shift, adaptive samples, the level rule and the order of rows."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from models.detectors.config import PoolingConfig
from models.detectors.roi_align import assign_levels, pool_rois


def square(side: float) -> Tensor:
    return torch.tensor([[0.0, 0.0, side, side]])


def levels_of(values: list[float], channels: int = 1, extent: int = 256) -> list[Tensor]:
    """A pyramid for a square image whose level l is constant `values[l]`."""
    return [
        torch.full((1, channels, extent // stride, extent // stride), value)
        for value, stride in zip(values, (4, 8, 16, 32, 64), strict=True)
    ]


def below(value: float) -> float:
    """The next smaller float32."""
    return float(np.nextafter(np.float32(value), np.float32(0)))


@pytest.mark.parametrize(
    ("side", "mmdet", "vis4d"),
    [
        pytest.param(0.0, 0, 0, id="no area"),
        pytest.param(1.0, 0, 0, id="one pixel"),
        pytest.param(111.0, 0, 0, id="small"),
        pytest.param(111.99996, 1, 0, id="inside the larger guard only"),
        pytest.param(112.0, 1, 1, id="first limit"),
        pytest.param(223.0, 1, 1, id="below the second limit"),
        pytest.param(224.0, 2, 2, id="second limit"),
        pytest.param(448.0, 3, 3, id="third limit"),
        pytest.param(5000.0, 3, 3, id="larger than any level"),
    ],
)
def test_level_of_a_square(side: float, mmdet: int, vis4d: int) -> None:
    assert assign_levels(square(side), "mmdet").tolist() == [mmdet]
    assert assign_levels(square(side), "vis4d").tolist() == [vis4d]


@pytest.mark.parametrize("rule", ["mmdet", "vis4d"])
def test_levels_are_the_formula_in_double_precision(rule: str) -> None:
    draw = np.random.default_rng(0)
    sizes = draw.uniform(1, 900, (500, 2))
    boxes = torch.tensor(np.hstack([np.zeros((500, 2)), sizes]), dtype=torch.float32)
    expected = []
    for width, height in sizes:
        side = math.sqrt(width * height)
        value = (
            math.floor(math.log2(side / 56 + 1e-6))
            if rule == "mmdet"
            else math.floor(4 + math.log2(side / 224 + 1e-8)) - 2
        )
        expected.append(min(max(value, 0), 3))
    assert assign_levels(boxes, rule).tolist() == expected


def test_inverted_boxes_have_no_area_in_the_level_rule() -> None:
    box = torch.tensor([[300.0, 300.0, 0.0, 0.0]])
    assert assign_levels(box, "vis4d").tolist() == [0]


def slow_roi_align(feature: Tensor, box: list[float], stride: int, size: int) -> list[list[float]]:
    """Mean of bilinear samples per bin, pixel centres at half; samples = ceil(bin pixels)."""
    height, width = feature.shape

    def sample(y: float, x: float) -> float:
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        down, across = y - top, x - left
        upper = feature[top, left] * (1 - across) + feature[top, right] * across
        lower = feature[bottom, left] * (1 - across) + feature[bottom, right] * across
        return float(upper * (1 - down) + lower * down)

    x1, y1, x2, y2 = (side / stride - 0.5 for side in box)
    bin_height, bin_width = (y2 - y1) / size, (x2 - x1) / size
    rows, columns = math.ceil(bin_height), math.ceil(bin_width)
    return [
        [
            sum(
                sample(
                    y1 + (i + (a + 0.5) / rows) * bin_height,
                    x1 + (j + (b + 0.5) / columns) * bin_width,
                )
                for a in range(rows)
                for b in range(columns)
            )
            / (rows * columns)
            for j in range(size)
        ]
        for i in range(size)
    ]


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([10.0, 20.0, 50.0, 100.0], id="less than a sample per bin"),
        pytest.param([8.3, 6.1, 100.7, 110.2], id="several samples per bin"),
        pytest.param([-20.0, -9.0, 40.0, 90.0], id="beyond the border"),
        pytest.param([0.0, 0.0, 128.0, 60.0], id="up to the border"),
    ],
)
def test_pooling_is_that_of_loops(box: list[float]) -> None:
    feature = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    pyramid = [feature[None, None], *(torch.zeros(1, 1, side, side) for side in (16, 8, 4))]
    pooled = pool_rois(pyramid, [torch.tensor([box])], PoolingConfig())
    np.testing.assert_allclose(pooled[0, 0].numpy(), slow_roi_align(feature, box, 4, 7), atol=1e-5)


def test_pooling_by_hand_on_a_ramp() -> None:
    """On a plane that rises by 1 per pixel a bin's mean is the coordinate of its centre."""
    ramp = torch.arange(32.0)[None, :].expand(32, 32)[None, None]
    pyramid = [ramp, *(torch.zeros(1, 1, side, side) for side in (16, 8, 4))]
    pooled = pool_rois(pyramid, [torch.tensor([[28.0, 28.0, 84.0, 84.0]])], PoolingConfig())
    # 7 to 21 in cells: bins 2 wide, centres 8, 10 ... 20; the value at x is x - 0.5.
    np.testing.assert_allclose(
        pooled[0, 0, 0].numpy(), [7.5, 9.5, 11.5, 13.5, 15.5, 17.5, 19.5], atol=1e-5
    )


@pytest.mark.parametrize(
    ("aligned", "sampling_ratio"),
    [
        pytest.param(False, 0, id="torchvision's missing half pixel"),
        pytest.param(True, 2, id="torchvision's two samples per bin"),
    ],
)
def test_torchvisions_own_settings_would_give_other_features(
    aligned: bool, sampling_ratio: int
) -> None:
    feature = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    pyramid = [feature, *(torch.zeros(1, 1, side, side) for side in (16, 8, 4))]
    box = torch.tensor([[4.0, 4.0, 104.0, 104.0]])
    pooled = pool_rois(pyramid, [box], PoolingConfig())
    other = roi_align(
        feature, [box], 7, spatial_scale=0.25, sampling_ratio=sampling_ratio, aligned=aligned
    )
    assert (pooled - other).abs().max() > 0.05


def test_each_box_reads_its_own_level_and_never_the_fifth() -> None:
    boxes = torch.cat([square(side) for side in (250.0, 40.0, 130.0, 30.0)])
    wide = torch.tensor([[0.0, 0.0, 1000.0, 250.0]])
    pooled = pool_rois(
        levels_of([1.0, 2.0, 3.0, 4.0, 5.0]), [torch.cat([boxes, wide])], PoolingConfig()
    )
    assert pooled[:, 0, 0, 0].tolist() == [3.0, 1.0, 2.0, 1.0, 4.0]


def test_rows_follow_images_and_then_boxes() -> None:
    pyramid = [torch.cat([level, level + 10, level + 20]) for level in levels_of([1.0, 2, 3, 4, 5])]
    boxes = [torch.cat([square(130.0), square(20.0)]), torch.zeros(0, 4), square(130.0)]
    pooled = pool_rois(pyramid, boxes, PoolingConfig())
    assert pooled[:, 0, 0, 0].tolist() == [2.0, 1.0, 22.0]


def test_no_boxes_give_no_rows_but_keep_the_gradient_path() -> None:
    pyramid = [level.requires_grad_() for level in levels_of([1.0, 2.0, 3.0, 4.0, 5.0], channels=6)]
    pooled = pool_rois(pyramid, [torch.zeros(0, 4)], PoolingConfig(output_size=5))
    assert pooled.shape == (0, 6, 5, 5)
    pooled.sum().backward()
    assert all(level.grad is not None for level in pyramid[:4])


def test_half_precision_features_are_read_at_full_coordinates() -> None:
    """In half precision the edge at 1207.3 would be at 1207, and one at 2401.3 at 2402."""
    ramp = torch.arange(640.0)[None, None, None, :].expand(1, 1, 16, 640)  # exact in float16
    coarse = [torch.zeros(1, 1, 4, 4) for _ in range(3)]
    boxes = [torch.tensor([[1207.3, 0.0, 1279.3, 50.0], [2401.3, 0.0, 2461.3, 50.0]])]
    exact = pool_rois([ramp, *coarse], boxes, PoolingConfig())
    half = pool_rois([ramp.half(), *coarse], boxes, PoolingConfig())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact)
