"""
An experiment is one strict TOML file. Everything wrong with it is said before anything starts.

Settings only: no data source is opened and no model is built here.
"""

import inspect
import json
import math
import os.path
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import torch
from pydantic import ConfigDict, Field, ValidationError

from fedtl.aggregate import ServerStep
from fedtl.data.settings import DataSettings
from fedtl.data.sources import DATA
from fedtl.errors import ConfigError
from fedtl.method import METHODS, Method, Personalise
from fedtl.optimizers import OPTIMIZERS
from fedtl.settings import Settings
from fedtl.transfer.terms import TERMS

REGRESSION = ("r2", "rmse")
METRICS = ("auto", "accuracy", "balanced_accuracy", "auc", *REGRESSION)
WISHES = {
    "string_type": "text, in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": 'a list, such as ["a", "b"]',
    "dict_type": "a table",
    "model_type": "a table",
    "too_short": "a list of at least one",
}


class ModelSettings(Settings):
    """``[model]``. ``weights`` is a local file (absolute once loaded) or "pretrained"."""

    name: str = "convnet"
    weights: str = ""
    pretrain_on: list[str] = []
    pretrain_epochs: int = Field(10, ge=1)
    freeze: int = Field(0, ge=0)
    dtype: Literal["float32"] = "float32"


class TrainSettings(Settings):
    """``[train]``: what happens inside a silo."""

    optimizer: str = "sgd"
    lr: float = Field(0.05, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    body_lr: float = Field(1.0, ge=0, allow_inf_nan=False)
    batch_size: int = Field(32, ge=2)
    epochs: int = Field(1, ge=1)


class MethodSettings(Settings):
    """``[method]``. The method's own settings stand beside these keys; its function's parameters are the list."""

    model_config = ConfigDict(extra="allow")

    name: str = "fedtl"
    terms: list[dict[str, Any]] = []
    server: dict[str, Any] = {"name": "mean"}
    personalise: dict[str, Any] = {}

    @property
    def own(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class EngineSettings(Settings):
    """``[engine]``. ``workers`` 0: the machine's cores. Results are bit-equal only at equal ``threads``."""

    name: Literal["serial", "processes"] = "processes"
    workers: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)


class CompareSettings(Settings):
    """``[compare]``. ``metric`` decides who is best; "auto": accuracy, or R^2 in regression."""

    methods: list[str] = Field(["local", "pooled", "fedavg", "fedbn", "fedper", "fedtl"], min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2], min_length=1)
    metric: str = "auto"


class Experiment(Settings):
    """Every key of the file with its default; frozen."""

    seed: int = Field(0, ge=0)
    rounds: int = Field(20, ge=1)
    silos_per_round: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    minimum_silos: int = Field(1, ge=1)
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    method: MethodSettings = MethodSettings()
    engine: EngineSettings = EngineSettings()
    compare: CompareSettings = CompareSettings()

    @property
    def metric(self) -> str:
        """What "better" means here."""
        if self.compare.metric != "auto":
            return self.compare.metric
        return "r2" if self.data.task == "regression" else "accuracy"

    def but(self, **changes: Any) -> "Experiment":
        """The same experiment with some of its values replaced, checked again. Raises ConfigError."""
        return parse({name: getattr(self, name) for name in type(self).model_fields} | changes)


