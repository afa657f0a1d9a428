"""What do a comparison's runs say that comparison.json does not: measures of single test rows, and a second domain?"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from fedtl.results.comparison import Comparison

Rows = Mapping[str, np.ndarray]  # of one silo's test rows: scores [N, width], y [N]


def mean_by_method(
    folder: Path, comparison: Comparison, of_silo: Callable[[Rows], float], by_rows: bool = False
) -> dict[str, float]:
    """
    Return by method the mean of ``of_silo`` over silos and seeds, from the stored scores of test rows; ``by_rows``: each silo
    counts by its number of rows, as if all rows were one set.
    """
    by_seed = by_method_and_seed(folder, comparison, of_silo, by_rows)
    return {name: float(np.mean(values)) for name, values in by_seed.items()}


def by_method_and_seed(
    folder: Path, comparison: Comparison, of_silo: Callable[[Rows], float], by_rows: bool = False
) -> dict[str, tuple[float, ...]]:
    """Return by method the mean over silos of each seed; a method without stored scores is left out."""
    means: dict[str, tuple[float, ...]] = {}
    for name in comparison.methods:
        values = []
        for seed in comparison.seeds:
            runs = [folder / "runs" / f"{name}-seed{seed}", *folder.glob(f"runs/{name}-seed{seed}-fold*")]
            files = sorted(file for one in runs for file in one.glob("silos/*/test.safetensors"))
            found = [load_file(file) for file in files]
            weights = [len(one["y"]) if by_rows else 1 for one in found]
            values += [float(np.average([of_silo(one) for one in found], weights=weights))] if found else []
        if values:
            means[name] = tuple(values)
    return means


def second_domain(folder: Path, comparison: Comparison) -> dict[str, dict[str, float]]:
    """
    Return by title and method the main metric on test rows of a second domain (``data.target_domain``), in the mean over silos and seeds:
    of the model as trained, and with the domain's own normalisation statistics. Nothing where there is no such domain.
    """
    titles = {
        "target": "second domain, as trained",
        "target_adabn": "second domain, statistics adapted (AdaBN)",
    }
    found: dict[str, dict[str, float]] = {}
    for key, title in titles.items():
        for name in comparison.methods:
            files = [folder / "runs" / f"{name}-seed{seed}" / "result.json" for seed in comparison.seeds]
            runs = [json.loads(file.read_text())["silos"].values() for file in files if file.is_file()]
            values = [silo[key][comparison.metric] for silos in runs for silo in silos if silo.get(key)]
            if values:
                found.setdefault(title, {})[name] = float(np.mean(values))
    return found


def half_squared_error(rows: Rows) -> float:
    """Return half the mean squared error of (score - 1) / 69, the scale of School in Motley (Wu et al., 2022)."""
    return float(np.mean(((rows["scores"].reshape(-1) - rows["y"]) / 69) ** 2) / 2)


def accuracy(rows: Rows) -> float:
    return float(np.mean(rows["scores"].argmax(1) == rows["y"]))
