"""
Which updates are inverted, and how well: one row's, a few rows' over several steps, and the run's own first round. All come
out of ``Trainer.fit`` or of the run's transcript, as they crossed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtl.audit.attacks.inversion import Crossed, Images, invert, matched, psnr, ssim
from fedtl.audit.attacks.reference_models import StudyOf, sharing
from fedtl.audit.jobs import Piece
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.experiment.study import Study
from fedtl.federation.recorder import RecordedRound
from fedtl.messages import Task
from fedtl.models.roles import Role
from fedtl.privacy import taint as labels
from fedtl.privacy.budget import Budget
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.training.batches import to_inputs
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

MOST = 8  # rows that are reconstructed of one update
FEW, CUT = 8, 4  # rows of the second case, and of its batches: two steps an epoch
SHOWN = 8
ENOUGH = 4  # single rows that are tried in all, at least: a mean over them is no figure of one row
ONE, SOME, REAL = "one row", f"{FEW} rows, several steps", "the run's first round"
KEPT, SHARED = "kept", "shared"  # statistics
Promises = Mapping[str, PrivacyGuarantee]


@dataclass(frozen=True)
class Attempt:
    """Guesses beside their originals [N, C, H, W] of 0..1, and the share of labels that was right (None: not tried)."""

    silo: str
    guesses: Images
    originals: Images
    labels: float | None
    mean: Images


def small(
    study: Study, trainer: Trainer, name: str, count: int, cut: int, iterations: int, at: int
) -> Attempt:
    """A silo of ``count`` rows, from row ``at`` on, through the run's own first round, private where the run is."""
    data = study.data(name)
    units = None if data.train.units is None else torch.arange(count)  # each of them a unit's only row
    rows = Dataset(data.train.x[at : at + count], data.train.y[at : at + count], units)
    its = replace(data, train=rows, target=None)
    trainer = replace(trainer, training=replace(trainer.training, batch_size=cut))
    shared, local = trainer.partition.split(trainer.initial(data.width))
    task = Task("inversion", 1, study.experiment.rounds, study.experiment.seed, shared)
    with temporary_folder(memory_folder()) as folder:
        guarantee = _scaled(study.guarantees.get(name), count, cut, folder)
        silo = Silo(name, its, dict(local), b"inversion", guarantee, labels.public(trainer.partition.roles))
        update = trainer.fit(silo, task)
    steps = guarantee.training.steps_a_round if guarantee else trainer.training.epochs * -(-count // cut)
    shape = tuple(data.train.x.shape[1:])
    crossed = Crossed(shared, update.delta, local, count, steps, data.width, shape)
    return _tried(study, trainer, name, crossed, its, iterations)


def first_round(study: Study, seen: RecordedRound, name: str, iterations: int) -> Attempt:
    """What really crossed: all rows, all steps; compared with whichever training rows come nearest."""
    data, trainer = study.data(name), study.trainer
    _, local = trainer.partition.split(trainer.initial(data.width))
    guarantee, training = study.guarantees.get(name), trainer.training
    steps = (
        guarantee.training.steps_a_round
        if guarantee
        else training.epochs * -(-len(data.train) // training.batch_size)
    )
    shape = tuple(data.train.x.shape[1:])
    crossed = Crossed(seen.shared, seen.deltas[name], local, len(data.train), steps, data.width, shape)
    return _tried(study, trainer, name, crossed, data, iterations)


def _scaled(
    guarantee: PrivacyGuarantee | None, count: int, cut: int, folder: Path
) -> PrivacyGuarantee | None:
    """The same noise and clip on fewer rows, each sampled as often as a batch of ``cut`` holds it."""
    if guarantee is None:
        return None
    steps = tuple(-(-count // cut) if steps else 0 for steps in guarantee.training.steps)
    return replace(
        guarantee,
        account=replace(
            guarantee.account, path=folder / "ledger.sqlite", budget=Budget(1e9, guarantee.delta)
        ),
        protected=replace(guarantee.protected, count=count),
        training=replace(guarantee.training, sample_rate=min(1.0, cut / count), steps=steps),
        releases=replace(guarantee.releases, statistics=None),
        epsilon=1e9,
        canaries=None,
    )


def _tried(
    study: Study, trainer: Trainer, name: str, crossed: Crossed, data: SiloDataset, iterations: int
) -> Attempt:
    x, known = invert(trainer, crossed, MOST, iterations, study.experiment.seed)
    originals = _pictures(to_inputs(data.train.x, trainer.device))
    _, ones = matched(_pictures(x), originals)
    population = study.data(name).val.x
    mean = (
        _pictures(to_inputs(population, trainer.device)).mean(0, keepdims=True)
        if len(population)
        else 0 * ones[:1] + 0.5
    )
    found = None if known is None else _right(known, data.train.y)
    return Attempt(name, _pictures(x), ones, found, np.repeat(mean, len(ones), 0))


def _pictures(x: Tensor) -> Images:
    return ((x.detach().cpu().double() + 1) / 2).clamp(0, 1).numpy()


def _right(found: Tensor, truth: Tensor) -> float:
    """The share of labels, counted with their number, that was found."""
    size = int(max(found.max(), truth.max())) + 1
    both = torch.minimum(found.bincount(minlength=size), truth.bincount(minlength=size))
    return float(both.sum()) / len(truth)


def scored(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """
    Means over all reconstructions, beside what the mean of the validation images scores. Rounded, and never of one silo:
    that would often be a figure of a single private row.
    """
    pairs = [
        (g, o, m) for one in attempts for g, o, m in zip(one.guesses, one.originals, one.mean, strict=True)
    ]
    found = [one.labels for one in attempts if one.labels is not None]

    def mean(measure: Callable[[Images, Images], float], which: int) -> float:
        return round(float(np.mean([measure(pair[which], pair[1]) for pair in pairs])), 2)

    return {
        "labels": round(float(np.mean(found)), 2) if found else None,
        **{"psnr": mean(psnr, 0), "psnr_of_mean": mean(psnr, 2)},
        **{"ssim": mean(ssim, 0), "ssim_of_mean": mean(ssim, 2)},
    }


def single_rows(study: Study, names: Sequence[str]) -> list[tuple[str, int]]:
    """Silo and number of each row that is reconstructed alone: another row in each silo, and ENOUGH in all."""
    each = -(-ENOUGH // len(names))
    wanted = [
        (name, (at + turn * len(names)) % len(study.data(name).train))
        for at, name in enumerate(names)
        for turn in range(each)
    ]
    return list(dict.fromkeys(wanted))


def attempts(
    study: Study, seen: Sequence[RecordedRound], names: Sequence[str], iterations: int
) -> dict[str, Piece]:
    """All attempts, a piece of work each; ``cases`` takes what they give."""
    shared, its = study.trainer.method.shared, (study.source.study, study.guarantees)
    found: dict[str, Piece] = {}
    for word, roles in ((KEPT, shared - {Role.STATS}), (SHARED, shared | {Role.STATS})):
        for name, row in single_rows(study, names):
            found[f"{ONE}/{word}/{name}/{row}"] = partial(_small, *its, roles, name, 1, 1, iterations, row)
        for name in names[:2]:
            found[f"{SOME}/{word}/{name}"] = partial(_small, *its, roles, name, FEW, CUT, iterations, 0)
    if seen and seen[0].round == 1:
        word = SHARED if Role.STATS in shared else KEPT
        for name in (name for name in names[:2] if name in seen[0].deltas):
            found[f"{REAL}/{word}/{name}"] = partial(_first_round, *its, seen[0], name, iterations)
    return found


def _small(
    of: StudyOf,
    guarantees: Promises,
    shared: frozenset[Role],
    name: str,
    count: int,
    cut: int,
    iterations: int,
    at: int,
    trainer: Trainer,
) -> Attempt:
    study = replace(of(trainer), guarantees=guarantees)
    return small(study, sharing(trainer, shared), name, count, cut, iterations, at)


def _first_round(
    of: StudyOf, guarantees: Promises, seen: RecordedRound, name: str, iterations: int, trainer: Trainer
) -> Attempt:
    return first_round(replace(of(trainer), guarantees=guarantees), seen, name, iterations)


def cases(study: Study, tried: Mapping[str, Attempt]) -> tuple[list[dict[str, Any]], list[Attempt]]:
    """All cases, as audit.json holds them, and the attempts on single rows with the roles that the method shares."""
    grouped: dict[tuple[str, str], list[Attempt]] = {}
    for name, one in tried.items():
        case, word, _ = name.split("/", 2)
        grouped.setdefault((case, word), []).append(one)
    rows = {ONE: 1, SOME: FEW}
    found = [
        _case(case, word, rows.get(case) or len(study.data(its[0].silo).train), its)
        for (case, word), its in grouped.items()
    ]
    own = SHARED if Role.STATS in study.trainer.method.shared else KEPT
    return found, grouped[ONE, own]


def _case(case: str, statistics: str, rows: int, attempts: Sequence[Attempt]) -> dict[str, Any]:
    return {"case": case, "statistics": statistics, "rows": rows, **scored(attempts)}
