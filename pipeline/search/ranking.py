"""Which trials are best: by one objective, or those that none beats in all."""

from collections.abc import Sequence

from pipeline.search.study import FinishedTrial


def best_trials(trials: Sequence[FinishedTrial], directions: Sequence[str]) -> list[FinishedTrial]:
    """Complete trials, best first; the earlier of equals stands first.

    With several objectives only the Pareto front: trials that no other matches in all objectives
    and beats in one, ordered by the first objective. Trials that were pruned or failed are not
    among them, as they have no final score.

    Args:
        trials: of a study.
        directions: "maximize" or "minimize" for each objective.
    """
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions]

    def costs(trial: FinishedTrial) -> tuple[float, ...]:
        assert trial.values is not None
        return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))

    complete = [trial for trial in trials if trial.state == "complete"]
    ordered = sorted(complete, key=lambda trial: (costs(trial), trial.number))
    if len(directions) == 1:
        return ordered
    front: list[FinishedTrial] = []
    for trial in ordered:  # nobody later can dominate: the first objective is no better
        if not any(_dominates(costs(other), costs(trial)) for other in front):
            front.append(trial)
    return front


def spread(front: Sequence[FinishedTrial], count: int) -> list[FinishedTrial]:
    """At most `count` trials of a front, its two ends and evenly between them, in its order.

    >>> trials = [FinishedTrial(number=n, state="complete", settings={}) for n in range(5)]
    >>> [trial.number for trial in spread(trials, 3)]
    [0, 2, 4]
    """
    if count >= len(front):
        return list(front)
    last = len(front) - 1
    places = {round(last * index / max(1, count - 1)) for index in range(count)}
    return [front[place] for place in sorted(places)]


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether the first is nowhere worse; of equals the earlier one is enough."""
    return all(a <= b for a, b in zip(first, second, strict=True))
