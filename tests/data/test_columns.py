"""Columns by name: a bundle and the rehearsal page list them, and every site trains on them in that order."""

import numpy as np
import pandas as pd
import pytest
import torch

from fedtl.data.columns import Column, Kind, order_columns, parse_columns
from fedtl.data.settings import DataSettings
from fedtl.data.source import Part, Raw
from fedtl.deployment.coordinator.bundle import build_bundle, read_agreement
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.site.approve import approve_bundle
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.rehearse import rehearse
from fedtl.deployment.site.signing import present_terms
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.deployment.site.site_rows import load_rows, read_raw_rows
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from tests.real_processes import Federation, fedtl_command

ROWS = 120


def table(**columns):
    """Rows of one hospital, with the columns in the order given."""
    rng = np.random.default_rng(0)
    whole = {
        "age": rng.integers(30, 80, ROWS),
        "chol": rng.normal(240, 40, ROWS).round(1),
        "sex": rng.choice(["f", "m"], ROWS),
        "label": [at % 2 for at in range(ROWS)],
    }
    return whole | columns


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows").mkdir()
    pd.DataFrame(table()).to_csv(tmp_path / "rows" / "clinic.csv", index=False)
    return tmp_path / "rows"


def experiment(rows, *more):
    words = ["data.source=table", f"data.path={rows}", 'data.categories={sex=["f","m"]}', "data.scale=none"]
    return load_experiment(
        "digits", [*words, "model.name=mlp", "data.silos=[]", "data.limit=0", "minimum_silos=1", *more]
    )


def site(folder, rows, source="table"):
    Home.create(folder, "clinic", "localhost:1")
    given = {
        "data__source": source,
        "data__path": str(rows),
        "data__scale": "none",
        "policy__minimum_silos": 1,
    }
    Federation.change(folder / "silo.toml", policy__privacy=None, **given)
    return Home.open(folder)


def plan_at(home, made):
    return SitePlan(home, read_agreement(made.file.read_bytes(), "x")[1])


def test_a_bundle_lists_the_columns_of_the_coordinators_rows(rows, tmp_path):
    made = build_bundle(tmp_path / "bundles", "heart", experiment(rows))
    _, its = read_agreement(made.file.read_bytes(), "x")
    assert its.experiment.data.columns == ["age", "chol", "sex"]
    assert its.shape == [4]
    facts, page = rehearse(site(tmp_path / "home", rows), made.file)
    assert facts.plan.columns == ["age (number)", "chol (number)", "sex (f, m)"]
    assert "age (number), chol (number), sex (f, m)" in " ".join(page.read_text().split())
    assert facts.claim.terms.columns == facts.plan.columns


def test_a_site_with_columns_in_another_order_trains_on_the_same_inputs(rows, tmp_path):
    """Otherwise a site whose file has ``age`` and ``chol`` swapped would train on wrong inputs without an error."""
    made = build_bundle(tmp_path / "bundles", "heart", experiment(rows))
    (tmp_path / "other").mkdir()
    swapped = pd.DataFrame(table())[["sex", "label", "chol", "age"]]
    swapped.assign(city="x").to_csv(tmp_path / "other" / "clinic.csv", index=False)
    one, other = (
        load_rows(plan_at(site(tmp_path / name, folder), made)).data
        for name, folder in (("a", rows), ("b", tmp_path / "other"))
    )
    assert torch.equal(one.train.x, other.train.x)
    frame = pd.DataFrame(table())
    inputs = np.stack([frame.age, frame.chol, frame.sex == "f", frame.sex == "m"], 1).astype(np.float32)
    assert {tuple(row) for row in one.train.x.tolist()} <= {tuple(row) for row in inputs.tolist()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chol": "cholesterol"}, "column 'chol'"),
        ({"age": lambda frame: frame.age.map("{} years".format)}, "age holds"),
        ({"sex": lambda frame: (frame.sex == "f").astype(int)}, "data.categories.sex"),
    ],
    ids=["name", "number", "category"],
)
def test_a_site_with_columns_of_another_name_or_kind_is_refused(rows, tmp_path, change, reason):
    made = build_bundle(tmp_path / "bundles", "heart", experiment(rows))
    frame = pd.DataFrame(table())
    for name, other in change.items():
        frame = (
            frame.rename(columns={name: other})
            if isinstance(other, str)
            else frame.assign(**{name: other(frame)})
        )
    (tmp_path / "other").mkdir()
    frame.to_csv(tmp_path / "other" / "clinic.csv", index=False)
    home = site(tmp_path / "home", tmp_path / "other")
    with pytest.raises(DataError) as refused:
        load_rows(plan_at(home, made))
    if "years" not in reason:
        assert reason in str(refused.value)
    else:
        assert "age holds" in str(refused.value)
    facts, page = rehearse(home, made.file)
    assert facts.claim.terms is None
    assert page.read_text().splitlines()[3].startswith("INCOMPLETE: ")
    assert "signature" not in page.read_text()
    with pytest.raises(ConfigError, match="not complete"):
        approve_bundle(home, made.hash)
    assert not home.approved.exists()


