"""
Checks of what the canaries of a run cannot show, at the site with its own code and data: one round of ``Trainer.fit``,
again and again, with one thing changed. A scratch ledger is charged, and nothing is released.
"""

from collections.abc import Callable, Iterator

from fedtl.audit.canaries.log import CanaryPhase
from fedtl.audit.retraining import contributions, invariance, sampling, tensor_noise
from fedtl.audit.retraining.audited_silo import AuditedSilo
from fedtl.audit.retraining.metric_noise import metric_noise
from fedtl.audit.retraining.preprocessing import before_the_mechanism
from fedtl.audit.verdict import Check, Measurement, not_exercised

NamedMeasurements = Iterator[tuple[str, Measurement]]
PRIVATE_STEP_CHECKS = (  # these need a phase that takes private steps
    "noise of every tensor",
    "law of the noise",
    "tensors without noise",
    "noise with records",
    "noise within a step",
    "noise between tensors",
    "noise between steps",
    "noise between rounds",
    "samples",
    "samples between rounds",
)
RETRAINING_CHECKS = (  # all checks, in the order of the report
    "around the mechanism",
    "local-only state",
    "statistics",
    "fresh noise",
    "noisy sums alone",
    "noise of each release",
    "one record",
    "shares of one record",
    "one record in the statistics",
    "one record in the summaries",
    "one record in the metric",
    "noise of the metric",
    "before the mechanism",
    *PRIVATE_STEP_CHECKS,
)


def retraining_checks(
    audited: AuditedSilo, run: list[CanaryPhase], progress: Callable[[], None] = lambda: None
) -> list[Check]:
    """All checks of RETRAINING_CHECKS at one silo; ``progress`` is called after each."""
    checks = list[Check]()
    for name, measured in _measurements(audited, run):
        checks.append(Check(name, audited.name, *measured))
        progress()
    return checks


def _measurements(audited: AuditedSilo, run: list[CanaryPhase]) -> NamedMeasurements:
    yield "around the mechanism", invariance.around_the_mechanism(audited)
    yield "local-only state", invariance.local_only_state(audited)
    yield "statistics", invariance.statistics_differ(audited)
    yield "fresh noise", invariance.fresh_noise(audited, run)
    yield from _contributions(audited)
    yield "noise of the metric", metric_noise(audited)
    yield "before the mechanism", before_the_mechanism(audited)
    if audited.private_phases():
        yield from _private_steps(audited)
    else:
        reason = not_exercised("no phase takes private steps")
        yield from ((name, reason) for name in PRIVATE_STEP_CHECKS)


def _contributions(audited: AuditedSilo) -> NamedMeasurements:
    rounds = contributions.train_neighbours(audited)
    yield "noisy sums alone", contributions.noisy_sums_alone(rounds)
    yield "noise of each release", contributions.release_noise(rounds)
    yield "one record", contributions.one_record(rounds)
    yield "shares of one record", contributions.independent_contributions(rounds)
    yield "one record in the statistics", contributions.one_record_in_statistics(rounds)
    yield "one record in the summaries", contributions.one_record_in_summaries(rounds)
    yield "one record in the metric", contributions.one_record_in_metric(rounds)


def _private_steps(audited: AuditedSilo) -> NamedMeasurements:
    noise = tensor_noise.record_noise(audited)
    yield "noise of every tensor", tensor_noise.deviation(noise)
    yield "law of the noise", tensor_noise.normality(noise)
    yield "tensors without noise", tensor_noise.tensors_without_noise(audited, noise)
    yield "noise with records", tensor_noise.deviation_with_records(audited)
    yield "noise within a step", tensor_noise.repeats_within_step(noise)
    yield "noise between tensors", tensor_noise.repeats_between_tensors(noise)
    yield "noise between steps", tensor_noise.repeats_between_steps(noise)
    yield "noise between rounds", tensor_noise.repeats_between_rounds(noise)
    samples = sampling.record_samples(audited)
    yield "samples", sampling.poisson_samples(samples)
    yield "samples between rounds", sampling.samples_differ(samples)
