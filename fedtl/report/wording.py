"""
What a privacy guarantee means for one person, in plain sentences with numbers. Used by every page that states one.

An attacker who wants to know whether one person's rows were used, and who is wrong about a share ``alpha`` of the people
whose rows were not used, is right about at most

    min(1, e^epsilon alpha + delta, 1 - e^-epsilon (1 - delta - alpha))

of the people whose rows were (Wasserman and Zhou, 2010; Kairouz, Oh and Viswanath, 2015, equation 3). It follows from
epsilon and delta alone, so it holds for whatever the attacker knows besides.
"""

import math

FALSE_ALARMS = 0.01
LITTLE = 0.5  # from this share on, a page says that the bound protects little


def recognised(epsilon: float, delta: float, false_alarms: float = FALSE_ALARMS) -> float:
    """The largest share of those who took part that any attacker recognises at this share of false alarms."""
    if epsilon > 700:  # math.exp overflows
        return 1.0
    raised = math.exp(epsilon) * false_alarms + delta
    return min(1.0, raised, 1 - math.exp(-epsilon) * (1 - delta - false_alarms))


def believed(epsilon: float, delta: float) -> float:
    """
    The largest share of right answers of an attacker who was undecided (one half) whether a person's rows were used: one
    minus half the smallest sum of the two kinds of error (Kairouz, Oh and Viswanath, 2015), (e^epsilon + delta) / (e^epsilon + 1).
    """
    return 1 - (1 - delta) / (1 + math.exp(min(epsilon, 700.0)))


def worst_case(epsilon: float, delta: float, unit: str) -> str:
    """What could be learnt about one ``unit``: the most that any attacker gets right, with its number."""
    found = recognised(epsilon, delta)
    told = (
        f"At worst, somebody who knows all the rest and sees every message wants to tell whether one {unit}'s data were "
        f"used. If they are wrong about 1 in 100 {unit}s whose data were not used, they are right about at most "
        f"{percent(found)} of those whose data were (by guessing: 1 %)."
    )
    return f"{told} That is little protection." if found >= LITTLE else told


def without_privacy(unit: str = "person") -> str:
    return (
        f"There is no bound. What leaves can be enough to recognise that one {unit}'s data were used, and in the worst case "
        "to reconstruct a row."
    )


def not_covered(unit: str) -> str:
    """Who is protected less than the guarantee says; on every page that states one."""
    if unit == "record":
        return (
            "The guarantee is for one record. A person with several records is protected less, and so is a "
            "person with records at several institutions."
        )
    return (
        f"A {unit} with rows at several institutions is protected less, because each institution counts only its own; so "
        f"is a {unit} who stands under several names in the column {unit!r}."
    )


def size_is_public(count: int, unit: str) -> str:
    """``n`` is part of zero-out adjacency: what the guarantee does not hide."""
    return f"The number of {unit}s ({count:,}) is not hidden: the coordinator can work it out."


def percent(share: float) -> str:
    """Rounded up at the second figure, so that a bound stays one."""
    if share >= 0.9995:
        return "100 %"
    digits = 1 if share < 0.995 else 2
    return f"{math.ceil(share * 100 * 10**digits - 1e-9) / 10**digits:.{digits}f} %"
