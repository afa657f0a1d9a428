"""One HTML page that needs nothing but itself: no script, no request."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from fedtl.report import plots
from fedtl.report.figures import TITLES, difference, one, with_interval
from fedtl.report.tables import LATE_ROWS

Plot = tuple[str, Markup]


def run_page(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]], experiment: str) -> str:
    """The page of one run. ``experiment``: its resolved TOML."""
    mean, metric = result["mean"].get(result["metric"]), result["metric"]
    worst = result.get("worst") or {}
    answer = f"Mean test {TITLES[metric]}: {one(metric, mean)}"
    answer += f"; worst: {one(metric, worst.get(metric))} at {worst['silo']}." if worst else "."
    shown = [
        m
        for m in ("accuracy", "balanced_accuracy", "auc", "r2", "rmse", "loss")
        if any(m in s for s in result["silos"].values())
    ]
    rows = [
        [name, its["train"], its["test"], *(one(m, its.get(m)) for m in shown)]
        for name, its in result["silos"].items()
    ]
    rows.append(["mean", "", "", *(one(m, result["mean"].get(m)) for m in shown)])
    left_out = [
        f"{len(reasons)} times left out: {reasons[-1]}" for reasons in result.get("left_out", {}).values()
    ]
    late = [
        [s, LATE_ROWS[r], one(metric, f.get(metric))]
        for s, rs in result.get("late", {}).items()
        for r, f in rs.items()
    ]
    target = [
        [name, one(metric, its["target"].get(metric)), one(metric, its.get("target_adabn", {}).get(metric))]
        for name, its in result["silos"].items()
        if "target" in its
    ]
    return _render(
        title=f"{result['method']} on {result['model']}",
        answer=answer,
        warnings=[*left_out, *result.get("notes", [])],
        head=["silo", "training rows", "test rows", *(TITLES[m] for m in shown)],
        rows=rows,
        plots=[
            _plot("validation by round", plots.learning_curves(history)),
            _plot("test by silo", plots.silo_bars(result)),
        ],
        late_head=["silo", "model", TITLES[metric]],
        late=late,
        target_head=["silo", "as trained", "with AdaBN on that domain"],
        target=target,
        notes=[
            "Test rows were read once, after the last round.",
            "Validation rows were taken from each silo's training rows and never trained on.",
            f"{result['bytes_up']:,} bytes left the silos in all, {result['bytes_down']:,} came in; {result['seconds']:.1f} s on {result['device']}, {result['workers']} at once.",
            "Without differential privacy: what was shared can tell about a silo's rows.",
        ],
        experiment=experiment,
        version=result["fedtl"],
    )


def compare_page(
    comparison: Mapping[str, Any], curves: Mapping[str, Sequence[float]], experiment: str
) -> str:
    """The page of a comparison. ``curves``: a validation figure per round, by method."""
    metric, methods, benefit = comparison["metric"], comparison["methods"], comparison["benefit"]
    silos = sorted({silo for figures in methods.values() for silo in figures})
    rows = [
        [silo, *(with_interval(metric, figures.get(silo, {}).get(metric)) for figures in methods.values())]
        + (
            [benefit[silo]["best"], difference(metric, benefit[silo]), benefit[silo]["verdict"]]
            if silo in benefit
            else ["", "", ""]
            if benefit
            else []
        )
        for silo in silos
    ]
    empty = ["", "", ""] if benefit else []
    rows.append(
        ["mean", *(with_interval(metric, comparison["mean"][m].get(metric)) for m in methods), *empty]
    )
    rows.append(["worst silo", *(one(metric, comparison["worst"][m].get(metric)) for m in methods), *empty])
    drawn = [_plot("methods at silos", plots.method_dots(comparison))]
    drawn = ([_plot("gain over local", plots.benefit_forest(comparison))] if benefit else []) + drawn
    drawn.append(
        _plot(
            "convergence",
            plots.convergence(curves, "rmse" if comparison["task"] == "regression" else "accuracy"),
        )
    )
    late = [
        [silo, method, LATE_ROWS[row], one(metric, figures.get(metric, {}).get("mean"))]
        for method, its in comparison.get("late", {}).items()
        for silo, rs in its.items()
        for row, figures in rs.items()
    ]
    target = [
        [
            silo,
            method,
            *(one(metric, rs.get(row, {}).get(metric, {}).get("mean")) for row in ("target", "target_adabn")),
        ]
        for method, its in comparison.get("target", {}).items()
        for silo, rs in its.items()
    ]
    return _render(
        title=f"Does joining help? {comparison['model']}, {comparison['rounds']} rounds",
        answer=_answer(benefit),
        warnings=comparison["warnings"],
        head=["silo", *methods, *(["best", "over local", "joining"] if benefit else [])],
        rows=rows,
        plots=drawn,
        late_head=["silo", "method", "model", TITLES[metric]],
        late=late,
        target_head=["silo", "method", "as trained", "with AdaBN on that domain"],
        target=target,
        notes=[
            f"{TITLES[metric]} on test rows, which each run read once, after its last round; mean of seeds {comparison['seeds']}, ± half a 95 % interval.",
            "A silo's best method was chosen on its validation rows; local and pooled are yardsticks and never chosen.",
            "Intervals: paired bootstrap over seeds and test rows, 2,000 draws. They are a silo's own, not corrected for looking at several silos.",
            "gains: the interval lies above zero; loses: below; unclear: it holds zero.",
        ],
        experiment=experiment,
        version=comparison["fedtl"],
    )


def _answer(benefit: Mapping[str, Any]) -> str:
    if not benefit:
        return "Nothing to compare with: add local to compare.methods."
    by = {
        verdict: [s for s, its in benefit.items() if its["verdict"] == verdict]
        for verdict in ("gains", "unclear", "loses")
    }
    words = [f"{len(by['gains'])} of {len(benefit)} silos gain by joining"]
    words += [f"{len(by['unclear'])} unclear"] if by["unclear"] else []
    words += [f"worse off: {', '.join(by['loses'])}"] if by["loses"] else []
    return "; ".join(words) + "."


def _plot(name: str, svg: str) -> Plot:
    return name, Markup(svg)


def _render(**content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("fedtl.report", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(**content)
