"""Any config of ours as a plain dictionary, ready for JSON, and back into an equal object.

A config is a frozen dataclass whose fields are other configs, tuples, Literals, strings, numbers,
booleans or None. A union of configs is told apart by the Literal field `kind` of its members.
Weights carry their model's config this way, and a run's `config.json` is read back by it.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as _get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

KIND_FIELD: Final = "kind"
"""Name of the Literal field that tells the members of a union of configs apart."""


def config_to_dict(config: "DataclassInstance") -> dict[str, Any]:
    """Plain dictionary of a config: nested dictionaries, lists, strings, numbers, booleans, None.

    Every field is written, defaults too, in the order of the class.

    Raises:
        ValueError: a value that has no place in a config, or a number that is not finite.
    """
    return {
        field.name: _to_plain(getattr(config, field.name), field.name)
        for field in dataclasses.fields(config)
    }


def config_from_dict(
    config_class: type[Config], values: Mapping[str, Any], path: str = ""
) -> Config:
    """Build a config from the dictionary that `config_to_dict` made, or from a part of one.

    Fields that are absent keep their defaults. Lists become tuples, whole numbers become floats
    where a float is expected; nothing else is converted. A nested config may also be given as an
    object of its class.

    Args:
        config_class: the dataclass to build.
        values: field name to value.
        path: dotted path of this config inside the whole one; errors begin with it.

    Raises:
        ValueError: an unknown field (the nearest names are listed), a missing one that has no
            default, a value of the wrong type, or one that the class itself refuses; the message
            names the dotted path.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{_where(path, config_class)}: expected a table of {config_class.__name__} fields, "
            f"found {values!r}"
        )
    hints = field_types(config_class)
    for name in values:
        if name not in hints:
            raise ValueError(unknown_name_message(name, hints, path))
    missing = sorted(_required_fields(config_class) - set(values))
    if missing:
        raise ValueError(
            f"{_where(path, config_class)}: no value for {', '.join(missing)}, which "
            f"{config_class.__name__} has no default for"
        )
    arguments = {
        name: parse_value(hints[name], value, join_path(path, name))
        for name, value in values.items()
    }
    try:
        return config_class(**arguments)
    except ValueError as error:
        raise ValueError(f"{_where(path, config_class)}: {error}") from error


def parse_value(expected: Any, value: Any, path: str) -> Any:
    """Check a plain value against a field's type and give it the type the config holds.

    Args:
        expected: a type annotation as `field_types` gives it.
        value: what JSON or TOML gave: dictionary, list, string, number, boolean, None.
        path: dotted path, for errors.

    Raises:
        ValueError: the value does not fit; names the path, what was expected and what was found.

    >>> parse_value(tuple[float, float], [1, 2.5], "input.mean")
    (1.0, 2.5)
    """
    origin = get_origin(expected)
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        return value if isinstance(value, expected) else config_from_dict(expected, value, path)
    if origin is Literal:
        return _parse_literal(expected, value, path)
    if origin is tuple:
        return _parse_tuple(expected, value, path)
    if origin in (Union, types.UnionType):
        return _parse_union(expected, value, path)
    return _parse_scalar(expected, value, path)


def field_types(config_class: type[Any]) -> dict[str, Any]:
    """Type annotation of each field, in the order of the class."""
    hints = _get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def unknown_name_message(name: str, known: Iterable[str], path: str) -> str:
    """Text of the error for a field that does not exist at `path`, with the nearest that do.

    >>> unknown_name_message("momentun", ["lr", "momentum"], "train")
    "unknown field 'train.momentun'; did you mean train.momentum?"
    """
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = (
        f"did you mean {_listed(nearest, path)}?" if nearest else f"known: {_listed(names, path)}"
    )
    return f"unknown field {join_path(path, name)!r}; {hint}"


def join_path(path: str, name: str) -> str:
    """Dotted path of field `name` inside `path`, which is empty for the whole config.

    >>> join_path("", "train"), join_path("train", "lr")
    ('train', 'train.lr')
    """
    return f"{path}.{name}" if path else name


def _to_plain(value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _to_plain(getattr(value, field.name), join_path(path, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [_to_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        return _finite(value, path)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(
        f"{path}: {value!r} has no place in a config: use configs, tuples, strings, numbers, "
        "booleans and None"
    )


def _parse_literal(expected: Any, value: Any, path: str) -> Any:
    # 1 == True: the type has to agree as well.
    for choice in get_args(expected):
        if type(choice) is type(value) and choice == value:
            return choice
    raise _mismatch(expected, value, path)


def _parse_tuple(expected: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _mismatch(expected, value, path)
    items = get_args(expected)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise _mismatch(expected, value, path)
    return tuple(
        parse_value(item, entry, f"{path}[{index}]")
        for index, (item, entry) in enumerate(zip(items, value, strict=True))
    )


def _parse_union(expected: Any, value: Any, path: str) -> Any:
    members = get_args(expected)
    configs: list[Any] = [member for member in members if dataclasses.is_dataclass(member)]
    if isinstance(value, Mapping) and configs:
        return config_from_dict(_choose_config(configs, value, path), value, path)
    if isinstance(value, tuple(configs)):
        return value
    for member in members:
        if member in configs:
            continue
        try:
            return parse_value(member, value, path)
        except ValueError:  # another member may take it
            continue
    raise _mismatch(expected, value, path)


def _choose_config(configs: list[Any], value: Mapping[str, Any], path: str) -> Any:
    if len(configs) == 1:
        return configs[0]
    by_kind = {
        kind: config for config in configs for kind in get_args(field_types(config)[KIND_FIELD])
    }
    kind = value.get(KIND_FIELD)
    if kind not in by_kind:
        raise ValueError(
            f"{join_path(path, KIND_FIELD)}: expected one of {', '.join(by_kind)}, found {kind!r}"
        )
    return by_kind[kind]


def _parse_scalar(expected: Any, value: Any, path: str) -> Any:
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is types.NoneType and value is None:
        return None
    is_number_for_bool = isinstance(value, bool) and expected is not bool
    if not isinstance(expected, type) or not isinstance(value, expected) or is_number_for_bool:
        raise _mismatch(expected, value, path)
    return _finite(value, path) if isinstance(value, float) else value


def _finite(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{path}: expected a finite number, found {value}")
    return value


def _required_fields(config_class: type[Any]) -> set[str]:
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(config_class)
        if field.default is missing and field.default_factory is missing
    }


def _mismatch(expected: Any, value: Any, path: str) -> ValueError:
    return ValueError(f"{path}: expected {_type_name(expected)}, found {value!r}")


def _type_name(expected: Any) -> str:
    if get_origin(expected) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(expected))
    if expected is types.NoneType:
        return "None"
    return (
        expected.__name__
        if isinstance(expected, type) and not get_args(expected)
        else str(expected)
    )


def _where(path: str, config_class: type[Any]) -> str:
    return path or config_class.__name__


def _listed(names: Iterable[str], path: str) -> str:
    return ", ".join(join_path(path, name) for name in names)
