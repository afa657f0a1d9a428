"""The sentences of an audit: their order, what stands under which title, and that a claim's consequence is no finding."""

import numpy as np
import pytest
from rich.console import Console

from fedtl.audit.canaries.log import CanaryPhase
from fedtl.audit.canaries.one_run import bounds, fdp_p, looks, of_gaussian
from fedtl.audit.checks import against
from fedtl.audit.claim import SiloClaim
from fedtl.audit.power import resolution
from fedtl.audit.statement import statement, verdict
from fedtl.audit.verdict import NOT_EXERCISED
from fedtl.messages import SpendEvent
from fedtl.privacy.accounting import epsilon, gaussian_mu
from fedtl.privacy.tradeoff import gdp_mu, trade_off
from fedtl.report.tables import claims_table, measured_table

PLAN = [SpendEvent(0.7, 0.01, 20)]
TITLES = [
    *("What was claimed", "What was measured", "How much this audit could have seen"),
    "What this audit cannot see",
]


def claim_of(unit="record"):
    return SiloClaim(
        unit, f"zero-out of one {unit}, their number is public", 100, 0.7, 0.01, 5, 20,
        epsilon(PLAN, 1e-5), 1e-5, gdp_mu(PLAN, 1e-5), trade_off(PLAN),
    )  # fmt: skip


def audit_of(**changes):
    silo = {
        "claimed": claim_of().shown(),
        "conformance": {"noise_std_ratio": 0.99, "sensitivity_over_clip": 1.02, "passed": True},
        "bounds": {"steinke": 0.1, "fdp": 0.2, "gaussian": 0.3, "canaries": 100},
        "power": {"epsilon": {"steinke": None, "fdp": 20.0}, "noise": 0.03, "sensitivity": 0.2},
    }
    checks = [{"silo": "a", "name": "noise", "status": "passed", "p": 0.5, "value": 1.0}]
    its = {"silos": {"a": silo}, "private": True, "violations": [], "checks": checks}
    return {**its, "membership": {}, "inversion": {}, "roles": [], **changes}


def test_the_order_is_claimed_measured_power_and_what_is_not_seen():
    parts = statement(audit_of())
    assert [part.title for part in parts] == TITLES
    assert all(part.lines for part in parts)
    said = verdict(audit_of())
    assert said.index("claimed: epsilon") < said.index("measured: no violation")
    assert "does not prove" in said


def test_all_terms_of_the_claim_are_said():
    claim, said = claim_of(), " ".join(statement(audit_of())[0].lines)
    for words in (
        *("each record", "zero-out", "n = 100", "sigma = 0.700", "q = 0.010", "5 rounds", "20 steps"),
        *(f"epsilon = {claim.epsilon:.3f}", "delta = 1e-05", f"GDP mu = {claim.mu:.3f}"),
    ):
        assert words in said


def test_what_follows_from_the_claim_is_no_finding():
    claimed, measured, *_ = statement(audit_of())
    rate = f"{100 * trade_off(PLAN).max_tpr(0.01):.1f} %"
    assert any(rate in line and "not measured" in line for line in claimed.lines)
    assert not any(rate in line or "false alarms" in line for line in measured.lines)


def test_violations_come_first_among_what_was_measured_and_in_the_exit_message():
    audit = audit_of(violations=["a: noise: there is none"])
    assert statement(audit)[1].lines[0] == "a: noise: there is none"
    assert verdict(audit).endswith("measured: 1 of 1 checks refutes it")


def test_what_was_not_exercised_has_not_passed():
    idle = {"silo": "a", "name": "noise on statistics", "status": NOT_EXERCISED, "p": 1.0, "value": None}
    audit = audit_of()
    audit["checks"].append(idle)
    _, measured, _, blind = statement(audit)
    assert any("1 of 1 checks passed; 1 more had nothing" in line for line in measured.lines)
    assert any("noise on statistics" in line for line in blind.lines)


def test_bounds_that_can_refute_nothing_say_so():
    audit = audit_of()
    audit["silos"]["a"]["power"]["epsilon"] = {"steinke": None, "fdp": None}
    assert any("would have refuted nothing" in line for line in statement(audit)[2].lines)
    audit["silos"]["a"]["power"] = None
    assert any("No canaries" in line for line in statement(audit)[2].lines)


def test_noise_that_can_be_drawn_again_is_no_privacy():
    assert statement(audit_of(private=False))[0].lines[0].startswith("Not private")


def test_the_tables_hold_the_same_numbers():
    console = Console(width=100, record=True, quiet=False)
    for table in (claims_table(audit_of()), measured_table(audit_of())):
        console.print(table)
    text = console.export_text()
    for number in ("0.700", f"{claim_of().epsilon:.3f}", f"{claim_of().mu:.3f}", "0.990", "1.020"):
        assert number in text


def test_a_claim_is_held_to_its_plans_own_curve_with_all_looks_paid_for():
    """Not to the Gaussian mechanism of its epsilon and delta, which at these scores says something else."""
    rng = np.random.default_rng(0)
    member = rng.random(1000) < 0.5
    scores = 3 * member + rng.standard_normal(1000)
    claim, ties = claim_of(), np.random.default_rng(1)
    shown = bounds(scores, member, 1e-5, 0.05, ties)
    steinke, fdp = against("bound", "a", scores, member, claim, shown, ties)
    seen = looks(scores, member, ties)
    assert fdp.p == pytest.approx(min(fdp_p(look, claim.curve.min_fpr) for look in seen) * len(seen))
    gaussian = of_gaussian(gaussian_mu(claim.epsilon, 1e-5))
    assert fdp.p > 3 * min(fdp_p(look, gaussian) for look in seen) * len(seen)
    assert 0 < fdp.p < 1e-3
    assert 0 < steinke.p < 0.01


def test_what_a_passed_check_of_noise_is_worth():
    """Noise that is off by what is named is refuted at the level in 95 % of runs: chi-square, by simulation."""
    from scipy.stats import chi2

    canaries, steps, level = 50, 40, 1e-6
    member = np.zeros(canaries, bool)
    run = [
        CanaryPhase(
            1, 0, np.zeros((steps, canaries)), np.zeros((steps, canaries), bool), member, np.zeros(canaries)
        )
    ]
    its = resolution(run, 2.0, level)
    assert its["sensitivity"] is None
    count, rng = canaries * steps, np.random.default_rng(0)
    squares = (1 + its["noise"]) ** 2 * rng.chisquare(count, 4000)
    refuted = float((2 * chi2.sf(squares, count) < level).mean())
    assert 0.9 < refuted < 0.99
