"""Checks of ``[compare.set]`` that the schema cannot make: which settings of one method's column may be set."""

from collections.abc import Iterator

from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.config.tune_checks import FIXED, TABLES

ALIKE = ("method.tune", "method.choose")


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
