"""The audit of a run that protects patients."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from fedtl.audit.attacks.reference_models import RECORDS, half, mislabelled_rows, pool_of
from fedtl.audit.audit import AuditOptions, audit_run
from fedtl.audit.retraining.audited_silo import silo_of_study
from fedtl.audit.retraining.checks import retraining_checks
from fedtl.audit.units import by_unit
from fedtl.audit.verdict import FAMILY_LEVEL, failed
from fedtl.audit.workload import Effort
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.privacy import dp_sgd as mechanism
from fedtl.report.wording import not_covered
from fedtl.simulation.shared_store import temporary_store
from fedtl.training import private
from tests.privacy.patients import table


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """A run with 30 patients of four rows each at two hospitals, with canaries, and its audit."""
    folder = tmp_path_factory.mktemp("patients")
    (folder / "data").mkdir()
    sets = [*table(folder / "data"), "privacy.unit=patient", "data.silos=[]", "audit.canaries=200"]
    sets += [
        "audit.transcript=2",
        "privacy.tuning=public",
        'privacy.metrics=["accuracy"]',
    ]
    experiment = load_experiment("digits", sets)
    out = RunFolder.create(folder / "run", experiment)
    run(experiment, out)
    effort = Effort(references=2, role_references=1, iterations=2, roles=False)
    audit_run(out, folder / "audit", AuditOptions(effort=effort), folder / "key.pem", lambda *_: None)
    return out, json.loads((folder / "audit" / "audit.json").read_text()), folder / "audit"


def test_audit_of_patients_attacks_patients(patients):
    out, found, folder = patients
    assert found["violations"] == []
    assert found["unit"] == "patient"
    result = out.read_json("result.json")["privacy"]["silos"]["north"]
    with temporary_store() as shelf:
        study = build(out.experiment(), shelf, shelf)
        evaluation_set, data = study.evaluation_set("north"), study.data("north")
        tested = evaluation_set.test.unit_count
        coins = half(study, "north", 0)
        whose = pool_of(study, "north").rows.units
        rows, planted_coins = mislabelled_rows(study, "north", RECORDS)
    assert result["units"] == data.train.unit_count < len(data.train)
    assert len(whose.unique()) == data.train.unit_count + tested
    for unit in range(int(whose.max()) + 1):
        assert len(set(coins[(whose == unit).numpy()])) == 1  # a patient is in or out
    for unit in range(int(rows.units.max()) + 1):
        assert len(set(planted_coins[(rows.units == unit).numpy()])) == 1
    for attack in ("rmia", "lira"):
        its = found["membership"][attack]["silos"]["north"]
        assert its["members"] == data.train.unit_count
        assert its["others"] == tested
    assert found["input_canaries"]["records"]["north"]["canaries"] == tested
    checks = {check["name"]: check for check in found["checks"] if check["silo"] == "north"}
    assert checks["one record"]["value"] == pytest.approx(1, abs=0.01)
    assert checks["sensitivity"]["status"] == checks["samples"]["status"] == "passed"
    assert checks["one record in the metric"]["value"] <= 1.01
    page = (folder / "audit.html").read_text()
    assert not_covered("patient") in html.unescape(page)
    assert "the mean over its rows" in page


def test_check_that_was_not_exercised_is_neither_passed_nor_failed(patients):
    _, found, folder = patients
    idle = [check for check in found["checks"] if check["status"] == "not exercised"]
    assert {check["name"] for check in idle} >= {
        "noise on statistics",
        "one record in the statistics",
        "statistics",
    }
    assert all(check["p"] is None and check["reason"] for check in idle)
    assert all(check["p"] is not None for check in found["checks"] if check not in idle)
    page = (folder / "audit.html").read_text()
    assert len(re.findall(r"<td[^>]*>\s*not exercised\s*</td>", page)) == len(idle)
    assert "no statistics are released" in page


@pytest.mark.parametrize(
    ("name", "check"),
    [("rows clipped one by one", "one record"), ("rows sampled one by one", "samples")],
)
def test_audit_finds_that_rows_are_protected_instead_of_patients(name, check, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    experiment = load_experiment("digits", [*table(tmp_path / "data"), "privacy.unit=patient"])
    if name == "rows clipped one by one":
        sound = mechanism.clipped
        monkeypatch.setattr(
            mechanism,
            "clipped",
            lambda take, net, rows, losses, clip, units=None: sound(take, net, rows, losses, clip),
        )
    else:
        monkeypatch.setattr(
            private,
            "_rows_of",
            lambda drawn, units, members, rows: (
                found := torch.isin(units, drawn).nonzero().flatten()[::2],
                units[found],
            ),
        )
    with temporary_store() as shelf:
        study = with_guarantees(
            build(experiment, shelf, shelf), RunFolder.create(tmp_path / "run", experiment)
        )
        found = {
            one.name
            for one in failed(retraining_checks(silo_of_study(study, "north"), []), FAMILY_LEVEL / 10)
        }
    assert check in found


@pytest.mark.parametrize("units", [None, [0, 0, 2, 2, 2, 5]])
def test_means_over_units_equal_pandas(units):
    values = np.random.default_rng(0).normal(size=(3, 6))
    numbers = None if units is None else torch.tensor(units).unique(return_inverse=True)[1]
    wanted = values if units is None else pd.DataFrame(values).T.groupby(units).mean().T.to_numpy()
    np.testing.assert_allclose(by_unit(values, numbers), wanted)
