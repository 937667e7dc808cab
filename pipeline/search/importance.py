"""How much of the differences between trials each searched setting explains."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import optuna
from optuna.trial import create_trial

from models.search_space import Dimension
from pipeline.search.proposals import distributions, is_inside
from pipeline.search.study import FinishedTrial

MIN_TRIALS: Final = 20
"""What fewer trials say is chance."""

_TREES: Final = 32
_DEPTH: Final = 6
"""Shallow, as 1,000 trials take minutes with Optuna's 64 trees of any depth."""


class Scored(NamedTuple):
    """A trial with a score that may be compared with those of other trials."""

    trial: FinishedTrial
    score: float


def comparable_scores(
    trials: Sequence[FinishedTrial], objective: int = 0
) -> tuple[list[Scored], int | None]:
    """Trials with scores on the same sequences, as many trials as there are.

    Where trials were pruned, the complete ones are the few that did well, and say little about what
    does badly. So then all are compared by what they scored on the sequences of the first rung.

    Args:
        trials: of a study; failed ones are left out.
        objective: which one; a study with several prunes nothing.

    Returns:
        The trials with their scores, and the number of sequences, None for all.
    """
    if all(trial.state != "pruned" for trial in trials):
        return [Scored(t, t.values[objective]) for t in trials if t.values is not None], None
    alive = [trial for trial in trials if trial.state != "failed" and trial.rungs]
    size = min(min(trial.rungs) for trial in alive)
    return [Scored(trial, trial.rungs[size]) for trial in alive if size in trial.rungs], size


def importances(
    scored: Sequence[Scored], space: Mapping[str, Dimension], direction: str
) -> dict[str, float]:
    """Share of each path of the space, greatest first; together 1.

    Functional ANOVA on a random forest (Hutter, Hoos and Leyton-Brown, 2014): the share of the
    variance of the scores that each setting explains by itself. Not Optuna's default, PED-ANOVA,
    which tells the best tenth from the rest: where TPE has settled, that is noise (on a made-up
    score of which it is known what matters, this one found it and PED-ANOVA did not). The forest
    has a fixed seed, so the same trials give the same shares.

    Args:
        scored: in any order.
        space: what was searched. A trial outside of it, as the recipe's own may be, is left out.
        direction: "maximize" or "minimize".

    Returns:
        Nothing where nothing can be told: fewer than `MIN_TRIALS` trials, or all scores equal.
    """
    wanted = distributions(space)
    inside = [
        (trial, score)
        for trial, score in sorted(scored, key=lambda entry: entry.trial.number)
        if all(is_inside(wanted[path], trial.settings[path]) for path in wanted)
    ]
    if len(inside) < MIN_TRIALS or len({score for _, score in inside}) == 1:
        return {}
    study = optuna.create_study(direction=direction)
    study.add_trials(
        create_trial(
            value=score,
            params={path: trial.settings[path] for path in wanted},
            distributions=wanted,
        )
        for trial, score in inside
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(
        n_trees=_TREES, max_depth=_DEPTH, seed=0
    )
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(space))
    return {path: float(share) for path, share in found.items()}
