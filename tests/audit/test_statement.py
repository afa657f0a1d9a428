"""The sentences of an audit: their order and titles, and that what follows from a claim is not reported as measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from fedtl.audit.audit import read_audit
from fedtl.audit.canaries.log import CanaryPhase
from fedtl.audit.canaries.one_run import bounds, fdp_p, gaussian_curve, guess
from fedtl.audit.checks import bound_checks
from fedtl.audit.claim import ClaimedPlan
from fedtl.audit.power import power
from fedtl.audit.statement import statement, verdict
from fedtl.errors import ConfigError
from fedtl.experiment.run_folder import RunFolder
from fedtl.messages import SpendEvent
from fedtl.privacy.accounting import epsilon, gaussian_mu
from fedtl.privacy.tradeoff import gdp_mu, trade_off
from fedtl.report.audit_attacks import Pictures
from fedtl.report.audit_page import audit_page
from fedtl.report.audit_tables import claims_table, measured_table
from fedtl.results.audit import (
    Adversary,
    AttackFigures,
    AttackResult,
    AuditResult,
    BoundsResult,
    CheckResult,
    ConformanceResult,
    DetectableEpsilon,
    InversionResult,
    PowerResult,
    SiloAudit,
    Status,
)
from fedtl.results.privacy import SiloPrivacy

PLAN = [SpendEvent(0.7, 0.01, 20)]
TITLES = [
    *("What was claimed", "What was measured", "How much this audit could have detected"),
    "What this audit cannot detect",
]


def plan_of(unit="record"):
    claim = SiloPrivacy(
        epsilon=epsilon(PLAN, 1e-5),
        delta=1e-5,
        epsilon_replace_one=2 * epsilon(PLAN, 1e-5),
        unit=unit,
        adjacency=f"zero-out of one {unit}, their number is public",
        units=100,
        clip=1.0,
        noise_multiplier=0.7,
        sample_rate=0.01,
        steps_a_round=4,
        rounds=5,
        **dict.fromkeys(["metric_noise", "metric_expected_noise"]),
        **dict.fromkeys(["statistics_noise", "statistics_expected_noise"]),
    )
    return ClaimedPlan(claim, trade_off(PLAN), gdp_mu(PLAN, 1e-5))


def audit_of(silo=None, **changes):
    own = SiloAudit(
        claimed=plan_of().result,
        conformance=ConformanceResult(0.99, 1.02, {}, True),
        bounds=BoundsResult(0.1, 0.2, 0.3, 100),
        power=PowerResult(DetectableEpsilon(None, 20.0), 0.03, 0.2),
    )
    result = AuditResult(
        **{
            "notice": "",
            "verdict": "",
            "statement": (),
            "fedtl": "",
            "run": "",
            "adversary": Adversary.SERVER,
        },
        **{"method": "fedtl", "model": "mlp", "seed": 0, "silos": {"a": replace(own, **(silo or {}))}},
        **{"membership": {}, "inversion": InversionResult(), "roles": (), "input_canaries": None},
        **{
            "private": True,
            "violations": (),
            "unit": "record",
            "notes": (),
            "seconds": 0,
            "peak_memory_mib": 0,
        },
        checks=(CheckResult("a", "noise", Status.PASSED, 0.5, 1.0),),
    )
    return replace(result, **changes)


def test_the_parts_are_in_order():
    parts = statement(audit_of())
    assert [part.title for part in parts] == TITLES
    assert all(part.lines for part in parts)
    said = verdict(audit_of())
    assert said.index("claimed: epsilon") < said.index("measured: no violation")
    assert "does not prove" in said


def test_all_terms_of_the_claim_are_given():
    plan, said = plan_of(), " ".join(statement(audit_of())[0].lines)
    for words in (
        *("each record", "zero-out", "n = 100", "sigma = 0.700", "q = 0.010", "5 rounds", "20 steps"),
        *(f"epsilon = {plan.claim.epsilon:.3f}", "delta = 1e-05", f"GDP mu = {plan.mu:.3f}"),
    ):
        assert words in said


def test_what_follows_from_the_claim_is_not_reported_as_measured():
    claimed, measured, *_ = statement(audit_of())
    rate = f"{100 * trade_off(PLAN).max_tpr(0.01):.1f} %"
    assert any(rate in line and "not measured" in line for line in claimed.lines)
    assert not any(rate in line or "false alarms" in line for line in measured.lines)


def test_violations_come_first_among_what_was_measured_and_in_the_exit_message():
    audit = audit_of(violations=("a: noise: there is none",))
    assert statement(audit)[1].lines[0] == "a: noise: there is none"
    assert verdict(audit).endswith("measured: 1 of 1 checks refutes it")


def test_what_was_not_exercised_has_not_passed():
    idle = CheckResult("a", "noise on statistics", Status.NOT_EXERCISED, None, None, "none are released")
    _, measured, _, limits = statement(audit_of(checks=(*audit_of().checks, idle)))
    assert any("1 of 1 checks passed; 1 more" in line for line in measured.lines)
    assert any("noise on statistics" in line for line in limits.lines)


def test_bounds_that_can_refute_nothing_say_so():
    nothing = PowerResult(DetectableEpsilon(None, None), 0.03, 0.2)
    assert any("100 canaries" in line for line in statement(audit_of({"power": nothing}))[2].lines)
    assert any("no canaries" in line for line in statement(audit_of({"power": None}))[2].lines)


def test_reproducible_noise_is_not_private():
    assert statement(audit_of(private=False))[0].lines[0].startswith("Not private")


def test_epsilon_is_rounded_up_in_the_sentence_the_table_and_the_page_alike():
    audit = audit_of({"claimed": replace(plan_of().result, epsilon=2.99812)})
    audit = replace(audit, statement=statement(audit))
    console = Console(width=100, record=True)
    console.print(claims_table(audit))
    shown = [console.export_text(), " ".join(statement(audit)[0].lines), audit_page(audit, Pictures(), "")]
    assert ["2.999" in text for text in shown] == [True] * 3
    assert ["2.998" in text for text in shown] == [False] * 3


def test_the_tables_hold_the_same_numbers():
    console = Console(width=100, record=True, quiet=False)
    for table in (claims_table(audit_of()), measured_table(audit_of())):
        console.print(table)
    text = console.export_text()
    for number in ("0.700", f"{plan_of().claim.epsilon:.3f}", f"{plan_of().mu:.3f}", "0.990", "1.020"):
        assert number in text


@pytest.mark.parametrize(
    ("p_values", "passed", "outcome"),
    [
        ({"noise": 0.4, "chain": None}, True, "passed"),
        ({"noise on summaries": 0.4}, True, "passed"),
        ({"noise": None, "chain": 1.0}, True, "noise not measured"),
        ({"noise": None, "chain": 0.0}, False, "failed"),
    ],
)
def test_noise_that_was_not_measured_has_not_passed(p_values, passed, outcome):
    audit = audit_of({"conformance": ConformanceResult(None, None, p_values, passed)})
    console = Console(width=120, record=True, quiet=False)
    console.print(measured_table(audit))
    assert outcome in console.export_text()
    assert outcome in audit_page(replace(audit, statement=statement(audit)), Pictures(), "")


def test_a_claim_is_compared_with_the_curve_of_its_own_plan():
    """Not with the Gaussian curve of its epsilon and delta, which gives another p-value for these scores."""
    rng = np.random.default_rng(0)
    member = rng.random(1000) < 0.5
    scores = 3 * member + rng.standard_normal(1000)
    plan, ties = plan_of(), np.random.default_rng(1)
    reported = bounds(scores, member, 1e-5, 0.05, ties)
    results = guess(scores, member, ties)
    steinke, fdp = bound_checks("bound", "a", results, plan, reported)
    p = [fdp_p(guesses, plan.curve.min_fpr) for guesses in results]
    assert fdp.p == pytest.approx(min(p) * len(p))
    gaussian = gaussian_curve(gaussian_mu(plan.claim.epsilon, 1e-5))
    assert fdp.p > 3 * min(fdp_p(guesses, gaussian) for guesses in results) * len(results)
    assert 0 < fdp.p < 1e-3
    assert 0 < steinke.p < 0.01


def test_the_detectable_noise_error_is_detected():
    """Noise that is off by what is named is refuted at the level in 95 % of runs: chi-square, by simulation."""
    from scipy.stats import chi2

    canaries, steps, level = 50, 40, 1e-6
    member = np.zeros(canaries, bool)
    run = [
        CanaryPhase(
            1, 0, np.zeros((steps, canaries)), np.zeros((steps, canaries), bool), member, np.zeros(canaries)
        )
    ]
    result = power(run, 2.0, DetectableEpsilon(None, None), level)
    assert result.sensitivity is None
    count, rng = canaries * steps, np.random.default_rng(0)
    squares = (1 + result.noise) ** 2 * rng.chisquare(count, 4000)
    refuted = float((2 * chi2.sf(squares, count) < level).mean())
    assert 0.9 < refuted < 0.99


def test_a_result_is_read_as_it_was_written(tmp_path):
    few = AttackFigures(3, 0, (), None, None, None, None)
    attack = AttackResult(3, 4, ("few rows",), 0.6, (0.4, 0.8), 0.1, None, (0.0, 0.2), silos={"a": few})
    result = audit_of(membership={"rmia": attack}, statement=statement(audit_of()))
    RunFolder(tmp_path).write_json("audit.json", result)
    assert read_audit(tmp_path) == result
    values = json.loads((tmp_path / "audit.json").read_text())
    assert values["inversion"] == {}
    values = values["membership"]["rmia"]
    assert (values["tpr_at_fpr_0.01"], values["tpr_at_fpr_0.01_ci95"]) == (0.1, [0.0, 0.2])
    assert "tpr_at_fpr_0.001_ci95" not in values
    assert values["silos"]["a"]["auc"] is None
    (tmp_path / "audit.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"audit\.json"):
        read_audit(tmp_path)
