#!/usr/bin/env python
"""Search the settings of a tracker on stored detections; the network does not run again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run by its path: import from the checkout, not from jobs/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs import command, options

if TYPE_CHECKING:
    from pipeline.config import RecipeConfig
    from pipeline.search.options import SweepOptions, SweepPlaces
    from pipeline.store import Artefact
    from pipeline.sweep import SweepOutcome

_SHOWN = (
    *("mMOTA", "mMOTSA", "mIDF1", "mHOTA", "sMOTSA", "MOTSA", "HOTA", "MOTA", "IDF1"),
    *("IDSw", "IDS", "FP", "FN"),
)
_UNREAD = {
    "model.": "the network does not run",
    "train.": "nothing is trained",
    "data.": "the frames are stored already",
    "infer.": "the detections are stored already",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Search, print the best settings beside the recipe's own, and say where everything lies."""
    arguments = _parse(argv)
    from pipeline import cluster
    from pipeline.config import RecipeConfig
    from pipeline.lineage import open_stage
    from pipeline.search.study import public_address
    from pipeline.sweep import run_sweep

    config = options.build_config(arguments.recipe, arguments, RecipeConfig, unread=_UNREAD)
    detections = open_stage(arguments.detections, "detections")
    frames = open_stage(arguments.frames, "frames")
    how = _how(arguments, config)
    cluster.connect(num_cpus=arguments.num_workers)
    places = _where(arguments, detections)
    print(f"study {places.study_name} in {public_address(places.storage)}", flush=True)
    outcome = run_sweep(
        config, frames, detections, how, places, say=lambda line: print(line, flush=True)
    )
    _print_outcome(outcome, how, _write_files(outcome, arguments, places))
    return command.DONE


def _how(arguments: argparse.Namespace, config: "RecipeConfig") -> "SweepOptions":
    from pipeline.leaderboard import ranking_metrics
    from pipeline.search.options import SweepOptions
    from pipeline.search.space import default_space, parse_space

    space = parse_space(arguments.space, config) if arguments.space else default_space(config)
    return SweepOptions(
        space=space,
        objectives=tuple(arguments.metric or ranking_metrics(config.evaluation.protocol)[:1]),
        num_trials=arguments.trials,
        sampler=arguments.sampler,
        seed=arguments.seed,
        may_prune=not arguments.no_pruning,
        batch_size=arguments.batch_size,
        max_failed_share=arguments.max_failed,
        num_best=arguments.best,
    )


def _where(arguments: argparse.Namespace, detections: "Artefact") -> "SweepPlaces":
    from pipeline.search.options import SweepPlaces
    from pipeline.search.study import resolve_storage

    name = f"{detections.dataset}-{detections.split}-{detections.fingerprint}"
    return SweepPlaces(
        storage=resolve_storage(arguments.storage, detections.root),
        study_name=arguments.study or name,
        resume=arguments.resume,
        tracking_uri=arguments.tracking_uri,
        num_workers=options.choose_workers(arguments.num_workers),
        root=detections.root,
    )


def _write_files(
    outcome: "SweepOutcome", arguments: argparse.Namespace, places: "SweepPlaces"
) -> Path:
    from pipeline.locations import encode_name, local_folder

    folder: Path = arguments.out or local_folder(places.root) / "sweeps" / encode_name(
        places.study_name
    )
    for name, content in outcome.files.items():
        command.write_text(folder / name, content.decode())
    return folder


def _print_outcome(outcome: "SweepOutcome", how: "SweepOptions", folder: Path) -> None:
    from pipeline.evaluate import align_columns
    from pipeline.leaderboard import format_number
    from pipeline.search.report import OVERLAY_FILE, PAGE_FILE, TABLE_FILE

    by_class = (name for name in outcome.own.metrics if "/" in name)
    shown = list(dict.fromkeys((*how.objectives, *_SHOWN, *by_class)))
    shown = [name for name in shown if name in outcome.own.metrics]
    lines = [["", *shown]]
    rows = [("recipe", outcome.own), *((f"trial {t.number}", r) for t, r in outcome.best)]
    for label, result in rows:
        lines.append([label, *(format_number(name, result.metrics[name]) for name in shown)])
    print()
    print("\n".join(align_columns(lines)))
    print()
    best, own = outcome.best[0][0], outcome.trials[0]
    for path, value in best.settings.items():
        before = own.settings[path]
        print(f"{path} = {value}" + ("" if value == before else f"   (recipe: {before})"))
    print()
    for label, name in (("settings", OVERLAY_FILE), ("page", PAGE_FILE), ("trials", TABLE_FILE)):
        print(f"{label:14}{folder / name}")
    print(f"{'tracks':14}{outcome.best[0][1].tracks.folder}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.argument_parser(
        __doc__,
        example="python -m jobs.sweep "
        "--detections ~/quasar/detections/bdd100k/val/0123456789abcdef "
        "--frames ~/quasar/frames/bdd100k/val/0123456789abcdef --trials 200 --metric mMOTA",
    )
    parser.add_argument("--detections", metavar="DIR", required=True, help="as jobs print it")
    parser.add_argument("--frames", metavar="DIR", required=True, help="with the truth, likewise")
    search = parser.add_argument_group("how to search")
    search.add_argument(
        "--trials", metavar="N", type=command.positive_int, default=200, help="in all"
    )
    search.add_argument(
        "--metric",
        metavar="NAME",
        action="append",
        help="what to improve, by default what the benchmark ranks by first, such as mMOTA; "
        "several give a Pareto front",
    )
    search.add_argument(
        "--space",
        metavar="PATH=VALUES",
        action="append",
        nargs="+",
        default=[],
        help="low:high, low:high:step, low:high:log or a,b,c; by default all that the tracker "
        "declares",
    )
    search.add_argument(
        "--sampler",
        metavar="NAME",
        default="tpe",
        help="tpe, random, grid, qmc; cmaes, gp, nsga2 and nsga3, which score every trial on all "
        "sequences",
    )
    search.add_argument("--seed", metavar="N", type=int, default=0, help="of sampler and order")
    search.add_argument(
        "--batch-size",
        metavar="N",
        type=command.positive_int,
        default=8,
        help="trials proposed together; the search depends on it, not on the number of workers",
    )
    search.add_argument(
        "--no-pruning", action="store_true", help="score every trial on all sequences"
    )
    search.add_argument(
        "--max-failed", metavar="SHARE", type=float, default=0.2, help="stop when more trials fail"
    )
    search.add_argument(
        "--best",
        metavar="N",
        type=command.positive_int,
        default=3,
        help="trials to score once more by the full evaluation",
    )
    study = parser.add_argument_group("where the trials are kept")
    study.add_argument(
        "--storage",
        metavar="URL",
        help="database of studies, such as sqlite:////absolute/path/sweeps.db; else sweeps.db "
        "under the root of the detections",
    )
    study.add_argument("--study", metavar="NAME", help="else named after the detections")
    study.add_argument("--resume", action="store_true", help="go on with the study that is there")
    study.add_argument("--out", metavar="DIR", type=Path, help="for settings, page and table")
    options.add_config_options(parser, default_recipe="qdtrack_frcnn_r50_bdd100k")
    options.add_run_options(parser, output_root=False, gpus=False, tracking=True)
    arguments = parser.parse_args(argv)
    arguments.space = [text for texts in arguments.space for text in texts]
    return arguments


if __name__ == "__main__":
    sys.exit(command.run(main))
