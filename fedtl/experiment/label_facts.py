"""What a silo's training labels are like, for notes: how large they are, how late, and which of them are all the same."""

import numpy as np

from fedtl.data.settings import DataSettings
from fedtl.data.source import Raw, finite_numbers
from fedtl.tasks.counts import Counts
from fedtl.tasks.multilabel import MultiLabel
from fedtl.tasks.survival import EVENT, TIME, TimeToEvent


def size(raw: Raw, settings: DataSettings) -> float | None:
    """Return how large the numbers are that are predicted: of values the deviation, of counts the mean, of times the median; else None."""
    task = settings.predicted
    if not (task.standardised or task.relative or isinstance(task, TimeToEvent)):
        return None
    y = finite_numbers(raw.train.y)
    y = y[:, TIME] if isinstance(task, TimeToEvent) else y
    y = y[~np.isnan(y)]
    if not len(y):
        return None
    return float(y.std() if task.standardised else y.mean() if task.relative else np.median(y))


def mean_count(raw: Raw, settings: DataSettings) -> float | None:
    """Return the mean of the training rows' counts; None for another task, and without any."""
    if not isinstance(settings.predicted, Counts):
        return None
    counts = finite_numbers(raw.train.y)
    return None if np.isnan(counts).all() else float(np.nanmean(counts))


def latest(raw: Raw) -> float | None:
    """Return the latest time of a training row with one; None without any."""
    times = finite_numbers(raw.train.y[:, TIME])
    return None if np.isnan(times).all() else float(np.nanmax(times))


def one_sided(raw: Raw, settings: DataSettings) -> tuple[str, ...]:
    """Return the labels of 0 and 1 that are the same in all training rows; of times the event, where no row has it."""
    task, y = settings.predicted, finite_numbers(raw.train.y)
    if isinstance(task, TimeToEvent):
        return () if (y[:, EVENT] == 1).any() else (settings.event,)
    if not isinstance(task, MultiLabel):
        return ()
    return tuple(
        name for name, own in zip(task.labels, y.T, strict=True) if not {0.0, 1.0} <= {*own.tolist()}
    )
