"""
Asks the sites of a study that is done whether joining helped. The answers are added to the result as they come. A site that does not
answer, such as outside its hours, is asked again until the study's ``asking`` file says that it is too late.
"""

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from fedtl._util.files import write_json
from fedtl._util.pace import Pace
from fedtl.deployment.coordinator.asking import asked_until, begin_asking, end_asking, rest
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import NOT_YET, StudyPlan, StudyResult
from fedtl.federation.policy import Code
from fedtl.messages import Refusal, SiloVerdict

log = logging.getLogger(__name__)
MAX_ANSWER_SECONDS = 43200.0  # the longest that a site has for one answer
DAY_SECONDS = 86400.0
SHORTEST_POLL, LONGEST_POLL = 0.2, 10.0  # seconds between two looks for answers
REST_SECONDS = (
    60.0  # without a question or an answer, for which a new ServerApp is worth its start of a few seconds
)
FINAL = (Code.DECLINED, Code.PLAN, Code.ROUND, Code.TENSORS)  # what a site has decided, and says again


class VerdictQuestions(Protocol):
    """The question, as it was sent to sites."""

    @property
    def waiting(self) -> Collection[str]:
        """The sites whose answer is awaited."""
        ...

    def send(self, silos: Sequence[str], seconds: float) -> Iterable[Refusal]:
        """Send the question to these sites, which have ``seconds`` to answer. Return a refusal for each site to which it cannot be sent."""
        ...

    def receive(self) -> Iterable[SiloVerdict | Refusal]:
        """Return what has come, and a refusal for each site whose time is over."""
        ...


def open_verdicts(study: HostedStudy, plan: StudyPlan, result: StudyResult) -> StudyResult:
    """Note until when the sites of ``result`` are asked, and return the result in which none has answered yet."""
    until = time.time() + plan.verdict_days * DAY_SECONDS
    begin_asking(study, until)
    return replace(result, without_verdict={name: f"{name}: {NOT_YET}" for name in sorted(result.silos)})


def ask_for_verdicts(study: HostedStudy, plan: StudyPlan, questions: VerdictQuestions) -> StudyResult:
    """
    Ask the sites that have not decided yet, each again ``plan.ask_again`` seconds after an answer that decides nothing. Return the result
    with the answers, once every site has decided or the time is over, or while no answer is awaited for ``REST_SECONDS``: the study then
    rests, and ``fedtl server run`` has it ask again. Before a site answers, it trains a model alone, for the number of
    rounds of the study, so an answer may take twice as long as all these rounds did.
    """
    result = study.result
    longest = min(max(plan.deadline, 2 * result.seconds), MAX_ANSWER_SECONDS)
    due = dict.fromkeys(_undecided(result), 0.0)
    pace = Pace(SHORTEST_POLL, LONGEST_POLL, time.monotonic)
    while due and (left := (asked_until(study) or 0.0) - time.time()) > 0:
        now = time.monotonic()
        ready = [name for name, at in due.items() if at <= now and name not in questions.waiting]
        answers: list[SiloVerdict | Refusal] = []
        if ready:
            pace.restart()
            answers += questions.send(ready, min(longest, left))
        answers += questions.receive()
        for answer in answers:
            result = _noted(result, answer)
            due[answer.silo] = time.monotonic() + plan.ask_again
        if answers:
            write_json(study.path / "result.json", result, private=True)
            due = {name: due[name] for name in _undecided(result)}
        if due:
            idle = min(min(due.values()) - time.monotonic(), left)
            if not questions.waiting and idle >= REST_SECONDS:
                rest(study, time.time() + idle)
                return result
            time.sleep(pace.pause if questions.waiting else max(idle, SHORTEST_POLL))
    end_asking(study)
    return result


def _undecided(result: StudyResult) -> list[str]:
    """Return the sites that may still answer: they did not, or said that they cannot now."""
    final = tuple(f"({code})" for code in FINAL)
    return [name for name, reason in result.without_verdict.items() if not reason.endswith(final)]


def _noted(result: StudyResult, answer: SiloVerdict | Refusal) -> StudyResult:
    name, reasons = answer.silo, dict(result.without_verdict)
    before = reasons.pop(name)
    if isinstance(answer, SiloVerdict):
        log.info("%s: %s", name, answer.verdict)
        return replace(result, verdicts={**result.verdicts, name: answer.verdict}, without_verdict=reasons)
    if answer.reason != before:
        log.info("%s", answer.reason)
    return replace(result, without_verdict={**reasons, name: answer.reason})
