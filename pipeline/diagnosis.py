"""What a diagnosis says: errors by cause, class and sequence, their cost, and what bounds a result.

Legend: C classes; counts are (7, C, 4) as `count_errors` has them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from datasets.schema import Float64, Int64
from pipeline.errors import CAUSES, COUNTS, MEANING, Cause, Error, worst_errors
from pipeline.evaluate import EvaluationReport
from pipeline.leaderboard import Number, format_number
from pipeline.metrics.protocol import Row, ScoringProtocol
from pipeline.repairs import REPAIRS

REPAIRED_METRICS: Final = ("IDF1", "HOTA")
"""Metrics that are scored again without a cause; MOTA is known by counting."""
BOUND_METRICS: Final = ("mMOTA", "mIDF1", "mHOTA", "HOTA", "DetA", "AssA", "MOTA", "IDF1")

_PLURAL: Final = (
    *("missed boxes", "badly placed boxes", "mis-classed boxes", "duplicate boxes"),
    *("boxes on the background", "identity switches", "fragments"),
)
_IN_MOTA: Final = [COUNTS.index(name) for name in ("FN", "FP", "IDSw")]


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceFindings:
    """What is wrong in one sequence, with the names that a reader knows it by."""

    errors: tuple[Error, ...]
    """Those of most boxes first."""
    counts: Int64
    """(7, C, 4) what the score counts, by cause, class and kind."""
    num_truth: Int64
    """(C,) true boxes that are scored."""
    frame_names: tuple[str, ...]
    identity_names: Mapping[int, str]
    """Identities that errors name, as the benchmark's file has them."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A result that could be had; the first one of a diagnosis is the one that is."""

    name: str
    tells: str
    """What is different; or why the bound cannot be had."""
    metrics: Mapping[str, Number] | None
    """Headline numbers, None where it cannot be had."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """Everything that a page, a table or a JSON file says of one result."""

    title: str
    """Data set and split."""
    inputs: Mapping[str, str]
    """What was diagnosed: folders of the artefacts and settings of the tracker, by label."""
    protocol: ScoringProtocol
    report: EvaluationReport
    """The scores as they are."""
    sequences: Mapping[str, SequenceFindings]
    """By name, sorted."""
    repaired: Mapping[Cause, EvaluationReport]
    """Scores without one cause, where a repair is defined; by the scorer."""
    result: Bound
    perfect_association: Bound
    """The detections from the best single threshold on, with true identities."""
    right_boxes: Bound
    """Only those that match a true box, with true identities."""
    true_boxes: Bound
    """The same tracker on true boxes."""

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The result, then what could be had."""
        return (self.result, self.perfect_association, self.right_boxes, self.true_boxes)

    @property
    def summary_row(self) -> Row:
        """The row of all classes, pooled."""
        return self.protocol.rows[-1]

    @property
    def mota_rows(self) -> dict[str, Row]:
        """Rows whose MOTA is looked at, by the name of the metric: all classes, and their mean."""
        averages = [("mMOTA", row) for row in self.protocol.rows if row.is_average]
        return {"MOTA": self.summary_row, **dict(averages)}

    @property
    def counts(self) -> Int64:
        """(7, C, 4) over all sequences."""
        counts: Int64 = np.sum([found.counts for found in self.sequences.values()], axis=0)
        return counts

    @property
    def num_truth(self) -> Int64:
        """(C,) over all sequences."""
        num_truth: Int64 = np.sum([found.num_truth for found in self.sequences.values()], axis=0)
        return num_truth

    def points(self, row: Row, sequence: str | None = None) -> Float64:
        """(7,) MOTA points of a row, over all sequences or of one, that each cause costs."""
        found = self if sequence is None else self.sequences[sequence]
        members = [self.protocol.classes.index(name) for name in row.classes]
        return mota_points(found.counts, found.num_truth, members, is_average=row.is_average)

    def regained(self, cause: Cause, metric: str) -> float | None:
        """Points of the summary row's metric that are back without a cause; None if not defined."""
        if cause not in self.repaired:
            return None
        row = self.summary_row.name
        return float(self.repaired[cause].metrics[row][metric] - self.report.metrics[row][metric])

    def worst(self, cause: Cause) -> list[tuple[str, Error]]:
        """All errors of a cause with the names of their sequences, those of most boxes first."""
        return worst_errors({n: found.errors for n, found in self.sequences.items()}, cause)

    def to_json(self) -> str:
        """Everything as text, numbers without a finite value as null."""
        content = {
            "title": self.title,
            "inputs": self.inputs,
            "evaluator": self.report.evaluator,
            "summary": summarise(self),
            "bounds": [vars(bound) for bound in self.bounds],
            "causes": [self._cause_record(cause) for cause in CAUSES],
            "classes": self._count_records(self.counts, self.num_truth),
            "sequences": {
                name: self._count_records(found.counts, found.num_truth)
                for name, found in self.sequences.items()
            },
            "errors": [record for cause in CAUSES for record in self._error_records(cause)],
        }
        return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"

    def _cause_record(self, cause: Cause) -> dict[str, Any]:
        index = CAUSES.index(cause)
        totals = self.counts[index].sum(axis=0).tolist()
        return {
            "cause": cause,
            "meaning": MEANING[cause],
            **dict(zip(COUNTS, totals, strict=True)),
            "points": {name: self.points(row)[index] for name, row in self.mota_rows.items()},
            "repair": REPAIRS.get(cause),
            "regained": {metric: self.regained(cause, metric) for metric in REPAIRED_METRICS},
        }

    def _count_records(self, counts: Int64, num_truth: Int64) -> dict[str, Any]:
        return {
            name: {
                "true boxes": int(num_truth[index]),
                **{
                    cause: dict(zip(COUNTS, counts[position, index].tolist(), strict=True))
                    for position, cause in enumerate(CAUSES)
                },
            }
            for index, name in enumerate(self.protocol.classes)
        }

    def _error_records(self, cause: Cause) -> Iterator[dict[str, Any]]:
        classes = self.protocol.classes
        for name, error in self.worst(cause):
            found = self.sequences[name]
            record = {"sequence": name, **vars(error)}
            record["first_frame_name"] = found.frame_names[error.first_frame]
            record["last_frame_name"] = found.frame_names[error.last_frame]
            if error.identity is not None:
                record["identity_name"] = found.identity_names[error.identity]
            for side in ("truth_class", "track_class"):
                record[side] = None if record[side] is None else classes[record[side]]
            yield record


