"""What all silos must agree on before anything is trained: found by looking at each silo once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from fedtl.data import prepare
from fedtl.data.labels import label_texts, merge_labels
from fedtl.data.source import Raw
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.schema import Experiment


@dataclass(frozen=True)
class SiloSchema:
    """One silo as it was seen: the shape of an input, its columns, its labels, those it trains on, its rows."""

    shape: tuple[int, ...]
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    trained: frozenset[str]
    rows: int


@dataclass(frozen=True)
class DataSchema:
    """All silos, by name."""

    silos: Mapping[str, SiloSchema]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one input; the same everywhere."""
        return next(iter(self.silos.values())).shape

    @cached_property
    def union(self) -> tuple[str, ...]:
        """Every label that some silo has."""
        return merge_labels([its.classes for its in self.silos.values()])

    @cached_property
    def trained(self) -> frozenset[str]:
        """Every label that some silo has in its training rows."""
        return frozenset().union(*(its.trained for its in self.silos.values()))


def read_data_schema(experiment: Experiment, read: Callable[[str], Raw] | None = None) -> DataSchema:
    """
    Look at every silo, one after another; ``read`` gives its rows. Raises ConfigError or DataError.
    """
    settings = experiment.data
    names = prepare.silo_names(settings)
    _check_numbers(experiment, names)
    silos: dict[str, SiloSchema] = {}
    for name in names:
        raw = read(name) if read else prepare.read_silo(settings, name)
        silos[name] = SiloSchema(
            prepare.input_shape(raw, settings),
            raw.columns,
            prepare.silo_classes(raw, settings),
            frozenset(label_texts(raw.train.y)),
            len(raw.train.y),
        )
        _check_alike(names[0], name, silos)
    return DataSchema(silos)


def _check_numbers(experiment: Experiment, names: list[str]) -> None:
    public = [name for name in experiment.model.pretrain_on if ":" not in name]
    if unknown := set(public) - set(names):
        raise ConfigError(
            f"model.pretrain_on: there is no silo {sorted(unknown)[0]!r}; there are {', '.join(names[:12])}"
        )
    training = [name for name in names if name not in experiment.data.late and name not in public]
    if not training:
        raise ConfigError("no silo is left to train: all are in data.late or model.pretrain_on")
    if isinstance(experiment.silos_per_round, int) and experiment.silos_per_round > len(training):
        raise ConfigError(
            f"silos_per_round = {experiment.silos_per_round}, but only {len(training)} silos train"
        )
    if experiment.minimum_silos > len(training):
        raise ConfigError(f"minimum_silos = {experiment.minimum_silos}, but only {len(training)} silos train")


def _check_alike(first: str, name: str, silos: Mapping[str, SiloSchema]) -> None:
    """After resizing, one model must fit all. Raises DataError."""
    one, other = silos[first], silos[name]
    if other.shape != one.shape:
        images = len(other.shape) == 3
        way = "set data.size and data.channels" if images else "choose data.columns that all have"
        raise DataError(f"silo {name} has inputs of shape {other.shape}, silo {first} of {one.shape}; {way}")
    if other.columns != one.columns:
        odd = sorted(set(other.columns) ^ set(one.columns)) or ["the same in another order"]
        raise DataError(f"silo {name} and silo {first} differ in columns: {odd[0]}; choose data.columns")
