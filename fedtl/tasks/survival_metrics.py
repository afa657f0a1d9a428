"""Metrics of survival, with a weight on each row. Labels are [N, 2]: time and event. See ``row_metrics``."""

import numpy as np
from numpy.typing import NDArray

from fedtl.tasks.row_metrics import Answers, Floats, ratio

MAX_PAIRS = 4_000_000  # compared at once


def concordance(answers: Answers, weights: Floats) -> Floats:
    """
    Return Harrell's C (1982): the share of pairs in which the row with the earlier event has the larger risk; equal risks count
    half. A pair is a row with an event and a row whose time is later, or equal and censored; the same
    model answered both.
    """
    time, event = _labels(answers)
    risk, ordered, pairs = _risks(answers), np.zeros(len(weights)), np.zeros(len(weights))
    models = answers.models if len(answers.models) else np.zeros(len(time), int)
    events = np.flatnonzero(event)
    for part in np.array_split(events, max(1, len(events) * len(time) // MAX_PAIRS)):
        later = time[part, None] < time
        later |= (time[part, None] == time) & ~event
        later &= models[part, None] == models
        gap = risk[part, None] - risk
        wins = later * ((gap > 0) + 0.5 * (gap == 0))
        ordered += ((weights[:, part] @ wins) * weights).sum(1)
        pairs += ((weights[:, part] @ later.astype(float)) * weights).sum(1)
    return np.asarray(ordered / np.where(pairs > 0, pairs, np.nan))


def brier(answers: Answers, weights: Floats) -> Floats:
    """
    Return the mean over horizons h of the Brier score of Graf et al. (1999): (S(h)^2 [event until h] / G(t-) + (1 - S(h))^2
    [t > h] / G(h)), with G the Kaplan-Meier estimate of not being censored on the same rows. A row that is censored until h counts
    through the weights of the others.
    """
    time, event = _labels(answers)
    not_censored, before = _kaplan_meier(time, event, weights, of_events=False)
    scores = []
    for curve, end in zip(_curves(answers).T, _horizons(answers), strict=True):
        ended, going = event & (time <= end), time > end
        at_end = _value_at(not_censored, time, end)
        early = np.where(ended, curve**2, 0) / np.where(ended & (before > 0), before, 1)
        late = np.where(going, (1 - curve) ** 2, 0) / np.where(at_end > 0, at_end, np.nan)[:, None]
        late = late if going.any() else np.zeros_like(early)
        scores.append((weights * (early + late)).sum(1) / weights.sum(1))
    return np.asarray(np.mean(scores, 0))


def calibration(answers: Answers, weights: Floats) -> Floats:
    """Return the mean over horizons of the distance between the mean predicted survival and the Kaplan-Meier estimate."""
    time, event = _labels(answers)
    survival, _ = _kaplan_meier(time, event, weights, of_events=True)
    gaps = [
        np.abs(ratio(weights, curve, np.ones(len(time))) - _value_at(survival, time, end))
        for curve, end in zip(_curves(answers).T, _horizons(answers), strict=True)
    ]
    return np.asarray(np.mean(gaps, 0))


def cox_loss(answers: Answers, weights: Floats) -> Floats:
    """Return the negative log partial likelihood per row; each row counts in risk sets with its weight."""
    time, event = _labels(answers)
    order = np.argsort(-time, kind="stable")
    risk = answers.scores[order, 0]
    top = risk.max()
    sums = (weights[:, order] * np.exp(risk - top)).cumsum(1)
    last = np.searchsorted(-time[order], -time[order], side="right") - 1
    each = np.log(np.where(sums[:, last] > 0, sums[:, last], 1.0)) + top - risk
    return np.asarray((weights[:, order] * event[order] * each).sum(1) / weights.sum(1))


def _labels(answers: Answers) -> tuple[Floats, NDArray[np.bool_]]:
    return answers.y[:, 0].astype(float), answers.y[:, 1] == 1


def _kaplan_meier(
    time: Floats, event: NDArray[np.bool_], weights: Floats, of_events: bool
) -> tuple[Floats, Floats]:
    """
    Return two weighted Kaplan-Meier estimates [R, N]: the probability of passing the time of each row, in the order of times; and of
    passing all times before that of each row, in the order of the rows. ``of_events``: passing means that no event occurs; otherwise
    that no censoring occurs, where an event at the same time comes first.
    """
    order = np.lexsort((~event, time))
    sorted_weights, ends = weights[:, order], (event if of_events else ~event)[order]
    at_risk = sorted_weights[:, ::-1].cumsum(1)[:, ::-1]
    steps = 1 - sorted_weights * ends / np.where(at_risk > 0, at_risk, 1)
    passed = np.where(steps > 1e-12, steps, 0).cumprod(1)
    before = np.empty_like(passed)
    before[:, order] = np.concatenate([np.ones((len(weights), 1)), passed[:, :-1]], 1)
    return passed, before


def _value_at(passed: Floats, time: Floats, end: float) -> Floats:
    """Return the estimate [R] at a time."""
    count = int((time <= end).sum())
    return passed[:, count - 1] if count else np.ones(len(passed))


def _risks(answers: Answers) -> Floats:
    from fedtl.tasks.survival import TimeToEvent

    assert isinstance(answers.task, TimeToEvent)
    return answers.task.risks(answers.scores)


def _curves(answers: Answers) -> Floats:
    from fedtl.tasks.survival import Survival

    assert isinstance(answers.task, Survival)
    return answers.task.curves(answers.scores)


def _horizons(answers: Answers) -> tuple[float, ...]:
    from fedtl.tasks.survival import Survival

    assert isinstance(answers.task, Survival)
    return answers.task.horizons
