"""
Whether the documents of a run agree: the ledger's hash chain and arithmetic, its link to each recorded message, the
claim, and that nothing left the silo that the method does not share.

The ledger's file is read here again, from its documented format, so that a defect in how fedtl reads it does not hide a
defect in how fedtl writes it. ``privacy.verify`` recomputes the costs of its lines, and ``privacy.prv`` the composition.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from fedtl.audit.canaries.log import CanaryPhase
from fedtl.audit.verdict import Check
from fedtl.errors import ConfigError, LedgerDamaged
from fedtl.federation.recorder import RecordedRound
from fedtl.methods.wire import Encoding
from fedtl.models.roles import Partition
from fedtl.models.state import State
from fedtl.privacy import accounting, prv
from fedtl.privacy.ledger_lines import LedgerLine, ReplyStored, RoundCharged, StudyPlanned, parse_lines
from fedtl.privacy.verify import TOLERANCE, StudyCost, find_faults, study_costs, walk_chain
from fedtl.results.privacy import SiloPrivacy

SECOND_COMPOSITION = "composition by Opacus PRV"


@dataclass(frozen=True)
class RunDocuments:
    """
    The documents of one silo: its ledger, its claim, the rounds that it ``answered``, the recorded messages, and what its
    canaries recorded. ``seed`` and ``rounds`` are the experiment's.
    """

    silo: str
    study: str
    ledger: Path
    claim: SiloPrivacy
    answered: Sequence[int]
    messages: Sequence[RecordedRound]
    canaries: Sequence[CanaryPhase]
    seed: int
    rounds: int


def check_documents(documents: RunDocuments) -> list[Check]:
    """
    All checks of one private silo's documents, always the same ones in the same order. Raises ConfigError if the ledger
    is missing.
    """
    claim = documents.claim
    lines, fault = read_chain(documents.ledger, documents.silo)
    entries = [line.entry for line in lines]
    studies = [entry.study for entry in entries if isinstance(entry, StudyPlanned)]
    if documents.study not in studies and len(studies) == 1:  # the run folder was renamed
        documents = replace(documents, study=studies[0])
    own = [entry for entry in entries if isinstance(entry, RoundCharged | ReplyStored)]
    own = [entry for entry in own if entry.study == documents.study]
    charged = [entry for entry in own if isinstance(entry, RoundCharged)]
    stored = {entry.round for entry in own if isinstance(entry, ReplyStored)}
    cost = study_costs(lines).get(documents.study)
    second = prv.prv_epsilon(cost.planned, claim.delta) if cost else None
    faults: dict[str, tuple[str, float | None]] = {
        "chain": (fault, None),
        "ledger arithmetic": (next(iter(find_faults(lines)), "") or _claim_fault(cost, claim), None),
        SECOND_COMPOSITION: (composition_fault(claim.epsilon, second), second),
        "charged rounds": (_rounds_fault(charged, documents), None),
        "link to messages": (_messages_fault(charged, stored, documents), None),
    }
    return [
        Check(name, documents.silo, float(not fault), value, fault) for name, (fault, value) in faults.items()
    ]


def composition_fault(claimed: float, second: float | None) -> str:
    """What is wrong with an epsilon according to Opacus' accountant; "" if nothing is."""
    if not prv.understated(claimed, second):
        return ""
    return f"epsilon {claimed:.4g} is claimed, but Opacus' PRV accountant computes {second:.4g}"


def read_chain(path: Path, name: str) -> tuple[list[LedgerLine], str]:
    """The lines of one hash chain, and what is wrong with it ("" if nothing is). Raises ConfigError if it is missing."""
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: a private silo cannot be audited without its ledger; restore the file"
        )
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT line, hash FROM lines WHERE chain = ? ORDER BY number"
        entries = list(connection.execute(query, (name,)))
    walked, last, broken = walk_chain(entries)
    try:
        lines = parse_lines(walked)
    except LedgerDamaged as error:
        return [], str(error)
    if broken:
        return lines, f"line {broken} of the ledger was altered, or a line before it was removed"
    tip = _tips(path).get(name)
    if tip != [len(entries), last]:
        return lines, f"the ledger ends with line {len(entries)}, but its .tip file says {tip and tip[0]}"
    return lines, ""


