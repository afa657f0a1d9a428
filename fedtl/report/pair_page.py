"""The page of two comparisons side by side. Computes no figure, and tests no difference between the two."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedtl.report.answer import answer
from fedtl.report.figures import TITLES, all_silos, format_difference, format_with_interval
from fedtl.report.html import Cell, Grid, render, row
from fedtl.report.verdict_tables import verdict_cell
from fedtl.results.comparison import Comparison

NOTES = (
    "Each gain is over training alone in the same comparison, with its 95 % interval; method is what the silo chooses.",
    "No difference between the two comparisons is tested: where two intervals overlap, nothing is shown. Compare what should be compared in one "
    "comparison, on the same test rows.",
)


def pair_page(
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    settings: Sequence[Mapping[str, Any]],
    version: str,
) -> str:
    """
    Return the page of two comparisons. ``names``: of their folders; ``settings``: their experiments as plain values, of which the page
    lists those that differ.
    """
    return render(
        "pair.html.j2",
        title=f"{names[0]} and {names[1]}",
        answers=[(name, answer(one)) for name, one in zip(names, comparisons, strict=True)],
        grids=[
            _silos(names, comparisons),
            _methods(names, comparisons),
            differing_settings(names, settings),
            *([rows] if (rows := same_rows(names, comparisons)).rows else []),
        ],
        notes=NOTES,
        version=version,
    )


def _silos(names: Sequence[str], comparisons: Sequence[Comparison]) -> Grid:
    """Return the gain of each silo in both; silos of one comparison alone come last."""
    silos = list(dict.fromkeys(silo for one in comparisons for silo in all_silos(one)))
    rows: list[Sequence[Cell]] = []
    for silo in sorted(silos, key=lambda silo: not all(silo in one.benefit for one in comparisons)):
        cells = [Cell(silo)]
        for one in comparisons:
            own = one.benefit.get(silo)
            if own is None:
                cells += row("-", "-", "")
            else:
                cells += [
                    Cell(own.best),
                    Cell(format_difference(one.metric, own.over_local, own.ci95)),
                    verdict_cell(own.verdict),
                ]
        rows.append(cells)
    head = ["silo", *(f"{name}: {what}" for name in names for what in ("method", "gain", "verdict"))]
    return Grid("What joining gains at each silo", head, rows)


def _methods(names: Sequence[str], comparisons: Sequence[Comparison]) -> Grid:
    """Return the mean over silos of each method in both, in the main metric of each."""
    methods = list(dict.fromkeys(method for one in comparisons for method in one.methods))
    rows = [
        row(
            method,
            *(
                format_with_interval(one.metric, one.mean.get(method, {}).get(one.metric))
                for one in comparisons
            ),
        )
        for method in methods
    ]
    heads = [f"{name}: test {TITLES[one.metric]}" for name, one in zip(names, comparisons, strict=True)]
    return Grid("Mean of each method over all silos, with its 95 % interval", ["method", *heads], rows)


def same_rows(names: Sequence[str], comparisons: Sequence[Comparison]) -> Grid:
    """Return whether each silo has the same rows in both, by their fingerprints."""
    marks = [one.fingerprints for one in comparisons]
    silos = dict.fromkeys(silo for own in marks for silo in own)
    rows = []
    for silo in silos:
        first, second = (own.get(silo, "-") for own in marks)
        rows.append(row(silo, first, second, "the same" if first == second else "different"))
    return Grid("Fingerprints of the rows", ["silo", *names, "rows"], rows)


def differing_settings(names: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> Grid:
    """Return the settings in which the two differ, by the path of their key. Values in JSON read as in TOML."""
    first, second = (dict(_flat(one, "")) for one in settings)
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    rows = [
        row(
            key,
            *(
                json.dumps(one[key], ensure_ascii=False) if key in one else "not set"
                for one in (first, second)
            ),
        )
        for key in keys
    ]
    caption = "Settings that differ" if rows else "All settings are the same"
    return Grid(caption, ["setting", *names], rows, words=True)  # a path breaks where it is too long


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
