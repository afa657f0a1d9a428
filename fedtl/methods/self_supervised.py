"""Methods whose rounds train the shared body without labels. Labels then train heads only."""

from typing import Literal

from fedtl._util.settings import Count
from fedtl.methods.base import BACKBONE, HEAD, Method, Phase
from fedtl.methods.losses import PerBatch, PerExample, TaskLoss
from fedtl.methods.tune import Tune
from fedtl.models.roles import Role

Head = Literal["own", "shared"]


def self_supervised(
    term: PerExample | PerBatch, head: Head = "own", head_epochs: Count = 20, share_module: bool = True
) -> Method:
    """
    Return the method that trains and shares the body by ``term`` on all inputs of a silo, with and without labels (self-taught
    learning: Raina et al., 2007).

    ``head``: "own": each silo fits its head to its labelled rows after the last round, for ``head_epochs``; a silo without labels has
    none. "shared": in each round silos with labels also train the head, on features that it does not change, and share it.
    ``share_module``: whether the term's own module, a projector or a decoder, is averaged too, or stays at the silo.

    Batch statistics in training are those of changed inputs; each silo keeps its own, and uses exact ones of its inputs in the end.
    """
    body = Phase(BACKBONE, objective=(term,), all_rows=True)
    shared = BACKBONE - {Role.STATS} - (frozenset() if share_module else {Role.AUX})
    if head == "own":
        finish = (Tune("head", head_epochs, lr="train"),)
        return Method(shared=shared, phases=(body,), finish=finish)
    return Method(shared=shared | HEAD, phases=(body, Phase(HEAD, objective=(TaskLoss(),))))
