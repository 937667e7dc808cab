"""What a scoring protocol is: preparation, metrics, and the rows of its table.

A protocol turns the truth and the result of one sequence into one `ClassData` per class and metric;
metrics count sequences and combine them; rows are classes, pools of classes, or their average.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, cast

import numpy as np

from datasets.schema import Int64, SequenceResult, SequenceTruth
from pipeline.metrics.class_data import ClassData

_ACCURACIES: Final = ("MOTA", "MOTSA")
_ERROR_COUNTS: Final = (("FN",), ("FP",), ("IDSw", "IDS"), ("FM", "Frag"))

Fields = dict[str, Any]
"""What a metric knows of one row: counts, ratios as fractions, arrays over HOTA's thresholds."""

Numbers = dict[str, int | float]
"""One row of a score table; percentages are 0..100, NaN and infinities have no finite value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedTruth:
    """The truth of one sequence as a protocol wants it; each adds what it needs."""

    source: SequenceTruth
    """As it was read."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a score table."""

    name: str
    classes: tuple[str, ...]
    """Which classes it covers; with a single one it is that class's own row."""
    is_average: bool = False
    """Whether ratios are averaged over the classes instead of pooling the counts."""


class ErrorCounter(Protocol):
    """A metric that can also say which boxes it counts."""

    def match(self, data: ClassData) -> Int64:
        """(G,) track row matched with each truth row, -1 where it is missed."""

    def find_resumptions(self, data: ClassData, matched_track: Int64) -> Int64:
        """Truth rows, rising, at which a fragmented identity is picked up again, one for each."""


class ScoringProtocol(ABC):
    """The rules of one benchmark; instances are small, picklable and hold no state of a run."""

    name: str
    """How reports name the rules."""
    metric_names: ClassVar[tuple[str, ...]]
    """Columns of the table."""
    missing_is_empty: ClassVar[bool]
    """Whether a sequence without a result counts as an empty result, or is an error."""
    compares_masks: ClassVar[bool] = False
    """Whether masks are compared; otherwise boxes."""
    half_matches: ClassVar[bool] = True
    """Whether an overlap of exactly 0.5 is a match."""
    classes: tuple[str, ...]
    """In the fixed order of every reduction."""
    rows: tuple[Row, ...]
    """Lines of the table; where one covers all classes, the last one does."""
    metrics: Mapping[str, Any]
    """Metrics with trackeval's methods, whose `fields_to_combine` are all that it combines."""
    counted_by: ClassVar[str]
    """The one of them that counts misses, false boxes, switches and fragments: an `ErrorCounter`.
    """

    @property
    def summary_rows(self) -> tuple[Row, ...]:
        """Lines that stand for a result: the means and the last one, or all classes where a
        benchmark never puts them together."""
        last = self.rows[-1]
        if last.classes != self.classes:
            return self.rows
        return tuple(row for row in self.rows if row.is_average or row is last)

    @property
    def accuracy(self) -> str:
        """The metric that every counted error but a fragment takes its share from."""
        return next(name for name in _ACCURACIES if name in self.metric_names)

    @property
    def error_counts(self) -> tuple[str, ...]:
        """Metrics that count missed and false ones, switches and fragments, in this order."""
        names = self.metric_names
        return tuple(next(n for n in known if n in names) for known in _ERROR_COUNTS)

    @property
    def counter(self) -> ErrorCounter:
        """That metric."""
        return cast(ErrorCounter, self.metrics[self.counted_by])

    @abstractmethod
    def prepare_truth(self, truth: SequenceTruth) -> PreparedTruth:
        """What scoring needs of the truth, once for any number of results.

        Raises:
            ValueError: truth that cannot be scored against; names the sequence and the frame.
        """

    @abstractmethod
    def compare(
        self, prepared: Any, result: SequenceResult
    ) -> Mapping[str, Mapping[str, ClassData]]:
        """What each metric is to see of each class: `[class][metric]`.

        Args:
            prepared: what this protocol's `prepare_truth` gave.
            result: tracks of the same sequence.

        Raises:
            ValueError: the result does not fit the truth; names the sequence and the frame.
        """

    def prepare(
        self, truth: SequenceTruth, result: SequenceResult
    ) -> Mapping[str, Mapping[str, ClassData]]:
        """`compare` for a single result."""
        return self.compare(self.prepare_truth(truth), result)

    @abstractmethod
    def numbers(self, row: Row, fields: Mapping[str, Fields]) -> Numbers:
        """The row's entries, one for each of `metric_names`, from the fields of every metric."""

    def score_sequence(
        self, truth: SequenceTruth, result: SequenceResult
    ) -> dict[str, dict[str, Fields]]:
        """By class and metric the fields that a combination reads: little to send around."""
        return self.score_prepared(self.prepare_truth(truth), result)

    def score_prepared(
        self, prepared: PreparedTruth, result: SequenceResult
    ) -> dict[str, dict[str, Fields]]:
        """`score_sequence` with truth that `prepare_truth` gave."""
        return {
            name: {metric: _score(self.metrics[metric], d) for metric, d in data.items()}
            for name, data in self.compare(prepared, result).items()
        }

    def combine_sequences(
        self, scores: Mapping[str, Mapping[str, Mapping[str, Fields]]]
    ) -> dict[str, dict[str, Fields]]:
        """Fields of every class over all sequences, added up in sorted order of their names.

        The order matters for the last bits of floating sums, so it never depends on which worker
        finished first; for the same reason this is one flat pass and not a tree.

        Args:
            scores: by sequence, class and metric.
        """
        ordered = {name: scores[name] for name in sorted(scores)}
        return {
            class_name: {
                metric: rules.combine_sequences(
                    {name: score[class_name][metric] for name, score in ordered.items()}
                )
                for metric, rules in self.metrics.items()
            }
            for class_name in self.classes
        }

    def combine_classes(
        self, row: Row, scores: Mapping[str, Mapping[str, Fields]]
    ) -> dict[str, Fields]:
        """Fields of one row from those of the classes, by metric."""
        if len(row.classes) == 1 and not row.is_average:
            return dict(scores[row.classes[0]])
        combined = {}
        for metric, rules in self.metrics.items():
            members = {name: scores[name][metric] for name in row.classes}
            combine = (
                rules.combine_classes_class_averaged
                if row.is_average
                else rules.combine_classes_det_averaged
            )
            combined[metric] = combine(members)
        return combined


def hota_numbers(fields: Fields) -> Numbers:
    """HOTA, DetA and AssA in percent, averaged over the thresholds."""
    return {name: 100.0 * float(np.mean(fields[name])) for name in ("HOTA", "DetA", "AssA")}


def _score(metric: Any, data: ClassData) -> Fields:
    fields = metric.eval_sequence(data)
    return {name: fields[name] for name in metric.fields_to_combine}
