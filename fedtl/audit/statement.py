"""
An audit in sentences, always in one order: what was claimed, what was measured, how much this audit could have detected,
and what it cannot detect.

Reads the result and decides nothing. What follows from the claim alone is reported under the claim.
"""

from collections.abc import Mapping, Sequence

from fedtl.report.wording import format_delta, format_epsilon
from fedtl.results.audit import AuditResult, ClaimResult, ConformanceResult, DetectableEpsilon, Part, Status

ATTACK_NAMES = {"rmia": "RMIA", "lira": "LiRA"}


def statement(audit: AuditResult) -> tuple[Part, ...]:
    """The four parts of the statement, in order."""
    return (
        Part("What was claimed", tuple(_claimed(audit.claims, audit.private))),
        Part("What was measured", tuple(_measured(audit))),
        Part("How much this audit could have detected", tuple(_power(audit))),
        Part("What this audit cannot detect", tuple(_limits(audit))),
    )


def verdict(audit: AuditResult) -> str:
    """The claim and the outcome in one line."""
    claims = audit.claims.values()
    units = " or ".join(sorted({claim.unit for claim in claims}))
    claimed = (
        f"epsilon {format_epsilon(max(claim.epsilon for claim in claims))} or less for each {units}"
        if claims
        else "no privacy"
    )
    checks, failures = _exercised(audit), len(audit.violations)
    if failures:
        measured = f"{failures} of {checks} checks refute{'s' * (failures == 1)} it"
    elif claims:
        measured = f"no violation found in {checks} checks, which does not prove the claim"
    else:
        measured = f"no violation in {checks} checks" if checks else "only attacks"
    return f"claimed: {claimed}; measured: {measured}"


def _exercised(audit: AuditResult) -> int:
    return sum(check.status is not Status.NOT_EXERCISED for check in audit.checks)


def _claimed(claims: Mapping[str, ClaimResult], private: bool) -> list[str]:
    if not claims:
        return ["Nothing: the run was not private, so there is no claim to refute."]
    name, claim = max(claims.items(), key=lambda item: item[1].epsilon)
    which = (
        f"The weakest of {len(claims)} claims is that of silo {name}" if len(claims) > 1 else f"Silo {name}"
    )
    mu = "no finite GDP mu" if claim.mu is None else f"GDP mu = {claim.mu:.3f}"
    lines = [
        f"Differential privacy of each {claim.unit} ({claim.adjacency}). {which}: n = {claim.units} {claim.unit}s, noise "
        f"multiplier sigma = {claim.noise_multiplier:.3f}, sample rate q = {claim.sample_rate:.3f}, {claim.rounds} rounds with "
        f"{claim.steps} steps in all; epsilon = {format_epsilon(claim.epsilon)} at delta = {format_delta(claim.delta)}, {mu}.",
        f"If this is true, then no attacker, whatever else they know, recognises a training {claim.unit} with a true positive "
        f"rate above {percent(claim.tpr_at_fpr_1_percent)} at a false positive rate of 1 % (guessing: 1.0 %), or above "
        f"{percent(claim.tpr_at_fpr_01_percent)} at 0.1 %. This follows from the trade-off curve of the plan, that is, from the "
        "claim; it was not measured.",
    ]
    if not private:
        lines.insert(0, "Not private: the run's noise can be reproduced (privacy.noise = reproducible).")
    return lines


