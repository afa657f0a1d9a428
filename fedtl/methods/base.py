"""
A federated method is a value: what a silo shares, what it minimises, in which order its parts are trained, how
the server moves, and what happens at home afterwards. A method's settings are its function's parameters.
"""

from dataclasses import dataclass, replace
from typing import Literal

from fedtl._util.settings import Count
from fedtl.methods.losses import OnWeights, PerBatch, PerExample, TaskLoss, Term
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
    epochs: Count = 0

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
    def trained(self) -> frozenset[Role]:
        """The roles that a round changes."""
        return frozenset().union(*(phase.train for phase in self.phases), {Role.COUNT})

    @property
    def finished(self) -> frozenset[Role]:
        """The roles that are fitted to the silo's own rows after the last round."""
        fitted = self.personalise.phase.train if self.personalise.epochs else frozenset[Role]()
        return fitted | ({Role.STATS} if self.fits_received_statistics else frozenset())

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
