"""Scores of anybody's tracks: one path from records to the report, whoever asks.

A sequence is scored by a pure function; the scores of all sequences are reduced once, in sorted
order. So the report is the same to the last bit for any number of workers.
"""

import json
import logging
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import numpy as np

from datasets.registry import BENCHMARKS
from datasets.schema import SequenceResult, SequenceTruth, Tracks
from pipeline.metrics.bdd100k import Bdd100kProtocol, BoxConvention
from pipeline.metrics.bdd100k_mots import Bdd100kMotsProtocol
from pipeline.metrics.motchallenge import MotChallengeProtocol
from pipeline.metrics.mots import MotsProtocol
from pipeline.metrics.protocol import Fields, Numbers, ScoringProtocol
from pipeline.parallel import map_sequences

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOT: Final = ("mot15", "mot17", "mot20")
_MOTS: Final = ("kitti_mots", "apollo_mots", "mots_challenge")
PROTOCOLS: Final = ("bdd100k", "bdd100k_mots", *_MOT, *_MOTS)
"""Benchmarks of tracking; what else has a reader cannot be scored."""

_PROJECT_FILE = Path(__file__).resolve().parents[1] / "pyproject.toml"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Which rules a result is scored by."""

    protocol: str = "bdd100k"
    """Benchmark whose rules hold, such as bdd100k or kitti_mots; they fix the IoU threshold."""
    box_convention: BoxConvention = "inclusive"
    """Boxes that HOTA sees on BDD100K: "inclusive", or "stock" as trackeval's own loader."""

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(
                f"evaluation.protocol is {self.protocol!r}, expected one of {sorted(PROTOCOLS)}"
            )
        if self.box_convention not in get_args(BoxConvention):
            raise ValueError(
                f"evaluation.box_convention is {self.box_convention!r}, expected one of "
                f"{get_args(BoxConvention)}"
            )
        if self.box_convention == "stock" and self.protocol != "bdd100k":
            raise ValueError(
                "evaluation.box_convention is 'stock', which only bdd100k knows; leave it out for "
                f"{self.protocol}"
            )


def build_protocol(config: EvaluationConfig) -> ScoringProtocol:
    """The rules that the configuration names."""
    name, bdd100k = config.protocol, BENCHMARKS["bdd100k"]
    if name == "bdd100k":
        return Bdd100kProtocol(bdd100k.classes, bdd100k.super_classes, config.box_convention)
    if name == "bdd100k_mots":
        return Bdd100kMotsProtocol(bdd100k.classes, bdd100k.super_classes)
    if name in _MOTS:
        return MotsProtocol(name, BENCHMARKS[name].classes)
    return MotChallengeProtocol(name)


