"""What a sweep is asked to do, and where it keeps what it finds."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.search_space import Dimension
from pipeline.leaderboard import less_is_better
from pipeline.search.proposals import can_prune


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How to search."""

    space: Mapping[str, Dimension]
    """What is searched, by dotted path."""
    objectives: tuple[str, ...] = ("mMOTA",)
    """Headline metrics to improve; several give a Pareto front."""
    num_trials: int = 200
    """In all, the recipe's own setting and those of earlier runs of the study included."""
    sampler: str = "tpe"
    """One of `pipeline.search.proposals.SAMPLERS`."""
    seed: int = 0
    """Of the sampler and of the order of sequences."""
    may_prune: bool = True
    """Stop trials early that do badly on the first sequences, where that can be done."""
    batch_size: int = 8
    """Trials that are proposed together: the search depends on it, not on the workers."""
    max_failed_share: float = 0.2
    """The sweep stops when more than this share of its trials failed."""
    num_best: int = 3
    """Trials that are scored once more from all sequences by the full evaluation."""

    def __post_init__(self) -> None:
        for name in ("num_trials", "batch_size", "num_best"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share is {self.max_failed_share}, expected 0 to 1")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"the metrics {self.objectives} name one twice or none")

    @property
    def is_pruned(self) -> bool:
        """Whether trials are stopped early: several objectives have no one order, and some samplers
        learn nothing from trials that were stopped."""
        return self.may_prune and len(self.objectives) == 1 and can_prune(self.sampler)

    @property
    def directions(self) -> tuple[str, ...]:
        """Of the objectives, in Optuna's words."""
        return tuple("minimize" if less_is_better(n) else "maximize" for n in self.objectives)


@dataclass(frozen=True, kw_only=True)
class SweepPlaces:
    """Where a sweep keeps things; nothing here changes a result."""

    storage: str
    """Address of the database of studies."""
    study_name: str
    resume: bool
    root: str
    """Of all artefacts."""
    tracking_uri: str | None = None
    num_workers: int = 1
