"""The public names of ``import fedtl``, and of the objects that its functions return, for autodoc."""

import inspect
from collections.abc import Callable
from importlib import import_module

import fedtl
from fedtl.api.audits import FinishedAudit
from fedtl.api.results import FinishedComparison, FinishedRun
from fedtl.api.trained_model import TrainedModel

RETURNED = (FinishedRun, FinishedComparison, FinishedAudit, TrainedModel)
WITH_MEMBERS = {"SiloDataset", "Role"}


def names() -> str:
    """Return an autodoc directive for each name."""
    parts = ["## Functions and types"]
    for name in fedtl.__all__:
        if name == "errors":
            continue
        item = getattr(import_module(fedtl._MODULES[name]), name)
        if item is not getattr(fedtl, name):  # a package has the name of a function, and can be called
            parts.append(_function(f"fedtl.{name}", item))
            continue
        kind = "autofunction" if inspect.isfunction(item) else "autoclass"
        members = ["   :members:", "   :undoc-members:"] if name in WITH_MEMBERS else []
        parts.append(_directive(kind, f"fedtl.{name}", members))
    parts.append("## What they return")
    parts += [
        _directive("autoclass", f"{item.__module__}.{item.__name__}", ["   :members:"]) for item in RETURNED
    ]
    return "\n\n".join(parts)


def _function(name: str, item: Callable[..., object]) -> str:
    """Return what autodoc would write of a function that it does not find under its public name."""
    signature = inspect.signature(item)
    plain = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    head = f".. py:function:: {name}{signature.replace(parameters=plain, return_annotation=signature.empty)}"
    lines = (inspect.getdoc(item) or "").splitlines()
    return "\n".join(["```{eval-rst}", head, "", *(f"   {line}".rstrip() for line in lines), "```"])


def _directive(kind: str, name: str, options: list[str]) -> str:
    return "\n".join(["```{eval-rst}", f".. {kind}:: {name}", *options, "```"])
