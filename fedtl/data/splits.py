"""Drawing some rows and leaving the rest: class by class, unit by unit, or by position alone."""

import numpy as np

from fedtl.data.source import Array


def stratified(y: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """
    Indices of ``count`` rows drawn at random, each class as nearly in proportion as whole rows allow (largest
    remainders), and of the rest; both in ascending order. ``y``: classes, however they are stored.
    """
    classes = np.unique(y, return_inverse=True)[1]
    count = min(count, len(y))
    sizes = np.bincount(classes)
    ideal = sizes * count / max(len(y), 1)
    quota = np.floor(ideal).astype(int)
    for lucky in np.argsort(quota - ideal, kind="stable")[: count - quota.sum()]:
        quota[lucky] += 1
    drawn = [rng.permutation(np.flatnonzero(classes == c))[: quota[c]] for c in range(len(sizes))]
    taken = np.zeros(len(y), bool)
    taken[np.concatenate([*drawn, np.empty(0, int)]).astype(int)] = True
    return np.flatnonzero(taken), np.flatnonzero(~taken)


def at_random(rows: int, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """As ``stratified``, of ``rows`` rows that have no classes."""
    return stratified(np.zeros(rows, int), count, rng)


def whole_units(units: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """
    As ``stratified``, but a unit's rows stay together: units in random order, as long as they fit into ``count`` rows.
    """
    _, which, sizes = np.unique(units, return_inverse=True, return_counts=True)
    taken, left = np.zeros(len(sizes), bool), count
    for unit in rng.permutation(len(sizes)):
        if sizes[unit] <= left:
            taken[unit], left = True, left - sizes[unit]
    return np.flatnonzero(taken[which]), np.flatnonzero(~taken[which])


def by_position(slots: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """
    Indices of the rows of ``count`` slots drawn at random, and of the rest; both in ascending order. ``slots`` [N]: which
    slot each row is in, numbered from 0: the row's own position, or its unit's. Nothing else is looked at, so what one
    row or one unit holds never moves another to the other side.
    """
    total = int(slots.max()) + 1 if len(slots) else 0
    drawn = rng.permutation(total)[: min(count, total)]
    taken = np.isin(slots, drawn)
    return np.flatnonzero(taken), np.flatnonzero(~taken)
