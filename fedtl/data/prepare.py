"""From one silo's raw rows to what it trains on, and, kept apart from it, what it is examined on."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedtl._util.labels import NO_LABEL
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.data.origins import Origin, Origins
from fedtl.data.parts import in_parts
from fedtl.data.preprocess import Inputs, learn
from fedtl.data.registry import DATA
from fedtl.data.settings import DataSettings
from fedtl.data.source import Array, Part, Raw
from fedtl.errors import ConfigError, DataError

NUMBER = re.compile(r"-?[0-9]{1,18}")
LARGEST = np.float64(np.finfo(np.float32).max)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class EvaluationSet:
    """
    Test rows, which no training code can reach. ``ids`` number a silo's rows for good, so that two runs can be
    compared row by row. ``target`` are test rows of the second domain, with labels.
    """

    test: Dataset
    ids: Tensor
    target: Dataset | None = None


@dataclass(frozen=True)
class Prepared:
    """One silo: what it learns from, what it is examined on, how its inputs were made."""

    data: SiloDataset
    exam: EvaluationSet
    inputs: Inputs


def names(settings: DataSettings) -> list[str]:
    """The silos that the experiment uses, late ones included. Raises ConfigError or DataError."""
    source = DATA[settings.source]
    found = list(source.silos(settings))
    for name in found:
        if not NAME.fullmatch(name):
            raise DataError(f"silo {name!r}: a name has letters, digits and . _ + - only, 64 at most")
    for key, asked in (("silos", settings.silos), ("late", settings.late)):
        for name in asked:
            if name not in found:
                raise ConfigError(f"data.{key}: there is no silo {name!r}; there are {', '.join(found[:12])}")
    wanted = {*settings.silos, *settings.late}
    return [name for name in found if not settings.silos or name in wanted]


def read(settings: DataSettings, name: str) -> Raw:
    """One silo's raw rows, checked. Raises DataError."""
    raw = DATA[settings.source].read(settings, name)
    for split, part in _parts(raw).items():
        if not len(part.y):
            raise DataError(
                f"silo {name} has no {split} rows"
                if split != "train"
                else f"silo {name} is empty: it has no rows; leave it out of data.silos"
            )
        _check_inputs(part.x, raw.train.x, settings, name, split)
        if not settings.by_record:
            _check_y(part.y, settings, name)
    if raw.target is not None:
        if not len(raw.target):
            raise DataError(f"silo {name} has no rows of the second domain")
        _check_inputs(raw.target, raw.train.x, settings, name, "target")
    if len(raw.train.y) < 4:
        raise DataError(f"silo {name}: {len(raw.train.y)} training rows; a silo needs at least 4")
    return raw


def declared_classes(settings: DataSettings) -> tuple[str, ...]:
    """The label names that the settings or the source declare, in order; () where nobody does, and in regression."""
    if settings.task == "regression":
        return ()
    return vocabulary([settings.classes or DATA[settings.source].classes])


def classes(raw: Raw, settings: DataSettings) -> tuple[str, ...]:
    """The silo's own label names, in order: the declared ones, or those that its rows have; () in regression."""
    if settings.task == "regression":
        return ()
    return declared_classes(settings) or vocabulary([sorted(occurring(raw))])


def occurring(raw: Raw) -> frozenset[str]:
    """Every label that some row of the silo has."""
    return frozenset().union(*(spelled(part.y) for part in _parts(raw).values()))


