"""What sharing each role costs: the same federation and the same attacks, where more and more leaves a silo."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedtl.audit import membership, reconstruct
from fedtl.audit.shadows import TARGET, Watched, engine_for, evidence, reference, sharing
from fedtl.experiment.file import but
from fedtl.partition import EVERYTHING, Role
from fedtl.state import State
from fedtl.study import Study

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
    present = set(study.bench.partition.roles.values())
    aux = study.bench.method.shared & present & {Role.AUX}
    alike = len({study.data(name).classes for name in study.training}) == 1
    found: list[frozenset[Role]] = []
    for shared in SHARED:
        its = (shared & present) | aux
        if its not in found and (alike or Role.HEAD not in its):
            found.append(frozenset(its))
    return found


def table(study: Study, start: State | None, references: int, iterations: int) -> list[dict[str, Any]]:
    """One row a variant, as audit.json holds it."""
    experiment = but(study.experiment, rounds=min(ROUNDS, study.experiment.rounds))
    found = []
    for shared in variants(study):
        bench = sharing(study.bench, shared)
        other = replace(study, experiment=experiment, bench=bench, method=bench.method)
        with engine_for(other, start) as engine:
            target = reference(other, engine, TARGET, KEPT)
            shadows = {number: reference(other, engine, number, KEPT) for number in range(references)}
        looked = {name: evidence(other, target, shadows, name, "server") for name in other.training}
        risk = membership.measure({name: its for name, its in looked.items() if its is not None})["rmia"]
        row = {
            "shared": sorted(str(role) for role in shared),
            **{key: risk[key] for key in ("auc", "ci95", "tpr_at_fpr_0.01")},
            **{"psnr": None, "ssim": None, "labels": None, "accuracy": _accuracy(other, target)},
        }
        if study.data(study.training[0]).train.x.dim() == 4:
            names: Sequence[str] = study.training
            tried = [
                reconstruct.small(other, bench, name, 1, 1, iterations, at) for at, name in enumerate(names)
            ]
            row |= {key: value for key, value in reconstruct.scored(tried).items() if key in row}
        found.append(row)
    return found


def _accuracy(study: Study, target: Watched) -> float | None:
    found = []
    for name in study.training:
        data, test = study.data(name), study.exam(name).test
        if not data.classes:
            return None
        scores = study.bench.scores(target.whole[name], test.x, data)
        found.append(float((scores.argmax(1) == test.y).double().mean()))
    return float(np.mean(found))
