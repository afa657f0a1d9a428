"""What holds for an experiment that would be trained, with the numbers of each silo. Every line here must be true."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from fedtl.experiment.lint.dry_run import Examined
from fedtl.privacy.guarantee import PrivacyGuarantee, PrivateTraining
from fedtl.report.wording import format_delta, format_epsilon

Guarantees = Mapping[str, PrivacyGuarantee]


def guarantee_claims(examined: Examined) -> Iterator[str]:
    """Yield a line for each property of the guarantee. None with reproducible noise, because then nothing is private."""
    guarantees = examined.guarantees
    if not guarantees or any(guarantee.seed is not None for guarantee in guarantees.values()):
        return
    by_silo = partial(_by_silo, guarantees)
    unit = next(iter(guarantees.values())).protected.unit
    yield (
        "noise: added in every step, drawn from the operating system and never from a seed; multiplier and clipping norm: "
        + by_silo(lambda guarantee: f"{guarantee.training.noise_multiplier:.3g}, {guarantee.training.clip:g}")
    )
    yield (
        f"sampling: Poisson, each {unit} with the same probability in every step, as the accountant assumes; probability and "
        f"number of {unit}s: "
        + by_silo(lambda guarantee: f"{guarantee.training.sample_rate:.3g}, {guarantee.protected.count}")
    )
    yield (
        "steps: fixed before training, and all of them charged: "
        + by_silo(lambda guarantee: _steps(guarantee.training))
    )
    yield (
        "accounting: one ledger for each silo, which reserves the whole run before its first round: "
        + by_silo(_cost)
    )
    yield f"what leaves: {_leaves(examined)}"
    if any(guarantee.releases.summaries for guarantee in guarantees.values()):
        yield f"summaries: one bounded vector a {unit}, summed with noise and charged: {by_silo(_summaries)}"
    yield (
        "preparation: each row independently of the others; the split follows row positions; constants are declared, or "
        f"released with noise and charged: {by_silo(lambda guarantee: _preparation(examined, guarantee))}"
    )
    model = examined.study.experiment.model.name
    if examined.tried:
        yield (
            f"per-example gradients: checked for {model} and its losses with synthetic rows, no record affects another's gradient; "
            "checked again every round"
        )
    else:
        yield f"per-example gradients: not checked here, because {model} is slow; checked every round before training"


def _cost(guarantee: PrivacyGuarantee) -> str:
    return f"at most epsilon {format_epsilon(guarantee.epsilon)} at delta {format_delta(guarantee.delta)}"


def _steps(training: PrivateTraining) -> str:
    return f"{training.all_steps} in all, {training.steps_a_round} in each of {training.rounds} rounds"


def _leaves(examined: Examined) -> str:
    study, guarantees = examined.study, examined.guarantees
    count = sum(map(study.trainer.partition.leaves, study.trainer.partition.roles))
    released = {
        "noisy steps": any(guarantee.training.all_steps for guarantee in guarantees.values()),
        "noisy statistics": any(guarantee.releases.statistics for guarantee in guarantees.values()),
        "noisy summaries": any(guarantee.releases.summaries for guarantee in guarantees.values()),
    }
    noisy = " and ".join(name for name, leaves in released.items() if leaves)
    text = (
        f"{count} tensors, which depend on the rows only through {noisy}; no loss, no error message and no number of rows (which "
        "is public under the guarantee, and follows from the noise)"
    )
    if not any(guarantee.releases.accuracy for guarantee in guarantees.values()):
        return f"{text}, and no accuracy"
    unit = next(iter(guarantees.values())).protected.unit
    accuracies = _by_silo(guarantees, _accuracy)
    return (
        f"{text}; and in each round an accuracy on validation {unit}s, with noise and charged: {accuracies}"
    )


def _summaries(guarantee: PrivacyGuarantee) -> str:
    return ", ".join(
        f"{one.name} of length at most {one.bound:.3g}, noise multiplier {one.noise_multiplier:.3g}, "
        + ("in every round" if one.every_round else "once")
        for one in guarantee.releases.summaries
    )


def _accuracy(guarantee: PrivacyGuarantee) -> str:
    accuracy = guarantee.releases.accuracy
    return "none" if accuracy is None else f"± {accuracy.mean_noise_std:.2g} on {accuracy.units}"


def _preparation(examined: Examined, guarantee: PrivacyGuarantee) -> str:
    data = examined.study.data(guarantee.account.dataset)
    labels = (
        f"{len(data.classes)} classes {data.origins.classes}" if data.classes else "scale of labels declared"
    )
    return f"{labels}, scale of inputs {data.origins.scale}"


def _by_silo(guarantees: Guarantees, describe: Callable[[PrivacyGuarantee], str]) -> str:
    """Return the description of each silo; silos with the same one together."""
    names: dict[str, list[str]] = {}
    for name, guarantee in guarantees.items():
        names.setdefault(describe(guarantee), []).append(name)
    return "; ".join(f"{', '.join(silos)}: {text}" for text, silos in names.items())
