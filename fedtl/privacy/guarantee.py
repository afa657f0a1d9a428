"""
What a silo has promised about its rows before the first round, as numbers. Nothing later, and nobody else, changes
them: composition over rounds is only sound for a schedule that was fixed in advance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from fedtl._util.randomness import address
from fedtl.messages import SpendEvent
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.dp_accuracy import Metric
from fedtl.privacy.dp_adabn import Release
from fedtl.privacy.noise import Noise
from fedtl.privacy.rows import RowSet


@dataclass(frozen=True)
class StatisticsRelease:
    """DP-AdaBN, once, before the first round's training: its release, and the norms of the body that it is about."""

    release: Release
    layers: tuple[str, ...]

    @property
    def event(self) -> SpendEvent:
        return SpendEvent(self.release.noise_multiplier, 1.0, 1)


@dataclass(frozen=True)
class PrivacyGuarantee:
    """
    ``records`` n, declared public: how many there are of the ``unit`` that is protected, a record, or all rows of, say,
    a patient. A step takes each of them with probability ``sample_rate`` and has noise of
    ``noise_multiplier`` times ``clip``; ``steps``: how many a round has, one number a phase. ``epsilon`` and
    ``delta``: what ``rounds`` such rounds, the refresh and the released metric come to, for zero-out adjacency.

    ``book``: the ledger, kept for ``dataset``, whose ``rows`` are these; ``lifetime`` is the most that may ever be charged
    to it. ``seed`` None: the noise is the operating system's; a number is for debugging only.
    ``canaries``: records of nobody that train beside the others, for an audit.
    """

    book: Path
    dataset: str
    rows: RowSet = field(repr=False)
    lifetime: tuple[float, float]
    records: int
    clip: float
    noise_multiplier: float
    sample_rate: float
    steps: tuple[int, ...]
    rounds: int
    epsilon: float
    delta: float
    unit: str = "record"
    refresh: StatisticsRelease | None = None
    metric: Metric | None = None
    seed: int | None = field(default=None, repr=False)
    canaries: Canaries | None = None

    @property
    def expected_batch(self) -> float:
        return self.sample_rate * self.records

    def events(self, first: bool) -> tuple[SpendEvent, ...]:
        """What one round costs; the refresh comes with the first."""
        trained = tuple(
            SpendEvent(self.noise_multiplier, self.sample_rate, steps) for steps in self.steps if steps
        )
        asked = (self.metric.event,) if self.metric else ()
        return (*((self.refresh.event,) if first and self.refresh else ()), *asked, *trained)

    def schedule(self) -> tuple[SpendEvent, ...]:
        """What all rounds cost together."""
        total = self.rounds * sum(self.steps)
        trained = (SpendEvent(self.noise_multiplier, self.sample_rate, total),) if total else ()
        asked = (replace(self.metric.event, steps=self.rounds),) if self.metric else ()
        return (*((self.refresh.event,) if self.refresh else ()), *asked, *trained)

    def random(self, *purpose: str | int) -> Noise:
        """A stream of its own for each purpose."""
        return Noise() if self.seed is None else Noise.reproducible(address("debug", self.seed, *purpose))


def steps(records: int, batch: int, epochs: Sequence[int]) -> tuple[int, ...]:
    """A fixed number of steps a phase: as many as its epochs would have batches."""
    return tuple(count * -(-records // min(batch, records)) for count in epochs)


def divided(total: int, epochs: Sequence[int]) -> tuple[int, ...]:
    """``total`` steps over the phases, as their epochs stand to each other; zeros where none has any."""
    ends = [total * sum(epochs[:phase]) // max(1, sum(epochs)) for phase in range(len(epochs) + 1)]
    return tuple(end - begin for begin, end in pairwise(ends))
