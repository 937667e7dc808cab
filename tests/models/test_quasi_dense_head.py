"""The embedding head: layers, order of flattened features, initialisation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.qdtrack.config import EmbeddingHeadConfig, QDTrackConfig
from models.qdtrack.head import EmbeddingHead

SMALL = EmbeddingHeadConfig(
    num_convs=2, conv_channels=8, norm_groups=4, hidden_sizes=(16,), embedding_dim=5
)


def _head(config: EmbeddingHeadConfig, in_channels: int = 6, pooled_size: int = 7) -> EmbeddingHead:
    torch.manual_seed(0)
    return EmbeddingHead(config, in_channels=in_channels, pooled_size=pooled_size)


def test_published_head_has_the_published_number_of_parameters() -> None:
    head = _head(EmbeddingHeadConfig(), in_channels=256)
    assert sum(parameter.numel() for parameter in head.parameters()) == 15_469_824
    assert all(conv.bias is None for conv in head.convs)


def test_layers_in_their_order() -> None:
    head = _head(SMALL)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = head.state_dict()
    pooled = torch.randn(3, 6, 7, 7)
    values = pooled
    for i in range(2):
        values = F.conv2d(F.pad(values, (1, 1, 1, 1)), state[f"convs.{i}.weight"])
        groups = values.reshape(3, 4, 2 * 49)
        centred = groups - groups.mean(dim=2, keepdim=True)
        values = (centred / (centred.pow(2).mean(dim=2, keepdim=True) + 1e-5).sqrt()).reshape(
            3, 8, 7, 7
        )
        scale, shift = state[f"norms.{i}.weight"], state[f"norms.{i}.bias"]
        values = (values * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
    values = values.reshape(3, -1) @ state["hidden.0.weight"].T + state["hidden.0.bias"]
    values = values.clamp(min=0) @ state["output.weight"].T + state["output.bias"]
    torch.testing.assert_close(head(pooled), values, rtol=1e-4, atol=1e-5)


def test_features_are_flattened_channel_row_column() -> None:
    head = _head(EmbeddingHeadConfig(num_convs=0, hidden_sizes=(), embedding_dim=1), in_channels=2)
    nn.init.zeros_(head.output.weight)
    with torch.no_grad():
        head.output.weight[0, 1 * 49 + 3 * 7 + 5] = 1
    pooled = torch.randn(4, 2, 7, 7)
    assert torch.equal(head(pooled)[:, 0], pooled[:, 1, 3, 5])


def test_embeddings_are_neither_rectified_nor_normalised() -> None:
    head = _head(SMALL)
    with torch.no_grad():
        head.output.bias.copy_(torch.tensor([-3.0, -2.0, 0.0, 2.0, 30.0]))
    embeddings = head(torch.randn(10, 6, 7, 7))
    assert (embeddings[:, 0] < 0).all()
    assert embeddings.norm(dim=1).min() > 20


def test_no_box_gives_no_embedding_and_zero_gradients() -> None:
    head = _head(SMALL)
    embeddings = head(torch.zeros(0, 6, 7, 7))
    assert embeddings.shape == (0, 5)
    embeddings.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("release", ["mmdet", "vis4d"])
def test_initial_weights_follow_the_release(release: str) -> None:
    config = QDTrackConfig() if release == "mmdet" else QDTrackConfig.vis4d()
    head = _head(config.embedding, in_channels=64)
    first, second = (conv.weight.detach() for conv in list(head.convs)[:2])
    if release == "mmdet":  # normal over fan-out
        expected = math.sqrt(2 / (256 * 9))
        assert first.std().item() == pytest.approx(expected, rel=0.02)
        assert second.abs().max() > 3 * expected
    else:  # uniform over fan-in, within +-sqrt(3 / fan-in)
        bound = math.sqrt(3 / (64 * 9))
        assert first.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert first.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert second.abs().max().item() == pytest.approx(bound / 2, rel=0.01)
    hidden = head.hidden[0]
    assert hidden.weight.abs().max().item() == pytest.approx(
        math.sqrt(6 / (12544 + 1024)), rel=0.01
    )
    assert head.output.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.output.bias.abs().max() == hidden.bias.abs().max() == 0
