"""What a silo sends of its rows in addition to the model."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from fedtl.methods.losses import Forward


MAX_NUMBERS = 1 << 22  # of one summary: 16 MB


class Summary(ABC):
    """
    One vector an example, of which a silo sends the mean over its training rows and receives the mean over silos. A
    vector longer than ``bound`` is scaled down to it.

    ``by_label``: the vector depends on the number of the label, so all silos must number their labels alike. ``any_task``: it is defined whatever is predicted.
    ``every_round``: it changes with training; otherwise a private silo releases it in its first round only.
    ``exact_statistics``: of the model with the exact statistics of the silo's training inputs, where the silo uses these and
    trains without privacy; otherwise of the model as trained.
    ``on_public``: the vectors themselves cross, one for each public input (``Trainer.public``), and no mean over training rows.
    ``needs_layers``: the paths of the layers of the net whose outputs the vector is made of.
    """

    name: str
    bound: float
    by_label: bool = False
    any_task: bool = False
    every_round: bool = True
    exact_statistics: bool = False
    on_public: bool = False
    needs_layers: tuple[str, ...] = ()

    @abstractmethod
    def rows(self, out: "Forward") -> Tensor:
        """Return the vectors [B, ...]."""

    @abstractmethod
    def shape(self, features: int, width: int) -> tuple[int, ...]:
        """Return the shape of one vector. ``features``: those of the model; ``width``: the outputs of its head."""
