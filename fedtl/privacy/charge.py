"""
A private round, at most once: charge, make that durable, compute, store the reply, and only then release it.

The same round again returns the same bytes and costs nothing. A round that was charged and whose reply was not stored is
lost, because computing it again would be a second release.
"""

import json
import logging
from collections.abc import Callable
from hashlib import sha256

from safetensors.torch import load, save

from fedtl._util.tensors import to_raw
from fedtl.errors import FedTLError, SiloFailed
from fedtl.messages import Task, Update, pack, unpack
from fedtl.models.state import State
from fedtl.privacy.guarantee import PrivacyGuarantee, Releases
from fedtl.privacy.ledger import Ledger
from fedtl.privacy.ledger_reading import read_state

log = logging.getLogger(__name__)
HEADER = "header"


def charged_round(
    guarantee: PrivacyGuarantee, silo: str, task: Task, compute: Callable[[Releases], tuple[Update, State]]
) -> tuple[Update, State]:
    """
    Return the update and the silo's new local state, which ``compute(due)`` computes. ``due``: what is released besides trained
    tensors; in the silo's first charged round of the study it includes what leaves only once.

    Raises SiloFailed, with a message that does not depend on the rows, and Refused.
    """
    account = guarantee.account
    ledger = Ledger(account)
    state = read_state(account.path, account.dataset)
    first = state is None or task.study not in state.charged_studies
    charge = ledger.charge(task.study, task.round, task_hash(task), guarantee.events(first), guarantee.plan())
    if charge.reply is None:
        try:
            update, local = compute(guarantee.releases.in_round(first))
        except Exception as error:
            # The reason may depend on a row, and the server sees this message, so the message does not state it.
            log.error(
                "%s: a charged round failed: %s", silo, error, exc_info=not isinstance(error, FedTLError)
            )
            raise SiloFailed(
                f"{silo}: no update for round {task.round} (the reason is in the silo's own log)"
            ) from None
        reply = _packed(update, local)
        ledger.store(task.study, task.round, reply)
    return _unpacked(silo, charge.reply or reply)


def task_hash(task: Task) -> str:
    """Return the hash of everything in a task: two tasks with the same hash are the same task."""
    digest = sha256(json.dumps([task.study, task.round, task.rounds, task.seed]).encode())
    for name in sorted(task.shared):
        tensor = task.shared[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(to_raw(tensor))
    return digest.hexdigest()


def _packed(update: Update, local: State) -> bytes:
    """Serialise what may leave and what stays; the metrics are those that were released with noise."""
    values, delta = pack(update)
    header = {key: values[key] for key in sorted(values) if key != "silo"}
    tensors = {f"delta.{name}": tensor for name, tensor in delta.items()}
    tensors |= {f"local.{name}": tensor for name, tensor in local.items()}
    return save(tensors, {HEADER: json.dumps(header)})


def _unpacked(silo: str, reply: bytes) -> tuple[Update, State]:
    length = int.from_bytes(reply[:8], "little")
    header = json.loads(json.loads(reply[8 : 8 + length])["__metadata__"][HEADER])
    tensors = load(reply)
    delta = {name.removeprefix("delta."): t for name, t in tensors.items() if name.startswith("delta.")}
    local = {name.removeprefix("local."): t for name, t in tensors.items() if name.startswith("local.")}
    return unpack(Update, {**header, "silo": silo}, delta), local
