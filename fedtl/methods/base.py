"""
A federated method is a value: what a silo shares, what it minimises, in which order its parts are trained, how
the server moves, and what happens at home afterwards. A method's settings are its function's parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from fedtl._util.registry import Registry
from fedtl.methods.coral import Coral
from fedtl.methods.dann import DomainAdversarial
from fedtl.methods.losses import OnWeights, PerBatch, PerExample, Proximal, TaskLoss, Term
from fedtl.methods.mmd import MaximumMeanDiscrepancy
from fedtl.models.roles import EVERYTHING, Role

HEAD = frozenset({Role.HEAD})
BACKBONE = EVERYTHING - HEAD


@dataclass(frozen=True)
class Phase:
    """A stretch of local training in which only some roles move. ``epochs`` None: as ``[train]`` says."""

    train: frozenset[Role] = EVERYTHING
    epochs: int | None = None


@dataclass(frozen=True)
class Personalise:
    """After the last round, at home: fine-tune the head, or everything, on the silo's own training rows."""

    what: Literal["head", "all"] = "head"
    epochs: int = 0

    @property
    def phase(self) -> Phase:
        return Phase(HEAD if self.what == "head" else EVERYTHING, self.epochs)


ExactStatistics = Literal["own", "always", "never"]


@dataclass(frozen=True)
class Method:
    """
    ``exact_statistics``: when a silo replaces the norms' statistics by the exact ones of its training inputs before
    it uses, scores or exports its model. "own": wherever the statistics are the silo's own, whatever the method is
    called. Private runs say "always" (privacy.statistics = "local-after") or "never" (any other).
    ``pool``: everybody's rows in one place, a yardstick that exists in simulation only.
    """

    shared: frozenset[Role] = EVERYTHING
    objective: tuple[Term, ...] = (TaskLoss(),)
    phases: tuple[Phase, ...] = (Phase(),)
    exact_statistics: ExactStatistics = "own"
    personalise: Personalise = Personalise()
    pool: bool = False

    @property
    def head_is_local(self) -> bool:
        return Role.HEAD not in self.shared

    @property
    def fits_received_statistics(self) -> bool:
        """Whether the model as received gets exact statistics at the silo."""
        return self.exact_statistics == "always" or (
            self.exact_statistics == "own" and Role.STATS not in self.shared
        )

    @property
    def fits_statistics_each_round(self) -> bool:
        """Whether the figures of a round are of exact statistics. Whoever trains in a pooled run has everybody's rows."""
        return self.fits_received_statistics or (self.pool and self.exact_statistics == "own")

    @property
    def fits_tuned_statistics(self) -> bool:
        """Whether personalising moves the statistics at home, so that exact ones are fitted after it."""
        moves = self.personalise.epochs > 0 and Role.STATS in self.personalise.phase.train
        return moves and self.exact_statistics != "never"

    @property
    def needs_target(self) -> bool:
        return any(term.needs_target for term in self.losses)

    @property
    def losses(self) -> tuple[PerExample | PerBatch, ...]:
        return tuple(term for term in self.objective if isinstance(term, PerExample | PerBatch))

    @property
    def pulls(self) -> tuple[OnWeights, ...]:
        return tuple(term for term in self.objective if isinstance(term, OnWeights))

    def plus(self, *terms: Term) -> "Method":
        return replace(self, objective=self.objective + terms)


def local() -> Method:
    """Every silo alone: nothing is shared."""
    return Method(shared=frozenset())


def probe(head_epochs: int = 20) -> Method:
    """No training together: the body as it came, its statistics and then a head fitted to the silo. What joining must beat."""
    return Method(shared=frozenset(), phases=(), personalise=Personalise("head", head_epochs))


def pooled() -> Method:
    """Everybody's rows in one place: the ceiling; simulation only."""
    return Method(pool=True)


def fedavg() -> Method:
    """McMahan et al., 2017: everything is shared and averaged."""
    return Method()


def fedprox(mu: float = 0.01) -> Method:
    """Li et al., 2020: FedAvg, local weights pulled to the received ones."""
    return fedavg().plus(Proximal(mu))


def fedbn() -> Method:
    """Li et al., 2021: normalisation, scale and statistics, is each silo's own."""
    return Method(shared=EVERYTHING - {Role.NORM, Role.STATS})


def silobn() -> Method:
    """Andreux et al., 2020: only the normalisation statistics are each silo's own."""
    return Method(shared=EVERYTHING - {Role.STATS})


def fedper() -> Method:
    """Arivazhagan et al., 2019: the head is each silo's own."""
    return Method(shared=BACKBONE)


def fedrep(head_epochs: int = 5) -> Method:
    """Collins et al., 2021: as FedPer, but first the head alone, then the body alone."""
    return Method(shared=BACKBONE, phases=(Phase(HEAD, head_epochs), Phase(BACKBONE)))


def fedbabu(head_epochs: int = 5) -> Method:
    """Oh et al., 2022: the head stays as it began; each silo fits its own after the last round."""
    return Method(shared=BACKBONE, phases=(Phase(BACKBONE),), personalise=Personalise("head", head_epochs))


def lgfedavg() -> Method:
    """Liang et al., 2020: the body is each silo's own, the head is shared."""
    return Method(shared=HEAD)


def fedtl() -> Method:
    """This project: body and norm scale shared; head and norm statistics stay, statistics fitted to the silo."""
    return Method(shared=BACKBONE - {Role.STATS})


def dann(weight: float = 1.0) -> Method:
    """Ganin et al., 2016, in every silo that has a second domain; shares as fedtl does."""
    return fedtl().plus(DomainAdversarial(weight))


def mmd(weight: float = 1.0) -> Method:
    """Long et al., 2015, in every silo that has a second domain; shares as fedtl does."""
    return fedtl().plus(MaximumMeanDiscrepancy(weight))


def coral(weight: float = 1.0) -> Method:
    """Sun and Saenko, 2016, in every silo that has a second domain; shares as fedtl does."""
    return fedtl().plus(Coral(weight))


METHODS: Registry[Callable[..., Method]] = Registry(
    "fedtl.methods",
    {
        function.__name__: function
        for function in (
            *(local, probe, pooled, fedavg, fedprox, fedbn, silobn, fedper, fedrep, fedbabu, lgfedavg, fedtl),
            *(dann, mmd, coral),
        )
    },
)
