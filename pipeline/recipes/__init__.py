"""Named experiments. A recipe is a function that returns a complete config; a variant copies one
and changes what differs."""

import difflib
from collections.abc import Callable
from typing import Final

from pipeline.config import ExperimentConfig
from pipeline.recipes.qdtrack_bdd100k import (
    qdtrack_frcnn_r50_bdd100k,
    qdtrack_frcnn_r50_vis4d_bdd100k,
)
from pipeline.recipes.qdtrack_synthetic import qdtrack_frcnn_r18_synthetic

RECIPES: Final[dict[str, Callable[[], ExperimentConfig]]] = {
    recipe.__name__: recipe
    for recipe in (
        qdtrack_frcnn_r50_bdd100k,
        qdtrack_frcnn_r50_vis4d_bdd100k,
        qdtrack_frcnn_r18_synthetic,
    )
}


def find_recipe(name: str) -> ExperimentConfig:
    """The config of a recipe.

    Raises:
        ValueError: no recipe has this name; the nearest are listed.
    """
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise ValueError(f"no recipe is called {name!r}; did you mean {', '.join(nearest)}?")
    return RECIPES[name]()
