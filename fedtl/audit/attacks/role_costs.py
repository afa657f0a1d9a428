"""What sharing each role costs: the same federation and the same attacks, with more and more roles that leave a silo."""

from dataclasses import replace
from functools import partial

import numpy as np

from fedtl.audit.attacks import membership
from fedtl.audit.attacks.reconstruction import figures_of, invert_small_update, single_rows
from fedtl.audit.attacks.reference_models import (
    TARGET,
    ObservedFederation,
    evidence,
    pool_log_odds,
    train_reference,
    with_shared_roles,
)
from fedtl.audit.jobs import AuditJob, study_job
from fedtl.experiment.config.load import with_changes
from fedtl.experiment.study import Study
from fedtl.models.roles import EVERYTHING, Role
from fedtl.results.audit import Adversary, RoleCost
from fedtl.tasks.classification import correct

MAX_ROUNDS = 10  # of each federation: fewer than in the run, because risks are only compared with each other
RECORDED_ROUNDS = 3
BODY = frozenset({Role.BODY, Role.ADAPTER})  # a model with adapters has a frozen body, which never leaves
SHARED: tuple[frozenset[Role], ...] = (
    BODY,
    BODY | {Role.NORM},
    BODY | {Role.NORM, Role.STATS},
    BODY | {Role.NORM, Role.HEAD},
    EVERYTHING - {Role.AUX},
)


def role_sets(study: Study) -> list[frozenset[Role]]:
    """The sets of roles that this study can share; aux is shared if the method shares it."""
    frozen = study.trainer.spec.frozen
    present = {role for name, role in study.trainer.partition.roles.items() if name not in frozen}
    aux = study.trainer.method.shared & present & {Role.AUX}
    same_labels = len({study.data(name).classes for name in study.training}) == 1
    sets: list[frozenset[Role]] = []
    for shared in SHARED:
        roles = frozenset((shared & present) | aux)
        if roles not in sets and (same_labels or Role.HEAD not in roles):
            sets.append(roles)
    return sets


def role_cost_jobs(study: Study, references: int, iterations: int) -> dict[str, AuditJob]:
    """One job for each set of roles."""
    rounds = min(MAX_ROUNDS, study.experiment.rounds)
    short = replace(study, experiment=with_changes(study.experiment, rounds=rounds))
    return {
        f"shared {' '.join(sorted(shared))}": study_job(
            short, partial(role_cost, shared=shared, references=references, iterations=iterations)
        )
        for shared in role_sets(study)
    }


def role_cost(study: Study, shared: frozenset[Role], references: int, iterations: int) -> RoleCost:
    """Train the federation and its references with these roles shared, and attack it."""
    trainer = with_shared_roles(study.trainer, shared)
    study = replace(study, trainer=trainer)
    trained = {number: train_reference(study, number, RECORDED_ROUNDS) for number in range(references)}
    substitutes, target = trained[0].whole, train_reference(study, TARGET, RECORDED_ROUNDS)
    observed = {
        number: pool_log_odds(study, reference, Adversary.SERVER, substitutes)
        for number, reference in trained.items()
    }
    target_odds = pool_log_odds(study, target, Adversary.SERVER, substitutes)
    risk = membership.attack(evidence(study, target_odds, observed))["rmia"]
    inverted = None
    if study.data(study.training[0]).train.x.dim() == 4:
        attempts = [invert_small_update(study, row, iterations) for row in single_rows(study)]
        inverted = figures_of(attempts)
    return RoleCost(
        shared=tuple(sorted(str(role) for role in shared)),
        auc=risk.auc,
        ci95=risk.ci95,
        tpr_at_fpr_1_percent=risk.tpr_at_fpr_1_percent,
        psnr=inverted.psnr if inverted else None,
        ssim=inverted.ssim if inverted else None,
        labels=inverted.labels if inverted else None,
        accuracy=_mean_accuracy(study, target),
    )


def _mean_accuracy(study: Study, target: ObservedFederation) -> float | None:
    """The mean accuracy over the silos' test rows; None in regression."""
    accuracies = []
    for name in study.training:
        data, test = study.data(name), study.evaluation_set(name).test
        if not data.classes:
            return None
        scores = study.trainer.scores(target.whole[name], test.x, data)
        accuracies.append(float(correct(scores, test.y).double().mean()))
    return float(np.mean(accuracies))
