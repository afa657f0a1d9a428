"""
How a function is called with settings from a file: its parameters are the settings, and pydantic checks them by their types.
"""

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from fedtl._util.settings import Settings
from fedtl.errors import ConfigError
from fedtl.experiment.config.messages import mistakes_in_one_line, unknown_setting

T = TypeVar("T")


class _Arguments(Settings):
    """Settings as a file holds them: a list may stand for a tuple or a set, text for an enum; numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=())


def call(make: Callable[..., T], settings: Mapping[str, Any], at: str) -> T:
    """Return ``make(**settings)`` with the settings checked by ``arguments``, which raises ConfigError."""
    return make(**arguments(make, settings, at))


def arguments(
    make: Callable[..., Any], settings: Mapping[str, Any], at: str, given: Collection[str] = ()
) -> dict[str, Any]:
    """
    Return ``settings`` as arguments of ``make``. ``at``: where the settings stand in the file, with a dot at its end.
    ``given``: parameters that are not settings. Raises ConfigError for a setting that is not a parameter, that is missing, or
    that is not of the parameter's type.
    """
    signature = inspect.signature(make).parameters
    parameters = {name: parameter for name, parameter in signature.items() if name not in given}
    for key in settings:
        if key not in parameters:
            raise ConfigError(unknown_setting(at + key, [at + name for name in parameters]))
    hints = get_type_hints(make, include_extras=True)  # of a function, or of the fields of a dataclass
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in parameters.items()
    }
    model = create_model("Arguments", __base__=_Arguments, **fields)
    try:
        # Strict JSON mode accepts what TOML can express (an integer for a float, a list for a tuple) and coerces nothing else.
        checked = model.model_validate_json(json.dumps(dict(settings), default=str))
    except ValidationError as error:
        raise ConfigError(mistakes_in_one_line(error, settings, at)) from error
    return {name: getattr(checked, name) for name in settings}
