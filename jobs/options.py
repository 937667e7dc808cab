"""Arguments that several jobs share, and what they mean."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import ExperimentConfig

logger = logging.getLogger(__name__)


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
        type=Path,
        required=required,
        help="folder of the benchmark's files" + ("" if required else "; without it synthetic"),
    )
    group.add_argument("--strict", action="store_true", help="stop at the first broken input file")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """``--output-root``, ``--num-workers`` and ``--gpus-per-worker``."""
    group = parser.add_argument_group("where and with what")
    group.add_argument(
        "--output-root",
        metavar="DIR|URI",
        help="root of all results, a folder or s3://...; else $QUASAR_ROOT, else ~/quasar",
    )
    group.add_argument(
        "--num-workers",
        metavar="N",
        type=int,
        help="workers of every stage; by default the CPUs of the cluster, at most 8",
    )
    group.add_argument(
        "--gpus-per-worker",
        metavar="G",
        type=float,
        default=0.0,
        help="GPUs of each training and inference worker",
    )


def build_config(recipe: str, options: argparse.Namespace) -> "ExperimentConfig":
    """The config of a recipe with the overrides of the command line.

    Raises:
        ValueError: an unknown recipe or path, or a value that does not fit.
    """
    from pipeline.overrides import apply_overrides, parse_assignments, read_overrides
    from pipeline.recipes import find_recipe

    config = find_recipe(recipe)
    for path in options.set_file:
        config = apply_overrides(config, read_overrides(path))
    return apply_overrides(config, parse_assignments(options.set))


def choose_workers(requested: int | None) -> int:
    """Number of workers; Ray must be connected where none was requested."""
    if requested is not None:
        if requested < 1:
            raise ValueError(f"--num-workers is {requested}, expected at least 1")
        return requested
    from pipeline.cluster import available_cpus

    return min(8, available_cpus())
