"""The settings of an experiment, of a site and of a coordinator: each key with its values, its default and what it does."""

import json
from collections.abc import Iterator, Mapping
from inspect import getdoc
from typing import Any

from fedtl.cli.schema import file_schemas
from fedtl.data.settings import AGREED, SliceSettings
from fedtl.deployment.coordinator.settings import ServerSettings
from fedtl.deployment.site.settings import BudgetSettings, HomeSettings, PolicySettings, SiteDataSettings
from fedtl.experiment.config.about import ABOUT
from reference.markdown import anchor, blocks, code, escaped, table

Schema = Mapping[str, Any]
NAMES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "table",
}
PLURALS = {
    "whole number": "whole numbers",
    "number": "numbers",
    "text": "texts",
    "list": "lists",
    "table": "tables",
}


def values(schema: Schema, tables: Schema) -> str:
    """Return in words which values a key can have."""
    if "$ref" in schema:
        return values(tables[schema["$ref"].rpartition("/")[2]], tables)
    if "anyOf" in schema:
        forms = [form for form in schema["anyOf"] if form != {"type": "null"}]
        if {"type": "string"} in forms and any("enum" in form for form in forms):
            return "text"  # names that are proposed
        return ", or ".join(values(form, tables) for form in forms)
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return _list(schema, tables)
    if isinstance(inner := schema.get("additionalProperties"), Mapping) and inner:
        return f"table of {plural(values(inner, tables))} by name"
    return " ".join([NAMES[schema["type"]], *_limits(schema)])


def _list(schema: Schema, tables: Schema) -> str:
    items = schema.get("items", {})
    kind = plural(values(items, tables)) if items else "values"
    low, high = schema.get("minItems"), schema.get("maxItems")
    size = (
        f" ({low if low == high else f'{low or 0} or more' if high is None else f'at most {high}'})"
        if low or high
        else ""
    )
    return f"list of {kind}{size}"


def _limits(schema: Schema) -> Iterator[str]:
    """Yield the range of a number, or the length of a text."""
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    for key, word in words.items():
        if key in schema:
            yield f"{word} {schema[key]:g}"
    if schema.get("minLength") == schema.get("maxLength") == 1:
        yield "of one character"
    elif "maxLength" in schema:
        yield f"of at most {schema['maxLength']} characters"


def plural(words: str) -> str:
    """Return "numbers above 0" for "number above 0"."""
    return next(
        (many + words.removeprefix(one) for one, many in PLURALS.items() if words.startswith(one)), words
    )


def default(schema: Schema, required: bool) -> str:
    """Return the default of a key."""
    if required:
        return "required"
    if "default" not in schema or schema["default"] is None:
        return "not set"
    return code(json.dumps(schema["default"], ensure_ascii=False))


def is_table(schema: Schema, tables: Schema) -> bool:
    """Return whether a key is a table with keys of its own."""
    return "properties" in tables.get(schema.get("$ref", "").rpartition("/")[2], {})


def experiment() -> str:
    """Return all tables of an experiment. The key ``a.b`` has the anchor "setting-a.b"."""
    schema = file_schemas()["experiment"]()
    return "\n\n".join(_tables(schema, "", schema["$defs"]))


def _tables(schema: Schema, path: str, tables: Schema) -> Iterator[str]:
    required, rows, inner = schema.get("required", []), [], []
    for name, key in schema["properties"].items():
        full = f"{path}.{name}" if path else name
        below = key.get("additionalProperties")
        if is_table(key, tables) or (isinstance(below, Mapping) and is_table(below, tables)):
            inner.append((full, key if is_table(key, tables) else below))
            continue
        rows.append(
            [
                f"{anchor(f'setting-{full}')}{code(name)}",
                values(key, tables),
                default(key, name in required),
                escaped(ABOUT.get(full, "")),
                _who(full),
            ]
        )
    heading = f"## [{path}]" if path else "## At the top of the file"
    if path.startswith("silo"):
        heading = heading.replace("[silo", "[silo.&lt;name&gt;")
    about = ABOUT.get(path, "")
    text = f"{about[:1].upper()}{about[1:]}." if about else ""
    yield "\n\n".join(
        part for part in (f"{anchor(f'setting-{path}') if path else ''}", heading, escaped(text)) if part
    )
    if rows:
        yield table(["key", "values", "default", "what it does", "at an institution"], rows)
    for full, key in inner:
        yield from _tables(tables[key["$ref"].rpartition("/")[2]], full, tables)


def _who(path: str) -> str:
    """Return who sets a key where institutions take part: the plan that all sites approve, or each site."""
    first, _, name = path.partition(".")
    if first == "privacy":
        return (
            "the site decides; a plan may only be stricter" if name in BudgetSettings.model_fields else "plan"
        )
    if first in ("compare", "audit", "engine"):
        return "simulation only"
    if first != "data":
        return "plan"
    name = name.partition(".")[0]
    own, agreed = name in SiteDataSettings.model_fields, name in AGREED
    return "site, else plan" if own and agreed else "site" if own else "plan" if agreed else "simulation only"


def silo() -> str:
    """Return the tables of silo.toml."""
    schema = file_schemas()["silo"]()
    kinds = {
        "": HomeSettings,
        "data": SiteDataSettings,
        "data.slices": SliceSettings,
        "policy": PolicySettings,
        "policy.privacy": BudgetSettings,
    }
    return "\n\n".join(_plain_table(schema, path, kind) for path, kind in kinds.items())


def server() -> str:
    """Return the keys of server.toml."""
    return _plain_table(file_schemas()["server"](), "", ServerSettings)


def _plain_table(schema: Schema, path: str, kind: type) -> str:
    """Return the keys of a table of settings that are values, after what its docstring says."""
    tables = schema.get("$defs", {})
    found = tables.get(kind.__name__, schema)
    rows = [
        [
            code(name),
            values(key, tables),
            default(key, name in found.get("required", [])),
            escaped(key.get("description", "")),
        ]
        for name, key in found["properties"].items()
        if not is_table(key, tables)
    ]
    text = blocks(getdoc(kind) or "")
    heading = f"### [{path}]" if path else "### At the top of the file"
    return f"{heading}\n\n{text}\n\n" + table(["key", "values", "default", "what it does"], rows)
