"""A sweep as one self-contained HTML page: what was searched, what was found, every trial."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final, Literal

from models.search_space import Choices, Dimension
from pipeline import page_tables as tables
from pipeline.leaderboard import Number, format_number, is_count, less_is_better
from pipeline.page import document, figure
from pipeline.search.charts import field_name, format_setting, reached, sweep_charts
from pipeline.search.importance import MIN_TRIALS, comparable_scores
from pipeline.search.rungs import REDUCTION
from pipeline.search.space import describe
from pipeline.search.study import FinishedTrial, State

if TYPE_CHECKING:
    from pipeline.search.options import SweepOptions

Best = Sequence[tuple[FinishedTrial, Mapping[str, Number]]]
"""Trials, and all metrics of each by the full evaluation."""

_STATES: Final[tuple[State, ...]] = ("complete", "pruned", "failed")
_MAX_REASONS: Final = 5
_NEAR_AN_END: Final = 0.02
"""Share of a range within which a value is called its end."""
_WARNING: Final = (
    "The best was chosen by its score on this very split, which flatters it. To claim a gain, "
    "score it on data that no sweep has seen."
)


def format_sweep(
    trials: Sequence[FinishedTrial],
    best: Best,
    own: Mapping[str, Number],
    options: "SweepOptions",
    *,
    study_name: str,
    made_by: str,
) -> str:
    """A whole HTML document; readable without scripts, which only sort and fold its table.

    Args:
        trials: of the study, by number, beginning with the recipe's own setting.
        best: at least one, best first or along the Pareto front.
        own: all metrics of the recipe's own setting by the full evaluation.
        options: of the sweep.
        study_name: stated in the title.
        made_by: what made the page and when, shown below the title.
    """
    parts = [
        f'<p class="lead">{escape(summarise(best, own, options.objectives))}</p>',
        f'<p class="note">{_WARNING}</p>',
        _facts(trials, options),
        '<div class="beside">',
        _scores(best, own, options.objectives),
        _settings(trials[0], [trial for trial, _ in best], options.space),
        "</div>",
        _charts(trials, options),
        _all_trials(trials, options),
    ]
    return document(f"Sweep: {study_name}", "\n".join(parts), made_by=made_by)


def summarise(best: Best, own: Mapping[str, Number], objectives: Sequence[str]) -> str:
    """What was found, as a person would say it."""
    trial, metrics = best[0]
    if trial.number == 0 and len(best) == 1:
        scores = ", ".join(f"{name} {format_number(name, own.get(name))}" for name in objectives)
        return f"Nothing better than the recipe's own setting was found: {scores}."
    scores = " and ".join(
        f"{name} {format_number(name, metrics.get(name))} (the recipe's own setting: "
        f"{format_number(name, own.get(name))})"
        for name in objectives
    )
    if len(objectives) == 1:
        return f"The best setting found, trial {trial.number}, has {scores}."
    return (
        "The best settings found make a Pareto front: no other is better in one objective without "
        f"being worse in another. The first, trial {trial.number}, has {scores}."
    )


def _facts(trials: Sequence[FinishedTrial], options: "SweepOptions") -> str:
    counts = Counter(trial.state for trial in trials)
    aims = zip(options.objectives, options.directions, strict=True)
    facts = [
        ("looked for", ", ".join(f"{direction} {name}" for name, direction in aims)),
        ("sampler", f"{options.sampler}, seed {options.seed}, batches of {options.batch_size}"),
        ("trials", f"{len(trials)}: {', '.join(f'{counts[s]} {s}' for s in _STATES)}"),
        ("pruning", _describe_rungs(trials)),
    ]
    reasons = Counter(trial.reason for trial in trials if trial.state == "failed")
    for reason, count in reasons.most_common(_MAX_REASONS):
        facts.append((f"failed {count} times" if count > 1 else "failed once", reason))
    if len(reasons) > _MAX_REASONS:
        facts.append(("failed", f"for {len(reasons) - _MAX_REASONS} more reasons, see the trials"))
    return f"<section><h2>What was searched</h2>{tables.definitions(facts)}</section>"


def _describe_rungs(trials: Sequence[FinishedTrial]) -> str:
    *sizes, last = sorted({size for trial in trials for size in trial.rungs}) or [0]
    if not sizes:
        return "none, every trial was scored on all sequences"
    return (
        f"after {', '.join(map(str, sizes))} of {last} sequences the best of {REDUCTION} trials "
        "went on"
    )


def _scores(best: Best, own: Mapping[str, Number], objectives: Sequence[str]) -> str:
    names = dict.fromkeys((*objectives, *own, *(name for _, found in best for name in found)))
    lines = []
    for name in names:
        values = [_finite(found.get(name)) for found in (own, *(found for _, found in best))]
        sign = -1.0 if less_is_better(name) else 1.0
        known = [sign * value for value in values if value is not None]
        top = max(known) if len(set(known)) > 1 else None
        cells = [
            tables.cell(
                escape(format_number(name, value)) + _difference(name, value, values[0]),
                "best" if value is not None and sign * value == top else "",
            )
            for value in values
        ]
        lines.append(tables.line(name, cells))
    heading = ["metric", *_names(trial for trial, _ in best)]
    return f"""<section><h2>The best found</h2>
