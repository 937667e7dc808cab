"""Leaderboards as text for a terminal, CSV, JSON and Markdown."""

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.leaderboard import (
    Entry,
    Leaderboard,
    ResultRow,
    format_interval,
    format_number,
)

TEXT_WIDTH: Final = 120
"""Columns of a terminal that the table fits into; metrics without room are in the other formats."""

PROVENANCE: Final[Mapping[str, str]] = {
    "recipe": "recipe",
    "weights": "weights",
    "detections": "detections",
    "tracker": "tracker",
    "evaluator": "evaluator",
    "revision": "revision",
    "source": "source_digest",
    "hardware": "hardware",
    "date": "date",
    "run": "process_run_id",
    "result": "fingerprint",
}
"""What is stated with every number: label to field of the row."""

_NAME_WIDTH: Final = 52
_GAP: Final = "  "


def provenance_of(row: ResultRow) -> dict[str, str]:
    """Label to text of everything stated with a row; "not stated" where the row is silent."""
    return {label: getattr(row, name) or "not stated" for label, name in PROVENANCE.items()}


def label_of(entry: Entry, limit: int | None = None) -> str:
    """Title of a row, with what it is where it is no model; the title cut to fit the limit."""
    mark = "" if entry.row.kind == "model" else f" [{entry.row.kind}]"
    name = entry.row.name
    if limit is not None and len(name) + len(mark) > limit:
        name = name[: limit - len(mark) - 1] + "…"
    return name + mark


