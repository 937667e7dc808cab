"""The association network: layers, orders and pools against a plain recomputation by key names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config_io import config_from_dict, config_to_dict
from models.pointtrack.config import PointTrackConfig
from models.pointtrack.layout import OFFICIAL_KEYS
from models.pointtrack.network import PointTrackNet, embed_positions
from models.weights import convert_state_dict

pytestmark = pytest.mark.usefixtures("one_thread")

CAR = PointTrackConfig(class_name="car")
FEW = PointTrackConfig(class_name="car", num_points=40, num_environment_points=20)

State = dict[str, Tensor]


def make_network(config: PointTrackConfig, seed: int = 0) -> PointTrackNet:
    torch.manual_seed(seed)
    return PointTrackNet(config).eval()


def make_inputs(config: PointTrackConfig, num_instances: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    num_points = config.num_points + config.num_environment_points
    corner = torch.rand(num_instances, 2) * 0.8
    return (
        torch.randn(num_instances, num_points, 8),
        torch.cat([corner, corner + torch.rand(num_instances, 2) * 0.2], dim=1),
    )


def official_shapes() -> dict[str, list[int]]:
    """Keys and shapes of the release, written down from its description."""
    layers = {
        "conv1": (2, 64),
        "conv2": (64, 128),
        "conv3": (128, 256),
        "e_conv1": (3, 64),
        "e_conv2": (64, 128),
        "e_conv3": (128, 256),
        "conv4": (512, 256),
        "conv5": (256, 512),
        "conv6": (512, 64),
        "conv7": (512, 256),
        "conv8": (256, 512),
        "conv9": (512, 64),
        "conv_weight": (128, 1),
        "borderConv.conv1": (2, 64),
        "borderConv.conv2": (64, 128),
        "borderConv.conv3": (128, 128),
        "borderConv.e_conv1": (3, 64),
        "borderConv.e_conv2": (64, 128),
        "borderConv.e_conv3": (128, 256),
        "borderConv.t_conv1": (3, 64),
        "borderConv.t_conv2": (64, 128),
        "borderConv.t_conv3": (128, 128),
        "borderConv.conv4": (512, 256),
        "borderConv.conv5": (256, 512),
        "borderConv.conv6": (512, 256),
    }
    shapes: dict[str, list[int]] = {}
    for name, (width, next_width) in layers.items():
        shapes[f"point_feat.{name}.weight"] = [next_width, width, 1]
        shapes[f"point_feat.{name}.bias"] = [next_width]
        if "borderConv" not in name and name not in ("conv6", "conv9", "conv_weight"):
            for value in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"point_feat.{name}_bn.{value}"] = [next_width]
            shapes[f"point_feat.{name}_bn.num_batches_tracked"] = []
    for place, (width, next_width) in {"0": (960, 256), "2": (256, 32)}.items():
        shapes[f"point_feat.last_emb.{place}.weight"] = [next_width, width]
        shapes[f"point_feat.last_emb.{place}.bias"] = [next_width]
    return shapes


def official_state(seed: int = 0) -> State:
    """Random values under the release's names, of sizes that keep every branch alive."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for key, shape in official_shapes().items():
        values = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            state[key] = values.abs() + 0.1
        elif len(shape) > 1:
            state[key] = values * (2 / shape[1]) ** 0.5
        elif "_bn.weight" in key:
            state[key] = 1 + 0.2 * values
        else:
            state[key] = 0.2 * values
    return state