def last_hash(path: Path, name: str) -> str:
    """
    The last hash of a chain. If it is recorded elsewhere, it shows later whether the ledger was replaced by an older
    copy.
    """
    return str(_tips(path)[name][1])


def _tips(path: Path) -> dict[str, list[Any]]:
    return dict(json.loads(path.with_name(f"{path.name}.tip").read_text()))


def _claim_fault(cost: StudyCost | None, claim: SiloPrivacy) -> str:
    """The claimed epsilon must be that of the whole plan, and noise and sample rate must be the claimed ones."""
    events = cost.planned if cost else ()
    total = max(accounting.epsilon(events, claim.delta), cost.epsilon if cost else 0.0)
    if abs(claim.epsilon - total) > TOLERANCE * total:
        return f"epsilon {claim.epsilon:.4g} is claimed, but the plan that was charged costs {total:.4g}"
    trained = {(event.noise_multiplier, event.sample_rate) for event in events} - _releases(claim)
    if trained - {(claim.noise_multiplier, claim.sample_rate)}:
        return (
            f"noise multiplier and sample rate {sorted(trained)} were charged, but {claim.noise_multiplier:.4g}, "
            f"{claim.sample_rate:.4g} are claimed"
        )
    return ""


def _releases(claim: SiloPrivacy) -> set[tuple[float | None, float]]:
    """Noise multiplier and sample rate of what is charged besides training: statistics, a metric and summaries."""
    return {(noise, 1.0) for noise in (claim.statistics_noise, claim.metric_noise, claim.summary_noise)}


def _rounds_fault(charged: Sequence[RoundCharged], documents: RunDocuments) -> str:
    """No answer without a charge, and no noisy step that was not charged."""
    releases = _releases(documents.claim)
    paid = {
        entry.round: sum(steps for noise, rate, steps in entry.events if (noise, rate) not in releases)
        for entry in charged
    }
    if uncharged := sorted(set(documents.answered) - set(paid)):
        return f"round {uncharged[0]} was answered, but never charged"
    trained = Counter[int]()
    for phase in documents.canaries:
        trained[phase.round] += len(phase.sums)
    for number, count in trained.items():
        if count > paid.get(number, 0):
            return f"round {number} took {count} noisy steps, but {paid.get(number, 0)} were charged"
    return ""


def _messages_fault(charged: Sequence[RoundCharged], stored: set[int], documents: RunDocuments) -> str:
    """Each recorded task must be the one that was charged, and each answer must be in the ledger."""
    hashes = {entry.round: entry.task for entry in charged}
    for message in documents.messages:
        if documents.silo in message.deltas and hashes.get(message.round) != _task_hash(documents, message):
            return f"round {message.round} was charged for another task than the one that was sent"
    missing = sorted(set(documents.answered) - stored)
    return f"round {missing[0]} was answered, but the answer is not in the ledger" if missing else ""


def _task_hash(documents: RunDocuments, message: RecordedRound) -> str:
    """
    The hash of a recorded task, as in the ledger's ``task``: sha256 over study, round, rounds, seed, and each shared
    tensor by name.
    """
    header = [documents.study, message.round, documents.rounds, documents.seed]
    digest = sha256(json.dumps(header).encode())
    for name in sorted(message.shared):
        tensor = message.shared[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_manifest(
    messages: Sequence[RecordedRound], partition: Partition, whole: State, encoding: Encoding
) -> list[Check]:
    """
    One check for each silo, from the model and the method alone: only tensors left that the method shares, with the shapes and
    types that they have in ``whole``, the model's state, or that ``encoding`` gives them.
    """
    layout = encoding.layout({name: tensor for name, tensor in whole.items() if partition.leaves(name)})
    faults: dict[str, str] = {}
    for message in messages:
        for silo, delta in message.deltas.items():
            unexpected = [
                name
                for name, tensor in delta.items()
                if layout.get(name) != (tuple(tensor.shape), tensor.dtype)
            ]
            faults.setdefault(silo, "")
            if unexpected and not faults[silo]:
                faults[silo] = (
                    f"in round {message.round} tensor {unexpected[0]} left the silo, which the method does not share "
                    "with this shape and type"
                )
    return [Check("manifest", silo, float(not fault), None, fault) for silo, fault in sorted(faults.items())]
