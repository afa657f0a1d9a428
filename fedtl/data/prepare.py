"""Prepares the stored rows of one silo: its training data and, separate from it, its test set."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fedtl._util.labels import without_labels
from fedtl.data.checks import check_classes, check_labels, check_rows
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.deal import LEARNING, dealt_names
from fedtl.data.dealt_set import dealt_rows, dealt_set
from fedtl.data.hidden import Hidden, hide_labels, used_fraction, uses_missing
from fedtl.data.labels import has_label, label_numbers, labels_in, merge_labels, without_label
from fedtl.data.origins import Origin, Origins
from fedtl.data.parts import split_rows
from fedtl.data.plain_names import names_in_source, plain_name
from fedtl.data.preprocess import Inputs, fit_inputs
from fedtl.data.registry import DATA
from fedtl.data.settings import DataSettings
from fedtl.data.small_silos import file_stamps, has_rule, small_silos
from fedtl.data.source import Array, Part, Raw
from fedtl.data.streamed import StreamedImages, StreamedInputs
from fedtl.data.target_encoding import TargetTable, fit_tables
from fedtl.data.wrong_labels import with_wrong_labels
from fedtl.errors import ConfigError, DataError


@dataclass(frozen=True)
class EvaluationSet:
    """
    Test rows, which no training code receives. ``ids`` [N]: permanent numbers of the rows, so that two runs can be
    compared row by row. ``target``: labelled test rows of the second domain. ``units`` [N]: permanent numbers of the units
    that the rows belong to; None: each row is a unit of its own. ``stored``: the inputs of all rows of a silo without labels, by number.
    """

    test: Dataset
    ids: Tensor
    target: Dataset | None = None
    units: Tensor | None = None
    stored: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """One silo: its training and validation rows, its test rows, and how inputs are prepared."""

    data: SiloDataset
    evaluation_set: EvaluationSet
    inputs: Inputs


def silo_names(settings: DataSettings) -> list[str]:
    """
    Return the silos that the experiment uses, late ones included, public ones and those of ``left_out`` not. Raises ConfigError or
    DataError.
    """
    small = left_out(settings)
    names = [name for name in _chosen(settings) if name not in small]
    if small and not names:
        raise ConfigError(
            f"data.min_rows = {settings.min_rows} and data.min_labels = {settings.min_labels} leave out all {len(small)} silos; lower them"
        )
    return names


def left_out(settings: DataSettings) -> Mapping[str, str]:
    """
    Return the silos that ``data.min_rows`` or ``data.min_labels`` leaves out, and for each what it has; those of ``data.late`` are
    never left out. Reads the rows, and again only after a file changed. Raises ConfigError or DataError.
    """
    return _left_out(settings.model_dump_json(), file_stamps(settings.path)) if has_rule(settings) else {}


@lru_cache(maxsize=16)
def _left_out(plain: str, stamps: tuple[tuple[str, int, int], ...]) -> Mapping[str, str]:
    settings = DataSettings.model_validate_json(plain)
    read = DATA[settings.source].read
    names = [name for name in _chosen(settings) if name not in settings.late]
    return small_silos(
        ((name, read(settings, stored_name(settings, name)).train.y) for name in names), settings
    )


def _chosen(settings: DataSettings) -> list[str]:
    """Return the silos that the lists of the settings choose. Raises ConfigError or DataError."""
    available = _available(settings)
    fractions = settings.label_fraction if isinstance(settings.label_fraction, dict) else {}
    public = [name for name in settings.public if ":" not in name]
    lists = {
        "silos": settings.silos,
        "silos_except": settings.silos_except,
        "late": settings.late,
        "unlabelled": settings.unlabelled,
        "public": public,
    }
    for key, names in {**lists, "label_fraction": fractions, "wrong_labels": settings.wrong_labels}.items():
        for name in names:
            if name not in available:
                raise ConfigError(
                    f"data.{key}: there is no silo {name!r}; there are {', '.join(available[:12])}"
                )
    chosen = {*settings.silos, *settings.late}
    left_out = {*public, *settings.silos_except}
    return [name for name in available if name not in left_out and (not settings.silos or name in chosen)]


def _available(settings: DataSettings) -> list[str]:
    """Return the names of all silos: those of the source, or the simulated ones of ``data.deal``. Raises DataError."""
    if settings.deal is not None:
        dealt_set(settings)
        return dealt_names(settings.deal)
    source = DATA[settings.source]
    return list(names_in_source(source.silos(settings), source.needs_path))


def stored_name(settings: DataSettings, name: str) -> str:
    """Return the silo's name in the source. A site's own file need not list silos: its name is as it is."""
    try:
        stored = DATA[settings.source].silos(settings)
    except DataError:  # the source says what is wrong when it reads the rows
        return name
    return {plain_name(one): one for one in stored}.get(name, name)


def read_silo(settings: DataSettings, name: str) -> Raw:
    """Return one silo's stored rows, checked. Raises DataError."""
    if settings.deal is not None:
        return dealt_rows(settings, settings.deal, name)
    source = DATA[settings.source]
    stored = stored_name(settings, name) if source.needs_path else name
    return check_rows(source.read(settings, stored), settings, name, source.missing_values)


