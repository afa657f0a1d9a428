"""
An audit at an institution before anything is signed: the plan that was rehearsed, on the site's own rows, offline.

Noise is drawn and nothing is released: the ledger is a scratch one, and of the home only ``rehearsed/`` gets a new file.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from scipy.stats import chi2

from fedtl._util.files import write_bytes
from fedtl._util.records import to_plain
from fedtl.audit.canaries.conformance import Claim, conformance
from fedtl.audit.canaries.log import CanaryPhase, ReleasedStatistics, released, stretches
from fedtl.audit.retraining.audited_silo import Stage, scratched, unlimited
from fedtl.audit.retraining.run import REHEARSALS, rehearse
from fedtl.audit.verdict import FAILED, FAMILY, NOT_EXERCISED, PASSED, Check, failed, status, violation
from fedtl.data.dataset import SiloDataset
from fedtl.data.source import Raw
from fedtl.deployment.coordinator.bundle import agreement_in
from fedtl.deployment.plan import Agreement
from fedtl.deployment.site.approvals import HASH, code_hash
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.errors import ConfigError
from fedtl.experiment.privacy_plan import terms
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.report.wording import not_covered
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.training import threads as machine

CANARIES = 400
STEPS = 16  # noisy steps that the canaries take part in, at least, where the plan has so many
SURE = 0.95

Progress = Callable[[int, int], None]  # what is done, and how much there is


@dataclass(frozen=True)
class Asked:
    """A plan to audit, the hash of its bundle, and the name of its file."""

    agreement: Agreement
    bundle: str
    name: str


def audit(home: Home, what: str, progress: Progress) -> tuple[dict[str, Any], Path]:
    """
    The audit's facts and the file that holds them, which the page for the steward shows. ``what``: a bundle, the hash of a
    rehearsed one, or "" for the one that was rehearsed last. Raises ConfigError, DataError and Denied before any work.
    """
    clock = time.perf_counter()
    asked = _asked(home, what)
    place = SitePlan(home, asked.agreement)
    place.check()
    if place.privacy is None:
        raise ConfigError(
            f"{home.path / 'silo.toml'}: without [policy.privacy] nothing is claimed that an audit could test; "
            "add [policy.privacy] with epsilon and lifetime_epsilon, or sign without an audit"
        )
    machine.set_threads(home.settings.threads)
    with temporary_folder(memory_folder()) as folder:
        stage = _stage(place, folder)
        checks = _checks(stage, progress)
    facts = _facts(stage, asked, checks)
    facts["seconds"] = round(time.perf_counter() - clock, 1)
    path = home.path / "rehearsed" / f"{asked.bundle}.audit.json"
    write_bytes(path, json.dumps(facts).encode(), private=True)
    return facts, path


def _asked(home: Home, what: str) -> Asked:
    folder = home.path / "rehearsed"
    if what and not HASH.fullmatch(what):
        path = Path(what)
    elif what:
        path = folder / f"{what}.fab"
    else:
        kept = sorted(folder.glob("*.fab"), key=lambda file: file.stat().st_mtime)
        if not kept:
            raise ConfigError(
                f"no bundle was rehearsed in {home.path}: fedtl silo rehearse {home.path} FILE.fab"
            )
        path = kept[-1]
    if not path.is_file():
        raise ConfigError(f"{path} is not there; give the bundle's .fab file, or rehearse it first")
    content = path.read_bytes()
    name, its = agreement_in(content, str(path))
    return Asked(its, sha256(content).hexdigest(), name)


def _stage(place: SitePlan, folder: Path) -> Stage:
    """The site's own rows under the plan, with canaries, and a ledger in ``folder``."""
    data = place.prepared().data
    study = place.study(data.classes)

    def promised(rows: SiloDataset) -> PrivacyGuarantee:
        return place.guarantee(study, rows, folder / "ledger.sqlite")

    def ready(raw: Raw) -> tuple[SiloDataset, PrivacyGuarantee]:
        rows = place.prepared(raw).data
        return rows, promised(rows)

    coins = int.from_bytes(os.urandom(6), "big")
    guarantee = replace(promised(data), canaries=Canaries(CANARIES, coins, folder / "canaries"))
    common = place.agreement.experiment
    return Stage(
        *(study.trainer, place.name, data, guarantee, place.home.secret),
        *(common.rounds, common.seed, place.raw, ready),
    )


