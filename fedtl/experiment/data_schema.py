"""Shapes, columns and labels of all silos, read before anything is trained, and whether they fit one model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

from fedtl.data import prepare
from fedtl.data.facts import NO_FACTS, RowFacts, RowHashes, row_facts
from fedtl.data.hidden import hides_labels, uses_missing
from fedtl.data.image_sizes import ImageSizes, sizes_before
from fedtl.data.labels import different_labels, merge_labels
from fedtl.data.near_copies import near_pairs
from fedtl.data.pixels import is_pixels
from fedtl.data.preprocess import seen_as_signed
from fedtl.data.settings import DataSettings
from fedtl.data.source import Raw
from fedtl.data.spellings import shown_apart, spelled_alike
from fedtl.errors import ConfigError, DataError
from fedtl.experiment import label_facts
from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.few_labels import check_all_unlabelled, no_silo_has_labels
from fedtl.tasks.base import LearningTask

MIN_SIDE, MAX_ASPECT = 4, 8  # of what is surely an image, in pixels
Pairs = tuple[tuple[str, str, int], ...]  # of silos, and how many rows


@dataclass(frozen=True)
class SiloSchema:
    """
    The shape of one input, the columns, the labels, the labels in training rows, and the number of training rows. ``empty``:
    the columns without any value in these rows, and ``facts`` about them; neither is looked up where rows must be prepared
    independently of each other. ``unread``: what lies next to the rows and was not read. ``pixels``: whether a model
    sees them as pixels of -1..1, and ``eight_bits``: whether they are prepared as uint8 of 0..255; None: not known. ``latest``: of survival, the latest time of a training row.
    ``one_sided``: labels of 0 and 1 that are the same in all training rows, and the event that no training row has.
    ``spacings``: distances of pixels in mm that files state, the most frequent first. ``sizes``: in which images were read; None where ``data.size`` resized none, or where rows must not be looked at. ``label_size``: how large the numbers are that are predicted.
    ``remarks``: what was read and may not be wanted. ``palette``: the colour of each number in masks with one.
    """

    shape: tuple[int, ...]
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    trained: frozenset[str]
    rows: int
    empty: tuple[str, ...] = ()
    facts: RowFacts = NO_FACTS
    unread: tuple[str, ...] = ()
    pixels: bool | None = None
    eight_bits: bool | None = None
    mean_count: float | None = None  # of a training row, where counts are predicted and rows may be looked at
    latest: float | None = None
    sizes: ImageSizes | None = None
    one_sided: tuple[str, ...] = ()
    spacings: tuple[tuple[float, ...], ...] = ()
    label_size: float | None = None
    remarks: tuple[str, ...] = ()
    palette: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSchema:
    """
    The schema of each silo, by name. ``common``: pairs of silos with training rows in common, and how many; ``near_common``: with many
    training rows that are nearly the same. ``task``: what is
    predicted; None: classification where there are labels, otherwise regression. ``left_out``: the silos that ``data.min_rows`` or
    ``data.min_labels`` leaves out, and what each has. ``stored``: the name in the data of each silo whose name had to be changed.
    """

    silos: Mapping[str, SiloSchema]
    common: Pairs = ()
    task: LearningTask | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    near_common: Pairs = ()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, the same in all silos."""
        return next(iter(self.silos.values())).shape

    @cached_property
    def union(self) -> tuple[str, ...]:
        """Every label that some silo has."""
        return merge_labels([silo.classes for silo in self.silos.values()])

    @property
    def pixels(self) -> bool | None:
        """Whether a model sees the inputs of all silos as pixels of -1..1; None: not known."""
        return _all({silo.pixels for silo in self.silos.values()})

    @property
    def eight_bits(self) -> bool | None:
        """Whether the inputs of all silos are prepared as uint8 of 0..255; None: not known."""
        return _all({silo.eight_bits for silo in self.silos.values()})

    @property
    def width(self) -> int:
        """How many outputs a shared head has; 1 in regression."""
        return len(self.union) or 1 if self.task is None else self.task.width(self.union)

    @cached_property
    def trained(self) -> frozenset[str]:
        """Every label that some silo has in its training rows; where no label is used, every declared one."""
        return frozenset().union(*(silo.trained for silo in self.silos.values())) or frozenset(self.union)


