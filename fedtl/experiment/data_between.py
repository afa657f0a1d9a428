"""How do the silos of an experiment differ? From the training rows alone; of test rows, only inputs are compared, for copies."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fedtl._util.labels import NO_LABEL
from fedtl._util.randomness import numpy_generator
from fedtl.data.facts import can_tell_rows_apart, row_hashes
from fedtl.data.features import row_features, summaries
from fedtl.data.hidden import hides_labels
from fedtl.data.label_shift import label_shifts
from fedtl.data.labels import label_numbers, label_texts, without_label
from fedtl.data.parts import split_rows
from fedtl.data.settings import DataSettings
from fedtl.data.shift import Sample, rows_of_each, separations, too_few
from fedtl.data.source import Array, Raw, finite_numbers
from fedtl.experiment.data_schema import DataSchema
from fedtl.results.data_report import BetweenSilos

MOST_FEATURES = 30  # whose means are compared: those that differ most

ShowProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Silo:
    """What is kept of one silo: a sample, its ``means`` by feature, its labels, and hashes of its inputs."""

    sample: Sample
    summaries: Mapping[str, Array]
    y: Array
    train: frozenset[int]
    test: tuple[int, ...]


def between_silos(
    settings: DataSettings, seed: int, read: Callable[[str], Raw], schema: DataSchema, show: ShowProgress
) -> BetweenSilos:
    """
    Return how the silos differ. ``read``: returns a silo's stored rows. Of large silos a sample is looked at, which follows from
    ``seed`` and the silo's name. Raises DataError.
    """
    most, silos = rows_of_each(len(schema.silos)), dict[str, _Silo]()
    for done, name in enumerate(schema.silos):
        show(done, len(schema.silos) + 1, f"rows of {name}")
        silos[name] = _silo(settings, seed, name, read(name), most)
    if len(silos) < 2:
        return BetweenSilos()
    show(len(silos), len(silos) + 1, "telling silos apart")
    samples = {name: silo.sample for name, silo in silos.items()}
    alone, pairs = separations(samples, seed)
    labels = {name: silo.y for name, silo in silos.items() if not hides_labels(settings, name)}
    return BetweenSilos(
        inputs=alone,
        pairs={f"{one}, {other}": found for (one, other), found in pairs.items()},
        labels=label_shifts(labels, not settings.predicted.has_classes),
        differences=differences({name: silo.summaries for name, silo in silos.items()}),
        gaps={name: _gaps(silo.summaries) for name, silo in silos.items()},
        leaked=dict(_leaked(silos)),
        sampled=min(most, max(len(silo.sample.groups) for silo in silos.values())),
        too_few=too_few(samples),
    )


def _silo(settings: DataSettings, seed: int, name: str, stored: Raw, most: int) -> _Silo:
    raw, _ = split_rows(stored, settings, name, seed)
    rows = raw.train
    drawn = np.sort(numpy_generator("shift", seed, name).permutation(len(rows.y))[:most])
    x, telling = rows.x[drawn], can_tell_rows_apart(rows.x)
    # Units of two silos are different ones. Hashes are compared in this process only.
    units = None if rows.units is None else [hash((name, str(unit))) for unit in rows.units[drawn]]
    if settings.predicted.has_classes:
        y = np.array(label_texts(rows.y))[~without_label(rows.y)]
    elif settings.predicted.per_pixel:  # the share of pixels that are not background
        masks = label_numbers(rows.y, (), settings).flatten(1)
        y = ((masks > 0).sum(1) / (masks != NO_LABEL).sum(1)).numpy()
    else:  # of several numbers the first, such as the time until an event
        y = finite_numbers(rows.y if rows.y.ndim == 1 else rows.y[:, 0])
        y = y[~np.isnan(y)]
    return _Silo(
        Sample(row_features(x, raw, settings), np.array(row_hashes(x) if units is None else units)),
        summaries(x, raw, settings),
        y,
        frozenset(row_hashes(rows.x)) if telling else frozenset(),
        tuple(row_hashes(raw.test.x)) if raw.test is not None and telling else (),
    )


def differences(silos: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, float]]:
    """
    Return by silo and feature its mean minus the mean of all silos' means, in standard deviations of all sampled rows: of the
    features that differ most.
    """
    names = list(next(iter(silos.values())))
    means = {
        name: np.array([_mean(own[feature]) for feature in names if feature in own])
        for name, own in silos.items()
    }
    if any(len(own) != len(names) for own in means.values()):
        return {}
    table = np.stack(list(means.values()))
    spread = np.array(
        [_spread(np.concatenate([own[feature] for own in silos.values()])) for feature in names]
    )
    kept = np.flatnonzero((spread > 0) & np.isfinite(table).any(0))
    with np.errstate(invalid="ignore"):
        apart = (table[:, kept] - np.nanmean(table[:, kept], 0)) / spread[kept]
    largest = np.sort(np.argsort(-np.nanmax(np.abs(apart), 0), kind="stable")[:MOST_FEATURES])
    return {
        name: {names[kept[at]]: float(apart[row, at]) for at in largest if np.isfinite(apart[row, at])}
        for row, name in enumerate(silos)
    }


def _gaps(columns: Mapping[str, Array]) -> dict[str, float]:
    shares = {name: float(np.isnan(values).mean()) for name, values in columns.items()}
    return {name: share for name, share in shares.items() if share}


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _spread(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.std()) if len(known) else 0.0


def _leaked(silos: Mapping[str, _Silo]) -> Iterator[tuple[str, int]]:
    """Yield the pairs "one, other" where test rows of one have the inputs of a training row of the other, and how many."""
    for one, tested in silos.items():
        for other, trained in silos.items():
            count = sum(row in trained.train for row in tested.test) if one != other else 0
            if count:
                yield f"{one}, {other}", count
