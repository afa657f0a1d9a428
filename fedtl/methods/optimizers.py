"""torch's own optimisers by lower-case name: for silos, and for the server on the averaged difference; and their rates."""

import math
from collections.abc import Callable

from torch import optim
from torch.optim import Optimizer

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    kind.__name__.lower(): kind
    for kind in (
        optim.SGD,
        optim.Adam,
        optim.AdamW,
        optim.Adagrad,
        optim.Adadelta,
        optim.RMSprop,
        optim.NAdam,
    )
}


def _cosine(round: int, rounds: int) -> float:
    """From 1 in the first round towards 0 after the last (Loshchilov and Hutter, 2017, without restarts)."""
    return (1 + math.cos(math.pi * (round - 1) / rounds)) / 2


# What the learning rate is multiplied by in round 1, 2, ... of so many.
SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": lambda round, rounds: 1.0, "cosine": _cosine}


def rate(schedule: str, round: int, rounds: int) -> float:
    """The factor for a round; 1 for what trains after the last one, such as a head at home."""
    return SCHEDULES[schedule](round, rounds) if round <= rounds else 1.0
