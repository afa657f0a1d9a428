"""
The same training as published/school-private.toml in plain numpy, for all 139 schools at once: without the library's rounds, models
and ledger, of which it takes only the noise multipliers. Each run takes a second.

"silo" standardises each school's columns by its own rows, as published; this is not private, and fedtl refuses it. "public" uses
the constants of published/school-constants.toml. Prints the full squared error of marks from 0 to 1, over all test rows.

Run: python school_numpy.py FOLDER [--seeds 0,1,2] [--silos 139] [--lr 0.01]. FOLDER: with one .npz a school.
"""

import argparse
import statistics
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
EPSILON, DELTA, CLIP, ROUNDS, BATCH = 6.0, 1e-3, 1.0, 200, 32
METHODS = {"MR-MTL": 1.0, "FedAvg": None, "alone": 0.0}  # the strength of the pull; None: one model
PERCENT = (3, 4)  # columns that published/school-constants.toml divides by 100


@dataclass(frozen=True)
class Schools:
    """``x`` [K, N, D] with a last column of ones, ``y`` [K, N]; ``n`` [K]: how many of the N rows a school has."""

    x: Array
    y: Array
    n: Array
    tests: list[tuple[Array, Array]]


def read(folder: Path, silos: int, scale: str) -> Schools:
    files = [np.load(path) for path in sorted(folder.glob("*.npz"))[:silos]]
    n = np.array([len(one["train_y"]) for one in files])
    x, y, tests = np.zeros((len(n), n.max(), 29)), np.zeros((len(n), n.max())), []
    for k, one in enumerate(files):
        mean, std = np.zeros(28), np.ones(28)
        std[list(PERCENT)] = 100
        if scale == "silo":
            mean, std = one["train_x"].mean(0), one["train_x"].std(0)
            std = np.where(std > 1e-8, std, 1)
        rows, test = (
            np.concatenate([(one[name] - mean) / std, np.ones((len(one[name]), 1))], 1)
            for name in ("train_x", "test_x")
        )
        x[k, : n[k]], y[k, : n[k]] = rows, (one["train_y"] - 1) / 69
        tests.append((test, (one["test_y"] - 1) / 69))
    return Schools(x, y, n, tests)


def noise(n: Array) -> Array:
    """The least noise multiplier of each school that keeps its guarantee."""
    from fedtl.privacy.accounting import calibrate

    found = {
        m: calibrate(EPSILON, DELTA, min(BATCH, m) / m, ROUNDS * ceil(m / BATCH)) for m in set(n.tolist())
    }
    return np.array([found[m] for m in n.tolist()])


def error(schools: Schools, sigma: Array, pull: float | None, lr: float, seed: int) -> float:
    rng, (k, rows, d) = np.random.default_rng(seed), schools.x.shape
    steps, batch = np.ceil(schools.n / BATCH).astype(int), np.minimum(BATCH, schools.n)
    norms, there = np.sqrt((schools.x**2).sum(2)), np.arange(rows) < schools.n[:, None]
    w, mean = np.zeros((k, d)), np.zeros(d)
    for _ in range(ROUNDS):
        reach = pull * lr * steps[:, None] if pull is not None else np.inf
        w += (mean - w) * (reach / (1 + reach) if pull is not None else 1.0)
        for step in range(steps.max()):
            drawn = (rng.random((k, rows)) < (batch / schools.n)[:, None]) & there
            residual = (schools.x @ w[:, :, None])[..., 0] - schools.y
            factor = np.minimum(1, CLIP / np.maximum(norms * abs(residual), 1e-12)) * residual * drawn
            total = (factor[:, None] @ schools.x)[:, 0] + rng.normal(size=w.shape) * sigma[:, None] * CLIP
            w = np.where((step < steps)[:, None], w - lr * total / batch[:, None], w)
        mean = w.mean(0)
    used = w if pull is not None else np.tile(mean, (k, 1))
    squares = [(x @ own - y) ** 2 for own, (x, y) in zip(used, schools.tests, strict=True)]
    return float(np.concatenate(squares).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--silos", type=int, default=139)
    parser.add_argument("--lr", type=float, default=0.01)
    asked = parser.parse_args()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    for scale in ("public", "silo"):
        schools = read(asked.folder, asked.silos, scale)
        sigma = noise(schools.n)
        for name, pull in METHODS.items():
            errors = [error(schools, sigma, pull, asked.lr, seed) for seed in seeds]
            each = " ".join(f"{one:.5f}" for one in errors)
            print(f"{scale:7} {name:7} {statistics.mean(errors):.5f}  ({each})", flush=True)


if __name__ == "__main__":
    main()
