"""
A silo's own account of what was spent on its data: charge, make durable, compute, keep the reply, release.

It belongs to the data and outlives processes, experiments and studies: what was charged stays charged, whatever became
of the round, and never is more charged than the lifetime budget. Must not know what is computed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedtl.errors import BudgetExhausted, ConfigError, FedTLError, Refused, RoundLost
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.book import Book, Chain, Line

SLACK = 1 + 1e-9  # three times a third may be a little more than one


@dataclass(frozen=True)
class Budget:
    """The most that may ever be spent on a dataset, all studies together."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise ConfigError(f"{self} is no budget: epsilon must be above 0, and delta between 0 and 1")


@dataclass(frozen=True)
class Plan:
    """All that a study may do, fixed before its first round: the ``events`` of all rounds, at most ``epsilon``."""

    epsilon: float
    delta: float
    events: tuple[SpendEvent, ...]


@dataclass(frozen=True)
class Charge:
    """
    A round that is paid for. ``reply`` None: compute, ``store``, and only then send. Bytes: it was done before, send
    these. ``epsilon`` and ``delta``: what the study has come to.
    """

    reply: bytes | None
    epsilon: float
    delta: float


class Ledger:
    """
    The account of one dataset, by its name, in a book that others may share. ``fingerprint``: an HMAC of its rows
    under the silo's own key, in hex.

    Opening writes down a new dataset and a changed budget; the last one written holds for everybody. Changed rows are
    written down when they are first met, and wait for ``confirm``; what was spent stays spent, for most of them will be
    the same ones. Nothing is held open in between. All of it raises SiloFailed where the book cannot be written,
    LedgerDamaged where it is not as it was left; opening, too, Refused for rows that the book knows by another name.
    """

    def __init__(self, path: Path, dataset: str, fingerprint: str, budget: Budget) -> None:
        self.book, self.dataset, self.fingerprint = Book(Path(path)), dataset, fingerprint
        content = {"epsilon": float(budget.epsilon), "delta": float(budget.delta)}
        with self.book.open(dataset) as chain:
            if not chain.entries:
                self._own_rows(chain)
                chain.append("opened", fingerprint=fingerprint, **content)
            elif _Account(chain).budget != budget:
                chain.append("budget", **content)

    def charge(
        self, study: str, round: int, task_hash: str, events: Sequence[SpendEvent], plan: Plan
    ) -> Charge:
        """
        Write down what a round costs, durably, before anything is computed; or give what it was answered before.

        Raises BudgetExhausted; RoundLost for a round that was charged and has no reply; Refused for another plan or
        task than was charged, an older round, more than was planned and changed rows; ConfigError for what is no
        round or no plan. Where it raises, nothing was charged.
        """
        _check(study, round, events, plan)
        self._meet()
        with self.book.open(self.dataset) as chain:
            account = _Account(chain)
            self._same_rows(account)
            known = account.studies.get(study, _Study(_written(plan)))
            self._same_plan(study, known, plan)
            if round <= known.round:
                return Charge(self._again(chain, study, known, round, task_hash), known.epsilon, plan.delta)
            charged = accounting.merged([*known.events, *events])
            self._planned(study, charged, plan)
            epsilon = accounting.epsilon(charged, plan.delta)
            self._affordable(
                account, f"study {study!r}", round, account.spends | {study: (epsilon, plan.delta)}
            )
            if study not in account.studies:
                chain.append("planned", study=study, **_written(plan))
            chain.append(
                "charged", study=study, round=round, task=task_hash, events=_rows(events), epsilon=epsilon
            )
        return Charge(None, epsilon, plan.delta)

    def foresee(self, events: Sequence[SpendEvent], plan: Plan) -> None:
        """
        Raises BudgetExhausted where not even the first round of a study under this plan, which has these events, could
        be charged. Charges nothing; a study that is under way on the same plan may go on.
        """
        cost = accounting.epsilon(events, plan.delta)
        with self.book.open(self.dataset) as chain:
            account = _Account(chain)
            if all(known.plan != _written(plan) for known in account.studies.values()):
                self._affordable(account, "a new study", 1, account.spends | {"": (cost, plan.delta)})

    def store(self, study: str, round: int, reply: bytes) -> None:
        """Keep the bytes of the study's last charged round, durably, in place of the round's before it."""
        with self.book.open(self.dataset) as chain:
            known = _Account(chain).studies.get(study)
            if known is None or known.round != round or known.reply:
                raise FedTLError(f"{self.dataset}: round {round} of study {study!r} waits for no reply")
            chain.append("stored", study=study, round=round, reply=chain.keep(study, reply), bytes=len(reply))

    def confirm(self, fingerprint: str) -> None:
        """Write down that the rows have changed and that this is right, by the fingerprint that they have now."""
        if fingerprint != self.fingerprint:
            raise ConfigError(f"{self.dataset}: the rows are {self.fingerprint[:12]}, not {fingerprint[:12]}")
        with self.book.open(self.dataset) as chain:
            account = _Account(chain)
            if account.fingerprint != fingerprint:
                self._own_rows(chain)
                self._changed(chain, account)
                chain.append("confirmed", fingerprint=fingerprint)

    def spent(self) -> tuple[float, float]:
        """(epsilon, delta), all studies together; zeros before the first."""
        with self.book.open(self.dataset) as chain:
            return accounting.added(_Account(chain).spends.values())

    def knows(self, study: str) -> bool:
        """Whether a round of this study was ever charged."""
        return bool(self.events(study))

    def events(self, study: str) -> tuple[SpendEvent, ...]:
        """What was charged for this study, in the order of its rounds."""
        with self.book.open(self.dataset) as chain:
            known = _Account(chain).studies.get(study)
            return tuple(known.events) if known else ()

    def lines(self) -> list[Line]:
        """
        This dataset's, from the first on. ``what`` each is: opened, budget, changed, confirmed, planned, charged or
        stored.
        """
        with self.book.open(self.dataset) as chain:
            return chain.lines()

    def verify(self) -> dict[str, tuple[int, str]]:
        """
        Each dataset's number of lines and last hash, after a walk through everything in the book: noted down
        elsewhere, they show later whether the book was replaced by an older one.
        """
        with self.book.all() as chains:
            for chain in chains:
                for study, known in _Account(chain).studies.items():
                    if known.reply:
                        chain.kept(study, known.reply)
            return {chain.name: (len(chain.entries), chain.last) for chain in chains}

    def _meet(self) -> None:
        """Changed rows are on the disk before they are refused: a refusal takes back what was written with it."""
        with self.book.open(self.dataset) as chain:
            account = _Account(chain)
            if account.fingerprint != self.fingerprint:
                self._changed(chain, account)

    def _same_rows(self, account: "_Account") -> None:
        if account.fingerprint != self.fingerprint:
            raise Refused(
                f"{self.dataset}: the rows have changed (fingerprint {account.fingerprint[:12]} is now "
                f"{self.fingerprint[:12]}); confirm them if that is right (fedtl silo confirm); what was spent stays spent"
            )

    def _own_rows(self, chain: Chain) -> None:
        """The same rows by a second name would have a second budget."""
        for line in chain.elsewhere():
            if line.get("fingerprint") == self.fingerprint:
                raise Refused(
                    f"{self.dataset}: its rows (fingerprint {self.fingerprint[:12]}) are {line['chain']!r} in this ledger, "
                    f"and have a budget there; set data.name = {line['chain']!r} in silo.toml"
                )

    def _changed(self, chain: Chain, account: "_Account") -> None:
        """Write down, once, that the rows are no longer those of the last confirmation."""
        if self.fingerprint not in account.waiting:
            chain.append("changed", before=account.fingerprint, fingerprint=self.fingerprint)

    def _same_plan(self, study: str, known: "_Study", plan: Plan) -> None:
        if known.plan != _written(plan):
            raise Refused(
                f"{self.dataset}: study {study!r} is bound to its plan {json.dumps(known.plan)}; another plan is "
                "another study"
            )

    def _again(self, chain: Chain, study: str, known: "_Study", round: int, task_hash: str) -> bytes:
        """The kept reply to the last round."""
        if round < known.round:
            raise Refused(
                f"{self.dataset}: round {round} of study {study!r} is over; the last is {known.round}"
            )
        if task_hash != known.task:
            raise Refused(
                f"{self.dataset}: round {round} of study {study!r} was charged for another task; go on with the next"
            )
        if not known.reply:
            raise RoundLost(
                f"{self.dataset}: round {round} of study {study!r} was charged and has no reply: lost, unless another "
                "process is at it; go on with the next"
            )
        return chain.kept(study, known.reply)

    def _planned(self, study: str, charged: Sequence[SpendEvent], plan: Plan) -> None:
        most = {(its.noise_multiplier, its.sample_rate): its.steps for its in accounting.merged(plan.events)}
        for its in charged:
            if its.steps > (left := most.get((its.noise_multiplier, its.sample_rate), 0)):
                raise Refused(
                    f"{self.dataset}: study {study!r} would come to {its.steps} steps of noise {its.noise_multiplier:g} "
                    f"and rate {its.sample_rate:g}; its plan has {left}"
                )

    def _affordable(
        self, account: "_Account", study: str, round: int, after: Mapping[str, tuple[float, float]]
    ) -> None:
        spent, total = (accounting.added(its.values()) for its in (account.spends, after))
        budget = account.budget
        if total[0] > budget.epsilon * SLACK or total[1] > budget.delta * SLACK:
            raise BudgetExhausted(
                f"{self.dataset}: round {round} of {study} asks for epsilon {total[0] - spent[0]:.4g} and delta "
                f"{total[1] - spent[1]:.3g}; {spent[0]:.4g} of {budget.epsilon:.4g} and {spent[1]:.3g} of "
                f"{budget.delta:.3g} are spent, {budget.epsilon - spent[0]:.4g} and {budget.delta - spent[1]:.3g} are "
                "left; end the study here, or raise the budget of the data"
            )


