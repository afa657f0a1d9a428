"""
A site's part in one round, from a task to an update or to one word: approvals, policy, memory, training, verdict,
record. Whatever goes wrong is written down at home; the server sees a code.
"""

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedtl.deployment import plan as agreement
from fedtl.deployment.site import paid
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.signing import Approved
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.deployment.site.state_store import STUDY, StoredRound
from fedtl.errors import Denied, FedTLError, Refused, SiloFailed
from fedtl.federation.policy import Code, check_task, check_update
from fedtl.messages import Refusal, Task, Update
from fedtl.privacy.charge import task_hash
from fedtl.training import threads as machine

Ask = Callable[[], Task]


def answer_round(home: Home, plan: Callable[[], Path], decode: Ask) -> Update | Refusal:
    """
    The reply to one message. ``plan`` finds the agreement's file in the bundle that asks, ``decode`` reads the message;
    both raise Denied. Never raises for what a server or a row can do.
    """
    task: Task | None = None
    try:
        with home.alone():
            machine.set_threads(home.settings.threads)
            task = decode()
            return _round(home, plan(), task)
    except Denied as denied:
        return _refusal(home, task, Code(denied.code), str(denied))
    except (Refused, SiloFailed) as refused:
        return _refusal(home, task, Code.DECLINED, str(refused))
    except FedTLError as error:
        return _refusal(home, task, Code.FAILED, str(error))
    except Exception as error:
        home.log(traceback.format_exc())
        return _refusal(home, task, Code.FAILED, f"{type(error).__name__}; see silo.log")


def _refusal(home: Home, task: Task | None, code: Code, reason: str) -> Refusal:
    try:
        home.record.refused(task, code, reason)
    except FedTLError as error:
        home.log(f"{code}: {reason}; and the record cannot be written: {error}")
    return Refusal(home.settings.name, task.round if task else 0, code)


def _round(home: Home, plan: Path, task: Task) -> Update:
    its = agreement.load(plan)
    if not STUDY.fullmatch(task.study):
        raise Denied(Code.PLAN, f"a study of {len(task.study)} characters that are no name")
    if home.settings.policy.privacy is not None:
        paid.check(home)
    home.record.received(task, its.hash)
    place = SitePlan(home, its)
    place.check()
    approved = Approved.of(place)
    check_task(task, place.terms)
    approved.check(task)
    prepared = place.prepared()
    study = place.study(prepared.data.classes)
    silo = place.silo(study, prepared.data)
    terms = approved.terms(place, prepared.data, silo.guarantee)
    schema, digest = place.schema(study, prepared.data.width), task_hash(task)
    kept = home.memory.load(task.study, schema)
    if again := _known(kept, task, digest):
        update, private = again.update, again.private
    elif approved.answered(task):
        raise Denied(Code.ROUND, f"round {task.round} was answered, and its reply is no longer in state/")
    else:
        approved.begin(task)
        if kept:
            silo.local, silo.labels = kept.local, kept.labels
        update, private = allowed(place, study.trainer.fit(silo, task)), silo.guarantee is not None
        check_update(update, task, place.terms, place.policy, _released(place, private), silo.name)
        state = StoredRound(task.round, digest, silo.local, silo.labels, update, private)
        home.memory.save(task.study, schema, state)
    check_update(update, task, place.terms, place.policy, _released(place, private), home.settings.name)
    if private:
        paid.check_reply(home, task.study, task.round, digest)
    home.record.sent(task, update, terms, home.dataset if private else None, again is not None)
    return update


def _released(place: SitePlan, private: bool) -> frozenset[str] | None:
    """The metrics that leave with noise; None for an update that was made without differential privacy."""
    return (place.released or frozenset()) if private else None


def _known(kept: StoredRound | None, task: Task, digest: str) -> StoredRound | None:
    """The state with the reply that was given before. Raises Denied for an older round, and for another task of the same one."""
    if kept is None or task.round > kept.round:
        return None
    if task.round < kept.round:
        raise Denied(Code.ROUND, f"round {task.round} is over; the last is {kept.round}")
    if digest != kept.task:
        raise Denied(Code.ROUND, f"another task for round {task.round}, which was answered")
    return kept


def allowed(place: SitePlan, update: Update) -> Update:
    """Without the figures that the policy keeps at home."""
    policy = place.policy
    metrics = {name: value for name, value in update.metrics.items() if name in policy.metrics}
    return replace(update, metrics=metrics, weight=update.weight if policy.rows else 1.0)
