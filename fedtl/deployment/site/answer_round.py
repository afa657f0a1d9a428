"""
A site's answer to one task: check the approval and the policy, train, check the update, store it and write it down. Whatever
goes wrong is written into the site's record; the server only learns a code.
"""

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from fedtl.data.plain_names import SILO_NAME
from fedtl.deployment.plan import Agreement, load_agreement
from fedtl.deployment.running import no_room
from fedtl.deployment.site.egress_log import EgressLog
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.hours import check_hours
from fedtl.deployment.site.paid import check_ledger_complete, check_reply_paid
from fedtl.deployment.site.signing import ApprovalInForce
from fedtl.deployment.site.site_plan import SitePlan, build_study, check_policy
from fedtl.deployment.site.site_rows import load_rows
from fedtl.deployment.site.site_silo import make_silo
from fedtl.deployment.site.state_store import StoredRound, schema_of
from fedtl.deployment.site.transfer_numbers import transfer_numbers
from fedtl.errors import Denied, FedTLError, Refused, SiloFailed
from fedtl.federation.policy import Code, Policy, check_task, check_update
from fedtl.messages import Refusal, Task, Update
from fedtl.models.failures import module_failure
from fedtl.privacy.charge import task_hash
from fedtl.training import threads

Reply = TypeVar("Reply")


def answer_round(
    home: Home, find_agreement: Callable[[], Path], decode: Callable[[], Task]
) -> Update | Refusal:
    """
    Return the reply to one message. ``find_agreement`` returns the agreement's file in the bundle, ``decode`` reads the
    message; both raise Denied. Returns a Refusal for whatever a server or a row can cause, and raises nothing.
    """
    return answer_task(home, find_agreement, decode, EgressLog.received, _answer)


def answer_task(
    home: Home,
    find_agreement: Callable[[], Path],
    decode: Callable[[], Task],
    note: Callable[[EgressLog, Task, str], None],
    act: Callable[[Home, Agreement, Task], Reply],
) -> Reply | Refusal:
    """
    Return what ``act`` makes of a task, with the folder locked; a Refusal, which is recorded, for whatever it raises. ``note`` records
    the task first, with the hash of its agreement.
    """
    task: Task | None = None
    try:
        with home.alone():
            threads.set_threads(home.settings.threads)
            task = decode()
            return act(home, _accepted(home, find_agreement(), task, note), task)
    except Denied as denied:
        return _refuse(home, task, Code(denied.code), str(denied))
    except (Refused, SiloFailed) as refused:
        return _refuse(home, task, Code.DECLINED, str(refused))
    except FedTLError as error:
        return _refuse(home, task, Code.FAILED, str(error))
    except Exception as error:
        home.log(traceback.format_exc())
        reason = module_failure(error) or type(error).__name__
        return _refuse(home, task, Code.FAILED, f"{reason}; see silo.log")


def _refuse(home: Home, task: Task | None, code: Code, reason: str) -> Refusal:
    try:
        home.record.refused(task, code, reason)
    except FedTLError as error:
        home.log(f"{code}: {reason}; this could not be written into the record: {error}")
    return Refusal(home.settings.name, task.round if task else 0, code)


def _accepted(
    home: Home, agreement_file: Path, task: Task, note: Callable[[EgressLog, Task, str], None]
) -> Agreement:
    """Return the agreement that a task is for, once the task is recorded. Raises Denied."""
    agreement = load_agreement(agreement_file)
    if not SILO_NAME.fullmatch(task.study):
        raise Denied(
            Code.PLAN, f"the server's name for the study is not valid ({len(task.study)} characters)"
        )
    _check_disk(home)
    if home.settings.policy.privacy is not None:
        check_ledger_complete(home)
    note(home.record, task, agreement.hash)
    return agreement


def _answer(home: Home, agreement: Agreement, task: Task) -> Update:
    plan = SitePlan(home, agreement)
    check_policy(plan)
    approval = ApprovalInForce.of(plan)
    check_task(task, plan.terms)
    approval.check_use(task)
    if not approval.has_answered(task):
        check_hours(home.settings.hours)
    rows = load_rows(plan)
    study = build_study(plan, rows.data.classes)
    silo = make_silo(plan, study, rows)
    signed = approval.terms(plan, rows.data, silo.guarantee)
    schema, digest = schema_of(study.trainer.initial(rows.data.width)), task_hash(task)
    stored = home.states.load(task.study, schema)
    if answered := _stored_answer(stored, task, digest):
        update, private = answered.update, answered.private
    elif approval.has_answered(task):
        raise Denied(
            Code.ROUND, f"round {task.round} was already answered, and its reply is no longer in state/"
        )
    else:
        approval.note_begin(task)
        if stored:
            silo.local, silo.labels = stored.local, stored.labels
        numbers = transfer_numbers(plan, study, silo, task)
        update = without_denied_figures(study.trainer.fit(silo, task), plan.policy)
        update = replace(update, metrics={**update.metrics, **numbers})
        private = silo.guarantee is not None
        check_update(update, task, plan.terms, plan.policy, _released(plan, private), silo.name)
        new = StoredRound(digest, silo.local, silo.labels, update, private)
        home.states.save(task.study, schema, new)
    # Again, because a stored reply may be older than the policy in force.
    check_update(update, task, plan.terms, plan.policy, _released(plan, private), home.settings.name)
    if private:
        check_reply_paid(home, task.study, task.round, digest)
    home.record.sent(task, update, signed, home.dataset if private else None, answered is not None)
    return update


def _check_disk(home: Home) -> None:
    """Raise Denied, before anything is charged, where a round could not be stored."""
    if reason := no_room(home.path):
        raise Denied(Code.FAILED, reason)


def _released(plan: SitePlan, private: bool) -> frozenset[str] | None:
    """Return the metrics that leave with noise; None for an update that was made without differential privacy."""
    return (plan.released_metrics or frozenset()) if private else None


def _stored_answer(stored: StoredRound | None, task: Task, digest: str) -> StoredRound | None:
    """
    Return the stored round where it answers this very task; None where the task is of a later round. Raises Denied for an
    earlier round, and for another task of the same round.
    """
    if stored is None or task.round > stored.round:
        return None
    if task.round < stored.round:
        raise Denied(Code.ROUND, f"round {task.round} is over; the last answered round is {stored.round}")
    if digest != stored.task:
        raise Denied(Code.ROUND, f"round {task.round} was already answered, for another task")
    return stored


def without_denied_figures(update: Update, policy: Policy) -> Update:
    """Return the update without the metrics and the number of rows that the policy does not allow to leave."""
    metrics = {name: value for name, value in update.metrics.items() if name in policy.metrics}
    return replace(update, metrics=metrics, weight=update.weight if policy.share_row_count else 1.0)
