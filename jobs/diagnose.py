#!/usr/bin/env python
"""Say where tracks lost their score: causes, classes, sequences, and what bounds the result.

Every error that the benchmark counts has one cause; the sums are the official counts. Bounds are
the same detections with perfect association, and the same network and tracker on true boxes. The
latter is shown where it is in the store, as after jobs.train_bdd; otherwise --run-network makes it.
Where a benchmark compares masks, so does the diagnosis, and speaks of masks in place of boxes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

if TYPE_CHECKING:
    from pipeline.diagnosis import Diagnosis
    from pipeline.store import Artefact

_MOST_CLIPS: Final = 12
_MOST_CLIP_BYTES: Final = 6_000_000
"""A page of about 8 MB, which mail and phones still take."""

EXAMPLE = (
    "python -m jobs.diagnose --tracks ~/quasar/tracks/bdd100k/val/0123456789abcdef "
    "--frames ~/quasar/frames/bdd100k/val/fedcba9876543210 --out diagnosis.html"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Diagnose, write the files that were asked for, print the tables."""
    arguments = _parse(argv)
    from pipeline.diagnose import diagnose
    from pipeline.diagnosis import format_text
    from pipeline.lineage import check_belongs, open_stage

    tracks = open_stage(arguments.tracks, "tracks")
    frames = open_stage(arguments.frames, "frames")
    check_belongs(frames, tracks)
    num_workers = arguments.num_workers
    if num_workers > 1 or arguments.gpus_per_worker > 0:
        from pipeline.cluster import connect

        connect(num_cpus=num_workers)
        num_workers = options.choose_workers(num_workers, arguments.gpus_per_worker)
    diagnosis = diagnose(
        frames,
        tracks,
        run_network=arguments.run_network,
        num_workers=num_workers,
        gpus_per_worker=arguments.gpus_per_worker,
    )
    if arguments.json is not None:
        command.write_text(arguments.json, diagnosis.to_json())
        print(f"wrote {arguments.json}", file=sys.stderr)
    if arguments.out is not None:
        command.write_text(arguments.out, _page(diagnosis, frames, tracks))
        print(f"wrote {arguments.out}", file=sys.stderr)
    print(format_text(diagnosis), end="")
    return command.DONE


def _page(diagnosis: "Diagnosis", frames: "Artefact", tracks: "Artefact") -> str:
    from pipeline.diagnosis_page import format_page
    from pipeline.overlay import clips_of_errors
    from pipeline.provenance import describe_provenance

    clips = clips_of_errors(
        frames,
        tracks,
        diagnosis.protocol.classes,
        diagnosis.worst("switched"),
        limit=_MOST_CLIPS,
        limit_bytes=_MOST_CLIP_BYTES,
    )
    return format_page(diagnosis, clips, made_by=describe_provenance().made_by)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(__doc__, example=EXAMPLE)
    parser.add_argument(
        "--tracks", required=True, metavar="DIR", help="folder of a finished tracks artefact"
    )
    parser.add_argument(
        "--frames", required=True, metavar="DIR", help="the frames that the tracks were made from"
    )
    parser.add_argument(
        "--run-network",
        action="store_true",
        help="run the network on true boxes or masks for that bound, once for all diagnoses of its "
        "detections; without a GPU this takes hours for a real data set",
    )
    files = parser.add_argument_group("files to write beside the printed tables")
    files.add_argument("--out", type=Path, metavar="FILE.html", help="one self-contained page")
    files.add_argument("--json", type=Path, metavar="FILE", help="everything, with every error")
    group = parser.add_argument_group("where and with what")
    group.add_argument(
        "--num-workers",
        type=command.positive_int,
        metavar="N",
        default=1,
        help="processes; more than one starts Ray",
    )
    group.add_argument(
        "--gpus-per-worker",
        metavar="G",
        type=float,
        default=0.0,
        help="GPUs of each worker, for --run-network",
    )
    arguments = parser.parse_args(argv)
    if arguments.gpus_per_worker > 0 and not arguments.run_network:
        parser.error("--gpus-per-worker is for the network, which runs with --run-network only")
    return arguments


if __name__ == "__main__":
    sys.exit(command.run(main))
