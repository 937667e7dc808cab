"""What a diagnosis says: errors by cause, class and sequence, their cost, and what bounds a result.

Numbers of boxes are those of masks where the benchmark compares masks.

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
from pipeline.leaderboard import Number, format_number, headline_numbers
from pipeline.metrics.protocol import Row, ScoringProtocol
from pipeline.repairs import REPAIRS
from pipeline.wording import in_words

_REPAIRED_METRICS: Final = ("sMOTSA", "IDF1", "HOTA")
_BOUND_METRICS: Final = (
    *("mMOTA", "mMOTSA", "mIDF1", "mHOTA", "HOTA", "DetA", "AssA"),
    *("sMOTSA", "MOTSA", "MOTA", "IDF1"),
)

_PLURAL: Final = (
    *("missed {boxes}", "badly placed {boxes}", "mis-classed {boxes}", "duplicate {boxes}"),
    *("{boxes} on the background", "identity switches", "fragments"),
)
_IN_ACCURACY: Final = [COUNTS.index(name) for name in ("FN", "FP", "IDSw")]


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
    classes: tuple[str, ...]
    """Those that are looked at; see `choose_classes`."""
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
    def is_pooled(self) -> bool:
        """Whether the benchmark has a row of all classes."""
        return has_pool(self.protocol)

    @property
    def summary_rows(self) -> tuple[Row, ...]:
        """Rows that stand for the result: all classes pooled, or each that is looked at."""
        if self.is_pooled:
            return (self.protocol.rows[-1],)
        return tuple(row for row in self.protocol.rows if row.name in self.classes)

    @property
    def accuracy_rows(self) -> dict[str, Row]:
        """Rows whose MOTA or MOTSA is looked at, by the name of the metric; also the mean."""
        accuracy = self.protocol.accuracy
        averages = [(f"m{accuracy}", row) for row in self.protocol.rows if row.is_average]
        return {self.label(row, accuracy): row for row in self.summary_rows} | dict(averages)

    @property
    def repaired_metrics(self) -> dict[str, tuple[Row, str]]:
        """What is scored again without a cause: row and metric by name; MOTA needs no scoring."""
        names = [name for name in _REPAIRED_METRICS if name in self.protocol.metric_names]
        return {self.label(row, name): (row, name) for name in names for row in self.summary_rows}

    @property
    def bound_metrics(self) -> list[str]:
        """Headline numbers by which bounds are compared."""
        known = self.result.metrics or {}
        return [
            name for metric in _BOUND_METRICS for name in known if name.rpartition("/")[2] == metric
        ]

    @property
    def left_out(self) -> dict[str, int]:
        """True boxes of the classes that are not looked at."""
        numbers = zip(self.protocol.classes, self.num_truth.tolist(), strict=True)
        return {name: number for name, number in numbers if name not in self.classes}

    @property
    def counts(self) -> Int64:
        """(7, C, 4) over all sequences."""
        counts: Int64 = np.sum([found.counts for found in self.sequences.values()], axis=0)
        return counts

    @property
    def totals(self) -> Int64:
        """(7, 4) over all sequences and the classes that are looked at."""
        totals: Int64 = self.counts[:, self.members(self.classes)].sum(axis=1)
        return totals

    @property
    def order(self) -> list[int]:
        """Indices of the causes, the dearest first."""
        cost = sum(self.points(row) for row in self.summary_rows)
        order: list[int] = np.argsort(-cost, kind="stable").tolist()
        return order

    @property
    def num_truth(self) -> Int64:
        """(C,) over all sequences."""
        num_truth: Int64 = np.sum([found.num_truth for found in self.sequences.values()], axis=0)
        return num_truth

    def label(self, row: Row, metric: str) -> str:
        """The metric of a summary row, by its name alone where there is only one such row."""
        return metric if len(self.summary_rows) == 1 else f"{row.name}/{metric}"

    def members(self, classes: Sequence[str]) -> list[int]:
        """Indices of some classes."""
        return [self.protocol.classes.index(name) for name in classes]

    def points(self, row: Row, sequence: str | None = None) -> Float64:
        """(7,) MOTA or MOTSA points of a row, over all sequences or of one, that a cause costs."""
        found = self if sequence is None else self.sequences[sequence]
        members = self.members(row.classes)
        return accuracy_points(found.counts, found.num_truth, members, is_average=row.is_average)

    def regained(self, cause: Cause, name: str) -> float | None:
        """Points of one of `repaired_metrics` that are back without a cause.

        None where that is not defined: no repair, or a score without a finite value.
        """
        if cause not in self.repaired:
            return None
        row, metric = self.repaired_metrics[name]
        without, present = self.repaired[cause].metrics[row.name], self.report.metrics[row.name]
        points = float(without[metric]) - float(present[metric])
        return points if math.isfinite(points) else None

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
        index, how = CAUSES.index(cause), REPAIRS.get(cause)
        totals = self.totals[index].tolist()
        return {
            "cause": cause,
            "meaning": in_words(MEANING[cause], self.protocol),
            **dict(zip(self.protocol.error_counts, totals, strict=True)),
            "points": {name: self.points(row)[index] for name, row in self.accuracy_rows.items()},
            "repair": None if how is None else in_words(how, self.protocol),
            "regained": {name: self.regained(cause, name) for name in self.repaired_metrics},
        }

    def _count_records(self, counts: Int64, num_truth: Int64) -> dict[str, Any]:
        kinds, true_boxes = self.protocol.error_counts, in_words("true {boxes}", self.protocol)
        return {
            name: {
                true_boxes: int(num_truth[index]),
                **{
                    cause: dict(zip(kinds, counts[position, index].tolist(), strict=True))
                    for position, cause in enumerate(CAUSES)
                },
            }
            for name, index in zip(self.classes, self.members(self.classes), strict=True)
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


def has_pool(protocol: ScoringProtocol) -> bool:
    """Whether a benchmark has a row of all its classes."""
    return protocol.rows[-1].classes == protocol.classes


def choose_classes(protocol: ScoringProtocol, num_boxes: Int64) -> tuple[str, ...]:
    """Classes that a diagnosis looks at.

    All, where the benchmark puts them together. Where it never does, each has a tracker of its own,
    and only those that were tracked are asked about.

    Args:
        protocol: the rules.
        num_boxes: (C,) boxes of the result; with none at all nobody knows what was tracked.
    """
    if has_pool(protocol) or not num_boxes.any():
        return protocol.classes
    numbers = zip(protocol.classes, num_boxes.tolist(), strict=True)
    return tuple(name for name, number in numbers if number)


def headline_of(
    protocol: ScoringProtocol, classes: Sequence[str], report: EvaluationReport
) -> dict[str, Number]:
    """Headline numbers of a report, of the classes that are looked at."""
    if has_pool(protocol):
        return headline_numbers(report.metrics)
    return headline_numbers({name: report.metrics[name] for name in classes})


def accuracy_points(
    counts: Int64, num_truth: Int64, members: Sequence[int], *, is_average: bool
) -> Float64:
    """What each cause takes from MOTA, exactly: MOTA (or MOTSA, of masks) is a sum over errors.

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
    >>> num_truth = np.array([10, 5])
    >>> accuracy_points(counts, num_truth, [0, 1], is_average=False)[[0, 5]].round(2).tolist()
    [20.0, 6.67]
    >>> accuracy_points(counts, num_truth, [0, 1], is_average=True)[[0, 5]].tolist()
    [15.0, 10.0]
    """
    costs = counts[:, members][:, :, _IN_ACCURACY].sum(axis=2)
    boxes = num_truth[members]
    if is_average:
        shares = np.divide(costs, boxes, out=np.zeros(costs.shape), where=boxes > 0)
    else:
        total = max(1, int(boxes.sum()))
        shares = costs.sum(axis=1, keepdims=True) / total * bool(boxes.any())
    points: Float64 = 100.0 * shares.mean(axis=1)
    return points


def summarise(diagnosis: Diagnosis) -> str:
    """Where most was lost, and what holds the result back, in two or three sentences a row."""
    sentences = [_describe_loss(diagnosis, row) for row in diagnosis.summary_rows]
    if diagnosis.left_out:
        boxes = in_words("true {boxes}", diagnosis.protocol)
        left_out = (f"{name} ({number} {boxes})" for name, number in diagnosis.left_out.items())
        tracked = " and ".join(diagnosis.classes)
        sentences.append(f"Only {tracked} was tracked: {', '.join(left_out)} is left out here.")
    return sentences[0] if len(sentences) == 1 else " ".join(map(str.strip, sentences))


def format_text(diagnosis: Diagnosis) -> str:
    """Summary, bounds (and why one is not known) and causes as aligned text."""
    unknown = [f"{b.name}: {b.tells}" for b in diagnosis.bounds if b.metrics is None]
    bounds, causes = _aligned(bound_table(diagnosis)), _aligned(cause_table(diagnosis))
    return "\n".join([summarise(diagnosis), "", *bounds, *unknown, "", *causes, ""])


def bound_table(diagnosis: Diagnosis) -> list[list[str]]:
    """Lines of cells, the heading first: the result and its bounds by metric."""
    names = diagnosis.bound_metrics
    lines = [["", *names]]
    for bound in diagnosis.bounds:
        numbers = bound.metrics or {}
        lines.append([bound.name, *(format_number(name, numbers.get(name)) for name in names)])
    return lines


def cause_table(diagnosis: Diagnosis) -> list[list[str]]:
    """Lines of cells, the heading first: what each cause counts and costs, the dearest first."""
    costs = {name: diagnosis.points(row) for name, row in diagnosis.accuracy_rows.items()}
    totals, scored = diagnosis.totals, diagnosis.repaired_metrics
    heading = ["cause", *diagnosis.protocol.error_counts, *(f"-{name}" for name in costs)]
    lines = [[*heading, *(f"+{name}" for name in scored)]]
    for index in diagnosis.order:
        cause = CAUSES[index]
        regained = (diagnosis.regained(cause, name) for name in scored)
        lines.append(
            [
                cause,
                *(str(count) if count else "" for count in totals[index].tolist()),
                *(f"{points[index]:.2f}" for points in costs.values()),
                *("–" if value is None else f"{value:.2f}" for value in regained),
            ]
        )
    return lines


def _describe_loss(diagnosis: Diagnosis, row: Row) -> str:
    """What a row lost; a benchmark that never puts classes together has one of each."""
    accuracy, is_pooled = diagnosis.protocol.accuracy, diagnosis.is_pooled
    subject = accuracy if is_pooled else f"{accuracy} of {row.name}"
    points = diagnosis.points(row)
    lost = float(points.sum())
    members = diagnosis.members(row.classes)
    if not diagnosis.num_truth[members].any():
        return in_words(
            f"{subject} has no value: there is no true {{box}} of it.", diagnosis.protocol
        )
    if lost == 0:
        return f"Nothing was lost: {subject} is 100."
    worst = int(points.argmax())
    costs = diagnosis.counts[worst][members][:, _IN_ACCURACY].sum(axis=1)
    by_sequence = {
        name: int(found.counts[worst][members][:, _IN_ACCURACY].sum())
        for name, found in diagnosis.sequences.items()
    }
    name = max(by_sequence, key=lambda key: by_sequence[key])
    of_class = (
        f"{_share(costs.max(), costs.sum())} of these are of class "
        f"{row.classes[int(costs.argmax())]}, "
    )
    return (
        f"{subject} loses {lost:.1f} points, most of them ({points[worst]:.1f}) to "
        f"{in_words(_PLURAL[worst], diagnosis.protocol)}: {of_class if is_pooled else ''}"
        f"{_share(by_sequence[name], costs.sum())}{'' if is_pooled else ' of these'} in sequence "
        f"{name}. {_verdict(diagnosis, row)}"
    )


def _verdict(diagnosis: Diagnosis, row: Row) -> str:
    """Whether detection or association holds the result back, by the HOTA of a row."""
    present, on_truth = diagnosis.result.metrics, diagnosis.true_boxes.metrics
    hota = diagnosis.label(row, "HOTA")
    identities = diagnosis.regained("switched", hota)
    if present is None or on_truth is None or identities is None:
        return ""
    boxes = float(on_truth[hota] or 0.0) - float(present[hota] or 0.0)
    which = "association" if identities > boxes else "detection"
    return in_words(
        f"True identities on its own {{boxes}} would change HOTA by {identities:+.1f}, true "
        f"{{boxes}} under the same tracker by {boxes:+.1f}: {which} holds it back more.",
        diagnosis.protocol,
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
