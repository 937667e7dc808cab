"""Quasi-dense sampling: which boxes of an image teach the embedding (QDTrack, section 3.2).

Not only the true boxes are used but every proposal that covers one well enough, and background
beside them. Legend: G true boxes, N candidates, S sampled boxes, P positives among them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.boxes import NEGATIVE, assign_max_iou, choose
from models.detectors.targets import Target
from models.qdtrack.config import QuasiDenseConfig


class SampledBoxes(NamedTuple):
    """Boxes of one image that are embedded for training, positives first."""

    boxes_xyxy: Tensor
    """float32, (S, 4), network-input pixels."""
    identities: Tensor
    """int64, (P,), identity of the true box that each positive covers."""

    @property
    def num_positives(self) -> int:
        return len(self.identities)


@torch.no_grad()
def sample_boxes(
    proposals: Tensor, target: Target, config: QuasiDenseConfig, *, generator: torch.Generator
) -> SampledBoxes:
    """Choose positives and negatives among the proposals and true boxes of one image.

    Classes play no part. Positives are balanced over the true boxes where there are too many of
    them; negatives are at most `negatives_per_positive` times the positives.

    Args:
        proposals: (n, 4) network-input pixels; n may be 0.
        target: true boxes, which are candidates too; there may be none, then nothing is positive.
        config: overlaps, sizes and the release's way of choosing.
        generator: source of every random choice, on the CPU or on the proposals' device.

    Returns:
        The sample; within positives and within negatives in the order of the candidates.
    """
    candidates, truth_index, max_iou = _match_candidates(proposals, target, config)
    positives = torch.nonzero(truth_index >= 0).flatten()
    negatives = torch.nonzero(truth_index == NEGATIVE).flatten()
    positives = _choose_positives(positives, truth_index[positives], config, generator)
    quota = _negative_quota(len(positives), config)
    if config.negative_sampling == "uniform":
        negatives = choose(negatives, quota, generator)
    else:
        negatives = _choose_iou_balanced(
            negatives, max_iou[negatives], quota, config.num_iou_bins, generator
        )
    return SampledBoxes(
        boxes_xyxy=torch.cat([candidates[positives], candidates[negatives]]),
        identities=target.identities[truth_index[positives]],
    )


def match_identities(key: SampledBoxes, reference: SampledBoxes) -> Tensor:
    """Which positives of the key image show the identity of which boxes of the reference image.

    Classes are not compared, and negatives of the reference match nothing.

    Returns:
        bool, (positives of the key, all boxes of the reference).

    >>> key = SampledBoxes(torch.zeros(2, 4), torch.tensor([7, 8]))
    >>> reference = SampledBoxes(torch.zeros(3, 4), torch.tensor([8, 9]))
    >>> match_identities(key, reference).tolist()
    [[False, False, False], [True, False, False]]
    """
    matches = key.identities[:, None] == reference.identities
    num_negatives = len(reference.boxes_xyxy) - reference.num_positives
    return torch.nn.functional.pad(matches, (0, num_negatives), value=False)


def _match_candidates(
    proposals: Tensor, target: Target, config: QuasiDenseConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates (N, 4), the true box each covers (or not), and its best overlap."""
    truth = target.boxes_xyxy.to(proposals)
    parts = [truth, proposals] if config.truth_first else [proposals, truth]
    candidates = torch.cat(parts)
    assignment = assign_max_iou(
        candidates, truth, positive_iou=config.positive_iou, negative_iou=config.negative_iou
    )
    truth_index, max_iou = assignment
    if config.truth_first:
        # Not by overlap: of two identities with one and the same box, each keeps its own.
        own = torch.arange(len(truth), device=truth_index.device)
        truth_index = torch.cat([own, truth_index[len(truth) :]])
    return candidates, truth_index, max_iou


def _negative_quota(num_positives: int, config: QuasiDenseConfig) -> int:
    allowed = num_positives
    if config.negatives_without_positives:
        allowed = max(1, num_positives)
    return min(config.sample_size - num_positives, config.negatives_per_positive * allowed)


def _choose_positives(
    rows: Tensor, truth_index: Tensor, config: QuasiDenseConfig, generator: torch.Generator
) -> Tensor:
    """At most the quota of the rows, about as many of each true box."""
    quota = int(config.sample_size * config.positive_fraction)
    if len(rows) <= quota:
        return rows
    num_truths = len(torch.unique(truth_index))
    if config.identity_quota == "rounded_up":
        per_truth = round(quota / num_truths) + 1  # half to even, as Python rounds
    else:
        per_truth = quota // num_truths
    picked = _rank_in_group(truth_index, generator) < per_truth
    chosen, rest = rows[picked], rows[~picked]
    if len(chosen) > quota:
        return choose(chosen, quota, generator)
    return torch.cat([chosen, choose(rest, quota - len(chosen), generator)]).sort().values


def _rank_in_group(groups: Tensor, generator: torch.Generator) -> Tensor:
    """Place of each element in a random order of its group, from 0."""
    shuffled = _random_order(len(groups), generator, groups.device)
    order = shuffled[groups[shuffled].argsort(stable=True)]
    _, counts = torch.unique_consecutive(groups[order], return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(groups), device=groups.device) - starts
    return ranks


def _choose_iou_balanced(
    rows: Tensor, max_iou: Tensor, quota: int, num_bins: int, generator: torch.Generator
) -> Tensor:
    """Equal shares of the quota from equal bins of overlap, the rest of it from all others.

    Bins are half open, so that the rows of the very largest overlap are in none.
    """
    if len(rows) <= quota:
        return rows
    edges = torch.linspace(0, max_iou.max().item(), num_bins + 1, dtype=torch.float64)
    bins = torch.bucketize(max_iou.double(), edges.to(max_iou.device), right=True) - 1
    ranks = _rank_in_group(bins, generator)
    picked = (ranks < quota // num_bins) & (bins < num_bins)
    filled = choose(rows[~picked], quota - int(picked.sum()), generator)
    return torch.cat([rows[picked], filled]).sort().values


def _random_order(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device).to(device)