@dataclass
class _Study:
    plan: Mapping[str, Any]
    events: list[SpendEvent] = field(default_factory=list)
    round: int = 0  # the last that was charged
    task: str = ""
    reply: str = ""  # the hash of what was kept for it
    epsilon: float = 0.0


class _Account:
    """What a chain of lines comes to."""

    def __init__(self, chain: Chain) -> None:
        self.studies: dict[str, _Study] = {}
        self.waiting: set[str] = (
            set()
        )  # fingerprints that were met since the last confirmation, and are not confirmed
        for line in chain.lines():
            match line["what"]:
                case "opened":
                    self.budget, self.fingerprint = (
                        Budget(line["epsilon"], line["delta"]),
                        line["fingerprint"],
                    )
                case "budget":
                    self.budget = Budget(line["epsilon"], line["delta"])
                case "changed":
                    self.waiting.add(line["fingerprint"])
                case "confirmed":
                    self.fingerprint, self.waiting = line["fingerprint"], set()
                case "planned":
                    self.studies[line["study"]] = _Study(
                        {key: line[key] for key in ("epsilon", "delta", "events")}
                    )
                case "charged":
                    study = self.studies[line["study"]]
                    study.events += [SpendEvent(*row) for row in line["events"]]
                    study.round, study.task, study.reply = line["round"], line["task"], ""
                    study.epsilon = line["epsilon"]
                case "stored":
                    self.studies[line["study"]].reply = line["reply"]

    @property
    def spends(self) -> dict[str, tuple[float, float]]:
        return {name: (study.epsilon, study.plan["delta"]) for name, study in self.studies.items()}


def _check(study: str, round: int, events: Sequence[SpendEvent], plan: Plan) -> None:
    """Before the book is locked, for the library that composes takes seconds to load. Raises ConfigError."""
    if not study or round < 1 or not events:
        raise ConfigError(f"study {study!r}, round {round}, {len(events)} events: that is no private round")
    if (cost := accounting.epsilon(plan.events, plan.delta)) > plan.epsilon * SLACK:
        raise ConfigError(
            f"study {study!r} plans for epsilon {plan.epsilon:.4g}, and its events come to {cost:.4g}"
        )


def _written(plan: Plan) -> dict[str, Any]:
    rows = _rows(accounting.merged(plan.events))
    return {"epsilon": float(plan.epsilon), "delta": float(plan.delta), "events": rows}


def _rows(events: Sequence[SpendEvent]) -> list[list[float]]:
    return [[float(its.noise_multiplier), float(its.sample_rate), int(its.steps)] for its in events]
