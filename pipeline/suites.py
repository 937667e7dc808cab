"""What a benchmark run compares: a suite names data, weights, trackers and rules.

Every tracker joins the detections of all weights on all data, and is scored by all rules that fit
the data. Suites are recipe functions (`pipeline.recipes.suites`) or small TOML files:

    [[data]]
    data_root = "/data/bdd100k"
    split = "val"

    [[weights]]
    recipe = "qdtrack_frcnn_r50_bdd100k"
    file = "qdtrack.safetensors"

    [[trackers]]
    name = "own"

    [[trackers]]
    name = "ByteTrack"
    association.kind = "bytetrack"
    association.init_score_thr = 0.6

    [[protocols]]                        # left out: every data set by its benchmark's own rules
    protocol = "bdd100k"
"""

import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from models.config_io import config_from_dict
from pipeline.associate import AssociationConfig
from pipeline.evaluate import EvaluationConfig
from pipeline.ingest import DataConfig


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Frames of one split: stored ones, or raw files that are stored with the usual settings."""

    frames: str | None = None
    """Folder of a finished frames artefact, which says all else itself."""
    data_root: str | None = None
    """Folder of a benchmark's raw files."""
    benchmark: str = "bdd100k"
    """Whose layout the raw files have."""
    dataset: str | None = None
    """Name of the data on the leaderboard; None is the benchmark's."""
    split: str = "val"
    """Split of the raw files."""
    notes: str = ""
    """Shown with every row."""

    def __post_init__(self) -> None:
        if (self.frames is None) == (self.data_root is None):
            raise ValueError(
                "expected either frames, a folder of stored frames, or data_root, a folder of raw "
                "files"
            )
        self.config()

    def config(self) -> DataConfig:
        """How the raw files are stored."""
        return DataConfig(
            benchmark=self.benchmark,
            dataset=self.dataset or self.benchmark,
            evaluation_split=self.split,
        )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One network: a file, or what a recipe trains on the first raw data set of its benchmark."""

    recipe: str
    """Recipe that says how frames pass through the network and which tracker is its own."""
    file: str | None = None
    """Weights file of ours; None trains the recipe, unless its weights are there."""
    name: str = ""
    """Title of its rows; empty is the recipe's name."""

    @property
    def title(self) -> str:
        return self.name or self.recipe


@dataclass(frozen=True, kw_only=True)
class NamedTracker:
    """One way to join detections."""

    name: str
    """Stands in the titles of rows, behind the weights' unless the tracker is the recipe's own."""
    association: AssociationConfig | None = None
    """Settings, chosen by `kind`; None is the recipe's own tracker."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name is empty, expected a few words for the title of its rows")


OWN_TRACKER = NamedTracker(name="own")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Everything that a benchmark run compares."""

    name: str
    data: tuple[DataSet, ...]
    weights: tuple[Weights, ...]
    trackers: tuple[NamedTracker, ...] = (OWN_TRACKER,)
    protocols: tuple[EvaluationConfig, ...] = ()
    """Rules of scoring; empty scores every data set by its benchmark's own."""

    def __post_init__(self) -> None:
        for field in ("data", "weights", "trackers"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty, expected at least one [[{field}]]")
        _check_no_doubles("weights", [entry.title for entry in self.weights])
        _check_no_doubles("trackers", [tracker.name for tracker in self.trackers])
        _check_no_doubles("data", self.data)
        _check_no_doubles("protocols", self.protocols)


def read_suite(path: Path) -> Suite:
    """The suite that a TOML file describes; paths in it start from its folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, an unknown or missing field (the nearest names are listed), a kind of
            tracker that does not exist, a name twice; names the file and the field.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        suite = config_from_dict(Suite, {"name": path.stem, **content})
    except ValueError as error:  # a TOML error is one, too
        raise ValueError(f"{path}: not a suite: {error}") from error
    folder = path.resolve().parent
    return replace(
        suite,
        data=tuple(
            replace(
                entry,
                frames=_from(folder, entry.frames),
                data_root=_from(folder, entry.data_root),
            )
            for entry in suite.data
        ),
        weights=tuple(replace(entry, file=_from(folder, entry.file)) for entry in suite.weights),
    )


def _check_no_doubles(field: str, names: Iterable[object]) -> None:
    [(name, count)] = Counter(names).most_common(1) or [("", 0)]
    if count > 1:
        raise ValueError(f"{field} has {name!r} {count} times, expected every one once")


def _from(folder: Path, place: str | None) -> str | None:
    """A path inside a file as one that holds everywhere; a URI stays as it is."""
    if place is None or "://" in place:
        return place
    return str(folder / Path(place).expanduser())
