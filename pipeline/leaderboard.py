"""Rows of a leaderboard, and who is ahead: rows are only compared where they may be.

A row is one result: detections joined by one tracker, scored by one protocol on one truth. A
leaderboard ranks the rows of one benchmark and split that were scored by the same rules against the
same truth, by the benchmark's own metric.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, Self

Kind = Literal["model", "baseline", "bound"]
Number = int | float | None
Table = Mapping[str, Mapping[str, Number]]
"""Row, then metric."""

RANKING: Final[Mapping[str, tuple[str, ...]]] = {
    "bdd100k": ("mMOTA", "mIDF1"),
    "mot15": ("HOTA", "MOTA", "IDF1"),
    "mot17": ("HOTA", "MOTA", "IDF1"),
    "mot20": ("HOTA", "MOTA", "IDF1"),
    "bdd100k_mots": ("mMOTSA", "mIDF1"),
    "kitti_mots": ("car/sMOTSA", "pedestrian/sMOTSA", "car/HOTA", "pedestrian/HOTA"),
    "apollo_mots": ("sMOTSA", "HOTA"),
    "mots_challenge": ("sMOTSA", "HOTA"),
}
"""Metrics that decide by protocol, the later ones among equals; more is better in all of them."""

COUNTS: Final = frozenset(
    {"TP", "FP", "FN", "IDSw", "IDS", "MT", "PT", "ML", "FM", "Frag"},
)
"""Metrics that are whole numbers; all others are percentages."""
LESS_IS_BETTER: Final = frozenset({"FP", "FN", "IDSw", "IDS", "PT", "ML", "FM", "Frag"})

_COLUMNS: Final = (
    *("mMOTA", "mMOTSA", "mIDF1", "mHOTA", "sMOTSA", "MOTSA", "HOTA", "MOTA", "IDF1"),
    *("DetA", "AssA", "AP", "IDSw", "IDS", "TP", "FP", "FN", "MOTP", "MOTSP"),
    *("MT", "PT", "ML", "FM", "Frag", "AP50", "AP75"),
)
_TABLES: Final = (
    *("metrics", "intervals", "per_class", "per_sequence", "hota_curves", "loss_curves"),
)
_OVERALL_ROW: Final = "OVERALL"
_AVERAGE_ROW: Final = "AVERAGE"
_AVERAGED: Final = ("MOTA", "MOTSA", "IDF1", "HOTA")
_OF_EACH_CLASS: Final = ("sMOTSA", "MOTSA", "MOTSP", "HOTA", "IDF1", "IDS")
"""What stands for a result of each class where the benchmark has no row of all classes."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One result and everything that must be stated with it. Numbers that are not finite are None.

    Empty text means that the maker of the row did not say.
    """

    benchmark: str
    """Name of the leaderboard's data: a benchmark, or the name of a subset or a synthetic set."""
    split: str
    truth: str
    """What exactly it was scored against, such as "200 sequences, 39973 frames (3fa9c0de12ab34cd)".
    Rows with another truth are on another leaderboard."""
    protocol: str
    """Rules of scoring; the first word is a key of `RANKING`."""
    name: str
    """Title of the row."""
    kind: Kind
    """A model, a baseline beside it, or a bound: something that no tracker could do (true boxes),
    shown without a rank."""
    fingerprint: str
    """Of detections, tracker, protocol and truth together: the same result, the same row."""
    recipe: str
    weights: str
    detections: str
    """Where the boxes come from."""
    tracker: str
    """Kind of association and its settings in short."""
    evaluator: str
    """Name and versions of what counted."""
    revision: str
    source_digest: str
    hardware: str
    date: str
    """UTC, ISO 8601."""
    metrics: Mapping[str, Number]
    """Headline numbers, see `headline_numbers`; percentages are 0 to 100."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lower and upper end of those metrics that have an interval, see `pipeline.confidence`."""
    per_class: Table = field(default_factory=dict)
    """Class (or group of classes), then metric."""
    per_sequence: Mapping[str, Table] = field(default_factory=dict)
    """Sequence, class, then metric."""
    hota_curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """HOTA, DetA and AssA at the 19 thresholds 0.05, 0.10 ... 0.95, in percent; of each class, as
    car/HOTA, where the benchmark has no row of all classes."""
    loss_curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Name of a training loss to its (step, value) pairs, where the training is known."""
    process_run_id: str = ""
    """MLflow id of the run that made the row."""
    notes: str = ""
    """What a reader has to know ("synthetic data")."""

    def __post_init__(self) -> None:
        if self.kind not in ("model", "baseline", "bound"):
            raise ValueError(f"kind is {self.kind!r}, expected model, baseline or bound")
        if not self.fingerprint.isalnum():
            raise ValueError(
                f"fingerprint is {self.fingerprint!r}, expected letters and digits as "
                "pipeline.store.fingerprint makes them"
            )
        for name in ("benchmark", "split", "name", "protocol"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} of a result row is empty; expected some text")
        for name in _TABLES:
            object.__setattr__(self, name, _plain(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` made; fields that this version does not know are left out."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row in its place."""

    rank: int | None
    """From 1, equal for equals; None for bounds, which stand where their score puts them."""
    row: ResultRow


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Rows that may be compared, best first."""

    benchmark: str
    split: str
    protocol: str
    truth: str
    ranked_by: tuple[str, ...]
    metrics: tuple[str, ...]
    """All metrics that any row has, the deciding ones first."""
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """Benchmark and split."""
        return f"{self.benchmark} / {self.split}"

    @property
    def rules(self) -> str:
        """Under which conditions the rows were compared, in one sentence."""
        ranked = ", then ".join(self.ranked_by)
        return f"{self.protocol} rules, ranked by {ranked}; truth: {self.truth or 'not stated'}"

    @property
    def legend(self) -> str:
        """What brackets behind a number hold; empty where no row has any."""
        has_intervals = any(entry.row.intervals for entry in self.entries)
        return "In brackets: 95 % of resamples of the sequences." if has_intervals else ""


def headline_numbers(table: Table) -> dict[str, Number]:
    """The numbers that stand for a result: its summary row, and its class averages as mMOTA etc.

    Args:
        table: class, then metric, as the evaluation reports it; see `summary_numbers`.

    >>> headline_numbers({"AVERAGE": {"MOTA": 30.0}, "OVERALL": {"MOTA": 50.0, "FP": 3}})
    {'mMOTA': 30.0, 'MOTA': 50.0, 'FP': 3}
    """
    average = table.get(_AVERAGE_ROW, {})
    averages = {f"m{name}": average[name] for name in _AVERAGED if name in average}
    return {**averages, **summary_numbers(table)}


def summary_numbers(table: Table) -> dict[str, Number]:
    """The numbers of all classes.

    Args:
        table: class, then metric: with a row "OVERALL"; or a single row; or several classes that
            the benchmark never puts together, of which each has its own numbers here.

    >>> summary_numbers({"car": {"sMOTSA": 76.2, "TP": 9}, "pedestrian": {"sMOTSA": 46.8, "TP": 8}})
    {'car/sMOTSA': 76.2, 'pedestrian/sMOTSA': 46.8}
    """
    if _OVERALL_ROW in table or len(table) < 2:
        return dict(table.get(_OVERALL_ROW) or next(iter(table.values()), {}))
    return {
        f"{name}/{metric}": numbers[metric]
        for metric in _OF_EACH_CLASS
        for name, numbers in table.items()
        if metric in numbers
    }


def summary_curves(
    curves: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, Sequence[float]]:
    """The curves of all classes, of a report's curves; where there are none, HOTA of each class."""
    if _OVERALL_ROW in curves or len(curves) < 2:
        return dict(curves.get(_OVERALL_ROW) or next(iter(curves.values()), {}))
    return {f"{name}/HOTA": metrics["HOTA"] for name, metrics in curves.items()}


