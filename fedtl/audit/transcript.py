"""
What a run's papers say, recomputed from the papers alone: the ledger's chain, its arithmetic, its link to each message,
and that nothing left which the method does not share.

Reads the ledger's file itself, by its documented format, so that a mistake in fedtl's own reading does not hide one in
its writing; what its lines come to is ``privacy.papers``'s, and a second library's (``privacy.opinion``).
"""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from fedtl.audit.canaries.log import CanaryPhase
from fedtl.audit.verdict import Check
from fedtl.errors import ConfigError, LedgerDamaged
from fedtl.federation.recorder import RecordedRound
from fedtl.models.roles import Partition
from fedtl.models.state import State
from fedtl.privacy import accounting
from fedtl.privacy import prv as opinion
from fedtl.privacy.ledger_lines import LedgerLine, ReplyStored, RoundCharged, StudyPlanned, parse_lines
from fedtl.privacy.verify import TOLERANCE, StudyCost, find_faults, study_costs, walk_chain
from fedtl.results.privacy import SiloPrivacy

SECOND = "composition by Opacus PRV"


@dataclass(frozen=True)
class RunDocuments:
    """
    One silo's: its ledger, what it claims (result.json's ``privacy.silos.<name>``), the rounds in which it replied, the
    rounds that were kept and what its canaries recorded. ``seed`` and ``rounds`` are the experiment's.
    """

    silo: str
    study: str
    ledger: Path
    claim: SiloPrivacy
    replied: Sequence[int]
    seen: Sequence[RecordedRound]
    run: Sequence[CanaryPhase]
    seed: int
    rounds: int


def transcript(papers: RunDocuments) -> list[Check]:
    """All checks of one private silo's papers, in a fixed order and number. Raises ConfigError without a ledger."""
    lines, fault = chain(papers.ledger, papers.silo)
    entries = [line.entry for line in lines]
    studies = [entry.study for entry in entries if isinstance(entry, StudyPlanned)]
    if papers.study not in studies and len(studies) == 1:  # the run's folder has another name by now
        papers = replace(papers, study=studies[0])
    own = [entry for entry in entries if isinstance(entry, RoundCharged | ReplyStored)]
    charged = [entry for entry in own if isinstance(entry, RoundCharged) and entry.study == papers.study]
    stored = {entry.round for entry in own if isinstance(entry, ReplyStored) and entry.study == papers.study}
    cost = study_costs(lines).get(papers.study)
    theirs = opinion.prv_epsilon(cost.planned, papers.claim.delta) if cost else None
    checks: dict[str, tuple[str, float | None]] = {
        "chain": (fault, None),
        "ledger arithmetic": (next(iter(find_faults(lines)), "") or _claimed(cost, papers.claim), None),
        SECOND: (second(papers.claim.epsilon, theirs), theirs),
        "charged rounds": (_rounds(charged, papers), None),
        "link to messages": (_links(charged, stored, papers), None),
    }
    return [
        Check(name, papers.silo, float(not fault), value, fault) for name, (fault, value) in checks.items()
    ]


def second(claimed: float, theirs: float | None) -> str:
    """What is wrong with an epsilon by a second library's word, "" for nothing."""
    if not opinion.understated(claimed, theirs):
        return ""
    return f"epsilon {claimed:.4g} is claimed, and by Opacus' PRV accountant it is {theirs:.4g}"


def chain(path: Path, name: str) -> tuple[list[LedgerLine], str]:
    """One chain's lines, and what is wrong with it, "" for nothing: each hash follows from the one before."""
    if not path.is_file():
        raise ConfigError(f"{path} is not there: a private silo without a ledger cannot be audited")
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT line, hash FROM lines WHERE chain = ? ORDER BY number"
        entries = list(connection.execute(query, (name,)))
    walked, last, odd = walk_chain(entries)
    try:
        lines = parse_lines(walked)
    except LedgerDamaged as error:
        return [], str(error)
    if odd:
        return lines, f"line {odd} of its ledger was altered, or one before it is gone"
    tip = json.loads(path.with_name(f"{path.name}.tip").read_text()).get(name)
    if tip != [len(entries), last]:
        return lines, f"the ledger ends with line {len(entries)}, and its tip says {tip and tip[0]}"
    return lines, ""


