"""Overriding fields of a config by dotted path: ``association.match_score_thr=0.6``.

The same paths and the same function serve ``--set``, ``--set-file`` and the search space of a
sweep. Text is read by the type of the field it is for, so that a string field may hold ``1``.
"""

import dataclasses
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from models.config_io import (
    KIND_FIELD,
    config_from_dict,
    config_to_dict,
    field_types,
    join_path,
    unknown_name_message,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

_BOOLEANS: Final = {"true": True, "false": False}


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """``path=value`` texts of a command line as a dictionary, later ones winning.

    Raises:
        ValueError: no ``=``, or an empty path.

    >>> parse_assignments(["train.seed=3", "association.kind=tao"])
    {'train.seed': '3', 'association.kind': 'tao'}
    """
    values: dict[str, str] = {}
    for text in assignments:
        path, mark, value = text.partition("=")
        if not mark or not path.strip():
            raise ValueError(f"--set {text!r}: expected path=value, for example train.seed=3")
        values[path.strip()] = value.strip()
    return values


def read_overrides(path: Path) -> dict[str, Any]:
    """Dotted paths and values of a TOML file, tables flattened.

    Raises:
        ValueError: not TOML; names the file.
    """
    try:
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not a TOML file of overrides: {error}") from error
    return _flatten_tables(content, "")


def apply_overrides(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of the config with the given fields replaced.

    A member of a union is chosen first, by its ``kind``; its other fields then start from the
    defaults of the new class.

    Args:
        config: any config of ours.
        overrides: dotted path to a value, or to text that is read by the type of its field.

    Raises:
        ValueError: an unknown path (the nearest are listed), text that does not read as the
            field's type, or a value that the config refuses; the message names the path.
    """
    values = config_to_dict(config)
    # Choosing a kind resets its table, so it comes before the fields of that table.
    for path in sorted(overrides, key=lambda p: (not p.endswith(f".{KIND_FIELD}"), p)):
        _set(type(config), values, path.split("."), overrides[path], "")
    return config_from_dict(type(config), values)


def flatten(config: "DataclassInstance") -> dict[str, Any]:
    """Dotted path to value of every field, nested configs opened, tuples kept whole."""
    flat: dict[str, Any] = {}

    def visit(table: Mapping[str, Any], path: str) -> None:
        for name, value in table.items():
            if isinstance(value, Mapping):
                visit(value, join_path(path, name))
            else:
                flat[join_path(path, name)] = value

    visit(config_to_dict(config), "")
    return flat


def _set(
    config_class: type[Any], values: dict[str, Any], names: list[str], value: Any, path: str
) -> None:
    hints = field_types(config_class)
    name, rest = names[0], names[1:]
    if name not in hints:
        raise ValueError(unknown_name_message(name, hints, path))
    here = join_path(path, name)
    if not rest:
        values[name] = _read(hints[name], value, here) if isinstance(value, str) else value
        return
    members = _config_members(hints[name])
    if not members:
        raise ValueError(f"{here} is a single value, it has no field {'.'.join(rest)!r}")
    if rest == [KIND_FIELD] and len(members) > 1:
        if (values[name] or {}).get(KIND_FIELD) != value:
            values[name] = {KIND_FIELD: value}
        return
    if values[name] is None:
        values[name] = config_to_dict(members[0]())
    _set(_member_of(members, values[name]), values[name], rest, value, here)


def _config_members(hint: Any) -> list[Any]:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)]


def _member_of(members: list[Any], values: Mapping[str, Any]) -> Any:
    if len(members) == 1:
        return members[0]
    for member in members:
        if values.get(KIND_FIELD) in get_args(field_types(member)[KIND_FIELD]):
            return member
    known = [kind for m in members for kind in get_args(field_types(m)[KIND_FIELD])]
    raise ValueError(f"kind is {values.get(KIND_FIELD)!r}, expected one of {', '.join(known)}")


def _read(hint: Any, text: str, path: str) -> Any:
    """Plain value that a text means for a field of this type."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(hint, text, path)
    if origin is tuple:
        return _read_tuple(hint, text, path)
    if origin is Literal:
        by_text = {str(choice): choice for choice in get_args(hint)}
        return by_text.get(text, text)
    if hint is bool and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if hint is types.NoneType and text.lower() == "none":
        return None
    if hint is str:
        return text
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            pass
    raise ValueError(f"{path}: expected {_describe(hint)}, found {text!r}")


def _read_union(hint: Any, text: str, path: str) -> Any:
    # None first and strings last: both would otherwise take what belongs to others.
    order = {types.NoneType: 0, str: 2}
    for member in sorted(get_args(hint), key=lambda m: order.get(m, 1)):
        try:
            return _read(member, text, path)
        except ValueError:
            continue
    raise ValueError(f"{path}: expected {_describe(hint)}, found {text!r}")


def _read_tuple(hint: Any, text: str, path: str) -> list[Any]:
    inner = re.fullmatch(r"\(\s*(.*?),?\s*\)", text, re.DOTALL)
    if inner is None:
        raise ValueError(f"{path}: expected a tuple such as (8, 11), found {text!r}")
    texts = [item.strip() for item in inner[1].split(",")] if inner[1] else []
    items = get_args(hint)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(texts)
    if len(items) != len(texts):
        raise ValueError(f"{path}: expected a tuple of {len(items)} values, found {text!r}")
    return [_read(item, entry, path) for item, entry in zip(items, texts, strict=True)]


def _describe(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return name.replace("NoneType", "none")


def _flatten_tables(table: Mapping[str, Any], path: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flatten_tables(value, join_path(path, name))
        else:
            flat[join_path(path, name)] = value
    return flat
