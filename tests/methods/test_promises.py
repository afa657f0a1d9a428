"""
What the vocabulary promises holds for every method, in every engine and at every door: one test, a row a method, a column a promise.

Read ``PROMISES`` for the columns. Each is a function of ``tests/methods/promises/``, whose docstring says what holds, and which states in
the same place what is refused by design, and with which line: a method that no stack takes, one that no charge covers. The cell of a
failure has the name ``[method-promise]``; ``-k ditto`` runs a row, ``-k resume`` a column. A row's cells share one run of two rounds
(``promises/trained.py``), and each engine is started once and trains all methods.

The columns of ``OF_SOME`` train whole experiments. Their cells run for the kinds of methods that are named there, and for all others in
``make nightly``: a kind is a set that stays, one that is sent, several models, modules of a loss; or a way in which a run ends.
"""

import pytest

from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS
from tests.methods.promises import crossing, engines, privacy, whole
from tests.methods.promises.trained import run_of

SLOTS = [name for name, make in METHODS.items() if make().slots]
PROMISES = {
    "serial": engines.serial,
    "processes": engines.processes,
    "ray": engines.ray,
    "stacked": engines.stacked,
    "flower": crossing.flower,
    "resume": crossing.resume,
    "site store": crossing.site_store,
    "manifest": crossing.manifest,
    "policy": crossing.policy,
    "recorder": crossing.recorder,
    "ledger": privacy.ledger,
    "labels": privacy.labels,
    "audit": privacy.audit,
}
OF_SOME = {  # the promise, the methods that it is for, and those of CI
    "run folder": (
        whole.run_folder,
        list(METHODS),
        ("fedtl", "fedavg", "local", "pooled", "probe", "ditto", "shot", "feddf"),
    ),
    "whole run": (whole.whole_run, SLOTS, ("ditto", "scaffold", "ifca", "kd3a")),
    "attacked": (whole.attacked, SLOTS, ("ditto", "scaffold", "ifca", "moon")),
    "private audit": (
        whole.private_audit,
        [name for name in SLOTS if not list(private_problems(METHODS[name]()))],
        SLOTS,
    ),
}


def cells():
    for name in METHODS:
        for promise, holds in PROMISES.items():
            yield pytest.param(name, holds, id=f"{name}-{promise}")
    for promise, (holds, methods, in_ci) in OF_SOME.items():
        for name in methods:
            marks = [pytest.mark.slow] if name in in_ci else [pytest.mark.nightly]
            yield pytest.param(name, holds, id=f"{name}-{promise}", marks=marks)


@pytest.mark.filterwarnings("ignore:.*:ResourceWarning")  # Ray's own, of sockets and pipes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "holds"), list(cells()))
def test_a_method_keeps_what_the_vocabulary_promises(name, holds, tmp_path):
    holds(run_of(name), tmp_path)
