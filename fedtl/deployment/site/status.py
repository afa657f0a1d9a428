"""The state of a site for its steward: what happened, what left, and what was spent."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedtl.deployment.certificates import days_left, validity
from fedtl.deployment.running import free_space
from fedtl.deployment.site.covered import approval_uses
from fedtl.deployment.site.egress_lines import (
    PlanApproved,
    RoundRefused,
    TaskReceived,
    UpdateSent,
    VerdictSent,
)
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.paid import missing_entries
from fedtl.deployment.site.privacy_policy import describe_values
from fedtl.errors import ConfigError
from fedtl.privacy.hash_chain import ChainLine
from fedtl.privacy.ledger_lines import BudgetChanged, Opened
from fedtl.privacy.ledger_reading import read_ledgers
from fedtl.privacy.verify import study_costs, unconfirmed_rows

LABELS_NOT_USED = "of training and validation rows are not used (data.unlabelled); test labels are used for measurement only"


@dataclass(frozen=True)
class DatasetBudget:
    """
    The epsilon budget of a dataset over all studies. ``spent``: the whole plan of each study that began. ``charged``: the
    rounds so far. ``rounds``: the last round of each study. ``waiting``: the fingerprint of changed rows that the steward
    has not confirmed, or "". ``new``: the ledger has other datasets only, and the steward has not admitted this one.
    """

    dataset: str
    spent: float
    charged: float
    lifetime: float
    left: float
    rounds: Mapping[str, int]
    waiting: str
    new: bool


@dataclass(frozen=True)
class SiteStatus:
    """
    ``study`` and ``round``: of the last update that left. ``approved``: how far each approval was used. ``privacy``: the
    values approved last, with their source. ``labels``: that they are not used, as silo.toml says now; None where they are.
    ``gaps``: entries that the record or the ledger has lost. ``disk``: how much is free. ``certificate``: how long the coordinator's
    authority is valid.
    """

    name: str
    study: str | None
    round: int
    last_contact: str | None
    bytes_out: int
    updates: int
    refusals: int
    last_refusal: str | None
    approved: Mapping[str, str]
    privacy: Mapping[str, str]
    labels: str | None
    budget: DatasetBudget | None
    gaps: list[str]
    disk: str
    certificate: str


def site_status(home: Home) -> SiteStatus:
    """Return the status. Raises LedgerDamaged where the record or the ledger was altered."""
    lines = home.record.lines()
    kinds = TaskReceived | UpdateSent | VerdictSent | RoundRefused
    messages = [line for line in lines if isinstance(line.entry, kinds)]
    sent = [line.entry for line in messages if isinstance(line.entry, UpdateSent)]
    refusals = [line.entry for line in messages if isinstance(line.entry, RoundRefused)]
    return SiteStatus(
        name=home.settings.name,
        study=sent[-1].study if sent else None,
        round=sent[-1].round if sent else 0,
        last_contact=messages[-1].at if messages else None,
        bytes_out=sum(entry.bytes for entry in sent),
        updates=len(sent),
        refusals=len(refusals),
        last_refusal=refusals[-1].reason if refusals else None,
        approved={use.bundle: str(use) for use in approval_uses(home)},
        privacy=approved_values(home),
        labels=LABELS_NOT_USED if home.settings.data.unlabelled else None,
        budget=dataset_budget(home),
        gaps=missing_entries(home, lines),
        disk=free_space(home.path),
        certificate=_certificate(home),
    )


def _certificate(home: Home) -> str:
    try:
        return validity(
            "ca.crt", days_left(home.at(home.settings.certificate)), "ask the coordinator for a new one"
        )
    except ConfigError as error:
        return str(error)


def approved_values(home: Home) -> dict[str, str]:
    """Return the values of the privacy guarantee approved last, with their source; {} where there is none."""
    approved = [line.entry for line in home.record.lines() if isinstance(line.entry, PlanApproved)]
    return describe_values(approved[-1].privacy) if approved and approved[-1].privacy else {}


def dataset_budget(home: Home) -> DatasetBudget | None:
    """Return None where nothing was charged and silo.toml has no [policy.privacy]."""
    ledgers, own = read_ledgers(home.ledger), home.settings.policy.privacy
    lines = ledgers.get(home.dataset, [])
    if own is None and not lines:
        return None
    costs = study_costs(lines)
    limits = [line.entry.epsilon for line in lines if isinstance(line.entry, Opened | BudgetChanged)]
    lifetime = [own.lifetime_epsilon if own else 0.0, *limits][-1]
    spent = sum(cost.epsilon for cost in costs.values())
    return DatasetBudget(
        dataset=home.dataset,
        spent=spent,
        charged=sum(cost.charged for cost in costs.values()),
        lifetime=lifetime,
        left=max(0.0, lifetime - spent),
        rounds={name: cost.round for name, cost in costs.items()},
        waiting=unconfirmed_rows(lines),
        new=bool(ledgers) and not lines,
    )


def record_and_ledger_lines(home: Home) -> list[ChainLine]:
    """Return every line of the egress record, then of the dataset's ledger. ``book`` says which of the two a line is in."""
    ledger = [line.as_json() for line in read_ledgers(home.ledger).get(home.dataset, [])]
    books = {"record": [line.as_json() for line in home.record.written()], "ledger": ledger}
    return [{"book": name, **line} for name, lines in books.items() for line in lines]
