"""The study of a sweep: the only truth about its trials, in a database that survives everything.

Only this file, `proposals` and `importance` know Optuna. A trial enters the study when it is
finished, whole, in one transaction and in the order of its number; so a process that dies at any
moment leaves a study without half trials, and going on needs nothing but the study.
"""

import fcntl
import json
import logging
import math
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from models.search_space import Dimension
from pipeline.locations import is_local, local_folder
from pipeline.search.proposals import distributions, is_inside
from pipeline.signals import undisturbed

logger = logging.getLogger(__name__)

State = Literal["complete", "pruned", "failed"]

_DEFINITION: Final = "quasar_sweep"
_IDENTITY: Final = "quasar_study"
_LOCK_TIMEOUT_S: Final = 5.0
_STATES: Final[Mapping[State, TrialState]] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class StudyError(ValueError):
    """A study that cannot be opened, continued or written; the message says which and why."""


@dataclass(frozen=True, kw_only=True)
class FinishedTrial:
    """One trial of a sweep when nothing more will happen to it."""

    number: int
    """From 0, which is the recipe's own setting."""
    state: State
    settings: Mapping[str, Any]
    """What was searched, by dotted path."""
    values: tuple[float, ...] | None = None
    """Objectives on all sequences, in order; only of a complete trial."""
    rungs: Mapping[int, float] = field(default_factory=dict)
    """Number of sequences to the first objective on these."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """All headline metrics on the sequences that it was scored on."""
    held: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the tracker, read from the tracker itself."""
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0
    """Time from its first task to its end."""
    sampler_state: Mapping[str, Any] = field(default_factory=dict)
    """What its sampler wants to find again."""


