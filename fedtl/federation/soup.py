"""The mean of the shared tensors over the last rounds, which becomes the final model."""

from fedtl.methods.base import Server
from fedtl.methods.server import ServerStep
from fedtl.models.state import State, add_scaled, difference


def soup_rounds(server: Server) -> int:
    """Return over how many last rounds the final model is a mean; 1: it is the last one."""
    return server.soup if isinstance(server, ServerStep) else 1


def next_soup(soup: State, shared: State, last: int, round: int, rounds: int) -> State:
    """
    Return the mean of the shared tensors after the last ``last`` of ``rounds`` rounds, as far as they are done after ``round``:
    a uniform soup (Wortsman et al., 2022) along one training, as in stochastic weight averaging (Izmailov et al., 2018).
    {} before the first of these rounds, and where ``last`` is 1.

    The mean of m tensors follows from that of m - 1: s + (w - s) / m, so the server keeps one model whatever ``last`` is.
    """
    last = min(last, rounds)
    count = round - (rounds - last)
    if last < 2 or count < 1:
        return {}
    return dict(shared) if count == 1 else add_scaled(soup, difference(shared, soup), 1 / count)
