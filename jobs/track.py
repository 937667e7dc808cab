#!/usr/bin/env python
"""Track the objects of any video and write an overlay video, MOTChallenge text and JSON.

Classes are the model's own. The text has no classes; the JSON has everything: "video", "width",
"height", "frame_rate", "num_frames", "problem" (null, or why the video ended early), "weights",
"classes", "association" and "frames", a list of {"frame_index" from 0, "timestamp_us", "objects":
[{"id", "class", "score", "box": [x1, y1, x2, y2]}]} in pixels of the video, right and bottom edges
exclusive. A video that breaks off is tracked as far as it goes: its files are then called
NAME-partial and the exit code is 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

if TYPE_CHECKING:
    from models.qdtrack.model import QDTrack

_UNREAD = {
    "model.": "the model's settings are in its weights",
    "train.": "nothing is trained",
    "data.": "any video is read as it is",
    "evaluation.": "nothing is scored",
    "infer.half_embeddings": "embeddings are not kept",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Track, write, and say what was written where."""
    arguments = _parse(argv)
    from pipeline.config import ExperimentConfig

    config = options.build_config(arguments.recipe, arguments, ExperimentConfig, unread=_UNREAD)
    from pipeline.track import open_source, output_paths, track_video, write_results

    source = open_source(arguments.video)
    folder = arguments.out or _default_folder(source.name)
    for is_partial in (False, True):
        for path in output_paths(folder, source.name, is_partial=is_partial):
            if path.exists() and not arguments.force:
                raise ValueError(f"{path}: exists already; choose another --out or use --force")
    tracked = track_video(
        source,
        _load(arguments.weights, gpu=arguments.gpu),
        config.association,
        batch_size=config.infer.batch_size,
        max_frames=arguments.max_frames,
    )
    written = write_results(tracked, folder, weights=arguments.weights.name)
    for name, path in written._asdict().items():
        print(f"{name:8}{path}")
    print(
        f"{tracked.num_frames} frames, {tracked.num_tracks} tracks, {len(tracked.tracks)} boxes",
        flush=True,
    )
    if tracked.problem is not None:
        raise ValueError(f"{tracked.problem}; what comes before was tracked")
    return command.DONE


def _load(path: Path, *, gpu: bool) -> "QDTrack":
    import torch

    from models.qdtrack.model import QDTrack
    from models.weights import load_weights

    if gpu and not torch.cuda.is_available():
        raise ValueError("--gpu: torch finds no CUDA device; leave it out to run on the CPU")
    return load_weights(path, QDTrack).model.to("cuda" if gpu else "cpu")


def _default_folder(name: str) -> Path:
    from pipeline.locations import is_local, resolve_root

    root = resolve_root(None)
    if not is_local(root):
        raise ValueError(f"the output root {root} is not a folder: say where with --out DIR")
    return Path(root) / "tracked" / name


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__, example="python -m jobs.track night.mp4 --weights model.safetensors"
    )
    parser.add_argument(
        "video",
        metavar="VIDEO",
        type=Path,
        help="any video that FFmpeg reads, or a folder of JPEG and PNG images in order of names",
    )
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, required=True, help="a model of ours"
    )
    options.add_config_options(parser, default_recipe="qdtrack_frcnn_r50_bdd100k")
    group = parser.add_argument_group("where and with what")
    group.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder of the results; else tracked/NAME under $QUASAR_ROOT, else under ~/quasar",
    )
    group.add_argument("--force", action="store_true", help="replace results of the same name")
    group.add_argument(
        "--max-frames", metavar="N", type=command.positive_int, help="stop after so many frames"
    )
    group.add_argument("--gpu", action="store_true", help="run the network on the GPU")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
