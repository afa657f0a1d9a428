"""Sections of an audit's page on attacks: membership inference, reconstruction of inputs, and what each shared role reveals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedtl.report import audit_plots
from fedtl.report.audit_plots import ATTACKS
from fedtl.report.figures import NOT_MEASURED, format_measured
from fedtl.report.html import Cell, Grid, Section, plot
from fedtl.results.audit import AuditResult

NO_PICTURES = "This page shows figures only and no image of a row."
PICTURES = "The images are training rows. The owners of these silos permitted this ([audit] show_rows)."


@dataclass(frozen=True)
class Pictures:
    """The best reconstructions and their originals, [C, H, W] in 0..1, of rows in ``[audit] show_rows`` only."""

    originals: Sequence[Any] = ()
    guesses: Sequence[Any] = ()
    titles: Sequence[str] = ()


def membership_section(audit: AuditResult) -> Section:
    """Whether an attacker can tell which rows were trained on."""
    attacks = audit.membership
    if not attacks:
        return Section("Membership", [f"Membership inference: {NOT_MEASURED}."])
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
                    *(Cell(format_measured(figures.auc)), Cell(_span(figures.ci95))),
                    Cell(format_measured(figures.tpr_at_fpr_1_percent)),
                    Cell(_span(figures.tpr_at_fpr_1_percent_ci95)),
                    Cell(format_measured(figures.tpr_at_fpr_01_percent)),
                    Cell(_span(figures.tpr_at_fpr_01_percent_ci95)),
                ]
            )
        lines |= dict.fromkeys(result.notes)
    grid = Grid("Was a row trained on? AUC 0.5 is a random guess", head, rows)
    return Section("Membership", list(lines), [grid], [plot("ROC curves", audit_plots.roc(attacks))])


def _span(bounds: Sequence[float] | None) -> str:
    return "-" if not bounds else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def inversion_section(audit: AuditResult, pictures: Pictures) -> Section:
    """Whether an attacker can reconstruct inputs from updates."""
    if not audit.inversion.cases:
        return Section("Reconstruction of inputs", [f"Gradient inversion: {NOT_MEASURED}."])
    head = [
        "what the attacker saw",
        "statistics",
        "rows",
        "labels found",
        "PSNR (dB)",
        "PSNR of the mean image",
        "SSIM",
        "SSIM of the mean image",
    ]
    rows = [
        [
            *(Cell(case.case), Cell(case.statistics), Cell(case.rows)),
            Cell(format_measured(case.labels, 2)),
            *(
                Cell(format_measured(value, 2))
                for value in (case.psnr, case.psnr_of_mean, case.ssim, case.ssim_of_mean)
            ),
        ]
        for case in audit.inversion.cases
    ]
    plots = (
        [plot("Reconstructions", audit_plots.pairs(pictures.originals, pictures.guesses, pictures.titles))]
        if pictures.originals
        else []
    )
    lines = [*audit.inversion.notes, PICTURES if pictures.originals else NO_PICTURES]
    return Section(
        "Reconstruction of inputs", lines, [Grid("Inputs reconstructed from updates", head, rows)], plots
    )


def roles_section(audit: AuditResult) -> Section:
    """What the same attacks find when more and more roles are shared."""
    if not audit.roles:
        return Section("What sharing each role reveals", [f"The comparison of roles: {NOT_MEASURED}."])
    head = [
        "shared roles",
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
            *(Cell(" ".join(cost.shared)), Cell(format_measured(cost.auc)), Cell(_span(cost.ci95))),
            *(
                Cell(format_measured(value))
                for value in (cost.tpr_at_fpr_1_percent, cost.psnr, cost.ssim, cost.labels, cost.accuracy)
            ),
        ]
        for cost in audit.roles
    ]
    return Section(
        "What sharing each role reveals",
        [],
        [Grid("The same attacks by the server, for different sets of shared roles", head, rows)],
    )