def mota_points(
    counts: Int64, num_truth: Int64, members: Sequence[int], *, is_average: bool
) -> Float64:
    """What each cause takes from MOTA, exactly: MOTA is a sum over errors.

    Args:
        counts: (7, C, 4) by cause, class and kind.
        num_truth: (C,) true boxes.
        members: classes of the row.
        is_average: mean over the classes, those without true boxes as 0, instead of pooling them.

    Returns:
        (7,) percent points; all together what is missing to 100, but for classes without true boxes
        in an average: those are 0 whatever is done. A row without true boxes has none to lose.

    >>> counts = np.zeros((7, 2, 4), int)
    >>> counts[0, 0, 0], counts[5, 1, 2] = 3, 1  # three missed of class 0, one switch of class 1
    >>> mota_points(counts, np.array([10, 5]), [0, 1], is_average=False)[[0, 5]].round(2).tolist()
    [20.0, 6.67]
    >>> mota_points(counts, np.array([10, 5]), [0, 1], is_average=True)[[0, 5]].tolist()
    [15.0, 10.0]
    """
    costs = counts[:, members][:, :, _IN_MOTA].sum(axis=2)
    boxes = num_truth[members]
    if is_average:
        shares = np.divide(costs, boxes, out=np.zeros(costs.shape), where=boxes > 0)
    else:
        total = max(1, int(boxes.sum()))
        shares = costs.sum(axis=1, keepdims=True) / total * bool(boxes.any())
    points: Float64 = 100.0 * shares.mean(axis=1)
    return points


