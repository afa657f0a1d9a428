"""What an experiment that would be trained promises, with the numbers of each silo. No line here may be false."""

from collections.abc import Callable, Iterator, Mapping

from fedtl.experiment.lint.dry_run import Examined
from fedtl.privacy.guarantee import PrivacyGuarantee

Promises = Mapping[str, PrivacyGuarantee]


def holds(found: Examined) -> Iterator[str]:
    """Nothing where noise can be drawn again, for then nothing is promised."""
    its = found.guarantees
    if not its or any(guarantee.seed is not None for guarantee in its.values()):
        return
    unit = next(iter(its.values())).protected.unit
    yield (
        "noise: on every step, never 0, keyed by the operating system and never by a seed; times the clip: "
        + _each(its, lambda one: f"{one.training.noise_multiplier:.3g} of {one.training.clip:g}")
    )
    yield (
        f"sampling: each {unit} by its own coin (Poisson), no batches of shuffled rows; booked with the same chance: "
        + _each(its, lambda one: f"{one.training.sample_rate:.3g} of {one.protected.count}")
    )
    yield (
        "steps: fixed beforehand whatever a sample holds, and as many as are booked: "
        + _each(
            its,
            lambda one: (
                f"{one.training.all_steps} in all, {one.training.steps_a_round} in each of {one.training.rounds} rounds"
            ),
        )
    )
    yield (
        f"accounting: one ledger a silo for all rounds of a run, which charges the whole run before its first round; the engine "
        f"({found.study.experiment.engine.name}) has none to begin anew: "
        + _each(its, lambda one: f"at most epsilon {one.epsilon:.3f} at delta {one.delta:.1e}")
    )
    yield f"what leaves: {_leaves(found)}"
    yield (
        "preparation: each row by itself; the split follows positions; what rows are prepared with is declared, or released "
        f"with noise and charged: {_each(its, lambda one: _prepared(found, one))}"
    )
    name = found.study.experiment.model.name
    if found.tried:
        yield f"records: they stay apart in {name} and its losses, as a step on rows of nobody showed; every round asks again"
    else:
        yield f"records: {name} takes long and was not tried here; every round asks whether they stay apart before it trains"


def _leaves(found: Examined) -> str:
    study, its = found.study, found.guarantees
    roles = study.trainer.partition.roles.values()
    count = sum(role in study.method.shared for role in roles)
    refreshed = any(one.releases.statistics for one in its.values())
    moved = "noisy steps and noisy statistics" if refreshed else "noisy steps"
    text = f"{count} tensors, which rows move by {moved} alone; no loss, no words of an error, and no number of rows (it is public under the claim, and follows from the noise)"
    if not any(one.releases.accuracy for one in its.values()):
        return f"{text}, and no accuracy"
    told = _each(
        its,
        lambda one: (
            f"± {one.releases.accuracy.mean_noise_std:.2g} on {one.releases.accuracy.units}"
            if one.releases.accuracy
            else "none"
        ),
    )
    return f"{text}; and once a round an accuracy of validation {next(iter(its.values())).protected.unit}s, noisy and charged: {told}"


def _prepared(found: Examined, one: PrivacyGuarantee) -> str:
    data = found.study.data(one.account.dataset)
    classes = (
        f"{len(data.classes)} classes {data.origins.classes}" if data.classes else "labels' scale declared"
    )
    return f"{classes}, inputs' scale {data.origins.scale}"


def _each(guarantees: Promises, text: Callable[[PrivacyGuarantee], str]) -> str:
    """What is said of each silo; those of which the same is said stand together."""
    said: dict[str, list[str]] = {}
    for name, guarantee in guarantees.items():
        said.setdefault(text(guarantee), []).append(name)
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in said.items())
