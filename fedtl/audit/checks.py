"""Everything that can refute the claim of a private run: all checks of all silos, and lower bounds on epsilon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fedtl._util.randomness import numpy_generator
from fedtl.audit.audited_run import AuditedRun
from fedtl.audit.canaries import one_run
from fedtl.audit.canaries.conformance import (
    final_scores,
    likelihood_scores,
    noise_conformance,
    shared_noise,
    summary_conformance,
)
from fedtl.audit.canaries.log import CanaryPhase, read_released_statistics, read_released_summaries
from fedtl.audit.claim import ClaimedPlan, claimed_plan
from fedtl.audit.jobs import AuditJob, study_job
from fedtl.audit.power import detectable_epsilon, power
from fedtl.audit.retraining.audited_silo import silo_of_study
from fedtl.audit.retraining.checks import RETRAINING_CHECKS, retraining_checks
from fedtl.audit.transcript import RunDocuments, check_documents, check_manifest
from fedtl.audit.verdict import FAMILY_LEVEL, Check, failed
from fedtl.experiment.study import Study
from fedtl.results.audit import Adversary, BoundsResult, ConformanceResult, PowerResult, SiloAudit

SIGNIFICANCE = 0.05  # the significance of reported bounds; claims are refuted at FAMILY_LEVEL


@dataclass(frozen=True)
class Findings:
    """All checks, those that failed at FAMILY_LEVEL, and the result of each silo."""

    checks: Sequence[Check]
    violations: Sequence[Check]
    silos: Mapping[str, SiloAudit]


@dataclass(frozen=True)
class SiloFindings:
    """The checks of one silo's conformance and of its bounds, and what its canaries show."""

    conformance: Sequence[Check] = ()
    bound_checks: Sequence[Check] = ()
    plan: ClaimedPlan | None = None
    bounds: BoundsResult | None = None
    power: PowerResult | None = None


def retraining_jobs(run: AuditedRun) -> dict[str, AuditJob]:
    """The retraining checks of each private silo, as jobs."""
    return {
        name: study_job(run.study, partial(_retraining_checks, name=name, canaries=run.canaries(name)))
        for name in run.study.guarantees
    }


def _retraining_checks(study: Study, name: str, canaries: list[CanaryPhase]) -> list[Check]:
    return retraining_checks(silo_of_study(study, name), canaries)


def check_run(run: AuditedRun, retrained: Mapping[str, Sequence[Check]]) -> Findings:
    """
    Check a finished run. ``retrained``: what the ``retraining_jobs`` returned, by silo. Raises ConfigError if a document
    of the run is missing.
    """
    names = sorted(run.folder.result().silos)
    silos = {
        name: _silo_findings(run, name, retrained) if name in run.claims else SiloFindings() for name in names
    }
    checks = [check for silo in silos.values() for check in (*silo.conformance, *silo.bound_checks)]
    checks += shared_noise({name: phases for name in run.claims if (phases := run.canaries(name))})
    trainer = run.study.trainer
    width = run.study.data(run.study.training[0]).width
    checks += check_manifest(run.messages, trainer.partition, trainer.initial(width), trainer.encoding)
    violations = failed(checks)
    return Findings(
        checks, violations, {name: _silo_result(name, silo, violations) for name, silo in silos.items()}
    )


def _silo_findings(run: AuditedRun, name: str, retrained: Mapping[str, Sequence[Check]]) -> SiloFindings:
    claim, canaries = run.claims[name], run.canaries(name)
    plan = claimed_plan(claim, run.study.guarantees[name])
    checks = [*_record_checks(run, name, canaries), *retrained[name]]
    if not canaries:
        return SiloFindings(checks, plan=plan)
    seen_by_model = run.adversary is Adversary.MODEL
    scores = final_scores(canaries) if seen_by_model else likelihood_scores(canaries, claim)
    bounds, tests = _bounds(run.study, name, plan, scores, canaries[0].member)
    return SiloFindings(checks, tests, plan, bounds, _power(run.study, plan, canaries))