def load(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """
    The experiment in the file ``name``, or the shipped one of that bare name, with ``a.b=c`` overrides.

    Paths in the file are relative to it, those of an override to the working directory. Raises ConfigError.
    """
    path = Path(name)
    if not os.path.isfile(name):
        shipped = files("fedtl") / "experiments" / f"{name}.toml"
        if path.suffix or "/" in name or name not in shipped_names():
            raise ConfigError(
                f"there is no file {name}, and the shipped experiments are {', '.join(shipped_names())}"
            )
        path = Path(str(shipped))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    _make_absolute(table, path.parent.absolute())
    return parse(_merged(table, _overriding(overrides)))


def shipped_names() -> list[str]:
    return sorted(
        Path(str(file)).stem
        for file in (files("fedtl") / "experiments").iterdir()
        if str(file).endswith(".toml")
    )


def parse(table: Mapping[str, Any]) -> Experiment:
    """An experiment from plain values. Raises ConfigError, in one line."""
    try:
        return _checked(Experiment.model_validate(dict(table)))
    except ValidationError as error:
        raise ConfigError(_one_line(error, table)) from error


def dump(experiment: Experiment) -> str:
    """TOML that ``load`` turns into the same experiment."""
    return tomli_w.dumps(experiment.model_dump(exclude_none=True))


def method_of(settings: MethodSettings) -> Method:
    """The method that ``[method]`` describes. Raises ConfigError."""
    make = _entry(METHODS, settings.name, "method.name")
    method: Method = _call(make, settings.own, "method.")
    for at, term in enumerate(settings.terms):
        table = dict(term)
        name = table.pop("name", None)
        made = _call(_entry(TERMS, name, f"method.terms[{at}].name"), table, f"method.terms[{at}].")
        if any(type(other) is type(made) for other in method.objective):
            raise ConfigError(
                f"method.terms[{at}] = {name!r} is already part of {settings.name!r}; set it in one place"
            )
        method = method.plus(made)
    if not settings.personalise:
        return method
    if method.personalise.epochs:
        raise ConfigError(
            f"method.personalise and {settings.name!r}'s own head_epochs say the same thing twice; keep one"
        )
    personalise = _call(Personalise, settings.personalise, "method.personalise.")
    if personalise.what not in ("head", "all") or personalise.epochs < 0:
        raise ConfigError('method.personalise takes what = "head" or "all", and epochs = 0 or more')
    return Method(**{**vars(method), "personalise": personalise})


def server_of(settings: MethodSettings) -> ServerStep:
    """The server's step. Raises ConfigError."""
    table = dict(settings.server)
    name, share = table.pop("name", "mean"), table.pop("share", None)
    if share is not None and name != "trimmed":
        raise ConfigError(f'method.server.share belongs to "trimmed", not to {name!r}')
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float)):
        raise ConfigError(f"method.server.share = {_short(share)}: must be a number")
    step = ServerStep(name, 0.1 if share is None else share, table)
    if name in OPTIMIZERS:
        _try_optimizer(name, table)
    return step


def _try_optimizer(name: str, settings: Mapping[str, Any]) -> None:
    """torch itself knows which values its optimiser takes; it would say so only after the first round."""
    try:
        OPTIMIZERS[name]([torch.nn.Parameter(torch.zeros(1))], **{"lr": 1.0, **settings})
    except (TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        given = ", ".join(f"{key} = {_short(value)}" for key, value in settings.items())
        raise ConfigError(f"method.server: {name!r} does not take {given}: {reason}") from error


def describe(make: Callable[..., Any]) -> str:
    """A method's settings with their defaults: "mu = 0.01"."""
    return ", ".join(f"{p.name} = {p.default}" for p in inspect.signature(make).parameters.values())


def _checked(experiment: Experiment) -> Experiment:
    """Refuse what contradicts itself. Raises ConfigError."""
    train, compare = experiment.train, experiment.compare
    method, _ = method_of(experiment.method), server_of(experiment.method)
    _choice(OPTIMIZERS, train.optimizer, "train.optimizer")
    for name in compare.methods:
        _choice(METHODS, name, "compare.methods")
    _choice(METRICS, compare.metric, "compare.metric")
    if compare.metric != "auto" and (compare.metric in REGRESSION) != (experiment.data.task == "regression"):
        raise ConfigError(f"compare.metric = {compare.metric!r} does not measure {experiment.data.task}")
    per_round, minimum = experiment.silos_per_round, experiment.minimum_silos
    if isinstance(per_round, int) and per_round < minimum:
        raise ConfigError(f"silos_per_round = {per_round} can never give minimum_silos = {minimum}")
    if train.optimizer != "sgd" and train.momentum != TrainSettings().momentum:
        raise ConfigError(f'train.momentum belongs to "sgd", not to {train.optimizer!r}')
    _check_once(experiment)
    _check_source(experiment.data)
    _check_data(experiment.data)
    if method.needs_target and not experiment.data.target_domain:
        name = experiment.method.name
        raise ConfigError(f"method {name!r} adapts to a second domain; data.target_domain does not name one")
    _check_start(experiment.model, experiment.data)
    return experiment


def _check_once(experiment: Experiment) -> None:
    """A seed or a silo that is listed twice would count twice."""
    data, compare = experiment.data, experiment.compare
    lists: dict[str, Sequence[Any]] = {"data.silos": data.silos, "data.late": data.late}
    lists |= {"data.columns": data.columns, "model.pretrain_on": experiment.model.pretrain_on}
    lists |= {"compare.methods": compare.methods, "compare.seeds": compare.seeds}
    for key, values in lists.items():
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"{key} lists {value!r} {values.count(value)} times; once is enough")


