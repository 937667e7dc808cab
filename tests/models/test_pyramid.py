"""The pyramid merges from coarse to fine, and its last level has no convolution."""

import torch
from torch import Tensor, nn

from models.detectors.pyramid import FeaturePyramid


def identity_pyramid() -> FeaturePyramid:
    """Laterals and outputs that pass one channel through unchanged."""
    pyramid = FeaturePyramid([1, 1, 1, 1], 1)
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
            nn.init.zeros_(module.bias)
    return pyramid


def constant_levels(sizes: list[tuple[int, int]]) -> list[Tensor]:
    return [torch.full((1, 1, *size), 10.0**index) for index, size in enumerate(sizes)]


def test_each_level_adds_all_coarser_ones() -> None:
    levels = identity_pyramid()(constant_levels([(16, 16), (8, 8), (4, 4), (2, 2)]))
    assert [level.unique().tolist() for level in levels] == [
        [1111.0],
        [1110.0],
        [1100.0],
        [1000.0],
        [1000.0],
    ]


def test_odd_sizes_are_fitted_exactly() -> None:
    levels = identity_pyramid()(constant_levels([(23, 40), (12, 20), (6, 10), (3, 5)]))
    sizes = [tuple(level.shape[-2:]) for level in levels]
    assert sizes == [(23, 40), (12, 20), (6, 10), (3, 5), (2, 3)]


def test_upsampling_is_nearest() -> None:
    features = [torch.zeros(1, 1, size, size) for size in (16, 8, 4, 2)]
    features[3][0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = features[3].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    assert torch.equal(identity_pyramid()(features)[0], expected)


def test_the_fifth_level_is_every_second_pixel_of_the_fourth() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid([4, 8, 16, 32], 8)
    sizes = [(4, 56), (8, 28), (16, 14), (32, 7)]
    levels = pyramid([torch.randn(2, width, side, side) for width, side in sizes])
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])
    assert len([name for name, _ in pyramid.named_parameters()]) == 16


def test_lateral_0_belongs_to_the_finest_level() -> None:
    pyramid = FeaturePyramid([4, 8, 16, 32], 8)
    assert [conv.in_channels for conv in pyramid.lateral] == [4, 8, 16, 32]
    pyramid.output[0].weight.data.zero_()
    pyramid.output[0].bias.data.fill_(7.0)
    levels = pyramid([torch.zeros(1, 4 << i, 56 >> i, 56 >> i) for i in range(4)])
    assert levels[0].unique().tolist() == [7.0]
    assert levels[1].unique().tolist() != [7.0]
