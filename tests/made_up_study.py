"""A study whose score is made up, so that it is known what is important and where the best lies."""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from models.search_space import Choices, Dimension, Interval
from pipeline.search.options import SweepOptions
from pipeline.search.proposals import propose
from pipeline.search.study import FinishedTrial

SPACE: Final[dict[str, Dimension]] = {
    "association.match_score_thr": Interval(0.1, 0.9),
    "association.memo_tracklet_frames": Interval(1, 60, log=True),
    "association.memo_backdrop_frames": Interval(0, 5),
    "association.with_cats": Choices((True, False)),
    "association.match_metric": Choices(("bisoftmax", "softmax", "cosine")),
}
"""The memory of tracks is what matters most, then the threshold; backdrops do nothing."""
OWN: Final[dict[str, Any]] = {
    "association.match_score_thr": 0.5,
    "association.memo_tracklet_frames": 10,
    "association.memo_backdrop_frames": 1,
    "association.with_cats": True,
    "association.match_metric": "bisoftmax",
}
REASON: Final = "ValueError: the tracker did not hold <what> was asked & more"

_RUNGS: Final = (8, 23, 67)
_ALL: Final = 200
_METRICS: Final = ("mMOTA", "IDSw", "mIDF1")


def make_options(num_objectives: int = 1, space: Mapping[str, Dimension] = SPACE) -> SweepOptions:
    """Options of a sweep for mMOTA, and also for IDSw or for IDSw and mIDF1."""
    return SweepOptions(space=space, objectives=_METRICS[:num_objectives])


def make_study(
    num_trials: int, num_objectives: int = 1, sampler: str = "random"
) -> list[FinishedTrial]:
    """Trials by number, some failed; with one objective most of them pruned."""
    directions = make_options(num_objectives).directions
    trials = [_finish(0, OWN, num_objectives)]
    while len(trials) < num_trials:
        numbers = range(len(trials), len(trials) + 8)
        proposals = propose(numbers, trials, SPACE, directions, sampler=sampler, seed=1)
        for number, proposal in zip(numbers, proposals, strict=True):
            trials.append(_finish(number, proposal.settings, num_objectives))
    return trials[:num_trials]


def _finish(number: int, settings: Mapping[str, Any], num_objectives: int) -> FinishedTrial:
    noise = random.Random(number)
    frames = settings["association.memo_tracklet_frames"]
    score = 41.0 - 4.0 * abs(math.log(frames / 25))
    score -= 10.0 * abs(settings["association.match_score_thr"] - 0.33)
    score -= 1.0 * (settings["association.match_metric"] == "softmax")
    metrics = {
        "mMOTA": score,
        "IDSw": 9000 - 60 * frames - number,
        "mIDF1": score + 10.0,
        "MOTP": None,
    }
    trial = FinishedTrial(
        number=number,
        state="complete",
        settings=settings,
        values=tuple(float(metrics[name] or 0.0) for name in _METRICS[:num_objectives]),
        rungs={_ALL: score},
        metrics=metrics,
        held={path.removeprefix("association."): value for path, value in settings.items()},
        seconds=1.5,
    )
    if number % 17 == 5:
        return replace(trial, state="failed", values=None, rungs={}, metrics={}, reason=REASON)
    if num_objectives > 1:
        return trial
    scores = {size: score + noise.gauss(0.0, 8.0 / size) for size in _RUNGS}
    if number and score < 34.0:
        passed = _RUNGS[: 1 if score < 30.0 else 2]
        rungs = {size: scores[size] for size in passed}
        return replace(trial, state="pruned", values=None, rungs=rungs)
    return replace(trial, rungs={**scores, _ALL: score})
