"""
The differential privacy guarantee of one silo: what is protected, how it is trained, what else is released, and which
ledger is charged. All of it is fixed before the first round, because composition over rounds by privacy loss
distributions is only valid for a schedule that was fixed in advance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from fedtl._util.randomness import address
from fedtl.messages import SpendEvent
from fedtl.privacy.budget import Plan
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.dp_accuracy import AccuracyRelease
from fedtl.privacy.dp_adabn import StatisticsRelease
from fedtl.privacy.dp_sgd import NoisySum
from fedtl.privacy.dp_summary import SummaryRelease
from fedtl.privacy.ledger import LedgerAccount
from fedtl.privacy.noise import Noise


@dataclass(frozen=True)
class ProtectedUnits:
    """
    What a neighbouring dataset lacks: one ``unit``, which is a record, or all rows of, for example, one patient. ``count``:
    how many units the training rows hold, which is declared public.
    """

    count: int
    unit: str = "record"

    @property
    def are_records(self) -> bool:
        return self.unit == "record"


@dataclass(frozen=True)
class PrivateTraining:
    """
    DP-SGD: a step takes each unit with probability ``sample_rate`` and adds noise of standard deviation
    ``noise_multiplier`` times ``clip``. ``steps``: the number of steps in one round, for each phase of the method.
    """

    clip: float
    noise_multiplier: float
    sample_rate: float
    steps: tuple[int, ...]
    rounds: int

    @property
    def steps_a_round(self) -> int:
        return sum(self.steps)

    @property
    def all_steps(self) -> int:
        return self.rounds * sum(self.steps)

    def event(self, steps: int) -> SpendEvent:
        return SpendEvent(self.noise_multiplier, self.sample_rate, steps)


@dataclass(frozen=True)
class Releases:
    """
    What leaves besides trained tensors: statistics, once before the first round; an accuracy in every round; and summaries,
    each once or in every round.
    """

    statistics: StatisticsRelease | None = None
    accuracy: AccuracyRelease | None = None
    summaries: tuple[SummaryRelease, ...] = ()

    def in_round(self, first: bool) -> "Releases":
        """Those that leave in one round; ``first``: the silo's first one of the study."""
        summaries = tuple(summary for summary in self.summaries if first or summary.every_round)
        return Releases(self.statistics if first else None, self.accuracy, summaries)

    @property
    def events(self) -> tuple[SpendEvent, ...]:
        """The cost of each of them once."""
        return (
            *((self.statistics.event,) if self.statistics else ()),
            *((self.accuracy.event,) if self.accuracy else ()),
            *(summary.event for summary in self.summaries),
        )

    def in_all(self, rounds: int) -> tuple[SpendEvent, ...]:
        """What all rounds release together."""
        return (
            *((self.statistics.event,) if self.statistics else ()),
            *((replace(self.accuracy.event, steps=rounds),) if self.accuracy else ()),
            *(
                replace(summary.event, steps=rounds if summary.every_round else 1)
                for summary in self.summaries
            ),
        )


@dataclass(frozen=True)
class PrivacyGuarantee:
    """
    The guarantee of one silo. ``epsilon`` and ``delta`` bound all rounds together, ``releases`` included, for zero-out
    adjacency.

    ``seed`` None: the noise comes from the operating system; a number makes it reproducible, for debugging only.
    ``canaries``: synthetic records that train with the others, for an audit.
    """

    account: LedgerAccount
    protected: ProtectedUnits
    training: PrivateTraining
    releases: Releases
    epsilon: float
    delta: float
    seed: int | None = field(default=None, repr=False)
    canaries: Canaries | None = None

    @property
    def expected_batch(self) -> float:
        return self.training.sample_rate * self.protected.count

    @property
    def noisy_sum(self) -> NoisySum:
        """What one training step releases."""
        return NoisySum(self.training.clip, self.training.noise_multiplier, self.expected_batch)

    def events(self, first: bool) -> tuple[SpendEvent, ...]:
        """What one round costs; the ``first`` round includes what is released once."""
        steps = (self.training.event(steps) for steps in self.training.steps if steps)
        return (*self.releases.in_round(first).events, *steps)

    def schedule(self) -> tuple[SpendEvent, ...]:
        """What all rounds cost together."""
        training = self.training
        steps = (training.event(training.all_steps),) if training.all_steps else ()
        return (*self.releases.in_all(training.rounds), *steps)

    def plan(self) -> Plan:
        """What a study under this guarantee takes from the budget."""
        return Plan(self.epsilon, self.delta, self.schedule())

    def random(self, *purpose: str | int) -> Noise:
        """A separate stream of random numbers for each purpose."""
        return Noise() if self.seed is None else Noise.reproducible(address("debug", self.seed, *purpose))


def steps_of_epochs(records: int, batch: int, epochs: Sequence[int]) -> tuple[int, ...]:
    """Return the steps of each phase: the number of batches that its epochs would have."""
    return tuple(count * -(-records // min(batch, records)) for count in epochs)


def divide_steps(total: int, epochs: Sequence[int]) -> tuple[int, ...]:
    """Divide ``total`` steps over the phases in proportion to their epochs; zeros if no phase has any."""
    ends = [total * sum(epochs[:phase]) // max(1, sum(epochs)) for phase in range(len(epochs) + 1)]
    return tuple(end - begin for begin, end in pairwise(ends))
