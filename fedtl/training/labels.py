"""The provenance labels of a silo's tensors after one more round."""

from typing import TYPE_CHECKING

from fedtl.models.roles import Role
from fedtl.privacy import taint
from fedtl.training.extra import changed_extra
from fedtl.training.loop import changed_in_round
from fedtl.training.silo import Silo

if TYPE_CHECKING:
    from fedtl.training.trainer import Trainer


def labels_after_round(trainer: "Trainer", silo: Silo) -> taint.Labels:
    """Return the provenance labels of the silo's tensors after one more round: of the model's, and of the slots that it changes."""
    method, known = trainer.method, taint.labels_by_tensor(silo.labels, trainer.partition.roles)
    extra = changed_extra(method, trainer.partition)
    moved = [name for name in changed_in_round(trainer.loop) if not trainer.partition.leaves(name)]
    if silo.guarantee is None:
        return taint.labels_after(known, [*moved, *extra], private=False)
    moved = [name for name in moved if trainer.partition.roles[name] not in taint.UNTRAINED_ROLES]
    layers = silo.guarantee.releases.statistics.layers if silo.guarantee.releases.statistics else ()
    prefixes = tuple(f"body.{path}." for path in layers)
    released = [name for name in trainer.partition.names(Role.STATS) if name.startswith(prefixes)]
    released += trainer.partition.names(Role.SUMMARY)
    return taint.labels_after(known, [*moved, *extra], private=True, released=released)
