"""
Which updates are inverted, and how well: those of one row, those of a few rows over several steps, and the run's own first
round. All updates come from ``Trainer.fit`` or from the run's recorded messages, as they were sent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedtl.audit.attacks.inversion import Images, ObservedUpdate, invert, matched, psnr, ssim
from fedtl.audit.attacks.reference_models import with_shared_roles
from fedtl.audit.audited_run import AuditedRun
from fedtl.audit.jobs import AuditJob, study_job
from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.experiment.study import Study
from fedtl.federation.recorder import RecordedRound
from fedtl.messages import Task
from fedtl.models.roles import Role
from fedtl.privacy import taint
from fedtl.privacy.budget import Budget
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.report.audit_attacks import Pictures
from fedtl.results.audit import InversionResult, ReconstructionCase, ReconstructionFigures
from fedtl.simulation.temp_folder import memory_folder, temporary_folder
from fedtl.training.batches import to_inputs
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

UNLIMITED_EPSILON = 1e9  # the budget of a scratch ledger
MAX_INPUTS = 8  # the most inputs that are reconstructed from one update
SEVERAL_ROWS, SEVERAL_BATCH = 8, 4  # rows and batch size of the second case: two steps an epoch
SHOWN_PICTURES = 8
MIN_SINGLE_ROWS = 4  # reconstructed one by one in all silos; a mean over them is not a figure of one row
SILOS_TRIED = 2  # the number of silos in the cases of more than one row
ONE_ROW, SEVERAL, FIRST_ROUND = "one row", f"{SEVERAL_ROWS} rows, several steps", "the run's first round"
KEPT, SHARED = "kept", "shared"  # whether BatchNorm statistics stay at the silo


@dataclass(frozen=True)
class SmallUpdate:
    """The update of ``count`` training rows of a silo, from row ``first`` on, in batches of ``batch_size``."""

    silo: str
    first: int
    count: int
    batch_size: int


@dataclass(frozen=True)
class AttemptKey:
    case: str
    statistics: str
    silo: str
    row: int = 0

    def __str__(self) -> str:
        return f"{self.case}, {self.statistics}, {self.silo}, {self.row}"


@dataclass(frozen=True)
class Attempt:
    """
    Reconstructed inputs next to the originals [N, C, H, W] in 0..1, the share of labels that was recovered (None: not
    attempted), and the mean validation image, repeated.
    """

    silo: str
    guesses: Images
    originals: Images
    labels: float | None
    mean: Images


def invert_small_update(
    study: Study, small: SmallUpdate, iterations: int, shared: frozenset[Role] | None = None
) -> Attempt:
    """
    Train the rows through the run's own first round, privately if the run was private, and invert the update. ``shared``:
    the roles that leave the silo, if not those of the method.
    """
    data, rows = study.data(small.silo), slice(small.first, small.first + small.count)
    units = (
        None if data.train.units is None else torch.arange(small.count)
    )  # each row is the only row of a unit
    own = replace(data, train=Dataset(data.train.x[rows], data.train.y[rows], units), target=None)
    trainer = study.trainer if shared is None else with_shared_roles(study.trainer, shared)
    trainer = replace(trainer, training=replace(trainer.training, batch_size=small.batch_size))
    sent, local = trainer.partition.split(trainer.initial(data.width))
    task = Task("inversion", 1, study.experiment.rounds, study.experiment.seed, sent)
    with temporary_folder(memory_folder()) as folder:
        guarantee = study.guarantees.get(small.silo)
        guarantee = None if guarantee is None else _for_few_rows(guarantee, small, folder)
        silo = Silo(
            small.silo,
            own,
            dict(local),
            b"inversion",
            guarantee,
            taint.untrained_labels(trainer.partition.roles),
        )
        update = trainer.fit(silo, task)
    steps = (
        guarantee.training.steps_a_round
        if guarantee
        else trainer.training.epochs * -(-small.count // small.batch_size)
    )
    shape = tuple(data.train.x.shape[1:])
    delta = trainer.encoding.decode(update.delta, sent)
    observed = ObservedUpdate(sent, delta, local, small.count, steps, data.width, shape)
    return _attempt(study, trainer, small.silo, observed, own, iterations)


def invert_first_round(study: Study, messages: RecordedRound, name: str, iterations: int) -> Attempt:
    """
    Invert the recorded update of the first round, made from all rows and steps; each guess is compared with the nearest
    training row.
    """
    data, trainer = study.data(name), study.trainer
    _, local = trainer.partition.split(trainer.initial(data.width))
    guarantee, training, count = study.guarantees.get(name), trainer.training, len(data.train)
    steps = (
        guarantee.training.steps_a_round if guarantee else training.epochs * -(-count // training.batch_size)
    )
    shape = tuple(data.train.x.shape[1:])
    delta = trainer.encoding.decode(messages.deltas[name], messages.shared)
    observed = ObservedUpdate(messages.shared, delta, local, count, steps, data.width, shape)
    return _attempt(study, trainer, name, observed, data, iterations)


def _for_few_rows(guarantee: PrivacyGuarantee, small: SmallUpdate, folder: Path) -> PrivacyGuarantee:
    """
    The guarantee with the same noise and clip, the sample rate of the small update's batches and a ledger in ``folder``.
    """
    count, training = -(-small.count // small.batch_size), guarantee.training
    steps = tuple(count if planned else 0 for planned in training.steps)
    rate = min(1.0, small.batch_size / small.count)
    budget = Budget(UNLIMITED_EPSILON, guarantee.delta)
    return replace(
        guarantee,
        account=replace(guarantee.account, path=folder / "ledger.sqlite", budget=budget),
        protected=replace(guarantee.protected, count=small.count),
        training=replace(training, sample_rate=rate, steps=steps),
        releases=replace(guarantee.releases, statistics=None),
        epsilon=UNLIMITED_EPSILON,
        canaries=None,
    )


def _attempt(
    study: Study, trainer: Trainer, name: str, update: ObservedUpdate, data: SiloDataset, iterations: int
) -> Attempt:
    x, known = invert(trainer, update, MAX_INPUTS, iterations, study.experiment.seed)
    _, originals = matched(_images(x), _images(to_inputs(data.train.x, trainer.device)))
    validation = study.data(name).val.x
    if len(validation):
        mean = _images(to_inputs(validation, trainer.device)).mean(0, keepdims=True)
    else:
        mean = 0 * originals[:1] + 0.5
    recovered = None if known is None else _recovered_share(known, data.train.y)
    return Attempt(name, _images(x), originals, recovered, np.repeat(mean, len(originals), 0))


def _images(x: Tensor) -> Images:
    return ((x.detach().cpu().double() + 1) / 2).clamp(0, 1).numpy()


def _recovered_share(inferred: Tensor, truth: Tensor) -> float:
    """The share of labels, counted with their multiplicity, that was inferred."""
    size = int(max(inferred.max(), truth.max())) + 1
    both = torch.minimum(inferred.bincount(minlength=size), truth.bincount(minlength=size))
    return float(both.sum()) / len(truth)


def figures_of(attempts: Sequence[Attempt]) -> ReconstructionFigures:
    """
    Means over all reconstructions. They are rounded, and never given for one silo, because that would often be a figure of
    a single private row.
    """
    triples = [
        (guess, original, mean)
        for attempt in attempts
        for guess, original, mean in zip(attempt.guesses, attempt.originals, attempt.mean, strict=True)
    ]
    recovered = [attempt.labels for attempt in attempts if attempt.labels is not None]

    def mean(measure: Callable[[Images, Images], float], which: int) -> float:
        return round(float(np.mean([measure(triple[which], triple[1]) for triple in triples])), 2)

    return ReconstructionFigures(
        labels=round(float(np.mean(recovered)), 2) if recovered else None,
        psnr=mean(psnr, 0),
        psnr_of_mean=mean(psnr, 2),
        ssim=mean(ssim, 0),
        ssim_of_mean=mean(ssim, 2),
    )


def single_rows(study: Study) -> list[SmallUpdate]:
    """The rows that are reconstructed one by one: another row in each silo, at least MIN_SINGLE_ROWS in all."""
    names = study.training
    each = -(-MIN_SINGLE_ROWS // len(names))
    rows = [
        SmallUpdate(name, (at + turn * len(names)) % len(study.data(name).train), 1, 1)
        for at, name in enumerate(names)
        for turn in range(each)
    ]
    return list(dict.fromkeys(rows))


def inversion_jobs(run: AuditedRun, iterations: int) -> dict[AttemptKey, AuditJob]:
    """All attempts as jobs; none if inputs are not images or the method shares nothing."""
    study, messages = run.study, run.messages
    shared, names = study.trainer.method.shared, study.training[:SILOS_TRIED]
    if study.data(study.training[0]).train.x.dim() != 4 or not shared:
        return {}
    several = [SmallUpdate(name, 0, SEVERAL_ROWS, SEVERAL_BATCH) for name in names]
    jobs: dict[AttemptKey, AuditJob] = {}
    for statistics, roles in ((KEPT, shared - {Role.STATS}), (SHARED, shared | {Role.STATS})):
        for case, updates in ((ONE_ROW, single_rows(study)), (SEVERAL, several)):
            for small in updates:
                invert = partial(invert_small_update, small=small, iterations=iterations, shared=roles)
                jobs[AttemptKey(case, statistics, small.silo, small.first)] = study_job(study, invert)
    if messages and messages[0].round == 1:
        for name in (name for name in names if name in messages[0].deltas):
            invert = partial(invert_first_round, messages=messages[0], name=name, iterations=iterations)
            jobs[AttemptKey(FIRST_ROUND, _own_statistics(study), name)] = study_job(study, invert)
    return jobs


def _own_statistics(study: Study) -> str:
    """Whether the run's own method shares BatchNorm statistics."""
    return SHARED if Role.STATS in study.trainer.method.shared else KEPT


