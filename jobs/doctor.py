#!/usr/bin/env python
"""Say what is wrong with a set-up, and which files of a benchmark are missing."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command


def main(argv: Sequence[str] | None = None) -> int:
    """Print every finding; exit with 1 where something is broken."""
    arguments = _parse(argv)
    from datasets.registry import BENCHMARKS
    from pipeline.doctor import examine_data, examine_setup
    from pipeline.locations import resolve_root

    constraints = Path(__file__).resolve().parents[1] / "constraints.txt"
    findings = list(examine_setup(resolve_root(arguments.output_root), constraints))
    if arguments.data_root is not None:
        findings += examine_data(BENCHMARKS[arguments.benchmark], arguments.data_root)
    if arguments.json:
        print(json.dumps([vars(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.level:8}{finding.subject:32}{finding.message}")
    num_errors = sum(finding.level == "error" for finding in findings)
    num_warnings = sum(finding.level == "warning" for finding in findings)
    print(f"{num_errors} errors, {num_warnings} warnings", file=sys.stderr)
    return command.FAILED if num_errors else command.DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__, example="python -m jobs.doctor --benchmark bdd100k --data-root /data/bdd100k"
    )
    parser.add_argument("--benchmark", choices=command.BENCHMARKS)
    parser.add_argument("--data-root", metavar="DIR", type=Path, help="the benchmark's files")
    parser.add_argument("--output-root", metavar="DIR|URI", help="root of all results")
    parser.add_argument("--json", action="store_true", help="findings as JSON on stdout")
    arguments = parser.parse_args(argv)
    if (arguments.data_root is None) != (arguments.benchmark is None):
        parser.error("--benchmark and --data-root go together: which files, and where")
    return arguments


if __name__ == "__main__":
    sys.exit(command.run(main))
