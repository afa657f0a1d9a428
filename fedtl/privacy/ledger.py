"""
A silo's own account of what was spent on its data: charge, make durable, compute, keep the reply, release.

It belongs to the data and outlives processes, experiments and studies. A study's whole plan is charged before its first
round (see ``account``), whatever becomes of its rounds, and never is more charged than the lifetime budget. Must not know
what is computed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtl.errors import ConfigError, FedTLError, Refused, RoundLost
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.account import Account, StudyAccount, rows_of
from fedtl.privacy.apart import difference, told_apart
from fedtl.privacy.budget import SLACK, Budget, Plan, check_affordable
from fedtl.privacy.hash_chain import ChainLine, HashChain, HashChainFile
from fedtl.privacy.rows import RowSet


@dataclass(frozen=True)
class Charge:
    """
    A round that is paid for. ``reply`` None: compute, ``store``, and only then send. Bytes: it was done before, send
    these. ``epsilon`` and ``delta``: of the study's plan.
    """

    reply: bytes | None
    epsilon: float
    delta: float


class Ledger:
    """
    The account of one dataset, by its name, in a book that others may share. ``rows``: keyed hashes of its rows.

    Opening writes down the first dataset of a book and a changed budget; the last one written holds for everybody. Changed
    rows are written down when they are first met, and wait for ``confirm``; what was spent stays spent, for most of them
    will be the same ones. Nothing is held open in between. All of it raises SiloFailed where the book cannot be written,
    LedgerDamaged where it is not as it was left; opening, too, Refused for a further dataset that nobody has admitted.
    """

    def __init__(self, path: Path, dataset: str, rows: RowSet, budget: Budget) -> None:
        self.book, self.dataset, self.rows = HashChainFile(Path(path)), dataset, rows
        with self.book.open(dataset) as chain:
            if not chain.entries:
                if others := chain.others():
                    told_apart(dataset, rows, others)
                    raise Refused(
                        f"{dataset}: is not in this ledger, which has {_listed(others)}, and a new name would have a new "
                        "budget; if these are other people's rows: fedtl silo confirm DIR BUNDLE --new-dataset; if not, set "
                        f"data.name = {others[0].name!r} in silo.toml"
                    )
                _open(chain, rows, budget)
            elif (account := Account(chain)) and (account.epsilon, account.delta) != (
                budget.epsilon,
                budget.delta,
            ):
                chain.append("budget", epsilon=float(budget.epsilon), delta=float(budget.delta))

    @classmethod
    def admit(cls, path: Path, dataset: str, rows: RowSet, budget: Budget) -> "Ledger":
        """
        Open a further dataset, with a budget of its own: its owner says that its rows are other people's. Raises Refused
        where they are not, ConfigError where the dataset is there or is the first.
        """
        ledger = cls.__new__(cls)
        ledger.book, ledger.dataset, ledger.rows = HashChainFile(Path(path)), dataset, rows
        with ledger.book.open(dataset) as chain:
            others = chain.others()
            if chain.entries or not others:
                known = "is in this ledger already" if chain.entries else "is the first of this ledger"
                raise ConfigError(f"{dataset}: {known}; there is nothing to confirm for a new dataset")
            _open(chain, rows, budget, beside=told_apart(dataset, rows, others))
        return ledger

    def charge(
        self, study: str, round: int, task_hash: str, events: Sequence[SpendEvent], plan: Plan
    ) -> Charge:
        """
        Write down what a round costs, and with a study's first round its whole plan, durably, before anything is computed;
        or give what it was answered before.

        Raises BudgetExhausted; RoundLost for a round that was charged and has no reply; Refused for another plan or
        task than was charged, an older round, more than was planned and changed rows; ConfigError for what is no
        round or no plan. Where it raises, nothing was charged.
        """
        _check(study, round, events, plan)
        self._meet()
        with self.book.open(self.dataset) as chain:
            account = Account(chain)
            self._same_rows(account)
            known = account.studies.get(study, StudyAccount(_written(plan)))
            self._same_plan(study, known, plan)
            if round <= known.round:
                return Charge(self._again(chain, study, known, round, task_hash), plan.epsilon, plan.delta)
            charged = accounting.merged([*known.events, *events])
            self._planned(study, charged, plan)
            self._affordable(account, study, plan)
            if study not in account.studies:
                chain.append("planned", study=study, **_written(plan))
            epsilon = accounting.epsilon(charged, plan.delta)
            chain.append(
                "charged", study=study, round=round, task=task_hash, events=rows_of(events), epsilon=epsilon
            )
        return Charge(None, plan.epsilon, plan.delta)

    def foresee(self, plan: Plan, study: str | None = None) -> None:
        """
        Raises BudgetExhausted where the whole of a study under this plan could not be charged. ``study`` None: its name is
        not known yet; a study that is under way on the same plan may go on. Charges nothing.
        """
        with self.book.open(self.dataset) as chain:
            account = Account(chain)
            under_way = [
                name for name, its in account.studies.items() if its.plan == _written(plan) and not its.over
            ]
            if study is None and under_way:
                study = under_way[0]
            self._affordable(account, study, plan)

    def store(self, study: str, round: int, reply: bytes) -> None:
        """Keep the bytes of the study's last charged round, durably, in place of the round's before it."""
        with self.book.open(self.dataset) as chain:
            known = Account(chain).studies.get(study)
            if known is None or known.round != round or known.reply:
                raise FedTLError(f"{self.dataset}: round {round} of study {study!r} waits for no reply")
            chain.append("stored", study=study, round=round, reply=chain.keep(study, reply), bytes=len(reply))

    def confirm(self, fingerprint: str) -> None:
        """
        Write down that the rows have changed and that this is right, by the fingerprint that they have now. Raises Refused
        where they are another dataset's.
        """
        if fingerprint != self.rows.fingerprint:
            raise ConfigError(
                f"{self.dataset}: the rows are {self.rows.fingerprint[:12]}, not {fingerprint[:12]}"
            )
        with self.book.open(self.dataset) as chain:
            account = Account(chain)
            if account.fingerprint != fingerprint:
                told_apart(self.dataset, self.rows, chain.others())
                self._changed(chain, account)
                chain.append(
                    "confirmed", fingerprint=fingerprint, rows=self.rows.count, kept=account.keep(self.rows)
                )

    def spent(self) -> tuple[float, float]:
        """(epsilon, delta) that all studies together take from the budget; zeros before the first."""
        with self.book.open(self.dataset) as chain:
            return Account(chain).taken

    def knows(self, study: str) -> bool:
        """Whether a round of this study was ever charged."""
        return bool(self.events(study))

    def events(self, study: str) -> tuple[SpendEvent, ...]:
        """What was charged for this study, in the order of its rounds."""
        with self.book.open(self.dataset) as chain:
            known = Account(chain).studies.get(study)
            return tuple(known.events) if known else ()

    def lines(self) -> list[ChainLine]:
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
                account = Account(chain)
                for name, digest in account.kept.items():
                    chain.kept(name, digest)
                for study, known in account.studies.items():
                    if known.reply:
                        chain.kept(study, known.reply)
            return {chain.name: (len(chain.entries), chain.last) for chain in chains}

    def _meet(self) -> None:
        """Changed rows are on the disk before they are refused: a refusal takes back what was written with it."""
        with self.book.open(self.dataset) as chain:
            account = Account(chain)
            if account.fingerprint != self.rows.fingerprint:
                self._changed(chain, account)

    def _same_rows(self, account: Account) -> None:
        if account.fingerprint != self.rows.fingerprint:
            raise Refused(
                f"{self.dataset}: the rows have changed (fingerprint {account.fingerprint[:12]} is now "
                f"{self.rows.fingerprint[:12]}: {difference(account.rows(), self.rows)}); confirm them if that is right (fedtl silo "
                "confirm); what was spent stays spent"
            )

    def _changed(self, chain: HashChain, account: Account) -> None:
        """Write down, once, that the rows are no longer those of the last confirmation."""
        if self.rows.fingerprint not in account.waiting:
            chain.append(
                "changed",
                before=account.fingerprint,
                fingerprint=self.rows.fingerprint,
                difference=difference(account.rows(), self.rows),
            )

    def _same_plan(self, study: str, known: StudyAccount, plan: Plan) -> None:
        if known.plan != _written(plan):
            raise Refused(
                f"{self.dataset}: study {study!r} is bound to its plan {json.dumps(known.plan)}; another plan is "
                "another study"
            )

    def _again(self, chain: HashChain, study: str, known: StudyAccount, round: int, task_hash: str) -> bytes:
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

    def _affordable(self, account: Account, study: str | None, plan: Plan) -> None:
        """Whether the budget has room for the whole plan beside all other studies."""
        others = [its.taken for name, its in account.studies.items() if name != study]
        check_affordable(self.dataset, study, plan, Budget(account.epsilon, account.delta), others)


def _open(chain: HashChain, rows: RowSet, budget: Budget, **more: Any) -> None:
    content = {"epsilon": float(budget.epsilon), "delta": float(budget.delta), "rows": rows.count}
    kept = Account(chain).keep(rows)
    chain.append("opened", fingerprint=rows.fingerprint, kept=kept, **content, **more)


def _listed(chains: Sequence[HashChain]) -> str:
    return ", ".join(repr(chain.name) for chain in chains)


def _check(study: str, round: int, events: Sequence[SpendEvent], plan: Plan) -> None:
    """Before the book is locked, for the library that composes takes seconds to load. Raises ConfigError."""
    if not study or round < 1 or not events:
        raise ConfigError(f"study {study!r}, round {round}, {len(events)} events: that is no private round")
    if (cost := accounting.epsilon(plan.events, plan.delta)) > plan.epsilon * SLACK:
        raise ConfigError(
            f"study {study!r} plans for epsilon {plan.epsilon:.4g}, and its events come to {cost:.4g}"
        )


def _written(plan: Plan) -> dict[str, Any]:
    events = rows_of(accounting.merged(plan.events))
    return {"epsilon": float(plan.epsilon), "delta": float(plan.delta), "events": events}
