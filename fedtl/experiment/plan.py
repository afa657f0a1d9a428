"""What an experiment would do, from a dry run: ``fedtl show``."""

from dataclasses import replace

from fedtl.experiment.config.schema import Experiment
from fedtl.experiment.head_in_rounds import heads_in_rounds
from fedtl.experiment.lint.dry_run import Examined
from fedtl.experiment.privacy_report import privacy_report, silo_privacy
from fedtl.experiment.tensor_table import parts_of, tensor_table
from fedtl.results.plan import ExperimentPlan
from fedtl.results.privacy import PrivacyReport


def experiment_plan(experiment: Experiment, examined: Examined) -> ExperimentPlan:
    """Return settings, tensors, bytes, the silos that train, their privacy guarantees, and what would be refused."""
    tensors = tensor_table(examined.study)
    return ExperimentPlan(
        experiment=experiment.model_dump(exclude_none=True),
        tensors=tensors,
        parts=parts_of(tensors),
        bytes_up=sum(tensor.sent for tensor in tensors),
        bytes_down=sum(tensor.bytes for tensor in tensors if tensor.leaves),
        heads=heads_in_rounds(examined.study.method),
        training=tuple(examined.study.training),
        privacy=_privacy(experiment, examined),
        notes=examined.study.notes,
        refused=examined.refused,
    )


def _privacy(experiment: Experiment, examined: Examined) -> PrivacyReport | None:
    if experiment.privacy is None:
        return None
    silos = {name: silo_privacy(guarantee) for name, guarantee in examined.guarantees.items()}
    return replace(privacy_report(experiment.privacy), silos=silos)
