"""How many epochs each method of a comparison trains at one silo: with equal epochs, like is compared with like."""

from collections.abc import Mapping

from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.methods.tune import Tune


def epochs_at_silo(experiment: Experiment) -> int | None:
    """
    Return the epochs over a silo's training rows: of all phases of all rounds, and of the finishing steps; of "pooled",
    over the rows of all silos. Where ``silos_per_round`` draws silos, those of a silo that is drawn each time. Pretraining
    is not counted. None where ``[privacy]`` sets the number of steps instead.
    """
    privacy = experiment.privacy
    if privacy is not None and (privacy.steps is not None or privacy.sample_rate is not None):
        return None
    method, epochs = method_of(experiment.method), experiment.train.epochs
    a_round = sum(epochs if phase.epochs is None else phase.epochs for phase in method.phases)
    finish = sum(step.epochs for step in method.steps if isinstance(step, Tune))
    return experiment.rounds * a_round + finish


def unequal_epochs(epochs: Mapping[str, int], local: str) -> list[str]:
    """Return a warning that names the columns that train more or fewer epochs than training alone does."""
    if local not in epochs:
        return []
    others = [f"{label} {count}" for label, count in epochs.items() if count not in (0, epochs[local])]
    if not others:
        return []
    return [
        f"not every method trains as many epochs at a silo as {local} ({epochs[local]}): {', '.join(others)}"
    ]