def test_a_table_is_refused_by_a_plan_without_column_names(rows, tmp_path):
    """The bundle is made from an npz whose columns have no names."""
    (tmp_path / "npz").mkdir()
    x, y = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32), np.arange(ROWS) % 2
    np.savez(tmp_path / "npz" / "clinic.npz", train_x=x, train_y=y)
    plan = ["data.source=npz", f"data.path={tmp_path / 'npz'}", "data.scale=none", "model.name=mlp"]
    settings = load_experiment("digits", [*plan, "data.silos=[]", "data.limit=0", "minimum_silos=1"])
    made = build_bundle(tmp_path / "bundles", "plain", settings)
    with pytest.raises(DataError, match="data.columns"):
        load_rows(plan_at(site(tmp_path / "table", rows), made))
    assert (
        load_rows(plan_at(site(tmp_path / "same", tmp_path / "npz", "npz"), made)).data.train.x.shape[1] == 4
    )
    facts, _ = rehearse(Home.open(tmp_path / "same"), made.file)
    assert facts.plan.columns == []


def test_the_named_columns_of_an_npz_are_checked_and_put_in_order(rows, tmp_path):
    made = build_bundle(tmp_path / "bundles", "heart", experiment(rows))
    names = ["sex=m", "chol", "sex=f", "age"]
    x, y = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32), np.arange(ROWS) % 2
    for name, more in (
        ("named", {"columns": np.array(names)}),
        ("bare", {}),
        ("odd", {"columns": np.array(["a", *names[1:]])}),
    ):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "clinic.npz", train_x=x, train_y=y, **more)
    raw = read_raw_rows(plan_at(site(tmp_path / "home", tmp_path / "named", "npz"), made))
    assert raw.columns == ("age", "chol", "sex=f", "sex=m")
    assert np.array_equal(raw.train.x, x[:, [3, 1, 2, 0]])
    for name, reason in (
        ("bare", "missing 'age', 'chol'"),
        ("odd", "in the plan 'a'"),
    ):
        with pytest.raises(DataError, match=reason):
            _ = read_raw_rows(plan_at(site(tmp_path / f"home-{name}", tmp_path / name, "npz"), made))


def test_columns_are_put_in_order_in_every_part():
    x = np.arange(12.0).reshape(4, 3)
    part, target = Part(x, np.arange(4)), x + 100
    raw = Raw(part, part, part, target, Part(target, np.arange(4)), ("c", "a", "b"))
    made = order_columns(raw, DataSettings(columns=["a", "b", "c"]), "here")
    for one in (made.train, made.val, made.test):
        assert np.array_equal(one.x, x[:, [1, 2, 0]])
    assert np.array_equal(made.target, target[:, [1, 2, 0]])
    assert made.target is made.target_test.x  # still the same rows, which the split depends on
    twice = Raw(part, columns=("a", "b", "b"))
    with pytest.raises(DataError, match="missing 'c'"):
        order_columns(twice, DataSettings(columns=["a", "b", "c"]), "here")


def test_a_coordinator_without_rows_gives_the_columns_on_the_command_line(tmp_path):
    sex = Column("sex", ("f", "m"), Kind.CATEGORY)
    assert parse_columns("age,chol,sex=f|m", DataSettings()) == [Column("age"), Column("chol"), sex]
    for text in ("age,,chol", "sex=", "=f", "sex=f||m"):
        with pytest.raises(ConfigError, match="--columns"):
            parse_columns(text, DataSettings())
    create_server(tmp_path / "srv", "localhost", "127.0.0.1:1", 1)
    words = ("server", "bundle", tmp_path / "srv", "digits", "--set", "model.name=mlp")
    said = fedtl_command(*words, "--shape", "4", code=2).stderr
    assert "--columns" in " ".join(said.split())
    fedtl_command(*words, "--columns", "age,chol,sex=f|m")
    _, its = read_agreement((tmp_path / "srv" / "bundles" / "digits" / "digits.fab").read_bytes(), "x")
    assert its.shape == [4]
    assert (its.experiment.data.columns, its.experiment.data.categories) == (
        ["age", "chol", "sex"],
        {"sex": ["f", "m"]},
    )


def test_other_columns_need_another_signature(rows, tmp_path):
    made = build_bundle(tmp_path / "bundles", "heart", experiment(rows))
    plan = plan_at(site(tmp_path / "home", rows), made)
    now = present_terms(plan, load_rows(plan).data, None, 1, "2999-12-31")
    assert now.columns == ["age (number)", "chol (number)", "sex (f, m)"]
    other = build_bundle(tmp_path / "bundles", "other", experiment(rows, 'data.columns=["chol","age","sex"]'))
    assert plan_at(plan.home, other).agreement.hash != plan.agreement.hash
