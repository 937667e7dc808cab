"""A benchmark run: every tracker of a suite on the detections of all its weights, one row each.

Everything is checked first. Then each step does what is missing and finds the rest in the store; a
row that is on the leaderboard already is left as it is. What fails is recorded with its reason, and
everything that does not need it goes on.
"""

import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from datasets.registry import BENCHMARKS
from models.pointtrack.association import PointTrackerConfig
from models.qdtrack.association import TaoTrackerConfig, TrackerConfig
from models.qdtrack.config import QDTrackConfig
from pipeline import cluster, steps
from pipeline.associate import AssociationConfig, build_tracker
from pipeline.config import ExperimentConfig
from pipeline.contestants import Contestant, log_row, result_row, row_fingerprint
from pipeline.evaluate import EvaluationConfig
from pipeline.infer import map_classes
from pipeline.leaderboard import Kind, ResultRow
from pipeline.progress import Say
from pipeline.recipes import find_recipe
from pipeline.steps import Step, WorkOptions
from pipeline.store import Artefact, open_artefact
from pipeline.suites import DataSet, NamedTracker, Suite, Weights
from pipeline.train import initial_model

if TYPE_CHECKING:
    from pipeline.runlog import ProcessRun, RunLog

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that could not be done."""

    what: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a benchmark run ends with."""

    rows: tuple[ResultRow, ...]
    """In the order of the suite, those that were there before included."""
    num_new: int
    """How many of them were not."""
    failures: tuple[Failure, ...]


def run_suite(suite: Suite, options: WorkOptions, say: Say) -> Outcome:
    """Do everything of a suite that is missing; Ray must be connected.

    Raises:
        ValueError: the suite cannot be run as it is, said before any work.
    """
    from pipeline.runlog import RunLog

    check_suite(suite, options)
    run_log = RunLog(options.tracking_uri, options.output_root)
    with ExitStack() as stack:
        return _Benchmark(suite, options, run_log, say, stack).run()


def check_suite(suite: Suite, options: WorkOptions) -> None:
    """Whatever would stop a part of the run after hours stops it now.

    Raises:
        ValueError: a folder or a file that is not there or not what it should be, a recipe that
            does not exist, trackers that would share a row, a tracker whose library is not
            installed, classes that do not meet, or rules that fit no data; says which.
        FileNotFoundError: a weights file that is not there.
    """
    check_rows_differ(suite)
    cluster.check_shared_root(options.output_root)
    recipes = [find_recipe(entry.recipe) for entry in suite.weights]
    for association in _trackers(suite, recipes):
        build_tracker(association)
    benchmarks = {_check_data(entry) for entry in suite.data}
    for benchmark in sorted(benchmarks):
        rules_for(suite, benchmark)
    for rules in suite.protocols:
        if rules.protocol not in benchmarks:
            raise ValueError(
                f"protocols: {rules.protocol} fits none of the data, which is of "
                f"{', '.join(sorted(benchmarks))}; a benchmark is scored by its own rules"
            )
    for entry, recipe in zip(suite.weights, recipes, strict=True):
        _check_weights(suite, entry, recipe, sorted(benchmarks))


def check_rows_differ(suite: Suite) -> None:
    """A row is found by what made it, not by its title: two titles would fight over one row.

    Raises:
        ValueError: two trackers, or one tracker under two weights, are the same settings on the
            same detections; names both. A recipe that does not exist.
    """
    titles: dict[Hashable, str] = {}
    for entry in suite.weights:
        recipe = find_recipe(entry.recipe)
        network = entry.recipe if entry.file is None else Path(entry.file).resolve()
        for tracker in suite.trackers:
            title = f"tracker {tracker.name!r} with weights {entry.title!r}"
            made_by = (network, recipe.infer, tracker.association or recipe.association)
            if made_by in titles:
                raise ValueError(
                    f"{titles[made_by]} and {title} are one row of the leaderboard: the same "
                    "settings on the same detections; leave one out, or give it other settings"
                )
            titles[made_by] = title


