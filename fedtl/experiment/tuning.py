"""
Trials of settings on validation rows: which values each method tries, that all methods try equally many, and which it keeps.

A grid holds a list of values by the path of their setting. A method tries every combination, or ``compare.tune.trials`` of
them: a Latin hypercube sample (McKay, Beckman and Conover, 1979), in which each value of a setting occurs about equally often.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, inf, prod
from typing import Any

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.config.schema import Experiment, MethodSettings, TrialSettings
from fedtl.experiment.config.settings_file import validate
from fedtl.results.tuning import Trial, Tuning

Grid = Mapping[str, Sequence[Any]]  # the values to try by the path of their setting, such as "train.lr"
Values = Mapping[str, Any]  # one value by the path of its setting


def grid_of(tune: TrialSettings, method: str) -> dict[str, list[Any]]:
    """Return the values that a method tries: the common ones, and its own, which replace common ones of the same path."""
    common = {"train": tune.train, "method": tune.method}
    return {**dict(by_path(common)), **dict(by_path(tune.own.get(method, {})))}


def by_path(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path of each setting in nested tables, and its value."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from by_path(value, f"{above}{key}.")
        else:
            yield above + key, value


def with_set_values(experiment: Experiment, method: str) -> Experiment:
    """
    Return the experiment with what ``[compare.set]`` sets for this method. Raises ConfigError for what is tried as well, or is
    no setting of the method.
    """
    values = dict(by_path(experiment.compare.set.get(method, {})))
    if both := sorted(values.keys() & grid_of(experiment.compare.tune, method).keys()):
        raise ConfigError(
            f"compare.set.{method}.{both[0]} = {values[both[0]]!r}, but [compare.tune] lists values of it that {method} would "
            f"try; remove one of them"
        )
    try:
        return with_values(experiment, values) if values else experiment
    except ConfigError as error:
        raise ConfigError(f"compare.set.{method}: {error}") from error


def trial_values(tune: TrialSettings, method: str) -> list[Values]:
    """Return what the trials of a method set: one mapping a trial; none without a grid. Raises ConfigError for too small a grid."""
    grid = grid_of(tune, method)
    if not grid:
        return []
    count = prod(len(values) for values in grid.values())
    if not tune.trials or tune.trials == count:
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if tune.trials > count:
        raise ConfigError(
            f"compare.tune.trials = {tune.trials}, but {method} has {count} combinations of values; "
            f"lower it, or list more values under [compare.tune] or [compare.tune.{method}]"
        )
    return _hypercube(grid, tune.trials)


def _hypercube(grid: Grid, count: int) -> list[Values]:
    """
    Return ``count`` different combinations, each value of a setting about equally often. The draw depends on the setting, not
    on the method, so that methods with the same values of a setting try the same ones.
    """
    drawn: list[Values] = []
    attempt = 0
    while len(drawn) < count:
        columns = [_spread(path, values, count, attempt) for path, values in grid.items()]
        for values in zip(*columns, strict=True):
            one = dict(zip(grid, values, strict=True))
            if one not in drawn and len(drawn) < count:
                drawn.append(one)
        attempt += 1
    return drawn


def _spread(path: str, values: Sequence[Any], count: int, attempt: int) -> list[Any]:
    """Return ``count`` of the values in random order, each about equally often."""
    repeated = np.arange(len(values) * ceil(count / len(values))) % len(values)
    order = numpy_generator("trials", path, attempt).permutation(repeated)[:count]
    return [values[number] for number in order]


def check_budgets(tune: TrialSettings, methods: Sequence[str]) -> None:
    """Raise ConfigError unless all methods make equally many trials: a method with more trials has more chances."""
    counts = {name: len(trial_values(tune, name)) for name in methods}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ConfigError(
            f"compare.tune gives methods different numbers of trials ({listed}); "
            f"set compare.tune.trials, at most {min(counts.values()) or 1}, or list as many values for each"
        )


def with_values(experiment: Experiment, values: Values) -> Experiment:
    """Return the experiment with these values. Raises ConfigError."""
    tables: dict[str, Any] = {
        "train": experiment.train.model_dump(),
        "method": experiment.method.model_dump(),
    }
    for path, value in values.items():
        *above, key = path.split(".")
        inner = tables
        for part in above:
            inner = inner.setdefault(part, {})
        inner[key] = value
    if (custom := experiment.method.value) is not None:
        own = {key: tables["method"][key] for key in tables["method"] if key in MethodSettings.model_fields}
        if unknown := sorted(tables["method"].keys() - own.keys()):
            name = experiment.method.name
            raise ConfigError(f"compare.tune: method.{unknown[0]} is not a setting of {name!r}; remove it")
        tables["method"] = validate(MethodSettings, own).with_value(experiment.method.name, custom)
    return with_changes(experiment, **tables)


def choose(column: str, seed: int, trials: Sequence[Trial]) -> Tuning:
    """
    Return the trials with the values of the one that has the lowest loss; of several, the first. Raises ConfigError where
    every trial failed.
    """
    best = min(trials, key=lambda trial: inf if trial.loss is None else trial.loss)
    if best.loss is None:
        raise ConfigError(
            f"compare.tune: all {len(trials)} trials of {column} failed; list other values. The first: {best.failed}"
        )
    return Tuning(seed, best.settings, tuple(trials))


def edge_warnings(tunings: Mapping[str, Sequence[Tuning]]) -> list[str]:
    """Return a warning that names the chosen numbers that are the smallest or the largest tried: others may be better."""
    at_edge = [
        f"{column} ({path} = {value})" for column, each in tunings.items() for path, value in _edges(each)
    ]
    if not at_edge:
        return []
    return [
        "the best value is the smallest or largest that was tried, so one beyond it may be better: "
        + ", ".join(at_edge)
    ]


def _edges(tunings: Sequence[Tuning]) -> list[tuple[str, float]]:
    edges: dict[tuple[str, float], None] = {}
    for tuning in tunings:
        for path, value in tuning.chosen.items():
            tried = {trial.settings[path] for trial in tuning.trials if _is_number(trial.settings[path])}
            if len(tried) > 2 and _is_number(value) and value in (min(tried), max(tried)):
                edges[path, value] = None
    return list(edges)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
