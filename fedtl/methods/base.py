"""
A federated method is a value: what a silo shares, what it minimises, in which order its parts are trained, what further state it
keeps, how the server updates the shared tensors, and what each silo does after the last round. A method's settings are
its function's parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from fedtl.messages import Update
from fedtl.methods.choose import Choose, choose_mix
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.methods.losses import PerBatch, PerExample, TaskLoss, Term, check_terms
from fedtl.methods.sets import MODEL, Sets, check_names
from fedtl.methods.slot import Slot
from fedtl.methods.summary import Summary
from fedtl.methods.wire import FLOAT32, Wire
from fedtl.models.roles import EVERYTHING, Role, check_roles
from fedtl.models.state import State
from fedtl.tasks.base import LearningTask

HEAD = frozenset({Role.HEAD})
BACKBONE = EVERYTHING - HEAD
Through = Callable[[Sets], State]


@dataclass(frozen=True)
class Pick:
    """
    A silo trains that one of several sets whose loss on its training rows is the lowest; in the first share ``at_random`` of
    the rounds one that is drawn for it. The tensor "of" [sets] of the ``slot`` is 1 at the set's number, and 0 elsewhere.
    """

    slot: str
    at_random: float = 0.0


@dataclass(frozen=True)
class Phase:
    """
    A part of local training in which only the tensors of some roles are trained. ``epochs`` None: as ``[train]`` says;
    ``objective`` None: the method's.

    ``on``: the sets that are trained, MODEL or slots. ``through``: a differentiable function from all sets to the weights
    of the forward pass; None: the one set of ``on`` itself. ``into``: the set that gets these weights when the phase
    ends. A phase of 0 epochs takes no steps: it computes ``into`` from the sets alone. ``pick``: it trains one set of ``on``.
    ``lr``: plain steps of this size in place of what ``[train]`` says, for a phase that does not train the model.
    ``public``: on inputs that all may see, in place of the silo's rows; none, where there are none. ``all_rows``: an epoch passes
    over the rows with and without labels alike, for losses that need no labels; without, over those with labels.
    """

    train: frozenset[Role] = EVERYTHING
    epochs: int | None = None
    objective: tuple[Term, ...] | None = None
    on: tuple[str, ...] = (MODEL,)
    through: Through | None = None
    into: str | None = None
    pick: Pick | None = None
    lr: float | None = None
    unfrozen: int | None = None  # how many last stages of the body move, besides the head; None: all
    public: bool = False
    all_rows: bool = False

    @property
    def trains_model(self) -> bool:
        """Whether the weights that this phase trains become the model's."""
        return MODEL in self.on or (self.into == MODEL and self.through is None)


@dataclass(frozen=True)
class LabelledFeatures:
    """Features [N, D] of rows with a label, and labels as the model is trained on them. ``task`` None: classification or regression."""

    features: Tensor
    y: Tensor
    task: LearningTask | None = None

    def __len__(self) -> int:
        return len(self.y)


Part = Literal["train", "val"]  # of a silo's rows; never test rows


class Site(Protocol):
    """
    What a finishing step may use of a silo: training on its training rows, exact statistics of their inputs, features of
    training and validation rows, and losses on validation rows. Never test rows. ``lr``: the learning rate of [train].
    """

    @property
    def lr(self) -> float: ...

    def train(self, state: State, phase: Phase, lr: float | None = None, repeat: int = 0) -> State:
        """
        Return the state after a phase of training. ``lr``: a learning rate; None: that of the last round. ``repeat``: the
        number of the call within one step, from 0, so that each draws batches of its own.
        """
        ...

    def adapted(self, state: State, moved: frozenset[Role]) -> State:
        """Return the state with exact statistics of the training inputs, if the ``moved`` roles include statistics."""
        ...

    def losses(self, state: State, rows: Part = "val") -> Tensor:
        """Return the model's loss on each of these rows that has a label [N]."""
        ...

    def scores(self, state: State) -> Tensor:
        """Return the model's scores on each training row with a label [N, width], in the scale of its losses."""
        ...

    def features(self, state: State, rows: Part) -> LabelledFeatures:
        """Return what the body of ``state`` makes of the silo's rows, in evaluation mode."""
        ...


