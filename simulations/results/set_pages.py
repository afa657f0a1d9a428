"""How does one finished comparison become its page, its numbers and its figure?"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measured_runs import Origin
from row_scores import accuracy, half_squared_error, mean_by_method, second_domain
from tables import fewer_silos, table

from fedtl._util.records import from_plain, to_plain
from fedtl.report.plots import method_dots
from fedtl.results.comparison import Comparison

HERE = Path(__file__).parent


def numbers(comparison: Comparison, origin: Origin, further: dict[str, Any]) -> dict[str, Any]:
    """Return what the table shows, unrounded."""
    metric = comparison.metric
    return {
        **asdict(origin),
        "metric": metric,
        "model": comparison.model,
        "rounds": comparison.rounds,
        "seeds": comparison.seeds,
        "mean": {
            name: to_plain(by_metric[metric])
            for name, by_metric in comparison.mean.items()
            if metric in by_metric
        },
        "overall": to_plain(comparison.overall),
        "warnings": comparison.warnings,
        **further,
    }


def write(name: str, folder: Path, origin: Origin) -> None:
    """Write the three files of one experiment, and print its table."""
    comparison = from_plain(Comparison, json.loads((folder / "comparison.json").read_text()))
    further = of_rows(name, folder, comparison) | second_domain(folder, comparison)
    lines = [*table(comparison), *_further_lines(comparison, further)]
    beside = HERE.parent / name if "/" in name else HERE / name
    beside.parent.mkdir(exist_ok=True)
    beside.with_name(f"{beside.name}.svg").write_text(method_dots(comparison))
    text = json.dumps(numbers(comparison, origin, further), indent=1) + "\n"
    beside.with_name(f"{beside.name}.json").write_text(text)
    page = [
        f"# {name.removeprefix('results/')}",
        *("", *_about(comparison, origin)),
        *("", *lines),
        *("", f"![{name}]({beside.name}.svg)", ""),
    ]
    beside.with_name(f"{beside.name}.md").write_text("\n".join(page))
    print("\n".join(lines))


def of_rows(name: str, folder: Path, comparison: Comparison) -> dict[str, dict[str, float]]:
    """Return by title and method the measure of single rows that an experiment of this name has beside its metric, if it has one."""
    if comparison.metric not in ("accuracy", "rmse"):
        return {}
    if Path(name).name.startswith("school"):
        title = "half the mean squared error of (score - 1) / 69"
        return {title: mean_by_method(folder, comparison, half_squared_error)}
    title = "accuracy of all silos' test rows as one set"
    return {title: mean_by_method(folder, comparison, accuracy, by_rows=True)}


def _further_lines(comparison: Comparison, further: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    fewer = fewer_silos(comparison)
    for title, by_method in further.items():
        cells = [
            f"{by_method[method]:.4f}{fewer[method]}" if method in by_method else ""
            for method in comparison.methods
        ]
        yield f"| {title} | " + " | ".join(cells) + " |"


def _about(comparison: Comparison, origin: Origin) -> Iterator[str]:
    """Yield how the numbers were made."""
    yield (
        f"`{origin.command}` at commit {origin.commit}, on {origin.machine}: {origin.seconds} s "
        f"({origin.cpu_seconds} s of CPU time){', after an interruption' if origin.interrupted else ''}."
    )
    tested = (
        "Test rows" if comparison.folds == 1 else f"Every row tested once a seed, in {comparison.folds} folds"
    )
    yield f"{tested}; mean of {len(comparison.seeds)} seeds with its 95 % interval; {comparison.model}, {comparison.rounds} rounds."
