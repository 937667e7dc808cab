#!/usr/bin/env python
"""Convert a published checkpoint, once, into weights that carry their own config."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command


def main(argv: Sequence[str] | None = None) -> int:
    """Read the foreign file without running anything in it, convert, and write."""
    arguments = _parse(argv)
    from models.registry import build_model
    from models.weights import convert_state_dict, read_foreign_checkpoint, save_weights

    if arguments.output.exists() and not arguments.force:
        raise ValueError(f"{arguments.output} exists; name another file or give --force")
    state = convert_state_dict(read_foreign_checkpoint(arguments.checkpoint), arguments.layout)
    config = {"classes": tuple(arguments.classes)} if arguments.classes else {}
    model = build_model("qdtrack_frcnn", layout=arguments.layout, **config)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:  # a shape: --classes of another number, another backbone
        raise ValueError(f"{arguments.checkpoint} does not fit the model: {error}") from error
    save_weights(arguments.output, model, origin=arguments.layout)
    print(f"{arguments.output}: {len(state)} tensors, classes {', '.join(model.config.classes)}")
    return command.DONE


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__,
        example="python -m jobs.import_weights --layout mmdet qdtrack.pth qdtrack.safetensors",
    )
    parser.add_argument("checkpoint", metavar="FILE", type=Path, help="the published checkpoint")
    parser.add_argument("output", metavar="OUT.safetensors", type=Path, help="weights to write")
    parser.add_argument("--layout", choices=("mmdet", "vis4d"), required=True)
    parser.add_argument(
        "--classes",
        metavar="NAME",
        nargs="+",
        help="class order of the checkpoint, where it is not BDD100K's current one: what a "
        "checkpoint calls its classes need not be the order it was trained in",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(command.run(main))
