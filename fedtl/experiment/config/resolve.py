"""Turns settings into a method, a server step, and the privacy settings of a silo."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import ValidationError

from fedtl._util.toml_text import Table
from fedtl.data.settings import DataSettings
from fedtl.errors import ConfigError, first_line
from fedtl.experiment.config.call import arguments, call
from fedtl.experiment.config.messages import (
    choose_entry,
    mistakes_in_one_line,
    retired_value,
    shorten,
    unknown_setting,
)
from fedtl.experiment.config.model_schema import ModelSettings, TrainSettings
from fedtl.experiment.config.schema import (
    Experiment,
    MethodSettings,
    PrivacySettings,
    UpdateSettings,
    WireSettings,
    is_custom,
)
from fedtl.federation.limits import MAX_WEIGHT, UpdateLimits
from fedtl.methods.base import Method, Server
from fedtl.methods.candidate import Candidate
from fedtl.methods.choose import Choose
from fedtl.methods.cut import with_cut
from fedtl.methods.error_feedback import with_wire
from fedtl.methods.interpolation import Interpolation
from fedtl.methods.optimizers import OPTIMIZERS
from fedtl.methods.registry import METHODS, TERMS
from fedtl.methods.server import ServerStep
from fedtl.methods.trim import with_trim
from fedtl.methods.tune import Tune
from fedtl.methods.wire import Wire
from fedtl.models.adapted import AdapterPlan, with_adapters
from fedtl.models.libraries import LibraryOptions
from fedtl.models.net import ModelSpec, Shape
from fedtl.models.pixels import pixel_scale, with_pixel_scale
from fedtl.models.registry import MODELS, custom_spec, model_spec
from fedtl.models.roles import Role
from fedtl.training.augment import CHANGES, Change
from fedtl.training.config import TrainingConfig


def method_of(settings: MethodSettings) -> Method:
    """Return the method that ``[method]`` describes. Raises ConfigError."""
    method = _named_method(settings) if settings.value is None else settings.value
    for at, term in enumerate(settings.terms):
        table = dict(term)
        name = table.pop("name", None)
        made = call(
            choose_entry(TERMS, name, f"method.terms[{at}].name", "fedtl methods"),
            table,
            f"method.terms[{at}].",
        )
        if any(type(other) is type(made) for other in method.every_term):
            raise ConfigError(
                f"method.terms[{at}] = {name!r} is already part of {settings.name!r}; remove one of them"
            )
        method = method.plus(made)
    if settings.cut is not None:
        try:
            method = with_cut(method, settings.cut)
        except ValueError as error:
            raise ConfigError(
                f"method.cut = {settings.cut}: {settings.name!r} cannot be cut: {error}; remove method.cut"
            ) from error
    if settings.trim:
        method = with_trim(method, settings.trim)
    return finished_at_home(method, settings)


def finished_at_home(method: Method, settings: MethodSettings) -> Method:
    """
    Return the method with ``[method.tune]`` and ``[method.choose]``. A method that trains nothing in its rounds is not
    tuned, so that it remains what it is compared for.
    """
    if not method.phases:
        return method
    tune = Tune(**settings.tune.model_dump()) if settings.tune.epochs else None
    candidates, (first, second) = tuple(settings.choose.candidates), settings.choose.ends
    if candidates == (Candidate.TUNED,):
        return replace(method, tune=tune, choose=None)
    try:
        interpolation = Interpolation((first, second), settings.choose.by == "stage")
    except ValueError as error:
        raise ConfigError(f"method.choose.{error}") from error
    return replace(method, tune=tune, choose=Choose(candidates, interpolation))


def _named_method(settings: MethodSettings) -> Method:
    if settings.is_absent:
        raise ConfigError(
            f"method.name = {settings.name!r}: this method was a value of a Python program; pass it again, with method = ... "
            "or custom = ... of fedtl.run, compare or load_run"
        )
    return call(choose_entry(METHODS, settings.name, "method.name", "fedtl methods"), settings.own, "method.")


def limits_of(settings: UpdateSettings) -> UpdateLimits:
    return UpdateLimits(
        settings.weights,
        MAX_WEIGHT if settings.max_weight == "none" else settings.max_weight,
        None if settings.max_norm == "none" else settings.max_norm,
    )


def wired(method: Method, settings: WireSettings, name: str) -> Method:
    """Return the method that sends as ``[wire]`` says. ``name``: of the method. Raises ConfigError."""
    try:
        return with_wire(method, Wire(settings.dtype, settings.fraction))
    except ValueError as error:
        raise ConfigError(f"wire.dtype = {settings.dtype!r}: not with method {name!r}: {error}") from error


def model_arguments(settings: ModelSettings) -> Table:
    """Return ``[model.settings]`` as arguments of the model's function. Raises ConfigError."""
    if is_custom(settings.name) and settings.weights == "pretrained":
        raise ConfigError(
            f"model.weights = 'pretrained': model {settings.name!r} is in no library; load its weights before you pass it"
        )
    if not settings.settings:
        return {}
    if settings.name not in MODELS:
        raise ConfigError(
            f"model.settings: {settings.name!r} takes no settings; models of timm and torchvision have theirs in their names"
        )
    return arguments(MODELS[settings.name], settings.settings, "model.settings.", given=("shape",))