def read_data_schema(
    experiment: Experiment, read: Callable[[str], Raw] | None = None, look: bool = False
) -> DataSchema:
    """
    Return the schema of every silo. ``read``: returns a silo's rows. ``look``: look up facts about rows that must be prepared
    independently of each other, too, for a person who may see them. Raises ConfigError or DataError.
    """
    settings = experiment.data
    names = prepare.silo_names(settings)
    _check_silo_counts(experiment, names)
    silos: dict[str, SiloSchema] = {}
    hashes: dict[str, RowHashes] = {}
    named = settings.predicted.has_classes
    for name in names:
        raw = read(name) if read else prepare.read_silo(settings, name)
        if settings.sequence is None:
            _check_is_picture(raw, name)
        unlabelled = name in settings.unlabelled  # its test labels are used for measurement only
        facts, hidden = NO_FACTS, hides_labels(settings, name)
        if look or not settings.by_record:
            facts, hashes[name] = row_facts(raw, settings, hidden or uses_missing(settings, name))
        silos[name] = SiloSchema(
            prepare.input_shape(raw, settings),
            raw.columns,
            prepare.declared_classes(settings) if unlabelled else prepare.silo_classes(raw, settings),
            different_labels(raw.train.y) if named and not unlabelled else frozenset(),
            len(raw.train.y),
            () if settings.by_record else _empty_columns(raw),
            facts,
            raw.unread,
            seen_as_signed(raw.train.x, settings),
            is_pixels(raw.train.x) and raw.train.x.dtype == np.uint8 and not settings.pixel_range,
            None if hidden or (settings.by_record and not look) else label_facts.mean_count(raw, settings),
            label_facts.latest(raw) if settings.horizons and not settings.by_record else None,
            sizes_before(raw, settings) if look or not settings.by_record else None,
            () if settings.by_record or hidden else label_facts.one_sided(raw, settings),
            tuple(sorted(raw.spacings, key=raw.spacings.__getitem__, reverse=True)),
            None if settings.by_record or hidden else label_facts.size(raw, settings),
            *(raw.remarks, raw.palette),
        )
        _check_same_inputs(names[0], name, silos)
    stored = {name: prepare.stored_name(settings, name) for name in names}
    changed = {name: one for name, one in stored.items() if one != name}
    common, near = _pairs(hashes)
    schema = DataSchema(silos, common, settings.predicted, prepare.left_out(settings), changed, near)
    _check_weighted_labels(settings, schema)
    return schema


def _pairs(hashes: Mapping[str, RowHashes]) -> tuple[Pairs, Pairs]:
    """Return the pairs of silos with training rows in common, and those with many that are nearly the same."""
    common = tuple(common_rows({name: own.exact for name, own in hashes.items()}))
    same = {(one, other): count for one, other, count in common}
    return common, tuple(near_pairs({name: own.near for name, own in hashes.items()}, same))


def _check_weighted_labels(settings: DataSettings, schema: DataSchema) -> None:
    """Raise ConfigError for a label in ``data.class_weights`` that no silo has."""
    weights = settings.class_weights if isinstance(settings.class_weights, dict) else {}
    if unknown := sorted(weights.keys() - set(schema.union)):
        raise ConfigError(
            f"data.class_weights: no silo has the label {unknown[0]!r}; there are {', '.join(schema.union[:12])}"
        )


def looks_like_series(shape: Sequence[int]) -> bool:
    """Return whether two axes are not those of a picture, by their lengths."""
    small, large = sorted(shape)
    return small < MIN_SIDE or large > MAX_ASPECT * small


