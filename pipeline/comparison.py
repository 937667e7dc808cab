"""Two rows of a leaderboard against each other, on the same resamples of their sequences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.confidence import NUM_RESAMPLES, Difference, compare
from pipeline.evaluate import EvaluationConfig, align_columns, build_protocol
from pipeline.leaderboard import ResultRow, format_interval, format_number, rank
from pipeline.scores import parse_fields

_HEAD: Final = ("", "first", "second", "difference", "95 % of it", "first ahead in")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What separates two results."""

    first: ResultRow
    second: ResultRow
    num_sequences: int
    differences: Mapping[str, Difference]
    """By metric, the deciding ones first."""


def compare_rows(
    first: ResultRow, second: ResultRow, read_fields: Callable[[ResultRow], bytes]
) -> Comparison:
    """Compare two rows by what their metrics combined.

    Args:
        first: one row.
        second: another one of the same leaderboard.
        read_fields: gives the file of a row that `parse_fields` reads.

    Raises:
        ValueError: the rows are not of one leaderboard, or of other sequences.
    """
    boards = rank([first, second])
    if len(boards) > 1:
        raise ValueError(
            f"{first.name!r} and {second.name!r} were not scored alike: {boards[0].title}, "
            f"{boards[0].rules}; against {boards[1].title}, {boards[1].rules}; compare rows of one "
            "leaderboard"
        )
    # How a benchmark combines does not depend on what else the name of its rules says.
    protocol = build_protocol(EvaluationConfig(protocol=first.protocol.split()[0]))
    ours, theirs = (parse_fields(read_fields(row)) for row in (first, second))
    differences = compare(protocol, ours, theirs)
    return Comparison(
        first=first,
        second=second,
        num_sequences=len(ours),
        differences={name: differences[name] for name in boards[0].metrics if name in differences},
    )


def format_comparison(comparison: Comparison) -> str:
    """A comparison as aligned text."""
    first, second = comparison.first, comparison.second
    lines = [_HEAD, *(_line(*item) for item in comparison.differences.items())]
    return "\n".join(
        [
            f"{first.benchmark} / {first.split}, {first.protocol} rules",
            f"first   {first.fingerprint}  {first.name}",
            f"second  {second.fingerprint}  {second.name}",
            _basis(comparison.num_sequences),
            "",
            *align_columns(lines),
            "",
        ]
    )


def _line(metric: str, difference: Difference) -> tuple[str, ...]:
    values = (difference.first, difference.second, difference.first - difference.second)
    first, second, delta = (format_number(metric, value) for value in values)
    ahead = difference.share_ahead
    return (
        metric,
        first,
        second,
        f"+{delta}" if values[2] > 0 else delta,
        format_interval(metric, difference.interval) or "–",
        "–" if ahead is None else f"{100 * ahead:.1f} %",
    )


def _basis(num_sequences: int) -> str:
    if num_sequences < 2:
        return "one sequence: there is nothing to resample, so no interval"
    return f"{NUM_RESAMPLES} resamples of {num_sequences} sequences, the same for both"
