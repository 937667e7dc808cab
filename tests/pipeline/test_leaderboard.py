"""Ranks: who may be compared with whom, what decides, and what has no rank."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluate import PROTOCOLS, EvaluationConfig, build_protocol
from pipeline.leaderboard import (
    Leaderboard,
    ResultRow,
    find_row,
    format_interval,
    format_number,
    headline_numbers,
    less_is_better,
    rank,
    ranking_metrics,
    summary_curves,
)

MakeRow = Callable[..., ResultRow]


def _places(board: Leaderboard) -> list[tuple[int | None, str]]:
    return [(entry.rank, entry.row.name) for entry in board.entries]


def test_bdd100k_is_ranked_by_mmota_then_midf1(make_row: MakeRow) -> None:
    rows = [
        make_row("more mIDF1", metrics={"mMOTA": 30.0, "mIDF1": 41.0, "HOTA": 1.0}),
        make_row("less of all", metrics={"mMOTA": 29.9, "mIDF1": 99.0, "HOTA": 99.0}),
        make_row("less mIDF1", metrics={"mMOTA": 30.0, "mIDF1": 40.0, "HOTA": 99.0}),
    ]
    (board,) = rank(rows)
    assert _places(board) == [(1, "more mIDF1"), (2, "less mIDF1"), (3, "less of all")]
    assert board.ranked_by == ("mMOTA", "mIDF1")
    assert board.metrics == ("mMOTA", "mIDF1", "HOTA")


def test_motchallenge_is_ranked_by_hota_then_mota(make_row: MakeRow) -> None:
    rows = [
        make_row(name, protocol="mot17", metrics=dict(zip(("HOTA", "MOTA"), values, strict=True)))
        for name, values in (("a", (50.0, 70.0)), ("b", (51.0, 1.0)), ("c", (50.0, 71.0)))
    ]
    assert _places(rank(rows)[0]) == [(1, "b"), (2, "c"), (3, "a")]


def test_bounds_stand_where_they_score_but_take_no_rank(make_row: MakeRow) -> None:
    rows = [
        make_row("model", metrics={"mMOTA": 20.0}),
        make_row("true boxes", kind="bound", metrics={"mMOTA": 60.0}),
        make_row("overlap", kind="baseline", metrics={"mMOTA": 10.0}),
    ]
    assert _places(rank(rows)[0]) == [(None, "true boxes"), (1, "model"), (2, "overlap")]


def test_equal_rows_share_a_rank_and_the_next_one_is_skipped(make_row: MakeRow) -> None:
    rows = [make_row(n, metrics={"mMOTA": v}) for n, v in (("b", 2.0), ("a", 2.0), ("c", 1.0))]
    assert _places(rank(rows)[0]) == [(1, "a"), (1, "b"), (3, "c")]


@pytest.mark.parametrize("missing", [{}, {"mMOTA": None}, {"mMOTA": math.nan}])
def test_rows_without_the_deciding_number_are_last(
    make_row: MakeRow, missing: dict[str, Any]
) -> None:
    rows = [make_row("nothing", metrics=missing), make_row("bad", metrics={"mMOTA": -500.0})]
    assert _places(rank(rows)[0]) == [(1, "bad"), (2, "nothing")]


@pytest.mark.parametrize(
    "other",
    [
        {"benchmark": "synthetic"},
        {"split": "train"},
        {"truth": "10 sequences (ffff)"},
        {"protocol": "bdd100k (stock boxes)"},
    ],
)
def test_only_rows_scored_alike_are_compared(make_row: MakeRow, other: dict[str, str]) -> None:
    """A quick look at ten easy sequences must not outrank a score on the whole split."""
    boards = rank([make_row("a"), make_row("b", **other)])
    assert [len(board.entries) for board in boards] == [1, 1]
    assert all(board.entries[0].rank == 1 for board in boards)


def test_order_of_arrival_does_not_matter(make_row: MakeRow) -> None:
    rows = [
        make_row(f"tracker {i}", metrics={"mMOTA": float(i % 4), "mIDF1": float(i % 3)})
        for i in range(20)
    ]
    expected = rank(rows)
    random.Random(3).shuffle(rows)
    assert rank(rows) == expected


def test_no_rows_no_leaderboard() -> None:
    assert rank([]) == []


def test_unknown_rules_are_ranked_by_hota() -> None:
    assert ranking_metrics("dancetrack") == ("HOTA", "MOTA", "IDF1")


def test_headline_of_a_single_row_table_is_that_row() -> None:
    numbers = {"HOTA": 50.0, "FP": 3}
    assert headline_numbers({"pedestrian": numbers}) == numbers
    assert headline_numbers({}) == {}


def test_headline_takes_averages_of_classes_and_pooled_counts() -> None:
    table = {
        "car": {"MOTA": 1.0, "IDF1": 2.0, "HOTA": 3.0, "FP": 4},
        "AVERAGE": {"MOTA": 24.3, "IDF1": 32.2, "HOTA": 26.2, "FP": 126},
        "OVERALL": {"MOTA": 64.2, "IDF1": 71.0, "HOTA": 61.1, "FP": 126},
    }
    expected = {"mMOTA": 24.3, "mIDF1": 32.2, "mHOTA": 26.2}
    assert headline_numbers(table) == {**expected, **table["OVERALL"]}


KITTI_MOTS = {
    "car": {"sMOTSA": 76.2, "HOTA": 70.0, "TP": 7000, "IDS": 93},
    "pedestrian": {"sMOTSA": 46.8, "HOTA": 50.0, "TP": 2000, "IDS": 78},
}


def test_classes_that_are_never_put_together_have_headlines_of_their_own() -> None:
    assert headline_numbers(KITTI_MOTS) == {
        **{"car/sMOTSA": 76.2, "pedestrian/sMOTSA": 46.8},
        **{"car/HOTA": 70.0, "pedestrian/HOTA": 50.0},
        **{"car/IDS": 93, "pedestrian/IDS": 78},
    }
    curves = {name: {"HOTA": [1.0], "DetA": [2.0]} for name in KITTI_MOTS}
    assert summary_curves(curves) == {"car/HOTA": [1.0], "pedestrian/HOTA": [1.0]}
    assert summary_curves({"pedestrian": curves["car"]}) == curves["car"]
    assert summary_curves({"car": {}, "OVERALL": curves["car"]}) == curves["car"]


def test_numbers_of_a_class_are_what_the_metric_is() -> None:
    assert format_number("car/IDS", 93.0) == "93"
    assert format_number("car/sMOTSA", 76.2) == "76.20"
    assert (less_is_better("car/IDS"), less_is_better("car/HOTA")) == (True, False)


@pytest.mark.parametrize(
    ("protocol", "metrics"),
    [
        ("kitti_mots", ("car/sMOTSA", "pedestrian/sMOTSA", "car/HOTA", "pedestrian/HOTA")),
        ("apollo_mots", ("sMOTSA", "HOTA")),
        ("mots_challenge", ("sMOTSA", "HOTA")),
        ("bdd100k_mots", ("mMOTSA", "mIDF1")),
    ],
)
def test_results_of_masks_are_ranked_by_smotsa_then_hota(
    protocol: str, metrics: tuple[str, ...], make_row: MakeRow
) -> None:
    rows = [
        make_row(name, protocol=protocol, metrics=dict.fromkeys(metrics, 50.0) | changes)
        for name, changes in (
            ("less of the last", {metrics[-1]: 49.0}),
            ("more of the first", {metrics[0]: 51.0, metrics[-1]: 1.0}),
            ("as it is", {}),
        )
    ]
    (board,) = rank(rows)
    assert [entry.row.name for entry in board.entries] == [
        *("more of the first", "as it is", "less of the last"),
    ]
    assert board.metrics == metrics


def test_every_protocol_reports_what_ranks_it() -> None:
    from pipeline.sweep import known_metrics

    for name in PROTOCOLS:
        protocol = build_protocol(EvaluationConfig(protocol=name))
        assert set(ranking_metrics(name)) <= set(known_metrics(protocol)), name


def test_a_row_survives_json(full_row: ResultRow) -> None:
    text = json.dumps(full_row.to_dict(), allow_nan=False)
    assert ResultRow.from_dict(json.loads(text)) == full_row
    assert full_row.per_class["bus"]["MOTP"] is None, "NaN has no place in JSON"


def test_a_row_of_a_later_version_is_read_without_what_is_unknown(full_row: ResultRow) -> None:
    assert ResultRow.from_dict({**full_row.to_dict(), "colour": "green"}) == full_row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "oracle"}, "kind is 'oracle'"),
        ({"name": " "}, "name of a result row is empty"),
        ({"fingerprint": "a' OR 1=1"}, "fingerprint is"),
        ({"fingerprint": ""}, "fingerprint is"),
    ],
)
def test_rows_that_cannot_be(full_row: ResultRow, change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(full_row, **change)  # type: ignore[arg-type]


def test_numbers_as_tables_show_them() -> None:
    assert format_number("MOTA", 24.324205) == "24.32"
    assert format_number("MOTA", -4.2) == "-4.20"
    assert format_number("FP", 1234567) == "1234567"
    assert format_number("IDF1", None) == "–"


def test_ranking_needs_none_of_the_heavy_libraries(repository: Path) -> None:
    """Reports start in a second: nothing here may pull in torch, ray or mlflow."""
    program = (
        "import sys, pipeline.leaderboard_page, pipeline.leaderboard_formats, pipeline.provenance\n"
        "heavy = {'torch', 'ray', 'mlflow', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=repository, check=False
    )
    assert done.returncode == 0, done.stderr


class TestFindingARow:
    def rows(self, make_row: MakeRow) -> list[ResultRow]:
        return [
            make_row("model", fingerprint="aabb01"),
            make_row("overlap", fingerprint="aacc02"),
            make_row("aa", fingerprint="ddee03"),
            make_row("twice", fingerprint="ffff04"),
            make_row("twice", fingerprint="ffff05"),
        ]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("model", "aabb01"),
            ("aacc02", "aacc02"),
            ("aab", "aabb01"),
            ("d", "ddee03"),
            ("aa", "ddee03"),  # a whole name goes before the beginning of a fingerprint
        ],
    )
    def test_by_name_fingerprint_or_beginning(
        self, make_row: MakeRow, text: str, expected: str
    ) -> None:
        assert find_row(self.rows(make_row), text).fingerprint == expected

    def test_what_is_not_unique_lists_the_candidates(self, make_row: MakeRow) -> None:
        for text in ("twice", "ffff"):
            with pytest.raises(ValueError, match=r"more than one row .*ffff04 .*ffff05 ") as caught:
                find_row(self.rows(make_row), text)
            assert "aabb01" not in str(caught.value)

    def test_nothing_found_lists_all(self, make_row: MakeRow) -> None:
        with pytest.raises(ValueError, match=r"no row .*'other'.*aabb01 \(model\), aacc02"):
            find_row(self.rows(make_row), "other")


def test_rows_of_before_the_intervals_are_still_read(make_row: MakeRow) -> None:
    row = make_row("a", intervals={"mMOTA": (1.0, 2.0)})
    content = json.loads(json.dumps(row.to_dict()))
    assert ResultRow.from_dict(content) == row
    assert content.pop("intervals") == {"mMOTA": [1.0, 2.0]}
    assert ResultRow.from_dict(content).intervals == {}


def test_brackets_are_explained_where_there_are_some(make_row: MakeRow) -> None:
    (without,), (with_some,) = (
        rank([make_row("a", intervals=found)]) for found in ({}, {"mMOTA": (1.0, 2.0)})
    )
    assert without.legend == ""
    assert with_some.legend == "In brackets: 95 % of resamples of the sequences."


def test_no_interval_is_no_text() -> None:
    assert format_interval("MOTA", None) == ""
