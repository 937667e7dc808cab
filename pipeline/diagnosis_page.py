"""A diagnosis as one self-contained HTML page: bounds, causes, classes, sequences, clips."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

import numpy as np

from pipeline import page_tables as tables
from pipeline.diagnosis import Diagnosis, SequenceFindings, bound_table, summarise
from pipeline.errors import CAUSES, MEANING, Cause, Error
from pipeline.leaderboard import Number, format_number
from pipeline.metrics.protocol import Row
from pipeline.page import document
from pipeline.repairs import REPAIRS
from pipeline.wording import in_words

ERRORS_A_CAUSE: Final = 10
"""Worst errors that are listed of each cause."""
ERRORS_A_SEQUENCE: Final = 10
"""Worst errors that are listed of each sequence."""

_IN_ACCURACY: Final = CAUSES[: CAUSES.index("fragmented")]


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
    heading, *lines = bound_table(diagnosis)
    bars = {
        _named(diagnosis, bound.name, row): bound.metrics.get(diagnosis.label(row, "HOTA")) or 0.0
        for row in diagnosis.summary_rows
        for bound in diagnosis.bounds
        if bound.metrics is not None
    }
    told = ((bound.name, bound.tells) for bound in diagnosis.bounds[1:])
    return f"""<section><h2>What bounds it</h2>
<p class="muted">HOTA of {_whose(diagnosis)}, in percent</p>
{_bars(bars, most=100.0)}
{_table(["result", *heading[1:]], lines, "Bounds")}
{tables.definitions(told, "legend")}</section>"""


def _causes(diagnosis: Diagnosis) -> str:
    accuracy, scored = diagnosis.protocol.accuracy, diagnosis.repaired_metrics
    costs = {name: diagnosis.points(row) for name, row in diagnosis.accuracy_rows.items()}
    totals = diagnosis.totals
    heading = ["cause", *diagnosis.protocol.error_counts, *(f"−{name}" for name in costs)]
    lines = []
    for index in diagnosis.order:
        cause = CAUSES[index]
        regained = (diagnosis.regained(cause, name) for name in scored)
        lines.append(
            [
                cause,
                *(str(count) if count else "" for count in totals[index].tolist()),
                *(f"{points[index]:.2f}" for points in costs.values()),
                *("–" if value is None else f"{value:+.2f}" for value in regained),
            ]
        )
    bars = {
        _named(diagnosis, CAUSES[index], row): float(diagnosis.points(row)[index])
        for row in diagnosis.summary_rows
        for index in diagnosis.order
        if CAUSES[index] in _IN_ACCURACY
    }
    told = ((CAUSES[i], _meaning(diagnosis, CAUSES[i])) for i in diagnosis.order)
    outlines = _outlines(diagnosis)
    return f"""<section><h2>What it cost</h2>
<p class="muted">{accuracy} points of {_whose(diagnosis)}; together all that is missing to 100</p>
{_bars(bars, most=max(bars.values()))}
{_table([*heading, *scored], lines, "Causes")}
<p class="muted">−{accuracy}: exact, by counting. {_listed(list(scored))}: change of the score,
scored again with this cause alone repaired; – where a repair is not defined.{outlines}</p>
{tables.definitions(told, "legend")}</section>"""


def _whose(diagnosis: Diagnosis) -> str:
    """Of which classes the numbers of the summary are."""
    if diagnosis.is_pooled:
        return "all classes pooled"
    return _listed([escape(row.name) for row in diagnosis.summary_rows], "or")


def _named(diagnosis: Diagnosis, name: str, row: Row) -> str:
    """What is said of a row; the row is named where there are several."""
    return name if len(diagnosis.summary_rows) == 1 else f"{row.name}, {name}"


def _listed(names: Sequence[str], last: str = "and") -> str:
    """Names as text.

    >>> _listed(["sMOTSA", "IDF1", "HOTA"])
    'sMOTSA, IDF1 and HOTA'
    """
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _outlines(diagnosis: Diagnosis) -> str:
    """What sMOTSA lacks beyond MOTSA, where the benchmark has it: no cause counts that."""
    told = []
    for row in diagnosis.summary_rows:
        numbers = diagnosis.report.metrics[row.name]
        lost = float(numbers["MOTSA"]) - float(numbers["sMOTSA"]) if "sMOTSA" in numbers else np.nan
        if np.isfinite(lost):
            told.append(f"{escape(diagnosis.label(row, 'sMOTSA'))} lacks {lost:.2f} points more")
    if not told:
        return ""
    return f"\n{_listed(told)}: outlines of matched masks that are not the true ones."


def _meaning(diagnosis: Diagnosis, cause: Cause) -> str:
    how = REPAIRS.get(cause)
    text = MEANING[cause] if how is None else f"{MEANING[cause]}. Repaired: {how}"
    return in_words(text, diagnosis.protocol)


def _classes(diagnosis: Diagnosis) -> str:
    accuracy = diagnosis.protocol.accuracy
    true_boxes = in_words("true {boxes}", diagnosis.protocol)
    entries = []
    for name, index in zip(diagnosis.classes, diagnosis.members(diagnosis.classes), strict=True):
        num_truth = int(diagnosis.num_truth[index])
        points = diagnosis.points(Row(name=name, classes=(name,)))
        entries.append(
            tables.entry(
                [
                    tables.name_cell(escape(name), name),
                    tables.value_cell(str(num_truth), num_truth),
                    _number_cell(accuracy, diagnosis.report.metrics[name][accuracy]),
                    *_point_cells(points),
                ]
            )
        )
    return f"""<section><h2>By class</h2>