def _measured(audit: AuditResult) -> list[str]:
    lines = list(audit.violations)
    if audit.checks:
        passed = sum(check.status is Status.PASSED for check in audit.checks)
        lines.append(f"{passed} of {_exercised(audit)} checks passed{_not_exercised(audit)}.")
    lines += _conformance([silo.conformance for silo in audit.silos.values() if silo.conformance])
    if bounds := [silo.bounds for silo in audit.silos.values() if silo.bounds]:
        lines.append(
            f"Lower bounds on epsilon (95 % confidence), largest over the silos: {max(each.steinke for each in bounds):.2f} "
            f"(Steinke et al.), {max(each.fdp for each in bounds):.2f} (f-DP, for a Gaussian mechanism). A bound below the "
            "claim neither confirms nor refutes it."
        )
    for name, attack in audit.membership.items():
        if attack.auc is not None and attack.ci95 is not None:
            lines.append(
                f"Membership attack {ATTACK_NAMES[name]}: AUC {attack.auc:.3f} (95 % confidence interval "
                f"{attack.ci95[0]:.3f} to {attack.ci95[1]:.3f}); guessing has 0.5."
            )
    if audit.inversion.cases:
        best = max(audit.inversion.cases, key=lambda case: case.psnr - case.psnr_of_mean)
        comparison = "better" if best.psnr > best.psnr_of_mean else "not better"
        lines.append(
            f"Reconstruction of inputs: the best case is {comparison} than guessing the mean image (PSNR {best.psnr:.1f} dB, mean "
            f"image {best.psnr_of_mean:.1f} dB)."
        )
    return lines or ["Nothing: the run recorded nothing that an audit could use."]


def _not_exercised(audit: AuditResult) -> str:
    count = len(audit.checks) - _exercised(audit)
    return (
        f"; {count} more were not exercised, because this run has nothing that they measure" if count else ""
    )


def _conformance(results: Sequence[ConformanceResult]) -> list[str]:
    ratios = [each.noise_std_ratio for each in results if each.noise_std_ratio is not None]
    clips = [each.sensitivity_over_clip for each in results if each.sensitivity_over_clip is not None]
    lines = []
    if ratios:
        lines.append(f"The noise had {_range(ratios)} times the claimed standard deviation (expected: 1).")
    if clips:
        lines.append(f"One record changed a step by {_range(clips)} clips (expected: 1, up to noise).")
    return lines


def _power(audit: AuditResult) -> list[str]:
    powers = [silo.power for silo in audit.silos.values() if silo.power]
    if not powers:
        return [
            "The run had no canaries ([audit] canaries), so noise, clipping, sampling and bounds were not measured."
        ]
    lines = [
        f"If the noise's standard deviation differed from the claim by more than {percent(max(each.noise for each in powers))}, "
        "the claim would have been refuted with a probability of 95 % or more."
    ]
    if clips := [each.sensitivity for each in powers if each.sensitivity is not None]:
        lines.append(
            f"The same holds if one record changed a step by {max(clips):.2f} clips more, or less, than one clip."
        )
    canaries = min(silo.bounds.canaries for silo in audit.silos.values() if silo.bounds)
    detectable = [_smallest(each.epsilon) for each in powers]
    if None in detectable:
        lines.append(
            f"The bounds on epsilon could not have refuted the claim: {canaries} canaries are too few."
        )
    else:
        largest = max(value for value in detectable if value is not None)
        lines.append(
            f"The bounds on epsilon, from {canaries} canaries of one run, would have refuted the claim only if the true epsilon "
            f"were {largest:.1f} or more. The checks of noise and clipping detect much smaller faults."
        )
    return lines


def _smallest(epsilon: DetectableEpsilon) -> float | None:
    return min((value for value in (epsilon.steinke, epsilon.fdp) if value is not None), default=None)


def _limits(audit: AuditResult) -> list[str]:
    lines = [
        "Attacks that are better than those that were tried: an attack that fails proves nothing.",
        "Information that leaves a silo in another way than in its messages: files, logs, the time that an answer takes, "
        "whether the silo takes part.",
        "Other runs, and settings that were chosen by looking at private results.",
    ]
    if audit.claims:
        lines.append(
            "A silo that forges its record of canaries and its ledger together: both are read as the run left them."
        )
    if not audit.membership:
        lines.append("Membership inference: the run recorded no messages ([audit] transcript).")
    if not audit.roles:
        lines.append("What it would cost to share more or fewer roles (--quick leaves this out).")
    names = sorted({check.name for check in audit.checks if check.status is Status.NOT_EXERCISED})
    return [*lines, f"Checks that were not exercised: {', '.join(names)}."] if names else lines


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"
