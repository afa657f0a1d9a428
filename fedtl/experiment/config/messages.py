"""How a mistake in settings is said: in one line, with the place, the value and the way out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from fedtl.errors import ConfigError
from fedtl.experiment.config.schema import Experiment

SettingPath = tuple[str | int, ...]  # of a setting, from the top of the file

WISHES = {
    "string_type": "text, in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": 'a list, such as ["a", "b"]',
    "dict_type": 'a table, such as { name = "coral" }',
    "model_type": "a table",
    "too_short": "a list of at least one",
}


def entry(table: Mapping[str, Any], name: Any, at: str) -> Any:
    choice(table, name, at)
    return table[name]


def choice(names: Mapping[str, Any] | Sequence[str], name: Any, at: str) -> None:
    if not isinstance(name, str) or name not in names:
        near = get_close_matches(str(name), list(names), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{at} = {short(name)} is not one of {', '.join(names)}{hint}")


def unknown(path: str, known: Sequence[str]) -> str:
    """``path`` and ``known`` end in the key in question; what comes before it is no part of the likeness."""
    above, dot, key = path.rpartition(".")
    if (reason := absent(path)) is not None:
        return f'"{path}" is not a setting: {reason}'
    siblings = {name.rpartition(".")[2]: name for name in known}
    near = [siblings[one] for one in get_close_matches(key, list(siblings), 1)]
    near += [name for name in _settings() if name.rpartition(".")[2] == key and "." not in above]
    hint = f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(known) or 'none here'}"
    return f"{json.dumps(above + dot + key, ensure_ascii=False)} is not a setting{hint}"


def one_line(error: ValidationError, table: Mapping[str, Any], at: str = "") -> str:
    """Return the first mistake and the number of the others. ``at``: where the table stands, with a dot at its end."""
    first, *others = lines(error, table, at).values()
    return first + (f" (and {len(others)} more)" if others else "")


def lines(error: ValidationError, table: Mapping[str, Any], at: str = "") -> dict[SettingPath, str]:
    """Each mistake once, by where it is, in one line."""
    # A misspelt key comes with its absence under the right name: the spelling is what to say.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] == "missing")
    found: dict[SettingPath, list[Mapping[str, Any]]] = {}
    for problem in problems:
        found.setdefault(_place(problem, table), []).append(problem)
    return {place: _line(place, its, at) for place, its in found.items()}


def _place(problem: Mapping[str, Any], table: Mapping[str, Any]) -> SettingPath:
    return tuple(problem["loc"]) if problem["type"] == "missing" else _path(problem["loc"], table)


def _line(place: SettingPath, problems: Sequence[Mapping[str, Any]], above: str) -> str:
    first, at = problems[0], above + _spelled(place)
    if first["type"] == "missing":
        return f"{at} is not given, and has no default"
    if (reason := gone(at, first["input"])) is not None:
        return f"{at} = {short(first['input'])} is gone: {reason}"
    if first["type"] != "extra_forbidden":
        wishes = dict.fromkeys(map(_wish, problems))
        return f"{at} = {short(first['input'])}: must be {' or '.join(wishes)}"
    above = _spelled(place[:-1])
    return unknown(at, [name for name in _settings(tables=True) if name.rpartition(".")[0] == above])


def _path(loc: Sequence[str | int], table: Mapping[str, Any]) -> SettingPath:
    """Without the branches of a union, which pydantic adds to the path and the file does not have."""
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
    return WISHES.get(problem["type"], text)


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _settings(tables: bool = False) -> Iterator[str]:
    """Every key as "data.limit", those of the top level too; the names of the tables themselves on request."""
    for name, field in Experiment.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))  # a table, or a table that may be left out
        below = next((kind.model_fields for kind in kinds if hasattr(kind, "model_fields")), None)
        if below is None or tables:
            yield name
        for key in below or ():
            yield f"{name}.{key}"


NOISE = (
    "the noise follows from privacy.epsilon, privacy.delta, the rows and the planned steps, and is never 0; "
    "without the table [privacy] there is none"
)
SAMPLE = (
    "each step takes every unit by its own coin (Poisson), and that is what is booked; batches of shuffled rows, booked "
    "as that, would cost more than the ledger says"
)
RATE = (
    "privacy.sample_rate says how likely each unit is drawn, and without it train.batch_size over the units does; Poisson "
    "samples differ in size, and none is dropped"
)
STEPS = (
    "privacy.steps says how many a round has, and without it train.epochs, train.batch_size and the rows do; they are fixed "
    "beforehand: other steps than those that are booked would make the epsilon untrue"
)
CLIP = 'it is called "privacy.clip": of the gradient of one unit, in the norm over all tensors that move'
SOURCE = (
    "noise and samples always come from the operating system and can be drawn by nobody again; "
    'privacy.noise = "reproducible" takes both from seed, for debugging, and then nothing is private'
)
LEDGER = "each silo has one ledger for all rounds, which is charged before each and never begun anew"
ADJACENCY = (
    "epsilon is for zero-out of one unit, with their number public; that for replace-one is printed beside it"
)
METRIC = "privacy.metrics says what may leave besides noisy tensors, and it is charged; losses and exact figures stay"

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
        "fedtl never computed what choosing settings on private rows costs, so the word promised a charge that nobody made; "
        'write "public" if only public rows were looked at, and otherwise "undeclared"'
    )
}


def gone(path: str, value: Any) -> str | None:
    """Why this value of a setting of ``[privacy]`` is no longer there, and what to do; None for any other."""
    *above, key = path.split(".")
    return GONE.get((key, value)) if above[-1:] == ["privacy"] and isinstance(value, str) else None


def absent(path: str) -> str | None:
    """Why there is no such key under ``[privacy]`` or ``[silo.<name>.privacy]``; None for any other."""
    *above, key = path.split(".")
    return REASONS.get(key) if above[-1:] == ["privacy"] else None
