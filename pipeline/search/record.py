"""What MLflow is told of a sweep: one run for it, and in it one run for every trial."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Self

from pipeline.config import RecipeConfig
from pipeline.runlog import ProcessRun, RunLog
from pipeline.runlog_address import RunLogError, check_tracking
from pipeline.search.options import SweepOptions, SweepPlaces
from pipeline.search.report import trial_run
from pipeline.search.study import FinishedTrial, Study
from pipeline.store import Artefact

logger = logging.getLogger(__name__)


class SweepRecord:
    """The run of a sweep; a context, and the run ends as its block does.

    It is opened when something is first written to it: MLflow takes seconds to load, and the
    workers need not wait for that. Whether there is a server or a database is asked at once.
    """

    def __init__(
        self,
        config: RecipeConfig,
        inputs: Mapping[str, Artefact],
        options: SweepOptions,
        places: SweepPlaces,
        study: Study,
    ) -> None:
        """Nothing is written yet.

        Raises:
            RunLogError: there is no MLflow to write to.
        """
        check_tracking(places.tracking_uri, places.root)
        self._config = config
        self._inputs = inputs
        self._options = options
        self._places = places
        self._tags = {
            "kind": "sweep",
            "study": f"{study.storage} {study.name}",
            "study_identity": study.identity,
        }
        self._num_before = study.num_trials
        self._stack = ExitStack()
        self._num_written = 0
        self._may_know = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    @cached_property
    def run_log(self) -> RunLog:
        """MLflow."""
        return RunLog(self._places.tracking_uri, self._places.root)

    @cached_property
    def run(self) -> ProcessRun:
        """The run; that of the same study before, where the study goes on."""
        return self._stack.enter_context(
            self.run_log.process_run(
                f"sweep {self._places.study_name}",
                config=self._config,
                inputs=self._inputs,
                tags=self._tags,
                resume=self._places.resume,
            )
        )

    def write(self, trials: Sequence[FinishedTrial], *, insist: bool = False) -> None:
        """Write those that MLflow does not know; they wait while it does not answer.

        Args:
            trials: all of the study.
            insist: they can wait no longer.

        Raises:
            RunLogError: MLflow never answered, or it does not and this was the last time to ask.
        """
        run, waiting = self.run, trials[self._num_written :]
        try:
            new = run.log_children([trial_run(trial) for trial in waiting], look_up=self._may_know)
        except RunLogError as error:
            if insist:
                raise
            self._may_know = True  # some of them may have arrived
            logger.warning("%d trials wait for MLflow: %s", len(waiting), error)
            return
        self._num_written, self._may_know = len(trials), False
        for trial in waiting:
            # Not twice those of an earlier process, which are no longer new.
            is_new = trial.number >= self._num_before or trial_run(trial).name in new
            if trial.values is not None and is_new:
                values = dict(zip(self._options.objectives, trial.values, strict=True))
                run.log_metrics(trial.number, values)
