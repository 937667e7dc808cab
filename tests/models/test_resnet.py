"""The residual network is torchvision's where both exist; widths, norms and freezing are ours."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.backbones.resnet import ResNet
from models.detectors.config import BackboneConfig


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Random affine parameters and statistics too: fresh ones would hide a swapped norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if "running_var" in name or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.ndim == 1:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


def stage_outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Outputs of the four stages of torchvision's network."""
    features = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    outputs = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        features = stage(features)
        outputs.append(features)
    return outputs


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_state_names_and_shapes_are_torchvisions_without_the_classifier(depth: int) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).state_dict()
        ours = ResNet(BackboneConfig(depth=depth)).state_dict()
    expected = {k: v.shape for k, v in theirs.items() if not k.startswith("fc.")}
    assert {name: value.shape for name, value in ours.items()} == expected


@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_are_torchvisions(depth: int) -> None:
    theirs = randomised(getattr(torchvision.models, f"resnet{depth}")(weights=None), 0).eval()
    ours = ResNet(BackboneConfig(depth=depth)).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = ours(images)
        for found, expected in zip(outputs, stage_outputs(theirs, images), strict=True):
            torch.testing.assert_close(found, expected)
    assert [tuple(level.shape[-2:]) for level in outputs] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [level.shape[1] for level in outputs] == list(ours.out_channels)


def train_once(config: BackboneConfig) -> tuple[ResNet, dict[str, Tensor]]:
    """One forward and backward pass in training mode; the state before it is returned too."""
    torch.manual_seed(0)
    model = ResNet(config).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sum(level.sum() for level in model(torch.randn(2, 3, 64, 64))).backward()
    return model, before


def test_frozen_statistics_stay_while_affine_parameters_of_later_stages_learn() -> None:
    model, before = train_once(BackboneConfig(depth=18, stem_channels=8))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"conv1", "bn1", "layer1"}
    assert trained == {name for name, _ in model.named_parameters()} - frozen
    assert {"layer2.0.bn1.weight", "layer2.0.downsample.1.bias", "layer4.1.bn2.bias"} <= trained


def test_statistics_of_a_trained_batch_norm_move_except_in_frozen_stages() -> None:
    model, before = train_once(
        BackboneConfig(depth=18, stem_channels=8, norm="batch", frozen_stages=2)
    )
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert {name.split(".")[0] for name in moved} == {"layer3", "layer4"}


@pytest.mark.parametrize(
    ("frozen_stages", "expected"),
    [
        pytest.param(-1, set(), id="nothing"),
        pytest.param(0, {"conv1", "bn1"}, id="the stem"),
        pytest.param(2, {"conv1", "bn1", "layer1", "layer2"}, id="the stem and two stages"),
    ],
)
def test_frozen_stages(frozen_stages: int, expected: set[str]) -> None:
    model = ResNet(BackboneConfig(depth=18, stem_channels=8, frozen_stages=frozen_stages))
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert {name.split(".")[0] for name in frozen} == expected


def test_a_narrow_network_with_group_norm_trains_whole() -> None:
    model, _ = train_once(
        BackboneConfig(depth=34, stem_channels=16, norm="group", norm_groups=8, frozen_stages=-1)
    )
    assert model.out_channels == (16, 32, 64, 128)
    assert not any("running" in name for name in model.state_dict())
    assert all(value.grad is not None for value in model.parameters())


def test_a_narrow_bottleneck_network_is_four_times_as_wide_at_its_outputs() -> None:
    assert ResNet(BackboneConfig(depth=50, stem_channels=16)).out_channels == (64, 128, 256, 512)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"depth": 20}, "depth is 20, expected one of 18, 34, 50, 101", id="depth"),
        pytest.param({"norm": "layer"}, "norm is 'layer'", id="norm"),
        pytest.param({"frozen_stages": 5}, "frozen_stages is 5", id="more stages than there are"),
        pytest.param({"stem_channels": 0}, "stem_channels is 0", id="no channels"),
        pytest.param(
            {"norm": "group", "stem_channels": 24}, "norm_groups is 32", id="groups do not divide"
        ),
    ],
)
def test_impossible_configs_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackboneConfig(**values)
