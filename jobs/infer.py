#!/usr/bin/env python
"""Run a network over stored frames and keep its detections, boxes or masks, with embeddings."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

if TYPE_CHECKING:
    from pipeline.associate import AssociationConfig
    from pipeline.store import Artefact

_BOX_RECIPE: Final = "qdtrack_frcnn_r50_bdd100k"
_UNREAD: Final = {
    **dict.fromkeys(
        ("model.", "segmentation.model.", "embedding.model."),
        "a model's settings are in its weights",
    ),
    **dict.fromkeys(
        ("train.", "segmentation.crops.", "segmentation.on_", "embedding.train."),
        "nothing is trained",
    ),
    "data.": "the frames are stored already",
    "evaluation.": "nothing is scored",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Infer, and associate too where it was asked for; say where the artefacts lie."""
    arguments = _parse(argv)
    class_name = _class_of_masks(arguments.weights)
    if class_name is not None:
        detections, association = _find_masks(arguments, class_name)
    else:
        detections, association = _find_boxes(arguments)
    print(f"detections {detections.folder}")
    if arguments.associate:
        from pipeline.associate import associate

        num_workers = options.choose_workers(arguments.num_workers)
        tracks = associate(detections, association, num_workers=num_workers)
        print(f"tracks     {tracks.folder}")
    return command.DONE


def _class_of_masks(weights: Path) -> str | None:
    """What a segmentation finds; None for weights of a detector of boxes."""
    from models.pointtrack.config import SpatialEmbeddingConfig
    from models.weights import read_metadata

    try:
        config = read_metadata(weights).config
    except FileNotFoundError:  # said later, once the other arguments are known to be right
        return None
    return config.class_name if isinstance(config, SpatialEmbeddingConfig) else None


def _find_boxes(arguments: argparse.Namespace) -> "tuple[Artefact, AssociationConfig]":
    from pipeline.config import ExperimentConfig
    from pipeline.infer import infer
    from pipeline.model_store import adopt_weights

    if arguments.embedding_weights is not None:
        raise ValueError(
            "--embedding-weights goes with the weights of a segmentation; those of --weights find "
            "boxes and embed them, too"
        )
    config = options.build_config(
        arguments.recipe or _BOX_RECIPE, arguments, ExperimentConfig, unread=_unread(arguments)
    )
    frames, num_workers = _prepare(arguments)
    weights = adopt_weights(arguments.weights, frames.root, frames.dataset)
    detections = infer(
        frames,
        weights,
        config.infer,
        boxes="truth" if arguments.truth_boxes else "detector",
        num_workers=num_workers,
        num_gpus=arguments.gpus_per_worker,
    )
    return detections, config.association


def _find_masks(
    arguments: argparse.Namespace, class_name: str
) -> "tuple[Artefact, AssociationConfig]":
    from models.pointtrack.association import PointTrackerConfig
    from pipeline.config import MotsConfig
    from pipeline.model_store import adopt_weights
    from pipeline.segment import embed_masks, segment, take_truth

    recipe = arguments.recipe or f"pointtrack_kitti_mots_{class_name}"
    config = options.build_config(recipe, arguments, MotsConfig, unread=_unread(arguments))
    is_embedded = arguments.embedding_weights is not None
    if arguments.associate and isinstance(config.association, PointTrackerConfig) > is_embedded:
        raise ValueError(
            "--associate with the tracker of points needs --embedding-weights FILE; to join masks "
            "by their overlap alone, add --set association.kind=mask_overlap"
        )
    frames, num_workers = _prepare(arguments)
    gpus = arguments.gpus_per_worker
    if arguments.truth_boxes:
        detections = take_truth(frames, class_name, num_workers=num_workers)
    else:
        weights = adopt_weights(arguments.weights, frames.root, frames.dataset)
        detections = segment(
            frames, weights, config.segmentation.infer, num_workers=num_workers, num_gpus=gpus
        )
    if is_embedded:
        weights = adopt_weights(arguments.embedding_weights, frames.root, frames.dataset)
        points = config.embedding.points
        detections = embed_masks(
            frames, detections, weights, points, num_workers=num_workers, num_gpus=gpus
        )
    return detections, config.association


def _prepare(arguments: argparse.Namespace) -> "tuple[Artefact, int]":
    """The frames, and the number of workers, once Ray is there."""
    from pipeline import cluster
    from pipeline.store import open_artefact

    frames = open_artefact(arguments.frames)
    cluster.connect(num_cpus=arguments.num_workers)
    cluster.check_shared_root(frames.root)
    return frames, options.choose_workers(arguments.num_workers, arguments.gpus_per_worker)


def _unread(arguments: argparse.Namespace) -> dict[str, str]:
    return _UNREAD if arguments.associate else {**_UNREAD, "association.": "add --associate"}


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
        help="take the ground truth in place of detecting (the bound on a leaderboard)",
    )
    parser.add_argument(
        "--embedding-weights",
        metavar="FILE",
        type=Path,
        help="weights of PointTrack's association network, for masks",
    )
    parser.add_argument(
        "--associate", action="store_true", help="join the detections into tracks as well"
    )
    options.add_config_options(parser, default_recipe=None)
    options.add_run_options(parser, output_root=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
