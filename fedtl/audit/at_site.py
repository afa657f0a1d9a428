"""
Audits a plan at an institution before it is approved: the plan that was rehearsed, on the site's own rows, offline.

Noise is drawn and nothing is released: the ledger is a scratch one, and only the folder ``rehearsed/`` gets a new file.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from fedtl._util.files import write_json
from fedtl.audit.canaries.conformance import noise_conformance, summary_conformance
from fedtl.audit.canaries.log import (
    CanaryPhase,
    ReleasedStatistics,
    read_canary_phases,
    read_released_statistics,
    read_released_summaries,
)
from fedtl.audit.power import POWER, detectable_noise_ratio
from fedtl.audit.retraining.audited_silo import AuditedSilo, scratch_guarantee, unlimited
from fedtl.audit.retraining.checks import RETRAINING_CHECKS, retraining_checks
from fedtl.audit.verdict import FAMILY_LEVEL, Check, check_result, describe_violation, failed, status
from fedtl.data.dataset import SiloDataset
from fedtl.data.source import Raw
from fedtl.deployment.coordinator.bundle import read_agreement
from fedtl.deployment.plan import Agreement
from fedtl.deployment.site.approvals import HASH, code_hash
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.site_plan import SitePlan, build_study, check_policy
from fedtl.deployment.site.site_rows import load_rows, prepare_rows
from fedtl.deployment.site.site_silo import guarantee_on_ledger
from fedtl.errors import ConfigError
from fedtl.experiment.config.known_tasks import check_every_task
from fedtl.experiment.privacy_report import silo_privacy
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.report.wording import format_delta, not_covered
from fedtl.results.audit import CheckResult, Status
from fedtl.results.privacy import SiloPrivacy
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.training import threads

CANARIES = 400
MIN_STEPS = 16  # the least number of noisy steps with canaries; of a plan that has fewer steps, all of them

Progress = Callable[[int, int], None]  # the number of checks that are done, and of all checks


@dataclass(frozen=True)
class RehearsedPlan:
    """A plan to audit, the hash of its bundle, and its name."""

    agreement: Agreement
    bundle: str
    name: str


@dataclass(frozen=True)
class SiteAudit:
    """
    The result, as ``rehearsed/<bundle>.audit.json`` holds it. ``text``: a summary for the steward, one line each.
    ``claimed``: the terms of the privacy guarantee; ``plan`` and ``code`` are hashes.
    """

    text: Sequence[str]
    site: str
    study: str
    bundle: str
    plan: str
    code: str
    claimed: SiloPrivacy
    refuted: bool
    violations: Sequence[str]
    checks: Sequence[CheckResult]
    seconds: float


def audit_site_plan(home: Home, bundle: str, progress: Progress) -> tuple[SiteAudit, Path]:
    """
    Audit a rehearsed plan; return the result and its file, which the steward's page shows. ``bundle``: a file, the hash of
    a rehearsed bundle, or "" for the one that was rehearsed last. Raises ConfigError, DataError and Denied before any work.
    """
    clock = time.perf_counter()
    rehearsed = _rehearsed_plan(home, bundle)
    plan = SitePlan(home, rehearsed.agreement)
    check_every_task(rehearsed.agreement.experiment, "fedtl silo audit")
    check_policy(plan)
    if plan.privacy is None:
        raise ConfigError(
            f"{home.path / 'silo.toml'}: without [policy.privacy] there is no claim to audit; add [policy.privacy] with "
            "epsilon and lifetime_epsilon, or approve the plan without an audit"
        )
    threads.set_threads(home.settings.threads)
    with temporary_folder(memory_folder()) as folder:
        audited = _audited_silo(plan, folder)
        checks = _checks(audited, progress)
    violations = failed(checks)
    result = SiteAudit(
        text=_summary(audited, checks, violations),
        site=audited.name,
        study=rehearsed.name,
        bundle=rehearsed.bundle,
        plan=rehearsed.agreement.hash,
        code=code_hash(),
        claimed=silo_privacy(audited.guarantee),
        refuted=bool(violations),
        violations=[describe_violation(check) for check in violations],
        checks=[check_result(check, violations) for check in checks],
        seconds=round(time.perf_counter() - clock, 1),
    )
    path = home.path / "rehearsed" / f"{rehearsed.bundle}.audit.json"
    write_json(path, result, private=True)
    return result, path


def _rehearsed_plan(home: Home, bundle: str) -> RehearsedPlan:
    folder = home.path / "rehearsed"
    if bundle:
        path = folder / f"{bundle}.fab" if HASH.fullmatch(bundle) else Path(bundle)
    else:
        kept = sorted(folder.glob("*.fab"), key=lambda file: file.stat().st_mtime)
        if not kept:
            raise ConfigError(
                f"no bundle was rehearsed in {home.path}; run: fedtl silo rehearse {home.path} FILE.fab"
            )
        path = kept[-1]
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; name the bundle's .fab file, or rehearse it first")
    content = path.read_bytes()
    name, agreement = read_agreement(content, str(path))
    return RehearsedPlan(agreement, sha256(content).hexdigest(), name)


def _audited_silo(plan: SitePlan, folder: Path) -> AuditedSilo:
    """The silo that is audited: the site's own rows under the plan, with canaries, and a ledger in ``folder``."""
    site_rows = load_rows(plan)
    data = site_rows.data
    study = build_study(plan, data.classes)

    def guarantee_for(rows: SiloDataset) -> PrivacyGuarantee:
        return guarantee_on_ledger(plan, study, rows, folder / "ledger.sqlite")

    def prepare(raw: Raw) -> tuple[SiloDataset, PrivacyGuarantee]:
        rows = prepare_rows(plan, raw).data
        return rows, guarantee_for(rows)

    canaries = Canaries(CANARIES, int.from_bytes(os.urandom(6), "big"), folder / "canaries")
    experiment = plan.agreement.experiment
    return AuditedSilo(
        trainer=study.trainer,
        name=plan.name,
        data=data,
        guarantee=replace(guarantee_for(data), canaries=canaries),
        secret=plan.home.secret,
        rounds=experiment.rounds,
        seed=experiment.seed,
        raw=site_rows.raw,
        prepare=prepare,
    )


