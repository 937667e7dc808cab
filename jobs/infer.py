#!/usr/bin/env python
"""Run the network over stored frames and keep its detections with their embeddings."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

_UNREAD = {
    "model.": "the model's settings are in its weights",
    "train.": "nothing is trained",
    "data.": "the frames are stored already",
    "evaluation.": "nothing is scored",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Infer, and associate too where it was asked for; say where the artefacts lie."""
    arguments = _parse(argv)
    from pipeline import cluster
    from pipeline.associate import associate
    from pipeline.config import ExperimentConfig
    from pipeline.infer import infer
    from pipeline.model_store import adopt_weights
    from pipeline.store import open_artefact

    unread = dict(_UNREAD)
    if not arguments.associate:
        unread["association."] = "add --associate"
    config = options.build_config(arguments.recipe, arguments, ExperimentConfig, unread=unread)
    frames = open_artefact(arguments.frames)
    cluster.connect(num_cpus=arguments.num_workers)
    cluster.check_shared_root(frames.root)
    num_workers = options.choose_workers(arguments.num_workers, arguments.gpus_per_worker)
    weights = adopt_weights(arguments.weights, frames.root, frames.dataset)
    detections = infer(
        frames,
        weights,
        config.infer,
        boxes="truth" if arguments.truth_boxes else "detector",
        num_workers=num_workers,
        num_gpus=arguments.gpus_per_worker,
    )
    print(f"detections {detections.folder}")
    if arguments.associate:
        tracks = associate(detections, config.association, num_workers=num_workers)
        print(f"tracks     {tracks.folder}")
    return command.DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__,
        example="python -m jobs.infer --frames ~/quasar/frames/bdd100k/val/0123456789abcdef "
        "--weights model.safetensors --associate",
    )
    parser.add_argument("--frames", metavar="DIR", required=True, help="artefact of jobs.ingest")
    parser.add_argument("--weights", metavar="FILE", type=Path, required=True)
    parser.add_argument(
        "--truth-boxes",
        action="store_true",
        help="embed the ground-truth boxes in place of detecting (the bound on a leaderboard)",
    )
    parser.add_argument(
        "--associate", action="store_true", help="join the detections into tracks as well"
    )
    options.add_config_options(parser, default_recipe="qdtrack_frcnn_r50_bdd100k")
    options.add_run_options(parser, output_root=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
