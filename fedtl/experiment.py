"""
An experiment is one strict TOML file. Everything wrong with it is said before anything starts.

Settings only: no data source is opened and no model is built here.
"""

import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, ValidationError

from fedtl.aggregate import ServerStep
from fedtl.data.settings import DataSettings
from fedtl.data.sources import DATA
from fedtl.errors import ConfigError
from fedtl.method import METHODS, Method, Personalise
from fedtl.optimizers import OPTIMIZERS
from fedtl.settings import Settings
from fedtl.transfer.terms import TERMS

METRICS = ("auto", "accuracy", "balanced_accuracy", "auc", "r2", "rmse")


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
    lr: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    body_lr: float = Field(1.0, ge=0)
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
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    metric: str = "auto"


class Experiment(Settings):
    """Every key of the file with its default; frozen."""

    seed: int = Field(0, ge=0)
    rounds: int = Field(20, ge=1)
    silos_per_round: Literal["all"] | int = "all"
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
        """The same experiment with some of its values replaced, checked again."""
        return _checked(Experiment(**{name: getattr(self, name) for name in type(self).model_fields} | changes))


def load(name: str, overrides: Sequence[str] = ()) -> Experiment:
    """
    The experiment in the file ``name``, or the shipped one of that bare name, with ``a.b=c`` overrides.

    Paths in the file are relative to it, those of an override to the working directory. Raises ConfigError.
    """
    path = Path(name)
    if not path.is_file():
        shipped = files("fedtl") / "experiments" / f"{name}.toml"
        if path.suffix or "/" in name or not shipped.is_file():
            raise ConfigError(f"there is no file {name}, and the shipped experiments are {', '.join(shipped_names())}")
        path = Path(str(shipped))
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    _make_absolute(table, path.parent.absolute())
    return parse(_merged(table, _overriding(overrides)))


def shipped_names() -> list[str]:
    return sorted(Path(str(file)).stem for file in (files("fedtl") / "experiments").iterdir() if str(file).endswith(".toml"))


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
            raise ConfigError(f"method.terms[{at}] = {name!r} is already part of {settings.name!r}; set it in one place")
        method = method.plus(made)
    if not settings.personalise:
        return method
    if method.personalise.epochs:
        raise ConfigError(f"method.personalise and {settings.name!r}'s own head_epochs say the same thing twice; keep one")
    personalise = _call(Personalise, settings.personalise, "method.personalise.")
    if personalise.what not in ("head", "all") or personalise.epochs < 0:
        raise ConfigError('method.personalise takes what = "head" or "all", and epochs = 0 or more')
    return Method(**{**vars(method), "personalise": personalise})


def server_of(settings: MethodSettings) -> ServerStep:
    """The server's step. Raises ConfigError."""
    table = dict(settings.server)
    name, share = table.pop("name", "mean"), table.pop("share", None)
    if share is not None and name != "trimmed":
        raise ConfigError(f"method.server.share belongs to \"trimmed\", not to {name!r}")
    return ServerStep(name, 0.1 if share is None else share, table)


def describe(make: Callable[..., Any]) -> str:
    """A method's settings with their defaults: "mu = 0.01"."""
    return ", ".join(f"{p.name} = {p.default}" for p in inspect.signature(make).parameters.values())


