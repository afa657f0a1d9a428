"""Membership inference on scores with a known result, and its figures against a second computation."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from fedtl.audit.attacks.membership import Evidence, exact_interval, figures, lira, rmia
from fedtl.audit.attacks.membership import attack as attack_all


def evidence(leak, n=400, references=16, seed=0):
    """
    Log-odds of rows of unequal difficulty; the target gains ``leak`` on its members, references on the rows that they
    were trained on.
    """
    rng = np.random.default_rng(seed)
    member = np.arange(n) < n // 2
    hard, other = 2 * rng.standard_normal(n), 2 * rng.standard_normal(200)
    held = np.stack([rng.permutation(np.arange(n) % 2 == 0) for _ in range(references)])
    noise = rng.standard_normal
    return Evidence(
        member,
        hard + leak * member + noise(n),
        hard + leak * held + noise((references, n)),
        held,
        other + noise(200),
        other + noise((references, 200)),
    )


@pytest.mark.parametrize("attack", [lira, rmia])
def test_without_a_leak_attacks_guess_and_with_one_they_do_not(attack):
    aucs = [figures(rows.member, attack(rows)).auc for rows in (evidence(0.0), evidence(3.0))]
    assert abs(aucs[0] - 0.5) < 0.08
    assert aucs[1] > 0.85


def test_references_beat_the_bare_loss():
    rows = evidence(1.5)
    bare = figures(rows.member, rows.target).auc
    assert figures(rows.member, lira(rows)).auc > bare + 0.05


def test_lira_is_its_formula():
    rows = evidence(1.0, n=20, references=6)
    out = [rows.references[~rows.held[:, i], i] for i in range(20)]
    spread = np.sqrt(np.mean([np.var(one, ddof=1) for one in out if len(one) > 1]))
    wanted = [
        norm.logcdf((rows.target[i] - one.mean()) / spread) if len(one) else np.nan
        for i, one in enumerate(out)
    ]
    assert np.allclose(lira(rows), wanted, equal_nan=True)


def test_a_row_that_every_reference_held_is_not_scored():
    rows = evidence(1.0, references=1)
    assert (rows.scored() == ~rows.held[0]).all()
    for attack in (lira, rmia):
        assert (np.isnan(attack(rows)) == rows.held[0]).all()
    found = attack_all({"a": rows})["rmia"]
    assert found.members + found.others == int((~rows.held[0]).sum())


def test_intervals_are_exact_and_small_samples_say_so():
    low, high = exact_interval(3, 50)
    other = binomtest(3, 50).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((other.low, other.high), abs=1e-9)
    rng = np.random.default_rng(0)
    few, many = (figures(np.arange(n) < n // 2, rng.standard_normal(n)) for n in (60, 4000))
    (note,) = few.notes  # one for both rates
    assert "of 1 % or 0.1 % is given at 0." in note
    assert not many.notes
    low, high = few.tpr_at_fpr_1_percent_ci95
    assert high - low > 0.1


def test_interval_of_an_auc_of_few_rows_covers_the_auc_in_95_of_100_samples():
    """That of Hanley and McNeil did so in 63 of 100, and was from 1 to 1 where the rows were in order by chance."""
    rng, member, true = np.random.default_rng(0), np.arange(10) < 5, norm.cdf(2**0.5)
    samples = [figures(member, rng.standard_normal(10) + 2 * member).ci95 for _ in range(100)]
    assert np.mean([low <= true <= high for low, high in samples]) > 0.9
    low, high = figures(member, member + 0.0).ci95
    assert low < 0.7
    assert high == 1


def test_the_true_positive_rate_never_exceeds_its_false_alarms():
    rng = np.random.default_rng(1)
    member, scores = np.arange(2000) < 1000, rng.standard_normal(2000)
    result = figures(member, scores)
    threshold = np.sort(scores[~member])[1000 - 1 - 10]
    assert result.tpr_at_fpr_1_percent == (scores[member] > threshold).mean()
    assert (scores[~member] > threshold).mean() == 0.01
    assert result.ci95[0] < 0.5 < result.ci95[1]
