"""Which lines of an egress record no approval covered at the time they were written. Reads no rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from fedtl.deployment.site.covered import History, number_of_studies
from fedtl.deployment.site.egress_lines import EgressLine, Malformed, UpdateSent, VerdictSent
from fedtl.deployment.site.signed import SignedTerms, looser
from fedtl.federation.policy import allows_metric


def uncovered_lines(lines: Sequence[EgressLine]) -> list[str]:
    """Return, in words, every sent line that the approval in force at that time did not cover, and why; and malformed lines."""
    history, problems = History(), list[str]()
    for line in lines:
        match line.entry:
            case UpdateSent() as sent:
                where = f"line {line.number}: round {sent.round} of {sent.study!r}, {line.at}"
                problems += [f"{where}: {reason}" for reason in _reasons(history, line.at, sent)]
            case VerdictSent() as sent:
                where = f"line {line.number}: verdict on {sent.study!r}, {line.at}"
                problems += [f"{where}: {reason}" for reason in _verdict_reasons(history, line.at, sent)]
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
        yield f"the approval was for {number_of_studies(grant.terms)} and was used for {', '.join(begun)}"
    if sent.study in history.verdicts:
        yield "the study was over: its verdict had left"
    last, task = history.rounds.get(sent.study, (0, ""))
    same_reply_again = sent.round == last and sent.task == task and sent.again
    if sent.round <= last and not same_reply_again:
        yield f"round {last} had been answered before"
    if sent.round > grant.terms.rounds:
        yield f"the approval was for {grant.terms.rounds} rounds"


def _verdict_reasons(history: History, at: str, sent: VerdictSent) -> Iterator[str]:
    grant = history.grants.get(sent.plan)
    if grant is None or grant.terms is None:
        yield "no approval of its plan was in force"
        return
    if max(at, history.latest)[:10] > grant.terms.until:
        yield f"the approval had ended on {grant.terms.until}"
    if not grant.terms.verdict:
        yield "a verdict was not signed"
    yield from _looser_terms(grant.terms, sent.terms)
    if sent.study not in history.studies[grant.number] or sent.study not in history.rounds:
        yield "no update of this study had left under the approval"
    if sent.study in history.verdicts and history.verdicts[sent.study] != (sent.verdict, sent.task):
        yield "another verdict on this study had left before"


def _looser_than_signed(signed: SignedTerms, sent: UpdateSent) -> Iterator[str]:
    """Compare the message that the line describes, and the terms that it states, with the signed terms."""
    if signed.privacy is not None and not sent.private:
        yield "it left without the differential privacy that was signed"
    if not signed.rows and sent.weight != 1.0:
        yield "it carried the number of rows, which was not signed"
    for name in sorted(name for name in sent.metrics if not allows_metric(signed.metrics, name)):
        yield f"it carried the metric {name!r}, which was not signed"
    if sent.bytes > signed.bytes:
        yield f"it has {sent.bytes:,} bytes, and {signed.bytes:,} were signed"
    yield from _looser_terms(signed, sent.terms)


def _looser_terms(signed: SignedTerms, stated: Mapping[str, Any] | None) -> Iterator[str]:
    """Compare the terms that a line states with the signed terms."""
    try:
        now = SignedTerms.model_validate(stated)
    except ValidationError:
        yield "it does not state the terms in force"
        return
    yield from (str(difference) for difference in looser(signed, now))