<p class="muted">By the full evaluation of all sequences; beside each number its difference from
the recipe's own setting</p>
{tables.plain_table(heading, lines, "Scores", "compared")}</section>"""


def _difference(name: str, value: Number, own: Number) -> str:
    if value is None or own is None or value == own:
        return ""
    difference = value - own
    text = f"{difference:+.0f}" if is_count(name) else f"{difference:+.2f}"
    return f"<small>{text}</small>"


def _settings(
    own: FinishedTrial, best: Sequence[FinishedTrial], space: Mapping[str, Dimension]
) -> str:
    lines = []
    for path, values in describe(space).items():
        before = own.settings[path]
        cells = [
            tables.cell(escape(values.replace(",", ", ")), "range"),
            tables.cell(escape(format_setting(before))),
        ]
        for trial in best:
            value = trial.settings[path]
            end = _end(space[path], value)
            hint = f"<small>{end} end</small>" if end else ""
            kind = "same" if value == before else "changed"
            cells.append(tables.cell(escape(format_setting(value)) + hint, kind))
        lines.append(tables.line(field_name(path), cells))
    heading = ["setting", "searched", *_names(best)]
    return f"""<section><h2>Settings</h2>
<p class="muted">Bold where they differ from the recipe's own; at the low or high end of what was
searched, a wider range may hold better ones</p>
{tables.plain_table(heading, lines, "Settings", "compared")}</section>"""


def _end(dimension: Dimension, value: Any) -> str:
    """Which end of a range a value lies at, if any."""
    if isinstance(dimension, Choices):
        return ""
    low, high = float(dimension.low), float(dimension.high)
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(value) if value > 0 else low
    if value <= low + _NEAR_AN_END * (high - low):
        return "low"
    return "high" if value >= high - _NEAR_AN_END * (high - low) else ""


def _charts(trials: Sequence[FinishedTrial], options: "SweepOptions") -> str:
    charts = sweep_charts(
        trials, options.space, options.objectives, options.directions, standalone=False
    )
    _, num_sequences = comparable_scores(trials)
    figures = [
        figure(svg, _caption(name, options.objectives, num_sequences))
        for name, svg in charts.items()
        if not name.startswith("slice-")
    ]
    slices = [
        f"<figure>{svg}</figure>" for name, svg in charts.items() if name.startswith("slice-")
    ]
    missing = ""
    if not any(name.startswith("importance") for name in charts):
        missing = (
            '<p class="muted">There is no chart of what was important: that takes '
            f"{MIN_TRIALS} trials inside of the space, with scores that differ.</p>"
        )
    return f"""<section><h2>Course and importance</h2>
