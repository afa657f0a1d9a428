"""Error messages for settings: one line, with the setting, its value, and what to do."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import Experiment

SettingPath = tuple[str | int, ...]  # of a setting, from the top of the file

WISHES = {
    "string_type": "text, in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "dict_type": 'a table, such as { name = "coral" }',
    "model_type": "a table",
    "too_short": "a list of at least one",
}

MOST_NAMES = 30  # that a message lists


def choose_entry(table: Mapping[str, Any], name: Any, at: str, listed_by: str = "") -> Any:
    """Return the entry of that name. ``at``: the setting that names it. Raises ConfigError."""
    check_choice(table, name, at, listed_by)
    return table[name]


def check_choice(names: Mapping[str, Any] | Sequence[str], name: Any, at: str, listed_by: str = "") -> None:
    """
    Raise ConfigError unless the setting ``at`` has one of these names. The most similar name comes first.
    ``listed_by``: the command that lists all names, where they are too many for a message.
    """
    if not isinstance(name, str) or name not in names:
        near = get_close_matches(str(name), list(names), 1)
        way_out = f"list all names with: {listed_by}" if listed_by else f"choose from {', '.join(names)}"
        hint = f"did you mean {near[0]!r}? Otherwise " if near else ""
        raise ConfigError(f"{at} = {shorten(name)} is unknown; {hint}{way_out}")


def unknown_setting(path: str, known: Sequence[str], model: type[BaseModel] = Experiment) -> str:
    """
    Return the message for a key that is not a setting. ``path``: the key with its tables; ``known``: settings of the same
    table. Similar names are suggested by the last part alone; a key outside of any table also from all of ``model``.
    """
    above, dot, key = path.rpartition(".")
    if (reason := absent_setting(path)) is not None:
        return f'"{path}" is not a setting: {reason}'
    siblings = {name.rpartition(".")[2]: name for name in known}
    near = [siblings[name] for name in get_close_matches(key, list(siblings), 1)]
    near += [name for name in _settings(model) if name.rpartition(".")[2] == key and "." not in above]
    if path in near:
        return f'"{path}" is a key with a dot; write {{"{above}": {{"{key}": ...}}}}, or in TOML {key} = ... under [{above}]'
    there = (
        f"; [{above}] has {_listed(list(siblings))}"
        if above and known
        else f"; there are {', '.join(known) or 'none'}"
    )
    hint = f'; did you mean "{near[0]}"?' if near else there
    return f"{json.dumps(above + dot + key, ensure_ascii=False)} is not a setting{hint}"


def mistakes_in_one_line(
    error: ValidationError, table: Mapping[str, Any], at: str = "", model: type[BaseModel] = Experiment
) -> str:
    """
    Return the first mistake and the number of the others. ``at``: where the table stands, with a dot at its end; ``model``:
    the settings of the whole file.
    """
    first, *others = mistake_lines(error, table, at, model).values()
    return first + (f" (and {len(others)} more)" if others else "")


def mistake_lines(
    error: ValidationError, table: Mapping[str, Any], at: str = "", model: type[BaseModel] = Experiment
) -> dict[SettingPath, str]:
    """Return a line for each mistake, by the path of the setting."""
    # A misspelt key is both unknown and, under its right name, missing: report it as unknown.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] == "missing")
    by_path: dict[SettingPath, list[Mapping[str, Any]]] = {}
    for problem in problems:
        by_path.setdefault(_setting_path(problem, table), []).append(problem)
    return {path: _line(path, own, at, model) for path, own in by_path.items()}


def _setting_path(problem: Mapping[str, Any], table: Mapping[str, Any]) -> SettingPath:
    return tuple(problem["loc"]) if problem["type"] == "missing" else _path(problem["loc"], table)


def _line(
    path: SettingPath, problems: Sequence[Mapping[str, Any]], above: str, model: type[BaseModel]
) -> str:
    first, at = problems[0], above + _spelled(path)
    if first["type"] == "missing":
        return f"{at} is missing; it has no default"
    if (reason := retired_value(at, first["input"])) is not None:
        return f"{at} = {shorten(first['input'])} is no longer accepted: {reason}"
    if first["type"] != "extra_forbidden":
        wishes = dict.fromkeys(map(_wish, problems))
        named = isinstance(first["input"], str) and f"{at}.name" in _settings(model)
        hint = f"; did you mean {at}.name = {shorten(first['input'])}?" if named else ""
        return f"{at} = {shorten(first['input'])}: must be {' or '.join(wishes)}{hint}"
    table = _spelled(path[:-1])
    known = [name for name in _settings(model, tables=True) if name.rpartition(".")[0] == table]
    return unknown_setting(at, known, model)


def _path(loc: Sequence[str | int], table: Mapping[str, Any]) -> SettingPath:
    """Return the path in the file. Pydantic adds the branches of a union to it, which are left out here."""
    path: list[str | int] = []
    value: Any = table
    key: Any
    for key in loc:
        below: Any = dict(enumerate(value)) if isinstance(value, list) else value
        if not isinstance(below, Mapping) or key not in below:
            break
        path.append(key)
        value = below[key]
    return tuple(path)


def _spelled(path: Sequence[str | int]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _wish(problem: Mapping[str, Any]) -> str:
    text = str(problem["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
    text = text.removeprefix("Value error, ").removeprefix("must be ")
    if problem["type"] == "list_type":
        return f"a list, such as {_as_list(problem['input'])}"
    return WISHES.get(problem["type"], text)


def _as_list(value: Any) -> str:
    """Return the list that was meant, in brackets; of what is neither text nor a number, an example."""
    if isinstance(value, str):
        return json.dumps([part.strip() for part in value.split(",")], ensure_ascii=False)
    return f"[{value}]" if isinstance(value, int | float) and not isinstance(value, bool) else '["a", "b"]'


def _listed(names: Sequence[str]) -> str:
    """Return names in one line, the first ``MOST_NAMES`` of many."""
    more = len(names) - MOST_NAMES
    return ", ".join([*names[:MOST_NAMES], *([f"and {more} more"] if more > 0 else [])])


def shorten(value: Any) -> str:
    """Return the value's repr, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _settings(model: type[BaseModel], tables: bool = False, above: str = "") -> Iterator[str]:
    """Yield every key, such as "data.limit". ``tables``: also the names of tables."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))  # a table, or a table that may be left out
        table = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if table is None or tables:
            yield above + name
        if table is not None:
            yield from _settings(table, tables, f"{above}{name}.")


# Why settings that other libraries have do not exist under [privacy], and what to set instead.
NOISE = (
    "the noise multiplier is computed from privacy.epsilon, privacy.delta, the number of rows and the number of steps; "
    "for training without noise leave [privacy] out"
)
SAMPLE = (
    "batches are always Poisson samples, because the accountant assumes Poisson sampling; shuffled batches would cost more "
    "epsilon than is charged"
)
RATE = (
    "set privacy.sample_rate, the probability that a step takes a unit; without it train.batch_size over the number of units "
    "is used. Poisson samples differ in size, and none is dropped"
)
STEPS = (
    "set privacy.steps, the number of steps in a round; without it train.epochs, train.batch_size and the rows give it. It is "
    "fixed before training, because the ledger is charged for exactly these steps"
)
CLIP = "set privacy.clip, the clipping norm of one unit's gradient over all trainable tensors"
SOURCE = (
    "noise and samples always come from the operating system's random generator; "
    'privacy.noise = "reproducible" takes both from seed, for debugging, and then nothing is private'
)
LEDGER = "each silo has one ledger for all rounds; it is charged before each round and never reset"
ADJACENCY = "epsilon is for zero-out adjacency of one unit, with a public number of units; results also show the epsilon for replace-one adjacency"
METRIC = "set privacy.metrics to release a metric with noise, charged to the ledger; losses and exact metrics never leave"

REASONS = {
    **dict.fromkeys(("noise_multiplier", "sigma", "noise_scale", "noise_std", "noise_level"), NOISE),
    **dict.fromkeys(("poisson", "poisson_sampling", "shuffle", "shuffled", "sampling", "sampler"), SAMPLE),
    **dict.fromkeys(("sampling_rate", "batch_size", "drop_last"), RATE),
    **dict.fromkeys(("max_steps", "steps_per_round", "steps_a_round", "epochs", "rounds"), STEPS),
    **dict.fromkeys(("max_grad_norm", "clipping_norm", "l2_norm_clip", "clip_norm", "clipping"), CLIP),
    **dict.fromkeys(("secure_mode", "secure_rng", "secure", "seed", "noise_seed", "generator"), SOURCE),
    **dict.fromkeys(("accountant", "reset", "reset_engine", "per_round", "epsilon_per_round"), LEDGER),
    **dict.fromkeys(("adjacency", "neighbouring", "neighboring", "replace_one"), ADJACENCY),
    **dict.fromkeys(("metric", "loss", "accuracy", "validation", "val"), METRIC),
}
GONE = {
    ("tuning", "charged"): (
        "fedtl does not compute the privacy cost of choosing settings on private rows; "
        'set "public" if settings were chosen on public rows only, otherwise "undeclared"'
    )
}


RENAMED = {
    "data.partition": 'write data.deal = { by = "dirichlet", ... }; by = "label" is now by = "dirichlet"',
    "method.personalise": "training at each silo after the last round is set under [method.tune]: what, epochs, lr, schedule",
}


def retired_value(path: str, value: Any) -> str | None:
    """Return why a setting of ``[privacy]`` no longer has this value, and what to do; None for other values."""
    *above, key = path.split(".")
    return GONE.get((key, value)) if above[-1:] == ["privacy"] and isinstance(value, str) else None


def absent_setting(path: str) -> str | None:
    """Return why a key does not exist that somebody may look for; None for other keys."""
    *above, key = path.split(".")
    return REASONS.get(key) if above[-1:] == ["privacy"] else RENAMED.get(path)
