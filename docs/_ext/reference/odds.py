"""What an attacker can gain at most under (epsilon, delta) differential privacy."""

import math

from reference.markdown import table

EPSILONS = (0.5, 1.0, 3.0, 8.0)
DELTA = 1e-5
FALSE_POSITIVES = 0.01


def posterior(epsilon: float) -> float:
    """Return the largest probability of membership after an output, from one half before (delta = 0)."""
    return math.exp(epsilon) / (1 + math.exp(epsilon))


def true_positives(epsilon: float, delta: float, false_positives: float) -> float:
    """Return the largest true positive rate of a membership test (Kairouz et al., 2015)."""
    return min(
        math.exp(epsilon) * false_positives + delta,
        1 - math.exp(-epsilon) * (1 - delta - false_positives),
    )


def odds() -> str:
    """Return the table of both."""
    rows = (
        [
            f"{epsilon:g}",
            f"{posterior(epsilon):.2%}",
            f"{true_positives(epsilon, DELTA, FALSE_POSITIVES):.2%}",
        ]
        for epsilon in EPSILONS
    )
    head = [
        "epsilon",
        "how sure they can become, from 50 %",
        "members that a test finds at most, if it may be wrong about 1 % of non-members",
    ]
    return table(head, rows)
