"""A diagnosis as one self-contained HTML page: bounds, causes, classes, sequences, clips."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

import numpy as np

from pipeline import page_tables as tables
from pipeline.diagnosis import (
    BOUND_METRICS,
    REPAIRED_METRICS,
    Diagnosis,
    SequenceFindings,
    summarise,
)
from pipeline.errors import CAUSES, COUNTS, MEANING, Cause, Error
from pipeline.leaderboard import Number, format_number
from pipeline.metrics.protocol import Row
from pipeline.page import document
from pipeline.repairs import REPAIRS

ERRORS_A_CAUSE: Final = 10
"""Worst errors that are listed of each cause."""
ERRORS_A_SEQUENCE: Final = 10
"""Worst errors that are listed of each sequence."""

_IN_MOTA: Final = CAUSES[: CAUSES.index("fragmented")]


def format_page(diagnosis: Diagnosis, clips: Sequence[bytes], *, made_by: str) -> str:
    """A whole HTML document; readable without scripts, which only sort and fold its tables.

    Args:
        diagnosis: what is shown.
        clips: H.264 videos of the worst switches, in the order of `diagnosis.worst("switched")`;
            may be fewer than there are switches.
        made_by: what made the page and when, shown below the title.
    """
    parts = [
        f'<p class="lead">{escape(summarise(diagnosis))}</p>',
        _inputs(diagnosis),
        _bounds(diagnosis),
        _causes(diagnosis),
        _classes(diagnosis),
        _sequences(diagnosis),
        _switches(diagnosis, clips),
        _worst(diagnosis),
    ]
    title = f"Where the score was lost: {diagnosis.title}"
    return document(title, "\n".join(parts), made_by=made_by)


def _inputs(diagnosis: Diagnosis) -> str:
    facts = {**diagnosis.inputs, **diagnosis.report.evaluator}
    listed = tables.definitions(facts.items())
    return f"<details><summary>What was diagnosed</summary>{listed}</details>"


def _bounds(diagnosis: Diagnosis) -> str:
    known = diagnosis.result.metrics or {}
    names = [name for name in BOUND_METRICS if name in known]
    lines = [
        [bound.name, *(format_number(name, (bound.metrics or {}).get(name)) for name in names)]
        for bound in diagnosis.bounds
    ]
    bars = {
        bound.name: bound.metrics.get("HOTA") or 0.0
        for bound in diagnosis.bounds
        if bound.metrics is not None
    }
    told = ((bound.name, bound.tells) for bound in diagnosis.bounds[1:])
    return f"""<section><h2>What bounds it</h2>
<p class="muted">HOTA of all classes pooled, in percent</p>
{_bars(bars, most=100.0)}
{_table(["result", *names], lines, "Bounds")}
{tables.definitions(told, "legend")}</section>"""


def _causes(diagnosis: Diagnosis) -> str:
    rows = diagnosis.mota_rows
    costs = {name: diagnosis.points(row) for name, row in rows.items()}
    order = np.argsort(-costs["MOTA"], kind="stable").tolist()
    totals = diagnosis.counts.sum(axis=1)
    heading = ["cause", *COUNTS, *(f"−{name}" for name in costs)]
    lines = []
    for index in order:
        cause = CAUSES[index]
        regained = (diagnosis.regained(cause, metric) for metric in REPAIRED_METRICS)
        lines.append(
            [
                cause,
                *(str(count) if count else "" for count in totals[index].tolist()),
                *(f"{points[index]:.2f}" for points in costs.values()),
                *("–" if value is None else f"{value:+.2f}" for value in regained),
            ]
        )
    bars = {CAUSES[i]: float(costs["MOTA"][i]) for i in order if CAUSES[i] in _IN_MOTA}
    told = ((CAUSES[i], _meaning(CAUSES[i])) for i in order)
    return f"""<section><h2>What it cost</h2>
<p class="muted">MOTA points of all classes pooled; together all that is missing to 100</p>
{_bars(bars, most=max(bars.values()))}
{_table([*heading, *REPAIRED_METRICS], lines, "Causes")}
<p class="muted">−MOTA: exact, by counting. {" and ".join(REPAIRED_METRICS)}: change of the score,
scored again with this cause alone repaired; – where a repair is not defined.</p>
{tables.definitions(told, "legend")}</section>"""


def _meaning(cause: Cause) -> str:
    how = REPAIRS.get(cause)
    return MEANING[cause] if how is None else f"{MEANING[cause]}. Repaired: {how}"


def _classes(diagnosis: Diagnosis) -> str:
    entries = []
    for index, name in enumerate(diagnosis.protocol.classes):
        num_truth = int(diagnosis.num_truth[index])
        points = diagnosis.points(Row(name=name, classes=(name,)))
        mota = diagnosis.report.metrics[name]["MOTA"]
        entries.append(
            tables.entry(
                [
                    tables.name_cell(escape(name), name),
                    tables.value_cell(str(num_truth), num_truth),
                    _number_cell("MOTA", mota),
                    *_point_cells(points),
                ]
            )
        )
    return f"""<section><h2>By class</h2>
