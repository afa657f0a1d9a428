"""The page of an audit, from audit.json and the pictures of its inversion. Lays out; decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup

from fedtl.report import audit_plots
from fedtl.report.audit_result import AuditResult, BoundsResult, PlantedResult, Status
from fedtl.report.page import Cell, Grid, Plot, render

DASH = "not measured"
ATTACKS = {"rmia": "RMIA", "lira": "LiRA"}
SHOWED = "What each silo's canaries showed. Bounds hold with 95 %; the Gaussian one only where scores are normal, and it refutes nothing"
NO_PICTURES = "Figures alone: no picture of a row is on this page."
PICTURES = (
    "The pictures are training rows, which the owners of these silos declared showable ([audit] show_rows)."
)
WORDS = {
    "epsilon, delta": "How much one record may change what leaves, at most. 0: nothing is learnt about it. At 1 an "
    "attacker's odds change by a factor of 2.7, at 3 by 20; delta is the small chance of worse.",
    "GDP mu": "The same promise in one number: telling whether a record was in is no easier than telling a normal distribution "
    "from the same one moved by mu standard deviations.",
    "sigma, q, clip": "Noise of sigma clips is added at each step; a step holds each record with chance q; a clip is the most that "
    "one record may move a step.",
    "false alarms": "The share of records that were not trained on, and that an attacker takes for trained on.",
    "canary": "An artificial record, put in or left out by a coin, of which the auditor knows which it was.",
    "bound": "The smallest epsilon that agrees with what was measured. It lies far below the true one; only a bound above the claim "
    "says something.",
    "membership, AUC": "An attacker guesses who was trained on. 0.5 is guessing, 1 is always right.",
    "PSNR, SSIM": "How much a reconstruction is like the original. It tells something only where it is better than the mean image.",
}
LOOKS = {Status.PASSED: "", Status.FAILED: "loses", Status.NOT_EXERCISED: ""}  # of a check, by its status


@dataclass(frozen=True)
class Section:
    title: str
    lines: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    plots: Sequence[Plot] = field(default_factory=list)
    parts: Sequence["Section"] = ()


@dataclass(frozen=True)
class Pictures:
    """The best reconstructions, beside what they are of; [C, H, W] of 0..1. Of showable rows alone."""

    originals: Sequence[Any] = ()
    guesses: Sequence[Any] = ()
    titles: Sequence[str] = ()


def audit_page(audit: AuditResult, pictures: Pictures, experiment_toml: str) -> str:
    """The whole page of ``audit.json``, in the order of its statement."""
    claimed, measured, power, blind = (Section(part.title, part.lines) for part in audit.statement)
    details = [_membership(audit), _inversion(audit, pictures), _roles(audit)]
    found = replace(measured, **_canaries(audit), parts=details)
    return render(
        "audit.html.j2",
        title=f"Privacy audit of {audit.method} on {audit.model}, seen from the {audit.vantage}",
        notice=audit.notice,
        answer=_answer(audit),
        warnings=audit.violations,
        sections=[
            replace(claimed, grids=_claims(audit)),
            found,
            replace(power, grids=_power(audit)),
            blind,
        ],
        details=_checks(audit),
        words=WORDS,
        notes=audit.notes,
        experiment=experiment_toml,
        version=audit.fedtl,
    )


def number(value: float | None, digits: int = 3) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _answer(audit: AuditResult) -> str:
    said = audit.verdict
    return f"{said[:1].upper()}{said[1:]}."


def _claims(audit: AuditResult) -> list[Grid]:
    head = [
        *("silo", "protected", "n", "noise multiplier sigma", "sample rate q", "rounds", "steps"),
        *("epsilon", "delta", "GDP mu", "most that can be found at 1 % false alarms", "at 0.1 %"),
    ]
    rows = [
        [
            *(Cell(text) for text in (name, claim.unit, claim.units)),
            *(Cell(number(value)) for value in (claim.noise_multiplier, claim.sample_rate)),
            *(Cell(value) for value in (claim.rounds, claim.steps)),
            *(Cell(number(claim.epsilon)), Cell(f"{claim.delta:.0e}"), Cell(number(claim.mu))),
            *(
                Cell(f"{100 * rate:.1f} %")
                for rate in (claim.tpr_at_fpr_1_percent, claim.tpr_at_fpr_01_percent)
            ),
        ]
        for name, claim in audit.claims.items()
    ]
    return [Grid("Each silo's claim, and what follows from it", head, rows)] if rows else []


def _canaries(audit: AuditResult) -> dict[str, Any]:
    """The grids and plots of what the canaries showed."""
    head = [
        *("silo", "noise (sound: 1)", "clips a record moves (sound: 1)", "epsilon at least: Steinke", "f-DP"),
        *("Gaussian", "checks"),
    ]
    rows = []
    for name, silo in audit.silos.items():
        conformance = silo.conformance
        outcome, look = DASH, ""
        if conformance:
            outcome, look = ("passed", "gains") if conformance.passed else ("failed", "loses")
        rows.append(
            [
                Cell(name),
                Cell(number(conformance.noise_std_ratio if conformance else None)),
                Cell(number(conformance.sensitivity_over_clip if conformance else None)),
                *_bound_cells(silo.bounds),
                Cell(outcome, look),
            ]
        )
    measured = any(silo.bounds for silo in audit.silos.values())
    plots = [_plot("Claimed epsilon and measured bounds", audit_plots.claims(audit))] if measured else []
    grids = [
        Grid(SHOWED, head, rows),
        *_planted(audit.input_canaries),
    ]
    return {"grids": grids, "plots": plots}


def _power(audit: AuditResult) -> list[Grid]:
    head = ["silo", "noise off by", "clips off by", "epsilon: Steinke", "epsilon: f-DP"]
    rows = [
        [
            Cell(name),
            Cell(f"{100 * silo.power.noise:.1f} %"),
            Cell(number(silo.power.sensitivity, 2)),
            *(
                Cell("never" if value is None else f"{value:.1f} or more")
                for value in (silo.power.epsilon.steinke, silo.power.epsilon.fdp)
            ),
        ]
        for name, silo in audit.silos.items()
        if silo.power
    ]
    return [Grid("What would have refuted the claim, with a chance of 95 %", head, rows)] if rows else []


def _bound_cells(bounds: BoundsResult | None) -> list[Cell]:
    values = (bounds.steinke, bounds.fdp, bounds.gaussian) if bounds else (None, None, None)
    return [Cell(number(value)) for value in values]


def _planted(planted: PlantedResult | None) -> list[Grid]:
    """Bounds from mislabelled rows; the last line is that of whole silos, for which nothing is claimed."""
    if planted is None:
        return []
    lines = [*planted.records.items(), ("whole silos", planted.silos)]
    rows = [[Cell(name), Cell(bounds.canaries), *_bound_cells(bounds)] for name, bounds in lines]
    caption = "The same bounds from mislabelled rows planted in a run of their own, end to end"
    return [Grid(caption, ["silo", "canaries", "Steinke", "f-DP", "Gaussian"], rows, last=1)]


def _membership(audit: AuditResult) -> Section:
    attacks = audit.membership
    if not attacks:
        return Section("Membership", [f"Membership inference: {DASH}."])
    head = [
        "silo",
        "attack",
        "members",
        "others",
        "AUC",
        "95 %",
        "TPR at 1 % FPR",
        "95 %",
        "TPR at 0.1 % FPR",
        "95 %",
    ]
    rows, lines = [], dict[str, None]()
    for attack, result in attacks.items():
        for name, figures in [*result.silos.items(), ("all silos", result)]:
            rows.append(
                [
                    *(Cell(name), Cell(ATTACKS[attack]), Cell(figures.members), Cell(figures.others)),
                    *(Cell(number(figures.auc)), Cell(_span(figures.ci95))),
                    Cell(number(figures.tpr_at_fpr_1_percent)),
                    Cell(_span(figures.tpr_at_fpr_1_percent_ci95)),
                    Cell(number(figures.tpr_at_fpr_01_percent)),
                    Cell(_span(figures.tpr_at_fpr_01_percent_ci95)),
                ]
            )
        lines |= dict.fromkeys(result.notes)
    grid = Grid("Was a row trained on? 0.5 is guessing", head, rows)
    return Section("Membership", list(lines), [grid], [_plot("ROC curves", audit_plots.roc(attacks))])


def _span(bounds: Sequence[float] | None) -> str:
    return "-" if not bounds else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _inversion(audit: AuditResult, pictures: Pictures) -> Section:
    if not audit.inversion.cases:
        return Section("Reconstruction of inputs", [f"Gradient inversion: {DASH}."])
    head = [
        "what crossed",
        "statistics",
        "rows",
        "labels found",
        "PSNR (dB)",
        "by guessing the mean",
        "SSIM",
        "SSIM of the mean",
    ]
    rows = [
        [
            *(Cell(case.case), Cell(case.statistics), Cell(case.rows), Cell(number(case.labels, 2))),
            *(
                Cell(number(value, 2))
                for value in (case.psnr, case.psnr_of_mean, case.ssim, case.ssim_of_mean)
            ),
        ]
        for case in audit.inversion.cases
    ]
    plots = (
        [_plot("Reconstructions", audit_plots.pairs(pictures.originals, pictures.guesses, pictures.titles))]
        if pictures.originals
        else []
    )
    lines = [*audit.inversion.notes, PICTURES if pictures.originals else NO_PICTURES]
    return Section("Reconstruction of inputs", lines, [Grid("Inputs from updates", head, rows)], plots)


def _roles(audit: AuditResult) -> Section:
    if not audit.roles:
        return Section("What sharing each role costs", [f"The table of roles: {DASH}."])
    head = [
        "shared",
        "RMIA AUC",
        "95 %",
        "TPR at 1 % FPR",
        "PSNR (dB)",
        "SSIM",
        "labels found",
        "mean accuracy",
    ]
    rows = [
        [
            *(Cell(" ".join(cost.shared)), Cell(number(cost.auc)), Cell(_span(cost.ci95))),
            *(
                Cell(number(value))
                for value in (cost.tpr_at_fpr_1_percent, cost.psnr, cost.ssim, cost.labels, cost.accuracy)
            ),
        ]
        for cost in audit.roles
    ]
    return Section(
        "What sharing each role costs", [], [Grid("The same attacks, seen from the server", head, rows)]
    )


def _checks(audit: AuditResult) -> Grid:
    """Every check with its status; one that had nothing to measure says what was missing instead of a number."""
    rows = [
        [
            *(Cell(check.silo), Cell(check.name), Cell(check.status, LOOKS[check.status])),
            Cell("-" if check.p is None else f"{check.p:.2g}"),
            Cell(check.reason or DASH if check.p is None else number(check.value)),
        ]
        for check in audit.checks
    ]
    idle = sum(check.status is Status.NOT_EXERCISED for check in audit.checks)
    return Grid(
        f"{len(rows)} checks, of which {idle} were not exercised; all together err once in 10,000 sound audits",
        ["silo", "check", "status", "p", "value"],
        rows,
    )


def _plot(name: str, svg: str) -> Plot:
    return Plot(name, Markup(svg))
