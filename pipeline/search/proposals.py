"""What a sweep tries next: Optuna's samplers, asked so that the answer depends on the study alone.

The settings of a trial are a function of the seed, its number, the trials finished before its batch
and the earlier ones of the batch. Neither workers nor time enter, and a sweep that is continued
proposes what it would have proposed without the interruption.
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

from models.search_space import Choices, Dimension
from pipeline.search.space import Settings, grid, is_whole

if TYPE_CHECKING:
    from pipeline.search.study import FinishedTrial

GRID: Final = "grid"

_SAMPLERS: Final[Mapping[str, Callable[[int], optuna.samplers.BaseSampler]]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(
        seed=seed, scramble=True, warn_independent_sampling=False, warn_asynchronous_seeding=False
    ),
}
SAMPLERS: Final = (*_SAMPLERS, GRID)
"""Names of all ways to search."""

_BLIND: Final = frozenset({"random", "qmc", GRID})
"""Samplers that never look at a score."""
_SEQUENTIAL: Final = frozenset({"qmc"})
"""Samplers that count what they gave out, rather than look at what it was worth."""
_ONE_OBJECTIVE: Final = frozenset({"cmaes"})
_LEARNS_FROM_PRUNED: Final = frozenset({"tpe"})
_BLIND_TO_PRUNED: Final = frozenset({"cmaes", "gp", "nsga2", "nsga3"})
"""Samplers that learn from complete trials only: pruning would leave them little to learn from."""
_NUMBERS_ONLY: Final = frozenset({"cmaes"})
"""Samplers that draw choices at random."""


class Proposal(NamedTuple):
    """Settings of one trial."""

    settings: Settings
    sampler_state: Mapping[str, Any]


def check_sampler(name: str, num_objectives: int) -> None:
    """Refuse a sampler that is not known or that cannot do what is asked.

    Raises:
        ValueError: names those that can.
    """
    if name not in SAMPLERS:
        raise ValueError(f"--sampler {name!r} is not known; known: {', '.join(SAMPLERS)}")
    if num_objectives > 1 and name in _ONE_OBJECTIVE:
        others = ", ".join(other for other in SAMPLERS if other not in _ONE_OBJECTIVE)
        raise ValueError(f"--sampler {name} takes one --metric only; for several: {others}")


def can_prune(sampler: str) -> bool:
    """Whether a sampler does as well where most trials are stopped early."""
    return sampler not in _BLIND_TO_PRUNED


def describe_limits(sampler: str, space: Mapping[str, Dimension], own: Settings) -> list[str]:
    """What a person should know of a search before it begins: a line for each, mostly none.

    Args:
        sampler: one of `SAMPLERS`.
        space: what is searched.
        own: the recipe's own values.
    """
    lines = []
    choices = [path for path, dimension in space.items() if isinstance(dimension, Choices)]
    if sampler in _NUMBERS_ONLY and choices:
        lines.append(f"--sampler {sampler} draws choices at random: {', '.join(choices)}")
    outside = [
        f"{path}={own[path]}"
        for path, distribution in distributions(space).items()
        if not is_inside(distribution, own[path])
    ]
    if outside and sampler not in _BLIND:
        lines.append(
            f"the recipe's own {', '.join(outside)} lies outside of what is searched: it is trial "
            "0, and the sampler does not learn from it"
        )
    return lines


def propose(
    numbers: Sequence[int],
    history: Sequence["FinishedTrial"],
    space: Mapping[str, Dimension],
    directions: Sequence[str],
    *,
    sampler: str,
    seed: int,
) -> list[Proposal]:
    """Settings of the trials of one batch, none of which is number 0.

    Args:
        numbers: of the whole batch, rising.
        history: all trials before the batch, by number.
        space: what is searched.
        directions: "maximize" or "minimize" for each objective.
        sampler: one of `SAMPLERS`.
        seed: of the sweep.

    Returns:
        One for each number; fewer where a grid has no more points.
    """
    space = dict(sorted(space.items()))  # in whatever order a person named the paths
    if sampler == GRID:
        points = grid(space)
        order = np.random.default_rng(seed).permutation(len(points)).tolist()
        return [Proposal(points[order[n - 1]], {}) for n in numbers if n <= len(points)]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    wanted = distributions(space)
    study = optuna.create_study(directions=list(directions))
    worst = worst_values(history, directions)
    for trial in history:
        _recall(study, trial, wanted, worst, sampler)
    if sampler in _SEQUENTIAL:
        study.sampler = _make(sampler, seed)
        for _ in range(1, numbers[0]):
            study.ask(wanted)
    proposals = []
    for number in numbers:
        if sampler not in _SEQUENTIAL:
            study.sampler = _make(sampler, _seed_of(seed, number))
        asked = study.ask(wanted)
        state = study._storage.get_trial_system_attrs(asked._trial_id)
        proposals.append(Proposal(dict(asked.params), dict(state)))
    return proposals


def worst_values(history: Sequence["FinishedTrial"], directions: Sequence[str]) -> list[float]:
    """The worst value of each objective among complete trials, of which there is at least one.

    >>> from pipeline.search.study import FinishedTrial
    >>> trials = [
    ...     FinishedTrial(number=n, state="complete", settings={}, values=values)
    ...     for n, values in enumerate([(45.0, 7.0), (20.0, 3.0), (40.0, 9.0)])
    ... ]
    >>> worst_values(trials, ["maximize", "minimize"])
    [20.0, 9.0]
    """
    columns = zip(*(trial.values for trial in history if trial.values is not None), strict=True)
    return [
        (min if direction == "maximize" else max)(column)
        for direction, column in zip(directions, columns, strict=True)
    ]


def distributions(space: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    return {path: _distribution(dimension) for path, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    low, high, step = dimension.low, dimension.high, dimension.step
    if is_whole(dimension):
        return IntDistribution(
            int(low), int(high), log=dimension.log, step=1 if step is None else int(step)
        )
    return FloatDistribution(low, high, log=dimension.log, step=step)


def _make(sampler: str, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's word for "may change"
        return _SAMPLERS[sampler](seed)


def _recall(
    study: optuna.Study,
    trial: "FinishedTrial",
    wanted: Mapping[str, BaseDistribution],
    worst: Sequence[float],
    sampler: str,
) -> None:
    """Let the sampler know of a finished trial, of a failed one as the worst of all.

    The recipe's own setting is not told where it lies outside of the space.
    """
    if any(not is_inside(wanted[path], trial.settings[path]) for path in wanted):
        return
    values: list[float] | None = None
    has_one_objective = len(worst) == 1
    if trial.state == "complete":
        assert trial.values is not None
        values = list(trial.values)
    elif trial.state == "failed" and not (sampler in _LEARNS_FROM_PRUNED and has_one_objective):
        values = list(worst)
    # A failed trial without values is one that was pruned before its first rung: to a sampler that
    # learns from pruned trials it is worse than all others.
    is_shown = has_one_objective and trial.state != "failed"
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED if values is None else TrialState.COMPLETE,
            values=values,
            params={path: trial.settings[path] for path in wanted},
            distributions=dict(wanted),
            system_attrs=dict(trial.sampler_state),
            intermediate_values=dict(trial.rungs) if is_shown else {},
        )
    )


def is_inside(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value lies in a distribution; the recipe's own need not."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False


def _seed_of(seed: int, number: int) -> int:
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4])
