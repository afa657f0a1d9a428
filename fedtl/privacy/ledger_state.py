"""
What the lines of one dataset's ledger add up to: its budget, its confirmed rows, and what each study has taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedtl.errors import LedgerDamaged
from fedtl.messages import SpendEvent
from fedtl.privacy import accounting
from fedtl.privacy.budget import Budget, Plan
from fedtl.privacy.chain_memo import ChainMemo
from fedtl.privacy.hash_chain import HashChain, WritableChain
from fedtl.privacy.ledger_lines import (
    BudgetChanged,
    LedgerLine,
    Opened,
    ReplyStored,
    RoundCharged,
    RowsChanged,
    RowsConfirmed,
    StudyPlanned,
    event_rows,
    parse_lines,
    spend_events,
)
from fedtl.privacy.rows import RowSet

# Names of the row sets that are stored with the lines; the name of a study contains no slash.
LAST_ROWS, ALL_ROWS = "/rows", "/ever"  # the rows last confirmed; all rows that were ever confirmed


@dataclass
class StudyState:
    """
    What a ledger records of one study. ``plan``: as it was written. ``charged``: the epsilon of its rounds so far, at
    most the plan's.
    """

    plan: StudyPlanned
    events: tuple[SpendEvent, ...] = ()  # of its rounds so far, merged
    round: int = 0  # the last charged round
    task: str = ""
    reply: str = ""  # the hash of the reply that was stored for this round
    charged: float = 0.0

    @property
    def taken(self) -> tuple[float, float]:
        """The (epsilon, delta) that the study takes from the budget."""
        return max(self.plan.epsilon, self.charged), self.plan.delta

    @property
    def finished(self) -> bool:
        """Whether its plan has no step left."""
        return event_rows(self.events) == self.plan.events


@dataclass
class LedgerState:
    """The state of one dataset after its last line. Raises LedgerDamaged for a line that cannot be read."""

    budget: Budget
    fingerprint: str  # the fingerprint of the last confirmed rows
    kept: dict[
        str, str
    ]  # the hashes of the stored row sets; none where an earlier fedtl wrote the last confirmation
    unconfirmed: set[str]  # fingerprints of changed rows since then
    studies: dict[str, StudyState]

    @property
    def taken(self) -> tuple[float, float]:
        """The (epsilon, delta) that all studies together take from the budget."""
        return accounting.add_costs(state.taken for state in self.studies.values())

    @property
    def charged_studies(self) -> set[str]:
        """The studies of which a round was charged."""
        return {name for name, study in self.studies.items() if study.events}

    def copy(self) -> "LedgerState":
        """Return a state to which lines can be added."""
        studies = {name: replace(study) for name, study in self.studies.items()}
        return replace(self, kept=dict(self.kept), unconfirmed=set(self.unconfirmed), studies=studies)

    def taken_by_others(self, study: str | None) -> list[tuple[float, float]]:
        """The (epsilon, delta) of every study but this one."""
        return [state.taken for name, state in self.studies.items() if name != study]

    def unfinished_study(self, plan: Plan) -> str | None:
        """The first study under this plan that has steps left; None if there is none."""
        same = (name for name, state in self.studies.items() if state.plan == planned(name, plan))
        return next((name for name in same if not self.studies[name].finished), None)


_STATES = ChainMemo[LedgerState]()  # what this process added up


def ledger_state(chain: HashChain) -> LedgerState:
    """
    Add up the lines of a chain, or those that are new since this process last did. Raises LedgerDamaged if it has none.
    """
    known = _STATES.longest(chain.entries)
    lines = parse_lines(chain.lines(after=known.lines if known else 0))
    state = known.value.copy() if known else _opened(chain.name, lines)
    for line in lines if known else lines[1:]:
        _add(state, line)
    _STATES.keep(chain.entries, state.copy())
    return state


def _opened(name: str, lines: Sequence[LedgerLine]) -> LedgerState:
    """Return the state after the first line."""
    opened = lines[0].entry if lines else None
    if not isinstance(opened, Opened):
        raise LedgerDamaged(
            f"{name}: its first line in the ledger is missing; restore the ledger from a copy"
        )
    return LedgerState(Budget(opened.epsilon, opened.delta), opened.fingerprint, opened.kept or {}, set(), {})


def _add(state: LedgerState, line: LedgerLine) -> None:
    match line.entry:
        case BudgetChanged(epsilon=epsilon, delta=delta):
            state.budget = Budget(epsilon, delta)
        case RowsChanged(fingerprint=fingerprint):
            state.unconfirmed.add(fingerprint)
        case RowsConfirmed(fingerprint=fingerprint, kept=kept):
            state.fingerprint, state.kept, state.unconfirmed = fingerprint, kept or {}, set()
        case StudyPlanned() as plan:
            state.studies[plan.study] = StudyState(plan)
        case RoundCharged() as charged:
            study = _study(state, line, charged.study)
            study.events = accounting.merge_events([*study.events, *spend_events(charged.events)])
            study.round, study.task, study.reply = charged.round, charged.task, ""
            study.charged = charged.epsilon
        case ReplyStored(study=name, reply=reply):
            _study(state, line, name).reply = reply
        case Opened():
            raise LedgerDamaged(f"line {line.number} of {line.chain}: the ledger was opened before")


def _study(state: LedgerState, line: LedgerLine, name: str) -> StudyState:
    if name not in state.studies:
        raise LedgerDamaged(f"line {line.number} of {line.chain}: study {name!r} has no plan in the ledger")
    return state.studies[name]


def planned(study: str, plan: Plan) -> StudyPlanned:
    """The line that writes a plan."""
    events = event_rows(accounting.merge_events(plan.events))
    return StudyPlanned(study=study, epsilon=float(plan.epsilon), delta=float(plan.delta), events=events)


def confirmed_rows(chain: HashChain, state: LedgerState, name: str = LAST_ROWS) -> RowSet | None:
    """
    Return the rows that were last confirmed, or with ``ALL_ROWS`` all that ever were. None where an earlier fedtl wrote
    the last confirmation. Raises LedgerDamaged if they were altered.
    """
    return RowSet.loaded(chain.stored(name, state.kept[name])) if state.kept else None


def store_rows(chain: WritableChain, rows: RowSet, before: RowSet | None = None) -> dict[str, str]:
    """
    Replace the row sets that are stored with the lines; return the line's ``kept``. ``before``: all rows that the dataset had until now.
    """
    ever = rows.union(before) if before and before.key == rows.key else rows
    return {name: chain.store(name, kept.dumped()) for name, kept in ((LAST_ROWS, rows), (ALL_ROWS, ever))}
