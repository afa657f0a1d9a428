"""
How a figure is written, and in what words. Knows metrics by name and nothing about where numbers come from.

An interval is always shown by its two ends: half a width would claim that it is symmetric, and that a figure could
lie above its largest value.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedtl.results.comparison import Averages, Comparison, Estimate, Interval
from fedtl.results.metrics import Measured
from fedtl.results.run import RunResult

IN_PERCENT = frozenset({"accuracy", "balanced_accuracy", "auc"})
TITLES = {
    "accuracy": "accuracy (%)",
    "balanced_accuracy": "balanced accuracy (%)",
    "auc": "AUC (%)",
    "r2": "R²",
    "rmse": "RMSE",
    "loss": "loss",
}
NAMED = 6  # places that a line still names
LARGE = 1e6  # from here on a number is written with an exponent
LATE_ROWS = {
    "as_received": "as it came",
    "adabn": "after AdaBN",
    "head": "own head, initial statistics",
    "head_adabn": "own head after AdaBN",
    "alone": "trained alone on the same labels",
}


@dataclass(frozen=True)
class Curve:
    """A mean over silos after 0, 1, 2, ... rounds of training, NaN where there is none; ``silos``: how many each is over."""

    values: Sequence[float]
    silos: Sequence[int]


def scale(metric: str) -> float:
    """What a value is multiplied with before it is shown."""
    return 100.0 if metric in IN_PERCENT else 1.0


def one(metric: str, value: float | None) -> str:
    """A value alone; a dash where it was not measured."""
    return "-" if value is None else _number(scale(metric) * value, _digits(metric))


def with_interval(metric: str, figure: Estimate | None) -> str:
    """A mean and the ends of its 95 % interval, which have one digit less: columns are narrow."""
    if not figure:
        return "-"
    text = one(metric, figure.mean)
    if figure.ci95:
        low, high = (_number(scale(metric) * bound, _digits(metric) - 1) for bound in figure.ci95)
        text += f" {low}…{high}"
    return text


def short_difference(metric: str, gain: float, bounds: Interval | None) -> str:
    """``difference`` for a narrow column: the ends have one digit less, but keep their signs ("-9…-0" is below zero)."""
    text = _signed(metric, gain)
    if bounds:
        text += f" {'…'.join(f'{scale(metric) * bound:+.{_digits(metric) - 1}f}' for bound in bounds)}"
    return text


def mean_of(metric: str, averages: Averages | None) -> str:
    """A mean over seeds; a dash where it was not measured."""
    figures = averages.figures if averages else {}
    return one(metric, figures[metric].mean if metric in figures else None)


def over_silos(count: int | None, silos: int) -> str:
    """What stands behind a mean or a worst that is over fewer silos than the table has: " (2 of 35)"."""
    return "" if count is None or count == silos else f" ({count} of {silos})"


def absences(metric: str, reasons: Mapping[str, str]) -> list[str]:
    """Why a figure is a dash. ``reasons``: by where; a line for each reason."""
    places: dict[str, list[str]] = {}
    for where, reason in reasons.items():
        places.setdefault(reason, []).append(where)
    return [
        f"no {TITLES[metric].removesuffix(' (%)')} at {_listed(those)}: {reason}"
        for reason, those in places.items()
    ]


def absences_of_run(result: RunResult) -> list[str]:
    """Why figures of the shown columns are dashes; of the second domain and of late silos, the main figure."""
    main = {silo: its.measured for silo, its in result.silos.items()}
    found = [line for metric in shown(main.values()) for line in absences(metric, _lacking(metric, main))]
    target = {f"{silo}, second domain": its.target for silo, its in result.silos.items() if its.target}
    joined = {
        f"{silo}, {LATE_ROWS[row]}": its for silo, rows in result.late.items() for row, its in rows.items()
    }
    return found + absences(result.metric, _lacking(result.metric, target | joined))


def absences_of_runs(comparison: Comparison) -> list[str]:
    """Why figures of a comparison's table are dashes; methods are named where only some lack one."""
    metric = comparison.metric
    reasons: dict[str, str] = {}
    for silo in silos_of(comparison):
        lacking = {
            method: its[silo][metric]
            for method, its in comparison.absent.items()
            if metric in its.get(silo, {})
        }
        if len(lacking) == len(comparison.methods) and len(set(lacking.values())) == 1:
            reasons[silo] = next(iter(lacking.values()))
        else:
            reasons |= {f"{silo} under {method}": reason for method, reason in lacking.items()}
    second = {
        f"{silo}, second domain": its["target"]
        for silos in comparison.target.values()
        for silo, its in silos.items()
        if "target" in its
    }
    late = {
        f"{silo}, {LATE_ROWS[row]}": its
        for silos in comparison.late.values()
        for silo, rows in silos.items()
        for row, its in rows.items()
    }
    return absences(metric, reasons | _lacking(metric, second | late))


def _lacking(metric: str, figures: Mapping[str, Measured] | Mapping[str, Averages]) -> dict[str, str]:
    """The reasons of those that lack the figure."""
    return {where: its.absent[metric] for where, its in figures.items() if metric in its.absent}


def difference(metric: str, gain: float, bounds: Interval | None) -> str:
    """A signed gain with its interval."""
    text = _signed(metric, gain)
    if bounds:
        text += f" [{', '.join(_signed(metric, bound) for bound in bounds)}]"
    return text


def shown(measured: Iterable[Measured]) -> list[str]:
    """The metrics that at least one silo has, in the order in which they are shown."""
    found = {metric for its in measured for metric in its.figures}
    return [metric for metric in TITLES if metric in found]


def silos_of(comparison: Comparison) -> list[str]:
    """Every silo that any method has."""
    return sorted({silo for its in comparison.methods.values() for silo in its})


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _digits(metric: str) -> int:
    return 1 if metric in IN_PERCENT else 3


def _signed(metric: str, value: float) -> str:
    return _number(scale(metric) * value, _digits(metric), "+")


def _number(value: float, digits: int, sign: str = "") -> str:
    if abs(value) >= LARGE:
        return f"{value:{sign}.3g}"
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no -0.0