def is_count(metric: str) -> bool:
    """Whether a metric is a whole number; otherwise it is a percentage.

    >>> is_count("FP"), is_count("car/IDS"), is_count("car/HOTA")
    (True, True, False)
    """
    return metric.rpartition("/")[2] in COUNTS


def less_is_better(metric: str) -> bool:
    """Whether a result is the better the smaller the number is; also of a single class's."""
    return metric.rpartition("/")[2] in LESS_IS_BETTER


def rank(rows: Iterable[ResultRow]) -> list[Leaderboard]:
    """Leaderboards of all rows, by benchmark, split, protocol and truth; none for no rows.

    Rows without a value of the deciding metric come last; equal rows share a rank.
    """
    groups: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    for row in rows:
        key = (row.benchmark, row.split, row.protocol, row.truth)
        groups.setdefault(key, []).append(row)
    return [_make_leaderboard(key, groups[key]) for key in sorted(groups)]


def find_row(rows: Sequence[ResultRow], text: str) -> ResultRow:
    """The row that a person means: by fingerprint, a unique beginning of one, or its name.

    Raises:
        ValueError: no row, or more than one; says which there are.
    """
    found = [row for row in rows if text in (row.fingerprint, row.name)]
    found = found or [row for row in rows if row.fingerprint.startswith(text)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{row.fingerprint} ({row.name})" for row in found or rows)
    problem = "more than one row" if found else "no row"
    raise ValueError(
        f"{problem} has the name {text!r} or a fingerprint that begins so; name one of: {listed}"
    )


def ranking_metrics(protocol: str) -> tuple[str, ...]:
    """Metrics that decide under these rules.

    >>> ranking_metrics("bdd100k (stock boxes)")
    ('mMOTA', 'mIDF1')
    """
    return RANKING.get(protocol.split()[0], ("HOTA", "MOTA", "IDF1"))


def format_number(metric: str, value: Number) -> str:
    """A number as tables show it: counts whole, percentages to two decimals, a dash for none.

    >>> format_number("MOTA", 61.204), format_number("FP", 12.0), format_number("MOTP", math.nan)
    ('61.20', '12', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if is_count(metric) else f"{value:.2f}"


def format_interval(metric: str, interval: tuple[float, float] | None) -> str:
    """An interval as tables show it; nothing for none.

    >>> format_interval("MOTA", (61.204, 70.0)), format_interval("FP", (3.5, 20.0))
    ('[61.20, 70.00]', '[4, 20]')
    """
    return f"[{', '.join(format_number(metric, end) for end in interval)}]" if interval else ""


def _make_leaderboard(key: tuple[str, str, str, str], rows: list[ResultRow]) -> Leaderboard:
    benchmark, split, protocol, truth = key
    ranked_by = ranking_metrics(protocol)

    def score(row: ResultRow) -> tuple[float, ...]:
        values = (row.metrics.get(name) for name in ranked_by)
        return tuple(math.inf if value is None else -value for value in values)

    ordered = sorted(rows, key=lambda row: (score(row), row.name, row.fingerprint))
    contestants = [score(row) for row in ordered if row.kind != "bound"]
    present = {name for row in rows for name in row.metrics}
    columns = dict.fromkeys((*ranked_by, *_COLUMNS, *sorted(present)))
    return Leaderboard(
        benchmark=benchmark,
        split=split,
        protocol=protocol,
        truth=truth,
        ranked_by=ranked_by,
        metrics=tuple(name for name in columns if name in present),
        entries=tuple(
            Entry(rank=None if row.kind == "bound" else 1 + contestants.index(score(row)), row=row)
            for row in ordered
        ),
    )


def _plain(value: Any) -> Any:
    """Dictionaries, tuples and numbers that JSON can hold and that compare by value."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(entry) for entry in value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
