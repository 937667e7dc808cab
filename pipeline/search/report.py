"""What a sweep leaves for people and for other jobs: an overlay file, a table, charts, a page."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from models.config_io import config_to_dict
from pipeline.contestants import Result
from pipeline.provenance import Provenance
from pipeline.runlog_children import ChildRun
from pipeline.search.charts import sweep_charts
from pipeline.search.page import format_sweep
from pipeline.search.space import SEARCHED
from pipeline.search.study import FinishedTrial, State

if TYPE_CHECKING:
    from pipeline.search.options import SweepOptions

TRIAL_PREFIX: Final = "trial "
OVERLAY_FILE: Final = "best.toml"
PAGE_FILE: Final = "sweep.html"
TABLE_FILE: Final = "trials.csv"

_STATUS: Final[Mapping[State, Any]] = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
}


def report_files(
    trials: Sequence[FinishedTrial],
    best: Sequence[tuple[FinishedTrial, Result]],
    own: Result,
    options: "SweepOptions",
    *,
    study_name: str,
    provenance: Provenance,
) -> dict[str, bytes]:
    """All files of a sweep by name.

    Args:
        trials: of the study.
        best: the best ones, best first, scored by the full evaluation.
        own: the recipe's own setting, likewise.
        options: of the sweep.
        study_name: stated in the files.
        provenance: of this process.
    """
    arguments = (trials, options.space, options.objectives, options.directions)
    charts = sweep_charts(*arguments, standalone=True)
    page = format_sweep(
        trials,
        [(trial, result.metrics) for trial, result in best],
        own.metrics,
        options,
        study_name=study_name,
        made_by=provenance.made_by,
    )
    trial, result = best[0]
    return {
        OVERLAY_FILE: overlay_text(trial, result, options.objectives, study_name).encode(),
        PAGE_FILE: page.encode(),
        TABLE_FILE: trials_csv(trials, options.objectives).encode(),
        **{f"plots/{name}.svg": chart.encode() for name, chart in charts.items()},
    }


def overlay_text(
    trial: FinishedTrial, result: Result, objectives: Sequence[str], study_name: str
) -> str:
    """The complete tracker settings of a trial as TOML that `--set-file` takes.

    All fields are written, also those that were not searched, so that the file means the same on
    top of any recipe.
    """
    scores = ", ".join(f"{name} {result.metrics[name]}" for name in objectives)
    lines = [
        f"# Trial {trial.number} of the sweep {study_name!r}: {scores},",
        f"# scored on {result.frames.dataset}/{result.frames.split}, which it was chosen on.",
        f"# python -m jobs.train_bdd --set-file {OVERLAY_FILE} ...",
        f"[{SEARCHED}]",
    ]
    settings = config_to_dict(result.contestant.association)
    # JSON and TOML write numbers, booleans and these strings alike.
    lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def trials_csv(trials: Sequence[FinishedTrial], objectives: Sequence[str]) -> str:
    """One line for each trial: state, settings, objectives, all metrics, reason of failure."""
    paths = list(dict.fromkeys(path for trial in trials for path in trial.settings))
    metrics = list(dict.fromkeys([*objectives, *(name for t in trials for name in t.metrics)]))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "state", *paths, "sequences", *metrics, "seconds", "reason"])
    for trial in trials:
        writer.writerow(
            [
                trial.number,
                trial.state,
                *(trial.settings.get(path) for path in paths),
                max(trial.rungs, default=""),
                *(trial.metrics.get(name) for name in metrics),
                trial.seconds,
                trial.reason,
            ]
        )
    return stream.getvalue()


def trial_run(trial: FinishedTrial) -> ChildRun:
    """How MLflow keeps a trial."""
    return ChildRun(
        name=f"{TRIAL_PREFIX}{trial.number}",
        status=_STATUS[trial.state],
        params={**trial.settings, "trial": trial.number},
        metrics=trial.metrics,
        tags={
            "trial_state": trial.state,
            "num_sequences": str(max(trial.rungs, default=0)),
            "reason": trial.reason,
            "held": json.dumps(dict(trial.held)),
        },
        seconds=trial.seconds,
    )
