"""
A silo's record of what was spent on its data: charge a round, make that durable, compute, store the reply, release.

It belongs to the data and outlives processes, experiments and studies. A study's whole plan is charged before its first
round (see ``budget``), and is not given back if it ends early. The plans together never exceed the lifetime budget. A round's line
only says how much of the plan is used. This module must not know what is computed. Reading is in ``ledger_reading``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedtl.errors import ConfigError, FedTLError, Refused, RoundLost
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.budget import SLACK, Budget, Plan, check_affordable
from fedtl.privacy.hash_chain import HashChain, HashChainFile, WritableChain
from fedtl.privacy.ledger_lines import (
    BudgetChanged,
    Opened,
    ReplyStored,
    RoundCharged,
    RowsChanged,
    RowsConfirmed,
    append,
    event_rows,
    spend_events,
)
from fedtl.privacy.ledger_state import (
    ALL_ROWS,
    LedgerState,
    StudyState,
    confirmed_rows,
    ledger_state,
    planned,
    store_rows,
)
from fedtl.privacy.rows import RowSet
from fedtl.privacy.same_rows import check_other_rows, describe_difference


@dataclass(frozen=True)
class LedgerAccount:
    """The account that is charged: the ledger's file, the dataset's name in it, its rows, and their lifetime budget."""

    path: Path
    dataset: str
    rows: RowSet = field(repr=False)
    budget: Budget


@dataclass(frozen=True)
class Charge:
    """
    A charged round. ``reply`` None: compute, ``store``, and only then send. Otherwise it was computed before: send these
    bytes. ``epsilon`` and ``delta``: of the study's plan.
    """

    reply: bytes | None
    epsilon: float
    delta: float


class Ledger:
    """
    The ledger of one dataset, opened to charge, in a file that other datasets may share.

    Opening writes the first dataset of a file, and a changed budget; the last budget that was written applies to all
    processes. Changed rows are written when they are first met, and wait for ``confirm``; what was spent stays spent,
    because most of the rows will be the same. All methods raise SiloFailed if the file cannot be written, and
    LedgerDamaged if it was altered; opening also raises Refused for a further dataset that was not admitted.
    """

    def __init__(self, account: LedgerAccount) -> None:
        self._account, self._file = account, HashChainFile(account.path)
        self._file.create()
        with self._file.write(account.dataset) as chain:
            if not chain.entries:
                check_known_dataset(account, chain)
                _open(chain, account)
            elif ledger_state(chain).budget != account.budget:
                append(chain, BudgetChanged(**_numbers(account.budget)))

    @classmethod
    def admit(cls, account: LedgerAccount) -> "Ledger":
        """
        Open a further dataset with a budget of its own, whose owner declares that its rows are other people's. Raises
        Refused if they are not, ConfigError if the dataset is in the ledger already or is the first.
        """
        file, dataset = HashChainFile(account.path), account.dataset
        file.create()
        with file.write(dataset) as chain:
            others = chain.others()
            if chain.entries or not others:
                reason = "it is in this ledger already" if chain.entries else "it is the first of this ledger"
                raise ConfigError(f"{dataset}: {reason}; remove --new-dataset")
            _open(chain, account, check_other_rows(dataset, account.rows, others))
        return cls(account)

    def charge(
        self, study: str, round: int, task_hash: str, events: Sequence[SpendEvent], plan: Plan
    ) -> Charge:
        """
        Write what a round costs, and with a study's first round its whole plan, durably, before anything is computed; or
        return the reply that was stored before. A round without ``events`` costs nothing; there are such rounds only after
        all of the plan was charged.

        Raises BudgetExhausted; RoundLost for a round that was charged and has no reply; Refused for another plan or
        task than was charged, an older round, more steps than were planned, and changed rows; ConfigError for arguments
        that describe no round or no plan. If it raises, nothing was charged.
        """
        _check_arguments(study, round, plan)
        self._note_changed_rows()
        with self._file.write(self._account.dataset) as chain:
            state = ledger_state(chain)
            self._check_rows(chain, state)
            study_state = state.studies.get(study, StudyState(planned(study, plan)))
            self._check_plan(study, study_state, plan)
            if round <= study_state.round:
                return Charge(
                    self._stored_reply(chain, study, study_state, round, task_hash), plan.epsilon, plan.delta
                )
            if not (events or study_state.finished):
                raise ConfigError(
                    f"study {study!r}, round {round} without events is not a private round: its plan has steps left"
                )
            charged = accounting.merge_events([*study_state.events, *events])
            self._check_planned(study, charged, study_state)
            check_affordable(self._account.dataset, study, plan, state.budget, state.taken_by_others(study))
            if study not in state.studies:
                append(chain, study_state.plan)
            append(
                chain,
                RoundCharged(
                    study=study,
                    round=round,
                    task=task_hash,
                    events=event_rows(events),
                    epsilon=accounting.epsilon(charged, plan.delta, plan=plan.events),
                ),
            )
        return Charge(None, plan.epsilon, plan.delta)

    def store(self, study: str, round: int, reply: bytes) -> None:
        """Store the reply to the study's last charged round, durably, in place of the reply to the round before."""
        with self._file.write(self._account.dataset) as chain:
            study_state = ledger_state(chain).studies.get(study)
            if study_state is None or study_state.round != round or study_state.reply:
                raise FedTLError(
                    f"{self._account.dataset}: round {round} of study {study!r} is not its last charged round, or already has a reply"
                )
            digest = chain.store(study, reply)
            append(chain, ReplyStored(study=study, round=round, reply=digest, bytes=len(reply)))

    def confirm(self, fingerprint: str) -> None:
        """
        Write that the steward confirms the changed rows. ``fingerprint``: that of the rows as they are now. Raises Refused
        if they are another dataset's.
        """
        dataset, rows = self._account.dataset, self._account.rows
        if fingerprint != rows.fingerprint:
            raise ConfigError(
                f"{dataset}: the fingerprint of the rows is {rows.fingerprint[:12]}, not {fingerprint[:12]}"
            )
        with self._file.write(dataset) as chain:
            state = ledger_state(chain)
            if state.fingerprint != fingerprint:
                check_other_rows(dataset, rows, chain.others())
                self._append_changed_rows(chain, state)
                kept = store_rows(chain, rows, confirmed_rows(chain, state, ALL_ROWS))
                append(chain, RowsConfirmed(fingerprint=fingerprint, rows=rows.count, kept=kept))

    def _note_changed_rows(self) -> None:
        """
        Record changed rows in a separate transaction, because the refusal that follows rolls its own transaction back.
        """
        with self._file.write(self._account.dataset) as chain:
            state = ledger_state(chain)
            if state.fingerprint != self._account.rows.fingerprint:
                self._append_changed_rows(chain, state)

    def _append_changed_rows(self, chain: WritableChain, state: LedgerState) -> None:
        """Write once that the rows differ from those last confirmed."""
        rows = self._account.rows
        if rows.fingerprint not in state.unconfirmed:
            difference = describe_difference(confirmed_rows(chain, state), rows)
            append(
                chain,
                RowsChanged(before=state.fingerprint, fingerprint=rows.fingerprint, difference=difference),
            )

    def _check_rows(self, chain: HashChain, state: LedgerState) -> None:
        rows = self._account.rows
        if state.fingerprint != rows.fingerprint:
            raise Refused(
                f"{self._account.dataset}: the rows have changed (fingerprint {state.fingerprint[:12]} is now "
                f"{rows.fingerprint[:12]}: {describe_difference(confirmed_rows(chain, state), rows)}); if that is right, "
                "confirm them (fedtl silo confirm); what was spent stays spent"
            )

    def _check_plan(self, study: str, study_state: StudyState, plan: Plan) -> None:
        if study_state.plan != planned(study, plan):
            written = study_state.plan.model_dump(mode="json", include={"epsilon", "delta", "events"})
            raise Refused(
                f"{self._account.dataset}: study {study!r} was charged for another plan ({json.dumps(written)}); use another "
                "study name for another plan"
            )

    def _stored_reply(
        self, chain: HashChain, study: str, study_state: StudyState, round: int, task_hash: str
    ) -> bytes:
        where = f"{self._account.dataset}: round {round} of study {study!r}"
        if round < study_state.round:
            raise Refused(
                f"{where} is over; the last charged round is {study_state.round}: continue with the next one"
            )
        if task_hash != study_state.task:
            raise Refused(f"{where} was charged for another task; continue with the next round")
        if not study_state.reply:
            raise RoundLost(
                f"{where} was charged and has no reply: it is lost, unless another process is computing it; continue with the "
                "next round"
            )
        return chain.stored(study, study_state.reply)

    def _check_planned(self, study: str, charged: Sequence[SpendEvent], study_state: StudyState) -> None:
        most = {
            (event.noise_multiplier, event.sample_rate): event.steps
            for event in accounting.merge_events(spend_events(study_state.plan.events))
        }
        for event in charged:
            if event.steps > (allowed := most.get((event.noise_multiplier, event.sample_rate), 0)):
                raise Refused(
                    f"{self._account.dataset}: with this round, study {study!r} would take {event.steps} steps of noise "
                    f"{event.noise_multiplier:g} and rate {event.sample_rate:g}; its plan has {allowed}; start "
                    "a new study for more steps"
                )