def _checks(audited: AuditedSilo, progress: Progress) -> list[Check]:
    total, done = 1 + len(RETRAINING_CHECKS), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    progress(0, total)
    run, statistics, summaries = _train_with_canaries(audited)
    step()
    claim = silo_privacy(audited.guarantee)
    training = audited.trainer.training
    conformance = noise_conformance(audited.name, run, statistics, claim, training) if run else []
    conformance += summary_conformance(audited.name, summaries, claim)
    return conformance + retraining_checks(audited, run, step)


def _rounds(audited: AuditedSilo) -> int:
    """The number of rounds that are trained with canaries."""
    return min(audited.rounds, -(-MIN_STEPS // max(1, audited.guarantee.training.steps_a_round)))


def _train_with_canaries(
    audited: AuditedSilo,
) -> tuple[list[CanaryPhase], ReleasedStatistics | None, ReleasedStatistics | None]:
    """
    What canaries record in the plan's first rounds, each of which starts from the initial model: of private steps, of
    statistics, and of summaries.
    """
    rounds = _rounds(audited)
    with scratch_guarantee(unlimited(audited.guarantee, rounds)) as guarantee:
        for number in range(1, rounds + 1):
            audited.fit(guarantee, round=number)
        assert guarantee.canaries is not None
        folder = guarantee.canaries.folder
        return (
            read_canary_phases(folder),
            read_released_statistics(folder),
            read_released_summaries(folder),
        )


def _summary(audited: AuditedSilo, checks: Sequence[Check], violations: Sequence[Check]) -> list[str]:
    """The lines of ``text``: what was claimed and measured, what would have been detected, what was not exercised."""
    guarantee, training = audited.guarantee, audited.guarantee.training
    unit = guarantee.protected.unit
    statuses = [status(check, violations) for check in checks]
    values = {check.name: check.value for check in checks}
    of_steps, of_summaries = ("noise", "one record"), ("noise on summaries", "one record in the summaries")
    noise, change = (values.get(name) for name in (of_steps if audited.private_phases() else of_summaries))
    idle = ", ".join(check.name for check in checks if check.p is None) or "none"
    return [
        f"Audit on this institution's own rows: {statuses.count(Status.PASSED)} checks passed, {len(violations)} failed, "
        f"{statuses.count(Status.NOT_EXERCISED)} were not exercised. "
        f"{'REFUTED: do not sign.' if violations else 'No check failed.'}",
        *(f"Failed: {check.name}: {check.reason}" for check in violations),
        f"Claimed: epsilon {guarantee.epsilon:.3g} at delta {format_delta(guarantee.delta)} for each of {guarantee.protected.count} {unit}s, "
        f"noise of {training.noise_multiplier:.3g} clips, sample rate {training.sample_rate:.3g}, {training.rounds} rounds.",
        f"Measured: the noise has {_number(noise)} times the claimed standard deviation; one {unit} changes a sum by "
        f"{_number(change)} clips.",
        f"Noise below {_detectable_noise(audited, len(checks)):.2f} times the claimed noise would have failed the check of the "
        f"canaries with a probability of {POWER:.0%}.",
        f"Not exercised: {idle}.",
        "The audit released nothing, so it costs no privacy budget. Its result was computed from private rows, and the privacy "
        "guarantee does not cover it: do not publish it.",
        not_covered(unit),
    ]


def _number(value: float | None) -> str:
    return "(not measured)" if value is None else f"{value:.3f}"


def _detectable_noise(audited: AuditedSilo, checks: int) -> float:
    assert audited.guarantee.canaries is not None
    absent, rounds = int((~audited.guarantee.canaries.members()).sum()), _rounds(audited)
    summaries = sum(rounds if one.every_round else 1 for one in audited.guarantee.releases.summaries)
    values = max(1, absent * (rounds * audited.guarantee.training.steps_a_round or summaries))
    return detectable_noise_ratio(values, FAMILY_LEVEL / checks)
