"""Tables of an audit for the terminal, from audit.json. Names are text, never markup."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fedtl.report.tables import MAX_UNFOLDED
from fedtl.report.wording import format_delta, format_epsilon
from fedtl.results.audit import AuditResult


def claims_table(audit: AuditResult) -> Table | None:
    """The claim of each silo, one row per silo; None if no silo has one."""
    if not (claims := audit.claims):
        return None
    table = _by_silo(claims, ("n", "sigma", "q", "rounds", "steps", "epsilon", "delta", "GDP mu"))
    for name, claim in claims.items():
        table.add_row(
            *(Text(name), str(claim.units), _cell(claim.noise_multiplier), _cell(claim.sample_rate)),
            *(str(claim.rounds), str(claim.steps)),
            *(format_epsilon(claim.epsilon), format_delta(claim.delta), _cell(claim.mu)),
        )
    return table


def measured_table(audit: AuditResult) -> Table:
    """What an audit measured, one row per silo; a dash means not measured. Bounds on epsilon are at 95 % confidence."""
    headings = ("noise", "clips", "Steinke", "f-DP", "Gaussian", "RMIA AUC", "LiRA AUC", "checks")
    table = _by_silo(audit.silos, headings)
    for name, silo in audit.silos.items():
        conformance, bounds = silo.conformance, silo.bounds
        cells: list[float | None] = [None] * 7
        if conformance:
            cells[:2] = conformance.noise_std_ratio, conformance.sensitivity_over_clip
        if bounds:
            cells[2:5] = bounds.steinke, bounds.fdp, bounds.gaussian
        for at, attack in enumerate(("rmia", "lira"), 5):
            figures = audit.membership[attack].silos.get(name) if attack in audit.membership else None
            cells[at] = figures.auc if figures else None
        outcome = "-" if conformance is None else conformance.outcome
        table.add_row(Text(name), *map(_cell, cells), outcome)
    return table


def _by_silo(silos: Mapping[str, Any], headings: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("silo", overflow="fold", no_wrap=all(len(name) <= MAX_UNFOLDED for name in silos))
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
