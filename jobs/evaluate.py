#!/usr/bin/env python
"""Score result files against ground truth by the benchmark's own rules.

Files are read strictly: nothing that is wrong with them is skipped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

EXAMPLE = (
    "python -m jobs.evaluate --benchmark bdd100k --truth labels/box_track_20/val "
    "--results results/ --json scores.json"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Read truth and results, write the report, print the table."""
    arguments = _parse(argv)

    from datasets.registry import BENCHMARKS
    from pipeline.evaluate import EvaluationConfig, build_protocol, evaluate, format_table

    benchmark = BENCHMARKS[arguments.benchmark]
    config = EvaluationConfig(protocol=arguments.benchmark, box_convention=arguments.box_convention)
    truths = benchmark.read_truth(arguments.truth)
    results = benchmark.read_results(arguments.results)
    num_workers = arguments.num_workers
    if num_workers > 1:
        from pipeline.cluster import connect

        connect(num_cpus=num_workers)
        num_workers = options.choose_workers(num_workers)
    report = evaluate(build_protocol(config), truths, results, num_workers=num_workers)
    if arguments.json is not None:
        command.write_text(arguments.json, report.to_json())
    print(format_table(report.metrics))
    versions = report.evaluator
    print(
        f"{versions['protocol']} rules on {len(report.sequences)} sequence(s), "
        f"trackeval {versions['trackeval']}, quasar {versions['quasar']}"
    )
    return command.DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(__doc__, example=EXAMPLE)
    parser.add_argument("--benchmark", required=True, choices=command.SCORED)
    parser.add_argument(
        "--truth",
        required=True,
        type=Path,
        metavar="PATH",
        help="JSON file or folder of JSON files (BDD100K); folder of sequences (MOTChallenge); "
        "folder of <sequence>.txt or of folders of maps (KITTI MOTS)",
    )
    parser.add_argument(
        "--results",
        required=True,
        type=Path,
        metavar="PATH",
        help="likewise JSON (BDD100K); folder of <sequence>.txt (MOTChallenge, KITTI MOTS)",
    )
    parser.add_argument(
        "--box-convention",
        default="inclusive",
        choices=["inclusive", "stock"],
        help="boxes of HOTA on BDD100K: with the benchmark's extra pixel, or as trackeval's loader",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report here")
    parser.add_argument(
        "--num-workers",
        type=command.positive_int,
        default=1,
        help="processes; more than one starts Ray",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
