"""The public names of ``import fedtl``, and of the objects that its functions return, for autodoc."""

import inspect

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
        item = getattr(fedtl, name)
        kind = "autofunction" if inspect.isfunction(item) else "autoclass"
        members = ["   :members:", "   :undoc-members:"] if name in WITH_MEMBERS else []
        parts.append(_directive(kind, f"fedtl.{name}", members))
    parts.append("## What they return")
    parts += [
        _directive("autoclass", f"{item.__module__}.{item.__name__}", ["   :members:"]) for item in RETURNED
    ]
    return "\n\n".join(parts)


def _directive(kind: str, name: str, options: list[str]) -> str:
    return "\n".join(["```{eval-rst}", f".. {kind}:: {name}", *options, "```"])
