"""torch's own optimisers by lower-case name: for silos, and for the server on the averaged difference."""

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
