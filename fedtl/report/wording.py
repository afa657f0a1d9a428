"""
Sentences that say what a privacy guarantee means for one person. Every page that states a guarantee uses them.

An attacker wants to know whether the rows of one person were used. If the attacker's false positive rate is ``alpha``, the
true positive rate is at most

    min(1, e^epsilon alpha + delta, 1 - e^-epsilon (1 - delta - alpha))

(Wasserman and Zhou, 2010; Kairouz, Oh and Viswanath, 2015, equation 3). This follows from epsilon and delta alone, so it
holds for every attacker, whatever else the attacker knows.
"""

import math

FALSE_POSITIVE_RATE = 0.01
WEAK_FROM = 0.5  # from this true positive rate on, a page says that the guarantee protects little


def max_true_positive_rate(
    epsilon: float, delta: float, false_positive_rate: float = FALSE_POSITIVE_RATE
) -> float:
    """The largest true positive rate of any attacker with this false positive rate."""
    if epsilon > 700:  # math.exp overflows
        return 1.0
    raised = math.exp(epsilon) * false_positive_rate + delta
    return min(1.0, raised, 1 - math.exp(-epsilon) * (1 - delta - false_positive_rate))


def max_guess_accuracy(epsilon: float, delta: float) -> float:
    """
    The largest share of right guesses of any attacker, if it is equally likely beforehand that a person's rows were used.

    It is (e^epsilon + delta) / (e^epsilon + 1): one minus half the smallest sum of false positive and false negative rate
    (Kairouz, Oh and Viswanath, 2015).
    """
    return 1 - (1 - delta) / (1 + math.exp(min(epsilon, 700.0)))


def worst_case(epsilon: float, delta: float, unit: str) -> str:
    """State what the best possible attacker could learn about one ``unit``."""
    rate = max_true_positive_rate(epsilon, delta)
    sentence = (
        f"In the worst case, an attacker who knows all other data and sees every message tries to tell whether one {unit}'s "
        f"data were used. If the attacker is wrong about 1 in 100 {unit}s whose data were not used, the attacker recognises "
        f"at most {format_percent(rate)} of those whose data were used (guessing: 1 %)."
    )
    return f"{sentence} That is little protection." if rate >= WEAK_FROM else sentence


def once_spent(epsilon: float, delta: float) -> str:
    """State what an attacker without prior knowledge could do once the whole budget of some rows is spent."""
    share = format_percent(max_guess_accuracy(epsilon, delta))
    return f"for these rows over all studies; once all of it is spent, such an attacker is right in at most {share} of guesses"


def without_privacy(unit: str = "person") -> str:
    """State what an attacker could learn about one ``unit`` without differential privacy."""
    return (
        f"There is no limit. What leaves can be enough to recognise that one {unit}'s data were used, and in the worst case "
        "to reconstruct a row."
    )


def not_covered(unit: str) -> str:
    """State who is protected less than the guarantee says."""
    if unit == "record":
        return (
            "The guarantee is for one record. A person with several records is protected less, and so is a person with "
            "records at several institutions."
        )
    return (
        f"A {unit} with rows at several institutions is protected less, because each institution counts only its own rows; "
        f"so is a {unit} who has several names in the column {unit!r}."
    )


def size_is_public(count: int, unit: str) -> str:
    """State that the number of units is not protected: it is part of the zero-out adjacency."""
    return f"The number of {unit}s ({count:,}) is not protected: the coordinator can compute it."


def format_epsilon(epsilon: float, decimals: int = 3) -> str:
    """Return epsilon as text with this number of ``decimals``. It is rounded up, so that an upper bound stays one."""
    return (
        "inf"
        if math.isinf(epsilon)
        else f"{math.ceil(epsilon * 10**decimals - 1e-9) / 10**decimals:.{decimals}f}"
    )


def format_delta(delta: float) -> str:
    """A delta of two digits at most, rounded up, so that an upper bound stays one."""
    unit = 10.0 ** (math.floor(math.log10(delta)) - 1)
    return f"{math.ceil(delta / unit - 1e-9) * unit:.1e}".replace(".0e", "e")


def format_percent(share: float) -> str:
    """A share in percent, rounded up to one decimal (two from 99.5 %), so that an upper bound stays one."""
    if share >= 0.9995:
        return "100 %"
    digits = 1 if share < 0.995 else 2
    return f"{math.ceil(share * 100 * 10**digits - 1e-9) / 10**digits:.{digits}f} %"
