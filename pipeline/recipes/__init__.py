"""Named experiments. A recipe is a function that returns a complete config; a variant copies one
and changes what differs."""

import difflib
from collections.abc import Callable
from typing import Final, TypeVar, overload

from pipeline.config import ExperimentConfig, MotsConfig, RecipeConfig
from pipeline.recipes import pointtrack_kitti_mots, pointtrack_synthetic
from pipeline.recipes.qdtrack_bdd100k import (
    qdtrack_frcnn_r50_bdd100k,
    qdtrack_frcnn_r50_vis4d_bdd100k,
)
from pipeline.recipes.qdtrack_synthetic import qdtrack_frcnn_r18_synthetic

Config = TypeVar("Config", bound=RecipeConfig)

RECIPES: Final[dict[str, Callable[[], ExperimentConfig] | Callable[[], MotsConfig]]] = {
    recipe.__name__: recipe
    for recipe in (
        qdtrack_frcnn_r50_bdd100k,
        qdtrack_frcnn_r50_vis4d_bdd100k,
        qdtrack_frcnn_r18_synthetic,
        pointtrack_kitti_mots.pointtrack_kitti_mots_car,
        pointtrack_kitti_mots.pointtrack_kitti_mots_car_published,
        pointtrack_kitti_mots.pointtrack_kitti_mots_pedestrian,
        pointtrack_kitti_mots.pointtrack_kitti_mots_pedestrian_published,
        pointtrack_kitti_mots.pointtrack_apollo_mots_car,
        pointtrack_synthetic.pointtrack_synthetic_car,
        pointtrack_synthetic.pointtrack_synthetic_pedestrian,
    )
}

_JOBS: Final = {
    ExperimentConfig: "boxes (jobs.train_bdd)",
    MotsConfig: "masks (jobs.train_kitti_mots)",
}


@overload
def find_recipe(name: str) -> ExperimentConfig: ...
@overload
def find_recipe(name: str, kind: type[Config]) -> Config: ...
def find_recipe(name: str, kind: type[RecipeConfig] = ExperimentConfig) -> RecipeConfig:
    """The config of a recipe.

    Args:
        name: of the recipe.
        kind: of experiment that the caller can do something with.

    Raises:
        ValueError: no recipe has this name (the nearest are listed), or it is of another kind.
    """
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4) or list(RECIPES)
        raise ValueError(f"no recipe is called {name!r}; did you mean {', '.join(nearest)}?")
    config = RECIPES[name]()
    if not isinstance(config, kind):
        raise ValueError(
            f"recipe {name!r} tracks {_JOBS[type(config)]}, expected one that tracks "
            f"{_JOBS.get(kind, 'something else')}"
        )
    return config
