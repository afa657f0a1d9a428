"""
Is the privacy claim of a run true?

An audit compares what a run claims with what can be measured. A newcomer reads in this order:

- ``audit``: the audit of a run folder (``fedtl audit``), from its parallel ``workload`` to its signed ``bundle``.
- ``claim``: what a silo claims. ``verdict``: what one check measures, and which checks fail. ``checks``: all checks of a
  private run. ``power``: the smallest fault that they would have detected. ``statement`` and ``notes``: the result in sentences.
- ``canaries``: what the canaries of the run show. ``transcript``: whether ledger, messages and claim agree.
- ``retraining``: what the canaries cannot show, by training one round again at the silo with one thing changed.
- ``attacks``: membership inference, planted rows, reconstruction, and what sharing each role costs. ``units``: whether
  records or, for example, whole patients are attacked.
- ``at_site``: the audit of a plan at an institution before it is approved. ``export``: the audit of an exported ledger.
"""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """``fedtl.audit`` is this package and, in the Python API, a function; so the package can be called."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from fedtl.api.audits import audit

        return audit(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