<p class="muted">Points of the class's own {accuracy} that each cause costs</p>
{_board(["class", true_boxes, accuracy, *_IN_ACCURACY], entries, "By class")}</section>"""


def _sequences(diagnosis: Diagnosis) -> str:
    own, known = diagnosis.protocol.accuracy, diagnosis.protocol.metric_names
    metrics = [name for name in ("sMOTSA", own, "IDF1", "HOTA") if name in known]
    entries: list[str] = []
    for name, found in diagnosis.sequences.items():
        for row in diagnosis.summary_rows:
            members = diagnosis.members(row.classes)
            errors = [error for error in found.errors if _concerns(error, members)]
            num_truth = int(found.num_truth[members].sum())
            if num_truth == 0 and not errors and not diagnosis.is_pooled:
                continue
            numbers = diagnosis.report.sequences[name][row.name]
            identifier = f"sequence-{len(entries)}"
            label = name if len(diagnosis.summary_rows) == 1 else f"{name}, {row.name}"
            cells = [
                tables.name_cell(escape(label), label, opens=identifier),
                tables.value_cell(str(num_truth), num_truth),
                *(_number_cell(metric, numbers[metric]) for metric in metrics),
                *_point_cells(diagnosis.points(row, name)),
            ]
            detail = _worst_of_sequence(diagnosis, name, errors)
            entries.append(tables.entry(cells, identifier=identifier, detail=detail))
    true_boxes = in_words("true {boxes}", diagnosis.protocol)
    heading = ["sequence", true_boxes, *metrics, *_IN_ACCURACY]
    return f"""<section><h2>By sequence</h2>
<p class="muted">Points of the sequence's own {own} that each cause costs; a sequence opens to its
worst errors</p>
{_board(heading, entries, "By sequence")}</section>"""


def _worst_of_sequence(diagnosis: Diagnosis, name: str, errors: Sequence[Error]) -> str:
    shown = errors[:ERRORS_A_SEQUENCE]
    rest = len(errors) - len(shown)
    table = _error_table(((name, error) for error in shown), diagnosis, with_sequence=False)
    return table + (f'<p class="muted">{rest} smaller ones are not listed.</p>' if rest else "")


def _switches(diagnosis: Diagnosis, clips: Sequence[bytes]) -> str:
    switches = diagnosis.worst("switched")
    if not switches:
        return "<section><h2>Worst switches</h2><p>No identity was switched.</p></section>"
    figures = "".join(
        _clip(diagnosis, name, error, clip)
        for (name, error), clip in zip(switches, clips, strict=False)
    )
    boxes = in_words("{boxes}", diagnosis.protocol)
    is_outline = diagnosis.protocol.compares_masks
    white = "The outline of the true mask is white" if is_outline else "The true box is white"
    left = len(switches) - len(clips)
    note = f" {left} more are in the list of --json, and as videos by jobs.render." if left else ""
    return f"""<section><h2>Worst switches</h2>
<p class="muted">{len(clips)} of {len(switches)}, by the {boxes} that have a wrong identity at
least. {white}, the tracks before and after have their colours.{note}</p>
<div class="clips">{figures}</div></section>"""


def _clip(diagnosis: Diagnosis, name: str, error: Error, clip: bytes) -> str:
    source = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
    what = (
        f"{name}: {_class_name(diagnosis, error.truth_class)} "
        f"{_identity_name(diagnosis.sequences[name], error)}, track {error.previous_track_id} "
        f"until frame {error.first_frame}, track {error.track_id} from {error.last_frame} on; "
        f"{error.num_boxes} {in_words('{boxes}', diagnosis.protocol)}"
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
            f'<p class="muted">{escape(in_words(MEANING[cause], diagnosis.protocol))}</p>'
            f"{table}</details>"
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
    boxes = in_words("{boxes}", diagnosis.protocol)
    heading = [first, boxes, "frames", "first frame", "true class", "identity", "class", "track"]
    return _table(heading, lines, "Errors")


def _concerns(error: Error, members: Sequence[int]) -> bool:
    """Whether an error has to do with one of some classes."""
    return error.truth_class in members or error.track_class in members


def _class_name(diagnosis: Diagnosis, index: int | None) -> str:
    return "–" if index is None else diagnosis.protocol.classes[index]


def _identity_name(found: SequenceFindings, error: Error) -> str:
    return "–" if error.identity is None else found.identity_names[error.identity]


def _point_cells(points: Iterable[float]) -> list[str]:
    return [
        tables.value_cell(f"{value:.2f}", float(value))
        for cause, value in zip(CAUSES, points, strict=True)
        if cause in _IN_ACCURACY
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
