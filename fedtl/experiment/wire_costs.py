"""What compression saves and costs in a comparison: each form of the messages next to the same method without compression."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedtl.experiment.scores import Results, Scores
from fedtl.experiment.uncertainty import Measurement, mean_of
from fedtl.experiment.verdicts import gain_of
from fedtl.methods.wire import FLOAT32
from fedtl.results.comparison import WireCost
from fedtl.tasks.metrics import METRICS


def form_label(name: str, form: str) -> str:
    """Return the label of a method's further column, in which weights are sent in another form than ``[wire]`` says."""
    return f"{name}, {form}"


def further_forms(results: Results) -> frozenset[str]:
    """Return the labels of those columns."""
    forms = {label: runs[0].wire for label, runs in results.items()}
    return frozenset(
        label for label, form in forms.items() if label.removesuffix(f", {form}") in forms.keys() - {label}
    )


def wire_costs(
    results: Results, scores: Scores, metric: str, margins: Mapping[str, float]
) -> dict[str, WireCost]:
    """
    Return what compression saves and costs, by the label of each column with it whose method has one without. ``margins``: by
    silo, up to which difference methods are as good as each other.
    """
    costs: dict[str, WireCost] = {}
    for label, runs in results.items():
        name = label.removesuffix(f", {runs[0].wire}")
        others = [other for other in (form_label(name, FLOAT32.dtype), name) if other in results]
        in_full = next((other for other in others if results[other][0].wire == FLOAT32.dtype), None)
        if runs[0].wire == FLOAT32.dtype or in_full is None:
            continue
        lost = _differences(scores, label, in_full, metric)
        margin = float(np.mean([margins[silo] for silo in scores.silos]))
        costs[label] = WireCost(
            form=runs[0].wire,
            in_full=in_full,
            bytes_up=_mean([run.bytes_up for run in runs]),
            bytes_full=_mean([run.bytes_full for run in runs]),
            gain=gain_of(mean_of(lost), margin) if lost else None,
        )
    return costs


def _differences(scores: Scores, label: str, in_full: str, metric: str) -> list[Measurement]:
    """Return by how much the compressed column is better than the other at each silo where both are measured."""
    pairs = (
        (scores.measured[label].get(silo, {}).get(metric), scores.measured[in_full].get(silo, {}).get(metric))
        for silo in scores.silos
    )
    differences = [mine.minus(other) for mine, other in pairs if mine is not None and other is not None]
    return [one.negative() for one in differences] if METRICS[metric].lower_is_better else differences


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values))
