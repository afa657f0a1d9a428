"""From one silo's raw rows to what it trains on, and, kept apart from it, what it is examined on."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedtl.data.inputs import Inputs, learn
from fedtl.data.raw import Array, Part, Raw
from fedtl.data.settings import DataSettings
from fedtl.data.sources import DATA
from fedtl.data.splits import stratified
from fedtl.errors import ConfigError, DataError
from fedtl.randomness import numpy_generator
from fedtl.silo import Rows, SiloData

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class Exam:
    """
    Test rows, which no training code can reach. ``ids`` number a silo's rows for good, so that two runs can be
    compared row by row. ``target`` are test rows of the second domain, with labels.
    """

    test: Rows
    ids: Tensor
    target: Rows | None = None


@dataclass(frozen=True)
class Prepared:
    """One silo: what it learns from, what it is examined on, how its inputs were made."""

    data: SiloData
    exam: Exam
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
    return [name for name in found if not settings.silos or name in settings.silos]


def read(settings: DataSettings, name: str) -> Raw:
    """One silo's raw rows, checked. Raises DataError."""
    raw = DATA[settings.source].read(settings, name)
    for part in _parts(raw):
        _check(part, settings, name)
    if len(raw.train.y) < 4:
        raise DataError(f"silo {name}: {len(raw.train.y)} training rows; a silo needs at least 4")
    return raw


def classes(raw: Raw, settings: DataSettings) -> tuple[str, ...]:
    """The silo's own label names, in order; () in regression."""
    if settings.task == "regression":
        return ()
    return vocabulary(sorted(set(spelled(part.y))) for part in _parts(raw))


def vocabulary(label_sets: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Every label of several sets once: numbers by value, anything else by spelling."""
    union = {label for labels in label_sets for label in labels}
    numeric = all(label.lstrip("-").isdigit() for label in union)
    return tuple(sorted(union, key=int) if numeric else sorted(union))


def prepare(
    raw: Raw, settings: DataSettings, name: str, seed: int, labels: tuple[str, ...], trained: frozenset[str]
) -> Prepared:
    """
    Split, scale and number the labels of one silo.

    ``labels``: what class numbers stand for. ``trained``: the labels that some silo that shares the head trains
    on; a test label outside of it could be learnt by nobody. Raises DataError.
    """
    raw, ids = _split(raw, settings, name, seed)
    assert raw.val is not None and raw.test is not None
    if settings.task == "classification":
        _check_labels(raw, name, trained)
    inputs = learn(raw.train.x, raw.train.y, raw.columns, settings, name)

    def rows(part: Part) -> Rows:
        return Rows(torch.from_numpy(inputs.apply(part.x)), _numbered(part.y, labels))

    train, val, test = rows(raw.train), rows(raw.val), rows(raw.test)
    target = None if raw.target is None else torch.from_numpy(inputs.apply(raw.target))
    data = SiloData(train, val, labels, target, inputs.y_mean, inputs.y_std)
    exam = Exam(test, torch.from_numpy(ids), None if raw.target_test is None else rows(raw.target_test))
    return Prepared(data, exam, inputs)


def _split(raw: Raw, settings: DataSettings, name: str, seed: int) -> tuple[Raw, Array]:
    """With test and val parts, taken from the training rows where the source has none; and the test rows' ids."""
    rng = numpy_generator("split", seed, name)
    ids = np.arange(0 if raw.test is None else len(raw.test.y))
    if raw.test is None:
        ids, rest = stratified(raw.train.y, round(settings.test * len(raw.train.y)), rng)
        raw = replace(raw, test=_take(raw.train, ids), train=_take(raw.train, rest))
    if raw.target is not None and raw.target_test is not None and len(raw.target) == len(raw.target_test.y):
        held, rest = stratified(raw.target_test.y, round(settings.test * len(raw.target)), rng)
        raw = replace(raw, target=raw.target[rest], target_test=_take(raw.target_test, held))
    if raw.val is None:
        budget = len(raw.train.y)
        if settings.limit:
            budget = min(budget, round(settings.limit / (1 - settings.val)))
        drawn, rest = stratified(raw.train.y, round(settings.val * budget), rng)
        raw = replace(raw, val=_take(raw.train, drawn), train=_take(raw.train, rest))
    if settings.limit:
        kept, _ = stratified(raw.train.y, settings.limit, rng)
        raw = replace(raw, train=_take(raw.train, kept))
    return raw, ids


def _check(part: Part, settings: DataSettings, name: str) -> None:
    if not len(part.y):
        raise DataError(f"silo {name} is empty")
    if part.x.dtype.kind not in "uif":
        raise DataError(f"silo {name}: inputs of type {part.x.dtype}; fedtl reads uint8 pixels and numbers")
    if part.x.dtype.kind == "f" and part.x.ndim > 2 and not np.isfinite(part.x).all():
        raise DataError(f"silo {name}: {int((~np.isfinite(part.x)).sum())} values of its images are not finite")
    if part.x.dtype.kind == "f" and part.x.ndim == 2 and settings.source != "table" and not np.isfinite(part.x).all():
        row, column = np.argwhere(~np.isfinite(part.x))[0]
        raise DataError(f"silo {name}: row {row}, column {column} is {part.x[row, column]}; missing values can stand in a table source (CSV)")
    if settings.task == "regression":
        if part.y.dtype.kind not in "uif" or not np.isfinite(part.y.astype(float)).all():
            raise DataError(f"silo {name}: regression needs finite numbers as labels, not {part.y.dtype}")
    elif part.y.dtype.kind == "f" and not (np.isfinite(part.y).all() and (part.y == part.y.round()).all()):
        odd = next(value for value in part.y.tolist() if value != round(value) if np.isfinite(value))
        raise DataError(f'silo {name}: label {odd} is no class; for values set data.task = "regression"')
    elif part.y.dtype.kind in "if" and (part.y < 0).any():
        raise DataError(f"silo {name}: label {part.y.min()} is out of range; class numbers start at 0")


def _check_labels(raw: Raw, name: str, trained: frozenset[str]) -> None:
    own = set(spelled(raw.train.y))
    if len(own) < 2:
        raise DataError(f"silo {name}: all {len(raw.train.y)} training rows have the one label {own.pop()!r}; leave it out of data.silos")
    for part in (raw.val, raw.test, raw.target_test):
        if part is not None and (unknown := set(spelled(part.y)) - trained):
            raise DataError(f"silo {name}: label {sorted(unknown)[0]!r} is out of range: it stands in no training row ({', '.join(sorted(trained))})")


def _numbered(y: Array, labels: tuple[str, ...]) -> Tensor:
    if not labels:
        return torch.from_numpy(y.astype(np.float32))
    number = {label: index for index, label in enumerate(labels)}
    return torch.tensor([number[label] for label in spelled(y)], dtype=torch.int64)


def spelled(y: Array) -> list[str]:
    """Labels as text; 3.0 and 3 are one label."""
    text: list[str] = (y.astype(np.int64) if y.dtype.kind == "f" else y).astype(str).tolist()
    return text


def shape_after(raw: Raw, settings: DataSettings) -> tuple[int, ...]:
    """The shape of one input as a model sees it."""
    return Inputs(settings.size, settings.channels, raw.columns).apply(raw.train.x[:1]).shape[1:]


def _parts(raw: Raw) -> list[Part]:
    return [part for part in (raw.train, raw.val, raw.test, raw.target_test) if part is not None]


def _take(part: Part, rows: Array) -> Part:
    return Part(part.x[rows], part.y[rows])
