"""Charts of a sweep: its course, what mattered, and where in the space the good settings lie.

Not by Optuna's own plotting, which needs matplotlib or plotly at start and does not follow the
light and dark colours of a page.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np

from datasets.schema import Float64
from models.search_space import Choices, Dimension
from pipeline.axes import Axis, category_axis, range_axis, score_axis
from pipeline.plots import Cells, Layer, Line, Marks, Point, Shape, bar_chart, chart
from pipeline.search.importance import Scored, comparable_scores, importances
from pipeline.search.ranking import best_trials
from pipeline.search.space import SEARCHED, is_whole
from pipeline.search.study import FinishedTrial

_BLUE, _ORANGE, _GREEN, _GREY = 0, 1, 2, 5
_CELLS: Final = 30
"""Columns and rows of the contour along a range; along choices there is one for each."""
_REACH: Final = 0.08
"""Share of an axis over which the contour smooths."""
_JITTER: Final = 0.5
"""How far the marks of one choice are spread, of the distance to the next."""
_GOLDEN: Final = 0.618034
"""Fractions of its multiples spread evenly, without random numbers."""

_Place = Callable[[FinishedTrial], Point | None]


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What is drawn, from all sides."""

    trials: Sequence[FinishedTrial]
    space: Mapping[str, Dimension]
    objectives: Sequence[str]
    directions: Sequence[str]
    standalone: bool

    def narrow(self, start: int, stop: int) -> "_Search":
        """With these objectives alone."""
        trials = [
            trial if trial.values is None else replace(trial, values=trial.values[start:stop])
            for trial in self.trials
        ]
        return replace(
            self,
            trials=trials,
            objectives=self.objectives[start:stop],
            directions=self.directions[start:stop],
        )

    def draw(self, x_axis: Axis, y_axis: Axis, layers: Sequence[Layer], title: str) -> str:
        return chart(x_axis, y_axis, layers, title=title, standalone=self.standalone)


def sweep_charts(
    trials: Sequence[FinishedTrial],
    space: Mapping[str, Dimension],
    objectives: Sequence[str],
    directions: Sequence[str],
    *,
    standalone: bool,
) -> dict[str, str]:
    """All charts that the trials have something for, by name, each one SVG element.

    Names are "history", "pareto", "importance", "contour", and "slice-<field>" for each field of
    the space; with several objectives "history-<objective>" and "importance-<objective>", while the
    contour and the slices are of the first. Without a scored trial there is no chart, without
    importance (see `importances`) no contour.

    Args:
        trials: of a study, by number, beginning with the recipe's own setting.
        space: what was searched.
        objectives: metrics.
        directions: "maximize" or "minimize" for each objective.
        standalone: bring the colours along, for files of their own.
    """
    if all(reached(trial, 0) is None for trial in trials):
        return {}
    search = _Search(
        trials=trials,
        space=space,
        objectives=objectives,
        directions=directions,
        standalone=standalone,
    )
    is_one = len(objectives) == 1
    charts = {}
    for index, name in enumerate(objectives):
        charts["history" if is_one else f"history-{name}"] = _history(
            search.narrow(index, index + 1)
        )
    if not is_one:
        charts["pareto"] = _pareto(search.narrow(0, 2))
    shares = [_importances(search, index) for index in range(len(objectives))]
    for name, share in zip(objectives, shares, strict=True):
        if share:
            charts["importance" if is_one else f"importance-{name}"] = bar_chart(
                {field_name(path): value for path, value in share.items()},
                title=f"Importance for {name}",
                standalone=standalone,
            )
    if len(shares[0]) > 1:
        charts["contour"] = _contour(search, *list(shares[0])[:2])
    for path in space:
        charts[f"slice-{field_name(path)}"] = _slice(search, path)
    return charts


def reached(trial: FinishedTrial, objective: int) -> float | None:
    """An objective of a complete trial, or of a pruned one on the sequences that it got to."""
    if trial.values is not None:
        return trial.values[objective]
    return trial.rungs[max(trial.rungs)] if trial.state == "pruned" and trial.rungs else None


def field_name(path: str) -> str:
    """A dotted path as reports name it: all that can be searched is of the association.

    >>> field_name("association.match_score_thr")
    'match_score_thr'
    """
    return path.removeprefix(f"{SEARCHED}.")