def declared_classes(settings: DataSettings) -> tuple[str, ...]:
    """Return the sorted labels that the settings or the source declare; () if neither does, and where labels are numbers."""
    if not settings.predicted.has_classes:
        return ()
    return merge_labels([settings.classes or DATA[settings.source].classes])


def silo_classes(raw: Raw, settings: DataSettings) -> tuple[str, ...]:
    """Return the silo's sorted labels: the declared ones, or else those of its rows; () where labels are numbers."""
    if not settings.predicted.has_classes:
        return ()
    return declared_classes(settings) or merge_labels([sorted(labels_in(raw))])


def input_shape(raw: Raw, settings: DataSettings) -> tuple[int, ...]:
    """
    Return the shape of one input of the model: (columns,), (channels, steps), (channels, height, width) or (1, depth, height,
    width).
    """
    return Inputs.unscaled(settings, raw.columns).apply(raw.train.x[:1]).shape[1:]


def prepare_silo(
    raw: Raw, settings: DataSettings, name: str, seed: int, classes: tuple[str, ...], trained: frozenset[str]
) -> Prepared:
    """
    Split the rows of one silo, scale the inputs and number the labels.

    ``classes``: the labels that class numbers stand for. ``trained``: the labels in the training rows of the silos that
    train together. With ``settings.by_record`` no row is refused for its content: a row whose label is not in ``classes``
    is kept without a label and does not train. Labels that are not used become inputs without labels. Raises DataError.
    """
    stored = raw.train if raw.test is None else raw.test
    raw, ids = _split(raw, settings, name, seed)
    x = raw.train.x
    raw = with_wrong_labels(raw, settings, name, seed)
    raw, hidden = hide_labels(raw, settings, name, seed)
    if settings.predicted.has_classes and not settings.by_record:
        check_classes(raw, name, classes, trained)
    raw, tables = _with_encoded_rows(raw, settings, name, seed, classes)
    assert raw.val is not None
    assert raw.test is not None
    scaled = fit_inputs(raw.train.x if tables else x, raw.train.y, raw.columns, settings, name)
    inputs = replace(scaled, tables=tables)

    def prepared(part: Part, by: Inputs = inputs) -> Dataset:
        return Dataset(
            _inputs(part.x, by),
            label_numbers(part.y, classes, settings),
            None if part.units is None else _unit_numbers(part.units),
        )

    train = prepared(raw.train, scaled)  # which is encoded already
    data = SiloDataset(
        train,
        prepared(raw.val),
        classes if settings.predicted.exclusive else (),
        None if raw.target is None else torch.from_numpy(inputs.apply(raw.target)),
        inputs.y_mean,
        inputs.y_std,
        _origins(settings, inputs),
        task=settings.predicted.at_silo(classes, train.y),
    )
    if hidden is not None:
        data = _with_hidden(data, hidden, inputs)
    target_test = None if raw.target_test is None else prepared(raw.target_test)
    units = None if stored.units is None else _unit_numbers(stored.units)[torch.from_numpy(ids)]
    tested = _evaluation_set(prepared(raw.test), torch.from_numpy(ids), target_test, units)
    return Prepared(data, tested, inputs)


