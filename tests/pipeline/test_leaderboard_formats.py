"""What is printed and written: every row, every number, and everything that must be stated."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.leaderboard import Leaderboard, ResultRow, rank
from pipeline.leaderboard_formats import (
    PROVENANCE,
    TEXT_WIDTH,
    format_csv,
    format_json,
    format_markdown,
    format_text,
)

STATED = (
    *("recipe", "weights", "detections", "split", "evaluator", "revision", "hardware", "date"),
)


@pytest.fixture
def boards(make_row: Callable[..., ResultRow], full_row: ResultRow) -> list[Leaderboard]:
    """Two leaderboards, the first with a model, a baseline and a bound."""
    return rank(
        [
            full_row,
            make_row("overlap only", kind="baseline", metrics={"mMOTA": 10.0, "MOTA": 50.0}),
            make_row("true boxes", kind="bound", metrics={"mMOTA": 80.0}, notes="not a tracker"),
            make_row("other", benchmark="synthetic", weights="", metrics={"MOTA": 1.0, "odd": 2.0}),
        ]
    )


def test_text_shows_rank_name_kind_and_scores(boards: list[Leaderboard]) -> None:
    lines = format_text(boards).splitlines()
    assert lines[0] == "bdd100k / val"
    assert "ranked by mMOTA, then mIDF1" in lines[1]
    assert "2 sequences, 40 frames (3fa9c0de12ab34cd)" in lines[1]
    assert lines[3].split() == ["#", "tracker", "mMOTA", "MOTA", "FP", "MOTP"]
    assert lines[5].split() == ["–", "true", "boxes", "[bound]", "80.00", "–", "–", "–"]
    assert lines[6].split() == ["1", "QDTrack,", "all", "of", "it", "24.32", "64.20", "126", "–"]
    assert lines[7].split() == ["2", "overlap", "only", "[baseline]", "10.00", "50.00", "–", "–"]


def test_text_says_once_what_all_rows_share_and_states_everything(
    boards: list[Leaderboard], full_row: ResultRow
) -> None:
    text = format_text(boards[:1])
    assert text.count(full_row.recipe) == 1
    for name in PROVENANCE.values():
        assert (getattr(full_row, name) or "not stated") in text
    assert "synthetic data" in text
    assert "not a tracker" in text


def test_text_fits_a_terminal_whatever_the_names(make_row: Callable[..., ResultRow]) -> None:
    metrics = dict.fromkeys(("mMOTA", "mIDF1", "MOTA", "IDF1", "HOTA", "DetA"), 123.456)
    metrics |= {f"metric number {index}": 5.0 for index in range(20)}
    rows = [
        make_row("long " * 30, kind="baseline", metrics=metrics),
        make_row("short", metrics=metrics | {"IDSw": 123456789}),
    ]
    text = format_text(rank([*rows, make_row("settings", tracker="quasi_dense(a=1, b=2) " * 20)]))
    table = text.split("\n\n")[1].splitlines()
    assert max(map(len, text.splitlines())) <= TEXT_WIDTH
    assert table[0].split()[:4] == ["#", "tracker", "mMOTA", "mIDF1"]
    assert "… [baseline]" in table[2]


def test_text_does_not_steer_the_terminal(make_row: Callable[..., ResultRow]) -> None:
    text = format_text(rank([make_row("\x1b[31mred\x07", notes="a\rb\x9b2J")]))
    assert not set(text) & set("\x1b\x07\r\x9b")
    assert "[31mred" in text


def test_no_row_no_text() -> None:
    assert format_text([]).strip() == ""


def test_csv_has_every_row_in_full(boards: list[Leaderboard]) -> None:
    lines = list(csv.DictReader(io.StringIO(format_csv(boards))))
    assert [(line["rank"], line["name"]) for line in lines] == [
        ("", "true boxes"),
        ("1", "QDTrack, all of it"),
        ("2", "overlap only"),
        ("1", "other"),
    ]
    assert lines[1]["mMOTA"] == "24.324205123"
    assert lines[1]["MOTP"] == ""
    assert lines[3]["odd"] == "2.0"
    assert all(name in lines[0] for name in STATED)


def test_json_has_everything(boards: list[Leaderboard], full_row: ResultRow) -> None:
    content = json.loads(format_json(boards))
    first = content["leaderboards"][0]
    assert first["ranked_by"] == ["mMOTA", "mIDF1"]
    assert [row["rank"] for row in first["rows"]] == [None, 1, 2]
    assert all(name in first["rows"][1] for name in STATED)
    first["rows"][1].pop("rank")
    assert ResultRow.from_dict(first["rows"][1]) == full_row


def test_markdown_has_two_tables_and_survives_names(make_row: Callable[..., ResultRow]) -> None:
    text = format_markdown(
        rank([make_row("a|b <b>*x*</b>\n\n# new", notes="[link](javascript:x)")])
    )
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    name = "a\\|b &lt;b>\\*x\\*&lt;/b> # new"
    for table in tables:
        assert len(table) == 3, "head, rule, one row"
        assert table[2].startswith(f"| 1 | {name} | ")
    columns = [len(line.replace("\\|", "").split("|")) for line in tables[0]]
    assert len(set(columns)) == 1
    assert tables[0][1].split("|")[3].strip() == "---:"
    assert "\\[link\\]" in tables[1][2]
    assert "not stated" in tables[1][2]


def test_intervals_stand_where_there_is_room(
    make_row: Callable[..., ResultRow], full_row: ResultRow
) -> None:
    wide = {"mMOTA": (12.0, 34.567), "FP": (80.5, 200.0), "MOTA": (60.0, 70.0)}
    boards = rank([replace(full_row, intervals=wide), make_row("old", metrics={"mMOTA": 1.0})])
    text = format_text(boards)
    assert "    95 %       mMOTA [12.00, 34.57]\n" in text
    assert text.count("[60.00") == 0, "only of what decides"
    first, second = list(csv.DictReader(io.StringIO(format_csv(boards))))
    assert (first["mMOTA low"], first["mMOTA high"], first["FP high"]) == (
        "12.0",
        "34.567",
        "200.0",
    )
    assert (second["mMOTA low"], second["FP high"]) == ("", "")
    assert "MOTP low" not in first
    markdown = format_markdown(boards)
    assert "| 24.32 \\[12.00, 34.57\\] |" in markdown
    assert "| 126 \\[80, 200\\] |" in markdown
    assert "| 1.00 |" in markdown
    assert ". In brackets: 95 % of" in markdown
    rows = json.loads(format_json(boards))["leaderboards"][0]["rows"]
    assert rows[0]["intervals"]["FP"] == [80.5, 200.0]
