"""
Which approval is in force for a plan, and how it was used.

The record decides: an approval counts only if its line, with the signed terms, is in the record. So an approved.json that
was edited or restored approves nothing, and deleting the record ends every approval. Reads no rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError

from fedtl.deployment.site.approvals import (
    Approval,
    bundles_approved_without_terms,
    code_hash,
    read_approvals,
)
from fedtl.deployment.site.egress_lines import (
    ApprovalWithdrawn,
    EgressLine,
    PlanApproved,
    StudyBegan,
    UpdateSent,
    VerdictSent,
)
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signed import SignedTerms, looser
from fedtl.errors import Denied
from fedtl.federation.policy import Code, Manifest, ManifestTensor
from fedtl.results.comparison import Verdict

APPROVE_AGAIN = "rehearse and approve again"
APPROVED_WITHOUT_TERMS = f"approved with an earlier fedtl: {APPROVE_AGAIN}"


@dataclass(frozen=True)
class Grant:
    """
    An approval as its line in the record states it. ``number``: of the line. ``terms`` None: the line has no terms
    and tensors that match its hashes; fedtl 0.1.0 wrote such lines.
    """

    number: int
    approval: Approval
    terms: SignedTerms | None
    tensors: Mapping[str, tuple[tuple[int, ...], str]]


@dataclass
class History:
    """
    The state that the lines of a record lead to. ``grants``: the last approval of each plan that was not withdrawn.
    ``studies``: those begun under each approval, by its line's number. ``rounds``: the last round that left in each
    study, and its task. ``verdicts``: the verdict that left after a study, and the task that asked for it. ``latest``: the latest time
    in any line.
    """

    grants: dict[str, Grant] = field(default_factory=dict)
    studies: dict[int, list[str]] = field(default_factory=dict)
    rounds: dict[str, tuple[int, str]] = field(default_factory=dict)
    verdicts: dict[str, tuple[Verdict, str]] = field(default_factory=dict)
    latest: str = ""

    def add(self, line: EgressLine) -> None:
        self.latest = max(self.latest, line.at)
        match line.entry:
            case PlanApproved() as approved:
                grant = _grant(line.number, approved)
                self.grants[grant.approval.plan], self.studies[grant.number] = grant, []
            case ApprovalWithdrawn(bundle=bundle):
                for plan, grant in list(self.grants.items()):
                    if grant.approval.bundle == bundle:
                        del self.grants[plan]
            case StudyBegan(plan=plan, study=study):
                self._begin(plan, study)
            case UpdateSent(plan=plan, study=study) as sent:
                self._begin(plan, study)
                self.rounds[study] = sent.round, sent.task
            case VerdictSent(study=study, verdict=verdict, task=task):
                self.verdicts.setdefault(study, (verdict, task))

    def _begin(self, plan: str, study: str) -> None:
        if (in_force := self.grants.get(plan)) is not None:
            begun = self.studies[in_force.number]
            begun += [] if study in begun else [study]

    @property
    def today(self) -> str:
        """
        Today's date (UTC, YYYY-MM-DD), but never before the latest date in the record: setting the clock back must not
        extend an approval.
        """
        return max(datetime.now(UTC).isoformat(), self.latest)[:10]


def record_history(lines: Sequence[EgressLine]) -> History:
    history = History()
    for line in lines:
        history.add(line)
    return history


def grant_in_force(home: Home, history: History, plan: str, manifest: Manifest) -> Grant:
    """Return the approval that a plan runs under. Raises Denied."""
    listed = [approval for approval in read_approvals(home.approved) if approval.plan == plan]
    grant = history.grants.get(plan)
    if not listed:
        old = bundles_approved_without_terms(home.approved)
        what_to_do = APPROVED_WITHOUT_TERMS if old else "fedtl silo rehearse, then approve"
        raise Denied(Code.PLAN, f"plan {plan[:12]} is not approved; {what_to_do}")
    if grant is None or grant.approval not in listed:
        raise Denied(
            Code.PLAN,
            f"plan {plan[:12]}: the approval in approved.json is not the last one in the record; {APPROVE_AGAIN}",
        )
    if grant.terms is None:
        raise Denied(Code.PLAN, f"plan {plan[:12]} was {APPROVED_WITHOUT_TERMS}")
    for name, signed, now in (
        ("manifest", grant.approval.manifest, manifest.hash),
        ("fedtl", grant.approval.code, code_hash()),
    ):
        if signed != now:
            raise Denied(
                Code.PLAN,
                f"plan {plan[:12]} was approved with another {name} than the present one; {APPROVE_AGAIN}",
            )
    return grant


def check_terms(signed: SignedTerms, now: SignedTerms) -> None:
    """Compare the present terms with the signed ones. Raises Denied, with each value that is looser than signed."""
    if differences := looser(signed, now):
        raise Denied(Code.PLAN, f"{'; '.join(map(str, differences))}: looser than approved; {APPROVE_AGAIN}")


def check_use(history: History, grant: Grant, study: str, round: int, task: str) -> None:
    """
    Check that an approval covers a round. Raises Denied where it does not: it is for other studies, it has expired, or this
    round or a later one was already answered. Rounds may be missing, because a site that is offline or not sampled is not
    asked. No round is accepted for a second task, so a study never has more rounds than its plan.
    """
    terms = _terms_of_today(history, grant)
    begun = history.studies[grant.number]
    if study not in begun and len(begun) >= terms.studies:
        raise Denied(
            Code.PLAN,
            f"study {study!r}: the approval is for {number_of_studies(terms)} and was used for {', '.join(begun)}; {APPROVE_AGAIN}",
        )
    if study in history.verdicts:
        raise Denied(Code.ROUND, f"study {study!r} is over: the verdict after its last round has left")
    last, last_task = history.rounds.get(study, (0, ""))
    if round < last:
        raise Denied(Code.ROUND, f"round {round} is over; the last answered round is {last}")
    if round == last and task != last_task:
        raise Denied(Code.ROUND, f"round {round} was already answered, for another task")


def check_verdict_use(history: History, grant: Grant, study: str, task: str) -> None:
    """
    Check that an approval covers a verdict after a study. Raises Denied where it is not signed or has expired, where the site sent no
    update in the study, and where a verdict has left for another question: what a server can learn of the test rows is one word.
    """
    terms = _terms_of_today(history, grant)
    if not terms.verdict:
        raise Denied(Code.DECLINED, "a verdict was not signed")
    if study not in history.studies[grant.number] or study not in history.rounds:
        raise Denied(Code.ROUND, f"study {study!r}: this site sent no update in it under this approval")
    if study in history.verdicts and history.verdicts[study][1] != task:
        raise Denied(Code.ROUND, f"the verdict on study {study!r} has left, for another task")


def _terms_of_today(history: History, grant: Grant) -> SignedTerms:
    """Return the signed terms. Raises Denied where the approval has expired."""
    assert grant.terms is not None
    terms, today = grant.terms, history.today
    if today > terms.until:
        raise Denied(Code.PLAN, f"the approval ended on {terms.until}, today is {today}; {APPROVE_AGAIN}")
    return terms


@dataclass(frozen=True)
class ApprovalUse:
    """How far an approval was used. ``begun``: the last round of each study. ``over``: "expired", "used up", or ""."""

    bundle: str
    begun: Mapping[str, int]
    terms: SignedTerms
    over: str

    def __str__(self) -> str:
        studies = [f"{name}, round {last} of {self.terms.rounds}" for name, last in self.begun.items()]
        text = f"for {number_of_studies(self.terms)} until {self.terms.until}; begun: {'; '.join(studies) or 'none'}"
        return f"{text}; {self.over}" if self.over else text


def approval_uses(home: Home) -> list[ApprovalUse]:
    """Return how far each approval was used that is both in approved.json and in the record."""
    history = record_history(home.record.lines())
    listed = read_approvals(home.approved)
    uses = []
    for grant in history.grants.values():
        if grant.terms is not None and grant.approval in listed:
            begun = {name: history.rounds.get(name, (0, ""))[0] for name in history.studies[grant.number]}
            over = _over(grant.terms, begun, history.today)
            uses.append(ApprovalUse(grant.approval.bundle, begun, grant.terms, over))
    return uses


def _over(terms: SignedTerms, begun: Mapping[str, int], today: str) -> str:
    if today > terms.until:
        return "expired"
    finished = len(begun) >= terms.studies and all(last >= terms.rounds for last in begun.values())
    return "used up" if finished else ""


def number_of_studies(terms: SignedTerms) -> str:
    return "1 study" if terms.studies == 1 else f"{terms.studies} studies"


def _grant(number: int, line: PlanApproved) -> Grant:
    tensors = {row.name: (row.shape, row.dtype) for row in line.tensors}
    approval = Approval(line.bundle, line.plan, line.manifest, line.code, line.terms)
    try:
        terms = SignedTerms.model_validate(line.signed)
    except ValidationError:
        return Grant(number, approval, None, tensors)
    manifest = Manifest(tuple(ManifestTensor(**dict(row)) for row in line.tensors))
    hashes = (terms.hash, terms.plan, terms.manifest, manifest.hash)
    match = hashes == (approval.terms, approval.plan, approval.manifest, approval.manifest)
    return Grant(number, approval, terms if match else None, tensors)
