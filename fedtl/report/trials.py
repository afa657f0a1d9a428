"""What makes a comparison fair, and how far it is: the settings that were tried, and the epochs of each method."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedtl.report.html import Cell, Grid, row
from fedtl.results.comparison import Comparison
from fedtl.results.tuning import Tuning

YARDSTICKS = {
    "local ensemble": "local ensemble: two models of a silo, trained alone on the same rows from two initial weights; the mean "
    "of their probabilities (in regression: of their values). It has twice the epochs of local",
    "constant": "constant: the same answer for every row, from the silo's training labels alone: the majority class, or in "
    "regression the mean",
}


def trial_lines(comparison: Comparison) -> list[str]:
    """Return how many settings each method tried on validation rows, which values, and what was chosen."""
    if not comparison.tuning:
        return []
    first = next(iter(comparison.tuning.values()))
    many = " and fold" if comparison.folds > 1 else ""
    each = f" under each seed{many}" if len(first) > 1 else f" with seed {first[0].seed}"
    chosen = "; ".join(f"{label} {_chosen(each)}" for label, each in comparison.tuning.items())
    return [
        f"settings: each method made {len(first[0].trials)} trials{each}, and kept the values with the lowest loss on "
        f"validation rows, the plain mean over silos. Tried: {_tried(comparison.tuning)}. Chosen: {chosen}"
    ]


def yardstick_lines(comparison: Comparison) -> list[str]:
    """Return what the yardsticks among the methods are."""
    return [text for label, text in YARDSTICKS.items() if label in comparison.methods]


def trials_grid(comparison: Comparison) -> Grid:
    """Every trial with its loss on validation rows."""
    rows: list[Sequence[Cell]] = []
    for label, tunings in comparison.tuning.items():
        for tuning in tunings:
            for trial in tuning.trials:
                loss = f"{trial.loss:.4f}" if trial.loss is not None else f"failed: {trial.failed}"
                chosen = "chosen" if trial.settings == tuning.chosen else ""
                run = f"{tuning.seed}, fold {tuning.fold}" if comparison.folds > 1 else tuning.seed
                rows.append(row(label, run, _values(trial.settings), loss, chosen))
    caption = "Settings that were tried: the loss on validation rows, the plain mean over silos"
    return Grid(caption, ["method", "seed", "values", "loss", ""], rows)


def _tried(tunings: Mapping[str, Sequence[Tuning]]) -> str:
    """Return each list of values once, with the methods that tried it where not all did."""
    lists: dict[str, list[str]] = {}
    for label, each in tunings.items():
        trials = each[0].trials
        for path in trials[0].settings:
            values = dict.fromkeys(json.dumps(trial.settings[path]) for trial in trials)
            text = f"{path} {', '.join(values)}"
            lists.setdefault(text, []).append(label)
    return "; ".join(
        text if len(labels) == len(tunings) else f"{text} ({', '.join(labels)})"
        for text, labels in lists.items()
    )


def _chosen(tunings: Sequence[Tuning]) -> str:
    values = dict.fromkeys(_values(tuning.chosen) for tuning in tunings)
    return " / ".join(values)


def _values(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {json.dumps(value)}" for path, value in settings.items())
