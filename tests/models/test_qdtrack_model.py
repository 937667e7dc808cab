"""QDTrack as a whole, small and from random weights: what it returns and where gradients go."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.detectors.config import BackboneConfig, FasterRCNNConfig, RoiHeadConfig, RpnConfig
from models.detectors.targets import Target
from models.qdtrack.config import EmbeddingHeadConfig, QDTrackConfig, QuasiDenseConfig
from models.qdtrack.model import PairBatch, QDTrack

SIZES = torch.tensor([[64, 96], [60, 90]])


def _config(**quasi_dense: Any) -> QDTrackConfig:
    """Everything small; detections need almost no score, so that random weights give some."""
    return QDTrackConfig(
        detector=FasterRCNNConfig(
            backbone=BackboneConfig(
                depth=18, stem_channels=8, norm="group", norm_groups=4, frozen_stages=-1
            ),
            pyramid_channels=16,
            rpn=RpnConfig(
                candidates_per_level_train=60, candidates_per_level_test=25, max_proposals=50
            ),
            roi_head=RoiHeadConfig(
                hidden_sizes=(32,), sample_size=32, score_threshold=0.01, max_detections=7
            ),
        ),
        embedding=EmbeddingHeadConfig(
            num_convs=1, conv_channels=16, norm_groups=4, hidden_sizes=(32,), embedding_dim=12
        ),
        quasi_dense=QuasiDenseConfig(**quasi_dense),
        classes=("pedestrian", "car"),
    )


def _model(config: QDTrackConfig | None = None) -> QDTrack:
    torch.manual_seed(0)
    return QDTrack(config or _config())


def _images(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


def _target(boxes: list[list[float]], identities: list[int]) -> Target:
    return Target(
        torch.tensor(boxes).reshape(-1, 4),
        torch.zeros(len(boxes), dtype=torch.int64),
        torch.tensor(identities, dtype=torch.int64),
    )


BOXES = [[5.0, 5.0, 40.0, 30.0], [50.0, 20.0, 80.0, 60.0]]
NOTHING = _target([], [])


def _batch(keys: list[Target], references: list[Target]) -> PairBatch:
    return PairBatch(_images(1), SIZES, keys, _images(2), SIZES, references)


BOTH = _target(BOXES, [3, 4])
BATCH = _batch([BOTH, BOTH], [BOTH, _target(BOXES, [4, 9])])


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_detections_of_each_image_carry_their_embeddings() -> None:
    model = _model()
    images = _images()
    found = model.detect(images, SIZES)
    assert len(found) == 2
    embedded = model.embed(images, [one.boxes_xyxy for one in found])
    for one, embeddings, (height, width) in zip(found, embedded, SIZES.tolist(), strict=True):
        assert one.boxes_xyxy.shape == (7, 4)
        assert one.embeddings.shape == (7, 12)
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
        assert one.class_indices.dtype == torch.int64
        assert one.boxes_xyxy[:, 2].max() <= width
        assert one.boxes_xyxy[:, 3].max() <= height
        assert torch.equal(one.embeddings, embeddings)
        assert not one.embeddings.requires_grad


@pytest.mark.parametrize("in_original", [True, False], ids=["mmdet", "vis4d"])
def test_boxes_in_original_pixels_are_embedded_where_they_lie_in_the_network_input(
    in_original: bool,
) -> None:
    config = _config()
    roi_head = replace(config.detector.roi_head, nms_in_original_pixels=in_original)
    model = _model(replace(config, detector=replace(config.detector, roi_head=roi_head)))
    scales = torch.tensor([[0.5, 0.25], [1.0, 2.0]])
    images = _images()
    found = model.detect(images, SIZES, scales)
    boxes = [one.boxes_xyxy * scale.repeat(2) for one, scale in zip(found, scales, strict=True)]
    assert found[0].boxes_xyxy[:, 2].max() > 96  # twice as wide as the network input
    for one, embeddings in zip(found, model.embed(images, boxes), strict=True):
        assert torch.equal(one.embeddings, embeddings)


def test_an_image_without_detections_has_empty_arrays() -> None:
    config = _config()
    roi_head = replace(config.detector.roi_head, score_threshold=1.0)
    model = _model(replace(config, detector=replace(config.detector, roi_head=roi_head)))
    for one in model.detect(_images(), SIZES):
        assert [tuple(column.shape) for column in one] == [(0, 4), (0,), (0,), (0, 12)]


def test_embedding_no_boxes_of_one_image_and_some_of_another() -> None:
    model = _model()
    none, some = model.embed(_images(), [torch.zeros(0, 4), BOTH.boxes_xyxy])
    assert none.shape == (0, 12)
    assert some.shape == (2, 12)
    with pytest.raises(ValueError, match="boxes of 1 images and 2 images"):
        model.embed(_images(), [BOTH.boxes_xyxy])


def test_inference_neither_depends_on_the_mode_nor_changes_it() -> None:
    config = _config()
    backbone = replace(config.detector.backbone, norm="batch")
    model = _model(replace(config, detector=replace(config.detector, backbone=backbone)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    in_training = model.train().detect(_images(), SIZES)
    assert model.training
    assert model.detector.backbone.training
    in_evaluation = model.eval().detect(_images(), SIZES)
    assert not model.training
    assert torch.equal(in_training[0].embeddings, in_evaluation[0].embeddings)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_losses_and_statistics_of_a_batch() -> None:
    model = _model()
    losses, statistics = model.training_losses(*BATCH, generator=_generator())
    assert list(losses) == ["rpn_cls", "rpn_bbox", "cls", "bbox", "track", "track_aux"]
    assert all(loss.shape == () and loss.isfinite() and loss > 0 for loss in losses.values())
    # The true boxes themselves at least: two per key image; three matches of identities in all.
    assert statistics["positive_key_rois"] >= 4
    assert statistics["positives_per_pair"] >= 3 / 2
    assert statistics["pairs_without_shared_identity"] == 0
    again, _ = model(BATCH, _generator())
    assert {name: loss.item() for name, loss in again.items()} == {
        name: loss.item() for name, loss in losses.items()
    }


def _image_gradient(losses: list[Tensor], images: Tensor) -> float:
    (gradient,) = torch.autograd.grad(sum(losses), images, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else gradient.abs().sum().item()


def test_detection_learns_from_key_images_only_and_tracking_from_both() -> None:
    model = _model()
    batch = BATCH._replace(
        key_images=_images(1).requires_grad_(), reference_images=_images(2).requires_grad_()
    )
    losses, _ = model(batch, _generator())
    detection = [losses[name] for name in ("rpn_cls", "rpn_bbox", "cls", "bbox")]
    tracking = [losses["track"], losses["track_aux"]]
    assert _image_gradient(detection, batch.key_images) > 0
    assert _image_gradient(detection, batch.reference_images) == 0
    assert _image_gradient(tracking, batch.key_images) > 0
    assert _image_gradient(tracking, batch.reference_images) > 0


@pytest.mark.parametrize("side", ["key", "reference"])
def test_key_is_proposed_for_as_in_training_and_reference_as_at_inference(side: str) -> None:
    """With every candidate positive for the only identity, matches count all boxes of both."""
    everything = {"positive_iou": 0.0, "negative_iou": 0.0, "positive_fraction": 1.0}
    config = _config(**everything, sample_size=4000)
    rpn = replace(
        config.detector.rpn,
        candidates_per_level_train=200 if side == "key" else 25,
        candidates_per_level_test=3 if side == "key" else 2,
        max_proposals=1000,
    )
    model = _model(replace(config, detector=replace(config.detector, rpn=rpn)))
    one = _target(BOXES[:1], [1])
    batch = _batch([one, one], [one, one])
    _, statistics = model(batch, _generator())

    def num_proposals(images: Tensor, training: bool) -> list[int]:
        features = model.detector.extract_features(images)
        boxes = model.detector.propose(features, SIZES, training=training)
        return [1 + len(found) for found in boxes]

    keys = num_proposals(batch.key_images, True)
    references = num_proposals(batch.reference_images, False)
    assert statistics["positive_key_rois"] == sum(keys)
    matches = sum(key * reference for key, reference in zip(keys, references, strict=True))
    assert statistics["positives_per_pair"] == matches / 2


def test_a_pair_without_match_adds_nothing_and_is_counted_in_the_mean() -> None:
    """Every candidate is used, so that no random choice differs between the batches."""
    model = _model(_config(negatives_per_positive=1000, sample_size=4000))
    other = _target(BOXES, [10, 11])
    matched, statistics = model(_batch([BOTH, BOTH], [BOTH, other]), _generator())
    assert statistics["pairs_without_shared_identity"] == 1
    first = PairBatch(*(part[:1] for part in _batch([BOTH, BOTH], [BOTH, other])))
    alone, _ = model(first, _generator())
    for name in ("track", "track_aux"):
        assert matched[name].item() == pytest.approx(alone[name].item() / 2, rel=1e-4)


def test_a_still_image_paired_with_itself_matches_every_box() -> None:
    model = _model()
    batch = PairBatch(_images(), SIZES, [BOTH, BOTH], _images(), SIZES, [BOTH, BOTH])
    losses, statistics = model(batch, _generator())
    assert statistics["positives_per_pair"] >= 2
    assert losses["track"] > 0


@pytest.mark.parametrize("release", ["mmdet", "vis4d"])
@pytest.mark.parametrize(
    ("keys", "references"),
    [
        ([NOTHING, BOTH], [BOTH, BOTH]),
        ([BOTH, BOTH], [BOTH, NOTHING]),
        ([NOTHING, NOTHING], [NOTHING, NOTHING]),
        ([BOTH, BOTH], [_target(BOXES, [7, 8]), _target(BOXES, [5, 6])]),
    ],
    ids=["key without boxes", "reference without boxes", "no boxes at all", "nothing shared"],
)
def test_every_parameter_takes_part_whatever_boxes_there_are(
    keys: list[Target], references: list[Target], release: str
) -> None:
    config = _config()
    if release == "vis4d":
        vis4d = QDTrackConfig.vis4d()
        detector = replace(
            vis4d.detector,
            backbone=config.detector.backbone,
            pyramid_channels=16,
            roi_head=replace(vis4d.detector.roi_head, hidden_sizes=(32,)),
        )
        config = replace(config, detector=detector, quasi_dense=vis4d.quasi_dense)
    model = _model(config)
    losses, statistics = model(_batch(keys, references), _generator())
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = [name for name, one in model.named_parameters() if one.grad is None]
    assert not without
    empty_pairs = sum(
        not set(key.identities.tolist()) & set(reference.identities.tolist())
        for key, reference in zip(keys, references, strict=True)
    )
    assert statistics["pairs_without_shared_identity"] == empty_pairs
    if empty_pairs == 2:
        assert losses["track"] == losses["track_aux"] == 0
