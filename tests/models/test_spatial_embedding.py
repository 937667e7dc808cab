"""SpatialEmbedding's network against its layers called one by one, under the released names."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.layouts import rename_keys
from models.pointtrack.coordinates import coordinate_lines, coordinate_map
from models.pointtrack.segmentation import SpatialEmbedding, SpatialEmbeddingConfig
from tests.released_erfnet import random_state, run_layers

pytestmark = pytest.mark.usefixtures("one_thread")


def random_network(seed: int = 0) -> SpatialEmbedding:
    torch.manual_seed(seed)
    return SpatialEmbedding(SpatialEmbeddingConfig())


# ---------------------------------------------------------------- network


@pytest.mark.parametrize("size", [(16, 24), (40, 8)], ids=str)
def test_the_network_is_its_layers_in_order(size: tuple[int, int]) -> None:
    state = random_state()
    network = random_network().eval()
    network.load_state_dict(rename_keys(state, "spatial_embedding"), strict=True)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    doubles = {name: value.double() for name, value in state.items()}
    expected = run_layers(doubles, images.double())
    assert expected.std(dim=(0, 2, 3)).min() > 0.01  # every channel says something
    found = network.double()(images.double())
    assert found.shape == (2, 5, *size)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_it_has_the_published_size() -> None:
    with torch.device("meta"):
        network = SpatialEmbedding(SpatialEmbeddingConfig())
    assert len(network.state_dict()) == 433
    assert sum(value.numel() for value in network.parameters()) == 2_252_838


def test_dropout_is_in_the_encoder_alone_and_rises() -> None:
    network = random_network()
    rates = [m.p for m in network.modules() if isinstance(m, nn.Dropout2d)]
    assert rates == [0.03] * 5 + [0.3] * 8
    inside = [m.p for m in network.encoder.modules() if isinstance(m, nn.Dropout2d)]
    assert inside == rates


def test_every_norm_has_the_larger_epsilon() -> None:
    norms = [m for m in random_network().modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3 + 2 * 13 + 2 * (2 + 2 * 4)
    assert {norm.eps for norm in norms} == {1e-3}


def test_training_starts_without_offsets_and_with_a_sigma_of_one() -> None:
    images = torch.rand(1, 3, 16, 16)
    prediction = random_network().train()(images)
    assert (prediction[:, :2] == 0).all()
    assert (prediction[:, 2:4] == 1).all()
    assert prediction[:, 4].std() > 0  # the seed starts like any layer of torch
    # Nothing else is touched: the same layers made one after the other have the same values.
    fresh = nn.Conv2d(3, 13, 3)
    torch.manual_seed(0)
    fresh.reset_parameters()
    torch.manual_seed(0)
    assert torch.equal(
        SpatialEmbedding(SpatialEmbeddingConfig()).encoder.stem.conv.weight, fresh.weight
    )


def test_the_unused_layer_gets_no_gradient() -> None:
    network = random_network()
    network(torch.rand(1, 3, 16, 16)).sum().backward()
    assert network.encoder.unused_output.weight.grad is None
    without = [name for name, value in network.named_parameters() if value.grad is None]
    assert without == ["encoder.unused_output.weight", "encoder.unused_output.bias"]


@pytest.mark.parametrize(
    "shape", [(1, 3, 12, 16), (1, 3, 16, 20), (3, 16, 16), (1, 4, 16, 16)], ids=str
)
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        random_network()(torch.zeros(shape))


def test_whole_frames_are_padded_by_their_edge_and_cut_back() -> None:
    network = random_network().eval()
    network.load_state_dict(rename_keys(random_state(), "spatial_embedding"))
    image = torch.rand(1, 3, 37, 50)
    padded = torch.zeros(1, 3, 64, 64)
    for row in range(64):
        for column in range(64):
            padded[..., row, column] = image[..., min(row, 36), min(column, 49)]
    found = network.predict(image)
    assert found.shape == (1, 5, 37, 50)
    assert not found.requires_grad
    assert torch.equal(found, network(padded)[..., :37, :50])


@pytest.mark.parametrize("size", [(375, 1242), (370, 1224), (370, 1226), (374, 1238), (376, 1241)])
def test_every_size_of_kitti_becomes_the_released_one(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def forward(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return torch.zeros(1, 5, *images.shape[2:])

    network = random_network()
    monkeypatch.setattr(network, "forward", forward)
    assert network.predict(torch.zeros(1, 3, *size)).shape == (1, 5, *size)
    assert seen == [(1, 3, 384, 1248)]


# ---------------------------------------------------------------- config


def test_settings_of_the_released_runs() -> None:
    car, pedestrian = SpatialEmbeddingConfig(), SpatialEmbeddingConfig.pedestrian()
    assert (car.class_name, car.seed_threshold, car.min_pixels) == ("car", 0.94, 160)
    assert (pedestrian.class_name, pedestrian.min_pixels) == ("pedestrian", 192)
    assert pedestrian.seed_threshold == car.seed_threshold


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"class_name": ""}, "class_name is '', expected a name", id="no class"),
        pytest.param({"seed_threshold": 1.1}, "seed_threshold is 1.1", id="share above 1"),
        pytest.param({"seed_threshold": float("nan")}, "seed_threshold is nan", id="no number"),
        pytest.param({"min_pixels": -1}, "min_pixels is -1", id="negative"),
        pytest.param({"pad_divisor": 12}, "pad_divisor is 12, expected a multiple of 8", id="12"),
        pytest.param({"pad_divisor": 0}, "pad_divisor is 0", id="zero"),
    ],
)
def test_wrong_settings_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialEmbeddingConfig(**values)


# ---------------------------------------------------------------- coordinates


def test_the_two_axes_have_different_steps_whatever_the_size() -> None:
    small, large = coordinate_map(11, 21), coordinate_map(1024, 2048)
    assert large.dtype == torch.float32
    assert torch.equal(small, large[:, :11, :21])
    torch.testing.assert_close(small[0, 3, 20].item(), 2 * 20 / 2047, rtol=1e-6, atol=0)
    torch.testing.assert_close(small[1, 10, 7].item(), 10 / 1023, rtol=1e-6, atol=0)
    assert small[0, 0, 1] != small[1, 1, 0]
    assert large[:, -1, -1].tolist() == [2.0, 1.0]
    assert large[:, 0, 0].tolist() == [0.0, 0.0]


def test_lines_are_the_map_along_its_edges() -> None:
    x, y = coordinate_lines(5, 9)
    both = coordinate_map(5, 9)
    assert torch.equal(both[0], x.expand(5, 9))
    assert torch.equal(both[1], y[:, None].expand(5, 9))


@pytest.mark.parametrize("size", [(1025, 10), (10, 2049)], ids=str)
def test_beyond_the_map_there_are_no_coordinates(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="they end at 1024 x 2048"):
        coordinate_map(*size)
