"""
An audit in sentences, in one order wherever it is told: what was claimed, what was measured, how much this audit could have
seen, what it cannot see.

Reads what audit.json holds, and decides nothing. What follows from the claim alone stands under the claim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedtl.audit.verdict import NOT_EXERCISED, PASSED

CLAIMED, MEASURED = "What was claimed", "What was measured"
POWER, BLIND = "How much this audit could have seen", "What this audit cannot see"
ATTACKS = {"rmia": "RMIA", "lira": "LiRA"}


@dataclass(frozen=True)
class Part:
    title: str
    lines: Sequence[str]


def statement(audit: Mapping[str, Any]) -> list[Part]:
    """All four parts, in order."""
    claims = {name: its["claimed"] for name, its in audit["silos"].items() if its["claimed"]}
    return [
        Part(CLAIMED, _claimed(claims, audit["private"])),
        Part(MEASURED, _measured(audit)),
        Part(POWER, _power(audit)),
        Part(BLIND, _blind(audit, bool(claims))),
    ]


def verdict(audit: Mapping[str, Any]) -> str:
    """One line: the claim, and what came of it."""
    claims = {name: its["claimed"] for name, its in audit["silos"].items() if its["claimed"]}
    units = sorted({its["unit"] for its in claims.values()})
    worst = max((its["epsilon"] for its in claims.values()), default=None)
    said = "no privacy" if worst is None else f"epsilon {worst:.3f} or less for each {' or '.join(units)}"
    count = len(audit["violations"])
    checks = sum(its["status"] != NOT_EXERCISED for its in audit["checks"])
    if count:
        return f"claimed: {said}; measured: {count} of {checks} checks refute{'s' * (count == 1)} it"
    if not claims:
        return f"claimed: {said}; measured: {f'no violation in {checks} checks' if checks else 'the attacks alone'}"
    return f"claimed: {said}; measured: no violation found in {checks} checks, which does not prove the claim"


def _claimed(claims: Mapping[str, Mapping[str, Any]], private: bool) -> list[str]:
    if not claims:
        return ["Nothing: the run was not private, so there is no claim to refute."]
    name, its = max(claims.items(), key=lambda item: item[1]["epsilon"])
    weakest = (
        f"the weakest of {len(claims)} claims, that of silo {name}" if len(claims) > 1 else f"silo {name}"
    )
    mu = "no finite GDP mu" if its["mu"] is None else f"GDP mu = {its['mu']:.3f}"
    lines = [
        f"Differential privacy of each {its['unit']} ({its['adjacency']}). Here is {weakest}: n = {its['units']} "
        f"{its['unit']}s, noise multiplier sigma = {its['noise_multiplier']:.3f}, sample rate q = {its['sample_rate']:.3f}, "
        f"{its['rounds']} rounds with {its['steps']} steps in all; epsilon = {its['epsilon']:.3f} at delta = "
        f"{its['delta']:.0e}, {mu}.",
        f"If this is true, no attacker, whatever else they know, recognises a {its['unit']} that was trained on with a chance "
        f"above {percent(its['tpr_at_fpr_0.01'])} while wrongly accusing 1 % of the others (guessing: 1.0 %), or above "
        f"{percent(its['tpr_at_fpr_0.001'])} while wrongly accusing 0.1 %. This follows from the plan's own trade-off curve, that is, from "
        "the claim; it was not measured.",
    ]
    if not private:
        lines.insert(0, "Not private: the run's noise can be drawn again (privacy.noise = reproducible).")
    return lines


def _measured(audit: Mapping[str, Any]) -> list[str]:
    statuses = [its["status"] for its in audit["checks"]]
    idle, passed = statuses.count(NOT_EXERCISED), statuses.count(PASSED)
    lines = list(audit["violations"])
    lines += [f"{passed} of {len(statuses) - idle} checks passed{_idle(idle)}."] if statuses else []
    silos = audit["silos"].values()
    found = [its["conformance"] for its in silos if its["conformance"]]
    if noise := [its["noise_std_ratio"] for its in found if its["noise_std_ratio"] is not None]:
        lines.append(f"Noise had {_span(noise)} times the standard deviation that was claimed (sound: 1).")
    if moved := [its["sensitivity_over_clip"] for its in found if its["sensitivity_over_clip"] is not None]:
        lines.append(f"One record moved a step by {_span(moved)} clips (sound: 1, within the noise).")
    if bounds := [its["bounds"] for its in silos if its["bounds"]]:
        steinke, fdp = (max(its[key] for its in bounds) for key in ("steinke", "fdp"))
        lines.append(
            f"Epsilon is at least {steinke:.2f} (Steinke et al.) or {fdp:.2f} (f-DP, if Gaussian) in the silo that shows most; "
            "each holds with 95 %. A bound below the claim neither confirms nor refutes it."
        )
    for attack, its in audit["membership"].items():
        if its["auc"] is not None:
            lines.append(
                f"Membership attack {ATTACKS[attack]}: AUC {its['auc']:.3f}, 95 % from {its['ci95'][0]:.3f} to "
                f"{its['ci95'][1]:.3f}; guessing is 0.5."
            )
    if cases := audit["inversion"].get("cases"):
        best = max(cases, key=lambda case: case["psnr"] - case["psnr_of_mean"])
        helped = "better" if best["psnr"] > best["psnr_of_mean"] else "no better"
        lines.append(
            f"Reconstruction of inputs: at best {helped} than guessing the mean image (PSNR {best['psnr']:.1f} dB, the mean "
            f"image {best['psnr_of_mean']:.1f} dB)."
        )
    return lines or ["Nothing: the run kept nothing that an audit could look at."]


def _idle(count: int) -> str:
    return f"; {count} more had nothing to look at in this run and were not exercised" if count else ""


def _power(audit: Mapping[str, Any]) -> list[str]:
    powers = [its["power"] for its in audit["silos"].values() if its["power"]]
    if not powers:
        return [
            "No canaries were in the run ([audit] canaries), so noise, clip, sampling and bounds were not looked at."
        ]
    canaries = min(its["bounds"]["canaries"] for its in audit["silos"].values() if its["bounds"])
    lines = [
        "A noise whose standard deviation is off by more than "
        f"{percent(max(its['noise'] for its in powers))} would have refuted the claim, with a chance of 95 % or more."
    ]
    if held := [its["sensitivity"] for its in powers if its["sensitivity"] is not None]:
        lines.append(f"So would a record that moves a step by {max(held):.2f} clips more or less than one.")
    bounds = [_least(its["epsilon"]) for its in powers]
    if None in bounds:
        lines.append(
            f"The bounds on epsilon would have refuted nothing: {canaries} canaries are too few for that."
        )
    else:
        seen = max(value for value in bounds if value is not None)
        lines.append(
            f"The bounds on epsilon, from {canaries} canaries of one run, would have refuted the claim only if the true epsilon "
            f"were {seen:.1f} or more: they are blunt, and the checks of noise and clip are sharp."
        )
    return lines


def _least(power: Mapping[str, float | None]) -> float | None:
    """The smallest epsilon that one of the bounds refutes."""
    seen = [value for value in power.values() if value is not None]
    return min(seen) if seen else None


def _blind(audit: Mapping[str, Any], claimed: bool) -> list[str]:
    lines = [
        "Attacks that are better than those that were tried: an attack that fails proves nothing.",
        "What leaves a silo by another way than its messages: files, logs, the time that a reply takes, whether it takes part.",
        "Runs other than this one, and settings that were chosen by looking at private results.",
    ]
    if claimed:
        lines.append(
            "A silo that forges its record of canaries and its ledger together: both are read as the run left them."
        )
    missing = {
        "membership": "Who was trained on, as far as an attacker sees it: no messages were kept ([audit] transcript).",
        "roles": "What it would cost to share more or less (left out by --quick).",
    }
    lines += [text for key, text in missing.items() if not audit[key]]
    idle = sorted({its["name"] for its in audit["checks"] if its["status"] == NOT_EXERCISED})
    return [*lines, *([f"What was not exercised: {', '.join(idle)}."] if idle else [])]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"
