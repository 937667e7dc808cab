"""Overrides change exactly the field they name, by its type, or say what is wrong."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.overrides import apply_overrides, flatten, parse_assignments, read_overrides


@dataclass(frozen=True, kw_only=True)
class Near:
    kind: Literal["near"] = "near"
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Far:
    kind: Literal["far"] = "far"
    depth: int = 7


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    steps: tuple[int, ...] = (8, 11)
    pair: tuple[float, str] = (1.0, "x")
    clip: float | None = None
    on: bool = False
    label: str = "a"
    mode: Literal["fast", "slow"] = "fast"

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate is {self.rate}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    which: Near | Far = field(default_factory=Near)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("inner.rate", "0.5", 0.5),
        ("inner.rate", "2", 2.0),
        ("inner.steps", "(1,2,3)", (1, 2, 3)),
        ("inner.steps", "()", ()),
        ("inner.steps", "(4,)", (4,)),
        ("inner.pair", "(2, y)", (2.0, "y")),
        ("inner.clip", "35", 35.0),
        ("inner.clip", "none", None),
        ("inner.on", "true", True),
        ("inner.label", "1", "1"),
        ("inner.mode", "slow", "slow"),
    ],
)
def test_text_is_read_by_the_type_of_its_field(path: str, text: str, expected: Any) -> None:
    changed = flatten(apply_overrides(Outer(), {path: text}))
    value = changed[path]
    assert (tuple(value) if isinstance(value, list) else value) == expected
    others = {k: v for k, v in flatten(Outer()).items() if k != path}
    assert {k: v for k, v in changed.items() if k != path} == others


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("inner.rat", "1", "inner.rate"),
        ("outer", "1", "unknown field 'outer'"),
        ("inner.rate", "fast", "inner.rate: expected float"),
        ("inner.rate", "-1", "rate is -1"),
        ("inner.rate.deep", "1", "single value"),
        ("inner.steps", "8", "tuple such as"),
        ("inner.pair", "(1)", "tuple of 2"),
        ("inner.on", "yes", "expected bool"),
        ("inner.mode", "medium", "'fast', 'slow'"),
        ("which.kind", "middle", "near, far"),
        ("which.depth", "3", "which.depth"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(path: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        apply_overrides(Outer(), {path: text})


def test_choosing_a_kind_comes_before_its_fields_whatever_the_order() -> None:
    changed = apply_overrides(Outer(), {"which.depth": "3", "which.kind": "far"})
    assert changed.which == Far(depth=3)


def test_naming_the_kind_already_held_keeps_its_fields() -> None:
    held = apply_overrides(Outer(), {"which.radius": "5"})
    assert apply_overrides(held, {"which.kind": "near"}).which == Near(radius=5.0)


def test_a_file_holds_the_same_paths(tmp_path: Path) -> None:
    path = tmp_path / "best.toml"
    path.write_text('[inner]\nsteps = [1, 2]\nclip = 3\n[which]\nkind = "far"\ndepth = 2\n')
    changed = apply_overrides(Outer(), read_overrides(path))
    assert changed == Outer(inner=Inner(steps=(1, 2), clip=3.0), which=Far(depth=2))
    path.write_text("inner = ")
    with pytest.raises(ValueError, match=r"best\.toml"):
        read_overrides(path)


@pytest.mark.parametrize("text", ["train.seed", "=3", ""])
def test_an_assignment_needs_a_path_and_a_value(text: str) -> None:
    with pytest.raises(ValueError, match="path=value"):
        parse_assignments([text])
