"""
The bars that were set for the default, computed from committed numbers: for each of seven sets the comparison with the most seeds, and where the
default's mean gain is not shown there, the best of all that was tried on the set.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from committed import DEFAULT, ENSEMBLE, LOCAL, Table

from fedtl.report.figures import format_difference

HERE = Path(__file__).parent
# By set: the names of its comparisons, the preferred one first where two have equally many seeds.
SETS = {
    "digits": ("digits",),
    "digits6, 340 rows a silo": ("digits6-340",),
    "digits6, 743 rows a silo": ("digits6",),
    "heart-disease": ("heart-disease-folds", "heart-disease"),
    "landmine": ("landmine",),
    "school": ("school",),
    "spoken-digits": ("spoken-digits",),
    "pneumonia": ("pneumonia",),
}
TRIED = (
    "fixed-head",
    "simplex-head",
    "trained-head",
    "chosen-head",
    "both",
    "rates",
)  # how experiments of transfer/ on the default's settings begin
ENOUGH, SHARE = (
    5,
    0.95,
)  # sets of seven with an interval above 0; silos that are not worse by more than the noise
DIGITS6, HALF_MSE, AUC, POOLED, SITES = 0.925, 0.0115, 0.785, 0.795, 0.80


def read(path: str) -> Table:
    return Table(path, json.loads((HERE / f"{path}.json").read_text()))


def tables(names: tuple[str, ...]) -> list[Table]:
    """Return the committed comparisons of a set, the one with the most seeds first."""
    paths = [
        f"{folder}{name}"
        for name in names
        for folder in ("ten-seeds/", "")
        if (HERE / f"{folder}{name}.json").exists()
    ]
    return sorted(map(read, paths), key=lambda one: -one.seeds)


def tried(names: tuple[str, ...]) -> list[Table]:
    """Return the comparisons of a set, and those with other settings of the default."""
    paths = [f"../transfer/{begin}-{name}" for name in names for begin in TRIED]
    return [*tables(names), *(read(path) for path in paths if (HERE / f"{path}.json").exists())]


def best(found: list[Table], names: set[str]) -> str:
    """Return of these methods the one whose interval begins highest, with its table; "-" where none was compared."""
    cells = [
        (one.mean.ci95[0], f"{name} {table.gain(one)}, {table.seeds} seeds ({table.link})")
        for table in found
        for name, one in table.overall.items()
        if name in names and one.mean.ci95
    ]
    return max(cells, default=(0.0, "-"))[1]


def main_bar() -> Iterator[str]:
    """Yield the table of the seven sets, and what is counted over them."""
    used = {name: tables(names)[0] for name, names in SETS.items()}
    yield "| set | seeds | mean gain of the default over local | interval above 0 | silos not worse beyond the noise | table |"
    yield "|---" * 6 + "|"
    defaults = {name: table.overall[DEFAULT] for name, table in used.items()}
    above = {name: one.mean.ci95[0] > 0 for name, one in defaults.items()}
    for name, table in used.items():
        one = defaults[name]
        cells = [name, str(table.seeds), table.gain(one), "yes" if above[name] else "no"]
        yield "| " + " | ".join([*cells, f"{one.loss_not_shown} of {one.silos}", table.link]) + " |"
    sets: dict[str, bool] = {}
    for name, held in above.items():
        first = name.partition(",")[0]  # both sizes of digits6 are one set
        sets[first] = sets.get(first, True) and held
    count, all_tables = sum(sets.values()), [table for names in SETS.values() for table in tables(names)]
    below = [table.path for table in all_tables if table.overall[DEFAULT].mean.ci95[1] < 0]
    held, silos = (sum(getattr(one, key) for one in defaults.values()) for key in ("loss_not_shown", "silos"))
    yield ""
    yield f"- Intervals that exclude 0: {count} of {len(sets)}; the bar is {ENOUGH}: {met(count >= ENOUGH)}."
    yield f"- Below local with an interval that excludes 0: {len(below)} of {len(all_tables)} tables; the bar is 0: {met(not below)}."
    yield (
        f"- Silos not worse by more than the noise: {held} of {silos}; the bar is {percent(SHARE, 0)}: {met(held / silos >= SHARE)}. A silo's interval "
        "is wide, above all of three seeds, so this says little."
    )


def missed() -> Iterator[str]:
    """Yield for each set whose interval reaches 0 the best that was tried, and how small a gain its table could have shown."""
    yield "| set | a true gain that this table would show | the best of the default's settings | the best other method | local ensemble |"
    yield "|---" * 5 + "|"
    for name, names in SETS.items():
        table, found = tables(names)[0], tried(names)
        default = table.overall[DEFAULT]
        if default.mean.ci95[0] > 0:
            continue
        others = {one for other in found for one in other.overall} - {DEFAULT, ENSEMBLE}
        power = (
            format_difference(table.metric, default.mean.detectable, None) if default.mean.detectable else "-"
        )
        cells = [name, power, best(found, {DEFAULT}), best(found, others), best(found, {ENSEMBLE})]
        yield "| " + " | ".join(cells) + " |"


def further_bars() -> Iterator[str]:
    """Yield a line for each bar on one set."""
    yield _of_digits6(read("digits6"))
    yield _of_school(json.loads((HERE.parent / "published" / "measured.json").read_text())["school"])
    yield _of_landmine(read("landmine-linear"))
    yield _of_heart(read("heart-flamby"))
    every = {name: max(len(table.numbers["mean"]) for table in tables(names)) for name, names in SETS.items()}
    full = [name for name, count in every.items() if count == max(every.values())]
    yield (
        f"- A table with all methods: {', '.join(full)}; the others have fewer columns, {met(len(full) == len(SETS))}. The methods of a table have "
        "equally many rounds and one learning rate, which no method has tried, but heart-disease tries two for each. A method that averages with "
        "the silo's own model trains twice the epochs of local; its like is the local ensemble."
    )


def _of_digits6(table: Table) -> str:
    default, mean = table.overall[DEFAULT], table.mean(DEFAULT)
    return (
        f"- digits6 at 743 rows, mean of the default at least {percent(DIGITS6)}: {percent(mean)}, {met(mean >= DIGITS6)}; mnist_m not below "
        f"local: {default.not_worse} of {default.silos} silos are not, {met(default.not_worse == default.silos)} ({table.link})."
    )


def _of_school(found: dict[str, Any]) -> str:
    errors = {name: sum(values) / len(values) for name, values in found["values"]["all silos"].items()}
    name = min(errors, key=errors.__getitem__)
    return (
        f"- School, half the squared error of a linear model at most {HALF_MSE}: {name} {errors[name]:.4f}, local {errors[LOCAL]:.4f}, "
        f"{met(errors[name] <= HALF_MSE)} ([published](../published/README.md); the experiment is simulations/published/school.toml)."
    )


def _of_landmine(table: Table) -> str:
    areas = {name: table.mean(name) for name in table.overall}
    name = max(areas, key=areas.__getitem__)
    return (
        f"- Landmine, AUC of a linear model at least {percent(AUC)}: {name} {percent(areas[name])}, local {percent(table.mean(LOCAL))}, "
        f"{met(areas[name] >= AUC)} ({table.link}, at commit {table.numbers['commit']})."
    )


def _of_heart(table: Table) -> str:
    rows = table.numbers["accuracy of all silos' test rows as one set"]["pooled"]
    sites = {name: table.mean(name) for name in table.overall}
    name = max(sites, key=sites.__getitem__)
    return (
        f"- Heart disease, FLamby's split: the pooled model {percent(rows)} of all test rows ({percent(POOLED)} is published), "
        f"{met(rows >= POOLED)}; mean over sites at least {percent(SITES, 0)}: {name} {percent(sites[name])}, {met(sites[name] >= SITES)} "
        f"({table.link})."
    )


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def met(holds: bool) -> str:
    return "met" if holds else "**not met**"


def section() -> Iterator[str]:
    """Yield the section of the overview."""
    yield from (
        "## Bars",
        "",
        "What was asked of the default, and what came of it, computed from the numbers that are here. It has to be above training alone on five of seven sets, with an interval that excludes 0. For each set the comparison with "
        "the most seeds counts; both sizes of digits6 are one set.",
        "",
    )
    yield from main_bar()
    yield from further_bars()
    yield from (
        "",
        "Where the interval reaches 0: the best that was tried on this set, by where its interval begins, of all committed tables. The best of "
        "several tables is too good by the choice. Other settings of the default that were tried: heads that keep their initial weights "
        "(fixed-head), start as a simplex (simplex-head) or are trained (trained-head), and validation rows that choose among such heads and rates (chosen-head, both, rates).",
        "",
    )
    yield from missed()
