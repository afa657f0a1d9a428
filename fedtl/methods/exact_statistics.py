"""When a silo uses the exact statistics of its own inputs in its normalisation layers."""

from enum import StrEnum


class ExactStatistics(StrEnum):
    """Before its model is scored or kept: where the statistics are the silo's own, in every case, or in none."""

    OWN = "own"
    ALWAYS = "always"
    NEVER = "never"
