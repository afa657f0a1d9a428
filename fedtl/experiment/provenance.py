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
from fedtl.training.trainer import Trainer, trainer_at


def provenance_after_rounds(
    trainer: Trainer, first: Mapping[str, Label], settings: PrivacySettings | None
) -> dict[str, Label]:
    """
    Return the labels after a silo's last round, by tensor name. ``first``: labels of the initial weights. ``settings``:
    of that silo; None: training is not private. Reproducible noise counts as no noise.
    """
    extra = changed_extra(trainer.method, trainer.partition)
    if settings is None:
        moved = [*changed_in_round(trainer.loop), *_layers_buffers(trainer), *extra]
        return taint.labels_after(first, moved, private=False)
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
    Return the labels of the model that the silo itself uses: its last step is trained at the silo without noise. Which of
    several models validation rows chose depends on these rows, so the whole model is local-only. A step of another kind
    than the two here may train or choose as well, whatever it says.
    """
    known = all(isinstance(step, Use | Tune) for step in trainer.method.steps)
    if not known or any(isinstance(step, Use) and step.others for step in trainer.method.finish):
        return dict.fromkeys(before, Label.LOCAL)
    if any(isinstance(step, Use) for step in trainer.method.finish):  # it may mix all sets of tensors
        worst = taint.combined_labels({"all": label} for label in before.values())["all"]
        before = dict.fromkeys(before, worst)
    fitted = trainer.loop.movable(finished_roles(trainer.method))
    if any(step.trained for step in trainer.method.steps):
        fitted += _layers_buffers(trainer)
    return taint.labels_after(before, fitted, private=False)


def _layers_buffers(trainer: Trainer) -> list[str]:
    """Return the names of layers' own buffers, which are not statistics of norms: any pass in training mode may write to them."""
    buffers = [name for name, _ in trainer.net(1).named_buffers() if name in trainer.loop.roles]
    return [name for name in buffers if trainer.loop.roles[name] not in taint.UNTRAINED_ROLES]


def silo_provenance(study: Study, name: str) -> dict[str, Label]:
    """Return the labels of a silo of a simulation after its last round."""
    trainer, private = trainer_at(study.trainer, name), study.experiment.privacy is not None
    first = study.first if trainer is study.trainer else taint.untrained_labels(trainer.partition.roles)
    return provenance_after_rounds(trainer, first, privacy_of(study.experiment, name) if private else None)