def inversion_result(study: Study, attempts: Mapping[AttemptKey, Attempt]) -> InversionResult:
    """The figures of each case; empty without attempts."""
    if not attempts:
        return InversionResult()
    grouped: dict[tuple[str, str], list[Attempt]] = {}
    for key, attempt in attempts.items():
        grouped.setdefault((key.case, key.statistics), []).append(attempt)
    counts = {ONE_ROW: 1, SEVERAL: SEVERAL_ROWS}
    cases = tuple(
        ReconstructionCase(
            **vars(figures_of(group)),
            case=case,
            statistics=statistics,
            rows=counts.get(case) or len(study.data(group[0].silo).train),
        )
        for (case, statistics), group in grouped.items()
    )
    note = (
        "An attack has succeeded only if it is better than guessing the mean validation image, which needs no update. "
        f"At most {MAX_INPUTS} inputs of an update are reconstructed; each is compared with the nearest row."
    )
    return InversionResult(cases, (note,))


def best_pictures(study: Study, attempts: Mapping[AttemptKey, Attempt], showable: frozenset[str]) -> Pictures:
    """Pictures of the best single-row attempts on the run's own method, of the silos in ``showable`` only."""
    own = [
        attempt
        for key, attempt in attempts.items()
        if (key.case, key.statistics) == (ONE_ROW, _own_statistics(study)) and attempt.silo in showable
    ]
    best = sorted(own, key=lambda attempt: -psnr(attempt.guesses, attempt.originals))[:SHOWN_PICTURES]
    return Pictures(
        [attempt.originals[0] for attempt in best],
        [attempt.guesses[0] for attempt in best],
        [f"{attempt.silo}, {psnr(attempt.guesses, attempt.originals):.1f} dB" for attempt in best],
    )
