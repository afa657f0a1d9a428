"""
A site's answer to the question, after the last round of a study, whether joining helped: one word, computed here on the site's own test
rows, at most once a study, and only where the policy, the plan and the signed page allow it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedtl.deployment.plan import Agreement
from fedtl.deployment.site.answer_round import answer_task
from fedtl.deployment.site.egress_log import EgressLog
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.hours import check_hours
from fedtl.deployment.site.joining import OwnModelOnce, joining_of
from fedtl.deployment.site.signing import ApprovalInForce
from fedtl.deployment.site.site_plan import SitePlan, build_study, check_policy, sends_verdict
from fedtl.deployment.site.site_rows import SiteRows, load_rows
from fedtl.deployment.site.site_silo import make_silo
from fedtl.deployment.site.state_store import schema_of
from fedtl.errors import Denied
from fedtl.experiment.study import Study
from fedtl.federation.policy import Code, check_task
from fedtl.messages import Refusal, SiloVerdict, Task
from fedtl.results.comparison import Verdict
from fedtl.training.finish import Examine
from fedtl.training.silo import Silo


def answer_verdict(
    home: Home, find_agreement: Callable[[], Path], decode: Callable[[], Task]
) -> SiloVerdict | Refusal:
    """
    Return the verdict, which is recorded first, or a Refusal. ``find_agreement`` and ``decode`` as in ``answer_round``; the task is a
    ``verdict_question``.
    """
    return answer_task(home, find_agreement, decode, partial(EgressLog.received, asked="verdict"), _answer)


def _answer(home: Home, agreement: Agreement, question: Task) -> SiloVerdict:
    plan = SitePlan(home, agreement)
    check_policy(plan)
    approval = ApprovalInForce.of(plan)
    if not sends_verdict(plan):
        raise Denied(
            Code.DECLINED, "a verdict needs policy.verdict = true, request.verdict = true, and no privacy"
        )
    if question.round != question.rounds + 1:
        raise Denied(
            Code.ROUND,
            f"a verdict is given after round {question.rounds}, not after round {question.round - 1}",
        )
    check_task(replace(question, round=question.rounds), plan.terms)
    approval.check_verdict_use(question)
    before = approval.verdict(question.study)
    if before is None:
        check_hours(home.settings.hours)
    rows = load_rows(plan)
    study = build_study(plan, rows.data.classes)
    silo = make_silo(plan, study, rows)
    terms = approval.terms(plan, rows.data, silo.guarantee)
    verdict = before or _verdict(home, study, silo, rows, question)
    home.record.verdict_sent(question, terms, verdict, again=before is not None)
    return SiloVerdict(plan.name, verdict)


def _verdict(home: Home, study: Study, silo: Silo, rows: SiteRows, question: Task) -> Verdict:
    stored = home.states.load(question.study, schema_of(study.trainer.initial(rows.data.width)))
    if stored is None or stored.private:
        raise Denied(
            Code.DECLINED, "a verdict needs the state of rounds without differential privacy in state/"
        )
    if not silo.data.has_labels:
        raise Denied(
            Code.DECLINED, "a verdict needs a model that trained alone, and this site uses no labels"
        )
    silo.local = stored.local
    alone = OwnModelOnce()
    examine = Examine(question, lambda _: rows.prepared.evaluation_set, alone)
    joining = joining_of(study, silo, examine, alone, examine(study.trainer, silo))
    if joining is None:
        raise Denied(Code.DECLINED, f"{study.experiment.metric} is not defined on the test rows")
    return joining.gain.verdict
