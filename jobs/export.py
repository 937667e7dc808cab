#!/usr/bin/env python
"""Write tracks of the store as a benchmark's submission, checked by reading it back."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command

EXAMPLE = (
    "python -m jobs.export --benchmark bdd100k "
    "--tracks ~/quasar/tracks/bdd100k/val/0123456789abcdef submission.zip"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Export and say what was written."""
    arguments = _parse(argv)
    from pipeline.export import export_tracks, stored_tracks
    from pipeline.lineage import frames_of, open_stage
    from pipeline.merge_classes import merge_classes

    parts = [open_stage(folder, "tracks") for folder in arguments.tracks]
    tracks = parts[0]
    if len(parts) > 1:
        tracks = merge_classes(parts)
        print(f"merged {tracks.folder}")
    sequences = stored_tracks(frames_of(tracks), tracks)
    num_objects = export_tracks(
        arguments.benchmark, sequences, arguments.out, force=arguments.force
    )
    print(f"{arguments.out}: {len(tracks.sequences())} sequences, {num_objects} objects")
    return command.DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(__doc__, example=EXAMPLE)
    parser.add_argument(
        "--benchmark", required=True, choices=command.SCORED, help="whose format to write"
    )
    parser.add_argument(
        "--tracks",
        required=True,
        action="append",
        metavar="DIR",
        help="folder of a finished tracks artefact; given again for each further class where each "
        "has tracks of its own, which are then merged",
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="a folder of one file per sequence, the same as .zip, or all in one .json (BDD100K)",
    )
    parser.add_argument("--force", action="store_true", help="replace what is at OUT")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
