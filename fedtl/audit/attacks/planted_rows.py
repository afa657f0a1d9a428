"""
Canaries in input space: mislabelled rows that look real, through head, statistics and all rounds, in a run of their own.

They bound epsilon end to end, where canaries beside the model see the mechanism alone; what they see is weaker, for other
rows teach the model otherwise. At record level each row has a coin, at silo level each silo has one for all of its rows.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.audit import units
from fedtl.audit.attacks.reference_models import (
    RECORDS,
    SILOS,
    Bools,
    Floats,
    StudyOf,
    Watched,
    odds,
    planted,
    reference,
    states,
)
from fedtl.audit.canaries import one_run
from fedtl.audit.checks import SIGNIFICANCE, Findings, against
from fedtl.audit.claim import SiloClaim
from fedtl.audit.verdict import Check, failed
from fedtl.experiment.privacy_plan import terms
from fedtl.experiment.study import Study
from fedtl.privacy.accounting import default_delta
from fedtl.training.trainer import Trainer


@dataclass(frozen=True)
class Ends:
    """What audit.json says, and the checks where something was claimed."""

    shown: Mapping[str, Any]
    checks: list[Check]


LEVELS = RECORDS, SILOS


def scored(
    of: StudyOf, level: int, transcript: int, vantage: str, guess: Watched, trainer: Trainer
) -> dict[str, Floats]:
    """A federation with canaries planted at this level, as a piece of work: their scores, of what the vantage saw."""
    study = of(trainer)
    watched = reference(study, level, transcript)
    return {
        name: _scored(study, watched, guess, name, vantage, level)
        for name in study.training
        if states(study, watched, name, vantage, guess.whole[name])
    }


def measured(study: Study, scores: Mapping[int, Mapping[str, Floats]]) -> Ends | None:
    """From both levels' scores. None where the vantage saw nothing of it."""
    if not scores[RECORDS]:
        return None
    checks, records = list[Check](), dict[str, Any]()
    for name, found in scores[RECORDS].items():
        rows, coins = planted(study, name, RECORDS)
        records[name], tests = _bounded(study, name, found, units.by_unit(coins, rows.units) > 0)
        checks += tests
    means = np.array([float(found.mean()) for found in scores[SILOS].values()])
    tossed = np.array([bool(planted(study, name, SILOS)[1][0]) for name in scores[SILOS]])
    # A silo's worth of rows is no record: no epsilon was claimed for it, so nothing is refuted by it.
    whole = one_run.bounds(means, tossed, _delta(study), SIGNIFICANCE, _ties(study, "silos"))
    return Ends({"records": records, "silos": {**asdict(whole), "canaries": len(tossed)}}, checks)


def _scored(study: Study, watched: Watched, guess: Watched, name: str, vantage: str, level: int) -> Floats:
    """The odds of the wrong label, beyond those that a model that never saw the row gives it."""
    rows, _ = planted(study, name, level)
    data, other = study.data(name), guess.whole[name]
    seen = odds(study, states(study, watched, name, vantage, other), rows, data)
    beyond = seen - odds(study, states(study, guess, name, vantage, other), rows, data)
    return units.by_unit(beyond, rows.units)


def _bounded(study: Study, name: str, scores: Floats, coins: Bools) -> tuple[dict[str, Any], list[Check]]:
    its = study.guarantees.get(name)
    delta, ties = its.delta if its else _delta(study), _ties(study, name)
    shown = one_run.bounds(scores, coins, delta, SIGNIFICANCE, ties)
    claimed = its is not None and its.seed is None
    tests = []
    if its and claimed:
        claim = SiloClaim.of(terms(its), its)
        tests = against("planted", name, scores, coins, claim, shown, ties)
    return {**asdict(shown), "canaries": len(coins)}, tests


def _delta(study: Study) -> float:
    return default_delta(max(len(study.data(name).train) for name in study.training))


def _ties(study: Study, name: str) -> np.random.Generator:
    return numpy_generator("audit", "planted ties", study.experiment.seed, name)


def joined(findings: Findings, ends: Ends | None) -> Findings:
    """All checks together, each with its share of the family."""
    if ends is None:
        return findings
    checks = [*findings.checks, *ends.checks]
    return replace(findings, checks=checks, violations=failed(checks))
