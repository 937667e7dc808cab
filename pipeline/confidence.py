"""How sure a score is: bootstrap over sequences, for one result and for two on the same sequences.

The sequences of a benchmark are a sample of the video that there could be. A resample draws as many
of them as there are, with repetition; one that is drawn twice counts twice in the benchmark's own
combination. The middle 95 % of the scores of many resamples are the interval (percentile bootstrap,
Efron and Tibshirani 1993, chapter 13). It says nothing about other seeds of a training.

What a metric combines are sums over sequences, or means weighted by such a sum, so the sequences of
all resamples are added up by one matrix product; classes, averages and ratios are then the
protocol's own, resample by resample.

Legend: S sequences in sorted order of their names, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from datasets.schema import Float64, Int64
from pipeline.leaderboard import headline_numbers, less_is_better
from pipeline.metrics.protocol import Fields, ScoringProtocol

ResultFields = Mapping[str, Mapping[str, Mapping[str, Fields]]]
"""By sequence, class and metric what the metric combines; see `SequenceScores.fields`."""

NUM_RESAMPLES: Final = 1000
SHARE: Final = 0.95
"""Of the resamples that an interval holds."""

_SEED: Final = 0
_WEIGHT_OF: Final = dict.fromkeys(("AssA", "AssRe", "AssPr", "LocA"), "HOTA_TP")
"""Fields that are means, and the field of the same metric that they are weighted by."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two results on the same sequences; percentages are 0 to 100."""

    first: float
    second: float
    interval: tuple[float, float] | None = None
    """Lower and upper end of first minus second; None where there is none, see `intervals`."""
    share_ahead: float | None = None
    """Share of the resamples in which the first is better; equal ones count half."""


def intervals(
    protocol: ScoringProtocol, scores: ResultFields, num_resamples: int = NUM_RESAMPLES
) -> dict[str, tuple[float, float]]:
    """Lower and upper end of each headline metric; the same numbers whenever asked.

    Args:
        protocol: the rules that made the fields.
        scores: of all sequences of a result.
        num_resamples: how many to draw.

    Returns:
        By metric. One without a finite value in some resample has no interval, and with fewer than
        two sequences none has.
    """
    if len(scores) < 2:
        return {}
    samples = resampled_numbers(protocol, scores, draw(len(scores), num_resamples))
    found = {name: _middle(values) for name, values in samples.items()}
    return {name: ends for name, ends in found.items() if ends is not None}


def compare(
    protocol: ScoringProtocol,
    first: ResultFields,
    second: ResultFields,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Difference]:
    """How far one result is ahead of another, by headline metric, on the same resamples of both.

    What makes a sequence hard is hard for both, so that the difference is known better than either
    score.

    Raises:
        ValueError: the two are not of the same sequences.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ValueError(
            f"the results are of {len(first)} and {len(second)} sequences, not the same ones: only "
            f"one of them has {odd[0]!r}; compare results on the same data"
        )
    pair = (first, second)
    whole = np.ones((1, len(first)), np.int64)
    ours, theirs = (resampled_numbers(protocol, scores, whole) for scores in pair)
    found = {
        name: Difference(first=float(value[0]), second=float(theirs[name][0]))
        for name, value in ours.items()
    }
    if len(first) < 2:
        return found
    counts = draw(len(first), num_resamples)
    ours, theirs = (resampled_numbers(protocol, scores, counts) for scores in pair)
    with np.errstate(invalid="ignore"):  # of infinities, which have no interval
        return {
            name: _with_samples(difference, ours[name] - theirs[name], less_is_better(name))
            for name, difference in found.items()
        }


def draw(num_sequences: int, num_resamples: int) -> Int64:
    """int64, (R, S): how often each resample holds each sequence; the same in every process.

    >>> draw(4, 100).sum(axis=1).tolist() == [4] * 100
    True
    """
    shares = np.full(num_sequences, 1 / num_sequences)
    return np.random.default_rng(_SEED).multinomial(num_sequences, shares, num_resamples)


def resampled_numbers(
    protocol: ScoringProtocol, scores: ResultFields, counts: Int64
) -> dict[str, Float64]:
    """Headline numbers of every resample.

    Args:
        protocol: the rules.
        scores: of S sequences.
        counts: int64, (R, S), how often each resample holds each sequence.

    Returns:
        Metric to float64, (R,); the same numbers, but for the last bits of sums in another order,
        as the protocol's combination gives for each sequence repeated under fresh names.
    """
    totals = _add_up(scores, counts)
    rows = protocol.summary_rows
    drawn = []
    for index in range(len(counts)):
        # One sequence that stands for all of the resample: the ratios remain to be made.
        classes = protocol.combine_sequences({"resample": _at(totals, index)})
        table = {
            row.name: protocol.numbers(row, protocol.combine_classes(row, classes)) for row in rows
        }
        drawn.append(headline_numbers(table))
    return {name: np.array([numbers[name] for numbers in drawn], float) for name in drawn[0]}


def _add_up(scores: ResultFields, counts: Int64) -> Any:
    """The same fields over each resample, by class and metric: float64, (R,) or (R, thresholds)."""
    weights = counts.astype(np.float64)
    ordered = [scores[name] for name in sorted(scores)]
    return {
        class_name: {
            metric: _add_up_metric([score[class_name][metric] for score in ordered], weights)
            for metric in metrics
        }
        for class_name, metrics in ordered[0].items()
    }


def _add_up_metric(fields: list[Fields], counts: Float64) -> dict[str, Float64]:
    columns = {name: np.array([entry[name] for entry in fields], float) for name in fields[0]}
    sums: dict[str, Float64] = {}
    for name, values in columns.items():
        if name not in _WEIGHT_OF:
            sums[name] = counts @ values
            continue
        weight = columns[_WEIGHT_OF[name]]
        total = counts @ weight
        # Without any weight the metric itself says what the mean is.
        sums[name] = (counts @ (values * weight)) / np.where(total > 0, total, 1.0)
    return sums


def _at(totals: Any, index: int) -> dict[str, dict[str, Fields]]:
    return {
        class_name: {
            metric: {name: values[index] for name, values in fields.items()}
            for metric, fields in metrics.items()
        }
        for class_name, metrics in totals.items()
    }


def _with_samples(difference: Difference, samples: Float64, less_is_better: bool) -> Difference:
    interval = _middle(samples)
    if interval is None:
        return difference
    ahead = np.sign(-samples if less_is_better else samples)
    return replace(difference, interval=interval, share_ahead=float(((ahead + 1) / 2).mean()))


def _middle(samples: Float64) -> tuple[float, float] | None:
    if not np.isfinite(samples).all():
        return None
    low, high = np.quantile(samples, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)
