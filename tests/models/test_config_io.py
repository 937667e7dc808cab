"""Configs survive the way to JSON and back, and wrong input is named with its dotted path."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from models.config_io import config_from_dict, config_to_dict


@dataclass(frozen=True, kw_only=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius must be above 0, found {self.radius}")


@dataclass(frozen=True, kw_only=True)
class Square:
    kind: Literal["square"] = "square"
    side: int = 2


@dataclass(frozen=True, kw_only=True)
class Drawing:
    name: str
    shape: Circle | Square = field(default_factory=Circle)
    border: Square | None = None
    size: tuple[int, int] = (4, 3)
    weights: tuple[float, ...] = ()
    clip: float | None = None
    order: Literal["rgb", "bgr"] = "rgb"
    filled: bool = False


@dataclass(frozen=True, kw_only=True)
class Album:
    drawing: Drawing = field(default_factory=lambda: Drawing(name="a"))
    shapes: tuple[Circle | Square, ...] = ()


FULL = Album(
    drawing=Drawing(
        name="b",
        shape=Square(side=7),
        border=Square(),
        size=(1, 2),
        weights=(0.5, 1.0),
        clip=35.0,
        order="bgr",
        filled=True,
    ),
    shapes=(Circle(radius=0.1), Square(side=1)),
)


@pytest.mark.parametrize("config", [Album(), FULL], ids=["defaults", "everything set"])
def test_round_trip_through_json_gives_an_equal_object(config: Album) -> None:
    text = json.dumps(config_to_dict(config), allow_nan=False)
    assert config_from_dict(Album, json.loads(text)) == config


def test_absent_fields_keep_their_defaults() -> None:
    read = config_from_dict(Album, {"drawing": {"name": "c", "shape": {"kind": "square"}}})
    assert read == Album(drawing=Drawing(name="c", shape=Square()))


def test_objects_may_stand_where_dictionaries_would() -> None:
    assert config_from_dict(Album, {"shapes": [Circle(), {"kind": "square"}]}) == Album(
        shapes=(Circle(), Square())
    )


def test_whole_numbers_become_floats_only_where_a_float_is_expected() -> None:
    read = config_from_dict(Drawing, {"name": "d", "clip": 35, "weights": [1]})
    assert isinstance(read.clip, float)
    assert isinstance(read.weights[0], float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"drawin": {}}, r"unknown field 'drawin'; did you mean drawing\?"),
        (
            {"drawing": {"name": "a", "filed": True}},
            r"unknown field 'drawing.filed'; did you mean drawing.filled",
        ),
        ({"drawing": {"name": "a", "zzz": 1}}, r"'drawing.zzz'; known: drawing.name, drawing.sh"),
        ({"drawing": {}}, r"drawing: no value for name"),
        ({"drawing": 3}, r"drawing: expected a table of Drawing fields, found 3"),
        ({"drawing": {"name": 3}}, r"drawing.name: expected str, found 3"),
        ({"drawing": {"name": "a", "size": [1]}}, r"drawing.size: expected tuple\[int, int\]"),
        ({"drawing": {"name": "a", "size": [1, 2.0]}}, r"drawing.size\[1\]: expected int, found 2"),
        ({"drawing": {"name": "a", "size": [1, True]}}, r"size\[1\]: expected int, found True"),
        ({"drawing": {"name": "a", "filled": 1}}, r"drawing.filled: expected bool, found 1"),
        ({"drawing": {"name": "a", "clip": "x"}}, r"drawing.clip: expected float \| None"),
        ({"drawing": {"name": "a", "weights": [float("nan")]}}, r"weights\[0\]: expected a finite"),
        ({"drawing": {"name": "a", "order": "hsv"}}, r"order: expected one of 'rgb', 'bgr', found"),
        (
            {"drawing": {"name": "a", "shape": {"kind": "star"}}},
            r"drawing.shape.kind: expected one of circle, square, found 'star'",
        ),
        ({"drawing": {"name": "a", "shape": {}}}, r"drawing.shape.kind: .*found None"),
        (
            {"drawing": {"name": "a", "shape": {"kind": "square", "radius": 1.0}}},
            r"unknown field 'drawing.shape.radius'",
        ),
        ({"shapes": [{"kind": "circle", "radius": 0}]}, r"shapes\[0\]: radius must be above 0"),
    ],
)
def test_wrong_input_is_named_with_its_path(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_dict(Album, values)


@dataclass(frozen=True, kw_only=True)
class _Odd:
    value: Any


@pytest.mark.parametrize("value", [{"a": 1}, [1], Path("x"), float("inf")])
def test_values_that_do_not_belong_in_a_config_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="value: "):
        config_to_dict(_Odd(value=value))


def test_reading_configs_imports_no_torch(repository: Path) -> None:
    program = "import sys, models.config_io; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=repository).returncode == 0