def recompute(state: State, points: Tensor, positions: Tensor, num_points: int) -> Tensor:
    """The description of the network, in float64, one sum per line."""
    values = {key.removeprefix("point_feat."): value.double() for key, value in state.items()}

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.01 * x)

    def conv(name: str, x: Tensor) -> Tensor:
        weight = values[f"{name}.weight"][:, :, 0]
        return weight @ x + values[f"{name}.bias"][:, None]

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = values[f"{name}.running_mean"], values[f"{name}.running_var"]
        x = (x - mean[:, None]) / (var[:, None] + 1e-5).sqrt()
        return x * values[f"{name}.weight"][:, None] + values[f"{name}.bias"][:, None]

    def normed(names: str, x: Tensor) -> Tensor:
        for name in names.split():
            x = leaky(norm(f"{name}_bn", conv(name, x)))
        return x

    def bare(names: str, x: Tensor) -> Tensor:
        for name in names.split():
            x = leaky(conv(name, x))
        return x

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    own = points[:, :num_points].double().transpose(1, 2)
    around = points[:, num_points:].double().transpose(1, 2)
    features = torch.cat(
        [normed("conv1 conv2 conv3", own[:, 3:5]), normed("e_conv1 e_conv2 e_conv3", own[:, :3])], 1
    )
    average = bare("conv6", normed("conv4 conv5", features))
    maximum = bare("conv9", normed("conv7 conv8", features))
    logits = conv("conv_weight", torch.cat([average, maximum], 1))
    weights = logits.exp() / logits.exp().sum(dim=2, keepdim=True)
    names = [f"borderConv.{kind}conv{{}}" for kind in ("", "e_", "t_")]
    parts = [
        bare(" ".join(name.format(i) for i in (1, 2, 3)), around[:, rows])
        for name, rows in zip(names, (slice(3, 5), slice(0, 3), slice(5, 8)), strict=True)
    ]
    environment = bare(
        "borderConv.conv4 borderConv.conv5 borderConv.conv6", torch.cat(parts, dim=1)
    )
    pooled = [
        average.sum(dim=2) / num_points,
        maximum.max(dim=2).values,
        (features * weights).sum(dim=2),
        environment.max(dim=2).values,
        position_by_hand(positions),
    ]
    return linear("last_emb.2", leaky(linear("last_emb.0", torch.cat(pooled, dim=1))))


def position_by_hand(positions: Tensor) -> Tensor:
    rows = []
    for x1, y1, x2, y2 in positions.double().tolist():
        quantities = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1 + 1, y2 - y1 + 1]
        angles = [100 * value * 1000 ** (-k / 8) for value in quantities for k in range(8)]
        rows.append([*np.sin(angles), *np.cos(angles)])
    return torch.tensor(rows, dtype=torch.float64)


class TestPublishedState:
    def test_number_of_parameters_and_entries(self) -> None:
        model = make_network(CAR)
        assert sum(parameter.numel() for parameter in model.parameters()) == 1_419_809
        assert len(model.state_dict()) == 104

    def test_every_key_of_the_manifest_fits(self, shared: Path) -> None:
        path = shared / "reference" / "checkpoints" / "pointtrack_tracker.json"
        manifest = json.loads(path.read_text())
        entries = manifest["state_dict"]
        assert {key: entry["shape"] for key, entry in entries.items()} == official_shapes()
        official = {
            manifest["prefix_in_official_checkpoint"] + key: torch.zeros(
                entry["shape"], dtype=getattr(torch, entry["dtype"])
            )
            for key, entry in entries.items()
        }
        renamed = convert_state_dict(official, "pointtrack")
        ours = make_network(CAR).state_dict()
        assert renamed.keys() == ours.keys()
        for name, value in renamed.items():
            assert (value.shape, value.dtype) == (ours[name].shape, ours[name].dtype), name
        buffers = {key for key, entry in entries.items() if entry["kind"] == "buffer"}
        parameters = dict(make_network(CAR).named_parameters())
        assert {key for key in OFFICIAL_KEYS if OFFICIAL_KEYS[key] not in parameters} == buffers

    @pytest.mark.parametrize(("config", "num_instances"), [(CAR, 1), (FEW, 3)])
    def test_converted_state_gives_the_described_numbers(
        self, config: PointTrackConfig, num_instances: int
    ) -> None:
        """Concatenations, which layers have a norm, pools, softmax, position: any slip shows."""
        state = official_state()
        model = make_network(config)
        model.load_state_dict(convert_state_dict(state, "pointtrack"), strict=True)
        points, positions = make_inputs(config, num_instances)
        expected = recompute(state, points, positions, config.num_points)
        assert expected.std() > 0.1
        with torch.inference_mode():
            found = model(points, positions)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)

    def test_every_value_of_the_state_counts(self) -> None:
        """A branch that died, or that a pool hid, would pass the comparison above unnoticed."""
        state = official_state()
        model = make_network(FEW)
        model.load_state_dict(convert_state_dict(state, "pointtrack"), strict=True)
        inputs = make_inputs(FEW)
        with torch.inference_mode():
            before = model(*inputs)
            for name, value in model.state_dict().items():
                if name.endswith("num_batches_tracked") or name == "foreground.weighting.bias":
                    continue  # a counter, and a number that softmax takes out again
                kept = value.clone()
                value += 0.1 * torch.randn(value.shape)
                assert not torch.equal(model(*inputs), before), name
                value.copy_(kept)

    def test_norms_are_where_the_release_has_them(self) -> None:
        norms = {
            name
            for name, module in make_network(CAR).named_modules()
            if isinstance(module, nn.BatchNorm1d)
        }
        assert len(norms) == 10
        assert all(name.startswith("foreground.") for name in norms)
        assert not norms & {"foreground.average.norms.2", "foreground.maximum.norms.2"}
        assert all(
            module.eps == 1e-5
            for module in make_network(CAR).modules()
            if isinstance(module, nn.BatchNorm1d)
        )

    @pytest.mark.parametrize("wrapper", ["", "module."])
    def test_wrapper_may_stand_in_front(self, wrapper: str) -> None:
        state = official_state()
        wrapped = {wrapper + key: value for key, value in state.items()}
        renamed = convert_state_dict(wrapped, "pointtrack")
        assert all(renamed[ours] is state[official] for official, ours in OFFICIAL_KEYS.items())

    def test_missing_and_unused_keys_are_named(self) -> None:
        state = official_state()
        del state["point_feat.conv6.bias"]
        state["point_feat.conv6_bn.bias"] = torch.zeros(64)
        with pytest.raises(ValueError, match=r"conv6_bn\.bias"):
            convert_state_dict(state, "pointtrack")
        del state["point_feat.conv6_bn.bias"]
        with pytest.raises(
            ValueError, match=r"1 missing keys: foreground\.average\.convs\.2\.bias"
        ):
            convert_state_dict(state, "pointtrack")