def summarise(diagnosis: Diagnosis) -> str:
    """Where most was lost, and what holds the result back, in two or three sentences."""
    points = diagnosis.points(diagnosis.summary_row)
    lost = float(points.sum())
    if lost == 0:
        return "Nothing was lost: MOTA is 100."
    worst = int(points.argmax())
    costs = diagnosis.counts[worst][:, _IN_MOTA].sum(axis=1)
    by_sequence = {
        name: int(found.counts[worst][:, _IN_MOTA].sum())
        for name, found in diagnosis.sequences.items()
    }
    name = max(by_sequence, key=lambda key: by_sequence[key])
    return (
        f"MOTA loses {lost:.1f} points, most of them ({points[worst]:.1f}) to {_PLURAL[worst]}: "
        f"{_share(costs.max(), costs.sum())} of these are of class "
        f"{diagnosis.protocol.classes[int(costs.argmax())]}, "
        f"{_share(by_sequence[name], costs.sum())} in sequence {name}. {_verdict(diagnosis)}"
    )


def format_text(diagnosis: Diagnosis) -> str:
    """Summary, bounds (and why one is not known) and causes as aligned text."""
    unknown = [f"{b.name}: {b.tells}" for b in diagnosis.bounds if b.metrics is None]
    bounds, causes = _aligned(bound_table(diagnosis)), _aligned(cause_table(diagnosis))
    return "\n".join([summarise(diagnosis), "", *bounds, *unknown, "", *causes, ""])


def bound_table(diagnosis: Diagnosis) -> list[list[str]]:
    """Lines of cells, the heading first: the result and its bounds by metric."""
    known = diagnosis.result.metrics or {}
    names = [name for name in BOUND_METRICS if name in known]
    lines = [["", *names]]
    for bound in diagnosis.bounds:
        numbers = bound.metrics or {}
        lines.append([bound.name, *(format_number(name, numbers.get(name)) for name in names)])
    return lines


def cause_table(diagnosis: Diagnosis) -> list[list[str]]:
    """Lines of cells, the heading first: what each cause counts and costs, the dearest first."""
    rows = diagnosis.mota_rows
    costs = {name: diagnosis.points(row) for name, row in rows.items()}
    totals = diagnosis.counts.sum(axis=1)
    heading = ["cause", *COUNTS, *(f"-{name}" for name in costs)]
    lines = [[*heading, *(f"+{name}" for name in REPAIRED_METRICS)]]
    for index in np.argsort(-costs["MOTA"], kind="stable").tolist():
        cause = CAUSES[index]
        regained = (diagnosis.regained(cause, metric) for metric in REPAIRED_METRICS)
        lines.append(
            [
                cause,
                *(str(count) if count else "" for count in totals[index].tolist()),
                *(f"{points[index]:.2f}" for points in costs.values()),
                *("–" if value is None else f"{value:.2f}" for value in regained),
            ]
        )
    return lines


def _verdict(diagnosis: Diagnosis) -> str:
    """Whether detection or association holds the result back, by the HOTA of all classes."""
    present, on_truth = diagnosis.result.metrics, diagnosis.true_boxes.metrics
    identities = diagnosis.regained("switched", "HOTA")
    if present is None or on_truth is None or identities is None:
        return ""
    boxes = float(on_truth["HOTA"] or 0.0) - float(present["HOTA"] or 0.0)
    which = "association" if identities > boxes else "detection"
    return (
        f"True identities on its own boxes would change HOTA by {identities:+.1f}, true boxes "
        f"under the same tracker by {boxes:+.1f}: {which} holds it back more."
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    ]


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
