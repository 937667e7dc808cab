"""The two losses of quasi-dense similarity learning (QDTrack, section 3.2), for one pair each.

Rows are the positive boxes of the key image, columns all sampled boxes of the reference image,
positives and negatives. A target is true where both belong to the same identity.

Legend: P rows, R columns, D embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.qdtrack.config import QuasiDenseConfig


def multi_positive_contrastive_loss(
    dots: Tensor, targets: Tensor, *, divisor_epsilon: float = 0.0
) -> Tensor:
    """Pull each row towards all its positives and away from all other columns at once.

    A row costs ``ln(1 + sum_p sum_n exp(dot_n - dot_p))`` over its positives p and its negatives n
    (QDTrack, equation 5), which equals ``softplus(lse_n(dot_n) + lse_p(-dot_p))``: exact, and
    without the P x R x R values of the double sum. A row without negatives costs 0. The mean is
    over rows that have a positive.

    Args:
        dots: (P, R) raw dot products of embeddings, divided by no temperature.
        targets: (P, R) bool.
        divisor_epsilon: added to the number of rows that the mean divides by, as releases do.

    Returns:
        Scalar; 0, still with a gradient graph, where no row has a positive. The weight of the
        loss is not applied.

    Raises:
        ValueError: shapes differ or targets are not boolean.

    >>> dots = torch.tensor([[2.0, 1.0, 0.0], [5.0, 5.0, 5.0]])
    >>> targets = torch.tensor([[True, False, False], [False, False, False]])
    >>> multi_positive_contrastive_loss(dots, targets)  # ln(1 + e^-1 + e^-2)
    tensor(0.4076)
    """
    _check_matrices(dots, targets)
    # Finite, so that an absent side gives a cost and gradients of exactly 0 instead of NaN, and so
    # far down that two of them can still be added.
    nowhere = torch.finfo(dots.dtype).min / 4
    negatives = dots.masked_fill(targets, nowhere)
    positives = (-dots).masked_fill(~targets, nowhere)
    exponents = _log_sum_exp(negatives) + _log_sum_exp(positives)
    costs = torch.logaddexp(exponents, torch.zeros_like(exponents))
    has_positive = targets.any(dim=1)
    num_rows = has_positive.sum().clamp(min=1).to(dots.dtype)
    return torch.where(has_positive, costs, 0).sum() / (num_rows + divisor_epsilon)


def auxiliary_cosine_loss(
    cosines: Tensor,
    targets: Tensor,
    *,
    positive_margin: float = 0.0,
    negative_margin: float = 0.1,
    negatives_per_positive: int = 3,
    average_without_positives: bool = False,
) -> Tensor:
    """Squared distance of cosine similarities from 1 (same identity) and 0, hard negatives only.

    The margin of its kind is subtracted from a cosine (a margin of 0 or less is not), the result
    is clamped to [0, 1] and compared with its target (QDTrack, equation 6). What the clamp cuts
    off has no gradient: neither a negative below its margin nor a positive below 0, which costs 1
    all the same. If there are more than `negatives_per_positive` negatives for each positive of
    the whole matrix, only that many are kept, the costliest first, wherever they stand; rows
    without a positive take part. The loss is the mean over the pairs that are kept.

    Args:
        cosines: (P, R).
        targets: (P, R) bool.
        positive_margin: subtracted where targets are true.
        negative_margin: subtracted where targets are false.
        negatives_per_positive: 0 or less switches mining off: the mean is over all pairs, even if
            none is positive.
        average_without_positives: with mining and no positive at all the loss is 0. If set, a
            matrix of at most `negatives_per_positive` pairs is averaged in that case all the same.

    Returns:
        Scalar; 0, still with a gradient graph, where nothing is kept.

    Raises:
        ValueError: shapes differ or targets are not boolean.

    >>> cosines = torch.tensor([[0.5, 0.3, -0.2, 0.0, 0.1]])
    >>> targets = torch.tensor([[True, False, False, False, False]])
    >>> auxiliary_cosine_loss(cosines, targets)  # (0.5^2 + 0.2^2 + 0 + 0) / 4
    tensor(0.0725)
    """
    _check_matrices(cosines, targets)
    shifted = cosines
    if positive_margin > 0:
        shifted = torch.where(targets, shifted - positive_margin, shifted)
    if negative_margin > 0:
        shifted = torch.where(targets, shifted, shifted - negative_margin)
    errors = (shifted.clamp(0, 1) - targets.to(cosines.dtype)) ** 2
    positive_errors, negative_errors = errors[targets], errors[~targets]
    num_positives, num_negatives = len(positive_errors), len(negative_errors)
    if negatives_per_positive > 0:
        limit = negatives_per_positive * num_positives
        if num_positives == 0 and average_without_positives:
            limit = num_negatives if num_negatives <= negatives_per_positive else 0
        if num_negatives > limit:
            negative_errors = negative_errors.topk(limit).values
    num_kept = num_positives + len(negative_errors)
    return (positive_errors.sum() + negative_errors.sum()) / max(1, num_kept)


def embedding_losses(
    key_embeddings: Tensor, reference_embeddings: Tensor, targets: Tensor, config: QuasiDenseConfig
) -> tuple[Tensor, Tensor]:
    """Both losses of one pair of images, weighted, in float32 whatever the embeddings are in.

    Args:
        key_embeddings: (P, D), positive boxes of the key image.
        reference_embeddings: (R, D), all sampled boxes of the reference image.
        targets: (P, R) bool, same identity.
        config: margins, mining and weights.

    Returns:
        The contrastive and the auxiliary loss, scalars; both 0 where either image has no box.
    """
    with torch.autocast(device_type=key_embeddings.device.type, enabled=False):
        key_PD, reference_RD = key_embeddings.float(), reference_embeddings.float()
        contrastive = multi_positive_contrastive_loss(
            key_PD @ reference_RD.T, targets, divisor_epsilon=config.contrastive_divisor_epsilon
        )
        auxiliary = auxiliary_cosine_loss(
            F.normalize(key_PD, dim=1) @ F.normalize(reference_RD, dim=1).T,
            targets,
            positive_margin=config.auxiliary_positive_margin,
            negative_margin=config.auxiliary_negative_margin,
            negatives_per_positive=config.auxiliary_negatives_per_positive,
            average_without_positives=config.auxiliary_without_positives,
        )
    return contrastive * config.contrastive_weight, auxiliary * config.auxiliary_weight


def _log_sum_exp(values: Tensor) -> Tensor:
    """Over columns; without any column 0 instead of minus infinity, which no row counts anyway."""
    if values.shape[1] == 0:
        return values.sum(dim=1)
    return values.logsumexp(dim=1)


def _check_matrices(values: Tensor, targets: Tensor) -> None:
    if values.ndim != 2 or values.shape != targets.shape or targets.dtype != torch.bool:
        raise ValueError(
            f"expected two matrices of one shape, the second boolean; found "
            f"{tuple(values.shape)} and {tuple(targets.shape)} {targets.dtype}"
        )
