"""torch's optimisers by lower-case name, for silos and for the server, and schedules of learning rates."""

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
    """Return a factor from 1 in the first round towards 0 after the last (Loshchilov and Hutter, 2017, without restarts)."""
    return (1 + math.cos(math.pi * (round - 1) / rounds)) / 2


# Functions of the round and the number of rounds; each gives the factor on the learning rate in that round.
SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": lambda round, rounds: 1.0, "cosine": _cosine}


def rate(schedule: str, round: int, rounds: int, warmup: int = 0) -> float:
    """
    Return the factor on the learning rate in a round; 1 after the last one, for what a silo fits then. In the first ``warmup``
    rounds it rises in equal steps, round / (warmup + 1) (Goyal et al., 2017), and the schedule is that of the other rounds.
    """
    if round > rounds:
        return 1.0
    if round <= warmup:
        return round / (warmup + 1)
    return SCHEDULES[schedule](round - warmup, rounds - warmup)
