"""The JSON Schema (draft 2020-12) of the files that ``records`` writes: what ``to_plain`` makes of a frozen dataclass."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from inspect import getdoc
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

DRAFT = "https://json-schema.org/draft/2020-12/schema"
JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
Schema = dict[str, Any]


def record_schema(kind: type) -> Schema:
    """Return the schema of the file that holds a record of this type. A key that it does not list is not allowed."""
    kinds: dict[str, Schema] = {}
    return {"$schema": DRAFT, "title": kind.__name__, **_record(kind, kinds), "$defs": kinds}


def _of(kind: Any, kinds: dict[str, Schema]) -> Schema:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin in (Union, UnionType):
        (inner,) = (other for other in arguments if other is not NoneType)
        return {"anyOf": [_of(inner, kinds), {"type": "null"}]}
    if is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in kinds:
            kinds[kind.__name__] = {}  # a record may hold records of its own type
            kinds[kind.__name__] = _record(kind, kinds)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], kinds)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], kinds)}
    if issubclass(kind, Enum):
        return {"enum": [one.value for one in kind]}
    return {"type": JSON_TYPES[kind]}


def _record(kind: type, kinds: dict[str, Schema]) -> Schema:
    """Return the schema of one record; the entries of a field that is written flat are keys of the record itself."""
    hints = get_type_hints(kind)
    properties: dict[str, Schema] = {}
    required: list[str] = []
    others: Schema | bool = False
    for field in fields(kind):
        inner = _of(hints[field.name], kinds)
        name = str(field.metadata.get("key", field.name))
        if not field.metadata.get("flat"):
            properties[name] = inner
            if field.default is MISSING and field.default_factory is MISSING:
                required.append(name)
            continue
        record = kinds[inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
        properties |= record.get("properties", {})
        required += record.get("required", [])
        others = record["additionalProperties"]
    return {
        "type": "object",
        "description": " ".join((getdoc(kind) or "").split()),
        "properties": properties,
        "required": required,
        "additionalProperties": others,
    }