def _inputs(x: Array, by: Inputs) -> Tensor:
    """Return the inputs of a model; of images that are streamed what reads them, in the place of a tensor."""
    return (
        cast(Tensor, StreamedInputs(x, by))
        if isinstance(x, StreamedImages)
        else torch.from_numpy(by.apply(x))
    )


def _split(raw: Raw, settings: DataSettings, name: str, seed: int) -> tuple[Raw, Array]:
    """Return the rows with a test and a validation part, and the numbers of the test rows. Raises DataError."""
    raw, ids = split_rows(raw, settings, name, seed)
    if len(raw.train.y) < 2:
        raise DataError(
            f"silo {name}: data.test and data.val leave {len(raw.train.y)} training rows; decrease them"
        )
    if used_fraction(settings, name) and not uses_missing(settings, name):
        return raw, ids
    return _with_judged_test_rows(raw, ids, settings, name)


def _with_encoded_rows(
    raw: Raw, settings: DataSettings, name: str, seed: int, classes: tuple[str, ...]
) -> tuple[Raw, tuple[TargetTable, ...]]:
    """Return a silo with target-encoded training rows, and what encodes all other rows; () without such columns. Raises DataError."""
    if not settings.target_encoded:
        return raw, ()
    y = label_numbers(raw.train.y, classes, settings).numpy()
    tables, x = fit_tables(raw.train.x, y, raw.columns, settings, seed, name)
    return replace(raw, train=replace(raw.train, x=x)), tables


def _evaluation_set(
    test: Dataset, ids: Tensor, target: Dataset | None, units: Tensor | None
) -> EvaluationSet:
    """Return those test rows that have a label."""
    known = has_label(test)
    return EvaluationSet(test.take(known), ids[known], target, None if units is None else units[known])


def _with_judged_test_rows(raw: Raw, ids: Array, settings: DataSettings, name: str) -> tuple[Raw, Array]:
    """Return a silo of which rows may lack labels with those test rows that have one, and their numbers. Raises DataError."""
    assert raw.test is not None
    rows = np.flatnonzero(~without_label(raw.test.y))
    test = raw.test.take(rows)
    if not settings.by_record:
        check_labels(test.y, settings, name)
    return replace(raw, test=test), ids[rows]


def _with_hidden(data: SiloDataset, hidden: Hidden, inputs: Inputs) -> SiloDataset:
    """Return the silo with rows whose labels are not used: in training as ``target``, in validation with NO_LABEL or NaN."""
    x = torch.from_numpy(inputs.apply(hidden.val))
    val = Dataset(torch.cat([data.val.x, x]), torch.cat([data.val.y, without_labels(len(x), data.val.y)]))
    target = torch.from_numpy(inputs.apply(hidden.train))
    return replace(data, val=val, target=target, one_domain=True)


def _unit_numbers(units: Array) -> Tensor:
    """Return the units [N] as numbers from 0, in the order of their names."""
    return torch.from_numpy(np.unique(units, return_inverse=True)[1].astype(np.int64))


def _origins(settings: DataSettings, inputs: Inputs) -> Origins:
    """Return the origin of each value that the rows were prepared with."""
    learned = set(
        DATA[settings.source].learns(settings) if settings.by_record else Origins.__dataclass_fields__
    )
    if settings.deal is not None and settings.deal.by in LEARNING:
        learned.add("split")
    if inputs.tables:
        learned.add("columns")

    def origin(key: str) -> Origin:
        return Origin.LEARNED if key in learned else Origin.DECLARED

    classes_declared = declared_classes(settings) or not settings.predicted.has_classes
    return Origins(
        split=origin("split"),
        shape=origin("shape"),
        columns=origin("columns"),
        classes=Origin.DECLARED if classes_declared else Origin.LEARNED,
        scale=inputs.origin,
        label_scale=inputs.label_origin,
    )
