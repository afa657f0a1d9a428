"""The HTML page of an audit, from audit.json and the reconstructed images. Computes nothing."""

from dataclasses import replace

from fedtl.report import audit_plots
from fedtl.report.audit_attacks import Pictures, inversion_section, membership_section, roles_section
from fedtl.report.figures import NOT_MEASURED, format_measured
from fedtl.report.html import Cell, Grid, Plot, Section, plot, render
from fedtl.report.wording import format_delta, format_epsilon
from fedtl.results.audit import AuditResult, BoundsResult, CheckResult, Outcome, PlantedResult, Status

COLOURS = {
    Outcome.PASSED: "gains",
    Outcome.FAILED: "loses",
    Outcome.NOISE_NOT_MEASURED: "unclear",
}
CANARIES = "Measured with canaries; lower bounds on epsilon at 95 % confidence (the Gaussian one does not refute a claim)"
CHECK_CLASSES = {
    Status.PASSED: "",
    Status.FAILED: "loses",
    Status.NOT_EXERCISED: "",
}  # of a check, by its status
WORDS = {
    "epsilon, delta": "A limit on how much one record can change the probability of anything that leaves. With epsilon = 0 nothing "
    "can be learnt about a record; with 1 an attacker's odds change by a factor of at most 2.7, with 3 of at most 20. delta "
    "is a small probability that is allowed beyond this limit.",
    "GDP mu": "The same guarantee in one number: to tell whether a record was used is at least as hard as to tell a standard "
    "normal distribution from one shifted by mu.",
    "sigma, q, clip": "Each step adds noise with standard deviation sigma times the clip, and contains each record with "
    "probability q. The clip is the most that one record can contribute to a step (Euclidean norm).",
    "FPR, TPR": "False positive rate: the share of records that were not trained on but that an attacker takes for trained on. "
    "True positive rate: the share of trained records that the attacker recognises.",
    "canary": "An artificial record that is put in or left out at random. The auditor knows which.",
    "bound": "The smallest epsilon that agrees with the measurements. It is usually far below the true epsilon. Only a bound above "
    "the claimed epsilon refutes the claim.",
    "membership, AUC": "An attacker guesses which records were trained on. AUC 0.5 is a random guess, 1 is always right.",
    "PSNR, SSIM": "The similarity of a reconstruction to the original. It means something only where it is higher than for the mean "
    "image.",
}


def audit_page(audit: AuditResult, pictures: Pictures, experiment_toml: str) -> str:
    """Return the page of ``audit.json``, in the order of its statement."""
    claimed, measured, power, blind = (Section(part.title, part.lines) for part in audit.statement)
    attacks = [membership_section(audit), inversion_section(audit, pictures), roles_section(audit)]
    return render(
        "audit.html.j2",
        title=f"Privacy audit of {audit.method} on {audit.model}; the attacker is at the {audit.adversary}",
        notice=audit.notice,
        answer=_answer(audit),
        warnings=audit.violations,
        sections=[
            replace(claimed, grids=_claims(audit)),
            replace(measured, grids=_canaries(audit), plots=_bounds_plot(audit), parts=attacks),
            replace(power, grids=_power(audit)),
            blind,
        ],
        details=_checks(audit),
        words=WORDS,
        notes=audit.notes,
        experiment=experiment_toml,
        version=audit.fedtl,
    )


def _answer(audit: AuditResult) -> str:
    verdict = audit.verdict
    return f"{verdict[:1].upper()}{verdict[1:]}."


def _claims(audit: AuditResult) -> list[Grid]:
    head = [
        *("silo", "protected unit", "number of units n", "noise multiplier sigma", "sample rate q"),
        *("rounds", "steps"),
        *("epsilon", "delta", "GDP mu", "largest TPR at 1 % FPR", "largest TPR at 0.1 % FPR"),
    ]
    rows = [
        [
            *(Cell(text) for text in (name, claim.unit, claim.units)),
            *(Cell(format_measured(value)) for value in (claim.noise_multiplier, claim.sample_rate)),
            *(Cell(count) for count in (claim.rounds, claim.steps)),
            *(Cell(format_epsilon(claim.epsilon)), Cell(format_delta(claim.delta))),
            Cell(format_measured(claim.mu)),
            *(
                Cell(f"{100 * rate:.1f} %")
                for rate in (claim.tpr_at_fpr_1_percent, claim.tpr_at_fpr_01_percent)
            ),
        ]
        for name, claim in audit.claims.items()
    ]
    return [Grid("The claim of each silo, and what follows from it", head, rows)] if rows else []


