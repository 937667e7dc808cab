#!/usr/bin/env python
"""Draw tracks into videos: whole sequences, ranges of frames, or clips of single errors.

Every identity keeps its colour in all frames and videos. The files are H.264, which browsers play.
"""

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

CAUSES = (
    *("missed", "badly placed", "mis-classed", "duplicate", "background"),
    *("switched", "fragmented"),
)
"""Named here too, so that help and usage errors need not import the scoring."""

EXAMPLE = (
    "python -m jobs.render --tracks ~/quasar/tracks/bdd100k/val/0123456789abcdef "
    "--errors switched --limit 5 --out clips"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what was asked for and name the files."""
    arguments = _parse(argv)
    from pipeline.lineage import check_belongs, frames_of, open_stage
    from pipeline.videos import WHOLE, render_errors, render_sequences

    tracks = open_stage(arguments.tracks, "tracks")
    frames = open_stage(arguments.frames or frames_of(tracks).folder, "frames")
    check_belongs(frames, tracks)
    folder = arguments.out or _default_folder(tracks)
    if arguments.errors is None:
        paths = render_sequences(
            frames,
            tracks,
            folder,
            sequences=arguments.sequence,
            truth=arguments.truth,
            frame_range=arguments.frames_range or WHOLE,
            force=arguments.force,
        )
    else:
        paths = render_errors(
            frames,
            tracks,
            folder,
            arguments.errors,
            limit=arguments.limit,
            sequences=arguments.sequence,
            force=arguments.force,
        )
    num_videos = 0
    for path in paths:
        print(path, flush=True)
        num_videos += 1
    if num_videos == 0:
        print(f"no error of the cause {arguments.errors!r}: nothing to show", file=sys.stderr)
    return command.DONE


def _default_folder(tracks: "Artefact") -> Path:
    from pipeline.locations import is_local, open_filesystem

    if not is_local(tracks.root):
        raise ValueError(f"the output root {tracks.root} is not a folder: say where with --out DIR")
    root = Path(open_filesystem(tracks.root)[1])
    return root / "rendered" / tracks.dataset / tracks.split / tracks.fingerprint


def _frame_range(text: str) -> tuple[int, int | None]:
    """First frame index and the one to end before, of "A:B", ":B" or "A:"."""
    first, colon, last = text.partition(":")
    is_number = all(part == "" or part.isdecimal() for part in (first, last))
    if colon and is_number:
        start, stop = int(first or 0), int(last) if last else None
        if stop is None or start < stop:
            return start, stop
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a range of frame indices such as 20:60 (frames 20 to 59), :60 or 20:"
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(__doc__, example=EXAMPLE)
    parser.add_argument(
        "--tracks", required=True, metavar="DIR", help="folder of a finished tracks artefact"
    )
    parser.add_argument(
        "--frames", metavar="DIR", help="their frames, where the store does not lead there"
    )
    what = parser.add_argument_group("what to draw; by default all sequences in full")
    what.add_argument("--sequence", metavar="NAME", nargs="+", help="only these sequences")
    what.add_argument(
        "--frames-range", metavar="A:B", type=_frame_range, help="only frames A to B - 1, from 0"
    )
    what.add_argument(
        "--truth",
        nargs="?",
        const="over",
        choices=["over", "beside"],
        help="also the true boxes: white over the same picture, or in colours in one beside it",
    )
    what.add_argument(
        "--errors",
        metavar="CAUSE",
        choices=CAUSES,
        help=f"clips of the worst errors instead: {', '.join(CAUSES)}",
    )
    what.add_argument(
        "--limit", metavar="N", type=command.positive_int, default=10, help="clips at the most"
    )
    where = parser.add_argument_group("where and with what")
    where.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder of the videos; else rendered/ under the root of the tracks",
    )
    where.add_argument("--force", action="store_true", help="replace videos of the same name")
    arguments = parser.parse_args(argv)
    if arguments.errors and (arguments.truth or arguments.frames_range):
        parser.error(
            "--errors shows the true box and the frames of each error: leave out --truth and "
            "--frames-range"
        )
    return arguments


if __name__ == "__main__":
    sys.exit(command.run(main))
