"""Methods and models that a program passes as values: what they are, and whether worker processes can receive them."""

import pickle
import sys
from collections.abc import Mapping

from torch import nn

from fedtl.errors import ConfigError, first_line
from fedtl.experiment.config.custom import CustomValues
from fedtl.methods.base import Method
from fedtl.models.custom import Build, as_build

_WAY_OUT = "define its functions and classes at the top of a module (a .py file) and import it, or call run with workers=1"


def custom_values(
    method: Method | None, model: nn.Module | Build | None, methods: Mapping[str, Method] | None = None
) -> CustomValues:
    """Return the values, checked. Raises ConfigError or ModelError where one is of another type."""
    if methods is not None and not isinstance(methods, Mapping):
        raise ConfigError(
            f'custom is of type {type(methods).__name__}; pass the methods by name: {{"mine": method}}'
        )
    for name, value in {"method": method, **(methods or {})}.items():
        if value is not None and not isinstance(value, Method):
            raise ConfigError(
                f"{name} is of type {type(value).__name__}; pass a fedtl.Method, such as create_method returns, or name the "
                "method in the settings"
            )
    return CustomValues(method, dict(methods or {}), None if model is None else as_build(model))


def check_sendable(values: CustomValues) -> None:
    """Raise ConfigError where a worker process could not receive a value: it gets functions and classes by their names."""
    named = {
        "method": values.method,
        "model": values.model,
        **{f"custom: {k}": v for k, v in values.methods.items()},
    }
    for name, value in named.items():
        try:
            sent = pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            reason = first_line(error)
            raise ConfigError(f"{name} cannot be sent to worker processes ({reason}); {_WAY_OUT}") from error
        if b"__main__" in sent and not hasattr(sys.modules["__main__"], "__file__"):
            raise ConfigError(
                f"{name} uses code of this notebook, which worker processes do not have; {_WAY_OUT}"
            )
