#!/usr/bin/env python
"""Score every tracker of a suite on all its data, baselines included, into one leaderboard."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

if TYPE_CHECKING:
    from pipeline.benchmark import Outcome
    from pipeline.suites import Suite

_SYNTHETIC = "synthetic"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing of a suite, then print the table and what failed."""
    arguments = _parse(argv)
    from pipeline import cluster
    from pipeline.benchmark import run_suite
    from pipeline.locations import resolve_root
    from pipeline.steps import WorkOptions

    root = resolve_root(arguments.output_root)
    suite = _find_suite(arguments, root)
    print(f"suite {suite.name}, results under {root}", flush=True)
    cluster.connect(num_cpus=arguments.num_workers)
    outcome = run_suite(
        suite,
        WorkOptions(
            output_root=root,
            tracking_uri=arguments.tracking_uri,
            num_workers=options.choose_workers(arguments.num_workers, arguments.gpus_per_worker),
            gpus_per_worker=arguments.gpus_per_worker,
            strict=arguments.strict,
        ),
        say=lambda line: print(line, flush=True),
    )
    _print_outcome(outcome, root)
    return command.FAILED if outcome.failures else command.DONE


def _find_suite(arguments: argparse.Namespace, root: str) -> "Suite":
    from pipeline.recipes.suites import find_suite
    from pipeline.suites import read_suite

    name, weights = arguments.suite, arguments.weights
    if name.endswith(".toml"):
        if arguments.data_root is not None or weights is not None:
            raise ValueError(
                f"{name} names its own data and weights; leave --data-root and --weights out, they "
                "are for the suites that have a name"
            )
        return read_suite(Path(name))
    data_root = arguments.data_root
    if data_root is None:
        if name != _SYNTHETIC:
            find_suite(name, "")  # an unknown name is the more likely mistake
            raise ValueError(f"the suite {name!r} needs --data-root, the folder of its raw files")
        from jobs.train_bdd import write_synthetic

        data_root = write_synthetic(root)
    return find_suite(name, str(data_root), None if weights is None else str(weights.resolve()))


def _print_outcome(outcome: "Outcome", root: str) -> None:
    from pipeline.leaderboard import rank
    from pipeline.leaderboard_formats import format_text

    if outcome.rows:
        print()
        print(format_text(rank(outcome.rows)))
    if outcome.num_new or outcome.failures:
        print(f"{outcome.num_new} of {len(outcome.rows)} rows are new on the leaderboard")
    else:
        print(f"nothing to do: all {len(outcome.rows)} rows were on the leaderboard already")
    for failure in outcome.failures:
        print(f"FAILED: {failure.what}: {failure.reason}")
    print(f"leaderboard   {sys.executable} -m jobs.leaderboard --output-root {root}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__, example="python -m jobs.benchmark --suite suite.toml --num-workers 8"
    )
    parser.add_argument(
        "--suite",
        metavar="NAME|FILE",
        default=_SYNTHETIC,
        help="named suite (synthetic, bdd100k), or a TOML file that names data, weights, trackers",
    )
    options.add_data_options(parser, required=False)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=Path,
        help="weights of ours for a named suite, in place of training its recipe",
    )
    options.add_run_options(parser, tracking=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
