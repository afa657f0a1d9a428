"""
Runs the work of an audit as independent jobs, on the experiment's own engine.

A whole reference federation is one job, so that no worker waits for others at the end of a round. The engine runs jobs at
silos, so each job is run at an empty silo that has the job's name.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from fedtl.data.dataset import Dataset, SiloDataset
from fedtl.errors import SiloFailed
from fedtl.experiment.study import Study, StudySource, make_worker_context
from fedtl.models.state import State
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.simulation import choose
from fedtl.simulation.engine import Engine, WorkerContext
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer

NO_DATA = SiloDataset(Dataset(torch.empty(0), torch.empty(0)), Dataset(torch.empty(0), torch.empty(0)), ())
AuditJob = Callable[[Trainer], Any]  # can be pickled, and so can its result


def study_job(study: Study, work: Callable[[Study], Any]) -> AuditJob:
    """The job that calls ``work``, a function that can be pickled, with the study as the worker rebuilds it."""
    return partial(_work_on_study, study.source, study.guarantees, work)


def _work_on_study(
    source: StudySource,
    guarantees: Mapping[str, PrivacyGuarantee],
    work: Callable[[Study], Any],
    trainer: Trainer,
) -> Any:
    return work(replace(source.study(trainer), guarantees=guarantees))


@dataclass(frozen=True)
class _JobBySilo:
    """Runs the job that the silo's name stands for."""

    jobs: Mapping[str, AuditJob]

    def __call__(self, trainer: Trainer, silo: Silo) -> Any:
        return self.jobs[silo.name](trainer)


def _worker_context(make: Callable[[], WorkerContext]) -> WorkerContext:
    return WorkerContext(make().trainer, _no_data)


def _no_data(name: str) -> SiloDataset:
    return NO_DATA


@contextmanager
def audit_engine(study: Study, start: State | None) -> Iterator[Engine]:
    """The experiment's own engine; it is kept for the whole audit, because a worker takes seconds to start."""
    make = partial(make_worker_context, study.source, str(study.trainer.device), start)
    context = partial(_worker_context, make)
    with choose.make_engine(study.experiment.engine, study.trainer, context, len(study.training)) as engine:
        yield engine


def run_jobs(engine: Engine, jobs: Mapping[str, AuditJob]) -> Iterator[tuple[str, Any]]:
    """Each job's name and result, in order. Raises SiloFailed if a job failed."""
    silos = [Silo(name, NO_DATA, {}, b"") for name in jobs]
    for name, result in engine.each(_JobBySilo(jobs), silos):
        if isinstance(result, SiloFailed):
            raise result
        yield name, result
