#!/usr/bin/env python
"""Convert a published checkpoint, once, into weights that carry their own config."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command

if TYPE_CHECKING:
    from models.weights import Origin


def main(argv: Sequence[str] | None = None) -> int:
    """Read the foreign file without running anything in it, convert, and write."""
    arguments = _parse(argv)
    from models.registry import build_model, model_of_layout
    from models.weights import convert_state_dict, read_foreign_checkpoint, save_weights

    if arguments.output.exists() and not arguments.force:
        raise ValueError(f"{arguments.output} exists; name another file or give --force")
    state = convert_state_dict(read_foreign_checkpoint(arguments.checkpoint), arguments.layout)
    config, origin = _describe(arguments)
    model = build_model(model_of_layout(arguments.layout), layout=arguments.layout, **config)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:  # a shape: --classes of another number, another backbone
        raise ValueError(f"{arguments.checkpoint} does not fit the model: {error}") from error
    save_weights(arguments.output, model, origin=origin)
    written: Any = model.config
    classes = getattr(written, "classes", None) or (written.class_name,)
    print(f"{arguments.output}: {len(state)} tensors, classes {', '.join(classes)}")
    return command.DONE


def _describe(arguments: argparse.Namespace) -> "tuple[dict[str, Any], Origin]":
    """What the checkpoint itself does not say: its classes, and who trained it."""
    if arguments.layout not in ("spatial_embedding", "pointtrack"):
        if arguments.class_name is not None:
            raise ValueError(
                f"--class-name is for networks of one class; --layout {arguments.layout} takes "
                "--classes"
            )
        return {"classes": tuple(arguments.classes)} if arguments.classes else {}, arguments.layout
    if arguments.class_name is None or arguments.classes:
        raise ValueError(
            f"--layout {arguments.layout} is of a network of one class, which the checkpoint does "
            "not name: give --class-name car or --class-name pedestrian, and no --classes"
        )
    from models.pointtrack.config import SpatialEmbeddingConfig

    config: dict[str, Any] = {"class_name": arguments.class_name}
    if arguments.layout == "spatial_embedding" and arguments.class_name == "pedestrian":
        config["min_pixels"] = SpatialEmbeddingConfig.pedestrian().min_pixels
    return config, "pointtrack"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__,
        example="python -m jobs.import_weights --layout mmdet qdtrack.pth qdtrack.safetensors",
    )
    parser.add_argument("checkpoint", metavar="FILE", type=Path, help="the published checkpoint")
    parser.add_argument("output", metavar="OUT.safetensors", type=Path, help="weights to write")
    layouts = ("mmdet", "vis4d", "spatial_embedding", "pointtrack")
    parser.add_argument("--layout", choices=layouts, required=True)
    parser.add_argument(
        "--classes",
        metavar="NAME",
        nargs="+",
        help="class order of the checkpoint, where it is not BDD100K's current one: what a "
        "checkpoint calls its classes need not be the order it was trained in",
    )
    parser.add_argument(
        "--class-name",
        metavar="NAME",
        help="class of a checkpoint of PointTrack, whose networks find one class each",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
