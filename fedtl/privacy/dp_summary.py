"""
A summary under differential privacy: the mean of one bounded vector a unit, with noise, as one Gaussian mechanism of sample
rate 1. The number of units is public, so the noisy sum is divided by it and no count is released.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from fedtl.messages import SpendEvent
from fedtl.privacy.canaries import CanarySums
from fedtl.privacy.noise import Noise
from fedtl.privacy.unit_vectors import clipped, unit_means


@dataclass(frozen=True)
class SummaryRelease:
    """
    The release of the summary ``name``, whose vectors are at most ``bound`` long (in L2, over all entries together), over
    ``units`` units; once, in the silo's first round, or in ``every_round``.

    A unit that is left out changes the sum by its one vector, so the sensitivity is ``bound``, and the noise on each entry of
    the sum has the standard deviation sigma bound: a Gaussian mechanism of noise multiplier sigma.
    """

    name: str
    noise_multiplier: float
    bound: float
    units: int
    every_round: bool = True

    @property
    def event(self) -> SpendEvent:
        return SpendEvent(self.noise_multiplier, 1.0, 1)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on an entry of the sum."""
        return self.noise_multiplier * self.bound

    @property
    def mean_noise_std(self) -> float:
        """Standard deviation of the noise on an entry of the mean."""
        return self.noise_std / self.units


def noisy_mean(
    parts: Iterable[tuple[Tensor, Tensor | None]], release: SummaryRelease, noise: Noise, canaries: CanarySums
) -> Tensor:
    """
    Return the noisy mean over units of vectors [B, ...]. ``parts`` yields them with each row's unit number (None: every row
    is a unit); a unit of several rows counts as their mean. ``canaries`` take entries after the vector's own.
    """
    shape: list[int] = []

    def flat() -> Iterable[tuple[Tensor, Tensor | None]]:
        for vectors, units in parts:
            shape[:] = vectors.shape[1:]
            yield vectors.flatten(1), units

    extended = canaries.append_to(unit_means(flat()), release.bound)
    sums = (clipped(part, release.bound).double().sum(0) for part in extended)
    total = next(sums)
    for part in sums:
        total = total + part
    noisy = canaries.remove_from(noise.add(total, release.noise_std), release.bound, release.noise_std)
    return (noisy / release.units).view(shape).float()