class Finish(ABC):
    """
    A step at the silo after the last round, which improves the model that the silo uses. ``trained``: the roles
    that it fits to the silo's rows; steps that fit none come first. ``at``: which silos take it. ``fixes_statistics``:
    the model keeps the statistics that it has then. ``any_task``: it works whatever is predicted (``tasks``).
    """

    trained: frozenset[Role] = frozenset()
    at: Literal["labelled", "all", "unlabelled"] = "labelled"
    fixes_statistics: bool = False
    any_task: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, site: Site, state: State, sets: Sets) -> State: ...


@dataclass(frozen=True)
class Use(Finish):
    """
    Use another set of weights than the model, or what ``through`` makes of all sets. ``others`` make further models: the
    silo uses one of them if its validation rows clearly say that it is better (``choose_mix``).
    """

    any_task = True
    name: str = MODEL
    through: Through | None = None
    others: tuple[Through, ...] = ()

    def __call__(self, site: Site, state: State, sets: Sets) -> State:
        first = sets[self.name] if self.through is None else self.through(sets)
        if not self.others:
            return first
        states = [first, *(other(sets) for other in self.others)]
        return states[choose_mix([site.losses(site.adapted(one, EVERYTHING)) for one in states])]


Memory = dict[str, Any]  # of a server's step between rounds: the state_dict of its optimiser, or empty


class Server(Protocol):
    """The server's step: from the updates, sorted by silo, to the next shared tensors and the server's next ``memory``."""

    def __call__(
        self, shared: State, updates: Iterable[Update], roles: Mapping[str, Role], memory: Memory
    ) -> tuple[State, Memory]: ...