def _record_checks(run: AuditedRun, name: str, canaries: Sequence[CanaryPhase]) -> list[Check]:
    """The checks of what one silo recorded: its canaries, and its ledger against messages and claim."""
    experiment, claim, folder = run.study.experiment, run.claims[name], run.folder.silo(name)
    documents = RunDocuments(
        silo=name,
        study=run.folder.path.name,
        ledger=folder / "ledger.sqlite",
        claim=claim,
        answered=[line.round for line in run.folder.history() if name in line.silos],
        messages=run.messages,
        canaries=canaries,
        seed=experiment.seed,
        rounds=experiment.rounds,
    )
    statistics = read_released_statistics(folder / "canaries")
    training = run.study.trainer.training
    own = noise_conformance(name, canaries, statistics, claim, training) if canaries else []
    summaries = read_released_summaries(folder / "canaries")
    return own + summary_conformance(name, summaries, claim) + check_documents(documents)


def _silo_result(name: str, silo: SiloFindings, violations: Sequence[Check]) -> SiloAudit:
    values = {check.name: check.value for check in silo.conformance}
    conformance = ConformanceResult(
        noise_std_ratio=values.get("noise"),
        sensitivity_over_clip=values.get("sensitivity"),
        p_values={check.name: check.p for check in silo.conformance},
        passed=not any(check.silo == name for check in violations),
    )
    claimed = silo.plan.result if silo.plan else None
    return SiloAudit(claimed, conformance if silo.conformance else None, silo.bounds, silo.power)


def _bounds(
    study: Study, name: str, plan: ClaimedPlan, scores: one_run.Floats, member: one_run.Coins
) -> tuple[BoundsResult, list[Check]]:
    """The bounds that are reported, and the two checks that may refute the claim."""
    ties = numpy_generator("audit", "ties", study.experiment.seed, name)
    reported = one_run.bounds(scores, member, plan.claim.delta, SIGNIFICANCE, ties)
    guesses = one_run.guess(scores, member, ties)
    return reported, bound_checks("bound", name, guesses, plan, reported)


def bound_checks(
    prefix: str, silo: str, guesses: Sequence[one_run.Guesses], plan: ClaimedPlan, reported: BoundsResult
) -> list[Check]:
    """
    Whether guesses about canaries contradict a claim: its epsilon and delta by the bound of Steinke et al., the
    trade-off curve of its plan by the f-DP bound. P-values are multiplied by the number of guesses (Bonferroni).
    """
    claim = plan.claim
    steinke = min(one_run.steinke_p(each, claim.epsilon, claim.delta) for each in guesses) * len(guesses)
    fdp = min(one_run.fdp_p(each, plan.curve.min_fpr) for each in guesses) * len(guesses)
    reason = f"more canaries were guessed correctly than epsilon {claim.epsilon:.3g} allows"
    return [
        Check(
            *(f"{prefix} steinke", silo, min(1.0, steinke), reported.steinke),
            f"{reason}; epsilon is at least {reported.steinke:.3g} (95 % confidence)",
        ),
        Check(
            *(f"{prefix} fdp", silo, min(1.0, fdp), reported.fdp),
            f"{reason}, by the trade-off curve of the plan; if the mechanism is Gaussian, epsilon is at least "
            f"{reported.fdp:.3g} (95 % confidence)",
        ),
    ]


def _power(study: Study, plan: ClaimedPlan, canaries: Sequence[CanaryPhase]) -> PowerResult:
    claim, level = plan.claim, FAMILY_LEVEL / _checks_in_audit(study)
    epsilon = detectable_epsilon(
        len(canaries[0].member), claim.epsilon, claim.delta, plan.curve.min_fpr, level
    )
    return power(canaries, claim.noise_multiplier, epsilon, level)


def _checks_in_audit(study: Study) -> int:
    """The approximate number of checks of a whole audit, which is precise enough for a statement of power."""
    silos = len(study.training)
    return silos * (21 + len(RETRAINING_CHECKS)) + silos * (silos - 1) // 2
