"""Leaderboards as one self-contained HTML page: sortable tables whose rows open."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from pipeline import page_tables as tables
from pipeline.leaderboard import (
    Entry,
    Leaderboard,
    ResultRow,
    format_interval,
    format_number,
    less_is_better,
    summary_numbers,
)
from pipeline.leaderboard_formats import provenance_of
from pipeline.page import document, figure
from pipeline.plots import Point, line_chart

ALPHAS: Final = tuple(round(0.05 * index, 2) for index in range(1, 20))
"""Thresholds of HOTA's curves."""


def format_html(leaderboards: Sequence[Leaderboard], *, made_by: str) -> str:
    """A whole HTML document.

    Columns sort by their buttons; a row opens to its classes, sequences, curves and provenance.
    Without scripts the rows are all open.

    Args:
        leaderboards: at least one.
        made_by: what made the page and when, shown below the title.
    """
    sections = "".join(_section(board, index) for index, board in enumerate(leaderboards))
    return document("Quasar leaderboard", sections, made_by=made_by)


def hota_chart(rows: Mapping[str, Sequence[float | None]], *, standalone: bool = False) -> str:
    """Curves over the localisation threshold: label to 19 percentages, None where undefined."""
    curves = {label: _points(values) for label, values in rows.items()}
    return line_chart(
        curves,
        title="Scores over the localisation threshold",
        x_label="localisation threshold α",
        y_label="%",
        standalone=standalone,
    )


def loss_chart(curves: Mapping[str, Sequence[Point]], *, standalone: bool = False) -> str:
    """Training losses by step."""
    return line_chart(
        curves, title="Training losses", x_label="step", y_label="loss", standalone=standalone
    )


def _section(board: Leaderboard, index: int) -> str:
    title = escape(board.title)
    entries = (
        _entry(board, entry, position, f"row-{index}-{position}")
        for position, entry in enumerate(board.entries)
    )
    hota = _hota_by_label(board)
    chart = figure(hota_chart(hota), "HOTA over the localisation threshold") if hota else ""
    return f"""<section>
<h2>{title}</h2>
<p class="muted">{escape(f"{board.rules}. {board.legend}")}</p>
{tables.board(_columns(board), entries, f"Scores on {board.title}")}
<div class="charts">{chart}</div>
</section>
"""


def _hota_by_label(board: Leaderboard) -> dict[str, Sequence[float | None]]:
    curves: dict[str, Sequence[float | None]] = {}
    for entry in board.entries:
        label = entry.row.name if entry.rank is None else f"{entry.rank}. {entry.row.name}"
        for name, curve in entry.row.hota_curves.items():
            class_name, _, metric = name.rpartition("/")
            if metric != "HOTA":
                continue
            own = f"{label}, {class_name}" if class_name else label
            if own in curves:  # equals of one name
                own = f"{own} ({entry.row.fingerprint})"
            curves[own] = curve
    return curves


def _columns(board: Leaderboard) -> list[str]:
    return [
        tables.column("#", "ascending", is_sorted=True),
        tables.column("tracker", "ascending", is_name=True),
        *(
            tables.column(name, "ascending" if less_is_better(name) else "descending")
            for name in board.metrics
        ),
    ]


def _entry(board: Leaderboard, entry: Entry, position: int, identifier: str) -> str:
    row = entry.row
    best = _best_values(board)
    # Recipes are long words that may break at underscores.
    name = escape(row.name).replace("_", "_<wbr>")
    cells = [
        tables.value_cell("–" if entry.rank is None else str(entry.rank), position),
        tables.name_cell(
            name, row.name, opens=identifier, badge="" if row.kind == "model" else row.kind
        ),
        *(
            _number_cell(row, name, is_best=name in best and entry in best[name])
            for name in board.metrics
        ),
    ]
    return tables.entry(cells, identifier=identifier, detail=_detail(row), kind=row.kind)


def _best_values(board: Leaderboard) -> dict[str, list[Entry]]:
    """Per metric the ranked entries that nobody beats, where there is more than one to compare."""
    ranked = [entry for entry in board.entries if entry.rank is not None]
    best = {}
    for name in board.metrics:
        values = [v for e in ranked if (v := e.row.metrics.get(name)) is not None]
        if len(values) > 1:
            target = min(values) if less_is_better(name) else max(values)
            best[name] = [e for e in ranked if e.row.metrics.get(name) == target]
    return best


def _number_cell(row: ResultRow, metric: str, *, is_best: bool) -> str:
    value = row.metrics.get(metric)
    interval = format_interval(metric, row.intervals.get(metric))
    below = f"<small>{interval}</small>" if interval else ""
    return tables.value_cell(format_number(metric, value) + below, value, "best" if is_best else "")


def _detail(row: ResultRow) -> str:
    parts = [f'<p class="note">{escape(row.notes)}</p>'] if row.notes else []
    parts.append(f"<h3>Made by</h3>{tables.definitions(provenance_of(row).items())}")
    parts.append(_charts(row))
    if row.per_class:
        parts.append(f"<h3>By class</h3>{tables.number_table(row.per_class, 'class')}")
    if row.per_sequence:
        totals = {name: summary_numbers(table) for name, table in row.per_sequence.items()}
        count = f"{len(totals)} sequence{'' if len(totals) == 1 else 's'}"
        table = tables.number_table(totals, "sequence")
        parts.append(f"<details><summary>By sequence ({count})</summary>{table}</details>")
    return "".join(parts)


def _charts(row: ResultRow) -> str:
    figures = []
    if row.hota_curves:
        chart = hota_chart(row.hota_curves)
        which = "all classes" if "HOTA" in row.hota_curves else "by class"
        figures.append(figure(chart, f"Over the localisation threshold, {which}"))
    if row.loss_curves:
        figures.append(figure(loss_chart(row.loss_curves), "Training losses"))
    return f'<h3>Curves</h3><div class="charts">{"".join(figures)}</div>' if figures else ""


def _points(values: Iterable[float | None]) -> list[Point]:
    return [(x, y) for x, y in zip(ALPHAS, values, strict=True) if y is not None]