def _check_is_picture(raw: Raw, name: str) -> None:
    """Raise DataError for numbers [N, H, W] that are not pictures by their shape, but may be series of measurements."""
    x = raw.train.x
    if x.ndim != 3 or x.dtype == np.uint8:
        return
    _, steps, channels = x.shape
    if looks_like_series((steps, channels)):
        raise DataError(
            f"silo {name}: inputs of shape {steps} x {channels} look like series of measurements, not like grey images; set "
            f"data.sequence = {{}} to read them as {steps} steps with {channels} channels, or save images as [N, H, W, 1]"
        )


def common_rows(hashes: Mapping[str, frozenset[int]]) -> Iterator[tuple[str, str, int]]:
    """Yield each pair of silos with rows in common, and how many."""
    for one, other in combinations(hashes, 2):
        if count := len(hashes[one] & hashes[other]):
            yield one, other, count


def _empty_columns(raw: Raw) -> tuple[str, ...]:
    """Return the columns of a table that have no value in any training row."""
    x = raw.train.x
    if x.ndim != 2 or x.dtype.kind != "f":
        return ()
    return tuple(column for column, empty in zip(raw.columns, np.isnan(x).all(0), strict=True) if empty)


def _check_silo_counts(experiment: Experiment, names: list[str]) -> None:
    public = [name for name in experiment.model.pretrain_on if ":" not in name]
    if unknown := set(public) - set(names):
        raise ConfigError(
            f"model.pretrain_on: there is no silo {sorted(unknown)[0]!r}; there are {', '.join(names[:12])}"
        )
    training = [name for name in names if name not in experiment.data.late and name not in public]
    if not training:
        raise ConfigError("no silo trains: all are in data.late or model.pretrain_on; remove one there")
    if no_silo_has_labels(experiment, training):
        check_all_unlabelled(experiment)
    if absent := sorted(set(experiment.method.server.get("trusted", ())) - set(training)):
        raise ConfigError(
            f"method.server.trusted: silo {absent[0]!r} does not train; there are {', '.join(training[:12])}"
        )
    if isinstance(experiment.silos_per_round, int) and experiment.silos_per_round > len(training):
        raise ConfigError(
            f"silos_per_round = {experiment.silos_per_round}, but only {len(training)} silos train; lower it"
        )
    if experiment.minimum_silos > len(training):
        raise ConfigError(
            f"minimum_silos = {experiment.minimum_silos}, but only {len(training)} silos train; lower it"
        )


def _all(known: set[bool | None]) -> bool | None:
    return False if False in known else None if None in known else True


def _lacking(key: str, lacks: str, has: str, columns: Sequence[str]) -> str:
    """Return what is wrong where a silo with these columns has no column ``key``, and what to do."""
    for column in columns:
        if spelled_alike([key, column]):
            its, theirs = shown_apart([column, key])
            return f"silo {lacks} has a column {its}, silo {has} {theirs}; write its name in one way in all silos"
    return f"silo {lacks} has no column {key!r}, silo {has} has one; list the columns of all silos in data.columns"


def _check_same_inputs(first: str, name: str, silos: Mapping[str, SiloSchema]) -> None:
    """Raise DataError where two silos have inputs of different shape, after resizing, or different columns."""
    reference, other = silos[first], silos[name]
    if reference.columns and other.columns and set(reference.columns) != set(other.columns):
        key = sorted(set(other.columns) ^ set(reference.columns))[0]
        has, lacks = (name, first) if key in other.columns else (first, name)
        raise DataError(_lacking(key, lacks, has, silos[lacks].columns))
    if other.shape != reference.shape:
        advice = {
            1: "list common columns in data.columns",
            2: "set data.sequence.length, and list common channels in data.columns",
        }.get(len(other.shape), "set data.size and data.channels")
        raise DataError(
            f"silo {name} has inputs of shape {other.shape}, silo {first} of {reference.shape}; {advice}"
        )
    if other.columns != reference.columns:
        raise DataError(
            f"silo {name} and silo {first} have the same columns in another order; list them in data.columns"
        )
