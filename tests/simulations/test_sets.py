"""FLamby's heart-disease split as published, and the tables of results against what they are computed from."""

import json
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

from fedtl.experiment.config.schema import Experiment
from fedtl.results.comparison import Estimate, Gain, Overall, Verdict
from tests.results.test_files import COMPARISON

sys.path.insert(0, str(Path(__file__).parents[2] / "simulations"))
sys.path.insert(0, str(Path(__file__).parents[2] / "simulations" / "results"))
import gain_bars
import heart_flamby
import overview
import row_scores
import tables
import transfer_overview

TRAIN = {"cleveland": 199, "hungarian": 172, "switzerland": 30, "va": 85}  # Ogier du Terrail et al., 2022
TEST = {"cleveland": 104, "hungarian": 89, "switzerland": 16, "va": 45}
POOLED = 0.795  # the accuracy of FLamby's pooled model on the pooled test rows, +- .002
TRANSFER = Path(__file__).parents[2] / "simulations" / "transfer"
# What an experiment must have to be quoted in docs/transfer.md under its family, by how its name begins.
MEASURES: dict[str, Callable[[Experiment], object]] = {
    "adapters": lambda one: one.model.adapters and (one.model.weights or one.model.pretrain_on),
    "born-again": lambda one: one.method.tune.generations,
    "distil": lambda one: one.data.public,
    "interpolation": lambda one: "interpolated" in one.method.choose.candidates,
    "public-start": lambda one: one.model.pretrain_on and not one.model.adapters and not one.model.freeze,
    "selfsup": lambda one: one.data.label_fraction != 1.0,
    "unlabelled": lambda one: one.data.unlabelled,
    "wire": lambda one: one.compare.wire,
    "wrong-labels": lambda one: one.data.wrong_labels,
}


@pytest.mark.parametrize("begin", MEASURES)
def test_an_experiment_has_what_its_name_says(begin):
    files = sorted(TRANSFER.glob(f"{begin}*.toml"))
    assert files
    for file in files:
        experiment = Experiment.model_validate(tomllib.loads(file.read_text()))
        assert MEASURES[begin](experiment), file.name


def test_flambys_split_has_the_published_sizes_and_pooled_accuracy(shared_data, tmp_path):
    heart_flamby.main(shared_data("heart-disease"), tmp_path / "heart")
    sites = {name: pd.read_csv(tmp_path / "heart" / f"{name}.csv") for name in TRAIN}
    assert {name: int((one.part == "train").sum()) for name, one in sites.items()} == TRAIN
    assert {name: int((one.part == "test").sum()) for name, one in sites.items()} == TEST
    rows = pd.concat(sites.values())
    x, y, train = rows.drop(columns=["num", "part"]), rows["num"], rows.part == "train"
    assert x.shape[1] == 13
    fitted = LogisticRegression(max_iter=10_000).fit(x[train], y[train])
    assert fitted.score(x[~train], y[~train]) == pytest.approx(POOLED, abs=0.002)


def test_a_table_has_every_method_and_silo():
    gain = Gain(0.03, (0.01, 0.05))
    overall = Overall(1, gain, 1, 1, 1, 1, {Verdict.GAINS: 1}, "mnist", gain)
    lines = list(tables.table(replace(COMPARISON, overall={"fedbn": overall})))
    assert lines[0].split(" | ")[1:] == ["fedbn |"]
    text = "\n".join(lines)
    for part in ("| mnist | 90.0", "mean of 1 silos | 90.0", "local | +3.0 [+1.0", "| 1 of 1 |"):
        assert part in text, text


def test_a_mean_over_fewer_silos_says_so():
    value, both = Estimate(0.9, (0.8, 0.95), (0.85, 0.95)), {"faint", "mnist"}
    methods = {
        "local": {"mnist": {"accuracy": value}, "faint": {}},
        "silobn": {name: {"accuracy": value} for name in both},
    }
    mean = {name: {"accuracy": Estimate(0.9, None, (0.85, 0.95), len(one))} for name, one in methods.items()}
    mean["local"] = {"accuracy": Estimate(0.9, None, (0.85, 0.95), 1)}
    one = replace(COMPARISON, methods=methods, mean=mean)
    (line,) = [line for line in tables.table(one) if line.startswith("| mean of 2 silos |")]
    local, silobn = line.split(" | ")[1:]
    assert local.endswith(" (1 of 2)")
    assert "of 2)" not in silobn
    assert tables.fewer_silos(one) == {"local": " (1 of 2)", "silobn": ""}


def test_the_overviews_are_those_of_the_committed_numbers_and_list_every_page():
    assert (overview.HERE / "README.md").read_text() == overview.overview()
    text = (TRANSFER / "README.md").read_text()
    assert text == transfer_overview.transfer_overview()
    assert [
        page.name
        for page in TRANSFER.glob("*.md")
        if page.name != "README.md" and f"({page.name})" not in text
    ] == []


def test_committed_pages_say_which_means_are_over_fewer_silos():
    for page in sorted([*TRANSFER.glob("*.md"), *TRANSFER.with_name("results").glob("**/*.md")]):
        numbers = page.with_suffix(".json")
        means = [line for line in page.read_text().splitlines() if line.startswith("| mean of ")]
        found = json.loads(numbers.read_text()).get("mean") if numbers.exists() and means else None
        for (name, one), cell in zip(
            (found or {}).items(), means[0].split(" | ")[1:] if found else (), strict=True
        ):
            silos = int(means[0].split()[3])
            note = "" if one["silos"] == silos else f"({one['silos']} of {silos})"
            assert ("(" in cell) == bool(note), (page.name, name)
            assert note in cell, (page.name, name)


