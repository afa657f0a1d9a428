"""The files that fedtl writes, from the types that write them."""

import inspect
from collections.abc import Mapping
from typing import Any

from fedtl.cli.schema import file_schemas
from reference.markdown import blocks, code, table
from reference.settings import values

WHERE = {
    "result": "`result.json` of a run",
    "history": "`history.jsonl` of a run: each line",
    "metrics": "`metrics.jsonl`, or how the file of `fedtl watch RUN --metrics FILE` is named: each line",
    "comparison": "`comparison.json` of a comparison",
    "plan": "what `fedtl show --json` prints",
    "data": "`data.json`, and what `fedtl data EXP --json` prints",
    "audit": "`audit.json` of an audit",
    "onboard": "`onboard.json`",
    "transferability": "`transferability.json`",
}


def files() -> str:
    """Return a section for each file of results, with the types inside it."""
    return "\n\n".join(_file(name, WHERE[name], file_schemas()[name]()) for name in WHERE)


def _file(name: str, where: str, schema: Mapping[str, Any]) -> str:
    inner = schema["$defs"]
    parts = [f"## {where}", f"Schema: `fedtl schema {name}`.", _record(schema, inner)]
    for kind, record in inner.items():
        if "properties" in record:
            parts += [
                f"### {code(kind)} in {where.split()[0].strip('`,') if name != 'plan' else 'the plan'}",
                _record(record, inner),
            ]
    return "\n\n".join(parts)


def _record(record: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    rows = [
        [code(key), _type(form, inner), "yes" if key in record["required"] else ""]
        for key, form in record["properties"].items()
    ]
    if isinstance(record["additionalProperties"], Mapping):
        rows.append(["further keys", _type(record["additionalProperties"], inner), ""])
    return f"{blocks(inspect.cleandoc(record['description']))}\n\n" + table(
        ["key", "value", "always there"], rows
    )


def _type(form: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    """Return the type of a value. A record has its own table below."""
    if not form:
        return "any value"
    if "$ref" in form:
        return code(form["$ref"].rpartition("/")[2])
    if "anyOf" in form:
        return f"{_type(form['anyOf'][0], inner)}, or null"
    if form["type"] == "array" if "type" in form else False:
        return f"list of {_type(form['items'], inner)}"
    if isinstance(form.get("additionalProperties"), Mapping):
        return f"by name: {_type(form['additionalProperties'], inner)}"
    return values(form, inner)