class TestNetwork:
    def test_foreground_ignores_categories_and_the_environment_does_not(self) -> None:
        model = make_network(FEW)
        points, positions = make_inputs(FEW)
        before = model(points, positions)
        points[:, :40, 5:] += 1
        assert torch.equal(model(points, positions), before)
        points[:, 40:, 5:] += 1
        assert not torch.equal(model(points, positions), before)

    def test_order_of_points_does_not_matter_within_a_kind(self) -> None:
        model = make_network(FEW)
        points, positions = make_inputs(FEW)
        mixed = torch.cat([points[:, torch.randperm(40)], points[:, 40 + torch.randperm(20)]], 1)
        torch.testing.assert_close(
            model(mixed, positions), model(points, positions), rtol=1e-4, atol=1e-6
        )
        swapped = torch.cat([points[:, 20:], points[:, :20]], 1)
        assert (model(swapped, positions) - model(points, positions)).abs().max() > 1e-4

    def test_instances_do_not_see_each_other(self) -> None:
        model = make_network(FEW)
        points, positions = make_inputs(FEW, 5)
        alone = torch.cat([model(points[i : i + 1], positions[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(model(points, positions), alone, rtol=1e-4, atol=1e-6)

    def test_embeddings_are_neither_rectified_nor_normalised(self) -> None:
        model = make_network(FEW)
        with torch.no_grad():
            model.output.bias.copy_(torch.linspace(-30, 30, 32))
        embeddings = model(*make_inputs(FEW))
        assert embeddings.min() < -20
        assert embeddings.norm(dim=1).min() > 20

    def test_weights_are_those_of_the_weighted_sum(self) -> None:
        model = make_network(FEW)
        points, positions = make_inputs(FEW)
        embeddings, weights = model.embed_with_weights(points, positions)
        assert torch.equal(embeddings, model(points, positions))
        assert weights.shape == (2, 40)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
        with torch.no_grad():
            model.foreground.weighting.weight.mul_(1000)
            sharper = model.embed_with_weights(points, positions)[1]
            model.foreground.weighting.weight.zero_()
            uniform = model.embed_with_weights(points, positions)[1]
        torch.testing.assert_close(uniform, torch.full((2, 40), 1 / 40))
        assert torch.equal(sharper.argmax(dim=1), weights.argmax(dim=1))
        assert (sharper.amax(dim=1) > weights.amax(dim=1) + 0.01).all()

    def test_no_instance_gives_no_embedding(self) -> None:
        model = make_network(CAR)
        embeddings, weights = model.embed_with_weights(torch.zeros(0, 1500, 8), torch.zeros(0, 4))
        assert embeddings.shape == (0, 32)
        assert weights.shape == (0, 1000)

    @pytest.mark.parametrize(
        ("points", "positions", "message"),
        [
            ((2, 1499, 8), (2, 4), r"\(2, 1499, 8\), expected \(B, 1500, 8\)"),
            ((2, 1501, 8), (2, 4), "1000 foreground and 500 environment"),
            ((2, 1500, 5), (2, 4), r"\(2, 1500, 5\)"),
            ((1500, 8), (4,), r"\(1500, 8\)"),
            ((2, 1500, 8), (3, 4), r"\(3, 4\), expected \(2, 4\)"),
        ],
    )
    def test_wrong_shapes_are_named(
        self, points: tuple[int, ...], positions: tuple[int, ...], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            make_network(CAR)(torch.zeros(points), torch.zeros(positions))

    def test_training_uses_the_statistics_of_the_item(self) -> None:
        model = make_network(FEW).train()
        points, positions = make_inputs(FEW, 3)
        model(points, positions).square().sum().backward()
        assert all(
            parameter.grad is not None and parameter.grad.isfinite().all()
            for parameter in model.parameters()
        )
        layers = model.foreground.offsets
        raw = layers.convs[0](points[:, :40, 3:5].transpose(1, 2))
        expected = 0.1 * raw.mean(dim=(0, 2))
        torch.testing.assert_close(layers.norms[0].running_mean, expected, rtol=1e-4, atol=1e-6)
        with pytest.raises(ValueError, match="no instance"):  # whose statistics would be NaN
            model(points[:0], positions[:0])

    def test_frozen_norms_give_the_same_numbers_and_gradients_in_training(self) -> None:
        """Evaluation folds the norms into the layers before them."""
        model = make_network(FEW)
        model.load_state_dict(convert_state_dict(official_state(), "pointtrack"), strict=True)
        inputs = make_inputs(FEW)
        results = []
        for fold in (True, False):
            model.zero_grad()
            if fold:
                embeddings = model(*inputs)
            else:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("models.pointtrack.network._fold", _not_folded)
                    embeddings = model(*inputs)
            embeddings.sum().backward()
            gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
            results.append((embeddings.detach(), gradients))
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)

    def test_positions_by_hand(self) -> None:
        positions = torch.tensor([[0.1, 0.2, 0.15, 0.5], [0.0, 0.0, 0.0, 0.0]])
        found = embed_positions(positions)
        assert found.shape == (2, 64)
        torch.testing.assert_close(found.double(), position_by_hand(positions), rtol=0, atol=1e-4)
        # Nothing large: width and height are 1 then, not a pixel.
        assert found[1, 16].item() == pytest.approx(np.sin(100), abs=1e-5)
        assert embed_positions(torch.zeros(0, 4)).shape == (0, 64)

    def test_it_can_be_built_without_memory_and_filled(self) -> None:
        with torch.device("meta"):
            model = PointTrackNet(FEW)
        state = convert_state_dict(official_state(), "pointtrack")
        model.load_state_dict(state, strict=True, assign=True)
        assert model.eval()(*make_inputs(FEW)).isfinite().all()


class TestConfig:
    def test_published_numbers_are_the_defaults(self) -> None:
        assert (CAR.embedding_dim, CAR.num_points, CAR.num_environment_points) == (32, 1000, 500)
        assert CAR.margin == 0.2

    def test_it_survives_a_file(self) -> None:
        assert config_from_dict(PointTrackConfig, config_to_dict(FEW)) == FEW

    @pytest.mark.parametrize(
        "change",
        [
            {"class_name": ""},
            {"embedding_dim": 0},
            {"num_points": 0},
            {"num_environment_points": -1},
            {"margin": -0.1},
            {"margin": float("nan")},
        ],
    )
    def test_wrong_values_are_named(self, change: dict[str, float | str]) -> None:
        with pytest.raises(ValueError, match=next(iter(change))):
            PointTrackConfig(**{"class_name": "car", **change})  # type: ignore[arg-type]


def _not_folded(conv: nn.Conv1d, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """A layer and its norm as one: what each makes of the unit vectors."""
    width = conv.in_channels
    units = torch.cat([torch.eye(width), torch.zeros(width, 1)], dim=1)[None]
    out = F.batch_norm(
        F.conv1d(units, conv.weight, conv.bias),
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        eps=norm.eps,
    )[0]
    return (out[:, :-1] - out[:, -1:])[..., None], out[:, -1]
