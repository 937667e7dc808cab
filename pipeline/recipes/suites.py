"""Named suites of benchmark runs: the recipe's own tracker beside what it has to beat."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from models.baselines.motion import ByteTrackConfig, OcSortConfig, SortConfig
from models.baselines.overlap import OverlapConfig
from pipeline.contestants import overlap_baseline, overlap_words
from pipeline.recipes import find_recipe
from pipeline.suites import OWN_TRACKER, DataSet, NamedTracker, Suite, Weights


def synthetic(data_root: str, weights: str | None) -> Suite:
    """The demo's recipe on the synthetic set; finds the weights and detections of `make demo`."""
    recipe = "qdtrack_frcnn_r18_synthetic"
    return Suite(
        name="synthetic",
        data=(DataSet(data_root=data_root, dataset="synthetic", notes="synthetic data"),),
        weights=(Weights(recipe=recipe, file=weights),),
        trackers=_own_and_baselines(recipe),
    )


def bdd100k(data_root: str, weights: str | None) -> Suite:
    """QDTrack with a ResNet-50 on BDD100K val; without weights it is trained first."""
    recipe = "qdtrack_frcnn_r50_bdd100k"
    return Suite(
        name="bdd100k",
        data=(DataSet(data_root=data_root),),
        weights=(Weights(recipe=recipe, file=weights),),
        trackers=_own_and_baselines(recipe),
    )


SUITES: Final[dict[str, Callable[[str, str | None], Suite]]] = {
    suite.__name__: suite for suite in (synthetic, bdd100k)
}
"""Take the folder of raw files, and a weights file in place of training."""


def find_suite(name: str, data_root: str, weights: str | None = None) -> Suite:
    """The suite of a name.

    Raises:
        ValueError: no suite has this name; says which there are.
    """
    if name not in SUITES:
        nearest = difflib.get_close_matches(name, SUITES, n=1, cutoff=0.4) or list(SUITES)
        raise ValueError(
            f"no suite is called {name!r}; did you mean {', '.join(nearest)}? A suite of your own "
            "is named by its file, which ends in .toml"
        )
    return SUITES[name](data_root, weights)


def _own_and_baselines(recipe: str) -> tuple[NamedTracker, ...]:
    """The recipe's own tracker first.

    Which score starts a track is a question to the detector, so SORT and ByteTrack take the own
    tracker's answer where it has one; OC-SORT has no such setting.
    """
    own = find_recipe(recipe).association
    overlap = overlap_baseline(own)
    sort, bytetrack = SortConfig(), ByteTrackConfig()
    if isinstance(overlap, OverlapConfig):
        sort = replace(sort, init_score_thr=overlap.init_score_thr)
        bytetrack = replace(bytetrack, init_score_thr=overlap.init_score_thr)
    return (
        OWN_TRACKER,
        NamedTracker(name=overlap_words(overlap), association=overlap),
        NamedTracker(name="SORT", association=sort),
        NamedTracker(name="ByteTrack", association=bytetrack),
        NamedTracker(name="OC-SORT", association=OcSortConfig()),
    )
