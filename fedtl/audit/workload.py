"""
The slow part of an audit: which jobs it has, and what they return.

Reference 0 runs first, together with all jobs that do not need it. The adversary replaces tensors that stay at a silo by
those of reference 0, so the other references and the planted rows wait for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedtl.audit.attacks import planted_rows, reconstruction, role_costs
from fedtl.audit.attacks.membership import Floats
from fedtl.audit.attacks.reconstruction import Attempt, AttemptKey
from fedtl.audit.attacks.reference_models import (
    ObservedFederation,
    SiloLogOdds,
    reference_log_odds,
    train_reference,
)
from fedtl.audit.audited_run import AuditedRun
from fedtl.audit.checks import retraining_jobs
from fedtl.audit.jobs import AuditJob, audit_engine, run_jobs, study_job
from fedtl.audit.verdict import Check
from fedtl.results.audit import RoleCost

# The number of jobs that are done, the number of all jobs, and the kind of the last one.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Effort:
    """
    The amount of work of an audit. ``references``: the number of reference models; ``role_references``: the number for
    each row of the table of role costs; ``iterations`` of each inversion; ``roles``: whether there is that table;
    ``planted``: whether mislabelled rows are planted, which takes two more federations.
    """

    references: int = 16
    role_references: int = 2
    iterations: int = 100
    roles: bool = True
    planted: bool = True


FULL = Effort()
QUICK = Effort(references=1, role_references=1, iterations=40, roles=False, planted=False)


@dataclass
class JobResults:
    """The results by kind of job; a kind that did not run is empty."""

    first_reference: ObservedFederation | None = None
    references: dict[int, Mapping[str, SiloLogOdds]] = field(default_factory=dict)
    planted: dict[int, Mapping[str, Floats]] = field(default_factory=dict)
    retraining: dict[str, list[Check]] = field(default_factory=dict)
    inversion: dict[AttemptKey, Attempt] = field(default_factory=dict)
    roles: dict[str, RoleCost] = field(default_factory=dict)


@dataclass(frozen=True)
class _Work:
    kind: str
    job: AuditJob
    store: Callable[[Any], object]  # takes the job's result


def run_workload(run: AuditedRun, effort: Effort, progress: Progress) -> JobResults:
    """Run all jobs of an audit. Raises SiloFailed if one fails."""
    results = JobResults()
    first = _first_work(run, effort, results)
    later = (effort.references - 1 + len(planted_rows.LEVELS) * effort.planted) * run.attackable
    total, done = len(first) + later, 0
    with audit_engine(run.study, run.start) as engine:

        def work_on(work: Mapping[str, _Work]) -> None:
            nonlocal done
            for name, result in run_jobs(engine, {name: job.job for name, job in work.items()}):
                work[name].store(result)
                done += 1
                progress(done, total, work[name].kind)

        work_on(first)
        if results.first_reference is not None:
            work_on(_later_work(run, effort, results.first_reference, results))
    return results


def _first_work(run: AuditedRun, effort: Effort, results: JobResults) -> dict[str, _Work]:
    """Reference 0 and all jobs that do not need it; long jobs first."""
    study, work = run.study, dict[str, _Work]()
    if run.attackable:
        train = partial(train_reference, number=0, transcript=study.experiment.audit.transcript)
        store = partial(setattr, results, "first_reference")
        work["reference 0"] = _Work("reference models", study_job(study, train), store)
    if effort.roles:
        costs = role_costs.role_cost_jobs(study, effort.role_references, effort.iterations)
        work |= _work("role costs", costs, results.roles)
    work |= _work("retraining", retraining_jobs(run), results.retraining)
    attempts = reconstruction.inversion_jobs(run, effort.iterations)
    return work | _work("inversion", attempts, results.inversion)


def _later_work(
    run: AuditedRun, effort: Effort, reference: ObservedFederation, results: JobResults
) -> dict[str, _Work]:
    """The jobs that need reference 0."""
    study, adversary, transcript = run.study, run.adversary, run.study.experiment.audit.transcript
    planted = {
        level: study_job(
            study,
            partial(
                planted_rows.planted_scores,
                level=level,
                transcript=transcript,
                adversary=adversary,
                reference=reference,
            ),
        )
        for level in (planted_rows.LEVELS if effort.planted else ())
    }
    references = {
        number: study_job(
            study,
            partial(
                reference_log_odds,
                number=number,
                transcript=transcript,
                adversary=adversary,
                substitutes=reference.whole,
            ),
        )
        for number in range(1, effort.references)
    }
    return _work("planted rows", planted, results.planted) | _work(
        "reference models", references, results.references
    )


def _work(kind: str, jobs: Mapping[Any, AuditJob], results: dict[Any, Any]) -> dict[str, _Work]:
    """Jobs whose results are stored by key."""
    return {
        f"{kind}: {key}": _Work(kind, job, partial(results.__setitem__, key)) for key, job in jobs.items()
    }
