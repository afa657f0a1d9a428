"""
Federated transfer learning between institutions that may not pool their data.

The public names below are imported when they are first used, so ``import fedtl`` is fast and needs no torch. See
docs/python.md for examples, and CONTRIBUTING.md for where things are in the code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedtl import errors as errors
    from fedtl.api.audits import audit as audit
    from fedtl.api.building import create_method as create_method
    from fedtl.api.building import create_model as create_model
    from fedtl.api.building import list_methods as list_methods
    from fedtl.api.building import list_models as list_models
    from fedtl.api.experiments import load_datasets as load_datasets
    from fedtl.api.experiments import load_experiment as load_experiment
    from fedtl.api.runs import compare as compare
    from fedtl.api.runs import load_run as load_run
    from fedtl.api.runs import run as run
    from fedtl.data.dataset import SiloDataset as SiloDataset
    from fedtl.experiment.config.schema import Experiment as Experiment
    from fedtl.methods.base import Method as Method
    from fedtl.models.roles import Role as Role
    from fedtl.models.roles import roles as roles

__version__ = "0.1.0"

_MODULES = {
    "audit": "fedtl.api.audits",
    "create_method": "fedtl.api.building",
    "create_model": "fedtl.api.building",
    "list_methods": "fedtl.api.building",
    "list_models": "fedtl.api.building",
    "load_datasets": "fedtl.api.experiments",
    "load_experiment": "fedtl.api.experiments",
    "compare": "fedtl.api.runs",
    "load_run": "fedtl.api.runs",
    "run": "fedtl.api.runs",
    "SiloDataset": "fedtl.data.dataset",
    "Experiment": "fedtl.experiment.config.schema",
    "Method": "fedtl.methods.base",
    "Role": "fedtl.models.roles",
    "roles": "fedtl.models.roles",
}
__all__ = ["errors", *_MODULES]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("fedtl.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'fedtl' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