def model_of(settings: ModelSettings, shape: Shape, seed: int) -> ModelSpec:
    """
    Return the model that ``[model]`` describes, for inputs of ``shape``; pixels are -1..1 where ``model.pixels`` has no numbers,
    which ``experiment.pixels`` looks up. Raises ConfigError or ModelError.
    """
    if settings.value is not None:
        return _scaled(custom_spec(settings.value, settings.name, shape, seed), settings)
    if is_custom(settings.name):
        raise ConfigError(
            f"model.name = {settings.name!r}: this model was a value of a Python program; pass it again, with model = ... of "
            "fedtl.run, compare or load_run"
        )
    pretrained = settings.weights == "pretrained"
    options = LibraryOptions(offline=settings.offline, checkpointing=settings.checkpointing)
    return _scaled(
        model_spec(settings.name, shape, seed, pretrained, model_arguments(settings), options), settings
    )


def check_scores(spec: ModelSpec, data: DataSettings, name: str) -> None:
    """Raise ConfigError where a model gives scores for each pixel and the task asks for one label a row, or the reverse."""
    if spec.per_pixel == data.predicted.per_pixel:
        return
    if spec.per_pixel:
        raise ConfigError(
            f'model.name = {name!r} gives scores for each pixel, but data.task = "{data.task}"; set data.task = "segmentation"'
        )
    raise ConfigError(
        f'data.task = "segmentation" needs scores for each pixel, and model.name = {name!r} gives one a class; set model.name = "unet"'
    )


def _scaled(spec: ModelSpec, settings: ModelSettings) -> ModelSpec:
    return spec if isinstance(settings.pixels, str) else with_pixel_scale(spec, pixel_scale(settings.pixels))


def with_adapters_of(
    settings: ModelSettings, spec: ModelSpec, shape: Shape, roles: Sequence[str] = ()
) -> ModelSpec:
    """
    Return the model with the adapters of ``[model.adapters]``, or itself without that table. ``roles``: those of ``[train]``.
    Raises ModelError.
    """
    if settings.adapters is None:
        return spec
    return with_adapters(spec, AdapterPlan(**settings.adapters.model_dump()), shape, Role.NORM in roles)


def silo_model(experiment: Experiment, silo: str) -> ModelSettings:
    """Return the settings of a silo's model: those of ``[silo.<name>.model]``, or else of ``[model]``."""
    own = experiment.silo[silo].model if silo in experiment.silo else None
    if own is None:
        return experiment.model
    return ModelSettings(name=own.name, settings=own.settings, dtype=experiment.model.dtype)


def training_of(settings: TrainSettings, freeze: int = 0) -> TrainingConfig:
    """Return how a silo trains: ``[train]``, without what concerns the rounds. Raises ConfigError."""
    own = settings.model_dump(exclude={"augment", "patience"})
    return TrainingConfig(**own, augment=changes_of(settings), freeze=freeze)


def changes_of(settings: TrainSettings) -> tuple[Change, ...]:
    """Return the changes of training images that ``train.augment`` lists. Raises ConfigError."""
    changes: list[Change] = []
    for at, entry in enumerate(settings.augment):
        table, where = dict(entry), f"train.augment[{at}]."
        make = choose_entry(CHANGES, table.pop("name", None), f"{where}name")
        changes.append(call(make, table, where))
    return tuple(changes)


