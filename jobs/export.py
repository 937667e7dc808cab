#!/usr/bin/env python
"""Write tracks of the store as a benchmark's submission, checked by reading it back."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command

if TYPE_CHECKING:
    from pipeline.store import Artefact

EXAMPLE = (
    "python -m jobs.export --benchmark bdd100k "
    "--tracks ~/quasar/tracks/bdd100k/val/0123456789abcdef submission.zip"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Export and say what was written."""
    arguments = _parse(argv)
    from pipeline.export import export_tracks, stored_tracks
    from pipeline.store import open_artefact

    tracks = open_artefact(arguments.tracks)
    if tracks.stage != "tracks":
        raise ValueError(f"{arguments.tracks}: holds {tracks.stage}, expected tracks")
    sequences = stored_tracks(_frames_of(tracks), tracks)
    num_boxes = export_tracks(arguments.benchmark, sequences, arguments.out, force=arguments.force)
    print(f"{arguments.out}: {len(tracks.sequences())} sequences, {num_boxes} boxes")
    return command.DONE


def _frames_of(tracks: "Artefact") -> "Artefact":
    """The frames that the tracks were made from, by way of their detections."""
    from dataclasses import replace

    detections = replace(tracks, stage="detections", fingerprint=tracks.details()["detections"])
    return replace(tracks, stage="frames", fingerprint=detections.details()["frames"])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(__doc__, example=EXAMPLE)
    parser.add_argument(
        "--benchmark", required=True, choices=command.BENCHMARKS, help="whose format to write"
    )
    parser.add_argument(
        "--tracks", required=True, metavar="DIR", help="folder of a finished tracks artefact"
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
