"""
Canaries in input space: mislabelled rows that look real, planted in a federation that is trained for this test.

Planted rows bound epsilon end to end, through head, statistics and all rounds. The canaries of ``privacy.canaries``, which are trained in
a layer of their own, test the mechanism alone. Planted rows give weaker bounds, because other rows teach the model the right labels. At record level a coin flip for each row
decides whether it is planted; at silo level one coin flip decides for all rows of a silo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedtl._util.randomness import numpy_generator
from fedtl.audit import units
from fedtl.audit.attacks.membership import Bools, Floats
from fedtl.audit.attacks.reference_models import (
    RECORDS,
    SILOS,
    ObservedFederation,
    log_odds,
    mislabelled_rows,
    observed_states,
    train_reference,
)
from fedtl.audit.canaries import one_run
from fedtl.audit.checks import SIGNIFICANCE, bound_checks
from fedtl.audit.claim import claimed_plan
from fedtl.audit.verdict import Check
from fedtl.experiment.privacy_report import silo_privacy
from fedtl.experiment.study import Study
from fedtl.models.state import State
from fedtl.privacy.accounting import default_delta
from fedtl.results.audit import Adversary, BoundsResult, PlantedResult

LEVELS = RECORDS, SILOS


@dataclass(frozen=True)
class PlantedFindings:
    """The result (None if the adversary saw no model), and the checks of the silos that claim a privacy guarantee."""

    result: PlantedResult | None = None
    checks: Sequence[Check] = ()


def planted_scores(
    study: Study, level: int, transcript: int, adversary: Adversary, reference: ObservedFederation
) -> dict[str, Floats]:
    """Train a federation with canaries planted at this level; return each silo's scores, if the adversary saw it."""
    observed = train_reference(study, level, transcript)
    scores = {}
    for name in study.training:
        substitute, encoding = reference.whole[name], study.trainer.encoding
        if states := observed_states(observed, name, adversary, substitute, encoding):
            before = observed_states(reference, name, adversary, substitute, encoding)
            scores[name] = _scores(study, name, level, states, before)
    return scores


def _scores(study: Study, name: str, level: int, states: Sequence[State], before: Sequence[State]) -> Floats:
    """Log-odds of the wrong label, minus those in models that were not trained on the row."""
    rows, _ = mislabelled_rows(study, name, level)
    data = study.data(name)
    difference = log_odds(study, states, rows, data) - log_odds(study, before, rows, data)
    return units.by_unit(difference, rows.units)


def planted_findings(study: Study, scores: Mapping[int, Mapping[str, Floats]]) -> PlantedFindings:
    """What follows from the scores of both levels; empty if there are none."""
    if not scores or not scores[RECORDS]:
        return PlantedFindings()
    checks, records = list[Check](), dict[str, BoundsResult]()
    for name, silo_scores in scores[RECORDS].items():
        rows, coins = mislabelled_rows(study, name, RECORDS)
        member = units.by_unit(coins, rows.units) > 0
        records[name], tests = _record_bounds(study, name, silo_scores, member)
        checks += tests
    means = np.array([float(silo_scores.mean()) for silo_scores in scores[SILOS].values()])
    coins = np.array([bool(mislabelled_rows(study, name, SILOS)[1][0]) for name in scores[SILOS]])
    # No epsilon is claimed for all rows of a silo together, so these bounds refute nothing.
    silos = one_run.bounds(means, coins, _delta(study), SIGNIFICANCE, _ties(study, "silos"))
    return PlantedFindings(PlantedResult(records, silos), checks)


def _record_bounds(
    study: Study, name: str, scores: Floats, member: Bools
) -> tuple[BoundsResult, list[Check]]:
    guarantee, ties = study.guarantees.get(name), _ties(study, name)
    delta = guarantee.delta if guarantee else _delta(study)
    reported = one_run.bounds(scores, member, delta, SIGNIFICANCE, ties)
    if guarantee is None or guarantee.seed is not None:  # nothing is claimed
        return reported, []
    plan = claimed_plan(silo_privacy(guarantee), guarantee)
    guesses = one_run.guess(scores, member, ties)
    return reported, bound_checks("planted", name, guesses, plan, reported)


def _delta(study: Study) -> float:
    return default_delta(max(len(study.data(name).train) for name in study.training))


def _ties(study: Study, name: str) -> np.random.Generator:
    return numpy_generator("audit", "planted ties", study.experiment.seed, name)
