"""Methods that consist of a choice of shared roles, of phases, and of what each silo fits after the last round."""

from typing import Literal

from fedtl._util.settings import Count, Weight
from fedtl.methods.base import BACKBONE, HEAD, Method, Phase
from fedtl.methods.losses import Proximal
from fedtl.methods.ridge import ridge
from fedtl.methods.simplex import fixed_head, simplex
from fedtl.methods.tune import Tune
from fedtl.models.roles import EVERYTHING, Role


def local() -> Method:
    """Every silo trains alone: nothing is shared."""
    return Method(shared=frozenset())


def probe(head_epochs: Count = 20, head: Literal["trained", "ridge"] = "trained") -> Method:
    """
    A baseline without federated training: the initial body, with exact statistics and a head fitted to the silo, in training
    or in closed form. Joining a federation should be better than this.
    """
    if head == "ridge":
        return ridge(sums="own")
    return Method(shared=frozenset(), phases=(), finish=(Tune("head", head_epochs, lr="train"),))


def pooled() -> Method:
    """One model is trained on the rows of all silos in one place: an upper baseline, in simulation only."""
    return Method(pool=True)


def fedavg() -> Method:
    """
    McMahan et al., 2017: everything is shared and averaged.

    After a round w becomes sum_k n_k w_k / sum_k n_k over its silos k, with n_k the weight that silo k states: its training rows,
    or 1 where their number does not leave.
    """
    return Method()


def fedprox(mu: Weight = 0.01) -> Method:
    """Li et al., 2020: FedAvg, with local weights pulled to the received ones."""
    return fedavg().plus(Proximal(mu))


def fedbn() -> Method:
    """Li et al., 2021: every silo keeps its own normalisation, scale and statistics."""
    return Method(shared=EVERYTHING - {Role.NORM, Role.STATS})


def silobn() -> Method:
    """Andreux et al., 2020: every silo keeps its own normalisation statistics only."""
    return Method(shared=EVERYTHING - {Role.STATS})


def fedper() -> Method:
    """Arivazhagan et al., 2019: every silo keeps its own head."""
    return Method(shared=BACKBONE)


def fedrep(head_epochs: Count = 5) -> Method:
    """Collins et al., 2021: as FedPer, but the head is trained first and then the body."""
    return Method(shared=BACKBONE, phases=(Phase(HEAD, head_epochs), Phase(BACKBONE)))


def fedbabu(head_epochs: Count = 5) -> Method:
    """Oh et al., 2022: the head keeps its initial weights; each silo fits its own after the last round."""
    return Method(shared=BACKBONE, phases=(Phase(BACKBONE),), finish=(Tune("head", head_epochs, lr="train"),))


def lgfedavg() -> Method:
    """Liang et al., 2020: every silo keeps its own body; the head is shared."""
    return Method(shared=HEAD)


def fedtl(head: Literal["auto", "trained", "fixed", "simplex"] = "auto") -> Method:
    """
    This project: body and norm scale are shared; each silo keeps its head and its norms' statistics, exact in the end.

    ``head``: "trained": with the body, in each round. "fixed": it keeps its initial weights, which are the same at every silo, until
    the silo tunes its model after the last round (Oh et al., 2022); heads that drift apart no longer pull on the body. "simplex":
    fixed too, with classes as far from each other as they can be, and longer weights (Li et al., 2023). "auto": "simplex" where all
    silos have the same three or more classes and train a whole body from random weights; "trained" anywhere else.
    """
    trained = Method(shared=BACKBONE - {Role.STATS}, auto_head=head == "auto")
    if head in ("auto", "trained"):
        return trained
    return fixed_head(trained, simplex if head == "simplex" else None)
