"""What every command shares: exit codes, one-line errors, logging, and the check of our packages.

A job is a file of this shape. The guard replaces the job's own folder in `sys.path` when the file
is run by its path, so that no job can shadow a library; everything heavy is imported inside `main`,
so that `--help` answers at once and the packages are checked before any of them is imported.

    #!/usr/bin/env python
    \"\"\"One sentence that is also the help text.\"\"\"

    import sys
    from pathlib import Path

    if not __package__:  # run by its path: import from the checkout, not from jobs/
        sys.path[0] = str(Path(__file__).resolve().parents[1])

    from jobs import command


    def main(argv: Sequence[str] | None = None) -> int:
        parser = command.argument_parser(__doc__, example="python -m jobs.evaluate ...")
        ...
        return command.DONE


    if __name__ == "__main__":
        sys.exit(command.run(main))
"""

import argparse
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pipeline.experiment import Outcome

DONE: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130
"""128 + SIGINT; wrong usage is 2, given by argparse."""

SCORED: Final = (
    *("apollo_mots", "bdd100k", "bdd100k_mots", "kitti_mots"),
    *("mot15", "mot17", "mot20", "mots_challenge"),
)
"""Benchmarks of tracking, whose results can be read, scored and written."""
BENCHMARKS: Final = tuple(sorted((*SCORED, "kins")))
"""All that have a reader. Named here too, so that help and usage errors need not import them."""

_ROOT: Final = Path(__file__).resolve().parents[1]
_PACKAGES: Final = ("datasets", "models", "pipeline")


def argument_parser(description: str | None, *, example: str) -> argparse.ArgumentParser:
    """Parser whose help shows defaults and one example, and which knows `--debug`."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="show tracebacks and debug logging (also: QUASAR_DEBUG=1)",
    )
    return parser


def positive_int(text: str) -> int:
    """Type of an argument that counts something, from 1.

    Raises:
        argparse.ArgumentTypeError: anything else; argparse makes it a usage error.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a job's `main` and return its exit code; the caller passes it to `sys.exit`.

    Wrong input (ValueError, OSError) becomes one line on stderr and code 1, with a traceback only
    under `--debug` or QUASAR_DEBUG; Ctrl-C becomes 130; other errors keep their traceback, since
    they are ours to repair.

    Args:
        main: takes the arguments after the command's name, returns an exit code or None for 0.
        argv: the arguments, by default those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("QUASAR_DEBUG", "0") not in ("", "0")
    _set_up_logging(debug)
    try:
        check_packages()
        return main(arguments) or DONE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away (`| head`): nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return FAILED


def write_text(path: Path, text: str) -> None:
    """Write a small file that appears whole or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_packages() -> None:
    """Make sure that `datasets`, `models` and `pipeline` are the ones beside this folder.

    Raises:
        ValueError: another library of that name comes first (`datasets` is also Hugging Face's).
    """
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        found = spec.origin if spec else None
        if found is None or Path(found).resolve().parent != _ROOT / name:
            raise ValueError(
                f"the package `{name}` that Python finds is {found or 'absent'}, expected "
                f"{_ROOT / name}; run from {_ROOT}, or uninstall the library of the same name"
            )


def _set_up_logging(debug: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if debug else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
    )


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def print_outcome(outcome: "Outcome", root: str) -> None:
    """The score table of an experiment, and where everything lies."""
    from pipeline.leaderboard import rank
    from pipeline.leaderboard_formats import format_text

    if outcome.rows:
        print(f"\n{format_text(rank(outcome.rows))}\n")
    for stage, artefact in outcome.artefacts.items():
        print(f"{stage:14}{artefact.folder}")
    if not outcome.rows:
        return
    print(f"{'overlay video':14}{outcome.overlay}")
    show = f"{sys.executable} -m jobs.leaderboard --output-root {root} --html board.html"
    print(f"{'leaderboard':14}{show}")
    print(f"{'in MLflow':14}{outcome.how_to_view}")
