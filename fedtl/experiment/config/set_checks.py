"""Checks of ``[compare.set]`` and ``compare.leave_one_out`` that the schema cannot make."""

from collections.abc import Iterator

from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.config.tune_checks import FIXED, TABLES

ALIKE = ("method.tune", "method.choose")


def leave_one_out_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting with which no silo may be left out."""
    if not experiment.compare.leave_one_out:
        return
    if experiment.privacy is not None:
        yield (
            "compare.leave_one_out and [privacy]: what a silo is worth to another is exact, and the further runs use privacy budget that is "
            "not charged; ask it of an experiment on public rows, or remove it"
        )
    if trusted := experiment.method.server.get("trusted"):
        yield f"compare.leave_one_out and method.server.trusted = {trusted}: a trusted silo cannot be left out; remove one of them"


def set_contradictions(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each setting of a column that cannot be set."""
    compare = experiment.compare
    for name, tables in compare.set.items():
        at = f"compare.set.{name}"
        if name not in compare.methods:
            yield f"{at}: {name!r} is not in compare.methods; list it there, or remove the table"
        for table, settings in tables.items():
            if table not in TABLES:
                yield (
                    f"{at}.{table} is not a table of settings; write them as in the experiment: {at}.train.lr = 0.1 or "
                    f"{at}.method.mu = 1.0"
                )
                continue
            for path in (f"{table}.{key}" for key in settings):
                if path in FIXED:
                    yield f"{at}.{path} cannot be set: {FIXED[path]}; remove it"
                elif path in ALIKE:
                    yield f"{at}.{path} cannot be set: every method finishes its models alike; set {path} for all"
