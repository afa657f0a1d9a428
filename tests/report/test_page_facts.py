"""The cards, confusions and calibration of a page, and two comparisons side by side."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

from fedtl._util.records import from_plain
from fedtl.data.preprocess import Inputs
from fedtl.errors import ConfigError
from fedtl.experiment.config.load import load_experiment, parse_experiment
from fedtl.experiment.feature_maps import features
from fedtl.experiment.page_facts import comparison_facts, run_facts
from fedtl.experiment.pages import write_pair_page
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.report.answer_tables import recall_grid
from fedtl.report.calibration_plots import merged
from fedtl.report.compare_page import compare_page
from fedtl.report.pair_page import differing_settings, same_rows
from fedtl.report.rehearsal import page as rehearsal_page
from fedtl.report.run_page import run_page
from fedtl.report.silo_cards import comparison_cards, run_cards
from fedtl.results.comparison import Comparison
from fedtl.results.page_facts import (
    CalibrationBin,
    ClassRecall,
    ComparisonFacts,
    Origin,
    RowCounts,
    RunFacts,
    SiloAnswers,
)
from fedtl.results.rehearsal import LeavingTensor, PlanFacts, RehearsalFacts, RequestFacts
from fedtl.results.run import RunResult
from fedtl.tasks.label_metrics import calibration_error
from fedtl.tasks.row_metrics import Answers
from tests.report.readers import assert_self_contained
from tests.report.samples import (
    CURVES,
    HOSTILE,
    MANY,
    METHODS,
    SILOS,
    TOML,
    a_comparison,
    a_history,
    a_result,
    lines_of,
)

RNG = np.random.default_rng(0)
ORIGIN = Origin("fedtl run experiment.toml --out repeated", {"fedtl": "0.1.0"})
CLASSES = ("ill", "well", "unknown")


def answers(silos):
    bins = (CalibrationBin(6, 0.55, 0.5), CalibrationBin(10, 0.93, 0.9))
    return dict.fromkeys(silos, SiloAnswers(CLASSES, ((4, 2, 0), (0, 6, 0), (1, 1, 2)), bins))


def facts_of_run(silos=SILOS):
    return RunFacts(ORIGIN, {"body": 1_200_000, "norm": 34_567}, answers(silos))


def facts_of_comparison(silos=SILOS):
    recall = {silo: {"ill": ClassRecall(30, 0.5, 0.7), "well": ClassRecall(40, 0.9, 0.85)} for silo in silos}
    sent = {method: {"body": 1_200_000, "norm": 34_567} for method in METHODS}
    return ComparisonFacts(ORIGIN, dict.fromkeys(silos, RowCounts(200, 24, 60)), sent, recall)


def a_run_page(silos=SILOS):
    result = from_plain(RunResult, a_result(silos=silos))
    return run_page(result, lines_of(a_history(silos=silos)), TOML, facts_of_run(silos))


def a_comparison_page(silos=SILOS, methods=METHODS):
    comparison = from_plain(Comparison, a_comparison(silos=silos, methods=methods))
    return compare_page(comparison, CURVES, TOML, facts_of_comparison(silos))


def a_rehearsal_page():
    """A page to sign, with long hashes and many numbers."""
    digest, shape = "b" * 64, (64, 64, 3, 3)
    request = RequestFacts(
        *("clinic", "fl.example.org:8443", "", "", "s", 1, "2027-01-01"),
        bundle=digest,
        plan=digest,
        code=digest,
    )
    plan = PlanFacts(
        *("fedtl", "convnet", [1, 8, 8], [], "npz", "data", "y"),
        rounds=20,
        minimum_silos=3,
        norm=1000.0,
        metrics=[],
        weight=False,
        wire="float32",
        verdict=True,
        numbers={f"transferability/AnB/{at}/loss": (0.0, 20.0) for at in range(40)},
    )
    tensors = [LeavingTensor(f"body.features.{at}.weight", "body", shape, 147456) for at in range(9)]
    facts = RehearsalFacts(
        request,
        plan,
        leaving=tensors,
        bytes=9 * 147456,
        manifest=digest,
        stays=tensors,
        parts=[],
        private=False,
        privacy=None,
        tuning=None,
        rows=9,
        records=9,
        unlabelled=0,
        complete=True,
        rows_error="",
        refused="",
        audit=None,
        folder="/srv/clinic",
    )
    return rehearsal_page(facts)


@pytest.fixture
def folder(tmp_path):
    """A run of one silo with 40 stored answers; the second of three classes is rare."""
    made = RunFolder.create(tmp_path / "run", load_experiment("digits", ["rounds=1"]))
    made.write_json("result.json", from_plain(RunResult, a_result(silos=["north"], extras=False)))
    y = torch.from_numpy(RNG.choice(3, 40, p=[0.6, 0.1, 0.3]))
    scores = torch.from_numpy(RNG.normal(size=(40, 3))) + 1.5 * torch.nn.functional.one_hot(y, 3)
    made.silo("north").mkdir(parents=True)
    save_file({"scores": scores, "y": y, "ids": torch.arange(40)}, made.silo("north") / "test.safetensors")
    made.save_inputs("north", Inputs("native", "native", ()), CLASSES, (1, 12, 12))
    return made, scores.numpy(), y.numpy()


def test_a_point_of_the_plot_has_ten_rows_and_all_points_have_all_answers():
    bins = [
        CalibrationBin(rows, p, right)
        for rows, p, right in ((4, 0.3, 1.0), (7, 0.4, 0.0), (12, 0.7, 0.5), (3, 0.9, 1.0))
    ]
    first, last = merged(bins)
    assert (first.rows, last.rows) == (11, 15)
    assert (first.probability, first.right) == pytest.approx(((4 * 0.3 + 7 * 0.4) / 11, 4 / 11))
    assert (last.probability, last.right) == pytest.approx(((12 * 0.7 + 3 * 0.9) / 15, 9 / 15))
    assert merged(bins[:1]) == bins[:1]  # a silo with fewer rows has one point


def test_confusion_and_calibration_are_those_of_the_stored_answers(folder):
    made, scores, y = folder
    own = run_facts(made, made.experiment(), made.result()).answers["north"]
    table = np.zeros((3, 3), int)
    np.add.at(table, (y, scores.argmax(1)), 1)
    assert own.confusion == tuple(map(tuple, table.tolist()))
    assert sum(one.rows for one in own.calibration) == 40
    for ends, counts, number in zip(own.recall, table, range(3), strict=True):
        low, high = proportion(counts[number], counts.sum())
        assert ends == pytest.approx((low, high))
    error = sum(one.rows * abs(one.right - one.probability) for one in own.calibration) / 40
    wanted = calibration_error(Answers(scores, y, np.arange(40)), np.ones((1, 40)))[0]
    assert error == pytest.approx(wanted)


def proportion(right, rows, z=1.959964):
    """The interval of Wilson (1927), as he wrote it."""
    share, square = right / rows, z**2 / rows
    half = z * np.sqrt(share * (1 - share) / rows + square / (4 * rows))
    return tuple((share + square / 2 + sign * half) / (1 + square) for sign in (-1, 1))


def test_the_gain_of_a_class_has_the_interval_of_the_paired_differences_of_its_rows(folder, tmp_path):
    """As with scipy, because with one seed the jackknife of a mean is the t interval of its rows."""
    made, scores, y = folder
    worse = RunFolder.create(tmp_path / "alone", made.experiment())
    shutil.copytree(made.path / "silos", worse.path / "silos")
    changed = np.where((np.arange(40) % 3 == 0)[:, None], scores[:, ::-1], scores).copy()
    save_file(
        {"scores": torch.from_numpy(changed), "y": torch.from_numpy(y), "ids": torch.arange(40)},
        worse.silo("north") / "test.safetensors",
    )
    worse.write_json("result.json", made.result())
    comparison = from_plain(Comparison, a_comparison(silos=["north", "south"], extras=False))
    best = comparison.benefit["north"].best
    found = comparison_facts({"local": [worse], best: [made]}, made.experiment(), comparison).recall["north"]
    rows = y == 0
    difference = (scores.argmax(1) == y)[rows].astype(float) - (changed.argmax(1) == y)[rows]
    low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), stats.sem(difference))
    own = found[CLASSES[0]]
    assert own.gain.mean == pytest.approx(difference.mean()) != 0
    assert own.gain.ci95 == pytest.approx((low, high), rel=1e-6)


def test_recall_is_over_the_rows_of_each_class_and_private_pages_have_none_of_it(folder):
    made, scores, y = folder
    comparison = from_plain(Comparison, a_comparison(silos=["north", "south"], extras=False))
    best = comparison.benefit["north"].best
    made_facts = comparison_facts({"local": [made, made], best: [made, made]}, made.experiment(), comparison)
    own = made_facts.recall["north"]
    right = scores.argmax(1) == y
    assert {name: one.rows for name, one in own.items()} == {
        name: 2 * int((y == n).sum()) for n, name in enumerate(CLASSES)
    }
    for number, name in enumerate(CLASSES):
        assert own[name].alone == own[name].best == pytest.approx(right[y == number].mean())
        assert own[name].gain.mean == 0
    private = load_experiment(
        "digits", ["privacy.epsilon=3", "data.pixel_range=[0, 255]", "model.name=convnet_gn"]
    )
    assert run_facts(made, private, made.result()).answers == {}
    assert comparison_facts({"local": [made], best: [made]}, private, comparison).recall == {}


def test_scores_that_are_not_finite_and_a_missing_file_leave_the_silo_out(folder):
    made, scores, y = folder
    broken = torch.from_numpy(np.where(scores == scores.max(), np.nan, scores))
    save_file(
        {"scores": broken, "y": torch.from_numpy(y), "ids": torch.arange(40)},
        made.silo("north") / "test.safetensors",
    )
    assert run_facts(made, made.experiment(), made.result()).answers == {}
    (made.silo("north") / "test.safetensors").unlink()
    assert run_facts(made, made.experiment(), made.result()).answers == {}


@pytest.mark.slow
def test_pages_with_cards_are_self_contained():
    trained, compared = a_run_page(HOSTILE), a_comparison_page(HOSTILE)
    for page in (trained, compared):
        text = assert_self_contained(page)
        assert page.count('class="card ') == len(HOSTILE)
        assert "1,234,567 bytes (body, norm)" in text
        assert all(f"<td>{size}</td>" in page for size in ("1,200,000", "34,567", "1,234,567"))  # by role
        assert ORIGIN.repeat in text
        assert len(page) < 1_000_000
    assert re.search(r'<td class="shade-3">(\d+)</td>', trained)[1] == "4"  # of 6 rows
    assert "50 → 70 of 30" in assert_self_contained(compared)


def test_many_silos_have_tables_and_no_cards():
    comparison, result = (
        from_plain(Comparison, a_comparison(silos=MANY)),
        from_plain(RunResult, a_result(silos=MANY)),
    )
    assert comparison_cards(comparison, facts_of_comparison(MANY)) == []
    assert run_cards(result, facts_of_run(MANY)) == []


def test_a_class_that_a_silo_lacks_is_a_dash():
    facts = replace(
        facts_of_comparison(),
        recall={"a": {"x": ClassRecall(3, 0.0, 1.0)}, "b": {"y": ClassRecall(5, 1.0, 1.0)}},
    )
    grid = recall_grid(facts)
    assert grid.head == ["silo", "x", "y"]
    assert [[str(cell.text) for cell in row] for row in grid.rows] == [
        ["a", "0 → 100 of 3", "-"],
        ["b", "-", "100 → 100 of 5"],
    ]


def test_two_comparisons_side_by_side(tmp_path):
    folders = []
    for name, rate, silos in (("a", 0.1, SILOS), ("b", 0.02, [*SILOS[1:], "ninth"])):
        folders.append(RunFolder.create(tmp_path / name, load_experiment("digits", [f"train.lr={rate}"])))
        (tmp_path / name / "comparison.json").write_text(json.dumps(a_comparison(silos=silos)))
    text = assert_self_contained(write_pair_page(*folders, tmp_path / "ab.html").read_text())
    assert "ninth" in text
    assert SILOS[0] in text
    assert "Settings that differ" in text
    with pytest.raises(ConfigError, match="exists"):
        write_pair_page(*folders, tmp_path / "ab.html")
    (tmp_path / "b" / "comparison.json").unlink()
    with pytest.raises(ConfigError, match="no comparison.json"):
        write_pair_page(*folders, tmp_path / "other.html")


def test_whether_two_comparisons_have_the_same_rows_is_told_by_silo():
    comparison = from_plain(Comparison, a_comparison())
    pair = [
        replace(comparison, fingerprints=own)
        for own in ({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
    ]
    assert [[cell.text for cell in one][::3] for one in same_rows("xy", pair).rows] == [
        ["a", "the same"],
        ["b", "different"],
        ["c", "different"],
    ]


def test_only_settings_that_differ_are_listed():
    grid = differing_settings(
        "ab",
        [
            {"rounds": 3, "data": {"path": "x", "test": 0.2}},
            {"rounds": 3, "data": {"path": "y", "flip": True}},
        ],
    )
    assert [[cell.text for cell in row] for row in grid.rows] == [
        ["data.path", '"x"', '"y"'],
        ["data.test", "0.2", "not set"],
        ["data.flip", "not set", "true"],
    ]


@pytest.mark.slow
def test_features_of_a_run_before_and_after_and_how_far_statistics_are_from_their_mean(tmp_path):
    """Two silos whose classes lie far apart: the first direction of the final features tells the classes apart."""
    rows = {}
    for name, shift in (("north", 0.0), ("south", 5.0)):
        y = np.arange(60) % 2
        rows[name] = RNG.normal(size=(60, 3)) + 6 * y[:, None] + shift, np.where(y, "ill", "well")
    settings = {
        "rounds": 2,
        "model": {"name": "mlp"},
        "method": {"name": "fedbn", "tune": {"epochs": 0}, "choose": {"candidates": ["tuned"]}},
    }
    for name, (x, y) in rows.items():
        table = pd.DataFrame(x, columns=["a", "b", "c"]).assign(label=y)
        (tmp_path / "data").mkdir(exist_ok=True)
        table.to_csv(tmp_path / "data" / f"{name}.csv", index=False)
    settings["data"] = {"source": "table", "path": str(tmp_path / "data")}
    experiment = parse_experiment(settings)
    made = RunFolder.create(tmp_path / "run", experiment)
    run(experiment, made, "cpu")
    found = features(made)
    assert found == features(made)  # the same points each time
    after = found.after.points
    assert len(after) == len(found.before.points) == sum(silo.test for silo in made.result().silos.values())
    for silo in rows:
        means = [
            np.mean([point.x for point in after if (point.silo, point.label) == (silo, label)])
            for label in ("ill", "well")
        ]
        spread = np.std([point.x for point in after if point.silo == silo and point.label == "ill"])
        assert abs(means[0] - means[1]) > 2 * spread
    states = [load_file(made.path / "silos" / silo / "local.safetensors") for silo in rows]
    layers = [name for name in states[0] if name.endswith("running_mean")]
    squares = []
    for name in layers:  # the distance of two normals, by channel, in numpy
        pair = [
            (state[name].double().numpy(), np.sqrt(state[name[:-4] + "var"].double().numpy() + 1e-5))
            for state in states
        ]
        mean, std = (
            np.mean([one[0] for one in pair], 0),
            np.sqrt(np.mean([one[1] ** 2 - 1e-5 for one in pair], 0) + 1e-5),
        )
        squares.append(((mean - pair[0][0]) / std) ** 2 + (pair[0][1] / std - 1) ** 2)
    assert found.statistics["north"] == pytest.approx(np.sqrt(np.concatenate(squares).mean()), rel=1e-6)
    page = run_page(made.result(), made.history(), TOML, features=found)
    assert "before training, by silo" in assert_self_contained(page)
    assert run_facts(made, experiment, made.result()).sent.keys() == {"body", "head"}
    (made.path / "experiment.toml").write_text(
        (made.path / "experiment.toml").read_text() + "[privacy]\nepsilon = 3\n"
    )
    with pytest.raises(ConfigError):
        features(made)