def check_known_dataset(account: LedgerAccount, chain: HashChain) -> None:
    """Raise Refused if this dataset is new in a ledger that has others: the steward must admit it (``Ledger.admit``)."""
    if others := chain.others():
        check_other_rows(account.dataset, account.rows, others)
        raise Refused(
            f"{account.dataset}: not in this ledger, which has {', '.join(repr(other.name) for other in others)}, and a new name "
            "would have a new budget; if these are other people's rows: fedtl silo confirm DIR BUNDLE --new-dataset; if not, set "
            f"data.name = {others[0].name!r} in silo.toml"
        )


def _open(chain: WritableChain, account: LedgerAccount, beside: dict[str, int] | None = None) -> None:
    rows = account.rows
    kept = store_rows(chain, rows)
    append(
        chain,
        Opened(
            fingerprint=rows.fingerprint,
            rows=rows.count,
            kept=kept,
            beside=beside,
            **_numbers(account.budget),
        ),
    )


def _numbers(budget: Budget) -> dict[str, float]:
    return {"epsilon": float(budget.epsilon), "delta": float(budget.delta)}


def _check_arguments(study: str, round: int, plan: Plan) -> None:
    """
    Raise ConfigError for arguments that describe no private round. To be called before the file is locked, because the
    accounting library takes seconds to load.
    """
    if not study or round < 1 or not plan.events:
        raise ConfigError(
            f"study {study!r}, round {round} of a plan of {len(plan.events)} events is not a private round: it needs a study "
            "name, a round number of at least 1 and at least one event in the plan"
        )
    if (cost := accounting.epsilon(plan.events, plan.delta)) > plan.epsilon * SLACK:
        raise ConfigError(
            f"study {study!r} plans for epsilon {plan.epsilon:.4g}, but its events cost {cost:.4g}"
        )
