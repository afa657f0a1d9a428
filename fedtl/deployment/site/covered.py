"""
Which approval is in force for a plan, what was done under it, and which lines of an egress record it did not cover.

The record is the authority: an approval counts where its line, with the signed terms, stands in the record. So an edited
or restored approved.json approves nothing, and a deleted record ends every approval. Must not know rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from fedtl.deployment.site import approvals
from fedtl.deployment.site.approvals import Approval, code_hash
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signed import SignedTerms, looser
from fedtl.errors import Denied
from fedtl.federation.policy import Code, Manifest, ManifestTensor

Line = Mapping[str, Any]
AGAIN = "rehearse and approve again"
EARLIER = f"approved with an earlier fedtl: {AGAIN}"


@dataclass(frozen=True)
class Grant:
    """
    An approval as its record line has it, and the line's ``number``. ``terms`` None: the line holds no terms and tensors
    that fit its hashes, as one of an earlier fedtl.
    """

    number: int
    approval: Approval
    terms: SignedTerms | None
    tensors: Mapping[str, list[Any]]


@dataclass
class History:
    """
    A record's lines, read: ``grants`` of each plan, the last one only and without those withdrawn; the ``studies`` begun
    under each, by the grant's line; ``rounds``: the last round that left in each study, and its task; ``latest``: the
    latest time in any line.
    """

    grants: dict[str, Grant] = field(default_factory=dict)
    studies: dict[int, list[str]] = field(default_factory=dict)
    rounds: dict[str, tuple[int, str]] = field(default_factory=dict)
    latest: str = ""

    def read(self, line: Line) -> None:
        self.latest = max(self.latest, line["at"])
        match line["what"]:
            case "approved":
                grant = _grant(line)
                self.grants[grant.approval.plan], self.studies[grant.number] = grant, []
            case "withdrawn":
                for plan, grant in list(self.grants.items()):
                    if grant.approval.bundle == line["bundle"]:
                        del self.grants[plan]
            case "began" | "sent":
                if (known := self.grants.get(line["plan"])) is not None:
                    begun = self.studies[known.number]
                    begun += [] if line["study"] in begun else [line["study"]]
                if line["what"] == "sent":
                    self.rounds[line["study"]] = line["round"], line["task"]


def history(lines: Sequence[Line]) -> History:
    read = History()
    for line in lines:
        read.read(line)
    return read


def today(read: History) -> str:
    """
    YYYY-MM-DD in UTC: the later of the clock and the latest time in the record, because a clock that was set back must not
    extend an approval.
    """
    return max(datetime.now(UTC).isoformat(), read.latest)[:10]


def in_force(home: Home, read: History, plan: str, manifest: Manifest) -> Grant:
    """The grant that a plan runs under. Raises Denied."""
    rows = [row for row in approvals.approvals(home.approved) if row.plan == plan]
    grant = read.grants.get(plan)
    if not rows:
        way = EARLIER if approvals.earlier(home.approved) else "fedtl silo rehearse, then approve"
        raise Denied(Code.PLAN, f"plan {plan[:12]} is not approved; {way}")
    if grant is None or grant.approval not in rows:
        raise Denied(
            Code.PLAN,
            f"plan {plan[:12]}: approved.json has an approval that is not the last one in the record; {AGAIN}",
        )
    if grant.terms is None:
        raise Denied(Code.PLAN, f"plan {plan[:12]} was {EARLIER}")
    here = {"manifest": (grant.approval.manifest, manifest.hash), "fedtl": (grant.approval.code, code_hash())}
    for what, (signed, now) in here.items():
        if signed != now:
            raise Denied(
                Code.PLAN, f"plan {plan[:12]} was approved with another {what} than is here now; {AGAIN}"
            )
    return grant


def check_terms(signed: SignedTerms, now: SignedTerms) -> None:
    """Raises Denied, naming each value that is looser than signed."""
    if found := looser(signed, now):
        raise Denied(Code.PLAN, f"{'; '.join(map(str, found))}: looser than approved; {AGAIN}")


def check_use(read: History, grant: Grant, study: str, round: int, task: str) -> None:
    """
    Whether a round may begin under a grant: its studies, its last day, and the order of rounds. A round may come after
    a gap, because a site that was offline or not sampled is not asked; none comes twice, so that there are never more
    than the plan's. Raises Denied.
    """
    assert grant.terms is not None
    terms, now = grant.terms, today(read)
    if now > terms.until:
        raise Denied(Code.PLAN, f"the approval ended on {terms.until}, today is {now}; {AGAIN}")
    begun = read.studies[grant.number]
    if study not in begun and len(begun) >= terms.studies:
        raise Denied(
            Code.PLAN,
            f"study {study!r}: the approval is for {_studies(terms)} and was used for {', '.join(begun)}; {AGAIN}",
        )
    last, known = read.rounds.get(study, (0, ""))
    if round < last:
        raise Denied(Code.ROUND, f"round {round} is over; the last is {last}")
    if round == last and task != known:
        raise Denied(Code.ROUND, f"another task for round {round}, which was answered")


@dataclass(frozen=True)
class Standing:
    """
    How far an approval was used: ``begun`` studies and the last round of each; ``over``: why nothing more may leave under
    it, "" where something may.
    """

    bundle: str
    begun: Mapping[str, int]
    terms: SignedTerms
    over: str

    def __str__(self) -> str:
        done = [f"{name}, round {last} of {self.terms.rounds}" for name, last in self.begun.items()]
        told = f"for {_studies(self.terms)} until {self.terms.until}; begun: {'; '.join(done) or 'none'}"
        return f"{told}; {self.over}" if self.over else told


def standings(home: Home) -> list[Standing]:
    """Of each approval that is in approved.json and in the record."""
    read, found = history(home.record.lines()), list[Standing]()
    listed = approvals.approvals(home.approved)
    for grant in read.grants.values():
        if grant.terms is not None and grant.approval in listed:
            begun = {name: read.rounds.get(name, (0, ""))[0] for name in read.studies[grant.number]}
            found.append(_standing(grant.approval.bundle, grant.terms, begun, today(read)))
    return found


def _standing(bundle: str, terms: SignedTerms, begun: Mapping[str, int], now: str) -> Standing:
    over = ""
    if now > terms.until:
        over = "expired"
    elif len(begun) >= terms.studies and all(last >= terms.rounds for last in begun.values()):
        over = "used up"
    return Standing(bundle, begun, terms, over)


def uncovered(lines: Sequence[Line]) -> list[str]:
    """Every sent line that the approval in force at that time did not cover, and why, in words."""
    read, found = History(), list[str]()
    for line in lines:
        try:
            if line["what"] == "sent":
                where = f"line {line['number']}: round {line['round']} of {line['study']!r}, {line['at']}"
                found += [f"{where}: {reason}" for reason in _reasons(read, line)]
            read.read(line)
        except (
            KeyError,
            TypeError,
            AttributeError,
        ) as error:  # whoever wrote the chain may have written anything
            found.append(f"line {line['number']} is not a line of a record ({type(error).__name__}: {error})")
    return found


def _reasons(read: History, line: Line) -> Iterator[str]:
    grant = read.grants.get(line["plan"])
    if grant is None:
        yield "no approval of its plan was in force"
        return
    for name, its in line["tensors"].items():
        if grant.tensors.get(name) != [its["shape"], its["dtype"]]:
            yield f"{name} is not on the approved manifest"
    if grant.terms is None:
        yield "its approval was made with an earlier fedtl and holds no terms"
        return
    if max(line["at"], read.latest)[:10] > grant.terms.until:
        yield f"the approval had ended on {grant.terms.until}"
    yield from _beyond(grant.terms, line)
    begun = read.studies[grant.number]
    if line["study"] not in begun[: grant.terms.studies] and len(begun) >= grant.terms.studies:
        yield f"the approval was for {_studies(grant.terms)} and was used for {', '.join(begun)}"
    last, task = read.rounds.get(line["study"], (0, ""))
    replay = line["round"] == last and line["task"] == task and line["again"]
    if line["round"] <= last and not replay:
        yield f"round {last} had been answered before"
    if line["round"] > grant.terms.rounds:
        yield f"the approval was for {grant.terms.rounds} rounds"


def _studies(terms: SignedTerms) -> str:
    return "1 study" if terms.studies == 1 else f"{terms.studies} studies"


def _beyond(signed: SignedTerms, line: Line) -> Iterator[str]:
    """What the line says about itself, and the terms that it says were in force, against what was signed."""
    if signed.privacy is not None and not line["private"]:
        yield "it left without the differential privacy that was signed"
    if not signed.rows and line["weight"] != 1.0:
        yield "it carried a number of rows, which was not signed"
    for name in sorted(set(line["metrics"]) - set(signed.metrics)):
        yield f"it carried the metric {name!r}, which was not signed"
    if line["bytes"] > signed.bytes:
        yield f"{line['bytes']:,} bytes, and {signed.bytes:,} were signed"
    try:
        now = SignedTerms.model_validate(line.get("terms"))
    except ValidationError:
        yield "it does not say which terms were in force"
        return
    yield from (str(its) for its in looser(signed, now))


def _grant(line: Line) -> Grant:
    tensors = {row["name"]: [row["shape"], row["dtype"]] for row in line["tensors"]}
    approval = Approval(**{each.name: str(line.get(each.name, "")) for each in fields(Approval)})
    try:
        terms = SignedTerms.model_validate(line.get("signed"))
        listed = Manifest(
            tuple(ManifestTensor(**{**row, "shape": tuple(row["shape"])}) for row in line["tensors"])
        )
    except (ValidationError, TypeError, KeyError):
        return Grant(line["number"], approval, None, tensors)
    hashes = (terms.hash, terms.plan, terms.manifest, listed.hash)
    fits = hashes == (approval.terms, approval.plan, approval.manifest, approval.manifest)
    return Grant(line["number"], approval, terms if fits else None, tensors)
