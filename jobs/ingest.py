#!/usr/bin/env python
"""Store the frames and annotations of one split, ready for training and inference."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

_LATER_STAGES = ("model.", "train.", "infer.", "association.", "evaluation.")


def main(argv: Sequence[str] | None = None) -> int:
    """Ingest and say where the artefact lies."""
    arguments = _parse(argv)
    from datasets.registry import BENCHMARKS
    from pipeline import cluster
    from pipeline.config import RecipeConfig
    from pipeline.ingest import ingest, report
    from pipeline.locations import resolve_root
    from pipeline.overrides import apply_overrides

    unread = dict.fromkeys(_LATER_STAGES, "stored frames depend on data.* only")
    config = options.build_config(arguments.recipe, arguments, RecipeConfig, unread=unread)
    if arguments.benchmark:
        names = {"data.benchmark": arguments.benchmark, "data.dataset": arguments.benchmark}
        config = apply_overrides(config, names)
    root = resolve_root(arguments.output_root)
    cluster.connect(num_cpus=arguments.num_workers)
    cluster.check_shared_root(root)
    artefact = ingest(
        BENCHMARKS[config.data.benchmark],
        arguments.data_root,
        arguments.split,
        config.data,
        root,
        strict=arguments.strict,
    )
    details = artefact.details()
    print(
        f"{len(artefact.sequences())} sequences, {details['num_frames']} frames, "
        f"{details['num_broken_frames']} of them without a readable image"
    )
    for problem in report(artefact):
        print(f"problem: {problem.where}: {problem.what}")
    print(artefact.folder)
    return command.DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__, example="python -m jobs.ingest --data-root /data/bdd100k --split val"
    )
    parser.add_argument("--split", required=True, help="train, val, test, det_train ...")
    parser.add_argument(
        "--benchmark", choices=command.BENCHMARKS, help="another benchmark than the recipe's"
    )
    options.add_data_options(parser, required=True)
    options.add_config_options(parser, default_recipe="qdtrack_frcnn_r50_bdd100k")
    options.add_run_options(parser, gpus=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
