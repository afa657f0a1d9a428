"""Drawing some rows and leaving the rest, or dealing all to folds: in proportion to the classes, by whole units, or by position alone."""

import numpy as np

from fedtl.data.source import Array


def stratified(y: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """
    Draw ``count`` rows at random, each class as close to its proportion as whole rows allow (largest remainders).

    ``y`` [N]: classes of any type. Returns the indices of the drawn rows and of the rest, both in ascending order.
    """
    classes = np.unique(y, return_inverse=True)[1]
    count = min(count, len(y))
    sizes = np.bincount(classes)
    ideal = sizes * count / max(len(y), 1)
    quota = np.floor(ideal).astype(int)
    for rounded_up in np.argsort(quota - ideal, kind="stable")[: count - quota.sum()]:
        quota[rounded_up] += 1
    drawn = [rng.permutation(np.flatnonzero(classes == c))[: quota[c]] for c in range(len(sizes))]
    taken = np.zeros(len(y), bool)
    taken[np.concatenate([*drawn, np.empty(0, int)]).astype(int)] = True
    return np.flatnonzero(taken), np.flatnonzero(~taken)


def at_random(rows: int, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw ``count`` of ``rows`` rows without classes; returns what ``stratified`` returns."""
    return stratified(np.zeros(rows, int), count, rng)


def whole_units(units: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """
    Draw units in random order, each with all its rows, as long as they fit into ``count`` rows.

    ``units`` [N]: whose row each is. Returns what ``stratified`` returns.
    """
    _, which, sizes = np.unique(units, return_inverse=True, return_counts=True)
    taken, left = np.zeros(len(sizes), bool), count
    for unit in rng.permutation(len(sizes)):
        if sizes[unit] <= left:
            taken[unit], left = True, left - sizes[unit]
    return np.flatnonzero(taken[which]), np.flatnonzero(~taken[which])


def deal(y: Array, folds: int, rng: np.random.Generator) -> Array:
    """
    Deal rows to folds at random, in sizes that differ by one row at most, and so each class.

    ``y`` [N]: classes of any type. Returns [N]: the fold of each row.
    """
    fold = np.empty(len(y), int)
    fold[np.lexsort((rng.permutation(len(y)), y))] = np.arange(len(y)) % folds
    return fold


def deal_units(units: Array, folds: int, rng: np.random.Generator) -> Array:
    """
    Deal units to folds, each with all its rows: the largest first, of equal ones in random order, to the fold with the fewest
    rows. Returns [N]: the fold of each row.
    """
    _, which, sizes = np.unique(units, return_inverse=True, return_counts=True)
    of_unit, rows = np.empty(len(sizes), int), np.zeros(folds, int)
    for unit in np.lexsort((rng.permutation(len(sizes)), -sizes)):
        of_unit[unit] = rows.argmin()
        rows[of_unit[unit]] += sizes[unit]
    return np.asarray(of_unit[which])


def by_position(positions: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """
    Draw ``count`` positions at random, each with all its rows.

    ``positions`` [N]: each row's own position, or that of its unit, numbered from 0. The draw depends on nothing else, so
    the content of one row or unit never moves another to the other side. Returns what ``stratified`` returns.
    """
    total = int(positions.max()) + 1 if len(positions) else 0
    drawn = rng.permutation(total)[: min(count, total)]
    taken = np.isin(positions, drawn)
    return np.flatnonzero(taken), np.flatnonzero(~taken)
