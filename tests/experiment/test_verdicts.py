"""Verdicts on many silos: what they say of known gains, and how often they are wrong where there is none."""

import numpy as np
import pytest

from fedtl.experiment.uncertainty import Block, Measurement
from fedtl.experiment.verdicts import gain_of, gains_of, overall
from fedtl.results.comparison import Verdict


def measured(rows, seeds=1):
    """A gain that is a mean over rows, the same under each seed."""
    rows = np.asarray(rows, float)
    n = len(rows)
    influence = (rows - rows.mean()) / (n * (n - 1)) ** 0.5
    return Measurement(np.full(seeds, rows.mean()), (Block(np.tile(influence, (seeds, 1)), 0.0, n - 1),))


def around(mean, error, n=400):
    rows = np.tile([-1.0, 1.0], n // 2) * error * (n - 1) ** 0.5 + mean
    return measured(rows)


@pytest.mark.parametrize(
    ("mean", "error", "says"),
    [
        (0.05, 0.01, "gains"),
        (-0.05, 0.01, "loses"),
        (0.05, 0.04, "unclear"),
        (0.0, 0.004, "as good"),
        (0.0, 0.006, "unclear"),
        (0.005, 0.001, "as good"),  # a gain, but one that does not matter
        (-0.005, 0.001, "as good"),
        (0.012, 0.002, "gains"),
    ],
)
def test_one_verdict(mean, error, says):
    gain = gain_of(around(mean, error), 0.01)
    low, high = gain.ci95
    assert gain.verdict == says
    assert (gain.verdict is Verdict.AS_GOOD) == (low >= -0.01 and high <= 0.01)
    if says == "gains":
        assert low > 0


def test_without_a_margin_nothing_is_as_good():
    assert gain_of(around(0.0, 1e-6), 0.0).verdict is Verdict.UNCLEAR


def test_the_same_models_are_as_good_whatever_the_rows():
    assert gain_of(around(0.3, 0.2).surely_zero(), 0.01).verdict is Verdict.AS_GOOD


def by_hand(p):
    """Benjamini and Hochberg's adjusted p-values, from their definition."""
    order = np.argsort(p)
    adjusted = np.minimum.accumulate((np.sort(p) * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    result = np.empty(len(p))
    result[order] = np.minimum(adjusted, 1)
    return result


def test_p_values_are_corrected_for_the_number_of_silos():
    rng = np.random.default_rng(0)
    differences = {f"s{at}": around(mean, 0.01) for at, mean in enumerate(rng.normal(0.01, 0.02, 30))}
    gains = gains_of(differences, dict.fromkeys(differences, 0.01))
    single = [gain_of(own, 0.01) for own in differences.values()]
    assert [gain.p for gain in gains.values()] == pytest.approx(by_hand(np.array([one.p for one in single])))
    found = [gain.p_as_good for gain in gains.values()]
    assert found == pytest.approx(by_hand(np.array([one.p_as_good for one in single])))
    assert [gain.ci95 for gain in gains.values()] == [one.ci95 for one in single]
    assert sum(gain.p <= 0.05 for gain in gains.values()) < sum(one.p <= 0.05 for one in single)


@pytest.mark.slow
def test_among_139_silos_without_a_gain_hardly_any_is_said_to_gain_and_one_true_gain_is_found():
    rng = np.random.default_rng(1)
    wrong, single, found = 0, 0, 0
    for _ in range(30):
        differences = {f"s{at}": measured(rng.normal(0, 0.3, 30)) for at in range(139)}
        single += sum(gain_of(own, 0.01).p <= 0.05 for own in differences.values())
        differences["one"] = measured(rng.normal(0.5, 0.3, 30))
        gains = gains_of(differences, dict.fromkeys(differences, 0.01))
        found += gains.pop("one").verdict is Verdict.GAINS
        wrong += any(gain.verdict in (Verdict.GAINS, Verdict.LOSES) for gain in gains.values())
    assert single / 30 == pytest.approx(
        0.05 * 139, rel=0.2
    )  # without a correction: seven wrong verdicts each time
    assert wrong <= 7  # 5 % of those that are said to gain or lose, so at most about one time in ten
    assert found == 30


def test_all_silos_together():
    means = {"a": 0.05, "b": 0.0, "c": -0.05, "d": 0.01}
    differences = {silo: around(mean, 0.01) for silo, mean in means.items()}
    differences["b"] = differences["b"].surely_zero()
    whole = overall(differences, gains_of(differences, dict.fromkeys(means, 0.01)))
    assert (whole.silos, whole.better, whole.not_worse) == (4, 2, 3)
    assert (whole.loss_excluded, whole.loss_not_shown) == (2, 3)
    assert (whole.worst, whole.worst_gain.verdict) == ("c", Verdict.LOSES)
    assert whole.verdicts == {"gains": 1, "as good": 1, "loses": 1, "unclear": 1}
    assert whole.mean.mean == pytest.approx(0.0025)
    half = whole.mean.ci95[1] - whole.mean.mean
    assert half == pytest.approx(1.96 * (3 * 0.01**2) ** 0.5 / 4, rel=0.02)  # silos are independent


def test_the_mean_over_silos_sees_what_single_silos_cannot():
    rng = np.random.default_rng(2)
    differences = {f"s{at}": measured(rng.normal(0.04, 0.3, 60)) for at in range(40)}
    whole = overall(differences, gains_of(differences, dict.fromkeys(differences, 0.01)))
    assert whole.mean.verdict is Verdict.GAINS
    assert whole.verdicts["unclear"] > 30


def test_a_bad_seed_is_bad_at_all_silos():
    """The seeds of a mean over silos are not independent draws at each silo."""
    shift = np.array([0.05, -0.02, 0.0])
    own = around(0.0, 0.001)
    each = Measurement(shift, (Block(np.tile(own.blocks[0].influences, (3, 1)), 0.0, 399),))
    whole = overall(
        {str(at): each for at in range(100)},
        gains_of({str(at): each for at in range(100)}, {str(at): 0.01 for at in range(100)}),
    )
    assert whole.mean.ci95[1] - whole.mean.ci95[0] > 0.1
