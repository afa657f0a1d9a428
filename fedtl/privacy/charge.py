"""
A private round, once: charge, make it durable, compute, keep the reply, and only then let it go.

The same round again gives the same bytes and costs nothing; a round that was charged and whose reply is not kept is
lost, for computed again it would be a second release.
"""

import json
import logging
from collections.abc import Callable
from hashlib import sha256

import torch
from safetensors.torch import load, save

from fedtl.errors import FedTLError, SiloFailed
from fedtl.messages import Task, Update
from fedtl.models.state import State
from fedtl.privacy.budget import check_affordable
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.ledger import Ledger

log = logging.getLogger(__name__)
HEADER = "header"


def once(
    guarantee: PrivacyGuarantee, silo: str, task: Task, compute: Callable[[bool], tuple[Update, State]]
) -> tuple[Update, State]:
    """
    The update and the silo's new local state. ``compute(first)`` makes both; ``first``: no round of this study was
    ever charged, so the statistics come with it.

    Raises SiloFailed with words that are the same whatever the rows are, and Refused.
    """
    ledger = _ledger(guarantee)
    first = not ledger.knows(task.study)
    events = guarantee.events(first)
    charge = ledger.charge(task.study, task.round, task_hash(task), events, guarantee.plan())
    if charge.reply is None:
        try:
            update, local = compute(first)
        except Exception as error:
            # What failed may depend on a row; the message would take it along.
            log.error(
                "%s: a charged round failed: %s", silo, error, exc_info=not isinstance(error, FedTLError)
            )
            raise SiloFailed(
                f"{silo}: no update for round {task.round}; the silo's own log says why"
            ) from None
        reply = _packed(update, local)
        ledger.store(task.study, task.round, reply)
    return _unpacked(silo, charge.reply or reply)


def foresee(guarantee: PrivacyGuarantee, study: str | None = None) -> None:
    """
    Raises BudgetExhausted where the whole study could not be charged, and Refused for rows that have a budget by another
    name. ``study`` None: its name is not known yet. Makes no ledger where there is none.
    """
    account, plan = guarantee.account, guarantee.plan()
    if account.path.exists():
        _ledger(guarantee).foresee(plan, study)
    else:
        check_affordable(account.dataset, study, plan, account.budget)


def _ledger(guarantee: PrivacyGuarantee) -> Ledger:
    account = guarantee.account
    return Ledger(account.path, account.dataset, account.rows, account.budget)


def task_hash(task: Task) -> str:
    """Of all that a task says: two tasks with the same one are the same task."""
    digest = sha256(json.dumps([task.study, task.round, task.rounds, task.seed]).encode())
    for name in sorted(task.shared):
        tensor = task.shared[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _packed(update: Update, local: State) -> bytes:
    """Only what may leave, and what stays; the metrics are those that were released with noise."""
    header = {
        "metrics": dict(update.metrics),
        "round": update.round,
        "weight": update.weight,
    }
    tensors = {f"delta.{name}": tensor for name, tensor in update.delta.items()}
    tensors |= {f"local.{name}": tensor for name, tensor in local.items()}
    return save(tensors, {HEADER: json.dumps(header)})


def _unpacked(silo: str, reply: bytes) -> tuple[Update, State]:
    length = int.from_bytes(reply[:8], "little")
    header = json.loads(json.loads(reply[8 : 8 + length])["__metadata__"][HEADER])
    tensors = load(reply)
    delta = {name.removeprefix("delta."): t for name, t in tensors.items() if name.startswith("delta.")}
    local = {name.removeprefix("local."): t for name, t in tensors.items() if name.startswith("local.")}
    return Update(silo, header["round"], delta, header["weight"], header["metrics"]), local
