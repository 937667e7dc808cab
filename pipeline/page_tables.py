"""Tables of HTML pages: plain ones to read, and boards whose columns sort and whose rows open.

What is said to be text is escaped here; in what is said to be HTML the caller has escaped every
text.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

from pipeline.leaderboard import Table, format_number


def definitions(facts: Iterable[tuple[str, str]], kind: str = "") -> str:
    """Labels with what they stand for, both text; `kind` is a class of style."""
    listed = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts)
    return f"<dl{_class(kind)}>{listed}</dl>"


def plain_table(heading: Sequence[str], lines: Iterable[str], label: str, kind: str = "") -> str:
    """A table to read.

    Args:
        heading: of every column, the one of names first; text.
        lines: HTML, see `line`.
        label: what it is, for those who cannot see it; text.
        kind: a class of style.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heading[1:])
    return _region(
        f"numbers {kind}",
        label,
        f'<table><thead><tr><th scope="col" class="name">{escape(heading[0])}</th>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table>",
    )


def line(name: str, cells: Iterable[str]) -> str:
    """A line of a plain table: its name, text, and its cells, HTML."""
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def cell(content: str, kind: str = "") -> str:
    """A cell of HTML; `kind` is a class of style."""
    return f"<td{_class(kind)}>{content}</td>"


def number_table(table: Table, what: str) -> str:
    """A plain table of metrics; `what` names what the lines are, text."""
    metrics = list(dict.fromkeys(name for numbers in table.values() for name in numbers))
    lines = (
        line(label, (cell(format_number(name, numbers.get(name))) for name in metrics))
        for label, numbers in table.items()
    )
    return plain_table([what, *metrics], lines, f"By {what}")


def board(columns: Iterable[str], entries: Iterable[str], label: str, kind: str = "") -> str:
    """A table whose columns sort by their buttons and whose rows open by theirs.

    Args:
        columns: HTML, see `column`.
        entries: HTML, see `entry`.
        label: what it is, for those who cannot see it; text.
        kind: a class of style.
    """
    return _region(
        f"scroll {kind}",
        label,
        f'<table class="board"><thead><tr>{"".join(columns)}</tr></thead>\n'
        f"{''.join(entries)}</table>",
    )


def column(
    title: str,
    first: Literal["ascending", "descending"],
    *,
    is_name: bool = False,
    is_sorted: bool = False,
) -> str:
    """The head of a board's column.

    Args:
        title: text.
        first: which way its button sorts first.
        is_name: whether it holds the names of the rows.
        is_sorted: whether the rows are in its order to begin with.
    """
    order = f' aria-sort="{first}"' if is_sorted else ""
    return (
        f'<th scope="col"{_class("name" if is_name else "")} data-first="{first}"{order}>'
        f"<button>{escape(title)}</button></th>"
    )


def entry(cells: Sequence[str], *, identifier: str = "", detail: str = "", kind: str = "") -> str:
    """A row of a board, and below it what it opens to, if anything.

    Args:
        cells: HTML, one for each column: see `name_cell` and `value_cell`.
        identifier: of what it opens to, of its own on the page.
        detail: HTML that it opens to.
        kind: a class of style.
    """
    hidden = ""
    if detail:
        hidden = (
            f'<tr class="detail" id="{identifier}" hidden><td colspan="{len(cells)}">'
            f'<div class="detail-body">{detail}</div></td></tr>'
        )
    kinds = f"entry {kind}".strip()
    return f'<tbody class="{kinds}"><tr>{"".join(cells)}</tr>{hidden}</tbody>\n'


def name_cell(name: str, sorted_by: str, *, opens: str = "", badge: str = "") -> str:
    """The name of a row.

    Args:
        name: HTML.
        sorted_by: text.
        opens: identifier of what its button opens; empty where there is none.
        badge: text behind the name, if any.
    """
    title = name
    if opens:
        title = (
            f'<button class="toggle" aria-expanded="false" aria-controls="{opens}">'
            f"<span>{name}</span></button>"
        )
    if badge:
        title += f' <span class="badge">{escape(badge)}</span>'
    return f'<th scope="row" class="name" data-value="{escape(sorted_by)}">{title}</th>'


def value_cell(content: str, sorted_by: float | str | None, kind: str = "") -> str:
    """A cell of a board: HTML, and what it sorts by; what is None or not finite comes last."""
    if isinstance(sorted_by, float) and not math.isfinite(sorted_by):
        sorted_by = None
    value = "" if sorted_by is None else escape(str(sorted_by))
    return f'<td{_class(kind)} data-value="{value}">{content}</td>'


def _region(kinds: str, label: str, table: str) -> str:
    """A table that scrolls by itself, with the keyboard as well."""
    return (
        f'<div class="{kinds.strip()}" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"{table}</div>"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
