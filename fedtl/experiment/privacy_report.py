"""A privacy guarantee as it is published: in results, in ``fedtl show``, and on the pages of a site."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from fedtl.experiment.config.schema import PrivacySettings
from fedtl.privacy import accounting
from fedtl.privacy.guarantee import PrivacyGuarantee
from fedtl.privacy.ledger_reading import read_ledger
from fedtl.privacy.verify import study_costs
from fedtl.results.privacy import PrivacyReport, SiloPrivacy

MAX_ACCURACY_NOISE = 0.1  # standard deviation; with more noise a released accuracy says little
MAX_STATISTICS_NOISE = 0.5  # in standard deviations of the channel; with more noise statistics say little


def privacy_warnings(guarantees: Iterable[PrivacyGuarantee]) -> list[str]:
    """Return a line for each kind of release that is too noisy to be of use, with all silos where it is."""
    silos = sorted(guarantees, key=lambda guarantee: guarantee.account.dataset)
    return [*_noisy_accuracies(silos), *_noisy_statistics(silos)]


def _noisy_accuracies(silos: Sequence[PrivacyGuarantee]) -> Iterator[str]:
    noisy = {
        one.account.dataset: accuracy
        for one in silos
        if (accuracy := one.releases.accuracy) is not None and accuracy.mean_noise_std > MAX_ACCURACY_NOISE
    }
    if noisy:
        noise = _range([accuracy.mean_noise_std for accuracy in noisy.values()], "{:.2f}")
        units = _range([accuracy.units for accuracy in noisy.values()], "{}")
        yield (
            f"{', '.join(noisy)}: the accuracy released in each round has noise of standard deviation {noise}, because there are "
            f"only {units} validation {silos[0].protected.unit}s; remove privacy.metrics or plan fewer rounds"
        )


def _noisy_statistics(silos: Sequence[PrivacyGuarantee]) -> Iterator[str]:
    noisy = {
        one.account.dataset: (statistics, one.protected.count)
        for one in silos
        if (statistics := one.releases.statistics) is not None
        and statistics.mean_noise_std > MAX_STATISTICS_NOISE
    }
    if noisy:
        noise = _range([statistics.mean_noise_std for statistics, _ in noisy.values()], "{:.2f}")
        units = _range([count for _, count in noisy.values()], "{}")
        channels = _range([sum(statistics.channels) for statistics, _ in noisy.values()], "{}")
        yield (
            f"{', '.join(noisy)}: the released statistics of {channels} channels have noise of {noise} standard deviations, because "
            f'there are only {units} {silos[0].protected.unit}s; list fewer privacy.stages, set privacy.statistics = "public", or '
            "use a backbone with GroupNorm or LayerNorm"
        )


def _range(values: Sequence[float], form: str) -> str:
    """Return "low to high", or one number where both are written alike."""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def adjacency(unit: str) -> str:
    """Return which datasets count as neighbours."""
    return f"zero-out of one {unit}, their number is public"


def privacy_report(settings: PrivacySettings) -> PrivacyReport:
    """Return what is guaranteed, without silos' numbers. With noise that can be drawn again nothing is private."""
    return PrivacyReport(
        private=settings.noise == "os",
        unit=settings.unit,
        adjacency=adjacency(settings.unit),
        statistics=settings.statistics,
        tuning=settings.tuning,
        metrics=tuple(settings.metrics),
    )


def silo_privacy(guarantee: PrivacyGuarantee) -> SiloPrivacy:
    """Return a guarantee as it is published, for the stewards who sign it and the auditors who check it."""
    training, protected = guarantee.training, guarantee.protected
    statistics, accuracy = guarantee.releases.statistics, guarantee.releases.accuracy
    summaries = guarantee.releases.summaries  # all of one noise multiplier
    return SiloPrivacy(
        epsilon=guarantee.epsilon,
        delta=guarantee.delta,
        epsilon_replace_one=accounting.epsilon(guarantee.schedule(), guarantee.delta, replace_one=True),
        unit=protected.unit,
        adjacency=adjacency(protected.unit),
        units=protected.count,
        clip=training.clip,
        noise_multiplier=training.noise_multiplier,
        sample_rate=training.sample_rate,
        steps_a_round=training.steps_a_round,
        rounds=training.rounds,
        metric_noise=None if accuracy is None else accuracy.noise_multiplier,
        metric_expected_noise=None if accuracy is None else accuracy.mean_noise_std,
        statistics_noise=None if statistics is None else statistics.noise_multiplier,
        statistics_expected_noise=None if statistics is None else statistics.mean_noise_std,
        summary_noise=summaries[0].noise_multiplier if summaries else None,
        summary_expected_noise=max(one.mean_noise_std for one in summaries) if summaries else None,
    )


def spent_privacy(guarantee: PrivacyGuarantee, study: str) -> SiloPrivacy:
    """
    Return the guarantee with the epsilon that a study took from the ledger: the whole epsilon of its plan from its first
    round on, even if it ended early; 0 where no round was charged. Raises LedgerDamaged.
    """
    planned = silo_privacy(guarantee)
    cost = study_costs(read_ledger(guarantee.account.path, guarantee.account.dataset)).get(study)
    if cost is None:
        return replace(planned, epsilon=0.0, epsilon_replace_one=0.0, epsilon_charged=0.0)
    return replace(planned, epsilon=cost.epsilon, epsilon_charged=cost.charged)
