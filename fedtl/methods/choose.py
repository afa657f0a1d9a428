"""Which mix of its candidate models a silo uses. The silo chooses on its validation rows, after the last round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from torch import Tensor

from fedtl.methods.candidate import Candidate
from fedtl.methods.interpolation import Interpolation
from fedtl.tasks.base import LearningTask

STEPS = 4  # weights are multiples of 1/4
CONFIDENCE = 0.975  # with which another mix must be better than the plain mean

Weights = tuple[float, ...]  # one a candidate; they sum to 1


@dataclass(frozen=True)
class Choose:
    """
    A silo uses the plain mean of its candidates' probabilities (in regression of their values), unless its validation rows
    clearly say that another mix is better. The model before and the one after tuning are two of them: with few rows, tuning
    helps or harms by chance, and their mean is in between; where the rows tell them apart, one of them is left out (``kept``).

    A candidate that a method does not have is left out. ``interpolation``: between which models that candidate lies.
    """

    candidates: tuple[Candidate, ...] = (Candidate.OWN, Candidate.SHARED, Candidate.TUNED)
    interpolation: Interpolation = field(default_factory=Interpolation)

    @property
    def needs_own(self) -> bool:
        """Whether a silo must train a model alone."""
        between = Candidate.INTERPOLATED in self.candidates and Candidate.OWN in self.interpolation.ends
        return Candidate.OWN in self.candidates or between

    def __post_init__(self) -> None:
        if not self.candidates or len(set(self.candidates)) < len(self.candidates):
            raise ValueError("candidates: name at least one, and each only once")


def mixes(candidates: int) -> list[Weights]:
    """Return the weights of all mixes: the plain mean first, then all whose weights are multiples of 1/STEPS. ``candidates``: how many."""
    plain = (1 / candidates,) * candidates
    parts = product(range(STEPS + 1), repeat=candidates)
    others = [tuple(part / STEPS for part in one) for one in parts if sum(one) == STEPS]
    return [plain, *(weights for weights in others if weights != plain)]


def kept(losses: Mapping[Candidate, Tensor]) -> list[Candidate]:
    """
    Return the candidates that take part in the mix, in their order. ``losses``: of each on each validation row [N].

    Of the models before and after tuning, the one with the larger mean loss is left out where a paired one-sided t test says
    that it is worse; where no row tells them apart, they are one model, which takes part once. Without two validation rows, or
    where a loss is not finite, all take part.
    """
    pair = [name for name in (Candidate.SHARED, Candidate.TUNED) if name in losses]
    if len(pair) < 2:
        return list(losses)
    difference = (losses[pair[0]] - losses[pair[1]]).double()
    rows = len(difference)
    if rows < 2 or not bool(difference.isfinite().all()):
        return list(losses)
    if not bool(difference.any()):
        return [name for name in losses if name is not Candidate.SHARED]
    mean, error = float(difference.mean()), float(difference.std()) / rows**0.5
    if abs(mean) <= _quantile(rows) * error:
        return list(losses)
    return [name for name in losses if name is not pair[0 if mean > 0 else 1]]


def choose_mix(losses: Sequence[Tensor]) -> int:
    """
    Return the number of the mix to use. ``losses``: of each mix on each validation row [N]; the plain mean is mix 0.

    The mix with the lowest mean loss is taken if a paired one-sided t test on the rows says that it is better than the
    plain mean, otherwise the plain mean; without two validation rows always the plain mean. By the mean loss alone, the
    choice among M mixes would have an error rate of at most sqrt(log(M) / 2N) above that of the best of them, in
    expectation (Massart's lemma); the test only makes it choose less often.

    Where rows are few it is not cross-validated in addition. Leaving each row out in turn gives the same choice among the mixes of two
    models. Refits without a part of the training rows would favour the shared model, which has been trained on that part.
    """
    best = min(range(len(losses)), key=lambda number: float(losses[number].mean()))
    gain = (losses[0] - losses[best]).double()
    rows = len(gain)
    if rows < 2 or not bool(gain.isfinite().all()):
        return 0
    error = float(gain.std()) / rows**0.5
    return best if float(gain.mean()) > _quantile(rows) * error else 0


def _quantile(rows: int) -> float:
    """Return the quantile of a paired t test at CONFIDENCE. ``rows``: how many pairs it has."""
    from scipy.special import stdtrit  # takes a tenth of a second to import

    return float(stdtrit(rows - 1, CONFIDENCE))


def mixed_scores(scores: Sequence[Tensor], weights: Weights, task: LearningTask) -> Tensor:
    """Return the scores of a mix [N, width], as the task mixes them. One candidate alone keeps its scores."""
    used = [(part, weight) for part, weight in zip(scores, weights, strict=True) if weight]
    if len(used) == 1:
        return used[0][0]
    return task.mixed([part for part, _ in used], [weight for _, weight in used])