def _check_source(data: DataSettings) -> None:
    """The source exists, reads from where it is told to, and has the settings that are set."""
    source = _entry(DATA, data.source, "data.source")
    if source.needs_path and not (data.path and os.path.exists(data.path)):
        at = f"data.path: {data.path} does not exist" if data.path else "data.path is empty"
        raise ConfigError(f"{at}; source {data.source!r} reads from there")
    if data.path and not source.needs_path:
        raise ConfigError(
            f"data.path is set, but source {data.source!r} reads no path; remove one of the two"
        )
    for key in ("silo_column", "domain_column", "positive_above", "columns", "categories"):
        if data.source != "table" and getattr(data, key) not in ("", None, [], {}):
            raise ConfigError(f'data.{key} is for source "table", not {data.source!r}')
    if data.source == "images" and data.target_domain:
        raise ConfigError('data.target_domain: source "images" has no second domain')
    if data.source == "table" and bool(data.domain_column) != bool(data.target_domain):
        raise ConfigError(
            "data.domain_column and data.target_domain go together: which column, and which value of it"
        )


def _check_data(data: DataSettings) -> None:
    if data.test + data.val >= 1:
        raise ConfigError(f"data.test = {data.test} and data.val = {data.val} leave no training rows")
    if data.positive_above is not None and data.task == "regression":
        raise ConfigError('data.positive_above makes two classes; that is no data.task = "regression"')
    for key in ("label", "silo_column", "domain_column"):
        if getattr(data, key) in data.columns:
            raise ConfigError(f"data.columns lists {getattr(data, key)!r}, which is data.{key} and no input")
    if data.scale not in ("silo", "none") and not os.path.isfile(data.scale):
        wish = '"silo", "none" or a TOML file of constants'
        raise ConfigError(f"data.scale is {wish}; there is no file {data.scale}")


def _check_start(model: ModelSettings, data: DataSettings) -> None:
    """Where the weights come from: one place, and one that is there."""
    if overlap := sorted(set(data.late) & set(model.pretrain_on)):
        raise ConfigError(
            f"silo {overlap[0]!r} is in data.late and in model.pretrain_on; it can be one of the two"
        )
    if model.weights and model.pretrain_on:
        raise ConfigError("model.weights and model.pretrain_on both say where the backbone starts; keep one")
    if model.weights not in ("", "pretrained") and not os.path.isfile(model.weights):
        raise ConfigError(f"model.weights: there is no file {model.weights}")
    for entry in model.pretrain_on:
        source, colon, path = entry.partition(":")
        if colon and _entry(DATA, source, "model.pretrain_on").needs_path and not os.path.exists(path):
            raise ConfigError(
                f"model.pretrain_on: {path or '(empty)'} does not exist; {source!r} reads from there"
            )


def _entry(table: Mapping[str, Any], name: Any, at: str) -> Any:
    _choice(table, name, at)
    return table[name]