def test_a_figure_shows_the_methods_of_its_table_but_constant_answers():
    """They are so far from all methods that they could not be distinguished; the figures of all pages are by one program."""
    pages = [page for folder in (TRANSFER, TRANSFER.parent / "results") for page in folder.rglob("*.md")]
    compared = [page for page in pages if page.with_suffix(".json").exists() and "local" in page.read_text()]
    drawn = 0
    for page in compared:
        picture = page.with_suffix(".svg").read_text()
        words = {one.strip() for one in re.findall(r">([^<>]+)</text>", picture)}
        if 'id="methods-' in picture:
            columns = next(line for line in page.read_text().splitlines() if line.startswith("| "))
            methods = {one.strip() for one in columns.strip("|").split("|")[1:]}
            shown = {re.sub(r" \(\d+ of \d+\)$", "", word) for word in words}
            assert methods - {"constant"} <= shown, page.name
            assert "constant" not in shown, page.name
            drawn += 1
    assert drawn > 40


def test_the_second_domain_of_each_run_is_averaged(tmp_path):
    for seed in COMPARISON.seeds:
        run = tmp_path / "runs" / f"fedbn-seed{seed}"
        run.mkdir(parents=True)
        silos = {
            name: {"target": {COMPARISON.metric: value + seed}} for name, value in (("a", 0.2), ("b", 0.6))
        }
        (run / "result.json").write_text(json.dumps({"silos": silos | {"c": {"target": None}}}))
    expected = 0.4 + np.mean(COMPARISON.seeds)
    found = row_scores.second_domain(tmp_path, COMPARISON)
    assert found == {"second domain, as trained": {"fedbn": pytest.approx(expected)}}
    assert row_scores.second_domain(tmp_path / "none", COMPARISON) == {}


@pytest.mark.parametrize("by_rows", [False, True])
def test_means_over_silos_and_over_rows_are_those_of_the_rows(by_rows, tmp_path):
    rng = np.random.default_rng(0)
    errors = []
    for seed in COMPARISON.seeds:
        for name, rows in (("a", 5), ("b", 9)):
            folder = tmp_path / "runs" / f"fedbn-seed{seed}" / "silos" / name
            folder.mkdir(parents=True)
            y, scores = rng.uniform(1, 70, (2, rows)).astype(np.float32)
            save_file({"y": y, "scores": scores[:, None]}, folder / "test.safetensors")
            errors.append(((y - 1) / 69 - (scores - 1) / 69) ** 2 / 2)
    expected = np.concatenate(errors).mean() if by_rows else np.mean([one.mean() for one in errors])
    found = row_scores.mean_by_method(tmp_path, COMPARISON, row_scores.half_squared_error, by_rows)
    assert found == {"fedbn": pytest.approx(expected, rel=1e-5)}
    assert row_scores.accuracy({"scores": np.array([[0.1, 0.9], [0.8, 0.2]]), "y": np.array([1, 1])}) == 0.5


def counted(lines):
    (line,) = [line for line in lines if line.startswith("- Intervals")]
    return line


def test_the_bars_are_counted_over_sets_from_the_comparison_with_the_most_seeds(monkeypatch, tmp_path):
    above = {}
    for name, names in gain_bars.SETS.items():
        files = [path for one in names for path in overview.HERE.glob(f"**/{one}.json")]
        found = max((json.loads(path.read_text()) for path in files), key=lambda one: len(one["seeds"]))
        held = found["overall"]["fedtl"]["mean"]["ci95"][0] > 0
        above.setdefault(name.partition(",")[0], []).append(held)
    count = sum(all(held) for held in above.values())
    assert f" {count} of 7; the bar is 5: {gain_bars.met(count >= 5)}." in counted(gain_bars.main_bar())

    for name in (name for names in gain_bars.SETS.values() for name in names):
        numbers = json.loads((overview.HERE / f"{name}.json").read_text())
        numbers["overall"]["fedtl"]["mean"]["ci95"] = [-0.2, -0.1] if name == "digits6" else [0.1, 0.2]
        (tmp_path / f"{name}.json").write_text(json.dumps(numbers))
    monkeypatch.setattr(gain_bars, "HERE", tmp_path)
    lines = list(gain_bars.main_bar())
    assert " 6 of 7; the bar is 5: met." in counted(lines)
    assert any("1 of 9 tables; the bar is 0: **not met**" in line for line in lines)
    assert [line.split(" | ")[0] for line in gain_bars.missed()][2:] == ["| digits6, 743 rows a silo"]


def test_the_best_of_what_was_tried_is_that_whose_interval_begins_highest():
    assert "simplex-head-digits6-340" in gain_bars.best(gain_bars.tried(("digits6-340",)), {"fedtl"})
    found = gain_bars.tried(("spoken-digits",))
    assert "ten-seeds/spoken-digits" in gain_bars.best(found, {"fedtl"})
    assert "ten-seeds/spoken-digits" in gain_bars.best(found, {"fedavg"})
    assert gain_bars.best(found, {"no such method"}) == "-"
