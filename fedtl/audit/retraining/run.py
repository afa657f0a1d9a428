"""
What the canaries of a run cannot see, tried out at the site with its own code and data: one round through ``Trainer.fit``,
again and again, with one thing changed. A scratch ledger is charged; nothing is released.

Each question has a file of its own: ``untouched`` (what must not change), ``tensors`` (the noise of every tensor),
``shares`` (every noisy sum, and one record's part in it), ``samples``, ``figures`` and ``raw_rows``.
"""

from collections.abc import Callable, Iterator

from fedtl.audit.canaries.log import CanaryPhase
from fedtl.audit.retraining import contributions as shares
from fedtl.audit.retraining import invariance as untouched
from fedtl.audit.retraining import metric_noise as figures
from fedtl.audit.retraining import preprocessing as raw_rows
from fedtl.audit.retraining import sampling as samples
from fedtl.audit.retraining import tensor_noise as tensors
from fedtl.audit.retraining.audited_silo import Stage
from fedtl.audit.verdict import Check, Measured

Named = Iterator[tuple[str, Measured]]
NO_STEPS = "no phase takes private steps"
REHEARSALS = (  # all checks of ``rehearse``, in order
    "around the mechanism",
    "local-only state",
    "statistics",
    "fresh noise",
    "noisy sums alone",
    "noise of each release",
    "one record",
    "shares of one record",
    "one record in the statistics",
    "one record in the metric",
    "noise of the metric",
    "before the mechanism",
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
LAST = 10  # of them need a phase that takes private steps


def rehearse(
    stage: Stage, run: list[CanaryPhase], progress: Callable[[], None] = lambda: None
) -> list[Check]:
    """All rehearsals of one silo, in a fixed order and number; ``progress`` is called after each."""
    found = list[Check]()
    for name, measured in _measured(stage, run):
        found.append(Check(name, stage.name, *measured))
        progress()
    return found


def _measured(stage: Stage, run: list[CanaryPhase]) -> Named:
    yield "around the mechanism", untouched.around(stage)
    yield "local-only state", untouched.local_only(stage)
    yield "statistics", untouched.statistics_twice(stage)
    yield "fresh noise", untouched.fresh(stage, run)
    yield from _of_sums(stage)
    yield "before the mechanism", raw_rows.before_the_mechanism(stage)
    if stage.phases():
        yield from _of_steps(stage)
    else:
        yield from ((name, (None, None, NO_STEPS)) for name in REHEARSALS[-LAST:])


def _of_sums(stage: Stage) -> Named:
    found = shares.neighbours(stage)
    yield "noisy sums alone", shares.noisy_sums_alone(found)
    yield "noise of each release", shares.released_noise(found)
    yield "one record", shares.one_record(found)
    yield "shares of one record", shares.shares_alike(found)
    yield "one record in the statistics", shares.statistics_record(found)
    yield "one record in the metric", shares.metric_record(found)
    yield "noise of the metric", figures.metric_noise(stage)


def _of_steps(stage: Stage) -> Named:
    noise = tensors.empty(stage)
    yield "noise of every tensor", tensors.spread(noise)
    yield "law of the noise", tensors.law(noise)
    yield "tensors without noise", tensors.missing(stage, noise)
    yield "noise with records", tensors.filled(stage)
    yield "noise within a step", tensors.along(noise)
    yield "noise between tensors", tensors.across(noise)
    yield "noise between steps", tensors.again(noise, False)
    yield "noise between rounds", tensors.again(noise, True)
    held = samples.sampled(stage)
    yield "samples", samples.like_poisson(held)
    yield "samples between rounds", samples.between_fits(held)
