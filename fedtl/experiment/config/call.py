"""
How a function is called with settings from a file: its parameters are the settings, and pydantic checks them by their types.
"""

import inspect
import json
from collections.abc import Callable, Mapping
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
    """
    Return ``make(**settings)``. ``at``: where the settings stand in the file, with a dot at its end. Raises ConfigError
    for a setting that is no parameter, that is missing, or that is not of the parameter's type.
    """
    parameters = inspect.signature(make).parameters
    for key in settings:
        if key not in parameters:
            raise ConfigError(unknown_setting(at + key, [at + name for name in parameters]))
    hints = get_type_hints(make, include_extras=True)  # of a function, or of the fields of a dataclass
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in parameters.items()
    }
    arguments = create_model("Arguments", __base__=_Arguments, **fields)
    try:
        # Strict JSON is what a TOML file can say: a number for a float, a list for a tuple, and no coercion besides.
        checked = arguments.model_validate_json(json.dumps(dict(settings), default=str))
    except ValidationError as error:
        raise ConfigError(mistakes_in_one_line(error, settings, at)) from error
    return make(**{name: getattr(checked, name) for name in settings})
