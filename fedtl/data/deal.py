"""
One set of rows dealt to simulated silos (``data.deal``).

- "dirichlet": silos differ in their labels (Yurochkin et al., 2019; most benchmarks since Hsu et al., 2019). For each class k
  the shares p_k ~ Dirichlet(alpha, ..., alpha) of the silos are drawn, and silo i gets p_ki of the rows of class k.
- "size": silos differ in their numbers of rows: one such draw for all rows, whatever their labels.
- "iid": every silo gets an equal share of all rows.
- "classes": every silo has only some of the classes, the same number each ("pathological", McMahan et al., 2017). The silos of
  a class get equal shares of its rows.
- "unit": whole units, such as patients, the largest first, each to the silo with the fewest rows.

Training, validation and test rows are dealt by the same shares, so that a silo is tested on rows like those it trains on.
Every row is in one silo. The deal follows from the settings, the numbers of rows and, by "dirichlet" and "classes", the
labels, or by "unit" the units; not from the seed of a run.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.data.labels import label_texts
from fedtl.data.settings import DealSettings
from fedtl.data.source import Array, Part, Raw, parts_of
from fedtl.data.splits import deal_units
from fedtl.errors import DataError

DRAWS = 1000  # of shares, until every silo has enough rows
FEW = 5  # rows of one class that a silo has at least, if it has any: some stay to train on after the splits
BY_LABEL = ("dirichlet", "classes")
LEARNING = (*BY_LABEL, "unit")  # the content of a row decides where others go
Shares = dict[str, Array]  # by group of rows, such as a class, the share [silos] of each silo


def dealt_names(settings: DealSettings) -> list[str]:
    """Return the names of the simulated silos, in order: silo-1, or silo-01 where there are ten or more."""
    digits = len(str(settings.silos))
    return [f"silo-{number:0{digits}}" for number in range(1, settings.silos + 1)]


def silo_rows(raw: Raw, settings: DealSettings, name: str, where: str) -> Raw:
    """
    Return the rows of the silo ``name``; over all silos, each row of ``raw`` once. ``where`` names the set in messages.
    Raises DataError where a silo would not get the rows that it needs.
    """
    number = dealt_names(settings).index(name)
    rows = _of_units(raw, settings, where) if settings.by == "unit" else _of_shares(raw, settings, where)
    parts = {key: part.take(rows[key][number]) for key, part in parts_of(raw).items()}
    own = {what: one[rows["train"][number]] for what, one in raw.properties.items()}
    return replace(raw, train=parts["train"], val=parts.get("val"), test=parts.get("test"), properties=own)


def _of_shares(raw: Raw, settings: DealSettings, where: str) -> dict[str, list[Array]]:
    """Return by part the row numbers of each silo."""
    groups = {key: _groups(part, settings) for key, part in parts_of(raw).items()}
    shares = _shares(groups, settings, where)
    return {key: divide(own, shares, key, settings.seed) for key, own in groups.items()}


def _of_units(raw: Raw, settings: DealSettings, where: str) -> dict[str, list[Array]]:
    """Return by part the row numbers of each silo; the rows of a unit, of all parts, are in one silo."""
    parts = parts_of(raw)
    units = [part.units for part in parts.values() if part.units is not None]
    every = np.concatenate([np.asarray(own, str) for own in units])
    silo = deal_units(every, settings.silos, numpy_generator("partition", settings.seed, "units"))
    ends = np.cumsum([len(part.y) for part in parts.values()])[:-1]
    rows = {
        key: [np.flatnonzero(own == number) for number in range(settings.silos)]
        for key, own in zip(parts, np.split(silo, ends), strict=True)
    }
    fewest = {key: min(map(len, own)) for key, own in rows.items()}
    if fewest["train"] < settings.minimum or not min(fewest.values()):
        lacking = next((key for key, count in fewest.items() if not count), "train")
        raise DataError(
            f"{where}: of {len(np.unique(every))} units, data.deal gives one of {settings.silos} silos {fewest[lacking]} {lacking} "
            f"rows; data.deal.minimum is {settings.minimum}: decrease data.deal.silos or minimum"
        )
    return rows


def divide(groups: Array, shares: Shares, key: str, seed: int) -> list[Array]:
    """
    Return the row numbers of each silo, ascending. ``groups`` [N]: the group of each row; ``shares``: by group, the share
    [silos] of its rows that each silo gets, in whole rows by largest remainders. Which rows they are is random.
    """
    silos = len(next(iter(shares.values())))
    drawn: list[list[Array]] = [[] for _ in range(silos)]
    for group in np.unique(groups).tolist():
        rows = numpy_generator("partition", seed, key, group).permutation(np.flatnonzero(groups == group))
        ends = np.cumsum(whole_rows(shares[group], len(rows)))
        for number, own in enumerate(np.split(rows, ends[:-1])):
            drawn[number].append(own)
    return [np.sort(np.concatenate(own)) for own in drawn]


def whole_rows(shares: Array, rows: int) -> Array:
    """Return the numbers [silos] of ``rows`` rows by these shares, which sum to 1: largest remainders, none for a share of 0."""
    ideal = shares * rows
    counts = np.floor(ideal).astype(int)
    for rounded_up in np.argsort(counts - ideal, kind="stable")[: rows - counts.sum()]:
        counts[rounded_up] += 1
    return counts


def _groups(part: Part, settings: DealSettings) -> Array:
    """Return what the shares of each row follow from, [N] of text: its label, or nothing."""
    return np.array(label_texts(part.y)) if settings.by in BY_LABEL else np.full(len(part.y), "")


def _shares(groups: dict[str, Array], settings: DealSettings, where: str) -> Shares:
    """Return the shares of each group: the first draw with which every silo has enough rows. Raises DataError."""
    parts = list(groups.values())
    counts = dict(zip(*(values.tolist() for values in np.unique(parts[0], return_counts=True)), strict=True))
    if missing := sorted(set(np.concatenate(parts).tolist()) - counts.keys()):
        raise DataError(f"{where}: label {missing[0]!r} is in no training row; remove its rows")
    most = 0
    for shares in _draws(counts, settings, where):
        by_group = np.stack([whole_rows(shares[group], count) for group, count in counts.items()])
        most = max(most, int(by_group.sum(0).min()))
        if _enough(by_group, shares, parts[1:], settings):
            return shares
    reached = f"the smallest silo gets at most {most}"
    if most >= settings.minimum:
        reached = "some silo lacks a row of two labels, or a validation or test row"
    raise DataError(
        f"{where}: data.deal cannot give each of {settings.silos} silos {settings.minimum} of {len(parts[0])} training "
        f"rows{' and its labels' if settings.by in BY_LABEL else ''}; {reached}: decrease data.deal.silos or minimum"
        + (", or increase alpha" if settings.by in ("dirichlet", "size") else "")
    )


def _draws(counts: dict[str, int], settings: DealSettings, where: str) -> Iterator[Shares]:
    """Yield the shares of each group that come into question, one draw after another."""
    rng = numpy_generator("shares", settings.seed)
    if settings.by == "iid":
        yield {group: np.full(settings.silos, 1 / settings.silos) for group in counts}
    elif settings.by == "classes":
        yield _class_shares(list(counts), settings, where, rng)
    else:
        for _ in range(DRAWS):
            yield {group: _draw(count, settings, rng) for group, count in counts.items()}


def _draw(rows: int, settings: DealSettings, rng: np.random.Generator) -> Array:
    """
    Return shares [silos] of a group of ``rows`` training rows. By "dirichlet", a silo whose share is fewer than FEW rows gets
    none of the class, and the largest share takes it over.
    """
    shares = rng.dirichlet(np.full(settings.silos, settings.alpha))
    if settings.by == "dirichlet":
        shares[(shares * rows < FEW) & (np.arange(len(shares)) != shares.argmax())] = 0
    return shares / shares.sum()


def _class_shares(labels: list[str], settings: DealSettings, where: str, rng: np.random.Generator) -> Shares:
    """
    Return the shares of each class. The silos take their classes one after another, each those that the fewest silos have
    so far, at random among equals: so the numbers of silos of two classes differ by at most one. Raises DataError.
    """
    silos, each = settings.silos, settings.classes
    if not len(labels) / silos <= each <= len(labels):
        raise DataError(
            f"{where}: data.deal.classes = {each} of {len(labels)} classes in {silos} silos; set it to at most {len(labels)}, "
            f"and to at least {-(-len(labels) // silos)}, so that every class is in a silo"
        )
    has = np.zeros((len(labels), silos))
    for number in range(silos):
        has[np.lexsort((rng.permutation(len(labels)), has.sum(1)))[:each], number] = 1
    return dict(zip(labels, has / has.sum(1, keepdims=True), strict=True))


def _enough(by_group: Array, shares: Shares, others: list[Array], settings: DealSettings) -> bool:
    """
    Return whether every silo has ``minimum`` training rows, a row of each other part, and two classes or those that it is to
    have. ``by_group`` [groups, silos]: numbers of training rows.
    """
    if by_group.sum(0).min() < settings.minimum:
        return False
    classes = {"dirichlet": 2, "classes": settings.classes}.get(settings.by, 0)
    if np.count_nonzero(by_group, 0).min() < classes:
        return False
    counts = [dict(zip(*np.unique(part, return_counts=True), strict=True)) for part in others]
    return all(
        np.sum([whole_rows(shares[str(group)], int(count)) for group, count in other.items()], 0).min() > 0
        for other in counts
    )
