"""The search space of a sweep: read, checked against the config classes, and written back."""

import pytest

from models.baselines.mask_overlap import MaskOverlapConfig
from models.baselines.motion import ByteTrackConfig, OcSortConfig, SortConfig
from models.baselines.overlap import OverlapConfig
from models.pointtrack.association import PointTrackerConfig
from models.qdtrack.association import TaoTrackerConfig, TrackerConfig
from models.search_space import Choices, Interval, declared_dimensions
from pipeline.config import ExperimentConfig
from pipeline.overrides import apply_overrides
from pipeline.search.space import (
    SpaceError,
    default_space,
    describe,
    grid,
    own_settings,
    parse_space,
)

CONFIG = ExperimentConfig(recipe="test")


NOT_SEARCHED = {PointTrackerConfig: {"distance_scale", "distance_offset", "distance"}}
"""Scale and offset change nothing that threshold and weight do not; the distance changes what all
of them mean."""


@pytest.mark.parametrize(
    "config_class",
    [
        *(TrackerConfig, TaoTrackerConfig, OverlapConfig, SortConfig, ByteTrackConfig),
        *(OcSortConfig, PointTrackerConfig, MaskOverlapConfig),
    ],
)
def test_every_field_but_the_kind_declares_its_values_and_takes_all_of_them(
    config_class: type,
) -> None:
    declared = declared_dimensions(config_class)
    defaults = vars(config_class())
    assert declared.keys() == defaults.keys() - {"kind"} - NOT_SEARCHED.get(config_class, set())
    for name, dimension in declared.items():
        ends = (
            dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
        )
        for value in ends:
            assert getattr(config_class(**{name: value}), name) == value
            assert type(value) is type(defaults[name]), name


def test_the_default_space_holds_the_recipe_s_own_setting() -> None:
    space = default_space(CONFIG)
    assert space["association.match_score_thr"] == Interval(0.1, 0.9)
    assert len(space) == 11
    assert own_settings(space, CONFIG)["association.memo_tracklet_frames"] == 10
    for path, value in own_settings(space, CONFIG).items():
        dimension = space[path]
        if isinstance(dimension, Interval):
            assert dimension.low <= value <= dimension.high
        else:
            assert value in dimension.values


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("match_score_thr=0.3:0.7", Interval(0.3, 0.7)),
        ("match_score_thr=0.3:0.7:0.1", Interval(0.3, 0.7, step=0.1)),
        ("init_score_thr=1e-4:0.1:log", Interval(1e-4, 0.1, log=True)),
        ("memo_tracklet_frames=5:30", Interval(5, 30)),
        ("memo_tracklet_frames=5:30:5", Interval(5, 30, step=5)),
        ("match_metric=bisoftmax, cosine", Choices(("bisoftmax", "cosine"))),
        ("with_cats=true,false", Choices((True, False))),
        ("match_score_thr=0.4,0.5", Choices((0.4, 0.5))),
    ],
)
def test_texts_of_every_form_are_read_and_written_back(
    text: str, dimension: Interval | Choices
) -> None:
    space = parse_space([f"association.{text}"], CONFIG)
    [(path, found)] = space.items()
    assert found == dimension
    values = describe(space)[path]
    assert parse_space([f"{path}={values}"], CONFIG) == space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("association.match_scor_thr=0.3:0.7", "did you mean association.match_score_thr"),
        ("asociation.match_score_thr=0.3:0.7", "did you mean association"),
        ("association=1:2", "is a group of fields"),
        ("association.kind=tao,overlap", "only the settings of one tracker"),
        ("train.seed=1:5", "replays stored detections"),
        ("association.match_score_thr", "expected path=low:high"),
        ("association.match_score_thr=", "expected path=low:high"),
        ("=0.3:0.7", "expected path=low:high"),
        ("association.match_score_thr=0.7:0.3", "is empty, expected low < high"),
        ("association.match_score_thr=0.5:0.5", "is empty, expected low < high"),
        ("association.match_score_thr=0.5:1.5", "match_score_thr is 1.5, expected a number from 0"),
        ("association.match_score_thr=a:b", "expected float, found 'a'"),
        ("association.match_score_thr=nan:0.5", "match_score_thr"),
        ("association.match_score_thr=0:0.5:log", "cannot be searched by its logarithm"),
        ("association.match_score_thr=0.1:0.5:0.9", "not between 0 and the width"),
        ("association.match_score_thr=0.1:0.5:lin", "expected a number or log"),
        ("association.match_score_thr=0.1:0.5:0.1:2", "expected low:high, low:high:step"),
        ("association.match_score_thr=0.5", "at least two different values"),
        ("association.match_score_thr=0.5,0.5", "at least two different values"),
        ("association.memo_tracklet_frames=1.5:3", "expected int, found '1.5'"),
        ("association.memo_tracklet_frames=5:30:0.5", "expected a number or log"),
        ("association.match_metric=bisoftmax,euclid", "match_metric"),
        ("association.match_metric=a:b", "has no range"),
        ("association.with_cats=true:false", "has no range"),
    ],
)
def test_what_cannot_be_searched_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        parse_space([text], CONFIG)
    assert "--space" in str(caught.value)


def test_a_path_named_twice_is_refused() -> None:
    text = "association.match_score_thr=0.3:0.7"
    with pytest.raises(SpaceError, match="twice"):
        parse_space([text, text], CONFIG)


def test_another_tracker_has_other_paths() -> None:
    config = apply_overrides(CONFIG, {"association.kind": "overlap"})
    assert "association.match_iou_thr" in default_space(config)
    with pytest.raises(SpaceError, match="unknown field"):
        parse_space(["association.match_score_thr=0.3:0.7"], config)


def test_a_grid_has_every_combination_of_round_numbers() -> None:
    space = {
        "a": Interval(0.1, 0.5, step=0.1),
        "b": Interval(1, 10),
        "c": Interval(1e-4, 1.0, log=True),
        "d": Choices(("x", "y")),
    }
    points = grid(space)
    assert len(points) == 5 * 5 * 5 * 2
    assert sorted({point["a"] for point in points}) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert sorted({point["b"] for point in points}) == [1, 3, 6, 8, 10]
    assert sorted({point["c"] for point in points}) == [1e-4, 1e-3, 1e-2, 0.1, 1.0]
    assert all(isinstance(point["b"], int) for point in points)
