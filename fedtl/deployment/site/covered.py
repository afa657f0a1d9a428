"""
Which approval is in force for a plan, how it was used, and which lines of an egress record no approval covered.

The record decides: an approval counts only if its line, with the signed terms, is in the record. So an approved.json that
was edited or restored approves nothing, and deleting the record ends every approval. Reads no rows.
"""

from collections.abc import Iterator, Mapping, Sequence
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
    Malformed,
    PlanApproved,
    StudyBegan,
    UpdateSent,
)
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signed import SignedTerms, looser
from fedtl.errors import Denied
from fedtl.federation.policy import Code, Manifest, ManifestTensor

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
    study, and its task. ``latest``: the latest time in any line.
    """

    grants: dict[str, Grant] = field(default_factory=dict)
    studies: dict[int, list[str]] = field(default_factory=dict)
    rounds: dict[str, tuple[int, str]] = field(default_factory=dict)
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
    assert grant.terms is not None
    terms, today = grant.terms, history.today
    if today > terms.until:
        raise Denied(Code.PLAN, f"the approval ended on {terms.until}, today is {today}; {APPROVE_AGAIN}")
    begun = history.studies[grant.number]
    if study not in begun and len(begun) >= terms.studies:
        raise Denied(
            Code.PLAN,
            f"study {study!r}: the approval is for {_studies(terms)} and was used for {', '.join(begun)}; {APPROVE_AGAIN}",
        )
    last, last_task = history.rounds.get(study, (0, ""))
    if round < last:
        raise Denied(Code.ROUND, f"round {round} is over; the last answered round is {last}")
    if round == last and task != last_task:
        raise Denied(Code.ROUND, f"round {round} was already answered, for another task")


@dataclass(frozen=True)
class ApprovalUse:
    """How far an approval was used. ``begun``: the last round of each study. ``over``: "expired", "used up", or ""."""

    bundle: str
    begun: Mapping[str, int]
    terms: SignedTerms
    over: str

    def __str__(self) -> str:
        studies = [f"{name}, round {last} of {self.terms.rounds}" for name, last in self.begun.items()]
        text = f"for {_studies(self.terms)} until {self.terms.until}; begun: {'; '.join(studies) or 'none'}"
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


def uncovered_lines(lines: Sequence[EgressLine]) -> list[str]:
    """Return, in words, every sent line that the approval in force at that time did not cover, and why; and malformed lines."""
    history, problems = History(), list[str]()
    for line in lines:
        match line.entry:
            case UpdateSent() as sent:
                where = f"line {line.number}: round {sent.round} of {sent.study!r}, {line.at}"
                problems += [f"{where}: {reason}" for reason in _reasons(history, line.at, sent)]
            case Malformed(reason=reason):
                problems.append(f"line {line.number} is not a line of a record ({reason})")
        history.add(line)
    return problems


def _reasons(history: History, at: str, sent: UpdateSent) -> Iterator[str]:
    grant = history.grants.get(sent.plan)
    if grant is None:
        yield "no approval of its plan was in force"
        return
    for name, tensor in sent.tensors.items():
        if grant.tensors.get(name) != (tensor.shape, tensor.dtype):
            yield f"{name} is not on the approved manifest"
    if grant.terms is None:
        yield "its approval was made with an earlier fedtl and has no terms"
        return
    if max(at, history.latest)[:10] > grant.terms.until:
        yield f"the approval had ended on {grant.terms.until}"
    yield from _looser_than_signed(grant.terms, sent)
    begun = history.studies[grant.number]
    if sent.study not in begun[: grant.terms.studies] and len(begun) >= grant.terms.studies:
        yield f"the approval was for {_studies(grant.terms)} and was used for {', '.join(begun)}"
    last, task = history.rounds.get(sent.study, (0, ""))
    same_reply_again = sent.round == last and sent.task == task and sent.again
    if sent.round <= last and not same_reply_again:
        yield f"round {last} had been answered before"
    if sent.round > grant.terms.rounds:
        yield f"the approval was for {grant.terms.rounds} rounds"


def _studies(terms: SignedTerms) -> str:
    return "1 study" if terms.studies == 1 else f"{terms.studies} studies"


def _looser_than_signed(signed: SignedTerms, sent: UpdateSent) -> Iterator[str]:
    """Compare the message that the line describes, and the terms that it states, with the signed terms."""
    if signed.privacy is not None and not sent.private:
        yield "it left without the differential privacy that was signed"
    if not signed.rows and sent.weight != 1.0:
        yield "it carried the number of rows, which was not signed"
    for name in sorted(set(sent.metrics) - set(signed.metrics)):
        yield f"it carried the metric {name!r}, which was not signed"
    if sent.bytes > signed.bytes:
        yield f"it has {sent.bytes:,} bytes, and {signed.bytes:,} were signed"
    try:
        now = SignedTerms.model_validate(sent.terms)
    except ValidationError:
        yield "it does not state the terms in force"
        return
    yield from (str(difference) for difference in looser(signed, now))


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