@dataclass(frozen=True, kw_only=True)
class SequenceScores:
    """Everything the reduction needs of one sequence: a few ten kilobytes, without any box."""

    name: str
    fields: Mapping[str, Mapping[str, Fields]]
    """By class and metric."""
    rows: Mapping[str, Numbers]
    """The sequence's own table."""


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The scores of one result on one set of sequences."""

    metrics: Mapping[str, Numbers]
    """Table over all sequences: row, then metric; the last row is the summary."""
    sequences: Mapping[str, Mapping[str, Numbers]]
    """One table for every sequence, by name."""
    curves: Mapping[str, Mapping[str, tuple[float, ...]]]
    """HOTA, DetA, AssA and LocA of each row over the 19 thresholds 0.05 ... 0.95, in percent."""
    evaluator: Mapping[str, str]
    """Rules, and the versions that applied them."""

    def to_json(self) -> str:
        """The report as text, numbers without a finite value as null; equal reports, equal text."""
        content = {
            "metrics": self.metrics,
            "sequences": self.sequences,
            "evaluator": self.evaluator,
        }
        return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def evaluate(
    protocol: ScoringProtocol,
    truths: Mapping[str, SequenceTruth],
    results: Mapping[str, SequenceResult],
    *,
    num_workers: int = 1,
) -> EvaluationReport:
    """Score results against the truth.

    Args:
        protocol: the rules.
        truths: by name of sequence.
        results: likewise; where the rules allow it, a missing one counts as empty, with a warning.
        num_workers: at most 1 scores in this process, without Ray.

    Raises:
        ValueError: something does not fit or cannot be scored; names sequence and frame.
    """
    items = {name: (truths[name], results[name]) for name in match_names(protocol, truths, results)}
    missing = sorted(truths.keys() - items.keys())
    items |= {n: (truths[n], SequenceResult(name=n, tracks=Tracks.empty())) for n in missing}
    return evaluate_items(protocol, items, load=_as_it_is, num_workers=num_workers)


def evaluate_items(
    protocol: ScoringProtocol,
    items: Mapping[str, T],
    *,
    load: Callable[[T], tuple[SequenceTruth, SequenceResult]],
    num_workers: int,
) -> EvaluationReport:
    """`evaluate` where the worker loads each sequence itself; see `score_items`."""
    return reduce_scores(protocol, score_items(protocol, items, load=load, num_workers=num_workers))


def score_items(
    protocol: ScoringProtocol,
    items: Mapping[str, T],
    *,
    load: Callable[[T], tuple[SequenceTruth, SequenceResult]],
    num_workers: int,
) -> dict[str, SequenceScores]:
    """The scores of every sequence, which the worker loads itself, for example from the store.

    Args:
        protocol: the rules.
        items: what `load` takes, by name of sequence; small, since it travels to the workers.
        load: picklable.
        num_workers: at most 1 scores in this process, without Ray.
    """
    if not items:
        raise ValueError("there is no sequence to score; expected at least one in the truth")
    return map_sequences(
        partial(_load_and_score, protocol, load),
        items,
        num_workers=num_workers,
        label="evaluate",
        per_task=sequences_per_task(len(items), num_workers),
    )


def match_names(
    protocol: ScoringProtocol, truths: Mapping[str, Any], results: Mapping[str, Any]
) -> list[str]:
    """Names that have both truth and result, sorted.

    Raises:
        ValueError: a result without truth; or truth without a result where the rules demand one.
    """
    unknown = sorted(results.keys() - truths.keys())
    if unknown:
        raise ValueError(
            f"results name the sequence {unknown[0]!r}{_and_others(unknown)}, which the truth does "
            f"not have ({len(truths)} sequences, for example {_example(truths)})"
        )
    missing = sorted(truths.keys() - results.keys())
    if missing and not protocol.missing_is_empty:
        raise ValueError(
            f"there is no result for sequence {missing[0]!r}{_and_others(missing)}; an empty file "
            "is a valid result, a missing one is not"
        )
    if missing:
        logger.warning(
            "no result for %d of %d sequences, scored as empty: %s%s",
            *(len(missing), len(truths), missing[0], _and_others(missing)),
        )
    return sorted(results)


def evaluate_sequence(
    protocol: ScoringProtocol, truth: SequenceTruth, result: SequenceResult
) -> SequenceScores:
    """Score one sequence: a pure function, safe to run twice and anywhere.

    Raises:
        ValueError: the result cannot be scored; names sequence and frame.
    """
    fields = protocol.score_sequence(truth, result)
    # Ratios of a single sequence are only right once they went through the combination.
    alone = protocol.combine_sequences({truth.name: fields})
    return SequenceScores(name=truth.name, fields=fields, rows=tabulate(protocol, alone)[0])


def reduce_scores(
    protocol: ScoringProtocol, scores: Mapping[str, SequenceScores]
) -> EvaluationReport:
    """One report from the scores of all sequences, whatever their order in the mapping."""
    combined = protocol.combine_sequences({name: score.fields for name, score in scores.items()})
    metrics, curves = tabulate(protocol, combined)
    return EvaluationReport(
        metrics=metrics,
        sequences={name: scores[name].rows for name in sorted(scores)},
        curves=curves,
        evaluator={
            "protocol": protocol.name,
            "trackeval": metadata.version("trackeval"),
            "quasar": _quasar_version(),
        },
    )


def tabulate(
    protocol: ScoringProtocol, scores: Mapping[str, Mapping[str, Fields]]
) -> tuple[dict[str, Numbers], dict[str, dict[str, tuple[float, ...]]]]:
    """Numbers and curves of every row, from the fields of every class over some sequences."""
    numbers, curves = {}, {}
    for row in protocol.rows:
        fields = protocol.combine_classes(row, scores)
        numbers[row.name] = protocol.numbers(row, fields)
        curves[row.name] = {
            name: tuple((100.0 * np.asarray(fields["HOTA"][name])).tolist())
            for name in ("HOTA", "DetA", "AssA", "LocA")
        }
    return numbers, curves


def sequences_per_task(num_sequences: int, num_workers: int) -> int:
    """How many a worker gets at a time.

    Reading and scoring one takes 10 ms, a hand-over 5 ms; on the other hand, the last tasks must
    not leave a worker idle for long.
    """
    return min(16, max(1, num_sequences // (4 * max(1, num_workers))))


def format_table(rows: Mapping[str, Numbers]) -> str:
    """A score table as aligned text; "-" where a number has no finite value."""
    names = list(next(iter(rows.values())))
    lines = [["", *names]]
    lines += [[row, *(_cell(numbers[name]) for name in names)] for row, numbers in rows.items()]
    return "\n".join(align_columns(lines))


def align_columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text: the first column to the left, numbers to the right.

    >>> align_columns([["", "MOTA"], ["car", "7"]])
    ['     MOTA', 'car     7']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [_aligned(line, widths) for line in lines]


def _quasar_version() -> str:
    try:
        return metadata.version("quasar-mot")
    except metadata.PackageNotFoundError:  # a working directory that Ray shipped, not installed
        project = tomllib.loads(_PROJECT_FILE.read_text())
        return str(project["project"]["version"])


def _load_and_score(
    protocol: ScoringProtocol,
    load: Callable[[T], tuple[SequenceTruth, SequenceResult]],
    item: T,
) -> SequenceScores:
    return evaluate_sequence(protocol, *load(item))


def _as_it_is(
    item: tuple[SequenceTruth, SequenceResult],
) -> tuple[SequenceTruth, SequenceResult]:
    return item


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, float) and not np.isfinite(content):
        return None
    return content


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


def _cell(number: int | float) -> str:
    if isinstance(number, int):
        return str(number)
    return f"{number:.3f}" if np.isfinite(number) else "-"


def _and_others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _example(names: Mapping[str, Any]) -> str:
    return repr(min(names)) if names else "none"
