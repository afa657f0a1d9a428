"""Provenance labels of a silo's tensors: public, released with noise, or trained on private rows without noise."""

from collections.abc import Mapping

from fedtl.experiment.config.resolve import privacy_of
from fedtl.experiment.config.schema import PrivacySettings
from fedtl.experiment.released_layers import released_statistics
from fedtl.experiment.study import Study
from fedtl.methods.base import Use, finished_roles
from fedtl.methods.tune import Tune
from fedtl.privacy import taint
from fedtl.privacy.taint import Label
from fedtl.training.extra import changed_extra
from fedtl.training.loop import changed_in_round
from fedtl.training.trainer import Trainer


def provenance_after_rounds(
    trainer: Trainer, first: Mapping[str, Label], settings: PrivacySettings | None
) -> dict[str, Label]:
    """
    Return the labels after a silo's last round, by tensor name. ``first``: labels of the initial weights. ``settings``:
    of that silo; None: training is not private. Reproducible noise counts as no noise.
    """
    extra = changed_extra(trainer.method, trainer.partition)
    if settings is None:  # a pass in training mode may write to any buffer
        buffers = [name for name, _ in trainer.net(1).named_buffers() if name in trainer.loop.roles]
        written = [name for name in buffers if trainer.loop.roles[name] not in taint.UNTRAINED_ROLES]
        return taint.labels_after(first, [*changed_in_round(trainer.loop), *written, *extra], private=False)
    own = [
        name
        for name in changed_in_round(trainer.loop)
        if trainer.partition.roles[name] not in taint.UNTRAINED_ROLES
    ]
    moved = [*own, *extra]
    statistics = released_statistics(trainer, settings)
    if settings.noise == "reproducible":
        return taint.labels_after(first, [*moved, *statistics], private=False)
    sent = [name for name in moved if trainer.partition.leaves(name)]
    return taint.labels_after(first, moved, private=True, released=[*sent, *statistics])


def provenance_after_finish(trainer: Trainer, before: Mapping[str, Label]) -> dict[str, Label]:
    """
    Return the labels of the model that the silo itself uses: its last step is trained at the silo without noise. A step
    of another kind than the two here may train, or choose by the loss on validation rows, whatever it says.
    """
    if not all(isinstance(step, Use | Tune) for step in trainer.method.steps):
        return dict.fromkeys(before, Label.LOCAL)
    if any(isinstance(step, Use) for step in trainer.method.finish):  # it may mix all sets of tensors
        worst = taint.combined_labels({"all": label} for label in before.values())["all"]
        before = dict.fromkeys(before, worst)
    return taint.labels_after(before, trainer.loop.movable(finished_roles(trainer.method)), private=False)


def silo_provenance(study: Study, name: str) -> dict[str, Label]:
    """Return the labels of a silo of a simulation after its last round."""
    private = study.experiment.privacy is not None
    return provenance_after_rounds(
        study.trainer, study.first, privacy_of(study.experiment, name) if private else None
    )
