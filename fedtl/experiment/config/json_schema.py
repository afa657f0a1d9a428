"""The JSON Schema (draft 7) of an experiment, with what each key does: for editors, and for the pages of docs/reference."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedtl._util.settings import Settings
from fedtl.data.registry import DATA
from fedtl.experiment.config.about import ABOUT
from fedtl.experiment.config.schema import ENSEMBLE, Experiment
from fedtl.methods.registry import METHODS
from fedtl.models.registry import MODELS

Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"  # the newest that Taplo knows, the language server of TOML in most editors


def experiment_schema() -> Schema:
    """Return the schema of an experiment's TOML. Names of methods, models and sources are proposed; others stay possible."""
    schema = settings_schema(Experiment, "An experiment of fedtl", ABOUT)
    tables: Mapping[str, Schema] = schema["$defs"]
    for table, names in (("MethodSettings", METHODS), ("ModelSettings", MODELS), ("DataSettings", DATA)):
        key = "source" if table == "DataSettings" else "name"
        tables[table]["properties"][key] |= _proposed(list(names))
    tables["CompareSettings"]["properties"]["methods"]["items"] = _proposed([*METHODS, ENSEMBLE])
    return schema


def settings_schema(kind: type[Settings], title: str, about: Mapping[str, str]) -> Schema:
    """Return the schema of a file of settings. ``about``: by the path of a key, what it does. A key cannot be null."""
    schema = kind.model_json_schema()
    _describe(schema, "", about, schema.get("$defs", {}))
    return {"$schema": DRAFT, **schema, "title": title}


def _proposed(names: Sequence[str]) -> Schema:
    """Return the schema of a text for which an editor proposes these names. A package may add others."""
    return {"anyOf": [{"enum": list(names)}, {"type": "string"}]}


def _describe(table: Schema, prefix: str, about: Mapping[str, str], tables: Mapping[str, Schema]) -> None:
    """Write into ``table``, in place, what each key does, and take out what a TOML file cannot hold."""
    for name, key in table.get("properties", {}).items():
        key.pop("title", None)
        if key.get("default", 0) is None:
            del key["default"]
        forms = [form for form in key.pop("anyOf", [])[:] if form != {"type": "null"}]
        if len(forms) == 1:
            key |= forms[0]
        elif forms:
            key["anyOf"] = forms
        if prefix + name in about:
            key["description"] = about[prefix + name]
        inner = key.get("$ref") or key.get("additionalProperties") or ""
        reference = inner.get("$ref", "") if isinstance(inner, dict) else inner
        if isinstance(reference, str) and reference:
            _describe(tables[reference.rpartition("/")[2]], f"{prefix}{name}.", about, tables)