def _checked(experiment: Experiment) -> Experiment:
    """Refuse what contradicts itself. Raises ConfigError."""
    data, model, train = experiment.data, experiment.model, experiment.train
    method, _ = method_of(experiment.method), server_of(experiment.method)
    source = _entry(DATA, data.source, "data.source")
    for name in experiment.compare.methods:
        _entry(METHODS, name, "compare.methods")
    if train.optimizer not in OPTIMIZERS:
        raise ConfigError(f"train.optimizer = {train.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
    if experiment.compare.metric not in METRICS:
        raise ConfigError(f"compare.metric = {experiment.compare.metric!r} is not one of {', '.join(METRICS)}")
    if isinstance(experiment.silos_per_round, int) and experiment.silos_per_round < experiment.minimum_silos:
        raise ConfigError(
            f"silos_per_round = {experiment.silos_per_round} can never give minimum_silos = {experiment.minimum_silos}"
        )
    if data.test + data.val >= 1:
        raise ConfigError(f"data.test = {data.test} and data.val = {data.val} leave no training rows")
    if source.needs_path and not Path(data.path).exists():
        raise ConfigError(f"data.path: {data.path or '(empty)'} does not exist; source {data.source!r} reads from there")
    if data.path and not source.needs_path:
        raise ConfigError(f"data.path is set, but source {data.source!r} reads no path; remove one of the two")
    if data.domain_column and not data.target_domain or data.source == "table" and data.target_domain and not data.domain_column:
        raise ConfigError("data.domain_column and data.target_domain go together: which column, and which value of it")
    if method.needs_target and not data.target_domain:
        raise ConfigError(f"method {experiment.method.name!r} adapts to a second domain; data.target_domain does not name one")
    for key in ("silo_column", "domain_column", "positive_above", "columns", "categories"):
        if data.source != "table" and getattr(data, key) not in ("", None, [], {}):
            raise ConfigError(f'data.{key} is for source "table", not {data.source!r}')
    if overlap := set(data.late) & set(model.pretrain_on):
        raise ConfigError(f"silo {overlap.pop()!r} is in data.late and in model.pretrain_on; it can be one of the two")
    if model.weights and model.pretrain_on:
        raise ConfigError("model.weights and model.pretrain_on both say where the backbone starts; keep one")
    if model.weights not in ("", "pretrained") and not Path(model.weights).is_file():
        raise ConfigError(f"model.weights: there is no file {model.weights}")
    if data.scale not in ("silo", "none") and not Path(data.scale).is_file():
        raise ConfigError(f'data.scale is "silo", "none" or a TOML file of constants; there is no file {data.scale}')
    if train.optimizer != "sgd" and train.momentum != TrainSettings().momentum:
        raise ConfigError(f"train.momentum belongs to \"sgd\", not to {train.optimizer!r}")
    return experiment


def _entry(table: Mapping[str, Any], name: Any, at: str) -> Any:
    if not isinstance(name, str) or name not in table:
        near = get_close_matches(str(name), list(table), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{at} = {name!r} is not one of {', '.join(table)}{hint}")
    return table[name]


def _call(make: Callable[..., Any], given: Mapping[str, Any], at: str) -> Any:
    """Call with settings from a file: they must be parameters, of the type of the parameter's default."""
    known = inspect.signature(make).parameters
    for key, value in given.items():
        if key not in known:
            raise ConfigError(_unknown(at + key, [at + name for name in known]))
        wanted = type(known[key].default)
        if not isinstance(value, (int, float) if wanted is float else wanted) or isinstance(value, bool) != (wanted is bool):
            raise ConfigError(f"{at}{key} = {value!r} must be of type {wanted.__name__}")
    return make(**given)


def _unknown(path: str, known: Sequence[str]) -> str:
    near = get_close_matches(path, known, 1, cutoff=0.5)
    return f'"{path}" is not a setting' + (f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(known) or 'none here'}")


def _one_line(error: ValidationError, table: Mapping[str, Any]) -> str:
    first, *others = error.errors(include_url=False)
    path: list[str] = []
    value: Any = table
    for key in first["loc"]:  # pydantic adds the branches of a union to the path; the file does not have them
        inside = isinstance(value, Mapping) and key in value or isinstance(value, list) and isinstance(key, int)
        if not inside and first["type"] != "missing":
            break
        path.append(str(key))
        value = value[key]
    at = ".".join(path)
    if first["type"] == "extra_forbidden":
        if at == "privacy":
            text = "[privacy] is not a setting of this version, which trains without differential privacy"
        else:
            text = _unknown(at, _settings_near(path))
    else:
        text = f"{at} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return text + (f" (and {len(others)} more)" if others and others[0]["loc"][:len(path)] != first["loc"][:len(path)] else "")


def _settings_near(path: Sequence[str]) -> list[str]:
    model: Any = Experiment
    for key in path[:-1]:
        model = model.model_fields[key].annotation
    return [".".join([*path[:-1], name]) for name in model.model_fields]


def _overriding(overrides: Sequence[str]) -> dict[str, Any]:
    """``["data.limit=100"]`` as nested tables; a value that is not TOML is text."""
    table: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {override!r}: write it as key=value, for example --set train.lr=0.01")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *above, last = key.strip().split(".")
        inner = table
        for part in above:
            inner = inner.setdefault(part, {})
        if last in inner:
            raise ConfigError(f"--set names {key.strip()} twice")
        inner[last] = value
    _make_absolute(table, Path.cwd())
    return table


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _make_absolute(table: dict[str, Any], base: Path) -> None:
    """Paths are where their file says, from wherever the command is run."""
    for section, key, words in (("data", "path", ()), ("data", "scale", ("silo", "none")), ("model", "weights", ("pretrained",))):
        inner = table.get(section)
        value = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(value, str) and value and value not in words:
            inner[key] = str((base / Path(value).expanduser()).resolve())
    model = table.get("model")
    if isinstance(model, dict) and isinstance(model.get("pretrain_on"), list):
        model["pretrain_on"] = [_absolute_source(entry, base) for entry in model["pretrain_on"]]


def _absolute_source(entry: Any, base: Path) -> Any:
    if not isinstance(entry, str) or ":" not in entry:
        return entry
    source, _, path = entry.partition(":")
    return f"{source}:{(base / Path(path).expanduser()).resolve()}"