def _checks(stage: Stage, progress: Progress) -> list[Check]:
    total, done = 1 + len(REHEARSALS), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    progress(0, total)
    run, statistics = _canaries(stage)
    step()
    claim = Claim.of(terms(stage.guarantee))
    found = conformance(stage.name, run, statistics, claim, stage.trainer.training, stage.rounds)
    return found + rehearse(stage, run, step)


def _canaries(stage: Stage) -> tuple[list[CanaryPhase], ReleasedStatistics | None]:
    """What canaries record in the plan's first rounds, each of which begins with the first model."""
    its = stage.guarantee
    rounds = min(stage.rounds, -(-STEPS // max(1, its.training.steps_a_round)))
    with scratched(unlimited(its, rounds)) as guarantee:
        for number in range(1, rounds + 1):
            stage.fit(guarantee, number=number)
        assert guarantee.canaries is not None
        folder = guarantee.canaries.folder
        return stretches(folder), released(folder)


def _facts(stage: Stage, asked: Asked, checks: Sequence[Check]) -> dict[str, Any]:
    violations, claimed = failed(checks), to_plain(terms(stage.guarantee))
    return {
        "text": _text(stage, checks, violations),
        **{"site": stage.name, "study": asked.name, "bundle": asked.bundle, "plan": asked.agreement.hash},
        **{"code": code_hash(), "claimed": claimed, "refuted": bool(violations)},
        "violations": [violation(check) for check in violations],
        "checks": [
            {"name": check.name, "status": status(check, violations), "p": check.p, "value": check.value}
            for check in checks
        ],
    }


def _text(stage: Stage, checks: Sequence[Check], violations: Sequence[Check]) -> list[str]:
    """The summary, a line each: claimed, measured, what could have been seen, what was not tried."""
    its = stage.guarantee
    training, unit = its.training, its.protected.unit
    count = {
        kind: sum(status(one, violations) == kind for one in checks)
        for kind in (PASSED, FAILED, NOT_EXERCISED)
    }
    values = {check.name: check.value for check in checks}
    idle = ", ".join(check.name for check in checks if check.p is None) or "none"
    verdict = "REFUTED: do not sign." if violations else "No check failed."
    lines = [
        f"Audit on this institution's own rows: {count[PASSED]} checks passed, {count[FAILED]} failed, "
        f"{count[NOT_EXERCISED]} were not exercised. {verdict}",
        *(f"Failed: {check.name}: {check.reason}" for check in violations),
        f"Claimed: epsilon {its.epsilon:.3g} at delta {its.delta:.0e} for each of {its.protected.count} {unit}s, noise of "
        f"{training.noise_multiplier:.3g} clips, sampling rate {training.sample_rate:.3g}, {training.rounds} rounds.",
        f"Measured: noise {_told(values['noise'])} times the claimed, one {unit} moves a sum by "
        f"{_told(values['one record'])} clips.",
        f"Noise on the canaries that is less than {_least(stage, len(checks)):.2f} times the claimed would have failed with "
        f"a chance of {SURE:.0%}.",
        f"Not exercised: {idle}.",
        "The audit drew noise and released nothing; it costs no privacy budget. It was made from private rows, it is outside "
        "of the guarantee, and it is not a release.",
    ]
    return [*lines, not_covered(unit)]


def _told(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _least(stage: Stage, checks: int) -> float:
    """The share of the claimed noise below which the check of canaries' noise fails with a chance of SURE."""
    assert stage.guarantee.canaries is not None
    absent = int((~stage.guarantee.canaries.members()).sum())
    rounds = min(stage.rounds, -(-STEPS // max(1, stage.guarantee.training.steps_a_round)))
    count = max(1, absent * rounds * stage.guarantee.training.steps_a_round)
    return float((chi2.ppf(FAMILY / checks / 2, count) / chi2.ppf(SURE, count)) ** 0.5)
