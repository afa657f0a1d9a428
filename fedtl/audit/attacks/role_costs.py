"""What sharing each role costs: the same federation and the same attacks, where more and more leaves a silo."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fedtl.audit.attacks import membership
from fedtl.audit.attacks import reconstruction as reconstruct
from fedtl.audit.attacks.reference_models import TARGET, StudyOf, Watched, evidence, looks, reference, sharing
from fedtl.audit.jobs import Piece
from fedtl.experiment.config.load import but
from fedtl.experiment.study import Study
from fedtl.models.roles import EVERYTHING, Role
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.training.metrics import correct
from fedtl.training.trainer import Trainer

ROUNDS = 10  # of each variant, at most: risks are compared, and the run's own figures stand elsewhere
KEPT = 3  # rounds of them that the server's attack looks at
SHARED: tuple[frozenset[Role], ...] = (
    frozenset({Role.BODY}),
    frozenset({Role.BODY, Role.NORM}),
    frozenset({Role.BODY, Role.NORM, Role.STATS}),
    frozenset({Role.BODY, Role.NORM, Role.HEAD}),
    EVERYTHING - {Role.AUX},
)


def variants(study: Study) -> list[frozenset[Role]]:
    """The sets of roles that this study can be run with; aux crosses where it does in the method."""
    present = set(study.trainer.partition.roles.values())
    aux = study.trainer.method.shared & present & {Role.AUX}
    alike = len({study.data(name).classes for name in study.training}) == 1
    found: list[frozenset[Role]] = []
    for shared in SHARED:
        its = (shared & present) | aux
        if its not in found and (alike or Role.HEAD not in its):
            found.append(frozenset(its))
    return found


def rows(study: Study, references: int, iterations: int) -> dict[str, Piece]:
    """One piece of work a variant; each gives its row as audit.json holds it."""
    short = replace(study, experiment=but(study.experiment, rounds=min(ROUNDS, study.experiment.rounds)))
    return {
        f"shared {' '.join(sorted(shared))}": partial(
            _row, short.source.study, study.guarantees, shared, references, iterations
        )
        for shared in variants(study)
    }


def _row(
    of: StudyOf,
    guarantees: Mapping[str, PrivacyGuarantee],
    shared: frozenset[Role],
    references: int,
    iterations: int,
    trainer: Trainer,
) -> dict[str, Any]:
    trainer = sharing(trainer, shared)
    study = replace(of(trainer), method=trainer.method, guarantees=guarantees)
    shadows = {number: reference(study, number, KEPT) for number in range(references)}
    guess, target = shadows[0].whole, reference(study, TARGET, KEPT)
    seen = {number: looks(study, its, "server", guess) for number, its in shadows.items()}
    found = looks(study, target, "server", guess)
    looked = {name: evidence(study, name, found, seen) for name in study.training}
    risk = membership.measure({name: its for name, its in looked.items() if its is not None})["rmia"]
    row = {
        "shared": sorted(str(role) for role in shared),
        **{key: risk[key] for key in ("auc", "ci95", "tpr_at_fpr_0.01")},
        **{"psnr": None, "ssim": None, "labels": None, "accuracy": _accuracy(study, target)},
    }
    if study.data(study.training[0]).train.x.dim() == 4:
        tried = [
            reconstruct.small(study, trainer, name, 1, 1, iterations, at)
            for name, at in reconstruct.single_rows(study, study.training)
        ]
        row |= {key: value for key, value in reconstruct.scored(tried).items() if key in row}
    return row


def _accuracy(study: Study, target: Watched) -> float | None:
    found = []
    for name in study.training:
        data, test = study.data(name), study.exam(name).test
        if not data.classes:
            return None
        scores = study.trainer.scores(target.whole[name], test.x, data)
        found.append(float(correct(scores, test.y).double().mean()))
    return float(np.mean(found))
