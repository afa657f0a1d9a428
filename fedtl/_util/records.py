"""
Frozen dataclasses to the plain values of a JSON file and back.

A field that has its default value is left out of the file. A field marked ``FLAT`` is written without a key of its own:
its entries stand next to those of the record that holds it. A field with ``key(...)`` has that key in the file.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

FLAT = {"flat": True}
Record = TypeVar("Record")


def key(name: str) -> dict[str, str]:
    """Metadata of a field whose key in the file is not its name."""
    return {"key": name}


def to_plain(value: Any) -> Any:
    """Return dicts, lists, strings and numbers that ``json`` can write."""
    if is_dataclass(value):
        content: dict[str, Any] = {}
        for field in fields(value):
            part = getattr(value, field.name)
            if field.metadata.get("flat"):
                content |= to_plain(part)
            elif not _is_default(field, part):
                content[_key(field)] = to_plain(part)
        return content
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    return value.value if isinstance(value, Enum) else value


def from_plain(kind: type[Record], content: Any) -> Record:
    """Return the record that ``to_plain`` wrote. Raises ValueError, with the path of the value that does not fit."""
    return _read(kind, content, kind.__name__)


def _key(field: "Field[Any]") -> str:
    return str(field.metadata.get("key", field.name))


def _is_default(field: "Field[Any]", value: Any) -> bool:
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return field.default is not MISSING and bool(value == field.default)


def _read(kind: Any, content: Any, path: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return content
    if origin in (Union, UnionType):
        (inner,) = (other for other in arguments if other is not NoneType)
        return None if content is None else _read(inner, content, path)
    if is_dataclass(kind):
        return _read_record(kind, _checked(Mapping, content, path), path)
    if origin is tuple:
        return tuple(_read(arguments[0], part, path) for part in _checked(list, content, path))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        parts = _checked(Mapping, content, path).items()
        return {key: _read(arguments[1], part, f"{path}.{key}") for key, part in parts}
    if issubclass(kind, Enum):
        return kind(content)
    return _checked((int, float) if kind is float else kind, content, path)


def _read_record(kind: Any, content: Mapping[str, Any], path: str) -> Any:
    types, values = _types(kind), dict[str, Any]()
    known = {_key(field) for field in fields(kind)}
    rest = {name: part for name, part in content.items() if name not in known}
    for field in fields(kind):
        if field.metadata.get("flat"):
            values[field.name] = _read(types[field.name], rest, path)
        elif (name := _key(field)) in content:
            values[field.name] = _read(types[field.name], content[name], f"{path}.{name}")
        elif NoneType in get_args(types[field.name]):
            values[field.name] = None
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{path} has no {name}")
    return kind(**values)


@lru_cache(None)
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(kind: Any, content: Any, path: str) -> Any:
    if not isinstance(content, kind) or (isinstance(content, bool) and kind is not bool):
        raise ValueError(f"{path} is {str(content)[:40]!r}")
    return content