def vocabulary(label_sets: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Every label of several sets once: numbers by value, anything else by spelling."""
    union = {label for labels in label_sets for label in labels}
    if all(NUMBER.fullmatch(label) for label in union):
        return tuple(sorted(union, key=lambda label: (int(label), label)))
    return tuple(sorted(union))


def prepare(
    raw: Raw, settings: DataSettings, name: str, seed: int, labels: tuple[str, ...], trained: frozenset[str]
) -> Prepared:
    """
    Split, scale and number the labels of one silo.

    ``labels``: what class numbers stand for. ``trained``: the labels that some silo that shares the head trains
    on; a test label outside of it could be learnt by nobody. With ``settings.by_record`` no row is refused for what it
    holds: a label that is not among ``labels`` is no label, and its row trains nothing. Raises DataError.
    """
    raw, ids = in_parts(raw, settings, name, seed)
    assert raw.val is not None
    assert raw.test is not None
    if len(raw.train.y) < 2:
        raise DataError(f"silo {name}: data.test and data.val leave {len(raw.train.y)} training rows")
    if settings.task == "classification" and not settings.by_record:
        _check_labels(raw, name, labels, trained)
    inputs = learn(raw.train.x, raw.train.y, raw.columns, settings, name)

    def rows(part: Part) -> Dataset:
        units = None if part.units is None else np.unique(part.units, return_inverse=True)[1]
        return Dataset(
            torch.from_numpy(inputs.apply(part.x)),
            _numbered(part.y, labels, settings),
            None if units is None else torch.from_numpy(units.astype(np.int64)),
        )

    train, val, test = rows(raw.train), rows(raw.val), rows(raw.test)
    target = None if raw.target is None else torch.from_numpy(inputs.apply(raw.target))
    data = SiloDataset(train, val, labels, target, inputs.y_mean, inputs.y_std, _origins(settings, inputs))
    said = labelled(test)
    exam = EvaluationSet(
        _kept(test, said),
        torch.from_numpy(ids)[said],
        None if raw.target_test is None else rows(raw.target_test),
    )
    return Prepared(data, exam, inputs)


def labelled(rows: Dataset) -> Tensor:
    """[N] of bool: the rows that have a label."""
    return rows.y.isfinite() if rows.y.is_floating_point() else rows.y != NO_LABEL


def _kept(rows: Dataset, kept: Tensor) -> Dataset:
    return Dataset(rows.x[kept], rows.y[kept], None if rows.units is None else rows.units[kept])


def _origins(settings: DataSettings, inputs: Inputs) -> Origins:
    """Where each value comes from that the rows were prepared with."""
    learned = DATA[settings.source].learns(settings) if settings.by_record else Origins.__dataclass_fields__
    known = declared_classes(settings) or settings.task == "regression"

    def origin(key: str) -> Origin:
        return Origin.LEARNED if key in learned else Origin.DECLARED

    return Origins(
        split=origin("split"),
        shape=origin("shape"),
        columns=origin("columns"),
        classes=Origin.DECLARED if known else Origin.LEARNED,
        scale=inputs.origin,
        label_scale=inputs.label_origin,
    )


def _check_inputs(x: Array, like: Array, settings: DataSettings, name: str, split: str) -> None:
    """Of one part of a silo; ``like`` are its training rows."""
    if x.dtype.kind not in "uif":
        raise DataError(f"silo {name}: inputs of type {x.dtype}; fedtl reads uint8 pixels and numbers")
    if (shape := _fixed(x, settings)) != (wanted := _fixed(like, settings)):
        raise DataError(f"silo {name}: {split} inputs have shape {shape}, training inputs {wanted}")
    if (x.dtype == np.uint8) != (like.dtype == np.uint8) and x.ndim > 2:
        raise DataError(
            f"silo {name}: {split} images are {x.dtype} and training images {like.dtype}; use one"
        )
    if settings.by_record:
        return  # what is not finite is a missing value, in this row alone
    missing = np.isnan(x) if settings.source == "table" and x.ndim == 2 else False
    odd = ~(np.abs(x) <= LARGEST) & ~np.asarray(missing) if x.dtype.kind == "f" else np.zeros(0, bool)
    if not odd.any():
        return
    if x.ndim > 2:
        raise DataError(f"silo {name}: {int(odd.sum())} values of its {split} images are not finite")
    row, column = np.argwhere(odd)[0]
    value, way = x[row, column], "missing values can stand in a table source (CSV)"
    raise DataError(f"silo {name}: {split} row {row}, column {column} is {value}, not a finite number; {way}")


def _fixed(x: Array, settings: DataSettings) -> tuple[int, ...]:
    """What all rows of a silo must agree on: what the settings do not bring into line anyway."""
    if x.ndim == 2:
        return x.shape[1:]
    height_width = x.shape[1:3] if settings.size == "native" else ()
    return height_width + ((x.shape[3:] or (1,)) if settings.channels == "native" else ())


def _check_y(y: Array, settings: DataSettings, name: str) -> None:
    if settings.task == "regression":
        if y.dtype.kind not in "uif" or not np.isfinite(y.astype(float)).all():
            raise DataError(f"silo {name}: regression needs finite numbers as labels, not {_oddest(y)}")
    elif y.dtype.kind == "f" and not (np.isfinite(y) & (y == y.round())).all():
        way = 'for values set data.task = "regression"'
        raise DataError(f"silo {name}: label {_oddest(y)} is no class; {way}")
    elif y.dtype.kind in "if" and (y < 0).any():
        raise DataError(f"silo {name}: label {y.min()} is out of range; class numbers start at 0")


def _oddest(y: Array) -> str:
    """The first label that is no whole number, not finite at best."""
    if y.dtype.kind != "f":
        return repr(y.tolist()[0])
    odd = y[~np.isfinite(y)] if not np.isfinite(y).all() else y[y != y.round()]
    return str(odd[0])


def _check_labels(raw: Raw, name: str, labels: tuple[str, ...], trained: frozenset[str]) -> None:
    own = set(spelled(raw.train.y))
    if odd := sorted(own - set(labels)):
        raise DataError(
            f"silo {name}: label {odd[0]!r} is not among the declared classes; add it to data.classes"
        )
    if len(own) < 2:
        only = f"all {len(raw.train.y)} training rows have the one label {own.pop()!r}"
        raise DataError(f"silo {name}: {only}; leave it out of data.silos")
    for part in (raw.val, raw.test, raw.target_test):
        if part is not None and (unknown := set(spelled(part.y)) - trained):
            label, known = sorted(unknown)[0], ", ".join(map(repr, vocabulary([sorted(trained)])[:12]))
            raise DataError(
                f"silo {name}: label {label!r} is out of range: no training row has it, only {known}"
            )


def _numbered(y: Array, labels: tuple[str, ...], settings: DataSettings) -> Tensor:
    if settings.task == "regression":
        return torch.from_numpy(_values(y) if settings.by_record else y.astype(np.float32))
    number = {label: index for index, label in enumerate(labels)}
    if settings.by_record:
        return torch.tensor([number.get(label, NO_LABEL) for label in spelled(y)], dtype=torch.int64)
    return torch.tensor([number[label] for label in spelled(y)], dtype=torch.int64)


def _values(y: Array) -> Array:
    """Labels of a regression as float32; one that is no finite number is no label (NaN)."""
    values = y.astype(np.float32) if y.dtype.kind in "uifb" else np.full(len(y), np.nan, np.float32)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def spelled(y: Array) -> list[str]:
    """Labels as text; 3.0 and 3 are one label, and what is no whole number stays as it is."""
    if y.dtype.kind == "f":
        return [str(int(value)) if value.is_integer() else str(value) for value in y.astype(float).tolist()]
    text: list[str] = y.astype(str).tolist()
    return text


def shape_after(raw: Raw, settings: DataSettings) -> tuple[int, ...]:
    """The shape of one input as a model sees it."""
    return Inputs(settings.size, settings.channels, raw.columns).apply(raw.train.x[:1]).shape[1:]


def _parts(raw: Raw) -> dict[str, Part]:
    parts = {"train": raw.train, "val": raw.val, "test": raw.test, "target test": raw.target_test}
    return {split: part for split, part in parts.items() if part is not None}