def _choice(names: Mapping[str, Any] | Sequence[str], name: Any, at: str) -> None:
    if not isinstance(name, str) or name not in names:
        near = get_close_matches(str(name), list(names), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{at} = {_short(name)} is not one of {', '.join(names)}{hint}")


def _call(make: Callable[..., Any], given: Mapping[str, Any], at: str) -> Any:
    """
    Call with settings from a file: they must be parameters, of the type of the parameter's default. Numbers
    are weights and counts, so they are finite and not negative.
    """
    known = inspect.signature(make).parameters
    for key, value in given.items():
        if key not in known:
            raise ConfigError(_unknown(at + key, [at + name for name in known]))
        wanted = type(known[key].default)
        allowed = (int, float) if wanted is float else wanted
        if not isinstance(value, allowed) or isinstance(value, bool) != (wanted is bool):
            raise ConfigError(f"{at}{key} = {_short(value)} must be of type {wanted.__name__}")
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise ConfigError(f"{at}{key} = {value} must be a finite number of 0 or more")
    return make(**given)


def _unknown(path: str, known: Sequence[str]) -> str:
    """``path`` and ``known`` end in the key in question; what comes before it is no part of the likeness."""
    above, dot, key = path.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known}
    near = [siblings[one] for one in get_close_matches(key, list(siblings), 1)]
    near += [name for name in _settings() if name.rpartition(".")[2] == key]
    hint = f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(known) or 'none here'}"
    return f"{json.dumps(above + dot + key, ensure_ascii=False)} is not a setting{hint}"


def _one_line(error: ValidationError, table: Mapping[str, Any]) -> str:
    problems = error.errors(include_url=False)
    paths = [_path(problem["loc"], table) for problem in problems]
    first, at = problems[0], _spelled(paths[0])
    if first["type"] != "extra_forbidden":
        wishes = [_wish(problem) for problem, path in zip(problems, paths, strict=True) if path == paths[0]]
        text = f"{at} = {_short(first['input'])}: must be {' or '.join(dict.fromkeys(wishes))}"
    elif at == "privacy":
        text = "[privacy] is not a setting of this version, which trains without differential privacy"
    else:
        above = _spelled(paths[0][:-1])
        beside = [name for name in _settings(tables=True) if name.rpartition(".")[0] == above]
        text = _unknown(at, beside)
    others = len(set(paths)) - 1
    return text + (f" (and {others} more)" if others else "")


def _path(loc: Sequence[str | int], table: Mapping[str, Any]) -> tuple[str | int, ...]:
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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _settings(tables: bool = False) -> Iterator[str]:
    """Every key as "data.limit", those of the top level too; the names of the tables themselves on request."""
    for name, field in Experiment.model_fields.items():
        below = getattr(field.annotation, "model_fields", None)
        if below is None or tables:
            yield name
        for key in below or ():
            yield f"{name}.{key}"


def _overriding(overrides: Sequence[str]) -> dict[str, Any]:
    """``["data.limit=100"]`` as nested tables; a value that is not TOML is text."""
    table: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r}: write it as key=value, for example --set train.lr=0.01")
        *above, last = (part.strip() for part in key.split("."))
        inner = table
        for part in above:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set names {'.'.join(above)} twice")
        if last in inner:
            raise ConfigError(f"--set names {key.strip()} twice")
        inner[last] = _value(text)
    _make_absolute(table, Path.cwd())
    return table


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = (
            _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def _make_absolute(table: dict[str, Any], base: Path) -> None:
    """Paths are where their file says, from wherever the command is run. Raises ConfigError."""
    words = {("data", "path"): (), ("data", "scale"): ("silo", "none"), ("model", "weights"): ("pretrained",)}
    for (section, key), not_paths in words.items():
        inner = table.get(section)
        value = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(value, str) and value and value not in not_paths:
            inner[key] = _absolute(value, base, f"{section}.{key}")
    model = table.get("model")
    if isinstance(model, dict) and isinstance(model.get("pretrain_on"), list):
        model["pretrain_on"] = [_absolute_source(entry, base) for entry in model["pretrain_on"]]


def _absolute_source(entry: Any, base: Path) -> Any:
    source, _, path = entry.partition(":") if isinstance(entry, str) else ("", "", "")
    return f"{source}:{_absolute(path, base, 'model.pretrain_on')}" if path else entry


def _absolute(path: str, base: Path, at: str) -> str:
    try:
        return str((base / Path(path).expanduser()).resolve())
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a loop of links, no such user's home
        raise ConfigError(f"{at} = {_short(path)} is no path: {error}") from error