def rules_for(suite: Suite, benchmark: str) -> tuple[EvaluationConfig, ...]:
    """What data of a benchmark is scored by.

    Raises:
        ValueError: the suite names rules, but none for this benchmark.
    """
    if not suite.protocols:
        return (EvaluationConfig(protocol=benchmark),)
    chosen = tuple(rules for rules in suite.protocols if rules.protocol == benchmark)
    if not chosen:
        named = ", ".join(rules.protocol for rules in suite.protocols)
        raise ValueError(
            f"protocols has no rules for data of {benchmark}, only {named}; add them, or leave "
            "protocols out to score every data set by its own"
        )
    return chosen


class _Benchmark:
    """One run of a suite: what it found, what failed, and its run in MLflow if it needs one."""

    def __init__(
        self, suite: Suite, options: WorkOptions, run_log: "RunLog", say: Say, stack: ExitStack
    ) -> None:
        self._suite = suite
        self._options = options
        self._run_log = run_log
        self._say = say
        self._stack = stack
        self._run: ProcessRun | None = None
        self._frames: dict[DataSet, Artefact] = {}
        self._known: dict[tuple[str, str], dict[str, ResultRow]] = {}
        self._rows: list[ResultRow] = []
        self._num_new = 0
        self._failures: list[Failure] = []

    def run(self) -> Outcome:
        for data in self._suite.data:
            frames = self._attempt(data.data_root or str(data.frames), self._store, data)
            if frames is not None:
                self._frames[data] = frames
        for entry in self._suite.weights if self._frames else ():
            self._run_weights(entry)
        if self._failures:
            record = [vars(failure) for failure in self._failures]
            run = self._process_run()
            run.log_files({"failures.json": json.dumps(record, indent=1).encode()})
            run.mark_failed()
        return Outcome(
            rows=tuple(self._rows), num_new=self._num_new, failures=tuple(self._failures)
        )

    def _run_weights(self, entry: Weights) -> None:
        weights = self._attempt(f"weights of {entry.title}", self._load, entry)
        if weights is None:
            return
        config = find_recipe(entry.recipe).infer
        for data, frames in self._frames.items():
            place = f"{entry.title} on {frames.dataset}/{frames.split}"
            self._say(place)
            found = self._attempt(
                place, steps.detect, frames, weights, config, self._options, self._say
            )
            if found is None:
                continue
            for tracker in self._suite.trackers:
                for rules in rules_for(self._suite, frames.details()["benchmark"]):
                    self._attempt(
                        f"{tracker.name}, {place}, {rules.protocol} rules",
                        self._enter,
                        _contestant(entry, tracker, found, data.notes),
                        *(tracker.name, frames, weights, entry, rules),
                    )

    def _store(self, data: DataSet) -> Artefact:
        if data.frames is not None:
            with Step(self._say, "frames") as step:
                frames = open_artefact(data.frames)
                step.done(data.frames, frames)
            return frames
        assert data.data_root is not None
        place = Path(data.data_root)
        stored = steps.ingest_splits(data.config(), [data.split], place, self._options, self._say)
        steps.check_has_labels(stored[data.split])
        return stored[data.split]

    def _load(self, entry: Weights) -> Artefact:
        recipe = find_recipe(entry.recipe)
        if entry.file is not None:
            return steps.adopt(Path(entry.file), recipe.data.dataset, self._options, self._say)
        data = _training_data(self._suite, entry, recipe)
        if data not in self._frames:
            raise ValueError(f"cannot be trained: its data under {data.data_root} failed")
        config = replace(
            recipe,
            data=replace(recipe.data, dataset=data.config().dataset, evaluation_split=data.split),
        )
        place = Path(str(data.data_root))
        frames = steps.ingest_splits(
            config.data, config.data.train_splits, place, self._options, self._say
        )
        return steps.train_recipe(
            config,
            {**frames, data.split: self._frames[data]},
            self._options,
            lambda step, metrics: self._process_run().log_metrics(step, metrics),
            self._say,
        )

    def _enter(
        self,
        contestant: Contestant,
        label: str,
        frames: Artefact,
        weights: Artefact,
        entry: Weights,
        rules: EvaluationConfig,
    ) -> None:
        result = steps.score_contestant(frames, contestant, rules, label, self._options, self._say)
        row = self._known_rows(frames).get(row_fingerprint(result))
        if row is None or row.name != contestant.title:
            recipe = entry.recipe if entry.file is None else f"{entry.recipe}, not trained here"
            row = result_row(result, weights, self._process_run(), recipe=recipe)
            log_row(row, result, weights, self._run_log)
            self._num_new += 1
        self._rows.append(row)

    def _known_rows(self, frames: Artefact) -> Mapping[str, ResultRow]:
        place = (frames.dataset, frames.split)
        if place not in self._known:
            self._known[place] = {row.fingerprint: row for row in self._run_log.results(*place)}
        return self._known[place]

    def _process_run(self) -> "ProcessRun":
        """Opened when there is something to write down: a run that finds everything leaves none."""
        if self._run is None:
            inputs = {f"{f.dataset}/{f.split}": f for f in self._frames.values()}
            self._run = self._stack.enter_context(
                self._run_log.process_run(
                    f"benchmark {self._suite.name}", config=self._suite, inputs=inputs
                )
            )
        return self._run

    def _attempt(self, what: str, work: Callable[..., T], *arguments: Any) -> T | None:
        """The result of some work; None where it failed, which is then recorded."""
        try:
            return work(*arguments)
        except Exception as error:  # the border of a combination: others go on
            logger.debug("%s", what, exc_info=True)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._failures.append(Failure(what=what, reason=reason))
            self._say(f"FAILED: {what}: {reason}")
            return None