def format_text(leaderboards: Sequence[Leaderboard]) -> str:
    """Tables of at most `TEXT_WIDTH` columns, each with the provenance of its rows below."""
    text = "\n\n".join(_text_of(board) for board in leaderboards) + "\n"
    # Names come from users; what steers a terminal must not reach one.
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def format_csv(leaderboards: Sequence[Leaderboard]) -> str:
    """One line for every row of every leaderboard, numbers in full, empty where there is none.

    Behind all metrics stand the ends of their intervals, as "MOTA low" and "MOTA high".
    """
    metrics = list(dict.fromkeys(name for board in leaderboards for name in board.metrics))
    rows = [entry.row for board in leaderboards for entry in board.entries]
    ranges = [name for name in metrics if any(name in row.intervals for row in rows)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    place = ["benchmark", "split", "protocol", "truth", "rank", "kind", "name"]
    ends = [f"{name} {end}" for name in ranges for end in ("low", "high")]
    writer.writerow([*place, *metrics, *ends, *PROVENANCE.values(), "notes"])
    for board in leaderboards:
        for entry in board.entries:
            row = entry.row
            writer.writerow(
                [
                    *(board.benchmark, board.split, board.protocol, board.truth),
                    *(entry.rank, row.kind, row.name),
                    *(row.metrics.get(name) for name in metrics),
                    *(end for name in ranges for end in row.intervals.get(name, (None, None))),
                    *(getattr(row, name) for name in PROVENANCE.values()),
                    row.notes,
                ]
            )
    return stream.getvalue()


def format_json(leaderboards: Sequence[Leaderboard]) -> str:
    """Everything, tables of classes and sequences and curves included."""
    content = [
        {
            "benchmark": board.benchmark,
            "split": board.split,
            "protocol": board.protocol,
            "truth": board.truth,
            "ranked_by": board.ranked_by,
            "rows": [{"rank": entry.rank, **entry.row.to_dict()} for entry in board.entries],
        }
        for board in leaderboards
    ]
    return json.dumps({"leaderboards": content}, indent=1, allow_nan=False) + "\n"


def format_markdown(leaderboards: Sequence[Leaderboard]) -> str:
    """Two tables for every leaderboard: the numbers, and what they were made by."""
    sections = []
    for board in leaderboards:
        numbers = [["#", "tracker", *board.metrics]]
        provenance = [["#", "tracker", *PROVENANCE, "notes"]]
        for entry in board.entries:
            head = [_rank(entry), label_of(entry)]
            numbers.append([*head, *_cells_with_intervals(entry, board.metrics)])
            provenance.append([*head, *provenance_of(entry.row).values(), entry.row.notes])
        sections += [f"## {_escape(board.title)}", _escape(f"{board.rules}. {board.legend}")]
        sections += [_markdown_table(numbers, numeric_from=2), _markdown_table(provenance)]
    return "\n\n".join(sections) + "\n"


def _text_of(board: Leaderboard) -> str:
    columns = _columns_that_fit(board)
    lines = [["#", "tracker", *columns]]
    lines += [
        [_rank(entry), label_of(entry, _NAME_WIDTH), *_cells(entry, columns)]
        for entry in board.entries
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [_align(line, widths) for line in lines]
    table.insert(1, _GAP.join("-" * width for width in widths))
    return "\n".join([board.title, board.rules, "", *table, "", *_provenance_lines(board)])


def _columns_that_fit(board: Leaderboard) -> list[str]:
    names = [label_of(entry, _NAME_WIDTH) for entry in board.entries]
    used = max(map(len, ("#", *(_rank(entry) for entry in board.entries))))
    used += len(_GAP) + max(map(len, ("tracker", *names)))
    chosen = []
    for metric in board.metrics:
        cells = [_cells(entry, [metric])[0] for entry in board.entries]
        used += len(_GAP) + max(map(len, (metric, *cells)))
        if used > TEXT_WIDTH:
            break
        chosen.append(metric)
    return chosen


def _provenance_lines(board: Leaderboard) -> list[str]:
    """What every row states, said once where all rows agree."""
    facts = [_facts(entry.row, board.ranked_by) for entry in board.entries]
    shared = set.intersection(*(set(entry.items()) for entry in facts)) if len(facts) > 1 else set()
    lines = _listed("all rows", [fact for fact in facts[0].items() if fact in shared])
    for entry, own in zip(board.entries, facts, strict=True):
        rest = [fact for fact in own.items() if fact not in shared]
        lines += _listed(f"{_rank(entry)} {label_of(entry, TEXT_WIDTH - 4)}", rest)
    return lines


def _facts(row: ResultRow, ranked_by: Sequence[str]) -> dict[str, str]:
    """Also the intervals of what decides: beside every number they would not fit a terminal."""
    deciding = [
        f"{name} {format_interval(name, row.intervals[name])}"
        for name in ranked_by
        if name in row.intervals
    ]
    ours = {"95 %": ", ".join(deciding), "notes": row.notes}
    return provenance_of(row) | {label: text for label, text in ours.items() if text}


def _listed(title: str, facts: Sequence[tuple[str, str]]) -> list[str]:
    lines = [title] if facts else []
    for label, text in facts:
        head = f"    {label:<11}"
        lines += textwrap.wrap(
            text, TEXT_WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
        )
    return lines


def _cells(entry: Entry, metrics: Sequence[str]) -> list[str]:
    return [format_number(name, entry.row.metrics.get(name)) for name in metrics]


def _cells_with_intervals(entry: Entry, metrics: Sequence[str]) -> list[str]:
    ranges = [format_interval(name, entry.row.intervals.get(name)) for name in metrics]
    return [
        f"{number} {interval}".rstrip()
        for number, interval in zip(_cells(entry, metrics), ranges, strict=True)
    ]


def _rank(entry: Entry) -> str:
    return "–" if entry.rank is None else str(entry.rank)


def _align(cells: list[str], widths: list[int]) -> str:
    rank, name, *numbers = (
        cell.ljust(width) if index == 1 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return _GAP.join([rank, name, *numbers]).rstrip()


def _markdown_table(lines: Sequence[Sequence[Any]], numeric_from: int | None = None) -> str:
    width = len(lines[0])
    rule = [
        "---:" if numeric_from is not None and index >= numeric_from else "---"
        for index in range(width)
    ]
    rows = [lines[0], rule, *lines[1:]]
    escaped = [[cell if row is rule else _escape(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


def _escape(text: str) -> str:
    """Text inside a Markdown table: names come from users and may hold its marks, or HTML."""
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