def format_setting(value: Any) -> str:
    """A setting as reports show it: as `--set` reads it, but numbers to four digits.

    >>> [format_setting(value) for value in (0.123456, 12345, True, None, "cosine")]
    ['0.1235', '12345', 'true', 'none', 'cosine']
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _history(search: _Search) -> str:
    """Of a search with one objective."""
    [name], [direction] = search.objectives, search.directions

    def place(trial: FinishedTrial) -> Point | None:
        score = reached(trial, 0)
        return None if score is None else (float(trial.number), score)

    last = float(max(search.trials[-1].number, 1))
    records: list[Point] = []
    for trial in search.trials:
        if trial.values is not None:
            score = trial.values[0]
            if not records or _is_better(score, records[-1][1], direction):
                records.append((float(trial.number), score))
    steps = _steps([*records, (last, records[-1][1])]) if records else []
    y_axis = _score_axis(search, 0)
    worst = y_axis.low if direction == "maximize" else y_axis.high
    failed = {
        f"trial {trial.number}: {trial.reason}": (float(trial.number), worst)
        for trial in search.trials
        if trial.state == "failed"
    }
    layers: list[Layer] = [
        Line(label="best so far", points=steps, colour=_ORANGE),
        *_marks(search, place),
    ]
    if failed:
        layers.append(Marks(label="failed", points=failed, colour=_GREY, shape="cross"))
    x_axis = range_axis("trial", 0, last, is_whole=True)
    return search.draw(x_axis, y_axis, layers, f"{name} of every trial")


def _pareto(search: _Search) -> str:
    """Of a search with two objectives."""

    def place(trial: FinishedTrial) -> Point | None:
        return None if trial.values is None else (trial.values[0], trial.values[1])

    front = [place(trial) for trial in best_trials(search.trials, search.directions)]
    steps = _steps([point for point in front if point is not None])
    layers: list[Layer] = [Line(label="", points=steps, colour=_ORANGE), *_marks(search, place)]
    title = " and ".join(search.objectives)
    return search.draw(_score_axis(search, 0), _score_axis(search, 1), layers, title)


def _slice(search: _Search, path: str) -> str:
    dimension = search.space[path]

    def place(trial: FinishedTrial) -> Point | None:
        score, position = reached(trial, 0), _position(dimension, trial, path)
        return None if score is None or position is None else (position, score)

    layers = _marks(search, place)
    own = search.trials[0]
    if _position(dimension, own, path) is None:
        label = f"recipe's own: {format_setting(own.settings[path])}, outside"
        layers.append(Marks(label=label, points={}, colour=_GREEN, shape="diamond"))
    title = f"{search.objectives[0]} by {field_name(path)}"
    return search.draw(_axis(path, dimension), _score_axis(search, 0), layers, title)


def _contour(search: _Search, first: str, second: str) -> str:
    # Names of choices have more room below than beside.
    x_path, y_path = (second, first) if _is_choice(search, second) else (first, second)
    scored, num_sequences = _comparable(search, 0)
    scores = {trial.number: score for trial, score in scored}

    def place(trial: FinishedTrial) -> Point | None:
        x, y = (_position(search.space[path], trial, path) for path in (x_path, y_path))
        return None if x is None or y is None or trial.number not in scores else (x, y)

    x_axis, y_axis = (_axis(path, search.space[path]) for path in (x_path, y_path))
    known = [
        (x_axis.share(point[0]), y_axis.share(point[1]), scores[trial.number])
        for trial in search.trials
        if (point := place(trial)) is not None
    ]
    surface = smooth(
        np.array(known),
        (_num_cells(search, x_path), _num_cells(search, y_path)),
        (_is_choice(search, x_path), _is_choice(search, y_path)),
    )
    cells = _shade(surface, search, num_sequences)
    layers = [cells, *_marks(search, place)]
    title = f"{search.objectives[0]} by {field_name(x_path)} and {field_name(y_path)}"
    return search.draw(x_axis, y_axis, layers, title)


def smooth(known: Float64, num_cells: tuple[int, int], is_choice: tuple[bool, bool]) -> Float64:
    """A surface through scattered values: means with weights that fall with the distance.

    Weights are 1 / (d² + r²)² with r = 0.08 of an axis, so that neighbours are averaged and no
    single value makes a peak. Different choices are a whole axis apart.

    Args:
        known: (N, 3) at least one; x and y as shares of the axes, and the value there.
        num_cells: columns and rows.
        is_choice: whether x and y are choices without an order.

    Returns:
        (rows, columns), at the middle of each cell, the lowest row first.

    >>> smooth(np.array([[0.25, 0.5, 1.0], [0.75, 0.5, 3.0]]), (2, 1), (False, False)).round(2)
    array([[1., 3.]])
    """
    x, y = (
        _distances(known[:, axis], num_cells[axis], is_choice=is_choice[axis]) for axis in (0, 1)
    )
    weights = 1.0 / (x[None, :] ** 2 + y[:, None] ** 2 + _REACH**2) ** 2
    surface: Float64 = (weights * known[:, 2]).sum(axis=2) / weights.sum(axis=2)
    return surface


def _distances(known: Float64, num_cells: int, *, is_choice: bool) -> Float64:
    """(cells, N), from the middle of each cell of one axis."""
    middles = (np.arange(num_cells) + 0.5) / num_cells
    distances: Float64 = np.abs(middles[:, None] - known)
    return np.round(distances * num_cells).clip(0.0, 1.0) if is_choice else distances


def _shade(surface: Float64, search: _Search, num_sequences: int | None) -> Cells:
    """The better the stronger."""
    low, high = float(surface.min()), float(surface.max())
    shares = (surface - low) / (high - low) if high > low else np.zeros_like(surface)
    ends = (low, high)
    if search.directions[0] == "minimize":
        shares, ends = 1.0 - shares, (high, low)
    where = "" if num_sequences is None else f" on {num_sequences} sequences"
    return Cells(
        shares=shares.tolist(),
        ends=(f"{search.objectives[0]}{where}: {ends[0]:.4g}", f"{ends[1]:.4g}"),
    )


def _marks(search: _Search, place: _Place) -> list[Layer]:
    """Scored trials where they have a place, by what they are; those that matter on top."""
    trials, is_one = search.trials, len(search.objectives) == 1
    best = best_trials(trials, search.directions)[: 1 if is_one else None]
    special = {0, *(trial.number for trial in best)}
    others = [trial for trial in trials if trial.number not in special]
    groups: tuple[tuple[str, int, Shape, Iterable[FinishedTrial]], ...] = (
        ("pruned", _GREY, "ring", (trial for trial in others if trial.state == "pruned")),
        ("complete", _BLUE, "dot", (trial for trial in others if trial.state == "complete")),
        ("recipe's own", _GREEN, "diamond", (trial for trial in trials if trial.number == 0)),
        ("best" if is_one else "Pareto front", _ORANGE, "star", best),
    )
    layers: list[Layer] = []
    for label, colour, shape, members in groups:
        places = {_describe(trial): place(trial) for trial in members}
        points = {text: point for text, point in places.items() if point is not None}
        if points:
            layers.append(Marks(label=label, points=points, colour=colour, shape=shape))
    return layers


def _describe(trial: FinishedTrial) -> str:
    """What is said of a scored trial when one points at its mark."""
    if trial.values is not None:
        return f"trial {trial.number}: {', '.join(f'{value:.2f}' for value in trial.values)}"
    if not trial.rungs:
        return f"trial {trial.number}"
    size = max(trial.rungs)
    return f"trial {trial.number}: {trial.rungs[size]:.2f} on {size} sequences"


def _importances(search: _Search, objective: int) -> dict[str, float]:
    scored, _ = _comparable(search, objective)
    return importances(scored, search.space, search.directions[objective])


def _comparable(search: _Search, objective: int) -> tuple[list[Scored], int | None]:
    """See `comparable_scores`; a few very bad ones are as bad as the axis of scores shows them."""
    scored, num_sequences = comparable_scores(search.trials, objective)
    axis = score_axis(
        "",
        [score for _, score in scored],
        maximise=search.directions[objective] == "maximize",
    )
    return [Scored(trial, axis.clip(score)) for trial, score in scored], num_sequences


def _score_axis(search: _Search, objective: int) -> Axis:
    scores = [reached(trial, objective) for trial in search.trials]
    return score_axis(
        search.objectives[objective],
        [score for score in scores if score is not None],
        maximise=search.directions[objective] == "maximize",
    )


def _axis(path: str, dimension: Dimension) -> Axis:
    name = field_name(path)
    if isinstance(dimension, Choices):
        return category_axis(name, [format_setting(value) for value in dimension.values])
    return range_axis(
        name, dimension.low, dimension.high, is_log=dimension.log, is_whole=is_whole(dimension)
    )


def _position(dimension: Dimension, trial: FinishedTrial, path: str) -> float | None:
    """Where a trial lies on the axis of a setting; None outside, where the recipe's own may be."""
    value = trial.settings[path]
    if isinstance(dimension, Choices):
        if value not in dimension.values:
            return None
        return dimension.values.index(value) + _JITTER * ((trial.number * _GOLDEN) % 1 - 0.5)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and dimension.low <= value <= dimension.high else None


def _is_choice(search: _Search, path: str) -> bool:
    return isinstance(search.space[path], Choices)


def _num_cells(search: _Search, path: str) -> int:
    dimension = search.space[path]
    return len(dimension.values) if isinstance(dimension, Choices) else _CELLS


def _steps(points: Sequence[Point]) -> list[Point]:
    """A staircase through points: across to the next one, then up or down to it."""
    steps = list(points[:1])
    for (_, y), following in pairwise(points):
        steps += [(following[0], y), following]
    return steps


def _is_better(first: float, second: float, direction: str) -> bool:
    return first > second if direction == "maximize" else first < second