def _contestant(
    entry: Weights, tracker: NamedTracker, detections: Artefact, notes: str
) -> Contestant:
    own = find_recipe(entry.recipe).association
    association = tracker.association or own
    is_own = tracker.association is None
    return Contestant(
        kind=_kind(association),
        title=entry.title if is_own else f"{entry.title}, {tracker.name}",
        detections=detections,
        association=association,
        detection_source="own detector",
        notes=notes,
    )


def _kind(association: AssociationConfig) -> Kind:
    """A tracker that looks at the model's embeddings is a model, any other a baseline beside it."""
    learned = TrackerConfig | TaoTrackerConfig | PointTrackerConfig
    return "model" if isinstance(association, learned) else "baseline"


def _trackers(suite: Suite, recipes: Sequence[ExperimentConfig]) -> list[AssociationConfig]:
    own = [recipe.association for recipe in recipes]
    return [*own, *(t.association for t in suite.trackers if t.association is not None)]


def _check_data(entry: DataSet) -> str:
    """Name of the benchmark that the data is of."""
    if entry.frames is not None:
        frames = open_artefact(entry.frames)
        if frames.stage != "frames":
            raise ValueError(
                f"data: {entry.frames} holds {frames.stage}, expected the frames that jobs.ingest "
                "made"
            )
        steps.check_has_labels(frames)
        return str(frames.details()["benchmark"])
    assert entry.data_root is not None
    if not Path(entry.data_root).is_dir():
        raise ValueError(f"data: there is no folder {entry.data_root}")
    return entry.benchmark


def _check_weights(
    suite: Suite, entry: Weights, recipe: ExperimentConfig, benchmarks: Sequence[str]
) -> None:
    from models.weights import read_metadata

    model = recipe.model
    if entry.file is not None:
        metadata = read_metadata(Path(entry.file))
        if not isinstance(metadata.config, QDTrackConfig):
            raise ValueError(
                f"weights {entry.title!r}: {entry.file} holds the model {metadata.model!r}, "
                "expected 'qdtrack_frcnn'"
            )
        model = metadata.config
    else:
        _training_data(suite, entry, recipe)
        initial_model(recipe.model, recipe.train)
    for benchmark in benchmarks:
        try:
            map_classes(model.classes, BENCHMARKS[benchmark].classes)
        except ValueError as error:
            raise ValueError(f"weights {entry.title!r} on {benchmark}: {error}") from error


def _training_data(suite: Suite, entry: Weights, recipe: ExperimentConfig) -> DataSet:
    for data in suite.data:
        if data.data_root is not None and data.benchmark == recipe.data.benchmark:
            return data
    raise ValueError(
        f"weights {entry.title!r}: there is no file, and no data set with raw files of "
        f"{recipe.data.benchmark} to train on; name either"
    )
