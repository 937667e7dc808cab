"""Arguments that several jobs share, and what they mean."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from jobs import command

if TYPE_CHECKING:
    from pipeline.config import RecipeConfig

    Config = TypeVar("Config", bound=RecipeConfig)

logger = logging.getLogger(__name__)

_DEFAULT_WORKERS: Final = 8


def add_config_options(parser: argparse.ArgumentParser, *, default_recipe: str | None) -> None:
    """``--recipe``, ``--set`` and ``--set-file``."""
    group = parser.add_argument_group("what to run")
    group.add_argument("--recipe", metavar="NAME", default=default_recipe, help="named experiment")
    group.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="override a field of the recipe, for example train.seed=3; may be repeated",
    )
    group.add_argument(
        "--set-file",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="overrides as a TOML file with the same paths, applied before --set",
    )


def add_data_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """``--data-root`` and ``--strict``."""
    group = parser.add_argument_group("raw data")
    group.add_argument(
        "--data-root",
        metavar="DIR",
        type=_folder,
        required=required,
        help="folder of the benchmark's files" + ("" if required else "; without it synthetic"),
    )
    group.add_argument("--strict", action="store_true", help="stop at the first broken input file")


def _folder(text: str) -> Path:
    return Path(text).expanduser().resolve()


def add_run_options(
    parser: argparse.ArgumentParser,
    *,
    output_root: bool = True,
    gpus: bool = True,
    tracking: bool = False,
) -> None:
    """``--num-workers`` and, for jobs where they mean something, the others.

    Args:
        output_root: ``--output-root``, for jobs that read no artefact whose root they take.
        gpus: ``--gpus-per-worker``, for jobs that train or infer.
        tracking: ``--tracking-uri``, for jobs that write runs down.
    """
    group = parser.add_argument_group("where and with what")
    if output_root:
        group.add_argument(
            "--output-root",
            metavar="DIR|URI",
            help="root of all results, a folder or s3://...; else $QUASAR_ROOT, else ~/quasar",
        )
    group.add_argument(
        "--num-workers",
        metavar="N",
        type=command.positive_int,
        help="workers of every stage; by default the CPUs of the cluster, at most 8",
    )
    if gpus:
        group.add_argument(
            "--gpus-per-worker",
            metavar="G",
            type=float,
            default=0.0,
            help="GPUs of each training and inference worker",
        )
    if tracking:
        group.add_argument(
            "--tracking-uri",
            metavar="URI",
            help="MLflow server or database; else $MLFLOW_TRACKING_URI, else SQLite under the root",
        )


def build_config(
    recipe: str,
    options: argparse.Namespace,
    kind: "type[Config]",
    *,
    unread: Mapping[str, str] | None = None,
) -> "Config":
    """The config of a recipe with the overrides of the command line.

    Args:
        recipe: its name.
        options: parsed arguments of `add_config_options`.
        kind: of experiment that the job is for.
        unread: beginnings of paths that the job does not read, and why: a warning, no error, since
            the same overrides may be given to one job after the other.

    Raises:
        ValueError: an unknown recipe or path, or a value that does not fit.
    """
    from pipeline.overrides import apply_overrides, parse_assignments, read_overrides
    from pipeline.recipes import find_recipe

    config = find_recipe(recipe, kind)
    sources = [(str(path), read_overrides(path)) for path in options.set_file]
    for source, overrides in [*sources, ("--set", parse_assignments(options.set))]:
        config = apply_overrides(config, overrides)
        for path in overrides:
            for beginning, reason in (unread or {}).items():
                if path.startswith(beginning):
                    logger.warning("%s: %s has no effect here: %s", source, path, reason)
    return config


def choose_workers(requested: int | None, gpus_per_worker: float = 0.0) -> int:
    """Number of workers that the connected cluster can hold, at most `requested`, else at most 8.

    More would wait for ever for CPUs or GPUs that never come.

    Raises:
        ValueError: the cluster cannot hold even one worker.
    """
    from pipeline.cluster import worker_capacity

    if gpus_per_worker < 0:
        raise ValueError(f"--gpus-per-worker is {gpus_per_worker:g}, expected 0 or more")
    capacity = worker_capacity(1.0, gpus_per_worker)
    if capacity < 1 and gpus_per_worker > 0:
        raise ValueError(
            f"--gpus-per-worker is {gpus_per_worker:g}, but no node of the cluster has that; leave "
            "it out to run on CPUs, or add nodes with GPUs"
        )
    if capacity < 1:
        raise ValueError("no node of the cluster has a CPU for a worker; add one")
    if requested is not None and requested > capacity:
        logger.warning("%d workers in place of %d: Ray has room for no more", capacity, requested)
    return min(requested or _DEFAULT_WORKERS, capacity)
