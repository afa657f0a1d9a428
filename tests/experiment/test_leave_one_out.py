"""Each silo is left out in turn, and what the others lose without it is what their test rows say."""

import numpy as np
import pytest

from fedtl.errors import ConfigError
from fedtl.experiment.columns import comparison_columns
from fedtl.experiment.config.load import load_experiment, parse_experiment
from fedtl.experiment.leave_one_out import asked_column, leaving_out, without_silo
from fedtl.experiment.pages import write_compare_page
from fedtl.experiment.run_folder import RunFolder
from fedtl.report.helper_tables import helper_grid, helper_note, helper_table
from tests.experiment.test_tuning import compare_here
from tests.report.readers import assert_self_contained, printed

SILOS = ("east", "flipped", "west")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two silos whose label is the sign of a column, and a larger one whose labels are the other way round."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    for name in SILOS:
        x = rng.normal(size=(400 if name == "flipped" else 120, 3)).astype("float32")
        y = (x[:, 0] > 0) ^ (name == "flipped")
        np.savez(folder / f"{name}.npz", train_x=x, train_y=np.where(y, "ill", "well"))
    return folder


def question(folder, **compare):
    return parse_experiment(
        {
            "rounds": 2,
            "data": {"source": "npz", "path": str(folder)},
            "model": {"name": "linear"},
            "method": {"name": "fedavg", "tune": {"epochs": 0}, "choose": {"candidates": ["tuned"]}},
            "engine": {"name": "serial"},
            "compare": {"methods": ["local", "fedavg"], "seeds": [0], "leave_one_out": True, **compare},
        }
    )


def accuracies(folder, path):
    """By silo the accuracy of a run on its test rows, in numpy."""
    run = RunFolder(folder / path)
    found = {}
    for name in run.result().silos:
        test = run.tensors(f"silos/{name}/test.safetensors")
        found[name] = float((test["scores"].argmax(1) == test["y"]).double().mean())
    return found


@pytest.mark.slow
def test_what_a_silo_is_worth_is_what_the_others_lose_without_it(rows, tmp_path, monkeypatch):
    steps = []
    comparison, jobs = compare_here(
        monkeypatch, question(rows), tmp_path / "c", watch=lambda *step: steps.append(step)
    )
    own = comparison.who_helps
    assert own.column == "fedavg"
    assert len(jobs) == 3 + len(SILOS)  # local, its constant, fedavg; and fedavg without each
    full = accuracies(tmp_path / "c", "runs/fedavg-seed0")
    for silo in SILOS:
        less = accuracies(tmp_path / "c", f"without/{silo}-fedavg-seed0")
        assert own.gains[silo].keys() == less.keys() == set(SILOS) - {silo}
        worth = {name: full[name] - less[name] for name in less}
        assert {name: gain.mean for name, gain in own.gains[silo].items()} == pytest.approx(worth)
        assert own.to_others[silo].mean == pytest.approx(np.mean([*worth.values()]))
    assert own.to_others["flipped"].ci95[1] < 0  # it harms the others, surely
    assert {name for name, gain in own.gains["flipped"].items() if gain.verdict == "loses"} == {
        "east",
        "west",
    }
    assert steps[-1][0] == steps[-1][1]  # progress ends at its end
    page = write_compare_page(RunFolder(tmp_path / "c")).read_text()
    text = assert_self_contained(page)
    assert "Who helps whom" in text
    assert all(f">{name}<" in page for name in SILOS)
    assert comparison.fingerprints.keys() == set(SILOS)
    assert all(mark in text for mark in comparison.fingerprints.values())
    grid = helper_grid(comparison)
    assert [cell.text for cell in grid.rows[1]].count("-") == 1  # a silo does not help itself
    assert "flipped" in printed(helper_table(comparison))
    assert "at least 3 seeds" in helper_note(own, 1)
    assert "at least 3 seeds" not in helper_note(own, 3)


def test_a_run_without_a_silo_is_the_run_of_the_others(rows):
    changed = without_silo(question(rows, seeds=[0]), "east", SILOS)
    assert (changed.data.silos_except, changed.minimum_silos) == (["east"], 1)
    settings = load_experiment(
        "digits",
        [
            "data.silos=['plain','faint']",
            "silos_per_round=2",
            "minimum_silos=2",
            "method.name=local",
            "silo.plain.model.name=mlp",
        ],
    )
    changed = without_silo(settings, "plain", ["plain", "faint"])
    assert changed.data.silos == ["faint"]
    assert (changed.silos_per_round, changed.minimum_silos, changed.silo) == (1, 1, {})
    with pytest.raises(ConfigError, match="only faint trains"):
        without_silo(settings, "faint", ["faint"])


def asked(*overrides):
    settings = load_experiment("digits", ["compare.leave_one_out=true", *overrides])
    return asked_column(settings, comparison_columns(settings)).label


def test_the_configured_method_is_asked_or_else_the_first_that_joins():
    assert asked("method.name=fedbn") == "fedbn"
    assert asked("method.name=ditto") == "fedavg"
    with pytest.raises(ConfigError, match="no method in which"):
        asked("compare.methods=['local','pooled']", "method.name=local")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["privacy.epsilon=3"], "leave_one_out and .privacy."),
        (["method.server={name='trusted', trusted=['plain']}"], "cannot be left out"),
    ],
)
def test_where_no_silo_may_be_left_out_it_is_refused(overrides, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        asked(*overrides)
    folder = RunFolder.create(tmp_path / "c", load_experiment("digits", overrides))
    with pytest.raises(ConfigError, match=says):
        leaving_out(folder)
    assert not folder.experiment().compare.leave_one_out


def test_a_finished_comparison_may_ask_afterwards(tmp_path):
    folder = RunFolder.create(tmp_path / "c", load_experiment("digits"))
    assert leaving_out(folder).compare.leave_one_out
    assert folder.experiment().compare.leave_one_out