class Study:
    """An open study."""

    def __init__(
        self,
        storage: str,
        name: str,
        definition: Mapping[str, Any],
        space: Mapping[str, Dimension],
        directions: Sequence[str],
        *,
        resume: bool,
    ) -> None:
        """Make a new study or, to resume, open the one that is there.

        Args:
            storage: SQLAlchemy address, as `resolve_storage` gives it.
            name: of the study in its database.
            definition: everything that must be the same for trials to be comparable; JSON values.
            space: what is searched.
            directions: "maximize" or "minimize" for each objective.
            resume: continue; never start afresh.

        Raises:
            StudyError: a database that is locked, unreachable or something else; a study that is
                there already and is not to be resumed, or that is not there, or that was made with
                another definition.
        """
        self.storage: Final = public_address(storage)
        self.name: Final = name
        self._space = space
        with _refusals(storage):
            database = _open_storage(storage)
            try:
                known = {summary.study_name for summary in optuna.get_all_study_summaries(database)}
                if resume and name not in known:
                    raise StudyError(
                        f"{self.storage}: there is no study {name!r} to resume (studies there: "
                        f"{', '.join(sorted(known)) or 'none'}); leave out --resume to start it"
                    )
                if name in known and not optuna.load_study(
                    study_name=name, storage=database
                ).get_trials(deepcopy=False):
                    # It ended before its first trial, perhaps by wrong input: nothing is lost.
                    optuna.delete_study(study_name=name, storage=database)
                elif name in known and not resume:
                    raise StudyError(
                        f"{self.storage}: the study {name!r} is there already; go on with "
                        "--resume, or name another with --study"
                    )
                self._study = optuna.create_study(
                    storage=database,
                    study_name=name,
                    directions=list(directions),
                    load_if_exists=resume,
                )
                text = json.dumps(definition, sort_keys=True)
                stored = self._study.user_attrs.get(_DEFINITION)
                if stored is None and not self._study.get_trials(deepcopy=False):
                    self._study.set_user_attr(_IDENTITY, uuid.uuid4().hex)
                    self._study.set_user_attr(_DEFINITION, text)
                    stored = text
            except SQLAlchemyError:
                database.remove_session()
                raise
        self._check_definition(stored, definition)
        self.identity: Final = str(self._study.user_attrs[_IDENTITY])
        """Of this study and no other, also none that later takes its name."""
        self._num_trials = len(self.trials())

    @property
    def num_trials(self) -> int:
        """Finished trials in it."""
        return self._num_trials

    def trials(self) -> list[FinishedTrial]:
        """All finished trials by number.

        Raises:
            StudyError: the database does not answer, or holds trials that no sweep of ours made.
        """
        with _refusals(self.storage):
            frozen = self._study.get_trials(deepcopy=False)
        try:
            return [_thaw(trial) for trial in frozen]
        except KeyError as error:
            raise StudyError(
                f"{self.storage}: the study {self.name!r} holds trials that were not made by a "
                f"sweep ({error} is missing); name another study with --study"
            ) from error

    def add(self, trials: Sequence[FinishedTrial]) -> None:
        """Write finished trials, in the order of their numbers, which follow those there.

        Raises:
            StudyError: the database refuses, or somebody else writes to the same study.
        """
        for trial in trials:
            with undisturbed(), _refusals(self.storage):
                count = len(self._study.get_trials(deepcopy=False))
                if count != self._num_trials or trial.number != count:
                    raise StudyError(
                        f"{self.storage}: the study {self.name!r} holds {count} trials where this "
                        f"sweep has written {self._num_trials}: another process writes to it; stop "
                        "one of the two"
                    )
                self._study.add_trial(_freeze(trial, self._space))
                self._num_trials += 1

    def _check_definition(self, stored: Any, definition: Mapping[str, Any]) -> None:
        if not isinstance(stored, str):
            raise StudyError(
                f"{self.storage}: the study {self.name!r} was not made by a sweep; name another "
                "with --study"
            )
        before = json.loads(stored)
        now = json.loads(json.dumps(definition))
        differing = [
            f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if differing:
            raise StudyError(
                f"{self.storage}: the study {self.name!r} was made otherwise "
                f"({'; '.join(differing)}); resume it with what it was made with, or name another "
                "with --study"
            )


def resolve_storage(option: str | None, output_root: str) -> str:
    """Address of the database of studies: the option, else SQLite under a local output root.

    Raises:
        StudyError: no address, or one that is relative to the working directory.

    >>> resolve_storage("/data/sweeps.db", "/root")
    'sqlite:////data/sweeps.db'
    """
    if option is None:
        database = local_folder(output_root).resolve() / "sweeps.db"
        if not is_local(output_root):
            logger.warning(
                "%s cannot hold a database: the study is kept in %s on this machine; name one that "
                "all can reach with --storage",
                *(output_root, database),
            )
        return f"sqlite:///{database}"
    if option.startswith("/"):
        return f"sqlite:///{option}"
    try:
        url = make_url(option)
    except SQLAlchemyError as error:
        raise StudyError(
            f"--storage {option!r} is no address of a database; expected for example "
            "sqlite:////absolute/path/sweeps.db or postgresql://user@host/sweeps"
        ) from error
    if url.get_backend_name() == "sqlite" and not (url.database or "").startswith("/"):
        raise StudyError(
            f"--storage {option!r} is relative to the working directory, which a Ray job throws "
            "away; expected an absolute path with four slashes: sqlite:////home/me/sweeps.db"
        )
    return option


def public_address(storage: str) -> str:
    """The address without its password, for people, logs and runs.

    >>> public_address("postgresql://me:secret@host/sweeps")
    'postgresql://me:***@host/sweeps'
    """
    return make_url(storage).render_as_string(hide_password=True)


def _open_storage(storage: str) -> optuna.storages.RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    url = make_url(storage)
    if url.get_backend_name() != "sqlite":
        return optuna.storages.RDBStorage(storage)
    with _sole_opener(Path(str(url.database))):
        return optuna.storages.RDBStorage(
            storage, engine_kwargs={"connect_args": {"timeout": _LOCK_TIMEOUT_S}}
        )


@contextmanager
def _sole_opener(database: Path) -> Iterator[None]:
    """Hold back whoever else makes the tables; refuse a database of something else."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with closing(sqlite3.connect(database, timeout=_LOCK_TIMEOUT_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in rows}
            connection.rollback()
        if tables and "studies" not in tables:
            some = ", ".join(sorted(tables)[:3])
            raise StudyError(
                f"{database}: holds something else than studies (tables {some} ...); name another "
                "file with --storage"
            )
        yield


@contextmanager
def _refusals(storage: str) -> Iterator[None]:
    """Turn what a database raises into one line."""
    try:
        yield
    except (OptunaError, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        cause = error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        raise StudyError(
            f"{public_address(storage)}: the database of "
            f"the study cannot be used ({lines[0] if lines else type(cause).__name__}); end the "
            "program that locks it, check the address, or name another with --storage"
        ) from error


def _freeze(trial: FinishedTrial, space: Mapping[str, Dimension]) -> FrozenTrial:
    """As Optuna keeps it: parameters where they lie in the space, all else as attributes."""
    ends = datetime.now()
    known = {
        path: distribution
        for path, distribution in distributions(space).items()
        if path in trial.settings and is_inside(distribution, trial.settings[path])
    }
    attributes = {
        "settings": dict(trial.settings),
        "held": dict(trial.held),
        "metrics": {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in trial.metrics.items()
        },
        "rungs": {str(size): score for size, score in trial.rungs.items()},
        "reason": trial.reason,
        "seconds": trial.seconds,
    }
    has_one_objective = trial.values is None or len(trial.values) == 1
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=_STATES[trial.state],
        value=None,
        values=None if trial.values is None else list(trial.values),
        datetime_start=ends - timedelta(seconds=trial.seconds),
        datetime_complete=ends,
        params={path: trial.settings[path] for path in known},
        distributions=known,
        user_attrs=attributes,
        system_attrs=dict(trial.sampler_state),
        intermediate_values=dict(trial.rungs) if has_one_objective else {},
    )


def _thaw(trial: FrozenTrial) -> FinishedTrial:
    attributes = trial.user_attrs
    states = {optuna_state: state for state, optuna_state in _STATES.items()}
    return FinishedTrial(
        number=trial.number,
        state=states[trial.state],
        settings=attributes["settings"],
        values=tuple(trial.values) if trial.state == TrialState.COMPLETE else None,
        rungs={int(size): score for size, score in attributes["rungs"].items()},
        metrics=attributes["metrics"],
        held=attributes["held"],
        reason=attributes["reason"],
        seconds=attributes["seconds"],
        sampler_state=trial.system_attrs,
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