<div class="charts">{"".join(figures)}</div>{missing}</section>
<section><h2>Setting by setting</h2>
<p class="muted">{escape(options.objectives[0])} of each trial by one of its settings; trials with
the same choice are spread sideways</p>
<div class="charts">{"".join(slices)}</div></section>"""


def _caption(chart: str, objectives: Sequence[str], num_sequences: int | None) -> str:
    kind, _, name = chart.partition("-")
    name = name or objectives[0]
    pruned, scores = "", ""
    if num_sequences is not None:
        pruned = "; a pruned one with its score on the sequences that it got to"
        scores = f" Scores on the first {num_sequences} sequences, which all trials have seen."
    if kind == "history":
        return f"{name} of every trial{pruned}."
    if kind == "pareto":
        others = " Of the first two objectives alone." if len(objectives) > 2 else ""
        return f"On the front: no other trial is as good in both.{others}"
    if kind == "importance":
        return f"Share of the differences in {name} that each setting explains (fANOVA).{scores}"
    return f"The two most important settings, smoothed: trust it near marks only.{scores}"


def _all_trials(trials: Sequence[FinishedTrial], options: "SweepOptions") -> str:
    objectives, directions = options.objectives, options.directions
    sign = 1.0 if directions[0] == "minimize" else -1.0
    ordered = sorted(trials, key=lambda t: math.inf if t.values is None else sign * t.values[0])
    columns = [
        tables.column("trial", "ascending", is_name=True),
        tables.column("state", "ascending"),
        *(
            tables.column(name, _first(direction), is_sorted=position == 0)
            for position, (name, direction) in enumerate(zip(objectives, directions, strict=True))
        ),
        tables.column("sequences", "descending"),
        *(tables.column(field_name(path), "ascending") for path in options.space),
    ]
    entries = (_entry(trial, options) for trial in ordered)
    return f"""<section><h2>All trials</h2>
<p class="muted">A trial opens to all its metrics, to what its tracker held, and to why it failed
</p>
{tables.board(columns, entries, "All trials", "trials")}</section>"""


def _first(direction: str) -> Literal["ascending", "descending"]:
    """Which way a column is sorted first: the best on top."""
    return "ascending" if direction == "minimize" else "descending"


def _entry(trial: FinishedTrial, options: "SweepOptions") -> str:
    identifier = f"trial-{trial.number}"
    num_sequences = max(trial.rungs, default=None)
    cells = [
        tables.name_cell(str(trial.number), str(trial.number), opens=identifier),
        tables.value_cell(trial.state, trial.state),
        *(_objective_cell(trial, index, name) for index, name in enumerate(options.objectives)),
        _setting_cell(num_sequences),
        *(_setting_cell(trial.settings[path]) for path in options.space),
    ]
    return tables.entry(cells, identifier=identifier, detail=_detail(trial))


def _objective_cell(trial: FinishedTrial, index: int, name: str) -> str:
    """A pruned trial shows how far it got, and sorts behind those with a final score."""
    score = reached(trial, index)
    text = format_number(name, score)
    if trial.values is None:
        return tables.value_cell(text, None, "same")
    return tables.value_cell(text, score)


def _setting_cell(value: Any) -> str:
    if value is None:
        return tables.value_cell("–", None)
    sorted_by = str(value).lower() if isinstance(value, bool) else value
    return tables.value_cell(escape(format_setting(value)), sorted_by)


def _detail(trial: FinishedTrial) -> str:
    facts = [("failed because", trial.reason)] if trial.reason else []
    if trial.metrics:
        numbers = (f"{n} {format_number(n, v)}" for n, v in trial.metrics.items())
        facts.append(("metrics", ", ".join(numbers)))
    if len(trial.rungs) > 1:
        rungs = (f"{score:.2f} on {size}" for size, score in sorted(trial.rungs.items()))
        facts.append(("sequences", ", ".join(rungs)))
    settings = trial.held or {field_name(path): v for path, v in trial.settings.items()}
    shown = ", ".join(f"{name} {value}" for name, value in settings.items())
    facts.append(("held by its tracker" if trial.held else "asked for", shown))
    facts.append(("took", f"{trial.seconds:.1f} s"))
    return tables.definitions(facts)


def _names(best: Iterable[FinishedTrial]) -> list[str]:
    return ["recipe's own", *(f"trial {trial.number}" for trial in best)]


def _finite(value: Number) -> Number:
    return value if value is not None and math.isfinite(value) else None
