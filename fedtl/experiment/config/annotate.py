"""An experiment as TOML with every key and what it does: those that are not set, and tables that it does not have, as comments."""

import json
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, get_args

from fedtl._util.settings import Settings
from fedtl.experiment.config.about import ABOUT
from fedtl.experiment.config.schema import Experiment, SiloSettings

WIDTH = 36  # characters of key and value before what the key does
BARE = re.compile(r"[A-Za-z0-9_-]+")


def annotated_toml(experiment: Experiment) -> str:
    """Return TOML that ``load_experiment`` turns into the same experiment."""
    return "\n".join(_table(experiment, "")) + "\n"


def keys() -> Iterator[str]:
    """Yield the path of every key of an experiment; those of [silo.<name>] without the name."""
    yield from _keys(Experiment, "")
    yield from _keys(SiloSettings, "silo.")


def _keys(model: type[Settings], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if prefix + name != "silo" and (inner is None or field.default is None):
            yield prefix + name
        if inner is not None and prefix != "silo.":
            yield from _keys(inner, f"{prefix}{name}.")


def _table(settings: Settings, path: str) -> Iterator[str]:
    """Yield the lines of a table: its values, then its tables."""
    prefix = f"{path}." if path else ""
    if path:
        yield "\n" + _with_about(f"[{path}]", path)
    fields = type(settings).model_fields.items()
    values = [name for name, field in fields if _model_in(field.annotation) is None]
    tables = [(name, inner) for name, field in fields if (inner := _model_in(field.annotation)) is not None]
    for name in values:
        if prefix + name != "silo":  # its tables come last
            yield _line(name, getattr(settings, name), prefix + name)
    for name, value in (settings.model_extra or {}).items():
        yield f"{toml_key(name)} = {inline(value)}"
    for name, inner in tables:
        value = getattr(settings, name)
        yield from _absent(inner, prefix + name) if value is None else _table(value, prefix + name)
    if not path and isinstance(settings, Experiment):
        yield from _silos(settings)


def _absent(model: type[Settings], path: str) -> Iterator[str]:
    """Yield the lines of a table that the experiment does not have, as comments."""
    yield "\n" + _with_about(f"# [{path}]", path)
    for name, field in model.model_fields.items():
        value = None if field.is_required() else field.default
        yield _line(name, value, f"{path}.{name}", absent=True)


def _silos(experiment: Experiment) -> Iterator[str]:
    """Yield the tables of single silos, or what they may hold."""
    for name, silo in experiment.silo.items():
        for key, value in silo.model_dump(exclude_none=True, exclude_defaults=True).items():
            yield "\n" + _with_about(f"[silo.{toml_key(name)}.{key}]", f"silo.{key}")
            yield from (f"{toml_key(inner)} = {inline(one)}" for inner, one in value.items())
    if not experiment.silo:
        for key in SiloSettings.model_fields:
            yield "\n" + _with_about(f"# [silo.<name>.{key}]", f"silo.{key}")


def _line(name: str, value: Any, path: str, absent: bool = False) -> str:
    comment = "# " if absent or value is None else ""
    text = comment + (f"{toml_key(name)} =" if value is None else f"{toml_key(name)} = {inline(value)}")
    return _with_about(text, path)


def _with_about(text: str, path: str) -> str:
    about = ABOUT.get(path)
    return f"{text.ljust(WIDTH)}  # {about}" if about else text


def toml_key(name: str) -> str:
    return name if BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def inline(value: Any) -> str:
    """Return a value as TOML in one line."""
    if isinstance(value, Settings):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, dict):
        pairs = (f"{toml_key(str(name))} = {inline(one)}" for name, one in value.items() if one is not None)
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(str(value) if isinstance(value, str) else value, ensure_ascii=False)


def _model_in(annotation: Any) -> type[Settings] | None:
    """Return the table that a field of this type is, or may be; None for a value."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)), None)
