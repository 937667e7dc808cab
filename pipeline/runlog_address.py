"""Which MLflow server or database runs go to, and whether it answers: asked before MLflow is.

MLflow itself goes on trying for minutes where a server is down or a database is locked.
"""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from pipeline.locations import is_local, local_folder

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 5.0


class RunLogError(ValueError):
    """MLflow cannot be reached, is locked, or refused; the message says where and what to do."""


def resolve_tracking_uri(option: str | None, output_root: str) -> str:
    """The option, else $MLFLOW_TRACKING_URI, else SQLite: under the output root where that is
    local, else under `~/quasar`, with a warning.

    Raises:
        RunLogError: a kind of address that cannot work here.

    >>> resolve_tracking_uri("http://127.0.0.1:5000/", "/data")
    'http://127.0.0.1:5000'
    """
    uri = option or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        return _default_database(output_root)
    if uri.startswith(("http://", "https://")):
        return uri.rstrip("/")
    if uri.startswith("sqlite:////"):
        return uri
    if uri.startswith("sqlite:"):
        raise RunLogError(
            f"tracking URI {uri!r} is relative to the working directory, which a Ray job throws "
            "away; expected an absolute path with four slashes: sqlite:////home/me/mlflow.db"
        )
    raise RunLogError(
        f"tracking URI {uri!r}: expected a server (http://host:5000) or a database "
        "(sqlite:////absolute/path/mlflow.db); MLflow no longer keeps runs in folders, and other "
        "databases belong behind a server (mlflow server --backend-store-uri ...)"
    )


def database_path(uri: str) -> Path | None:
    """File of a database; None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else None


def check_tracking(option: str | None, output_root: str) -> None:
    """Make sure, without loading MLflow, that there is a server or a database to write to.

    Raises:
        RunLogError: see `resolve_tracking_uri`, `check_server` and `sole_opener`.
    """
    uri = resolve_tracking_uri(option, output_root)
    database = database_path(uri)
    if database is None:
        check_server(uri)
    elif database.exists():  # else it is made when something is written
        with sole_opener(database):
            pass


def check_server(uri: str) -> None:
    """Make sure that somebody answers; who may do what is the server's to say later.

    Raises:
        RunLogError: nobody does, within some seconds.
    """
    import requests

    try:
        requests.get(uri, timeout=_TIMEOUT_S)
    except requests.exceptions.SSLError:
        return  # somebody is there; MLflow has its own settings for certificates
    except requests.RequestException as error:
        raise RunLogError(
            f"the MLflow server {uri} does not answer ({type(error).__name__}); start it or name "
            "another with --tracking-uri (or $MLFLOW_TRACKING_URI)"
        ) from error


@contextmanager
def sole_opener(database: Path) -> Iterator[None]:
    """Hold back whoever else opens the database for the first time; the folder is made.

    Two that create MLflow's tables at once break each other (seen with MLflow 3.17).

    Raises:
        RunLogError: the file is locked, is no database, or cannot be written.
    """
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.with_name(f".{database.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with closing(sqlite3.connect(database, timeout=_TIMEOUT_S)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
            yield
    except (sqlite3.Error, OSError) as error:
        raise RunLogError(
            f"{database}: the database of runs cannot be written ({error}); end the program that "
            "locks it, or name another with --tracking-uri sqlite:////absolute/path/mlflow.db"
        ) from error


def _default_database(output_root: str) -> str:
    database = local_folder(output_root).resolve() / "mlflow.db"
    if not is_local(output_root):
        logger.warning(
            "%s cannot hold a database: runs are logged to %s on this machine; name a server with "
            "--tracking-uri to share them",
            *(output_root, database),
        )
    return f"sqlite:///{database}"
