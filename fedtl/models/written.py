"""Layers of fedtl whose own source an export writes into its predict.py, because no other library has them."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

Sources = tuple[Callable[..., Any], ...]


@runtime_checkable
class Written(Protocol):
    """A module that ``type(self)(*arguments)`` builds anew."""

    arguments: tuple[Any, ...]

    def written_with(self) -> Sources:
        """
        Return the functions and classes whose sources it needs, each after those that it needs. They may use torch, nn, F, Tensor,
        pairwise and OrderedDict.
        """
        ...