def _canaries(audit: AuditResult) -> list[Grid]:
    """The tables of what was measured with canaries and with planted rows."""
    head = [
        *("silo", "noise / claimed noise", "effect of one record / clip", "bound: Steinke et al."),
        *("bound: f-DP", "bound: Gaussian", "checks"),
    ]
    rows = []
    for name, silo in audit.silos.items():
        conformance, outcome = silo.conformance, Cell(NOT_MEASURED)
        if conformance:
            outcome = Cell(conformance.outcome, COLOURS[conformance.outcome])
        rows.append(
            [
                Cell(name),
                Cell(format_measured(conformance.noise_std_ratio if conformance else None)),
                Cell(format_measured(conformance.sensitivity_over_clip if conformance else None)),
                *_bound_cells(silo.bounds),
                outcome,
            ]
        )
    return [Grid(CANARIES, head, rows), *_planted(audit.input_canaries)]


def _bounds_plot(audit: AuditResult) -> list[Plot]:
    if not any(silo.bounds for silo in audit.silos.values()):
        return []
    return [plot("Claimed epsilon and measured bounds", audit_plots.claims(audit))]


def _power(audit: AuditResult) -> list[Grid]:
    head = [
        *("silo", "error of the noise", "error of one record's effect (clips)", "epsilon: Steinke et al."),
        "epsilon: f-DP",
    ]
    rows = [
        [
            Cell(name),
            Cell(f"{100 * silo.power.noise:.1f} %"),
            Cell(format_measured(silo.power.sensitivity, 2)),
            *(
                Cell("never" if value is None else f"{value:.1f} or more")
                for value in (silo.power.epsilon.steinke, silo.power.epsilon.fdp)
            ),
        ]
        for name, silo in audit.silos.items()
        if silo.power
    ]
    return (
        [Grid("Errors that this audit would have detected with a probability of 95 %", head, rows)]
        if rows
        else []
    )


def _bound_cells(bounds: BoundsResult | None) -> list[Cell]:
    values = (bounds.steinke, bounds.fdp, bounds.gaussian) if bounds else (None, None, None)
    return [Cell(format_measured(value)) for value in values]


def _planted(planted: PlantedResult | None) -> list[Grid]:
    """Bounds from mislabelled rows. The last row is for whole silos, about which nothing is claimed."""
    if planted is None:
        return []
    lines = [*planted.records.items(), ("whole silos", planted.silos)]
    rows = [[Cell(name), Cell(bounds.canaries), *_bound_cells(bounds)] for name, bounds in lines]
    caption = "The same bounds from mislabelled rows, planted in a separate run"
    return [Grid(caption, ["silo", "canaries", "Steinke et al.", "f-DP", "Gaussian"], rows, summary_rows=1)]


def _found(check: CheckResult) -> str:
    if check.p is None:
        return check.reason or NOT_MEASURED
    return "-" if check.value is None else format_measured(check.value)


def _checks(audit: AuditResult) -> Grid:
    """Every check with its status. A check that had nothing to measure shows what was missing; a dash: it has no number."""
    rows = [
        [
            *(Cell(check.silo), Cell(check.name), Cell(check.status, CHECK_CLASSES[check.status])),
            Cell("-" if check.p is None else f"{check.p:.2g}"),
            Cell(_found(check)),
        ]
        for check in audit.checks
    ]
    idle = sum(check.status is Status.NOT_EXERCISED for check in audit.checks)
    return Grid(
        f"{len(rows)} checks, of which {idle} were not exercised; all together they refute 1 in 10,000 sound runs",
        ["silo", "check", "status", "p", "value"],
        rows,
    )
