"""
Read an experiment from its TOML file, and check it before anything starts. Opens no data source and builds no model.
"""

import os.path
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from fedtl._util.toml_text import Table, parse_toml
from fedtl.data.hub_sets import is_hub_set
from fedtl.data.settings import ELSEWHERE, NOISE, SCALES
from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.checks import check_experiment
from fedtl.experiment.config.messages import shorten
from fedtl.experiment.config.privacy_checks import unsound
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.config.settings_file import read_toml, validate
from fedtl.experiment.config.text_checks import with_text_folder
from fedtl.experiment.config.units import with_unit
from fedtl.models.exported import exported_weights
from fedtl.models.folder_files import FOLDER, is_folder_name
from fedtl.models.packaged import PREFIX, packaged_file


def load_experiment(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read and check an experiment, as ``read_experiment`` and ``parse_experiment`` do. Raises ConfigError."""
    return parse_experiment(read_experiment(name, overrides))


def read_experiment(name: str, overrides: Sequence[str] = ()) -> Table:
    """
    Return the plain values of the file ``name``, or of the shipped experiment of that name, with the ``a.b=c`` overrides.

    Paths in the file are relative to the file, paths in an override to the working directory. Checks nothing else. Raises
    ConfigError where the file does not exist or is not TOML.
    """
    path = Path(name)
    if not os.path.isfile(name):
        shipped = files("fedtl") / "experiments" / f"{name}.toml"
        if path.suffix or "/" in name or name not in shipped_names():
            if os.path.isdir(name):
                raise ConfigError(_folder_instead(path))
            raise ConfigError(
                f"there is no file {name}, and no shipped experiment of that name; shipped: {', '.join(shipped_names())}"
            )
        path = Path(str(shipped))
    table = read_toml(path)
    _make_absolute(table, path.parent.absolute())
    return _merged(table, overriding(overrides))


def _folder_instead(folder: Path) -> str:
    """Return the message for a folder in the place of an experiment."""
    if (file := folder / "experiment.toml").is_file():
        return f"{folder} is a folder; its experiment is {file}"
    return (
        f"{folder} is a folder; name a TOML file, or let fedtl new propose one: fedtl new DIR --data {folder}"
    )


def shipped_names() -> list[str]:
    return sorted(
        Path(str(file)).stem
        for file in (files("fedtl") / "experiments").iterdir()
        if str(file).endswith(".toml")
    )


def parse_settings(table: Mapping[str, Any]) -> Experiment:
    """
    Return an experiment from plain values. Its privacy guarantee may be unsound: ``privacy_checks.unsound`` says so. Raises
    ConfigError, in one line.
    """
    return check_experiment(with_text_folder(with_unit(validate(Experiment, table))))


def parse_experiment(table: Mapping[str, Any]) -> Experiment:
    """
    Return an experiment that may be trained. Raises ConfigError, in one line, also where its privacy guarantee would not hold.
    """
    experiment = parse_settings(table)
    for problem in unsound(experiment):
        raise ConfigError(problem)
    return experiment


def with_changes(experiment: Experiment, **changes: Any) -> Experiment:
    """Return the experiment with some values replaced, checked again. Raises ConfigError."""
    return parse_experiment(
        {name: getattr(experiment, name) for name in type(experiment).model_fields} | changes
    )


def to_toml(experiment: Experiment) -> str:
    """Return TOML that ``load_experiment`` turns into the same experiment."""
    return tomli_w.dumps(experiment.model_dump(exclude_none=True))


def overriding(overrides: Sequence[str]) -> Table:
    """Return ``["data.limit=100"]`` as nested tables. A value that is not TOML is text."""
    table: Table = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r} is not KEY=VALUE; an example: --set train.lr=0.01")
        *above, last = (part.strip() for part in key.split("."))
        inner = table
        for part in above:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {'.'.join(above)}: set twice; keep one of them")
        if last in inner:
            raise ConfigError(f"--set {key.strip()}: set twice; keep one of them")
        inner[last] = _value(text)
    _make_absolute(table, Path.cwd())
    return table


def _value(text: str) -> Any:
    try:
        parsed = parse_toml(f"value = {text}", "--set")
    except ValueError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def merge_settings(table: Mapping[str, Any], changes: Mapping[str, Any]) -> Table:
    """
    Return the plain values of an experiment with some replaced or added, table by table. Paths among the changes are
    relative to the working directory. Raises ConfigError.
    """
    added = deepcopy(dict(changes))
    _make_absolute(added, Path.cwd())
    return _merged(table, added)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    """Return the values of ``below`` with those of ``above``, table by table; an empty table takes the place of another one."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        inner = isinstance(old, Mapping) and isinstance(value, Mapping) and len(value) > 0
        merged[key] = _merged(merged[key], value) if inner else value
    return merged


def _make_absolute(table: Table, base: Path) -> None:
    """Make the paths in the table absolute, in place. ``base``: the folder they are relative to. Raises ConfigError."""
    keywords = {("data", "path"): (), ("data", "scale"): SCALES, ("model", "weights"): ("pretrained",)}
    keywords |= {("data", "tokenizer"): ()}
    for (section, key), not_paths in keywords.items():
        inner = table.get(section)
        value = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(value, str) and is_hub_set(value):
            continue  # a name, and no path
        if isinstance(inner, dict) and isinstance(value, str) and value and value not in not_paths:
            inner[key] = _packaged(value) or _absolute(value, base, f"{section}.{key}")
            if key == "weights":
                inner[key] = exported_weights(inner[key])
    model = table.get("model")
    if isinstance(model, dict) and isinstance(name := model.get("name"), str) and is_folder_name(name):
        model["name"] = FOLDER + _absolute(name.removeprefix(FOLDER), base, "model.name")
    for section, key in (("model", "pretrain_on"), ("data", "public")):
        inner = table.get(section)
        if isinstance(inner, dict) and isinstance(inner.get(key), list):
            inner[key] = [_absolute_source(entry, base, f"{section}.{key}") for entry in inner[key]]


def _absolute_source(entry: Any, base: Path, at: str) -> Any:
    source, _, path = entry.partition(":") if isinstance(entry, str) else ("", "", "")
    return (
        f"{source}:{_absolute(path, base, at)}" if path and source != NOISE and entry != ELSEWHERE else entry
    )


def _packaged(weights: str) -> str:
    """Return the file of weights of a package, "package:NAME"; "" for anything else."""
    if not weights.startswith(PREFIX):
        return ""
    try:
        return str(packaged_file(weights.removeprefix(PREFIX)))
    except ModelError as error:
        raise ConfigError(str(error)) from error


def _absolute(path: str, base: Path, at: str) -> str:
    try:
        return str((base / Path(path).expanduser()).resolve())
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a loop of links, no such user's home
        raise ConfigError(f"{at} = {shorten(path)} is not a valid path: {error}") from error
