"""
What must not change a bit of what leaves: the rows, where no record is sampled, and everything that stays at the silo.

And what must change: statistics that are released twice, and noise under one seed.
"""

from dataclasses import replace

import torch

from fedtl.audit.canaries.conformance import largest_cosine
from fedtl.audit.canaries.log import CanaryPhase, steps, stretches
from fedtl.audit.retraining.audited_silo import Stage, as_kind, scratched, strangers
from fedtl.audit.retraining.tensor_noise import RARE, Unsampled
from fedtl.audit.verdict import Measured
from fedtl.models.roles import Role
from fedtl.privacy.canaries import Canaries
from fedtl.training.silo import Silo


def around(stage: Stage) -> Measured:
    """Where no record is drawn, other records must not change a bit of what leaves or of what the next round begins with."""
    found = []
    for data in (stage.data, strangers(stage.data)):
        nobody = as_kind(stage.guarantee, Unsampled, divisor=stage.guarantee.expected_batch)
        changed = replace(
            nobody,
            training=replace(nobody.training, sample_rate=RARE),
            releases=replace(nobody.releases, statistics=None),
            seed=1,
            canaries=None,
        )
        with scratched(changed) as guarantee:
            update, local = stage.fit(guarantee, data)
        found.append(update.delta | local)
    moved = [name for name in found[0] if not torch.equal(found[0][name], found[1][name])]
    reason = f"no record was sampled, and {len(moved)} tensors depend on the rows all the same, such as {moved[:1]}"
    return float(not moved), float(len(moved)), reason


def local_only(stage: Stage) -> Measured:
    """Other validation rows, and a model personalised and adapted in between: the bytes that leave stay."""
    found, data = [], stage.data
    for other in (False, True):
        if other:
            _, local = stage.trainer.partition.split(stage.trainer.initial(data.width))
            stage.trainer.finish(Silo(stage.name, data, local, b"elsewhere"), stage.task())
        swapped = (
            other and stage.guarantee.releases.accuracy is None
        )  # an accuracy that was promised is of these rows
        rows = replace(data, val=strangers(data).train) if swapped else data
        with scratched(replace(stage.guarantee, seed=1)) as guarantee:
            update, _ = stage.fit(guarantee, rows)
        found.append((update.delta, update.weight, dict(update.metrics)))
    moved = [name for name, tensor in found[0][0].items() if not torch.equal(tensor, found[1][0][name])]
    moved += ["weight"] * (found[0][1] != found[1][1]) + ["metrics"] * (found[0][2] != found[1][2])
    reason = f"local-only state was replaced, and {len(moved)} of what leaves changed, such as {moved[:1]}"
    return float(not moved), float(len(moved)), reason


def statistics_twice(stage: Stage) -> Measured:
    """Released twice, statistics with fresh noise differ, wherever they are not shrunk to what they were."""
    if stage.guarantee.releases.statistics is None:
        return None, None, "no statistics are released"
    names = list(stage.trainer.partition.names(Role.STATS))
    begun, shared, found = stage.trainer.initial(stage.data.width), stage.task().shared, []
    for _ in range(2):
        with scratched(stage.guarantee) as guarantee:
            update, local = stage.fit(guarantee)
        found.append(
            {name: local[name] if name in local else shared[name] + update.delta[name] for name in names}
        )
    same = [
        name
        for name in names
        if torch.equal(found[0][name], found[1][name]) and not torch.equal(found[0][name], begun[name])
    ]
    reason = f"two releases of {len(same)} statistics are the same to the bit, such as {same[:1]}: they carry no noise"
    return float(not same), float(len(same)), reason


def fresh(stage: Stage, run: list[CanaryPhase]) -> Measured:
    """The first recorded round, trained again from the same seed: its noise must be another."""
    its = stage.guarantee.canaries
    if its is None or not run:
        return None, None, "the run has no canaries"
    again = []
    for _ in range(2):
        with scratched(stage.guarantee) as guarantee:
            stage.fit(guarantee)
            canaries = guarantee.canaries
            assert isinstance(canaries, Canaries)
            again.append(steps(stretches(canaries.folder))[:, ~run[0].member])
    first = steps([one for one in run if one.round == run[0].round])[:, ~run[0].member]
    p, largest = min(largest_cosine(*pair) for pair in ((first, again[0]), (again[0], again[1])))
    reason = f"the same round again has the same noise (correlation {largest:.3f}; sound is 0): it comes from a seed"
    return min(1.0, 2 * p), largest, reason
