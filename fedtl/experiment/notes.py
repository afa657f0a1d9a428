"""Notes in a result: a method that shares nothing of the model, a silo without others, and the normalisation statistics that were scored."""

from collections.abc import Iterator, Mapping, Sequence

from fedtl.experiment.config.schema import Experiment, WireSettings
from fedtl.methods.base import Method, fits_tuned_statistics
from fedtl.methods.exact_statistics import ExactStatistics
from fedtl.models.roles import Role
from fedtl.training.finish import Outcome
from fedtl.training.trainer import Trainer

MAX_STATISTICS_DISTANCE = (
    0.1  # standard deviations; at 0.15 to 0.35, models lost 6 to 50 points of accuracy on digits6
)
AS_LEFT = (
    "normalisation statistics are those of private training; they are not refitted to the silo's own rows"
)
LOCAL_AFTER = "normalisation statistics are the exact ones of each silo's training inputs, computed after the last release"


def sharing_notes(experiment: Experiment, trainer: Trainer) -> Iterator[str]:
    """Yield a note if the method shares roles, but the model has no tensor of any of them."""
    partition = trainer.partition
    if partition.shared and not any(map(partition.leaves, partition.roles)):
        shared = ", ".join(sorted(partition.shared))
        yield (
            f"{experiment.method.name} shares {shared}, but {experiment.model.name} has only "
            f"{', '.join(sorted(set(partition.roles.values())))}: nothing leaves a silo, and each trains alone"
        )


def alone_note(method: Method, training: Sequence[str]) -> Iterator[str]:
    """Yield a note if the method joins silos, and only one trains."""
    if len(training) == 1 and method.sends:
        yield f"only silo {training[0]} trains, so no other silo's update is averaged with its own"


def sampling_notes(experiment: Experiment, trainer: Trainer) -> Iterator[str]:
    """Yield a note if silos are sampled, and the method has state that is a mean over silos."""
    slots = [slot.name for slot in trainer.method.slots if slot.crosses]
    if slots and experiment.silos_per_round != "all":
        yield (
            f"silos_per_round = {experiment.silos_per_round}: {experiment.method.name} moves {', '.join(slots)} by the mean "
            "change of the silos that take part in a round, not scaled by their share of all silos"
        )


def training_notes(experiment: Experiment) -> Iterator[str]:
    """Yield a note on what training changes of the images and of the frequency of the classes."""
    if changes := [str(change["name"]) for change in experiment.train.augment]:
        yield f"training images are changed at random ({', '.join(changes)}), each by itself; no other image is"
    if experiment.train.balanced:
        yield "each class of a silo is drawn equally often in training, so its probabilities are not those of its rows"


def wire_text(wire: WireSettings) -> str:
    """Return how weights are sent, in words."""
    return f"top-k, {wire.fraction:g} of the values" if wire.dtype == "top-k" else wire.dtype


def wire_notes(experiment: Experiment, trainer: Trainer) -> Iterator[str]:
    """Yield how a method's weights are sent where they are compressed, or that it sends none."""
    if experiment.wire.dtype == "float32":
        return
    name, text = experiment.method.name, wire_text(experiment.wire)
    if not trainer.method.wire.compresses and trainer.method.sends and not trainer.method.pool:
        yield f"wire.dtype = {experiment.wire.dtype!r}: {name} sends no weights of a model, so nothing is compressed"
    if trainer.method.wire.compresses:
        yield f"silos send weights as {text} with error feedback; what they receive, and all that is not a weight, is sent in full"


def statistics_notes(
    experiment: Experiment, trainer: Trainer, outcomes: Mapping[str, Outcome]
) -> Iterator[str]:
    """Yield a note for each thing that a reader of the result should know."""
    method = trainer.method
    if own := sorted(trainer.spec.statistics):
        yield (
            f"training changes {', '.join(own[:4])}{' and others' if len(own) > 4 else ''} by its inputs, so they have the role stats; they are "
            "scored as training left them, because only BatchNorm layers of torch get exact statistics"
        )
    if Role.STATS not in trainer.partition.roles.values():
        if method.fits_received_statistics and method.shared:
            yield f"{experiment.model.name} has no running statistics, so AdaBN changed nothing"
        return
    if method.exact_statistics != ExactStatistics.OWN:
        yield LOCAL_AFTER if method.exact_statistics == ExactStatistics.ALWAYS else AS_LEFT
    distances = {name: outcome.statistics_distance for name, outcome in outcomes.items()}
    far = {
        name: distance
        for name, distance in distances.items()
        if distance is not None and distance > MAX_STATISTICS_DISTANCE
    }
    if far:
        worst = max(far, key=lambda name: far[name])
        where = f"at {len(far)} of {len(outcomes)} silos"
        size = f"more than {MAX_STATISTICS_DISTANCE} standard deviations from the exact ones of the silo's training inputs"
        shared = any(outcome.refitted is not None for outcome in outcomes.values())
        most = f"most at {worst}: {far[worst]:.2f}"
        yield f"{where} {_what(shared)} are {size} ({most}); {_scored(trainer, shared)}"


def _what(shared: bool) -> str:
    return "shared statistics" if shared else "running averages of training"


def _scored(trainer: Trainer, shared: bool) -> str:
    if shared and not fits_tuned_statistics(trainer.method):
        return 'the metrics are those with shared statistics; "refitted" has those with exact ones'
    return "the metrics are those with exact statistics"