def head(path: Path, name: str) -> str:
    """The last hash of a chain: whoever notes it down sees later whether the ledger was put back to an older one."""
    content = json.loads(path.with_name(f"{path.name}.tip").read_text())
    return str(content[name][1])


def _claimed(cost: StudyCost | None, claim: SiloPrivacy) -> str:
    """The claim is the whole plan, which all its events come to, and noise and rate are the claim's."""
    events = cost.planned if cost else ()
    total = max(accounting.epsilon(events, claim.delta), cost.epsilon if cost else 0.0)
    if abs(claim.epsilon - total) > TOLERANCE * total:
        return f"epsilon {claim.epsilon:.4g} is claimed, and the plan that was charged comes to {total:.4g}"
    trained = {(its.noise_multiplier, its.sample_rate) for its in events} - _beside(claim)
    if trained - {(claim.noise_multiplier, claim.sample_rate)}:
        return f"noise and rate {sorted(trained)} were charged, and {claim.noise_multiplier:.4g}, {claim.sample_rate:.4g} claimed"
    return ""


def _beside(claim: SiloPrivacy) -> set[tuple[float | None, float]]:
    """Noise and rate of what is charged beside training: statistics, and a metric that leaves."""
    return {(claim.statistics_noise, 1.0), (claim.metric_noise, 1.0)}


def _rounds(charged: Sequence[RoundCharged], papers: RunDocuments) -> str:
    """No reply without a charge, and no noisy step that was not charged."""
    beside = _beside(papers.claim)
    counts = {
        entry.round: sum(steps for noise, rate, steps in entry.events if (noise, rate) not in beside)
        for entry in charged
    }
    if free := sorted(set(papers.replied) - set(counts)):
        return f"round {free[0]} was answered and never charged"
    trained: dict[int, int] = {}
    for one in papers.run:
        trained[one.round] = trained.get(one.round, 0) + len(one.sums)
    for number, count in trained.items():
        if count > (paid := counts.get(number, 0)):
            return f"round {number} took {count} noisy steps, and {paid} were charged"
    return ""


def _links(charged: Sequence[RoundCharged], stored: set[int], papers: RunDocuments) -> str:
    """What was sent in a kept round is what was charged for, and the last reply that was kept is the one that came."""
    hashes = {entry.round: entry.task for entry in charged}
    for one in papers.seen:
        if papers.silo in one.deltas and hashes.get(one.round) != _task(papers, one):
            return f"round {one.round} was charged for another task than the one that was sent"
    missing = sorted(set(papers.replied) - stored)
    return f"round {missing[0]} was answered, and its reply is not in the ledger" if missing else ""


def _task(papers: RunDocuments, one: RecordedRound) -> str:
    """As the ledger's ``task``: sha256 over study, round, rounds, seed, and each shared tensor by name."""
    digest = sha256(json.dumps([papers.study, one.round, papers.rounds, papers.seed]).encode())
    for name in sorted(one.shared):
        tensor = one.shared[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def manifest(seen: Sequence[RecordedRound], partition: Partition, whole: State) -> list[Check]:
    """
    From the model definition and the method alone: which tensors may leave, and whether any other did, or one of
    another size. ``whole``: the model's state, for shapes and types. One check a silo.
    """
    allowed = {name for name in whole if partition.leaves(name)}
    faults: dict[str, str] = {}
    for one in seen:
        for silo, delta in one.deltas.items():
            odd = [
                name
                for name, tensor in delta.items()
                if name not in allowed
                or (tensor.shape, tensor.dtype) != (whole[name].shape, whole[name].dtype)
            ]
            faults.setdefault(silo, "")
            if odd and not faults[silo]:
                faults[silo] = f"in round {one.round} {odd[0]} left, which the method does not share as such"
    return [Check("manifest", silo, float(not fault), None, fault) for silo, fault in sorted(faults.items())]
