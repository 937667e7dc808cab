"""What teaches the two networks of PointTrack: the loss of SpatialEmbedding and a triplet loss.

Legend: B images, H and W their height and width, N embeddings, D their width; v the sigmas, e the
embeddings of pixels (offset added to coordinates), phi the share of an instance in a pixel.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from models.pointtrack.coordinates import coordinate_map

BACKGROUND: Final = 0
"""Label of pixels whose seed is to be 0. Those of an object carry 1, those left out another."""
PUNISHED: Final = 255
"""Label of pixels whose seed costs ten times as much, in training only."""

_INSTANCE_WEIGHT, _VARIANCE_WEIGHT, _SEED_WEIGHT = 1.0, 10.0, 1.0
_PUNISHMENT: Final = 10.0
_BANDWIDTH_SCALE: Final = 10.0
_MIN_SQUARED_DISTANCE: Final = 1e-12


class SpatialEmbeddingTerms(NamedTuple):
    """The loss of a batch and what it is made of; the parts are without weights."""

    total: Tensor
    """Scalar: instance + 10 variance + seed."""
    instance: Tensor
    """Scalar: Lovász hinge, mean over the instances of an image, then over images."""
    variance: Tensor
    """Scalar: scatter of sigma inside an instance, means as for `instance`."""
    seed: Tensor
    """Scalar: squared errors of the seed, per pixel of an image, mean over images."""
    ious: Tensor
    """(instances of the batch,) float32, images in order, then ids rising: IoU of phi > 0.5 and the
    mask, with true centre and mean sigma. Empty in training, where nothing reads it."""


def spatial_embedding_loss(
    prediction: Tensor, instances: Tensor, labels: Tensor, *, foreground_weight: float
) -> Tensor:
    """The loss of SpatialEmbedding in training (Neven et al. 2019).

    See `spatial_embedding_terms`, whose total this is.

    >>> nothing = torch.zeros(1, 8, 8)
    >>> spatial_embedding_loss(
    ...     torch.zeros(1, 5, 8, 8), nothing.long(), nothing.byte(), foreground_weight=10
    ... )  # a seed of sigmoid(0) everywhere
    tensor(0.2500)
    """
    return spatial_embedding_terms(
        prediction, instances, labels, foreground_weight=foreground_weight
    ).total


def spatial_embedding_terms(
    prediction: Tensor,
    instances: Tensor,
    labels: Tensor,
    *,
    foreground_weight: float,
    is_validation: bool = False,
) -> SpatialEmbeddingTerms:
    """The loss and its parts, in float32 whatever the prediction is in.

    With c the centre of an instance's pixels in the fixed coordinates and v its mean sigma,
    phi = exp(-sum of (e - c)^2 exp(10 v)) over the axes. The instance term wants phi to be its
    mask, over the whole image; the variance term wants sigma to be v in the mask, with no gradient
    through v; the seed is to be phi in the mask, with no gradient through phi, and 0 on the
    background. Coordinates start at the top left of what is given, so in training of the crop.

    Differs from the paper as the release does: the centre is that of the mask and not of the
    embeddings, and sigma enters as exp(10 sigma), without the 1/2.

    Args:
        prediction: (B, 5, H, W), raw output of the network.
        instances: (B, H, W) integer ids, 0 for none. Ids need not follow one another.
        labels: (B, H, W) uint8: 0 background, 1 object, 255 costs 10 seed^2 in training,
            anything else is left out of the background.
        foreground_weight: of the seed inside instances.
        is_validation: leave out label 255, and measure the IoUs.

    Returns:
        Means over images. 0, still with a gradient graph, for an empty batch; an image without an
        instance has no instance and no variance term.

    Raises:
        ValueError: shapes or types differ from the above, or images larger than the coordinates.
    """
    _check_maps(prediction, instances, labels)
    with torch.autocast(device_type=prediction.device.type, enabled=False):
        prediction = prediction.float()
        coordinates = coordinate_map(*prediction.shape[2:], device=prediction.device)
        images = [
            _image_terms(*maps, coordinates, foreground_weight, is_validation)
            for maps in zip(prediction, instances, labels, strict=True)
        ]
        if not images:
            nothing = prediction.sum() * 0
            ious = prediction.new_zeros(0)
            return SpatialEmbeddingTerms(nothing, nothing, nothing, nothing, ious)
        instance = torch.stack([image.instance for image in images]).mean()
        variance = torch.stack([image.variance for image in images]).mean()
        seed = torch.stack([image.seed for image in images]).mean()
        total = _INSTANCE_WEIGHT * instance + _VARIANCE_WEIGHT * variance + _SEED_WEIGHT * seed
        ious = torch.cat([image.ious for image in images])
    return SpatialEmbeddingTerms(total, instance, variance, seed, ious)


def lovasz_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Hinge loss whose sum is extended to the Jaccard index (Berman et al. 2018, algorithm 1).

    Errors ``1 - logit * (2 label - 1)`` in falling order are weighted by how much each changes the
    Jaccard loss, over all elements as one set. What is not in error has no weight that counts, so
    only errors above 0 are sorted, which changes no value and no gradient.

    Args:
        logits: float of any shape.
        labels: of the same shape, boolean or 0 and 1.

    Returns:
        Scalar; 0, still with a gradient graph, where nothing is in error. Without a positive label
        it is the largest error.

    Raises:
        ValueError: shapes differ.

    >>> logits = torch.tensor([-2.0, 2.0, -2.0])
    >>> lovasz_hinge(logits, torch.tensor([1, 1, 0]))  # one error of 3, and half of the overlap
    tensor(1.5000)
    """
    if logits.shape != labels.shape:
        raise ValueError(
            f"expected logits and labels of one shape, found {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    logits, truth = logits.flatten(), labels.flatten().to(logits.dtype)
    errors = 1 - logits * (2 * truth - 1)
    counts = ~(errors <= 0)  # so that NaN stays
    errors, order = errors[counts].sort(descending=True)
    num_positives, truth = truth.sum(), truth[counts][order]
    intersection = num_positives - truth.cumsum(0)
    union = num_positives + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    return errors.dot(jaccard.diff(prepend=jaccard.new_zeros(1)))


def batch_hard_triplet_loss(embeddings: Tensor, labels: Tensor, *, margin: float = 0.2) -> Tensor:
    """Each embedding against its furthest positive and nearest negative (Hermans et al. 2017).

    ``max(0, d_positive - d_negative + margin)``, mean over all embeddings; Euclidean distances d
    are those of the square roots of at least 1e-12. An embedding is a positive of its own, so one
    that is alone with its label still has one.

    Args:
        embeddings: (N, D) float, not normalised.
        labels: (N,) identities, of any values.
        margin: by which a negative is to be further away than a positive.

    Returns:
        Scalar; 0, still with a gradient graph, for no embedding and where all labels are equal.

    Raises:
        ValueError: shapes do not fit each other.

    >>> embeddings = torch.tensor([[0.0], [1.0], [3.0]])
    >>> batch_hard_triplet_loss(embeddings, torch.tensor([7, 7, 8]), margin=2.5)
    tensor(0.8333)
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"expected embeddings (N, D) and labels (N,), found {tuple(embeddings.shape)} and "
            f"{tuple(labels.shape)}"
        )
    is_same = labels[:, None] == labels
    if bool(is_same.all()):  # none at all, too
        return embeddings.sum() * 0
    squared = (embeddings[:, None] - embeddings).square().sum(dim=2)
    distances = squared.clamp(min=_MIN_SQUARED_DISTANCE).sqrt()
    furthest = distances.masked_fill(~is_same, -torch.inf).amax(dim=1)
    nearest = distances.masked_fill(is_same, torch.inf).amin(dim=1)
    return (furthest - nearest + margin).clamp(min=0).mean()


class _ImageTerms(NamedTuple):
    instance: Tensor
    variance: Tensor
    seed: Tensor
    ious: Tensor


def _image_terms(
    prediction: Tensor,
    instances: Tensor,
    labels: Tensor,
    coordinates: Tensor,
    foreground_weight: float,
    is_validation: bool,
) -> _ImageTerms:
    embeddings = (prediction[:2].tanh() + coordinates).flatten(1)
    sigmas, seeds = prediction[2:4].flatten(1), prediction[4].sigmoid().flatten()
    labels, instances = labels.flatten(), instances.flatten()
    seed = seeds[labels == BACKGROUND].square().sum()
    if not is_validation:
        seed = seed + _PUNISHMENT * seeds[labels == PUNISHED].square().sum()
    instance, variance = seeds.new_zeros(()), seeds.new_zeros(())
    ious = []
    ids = torch.unique(instances)
    for identity in ids[ids != 0]:
        mask = instances == identity
        inside = mask.nonzero()[:, 0]
        centre = coordinates.flatten(1)[:, inside].mean(dim=1, keepdim=True)
        sigma = sigmas[:, inside]
        mean = sigma.mean(dim=1, keepdim=True)
        squared = (embeddings - centre).square() * (_BANDWIDTH_SCALE * mean).exp()
        phi = (-squared.sum(dim=0)).exp()
        instance = instance + lovasz_hinge(2 * phi - 1, mask)
        variance = variance + (sigma - mean.detach()).square().mean()
        errors = seeds[inside] - phi[inside].detach()
        seed = seed + foreground_weight * errors.square().sum()
        if is_validation:
            ious.append(_iou(phi > 0.5, mask))
    num_instances = max(1, int((ids != 0).sum()))
    instance, variance = instance / num_instances, variance / num_instances
    measured = torch.stack(ious) if ious else seeds.new_zeros(0)
    return _ImageTerms(instance, variance, seed / max(1, len(seeds)), measured)


def _iou(first: Tensor, second: Tensor) -> Tensor:
    """Of two masks of which the second is not empty."""
    return (first & second).sum() / (first | second).sum()


def _check_maps(prediction: Tensor, instances: Tensor, labels: Tensor) -> None:
    expected = (prediction.shape[0], *prediction.shape[2:])
    if (
        prediction.ndim != 4
        or prediction.shape[1] != 5
        or instances.shape != expected
        or labels.shape != expected
        or instances.is_floating_point()
        or labels.dtype != torch.uint8
    ):
        raise ValueError(
            "expected a prediction (B, 5, H, W), integer instances (B, H, W) and uint8 labels "
            f"(B, H, W), found {tuple(prediction.shape)}, {tuple(instances.shape)} "
            f"{instances.dtype} and {tuple(labels.shape)} {labels.dtype}"
        )