@dataclass(frozen=True)
class Method:
    """
    A federated method. ``shared``: the roles whose tensors leave the silo (``models.roles.Partition``). ``slots`` and ``summaries``: what
    a silo keeps or sends in addition to the model. ``finish``: steps after the last round; ``tune`` comes after them. ``choose``: which
    mix of its candidate models a silo uses; None: the last one. ``server`` None: as ``[method.server]`` says. ``sgd_only``: the method's
    arithmetic assumes plain SGD or momentum. ``head_start``: replaces the head's initial tensors, unless they come from a file;
    None: they stay. ``auto_head``: a study says whether rounds train heads. ``plus`` adds a term, and its summaries to ``summaries``.

    ``exact_statistics``: when a silo replaces the norms' statistics by the exact ones of its training inputs before
    it uses, scores or exports its model. "own": wherever the statistics are the silo's own. Private runs set "always"
    (privacy.statistics = "local-after") or "never" (any other).
    ``pool``: all silos' rows in one place, a baseline for simulation only.

    Raises ValueError for two slots or summaries of one name, for a shared role that no tensor of a model has, and for a term
    whose summary the method does not have.
    """

    shared: frozenset[Role] = EVERYTHING
    objective: tuple[Term, ...] = (TaskLoss(),)
    phases: tuple[Phase, ...] = (Phase(),)
    slots: tuple[Slot, ...] = ()
    summaries: tuple[Summary, ...] = ()
    finish: tuple[Finish, ...] = ()
    tune: Finish | None = None
    choose: Choose | None = None
    server: Server | None = None
    cut: int | None = None  # how many first stages of the body are shared; None: all (``methods.cut``)
    exact_statistics: ExactStatistics = ExactStatistics.OWN
    pool: bool = False
    sgd_only: bool = False
    head_start: Callable[[State], State] | None = None
    auto_head: bool = False
    wire: Wire = FLOAT32  # how the weights are sent (``methods.error_feedback``)

    def __post_init__(self) -> None:
        check_roles(self.shared)
        check_names([slot.name for slot in self.slots], "the slot")
        check_names([summary.name for summary in self.summaries], "the summary")
        for term in self.every_term:
            for summary in term.summaries():
                if summary not in self.summaries:
                    raise ValueError(
                        f"the term {type(term).__name__} needs the summary {summary.name!r}; add the term with Method.plus"
                    )

    @property
    def steps(self) -> tuple[Finish, ...]:
        """The steps after the last round, tuning included."""
        return self.finish if self.tune is None else (*self.finish, self.tune)

    @property
    def sends(self) -> bool:
        """Whether anything of a silo leaves it in a round."""
        return bool(self.shared or self.summaries or any(slot.crosses for slot in self.slots))

    @property
    def head_is_local(self) -> bool:
        return Role.HEAD not in self.shared

    @property
    def fits_received_statistics(self) -> bool:
        """Whether the model as received gets exact statistics at the silo."""
        return self.exact_statistics == ExactStatistics.ALWAYS or (
            self.exact_statistics == ExactStatistics.OWN and Role.STATS not in self.shared
        )

    @property
    def needs_target(self) -> bool:
        return any(term.needs_target for term in self.losses)

    @property
    def every_term(self) -> tuple[Term, ...]:
        """The terms of the objective and of the phases' own, each once."""
        others = (term for phase in self.phases for term in phase.objective or ())
        return tuple(dict.fromkeys((*self.objective, *others)))

    @property
    def losses(self) -> tuple[PerExample | PerBatch, ...]:
        """The terms on examples."""
        return tuple(term for term in self.every_term if isinstance(term, PerExample | PerBatch))

    def plus(self, *terms: Term) -> "Method":
        """Return the method with further terms in its objective and in the phases' own, and with their summaries. Raises ConfigError."""
        check_terms(terms)
        phases = tuple(
            phase if phase.objective is None else replace(phase, objective=phase.objective + terms)
            for phase in self.phases
        )
        needed = (summary for term in terms for summary in term.summaries())
        summaries = tuple(dict.fromkeys((*self.summaries, *needed)))
        return replace(self, objective=self.objective + terms, phases=phases, summaries=summaries)


def terms_of(method: Method, phase: Phase) -> tuple[Term, ...]:
    """Return the terms of a phase: its own, or the method's."""
    return method.objective if phase.objective is None else phase.objective


def trained_roles(method: Method) -> frozenset[Role]:
    """Return the roles of the model that a round changes."""
    replaced = EVERYTHING if any(phase.into == MODEL for phase in method.phases) else frozenset[Role]()
    trained = (phase.train for phase in method.phases if MODEL in phase.on)
    return frozenset({Role.COUNT}).union(replaced, *trained)


def trains_on_all_rows(method: Method) -> bool:
    """Return whether a phase passes over the rows with and without labels alike."""
    return any(phase.all_rows for phase in method.phases)


def own_labels(method: Method) -> bool:
    """Return whether a silo's head has outputs for that silo's labels only, not for those of all silos."""
    return method.head_is_local and not any(summary.by_label for summary in method.summaries)


def finished_roles(method: Method) -> frozenset[Role]:
    """Return the roles that are fitted to the silo's own rows after the last round."""
    fitted = frozenset[Role]().union(*(step.trained for step in method.steps))
    return fitted | ({Role.STATS} if method.fits_received_statistics else frozenset())


def fits_tuned_statistics(method: Method) -> bool:
    """Return whether a step after the last round moves the statistics, so that exact ones are fitted after it."""
    return method.exact_statistics != ExactStatistics.NEVER and any(
        Role.STATS in step.trained for step in method.steps
    )


def fits_at_home(method: Method) -> bool:
    """Return whether a silo's final model may be another than the one it received."""
    return not method.pool and (method.choose is not None or any(step.trained for step in method.steps))
