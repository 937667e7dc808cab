#!/usr/bin/env python
"""Train, run, score and rank QDTrack on BDD100K; without --data-root on synthetic scenes."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

_REAL_RECIPE = "qdtrack_frcnn_r50_bdd100k"
_SYNTHETIC_RECIPE = "qdtrack_frcnn_r18_synthetic"


def main(argv: Sequence[str] | None = None) -> int:
    """Do every stage that is missing, then print the table and where everything lies."""
    arguments = _parse(argv)
    from pipeline import cluster
    from pipeline.config import ExperimentConfig
    from pipeline.experiment import RunOptions, run_experiment
    from pipeline.locations import resolve_root

    is_synthetic = arguments.data_root is None
    recipe = arguments.recipe or (_SYNTHETIC_RECIPE if is_synthetic else _REAL_RECIPE)
    unread = {}
    if arguments.weights is not None:
        unread["model."] = "with --weights, the model's settings are those of its weights"
        unread["train."] = "with --weights, nothing is trained"
    config = options.build_config(recipe, arguments, ExperimentConfig, unread=unread)
    root = resolve_root(arguments.output_root)
    print(f"recipe {recipe}, results under {root}", flush=True)
    if is_synthetic:
        data_root = write_synthetic(root)
        config = replace(config, data=replace(config.data, dataset="synthetic"))
    else:
        data_root = arguments.data_root.expanduser().resolve()
    cluster.connect(num_cpus=arguments.num_workers)
    outcome = run_experiment(
        config,
        RunOptions(
            data_root=data_root,
            output_root=root,
            weights=arguments.weights,
            init_weights=arguments.init_weights,
            tracking_uri=arguments.tracking_uri,
            num_workers=options.choose_workers(arguments.num_workers, arguments.gpus_per_worker),
            gpus_per_worker=arguments.gpus_per_worker,
            strict=arguments.strict,
            notes="synthetic data" if is_synthetic else "",
        ),
        say=lambda line: print(line, flush=True),
    )
    command.print_outcome(outcome, root)
    return command.DONE


def write_synthetic(root: str) -> Path:
    """The built-in data set, written once; raw files are local even where the root is not."""
    from datasets.synthetic import SyntheticConfig, write_synthetic_bdd100k
    from pipeline.locations import local_folder

    data_root = local_folder(root) / "raw" / "synthetic_bdd100k"
    print(
        "NO --data-root: this run uses SYNTHETIC scenes, written in BDD100K's layout to\n"
        f"  {data_root}\n"
        "Its scores say that the pipeline works, nothing about real video.",
        flush=True,
    )
    write_synthetic_bdd100k(data_root, SyntheticConfig())
    return data_root


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__, example="python -m jobs.train_bdd --data-root /data/bdd100k --num-workers 8"
    )
    options.add_data_options(parser, required=False)
    options.add_config_options(parser, default_recipe=None)
    weights = parser.add_argument_group("weights")
    group = weights.add_mutually_exclusive_group()
    group.add_argument(
        "--weights", metavar="FILE", type=Path, help="use these weights instead of training"
    )
    group.add_argument(
        "--init-weights", metavar="FILE", help="weights of ours that training starts from"
    )
    options.add_run_options(parser, tracking=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
