"""
Whether what leaves the silo depends on something that it must not depend on: on rows if no record is sampled, or on state
that stays at the silo.

And whether two releases of the same statistics, and the noise of two rounds from one seed, differ as they must.
"""

from dataclasses import replace

import torch

from fedtl.audit.canaries.conformance import MIN_VALUES, NO_NOISE, largest_cosine
from fedtl.audit.canaries.log import CanaryPhase, read_canary_phases, steps
from fedtl.audit.retraining.altered_data import synthetic_rows
from fedtl.audit.retraining.audited_silo import AuditedSilo, as_kind, scratch_guarantee
from fedtl.audit.retraining.recorded_sums import NO_SAMPLING_RATE, UnsampledGuarantee
from fedtl.audit.verdict import Measurement, exact, not_exercised
from fedtl.models.roles import Role
from fedtl.privacy.canaries import Canaries
from fedtl.training.at_home import finish
from fedtl.training.silo import Silo


def around_the_mechanism(audited: AuditedSilo) -> Measurement:
    """If no record is sampled, other rows must not change a bit of what leaves or of the silo's local state."""
    if not audited.private_phases():
        return not_exercised("no phase takes private steps")
    states = []
    for data in (audited.data, synthetic_rows(audited.data)):
        unsampled = replace(
            audited.guarantee,
            training=replace(audited.guarantee.training, sample_rate=NO_SAMPLING_RATE),
            releases=replace(audited.guarantee.releases, statistics=None, summaries=()),
            seed=1,
            canaries=None,
        )
        divisor = audited.guarantee.expected_batch
        with scratch_guarantee(as_kind(unsampled, UnsampledGuarantee, divisor=divisor)) as guarantee:
            update, local = audited.fit(guarantee, data)
        states.append(update.delta | local)
    first, second = states
    changed = [name for name in first if not torch.equal(first[name], second[name])]
    reason = f"no record was sampled, but {len(changed)} tensors depend on the rows, such as {changed[:1]}"
    return exact(not changed, float(len(changed)), reason)


def local_only_state(audited: AuditedSilo) -> Measurement:
    """Other validation rows, and a model that is personalised in between, must not change what leaves."""
    data, updates = audited.data, []
    for other in (False, True):
        if other:
            _, local = audited.trainer.partition.split(audited.trainer.initial(data.width))
            finish(audited.trainer, Silo(audited.name, data, local, b"elsewhere"), audited.task())
        # A released accuracy is a function of the validation rows.
        swapped = other and audited.guarantee.releases.accuracy is None
        rows = replace(data, val=synthetic_rows(data).train) if swapped else data
        with scratch_guarantee(replace(audited.guarantee, seed=1)) as guarantee:
            updates.append(audited.fit(guarantee, rows)[0])
    first, second = updates
    changed = [name for name, tensor in first.delta.items() if not torch.equal(tensor, second.delta[name])]
    changed += ["weight"] * (first.weight != second.weight)
    changed += ["metrics"] * (dict(first.metrics) != dict(second.metrics))
    reason = f"state that stays at the silo was replaced, and {len(changed)} values that leave it changed, such as {changed[:1]}"
    return exact(not changed, float(len(changed)), reason)


def statistics_differ(audited: AuditedSilo) -> Measurement:
    """Statistics that are released twice differ in their noise, unless they were set back to their initial values."""
    if audited.guarantee.releases.statistics is None:
        return not_exercised("no statistics are released")
    names = list(audited.trainer.partition.names(Role.STATS))
    initial, shared, releases = audited.trainer.initial(audited.data.width), audited.task().shared, []
    for _ in range(2):
        with scratch_guarantee(audited.guarantee) as guarantee:
            update, local = audited.fit(guarantee)
        releases.append(
            {name: local[name] if name in local else shared[name] + update.delta[name] for name in names}
        )
    first, second = releases
    same = [
        name
        for name in names
        if torch.equal(first[name], second[name]) and not torch.equal(first[name], initial[name])
    ]
    reason = f"{len(same)} statistics are the same in two releases, such as {same[:1]}: they carry no noise"
    return exact(not same, float(len(same)), reason)


def fresh_noise(audited: AuditedSilo, run: list[CanaryPhase]) -> Measurement:
    """If the first recorded round is trained again from the same seed, its noise must differ."""
    if audited.guarantee.canaries is None or not run:
        return not_exercised("the run has no canaries")
    absent = ~run[0].member
    if absent.sum() < MIN_VALUES:
        return not_exercised(NO_NOISE)
    again = []
    for _ in range(2):
        with scratch_guarantee(audited.guarantee) as guarantee:
            audited.fit(guarantee)
            assert isinstance(guarantee.canaries, Canaries)
            again.append(steps(read_canary_phases(guarantee.canaries.folder))[:, absent])
    first = steps([phase for phase in run if phase.round == run[0].round])[:, absent]
    p, largest = min(largest_cosine(*pair) for pair in ((first, again[0]), (again[0], again[1])))
    reason = (
        f"the same round has the same noise when it is trained again (correlation {largest:.3f}, expected 0): the noise "
        "comes from a seed"
    )
    return Measurement(min(1.0, 2 * p), largest, reason)
