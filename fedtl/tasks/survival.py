"""Survival: when an event happens, where for some rows it is known only that it had not happened until a time (censored)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.tasks.base import LearningTask, TaskSettings, Values
from fedtl.tasks.hazards import hazard_losses, hazard_scores, survivals

TIME, EVENT = 0, 1  # the columns of y [N, 2]


class TimeToEvent(LearningTask):
    """Labels [N, 2]: the time until the event or until censoring, and 1 for an event, 0 for a censored row."""

    needs = "a time above 0 and an event of 0 or 1"
    exact_labels = True  # float32 has 128 s between two times of today in seconds since 1970
    main = "concordance"

    def columns(self, settings: TaskSettings) -> tuple[str, ...]:
        return (settings.label, settings.event)

    def label_shape(self, settings: TaskSettings) -> tuple[int, ...]:
        return (2,)

    def valid(self, y: Values) -> NDArray[np.bool_]:
        time, event = y[:, TIME], y[:, EVENT]
        return np.asarray(np.isfinite(time) & (time > 0) & ((event == 0) | (event == 1)))

    def risks(self, scores: Values) -> Values:
        """Return a number for each row [N] that is the larger, the earlier its event is expected."""
        return scores[:, 0]

    def why_undefined(self, metric: str, scores: Tensor, y: Tensor) -> str:
        return f"the {len(y)} rows have {int(y[:, EVENT].sum())} events, and no two rows can be compared"


@dataclass(frozen=True)
class Survival(TimeToEvent):
    """
    Hazards in time intervals (Brown, 1975; Gensheimer and Narasimhan, 2019): score k is the logit of the probability of an event
    until ``horizons[k]``, given none until the horizon before. The loss is the negative log-likelihood of each row by itself: a
    censored row has passed the horizons until its time, and an event after the last horizon passes all. Models are mixed by the
    mean of their survival curves.
    """

    horizons: tuple[float, ...]

    name = "survival"
    about = "time (data.label) until data.event; hazards until each of data.horizons"
    metrics = ("concordance", "brier", "calibration", "loss")
    script = """\
HEADS = [f"survival({end})" for end in ABOUT["outputs"]]

def averaged(out):  # probabilities of no event until each horizon
    return torch.nn.functional.logsigmoid(-out).cumsum(1).exp()

def answer(row):  # the expected time without an event until the last horizon comes first
    ends, curve = [0.0, *map(float, ABOUT["outputs"])], [1.0, *row]
    parts = zip(curve, curve[1:], ends, ends[1:])
    return [sum((before + after) / 2 * (end - start) for before, after, start, end in parts), *row]
"""
    constant = "the survival curve of all rows"

    @classmethod
    def of(cls, settings: TaskSettings) -> "Survival":
        return cls(tuple(settings.horizons))

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        return tuple(repr(end) if end % 1 else f"{end:.0f}" for end in self.horizons)

    def width(self, classes: Sequence[str]) -> int:
        return max(len(self.horizons), 1)

    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        ends = torch.tensor(self.horizons, dtype=y.dtype).to(y.device, non_blocking=True)
        time, event = y[:, TIME].nan_to_num().contiguous(), y[:, EVENT] == 1
        before, until = torch.searchsorted(ends, time), torch.searchsorted(ends, time, right=True)
        return hazard_losses(scores, torch.where(event, before, until), event)

    def averaged(self, scores: Tensor) -> Tensor:
        return survivals(scores)

    def scores_of(self, average: Tensor) -> Tensor:
        return hazard_scores(average)

    def curves(self, scores: Values) -> Values:
        """Return the probability of no event until each horizon [N, K]."""
        return np.asarray(survivals(torch.from_numpy(scores)).numpy())

    def risks(self, scores: Values) -> Values:
        """
        Return minus the area under the survival curve until the last horizon. The curve is straight between two horizons. It
        begins with 1 at a time before the first horizon, at the distance of the first two horizons. So adding a constant to all times
        leaves the order of risks unchanged, which the expected time, counted from 0, would not.
        """
        return -self._area(scores, 2 * self.horizons[0] - self.horizons[1] if len(self.horizons) > 1 else 0.0)

    def _area(self, scores: Values, start: float) -> Values:
        """Return the area [N] under the survival curve from ``start``, where it is 1, until the last horizon."""
        curves = np.insert(self.curves(scores), 0, 1.0, axis=1)
        return np.asarray(np.trapezoid(curves, [start, *self.horizons], axis=1))

    def constant_scores(self, y: Tensor, width: int) -> Tensor:
        """Return the logit of (events + 1) / (at risk + 2) in each interval."""
        ends = torch.tensor(self.horizons, dtype=y.dtype)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        time, event = y[:, TIME, None], y[:, EVENT, None] == 1
        ended = (event & (time > starts) & (time <= ends)).sum(0)
        passed = torch.where(event, time > ends, time >= ends).sum(0)
        return ((ended + 1.0) / (ended + passed + 2.0)).logit()

    def answers(self, scores: Tensor, classes: Sequence[str]) -> list[Mapping[str, str | float]]:
        names = [f"survival({end})" for end in self.outputs(classes)]
        curves = survivals(scores.double()).tolist()
        times = self._area(scores.double().numpy(), 0.0).tolist()  # expected until the last horizon
        return [
            {"prediction": time, **dict(zip(names, own, strict=True))}
            for time, own in zip(times, curves, strict=True)
        ]

    def synthetic(self, count: int, classes: Sequence[str], generator: torch.Generator) -> Tensor:
        time = 1.2 * self.horizons[-1] * (torch.rand(count, generator=generator) + 1e-3)
        return torch.stack([time, (torch.arange(count) % 2).float()], 1)
