"""
Format figures and name metrics. The module knows the names of metrics, and nothing else about the numbers.

An interval is always shown by its two ends: half a width would suggest that it is symmetric, and that a figure could
exceed its largest possible value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedtl.report.bounds import bounded, bounded_gain
from fedtl.results.comparison import Averages, Comparison, Estimate, Interval
from fedtl.results.metrics import Measured
from fedtl.results.run import RunResult
from fedtl.tasks.metrics import METRICS
from fedtl.tasks.registry import TASKS

TITLES = {name: metric.title for name, metric in METRICS.items()}
NOT_MEASURED = "not measured"
CONSTANT = "constant"  # the label of constant answers
MAX_LISTED = 6  # the most names that a line lists
EXPONENT_FROM = 1e6  # larger numbers are written with an exponent
LATE_ROWS = {
    "as_received": "as received",
    "adabn": "after AdaBN",
    "head": "own head, initial statistics",
    "head_adabn": "own head after AdaBN",
    "ridge_adabn": "own head in closed form after AdaBN",
    "alone": "trained alone on the same labels",
}


@dataclass(frozen=True)
class Curve:
    """
    A mean over silos after 0, 1, 2, ... rounds of training.

    ``values``: NaN where no silo has a value. ``silos``: over how many silos each mean is.
    """

    values: Sequence[float]
    silos: Sequence[int]


def scale(metric: str) -> float:
    """The factor by which a value of the metric is multiplied before it is shown."""
    return 100.0 if METRICS[metric].percent else 1.0


def format_value(metric: str, value: float | None) -> str:
    """A value without its interval; a dash for None, which means not measured."""
    return "-" if value is None else _number(scale(metric) * value, _digits(metric))


def format_measured(value: float | None, digits: int = 3) -> str:
    """A number of an audit."""
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"


def format_with_interval(metric: str, figure: Estimate | None) -> str:
    """A mean and the ends of its 95 % interval, which have one digit less because columns are narrow, unless the mean would lie outside them."""
    if not figure:
        return "-"
    text = format_value(metric, figure.mean)
    if bounds := figure.ci95:
        ends = bounded(metric, bounds)
        digits = _digits_of_ends(metric, figure.mean, ends)
        text += f" {'…'.join(_number(scale(metric) * end, digits) for end in ends)}"
    return text


def format_short_difference(metric: str, gain: float, bounds: Interval | None) -> str:
    """A signed difference for a narrow column: the ends have one digit less but keep their signs ("-9…-0" is below zero)."""
    text = _signed(metric, gain)
    if bounds:
        ends = bounded_gain(metric, bounds)
        digits = _digits_of_ends(metric, gain, ends)
        text += f" {'…'.join(f'{scale(metric) * end:+.{digits}f}' for end in ends)}"
    return text


def format_difference(metric: str, gain: float, bounds: Interval | None) -> str:
    """A signed difference with its interval, as far as it can be."""
    text = _signed(metric, gain)
    if bounds:
        text += f" [{', '.join(_signed(metric, end) for end in bounded_gain(metric, bounds))}]"
    return text


def difference_unit(metric: str) -> str:
    """The unit of a difference between two values of the metric."""
    return "points" if METRICS[metric].percent else f"in {TITLES[metric]}"


def format_gain(metric: str, gain: float) -> str:
    """A signed difference with its unit."""
    return f"{_signed(metric, gain)} {difference_unit(metric)}"


def format_size(metric: str, size: float) -> str:
    """The size of a difference, without a unit."""
    return _number(scale(metric) * size, _digits(metric))


def silo_count_note(count: int | None, silos: int) -> str:
    """The note behind a figure that is over fewer silos than the table has, such as " (2 of 35)"; otherwise empty."""
    return "" if count is None or count == silos else f" ({count} of {silos})"


def measured_metrics(result: RunResult) -> list[str]:
    """The metrics of the task, and the main one, that at least one silo has, in the order in which they are shown."""
    measured = {metric for silo in result.silos.values() for metric in silo.measured.figures}
    shown = {*TASKS[result.task].metrics, result.metric}
    return [metric for metric in TITLES if metric in measured & shown]


def format_average(metric: str, averages: Averages | None) -> str:
    """A mean over seeds; a dash where it was not measured."""
    figures = averages.figures if averages else {}
    return format_value(metric, figures[metric].mean if metric in figures else None)


def all_silos(comparison: Comparison) -> list[str]:
    """The names of the silos that have a result under at least one method, sorted."""
    return sorted({name for by_silo in comparison.methods.values() for name in by_silo})


def missing_in_run(result: RunResult) -> list[str]:
    """Why metrics of a run are missing: one line for each metric and reason."""
    main = {name: silo.measured for name, silo in result.silos.items()}
    lines = [
        line for metric in measured_metrics(result) for line in _missing_lines(metric, _reasons(metric, main))
    ]
    metric = result.metric
    second = {f"{name}, second domain": silo.target for name, silo in result.silos.items() if silo.target}
    joined_late = {
        f"{name}, {LATE_ROWS[variant]}": figures
        for name, variants in result.late.items()
        for variant, figures in variants.items()
    }
    return lines + _missing_lines(metric, _reasons(metric, second | joined_late))


def missing_in_comparison(comparison: Comparison) -> list[str]:
    """Why figures of a comparison are missing. A line names methods only where some have the figure and others do not."""
    metric = comparison.metric
    reasons: dict[str, str] = {}
    for name in all_silos(comparison):
        lacking = {
            method: by_silo[name][metric]
            for method, by_silo in comparison.absent.items()
            if metric in by_silo.get(name, {})
        }
        if len(lacking) == len(comparison.methods) and len(set(lacking.values())) == 1:
            reasons[name] = next(iter(lacking.values()))
        else:
            reasons |= {f"{name} under {method}": reason for method, reason in lacking.items()}
    second = {
        f"{name}, second domain": silo["target"]
        for by_silo in comparison.target.values()
        for name, silo in by_silo.items()
        if "target" in silo
    }
    joined_late = {
        f"{name}, {LATE_ROWS[variant]}": figures
        for by_silo in comparison.late.values()
        for name, variants in by_silo.items()
        for variant, figures in variants.items()
    }
    return _missing_lines(metric, reasons | _reasons(metric, second | joined_late))


def _reasons(metric: str, figures: Mapping[str, Measured] | Mapping[str, Averages]) -> dict[str, str]:
    """The reason of each entry that lacks the metric, by the name of the entry."""
    return {name: entry.absent[metric] for name, entry in figures.items() if metric in entry.absent}


def _missing_lines(metric: str, reasons: Mapping[str, str]) -> list[str]:
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names_by_reason.setdefault(reason, []).append(name)
    title = TITLES[metric].removesuffix(" (%)")
    return [f"no {title} at {_listed(names)}: {reason}" for reason, names in names_by_reason.items()]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _digits(metric: str) -> int:
    return 1 if METRICS[metric].percent else 3


def _digits_of_ends(metric: str, mean: float, ends: Interval) -> int:
    """The digits of an interval's ends: one less than those of the mean, unless the rounded ends would exclude it."""
    digits = _digits(metric)
    low, high = (round(scale(metric) * end, digits - 1) for end in ends)
    return digits - (low <= round(scale(metric) * mean, digits) <= high)


def _signed(metric: str, value: float) -> str:
    return _number(scale(metric) * value, _digits(metric), "+")


def _number(value: float, digits: int, sign: str = "") -> str:
    if abs(value) >= EXPONENT_FROM:
        return f"{value:{sign}.3g}"
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0 turns -0.0 into 0.0