def server_of(settings: MethodSettings) -> Server:
    """Return the method's own server step, or the one that ``[method.server]`` describes. Raises ConfigError."""
    if (own := _own_server(settings)) is not None:
        if settings.server != MethodSettings().server:
            raise ConfigError(
                f"method.server: {settings.name!r} has a server step of its own; remove [method.server]"
            )
        return own
    table = dict(settings.server)
    name, share, soup = table.pop("name", "mean"), table.pop("share", None), table.pop("soup", 1)
    if share is not None and name != "trimmed":
        raise ConfigError(f'method.server.share is a setting of "trimmed", not of {name!r}; remove it')
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float)):
        raise ConfigError(f"method.server.share = {shorten(share)}: must be a number")
    if isinstance(soup, bool) or not isinstance(soup, int):
        raise ConfigError(f"method.server.soup = {shorten(soup)}: must be a whole number of rounds")
    trusted = _trusted(table, name)
    step = ServerStep(name, 0.1 if share is None else share, table, soup, **trusted)
    if name in OPTIMIZERS:
        _try_optimizer(name, table)
    return step


def _trusted(table: Table, name: str) -> Table:
    """Take the settings of the server step "trusted" out of ``table``. Raises ConfigError."""
    own: Table = {key: table.pop(key) for key in ("trusted", "pace") if key in table}
    if own and name != "trusted":
        raise ConfigError(
            f'method.server.{next(iter(own))} is a setting of "trusted", not of {name!r}; remove it'
        )
    silos, pace = own.get("trusted", []), own.get("pace", 0.1)
    if not isinstance(silos, list) or not all(isinstance(one, str) for one in silos):
        raise ConfigError(f"method.server.trusted = {shorten(silos)}: must be a list of silos")
    if isinstance(pace, bool) or not isinstance(pace, int | float):
        raise ConfigError(f"method.server.pace = {shorten(pace)}: must be a number")
    return own


def _own_server(settings: MethodSettings) -> Server | None:
    try:
        return method_of(settings).server
    except ConfigError:
        return None  # the check of the method reports it


def without_release(data: DataSettings) -> DataSettings:
    """Return the settings for training without privacy: exact mean and spread instead of noisy ones."""
    return data.model_copy(update={"scale": "silo", "bounds": {}}) if data.scale == "dp" else data


def privacy_of(experiment: Experiment, silo: str) -> PrivacySettings:
    """Return ``[privacy]`` with the changes of ``[silo.<name>.privacy]``. Raises ConfigError."""
    assert experiment.privacy is not None
    own = experiment.silo[silo].privacy if silo in experiment.silo else {}
    for key, value in own.items():
        at = f"silo.{silo}.privacy.{key}"
        if key not in PrivacySettings.model_fields:
            known = [f"silo.{silo}.privacy.{name}" for name in PrivacySettings.model_fields]
            raise ConfigError(unknown_setting(at, known))
        if (reason := retired_value(at, value)) is not None:
            raise ConfigError(f"{at} = {shorten(value)} is no longer accepted: {reason}")
    try:
        return PrivacySettings.model_validate({**experiment.privacy.model_dump(), **own})
    except ValidationError as error:
        raise ConfigError(mistakes_in_one_line(error, own, f"silo.{silo}.privacy.")) from error


def _try_optimizer(name: str, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for values that torch's optimiser refuses; otherwise it would refuse them after the first round."""
    try:
        OPTIMIZERS[name]([torch.nn.Parameter(torch.zeros(1))], **{"lr": 1.0, **settings})
    except (TypeError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        given = ", ".join(f"{key} = {shorten(value)}" for key, value in settings.items())
        raise ConfigError(f"method.server: {name!r} does not take {given}: {reason}") from error


def about(make: Callable[..., Any]) -> str:
    """Return the first paragraph of the docstring of a method, a term or a model, in one line."""
    return " ".join((inspect.getdoc(make) or "").partition("\n\n")[0].split())


def describe(make: Callable[..., Any]) -> str:
    """Return the settings of a method, a term or a model with their defaults: "mu = 0.01"."""
    parameters = inspect.signature(make).parameters.values()
    return ", ".join(f"{p.name} = {json.dumps(p.default)}" for p in parameters if p.default is not p.empty)