<p class="muted">Points of the class's own MOTA that each cause costs</p>
{_board(["class", "true boxes", "MOTA", *_IN_MOTA], entries, "By class")}</section>"""


def _sequences(diagnosis: Diagnosis) -> str:
    entries = []
    row = diagnosis.summary_row
    for position, (name, found) in enumerate(diagnosis.sequences.items()):
        numbers = diagnosis.report.sequences[name][row.name]
        num_truth = int(found.num_truth.sum())
        identifier = f"sequence-{position}"
        cells = [
            tables.name_cell(escape(name), name, opens=identifier),
            tables.value_cell(str(num_truth), num_truth),
            *(_number_cell(metric, numbers[metric]) for metric in ("MOTA", "IDF1", "HOTA")),
            *_point_cells(diagnosis.points(row, name)),
        ]
        shown = found.errors[:ERRORS_A_SEQUENCE]
        rest = len(found.errors) - len(shown)
        detail = _error_table(((name, error) for error in shown), diagnosis, with_sequence=False)
        if rest:
            detail += f'<p class="muted">{rest} smaller ones are not listed.</p>'
        entries.append(tables.entry(cells, identifier=identifier, detail=detail))
    heading = ["sequence", "true boxes", "MOTA", "IDF1", "HOTA", *_IN_MOTA]
    return f"""<section><h2>By sequence</h2>
<p class="muted">Points of the sequence's own MOTA that each cause costs; a sequence opens to its
worst errors</p>
{_board(heading, entries, "By sequence")}</section>"""


def _switches(diagnosis: Diagnosis, clips: Sequence[bytes]) -> str:
    switches = diagnosis.worst("switched")
    if not switches:
        return "<section><h2>Worst switches</h2><p>No identity was switched.</p></section>"
    figures = "".join(
        _clip(diagnosis, name, error, clip)
        for (name, error), clip in zip(switches, clips, strict=False)
    )
    left = len(switches) - len(clips)
    note = f" {left} more are in the list of --json, and as videos by jobs.render." if left else ""
    return f"""<section><h2>Worst switches</h2>
<p class="muted">{len(clips)} of {len(switches)}, by the boxes that have a wrong identity at
least. The true box is white, the tracks before and after have their colours.{note}</p>
<div class="clips">{figures}</div></section>"""


def _clip(diagnosis: Diagnosis, name: str, error: Error, clip: bytes) -> str:
    source = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
    what = (
        f"{name}: {_class_name(diagnosis, error.truth_class)} "
        f"{_identity_name(diagnosis.sequences[name], error)}, track {error.previous_track_id} "
        f"until frame {error.first_frame}, track {error.track_id} from {error.last_frame} on; "
        f"{error.num_boxes} boxes"
    )
    return (
        f'<figure><video controls muted loop playsinline preload="metadata" '
        f'aria-label="{escape(what)}" src="{source}"></video>'
        f"<figcaption>{escape(what)}</figcaption></figure>"
    )


def _worst(diagnosis: Diagnosis) -> str:
    parts = []
    for cause in CAUSES:
        errors = diagnosis.worst(cause)
        if not errors:
            continue
        shown = errors[:ERRORS_A_CAUSE]
        count = f"{len(shown)} of {len(errors)}" if len(shown) < len(errors) else str(len(errors))
        table = _error_table(shown, diagnosis, with_sequence=True)
        parts.append(
            f"<details><summary>{escape(cause)} ({count})</summary>"
            f'<p class="muted">{escape(MEANING[cause])}</p>{table}</details>'
        )
    return f"<section><h2>Worst errors by cause</h2>{''.join(parts)}</section>"


def _error_table(
    errors: Iterable[tuple[str, Error]], diagnosis: Diagnosis, *, with_sequence: bool
) -> str:
    """Errors with the names that a reader needs to find them in the frames."""
    lines = []
    for name, error in errors:
        found = diagnosis.sequences[name]
        tracks = [error.previous_track_id, error.track_id]
        lines.append(
            [
                name if with_sequence else error.cause,
                str(error.num_boxes),
                f"{error.first_frame}–{error.last_frame}",
                found.frame_names[error.first_frame],
                _class_name(diagnosis, error.truth_class),
                _identity_name(found, error),
                _class_name(diagnosis, error.track_class),
                " → ".join(str(track) for track in tracks if track is not None) or "–",
            ]
        )
    first = "sequence" if with_sequence else "cause"
    heading = [first, "boxes", "frames", "first frame", "true class", "identity", "class", "track"]
    return _table(heading, lines, "Errors")


def _class_name(diagnosis: Diagnosis, index: int | None) -> str:
    return "–" if index is None else diagnosis.protocol.classes[index]


def _identity_name(found: SequenceFindings, error: Error) -> str:
    return "–" if error.identity is None else found.identity_names[error.identity]


def _point_cells(points: Iterable[float]) -> list[str]:
    return [
        tables.value_cell(f"{value:.2f}", float(value))
        for cause, value in zip(CAUSES, points, strict=True)
        if cause in _IN_MOTA
    ]


def _number_cell(metric: str, value: Number) -> str:
    return tables.value_cell(format_number(metric, value), value)


def _bars(values: Mapping[str, float], *, most: float) -> str:
    """One bar for each label, `most` as long as the row."""
    rows = []
    for label, value in values.items():
        share = 100.0 * max(0.0, value) / most if most > 0 else 0.0
        rows.append(
            f"<span>{escape(label)}</span>"
            '<svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect width="{share:.2f}" height="8"/></svg><span>{value:.1f}</span>'
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def _table(heading: Sequence[str], lines: Iterable[Sequence[str]], label: str) -> str:
    """Lines of text, the first of each its name."""
    return tables.plain_table(
        heading,
        (
            tables.line(name, (tables.cell(escape(text)) for text in texts))
            for name, *texts in lines
        ),
        label,
    )


def _board(heading: Sequence[str], entries: Iterable[str], label: str) -> str:
    """A board: the first column sorts by name, the others with the greatest number first."""
    numbers = (tables.column(title, "descending") for title in heading[1:])
    return tables.board(
        [tables.column(heading[0], "ascending", is_name=True), *numbers], entries, label
    )
