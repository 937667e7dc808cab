#!/usr/bin/env python
"""Rank the results that were logged: printed, and as HTML, CSV, JSON or Markdown files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command

if TYPE_CHECKING:
    from pipeline.leaderboard import Leaderboard
    from pipeline.runlog import RunLog


def main(argv: Sequence[str]) -> int:
    """Read the rows, write the files that were asked for, print the tables."""
    arguments = _parse(argv)
    from pipeline.leaderboard_formats import format_text
    from pipeline.locations import resolve_root
    from pipeline.runlog import RunLog

    root = resolve_root(arguments.output_root)
    run_log = RunLog(arguments.tracking_uri, root, must_exist=True)
    leaderboards = _read(run_log, arguments)
    _write_files(leaderboards, arguments)
    if arguments.compare is not None:
        _print_comparison(run_log, leaderboards, *arguments.compare)
        return command.DONE
    print(format_text(leaderboards), end="")
    for benchmark, split in dict.fromkeys((b.benchmark, b.split) for b in leaderboards):
        address = run_log.how_to_view(benchmark, split)
        print(f"{benchmark} / {split} in MLflow: {address}", file=sys.stderr)
    return command.DONE


def _read(run_log: "RunLog", arguments: argparse.Namespace) -> "list[Leaderboard]":
    from pipeline.leaderboard import rank

    present = run_log.benchmarks()
    chosen = [
        (benchmark, split)
        for benchmark, split in present
        if arguments.benchmark in (None, benchmark) and arguments.split in (None, split)
    ]
    leaderboards = rank(row for names in chosen for row in run_log.results(*names))
    if not leaderboards:
        known = ", ".join(f"{benchmark} / {split}" for benchmark, split in present) or "none"
        raise ValueError(
            f"{run_log.uri}: no finished results to rank (leaderboards there: {known}); make some "
            "with `python -m jobs.train_bdd`, or name another place with --output-root or "
            "--tracking-uri"
        )
    return leaderboards


def _print_comparison(
    run_log: "RunLog", leaderboards: "list[Leaderboard]", first: str, second: str
) -> None:
    from pipeline.comparison import compare_rows, format_comparison
    from pipeline.leaderboard import find_row
    from pipeline.scores import FIELDS_FILE

    rows = [entry.row for board in leaderboards for entry in board.entries]
    ours, theirs = find_row(rows, first), find_row(rows, second)
    comparison = compare_rows(ours, theirs, lambda row: run_log.read_file(row, FIELDS_FILE))
    print(format_comparison(comparison), end="")


def _write_files(leaderboards: "list[Leaderboard]", arguments: argparse.Namespace) -> None:
    from pipeline import leaderboard_formats
    from pipeline.leaderboard_page import format_html
    from pipeline.provenance import describe_provenance

    made_by = describe_provenance().made_by
    formats = {
        "html": lambda boards: format_html(boards, made_by=made_by),
        "csv": leaderboard_formats.format_csv,
        "json": leaderboard_formats.format_json,
        "markdown": leaderboard_formats.format_markdown,
    }
    for name, make in formats.items():
        path: Path | None = getattr(arguments, name)
        if path is not None:
            command.write_text(path, make(leaderboards))
            print(f"wrote {path}", file=sys.stderr)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__, example="python -m jobs.leaderboard --benchmark bdd100k --html leaderboard.html"
    )
    which = parser.add_argument_group("which results; by default all")
    which.add_argument("--benchmark", metavar="NAME", help="only this benchmark or data set")
    which.add_argument("--split", metavar="NAME", help="only this split")
    which.add_argument(
        "--compare",
        metavar=("FIRST", "SECOND"),
        nargs=2,
        help="print how far the first row is ahead of the second, and how sure that is, in place "
        "of the tables; rows by name, by result (fingerprint) or by a unique beginning of it",
    )
    where = parser.add_argument_group("where they were logged")
    where.add_argument(
        "--output-root",
        metavar="DIR|URI",
        help="root of all results; else $QUASAR_ROOT, else ~/quasar",
    )
    where.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow server (http://host:5000) or database (sqlite:////absolute/path); else "
        "$MLFLOW_TRACKING_URI, else mlflow.db under the output root",
    )
    files = parser.add_argument_group("files to write beside the printed table")
    for name, what in (
        ("html", "one self-contained page: sortable, with classes, sequences and curves"),
        ("csv", "one line for each row, numbers in full"),
        ("json", "everything, tables and curves included"),
        ("markdown", "tables of scores and of what made them"),
    ):
        files.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
