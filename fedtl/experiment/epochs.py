"""
How many epochs each method of a comparison trains at one silo: with equal epochs, like is compared with like. And about how long a run
takes, so that the longest begin first.
"""

from collections.abc import Iterable, Mapping

from fedtl.experiment.config.resolve import method_of
from fedtl.experiment.config.schema import Experiment
from fedtl.methods.base import Finish, Method
from fedtl.methods.tune import Tune

PRIVATE_STEP = 2.0  # about how many times as long as another step a private one takes


def epochs_at_silo(experiment: Experiment) -> int | None:
    """
    Return the epochs over a silo's training rows: of all phases of all rounds, of tuning, and of a model of the silo's own
    that it mixes in; of "pooled", over the rows of all silos. Where ``silos_per_round`` draws silos, those of a silo that is
    drawn each time. Pretraining is not counted. None where ``[privacy]`` sets the number of steps instead.
    """
    privacy = experiment.privacy
    if privacy is not None and (privacy.steps is not None or privacy.sample_rate is not None):
        return None
    method, epochs = method_of(experiment.method), experiment.train.epochs
    a_round = sum(
        epochs if phase.epochs is None else phase.epochs for phase in method.phases if not phase.public
    )
    tuning = _epochs(method.steps)
    together = experiment.rounds * a_round + tuning
    if not _mixes_own(method):
        return together
    return together + experiment.rounds * epochs + _epochs((method.tune,))


def effort(experiment: Experiment, silos: int) -> float:
    """
    Return about how long a run takes, in epochs over the rows of one silo: it orders runs of one comparison and says no more.
    ``silos``: how many train. Pretraining is not counted.
    """
    asked, privacy = experiment.silos_per_round, experiment.privacy
    drawn = silos if asked == "all" or method_of(experiment.method).pool else min(silos, asked)
    epochs: float | None = epochs_at_silo(experiment)
    if epochs is None:
        steps, rate = (privacy.steps, privacy.sample_rate) if privacy else (None, None)
        a_round = steps * rate if steps and rate else experiment.train.epochs
        epochs = experiment.rounds * a_round
    return epochs * drawn * (PRIVATE_STEP if privacy else 1)


def _epochs(steps: Iterable[Finish | None]) -> int:
    return sum(step.epochs * (1 + step.generations) for step in steps if isinstance(step, Tune))


def _mixes_own(method: Method) -> bool:
    """Return whether each silo trains a model alone as well as in the rounds."""
    wanted = method.choose is not None and method.choose.needs_own
    return bool(wanted and method.sends and not method.pool)


def unequal_epochs(epochs: Mapping[str, int], local: str) -> list[str]:
    """Return a warning that names the columns that train more or fewer epochs than training alone does."""
    if local not in epochs:
        return []
    others = [f"{label} {count}" for label, count in epochs.items() if count not in (0, epochs[local])]
    if not others:
        return []
    mixed = ""
    if 2 * epochs[local] in epochs.values():
        mixed = "; a method that averages with the silo's own model trains that one too, and local ensemble trains two"
    return [
        f"not every method trains the same number of epochs at a silo as {local} ({epochs[local]}): {', '.join(others)}{mixed}"
    ]
