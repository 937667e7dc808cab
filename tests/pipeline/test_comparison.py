"""Two rows against each other: what is refused, and what a person reads."""

from collections.abc import Callable
from typing import Any

import pytest

from datasets.schema import SequenceResult, SequenceTruth
from pipeline.comparison import compare_rows, format_comparison
from pipeline.confidence import ResultFields, compare
from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate_sequence
from pipeline.leaderboard import ResultRow
from pipeline.scores import pack_fields

MakeRow = Callable[..., ResultRow]

PROTOCOL = build_protocol(EvaluationConfig())


@pytest.fixture(scope="module")
def scores(
    random_sequence: Callable[..., tuple[SequenceTruth, SequenceResult]],
) -> list[dict[str, Any]]:
    """Two results on the same four sequences: the second one is that of other scenes."""
    fields = [
        evaluate_sequence(PROTOCOL, *random_sequence(f"s{index}")).fields for index in range(8)
    ]
    names = ["a", "b", "c", "d"]
    return [dict(zip(names, part, strict=True)) for part in (fields[:4], fields[4:])]


def reader(scores: list[dict[str, Any]], rows: list[ResultRow]) -> Callable[[ResultRow], bytes]:
    packed = {row.fingerprint: pack_fields(part) for row, part in zip(rows, scores, strict=True)}
    return lambda row: packed[row.fingerprint]


def test_rows_are_compared_by_what_was_kept(make_row: MakeRow, scores: list[ResultFields]) -> None:
    rows = [make_row(name, metrics={"mMOTA": 1.0, "FP": 2, "AP": 3.0}) for name in "ab"]
    found = compare_rows(*rows, reader(scores, rows))
    expected = compare(PROTOCOL, *scores)
    assert found.num_sequences == 4
    # What the rows show, in their order; box AP is of no sequence and has no resamples.
    assert list(found.differences) == ["mMOTA", "FP"]
    assert found.differences["FP"] == expected["FP"]


def test_rows_of_other_leaderboards_are_refused(
    make_row: MakeRow, scores: list[ResultFields]
) -> None:
    rows = [make_row("a"), make_row("b", truth="10 sequences (ffff)")]
    with pytest.raises(ValueError, match=r"'a' and 'b' were not scored alike: .*10 sequences"):
        compare_rows(*rows, reader(scores, rows))


def test_the_text_says_who_how_much_and_how_sure(
    make_row: MakeRow, scores: list[ResultFields]
) -> None:
    rows = [make_row(name, metrics={"mMOTA": 1.0, "FP": 2}) for name in ("ours", "theirs")]
    found = compare_rows(*rows, reader(scores, rows))
    lines = format_comparison(found).splitlines()
    assert lines[:3] == [
        "bdd100k / val, bdd100k rules",
        f"first   {rows[0].fingerprint}  ours",
        f"second  {rows[1].fingerprint}  theirs",
    ]
    assert lines[3] == "1000 resamples of 4 sequences, the same for both"
    difference = found.differences["mMOTA"]
    delta = difference.first - difference.second
    low, high = difference.interval or (0, 0)
    assert lines[6].split() == [
        "mMOTA",
        f"{difference.first:.2f}",
        f"{difference.second:.2f}",
        f"{delta:+.2f}",
        f"[{low:.2f},",
        f"{high:.2f}]",
        f"{100 * (difference.share_ahead or 0):.1f}",
        "%",
    ]
    assert len({len(line) for line in lines[5:]}) == 1


def test_one_sequence_is_compared_without_a_claim(
    make_row: MakeRow, scores: list[ResultFields]
) -> None:
    rows = [make_row(name, metrics={"mMOTA": 1.0}) for name in "ab"]
    found = compare_rows(*rows, reader([{"a": part["a"]} for part in scores], rows))
    text = format_comparison(found)
    assert "one sequence: there is nothing to resample" in text
    assert text.splitlines()[-1].split()[-2:] == ["–", "–"]
