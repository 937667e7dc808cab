#!/usr/bin/env python
"""Train, run, score and rank PointTrack on KITTI MOTS; without --data-root on synthetic scenes."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

logger = logging.getLogger(__name__)

_CLASSES = ("car", "pedestrian")


def main(argv: Sequence[str] | None = None) -> int:
    """Do every stage that is missing, then print the table and where everything lies."""
    arguments = _parse(argv)
    from pipeline import cluster
    from pipeline.config import MotsConfig
    from pipeline.locations import resolve_root
    from pipeline.mots_experiment import MotsOptions, run_mots_experiment

    is_synthetic = arguments.data_root is None
    default = f"pointtrack_{'synthetic' if is_synthetic else 'kitti_mots'}_{arguments.class_name}"
    unread = {}
    if arguments.segmentation_weights is not None:
        reason = "with --segmentation-weights, they say what the network finds"
        for stage in ("model.", "crops.", "on_crops", "on_frames"):
            unread[f"segmentation.{stage}"] = reason
        if arguments.kins_root is not None:
            logger.warning("--kins-root has no effect here: no segmentation is trained")
    if arguments.stage == "segmentation":
        reason = "with --stage segmentation, nothing is tracked"
        unread |= {"embedding.": reason, "association.": reason}
        if arguments.weights is not None:
            logger.warning("--weights has no effect here: %s", reason)
    elif arguments.weights is not None:
        unread["embedding.model."] = "with --weights, they say what the network is"
        unread["embedding.train."] = "with --weights, nothing is trained"
    config = options.build_config(arguments.recipe or default, arguments, MotsConfig, unread=unread)
    if config.class_name != arguments.class_name:
        raise ValueError(
            f"recipe {config.recipe!r} tracks {config.class_name}, but --class-name is "
            f"{arguments.class_name}; give one that fits the other"
        )
    root = resolve_root(arguments.output_root)
    print(f"recipe {config.recipe}, results under {root}", flush=True)
    data_root = write_synthetic(root) if is_synthetic else arguments.data_root
    cluster.connect(num_cpus=arguments.num_workers)
    outcome = run_mots_experiment(
        config,
        MotsOptions(
            data_root=data_root,
            kins_root=arguments.kins_root,
            stage=arguments.stage,
            output_root=root,
            segmentation_weights=arguments.segmentation_weights,
            weights=arguments.weights,
            tracking_uri=arguments.tracking_uri,
            num_workers=options.choose_workers(arguments.num_workers, arguments.gpus_per_worker),
            gpus_per_worker=arguments.gpus_per_worker,
            strict=arguments.strict,
            notes="synthetic data" if is_synthetic else "",
        ),
        say=lambda line: print(line, flush=True),
    )
    command.print_outcome(outcome, root)
    return command.DONE


def write_synthetic(root: str) -> Path:
    """The built-in data set, written once; raw files are local even where the root is not."""
    from datasets.synthetic_mots import SyntheticMotsConfig, write_synthetic_mots
    from pipeline.locations import local_folder

    data_root = local_folder(root) / "raw" / "synthetic_mots"
    print(
        "NO --data-root: this run uses SYNTHETIC scenes, written in KITTI MOTS' layout to\n"
        f"  {data_root}\n"
        "Its scores say that the pipeline works, nothing about real video.",
        flush=True,
    )
    write_synthetic_mots(data_root, SyntheticMotsConfig())
    return data_root


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__,
        example="python -m jobs.train_kitti_mots --data-root /data/kitti --class-name car",
    )
    options.add_data_options(parser, required=False)
    options.add_config_options(parser, default_recipe=None)
    group = parser.add_argument_group("what to train")
    group.add_argument(
        "--class-name",
        choices=_CLASSES,
        default="car",
        help="each class has networks of its own (default: %(default)s)",
    )
    group.add_argument(
        "--stage",
        choices=("segmentation", "association", "all"),
        default="all",
        help="segmentation stops after the masks; association takes a segmentation that is there",
    )
    group.add_argument(
        "--kins-root",
        metavar="DIR",
        type=Path,
        help="KITTI object images with KINS' labels, which the segmentation learns from, too",
    )
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--segmentation-weights",
        metavar="FILE",
        type=Path,
        help="use these weights instead of training the segmentation",
    )
    weights.add_argument(
        "--weights",
        metavar="FILE",
        type=Path,
        help="use these weights instead of training the association",
    )
    options.add_run_options(parser, tracking=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
