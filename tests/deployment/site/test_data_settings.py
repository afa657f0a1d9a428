"""``fedtl silo check`` accepts rows that some plan trains on, and refuses those that no plan accepts."""

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedtl.deployment.plan import make_agreement
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.readiness import check_readiness
from fedtl.deployment.site.rehearse import rehearse
from fedtl.deployment.site.site_plan import SitePlan
from fedtl.deployment.site.site_rows import check_origins, load_rows
from fedtl.experiment.config.load import load_experiment, to_toml
from tests.real_processes import Federation

RNG = np.random.default_rng(0)
ROWS = 60
X, Y = RNG.normal(size=(ROWS, 2)).astype(np.float32), np.arange(ROWS) // 3 % 2
PRIVATE = {"policy__privacy": {"epsilon": 3.0, "lifetime_epsilon": 10.0}}
PER_PATIENT = {"policy__privacy": {"epsilon": 3.0, "lifetime_epsilon": 10.0, "unit": "patient"}}
DECLARED = {"data__classes": ["0", "1"]}
BOUNDS = {"*": [-5.0, 5.0]}
KINDS = ["data.dates=['seen']", "data.date_parts=['days']", "data.reference_date=2024-03-01"]
KINDS += ["data.hashed=['icd']", "data.hash_width=2", "data.ordered={stage=['I','II']}"]


def npz(folder, **arrays):
    np.savez(folder / "clinic.npz", **({"train_x": X, "train_y": Y} | arrays))


def table(folder, name="clinic", **columns):
    frame = pd.DataFrame({"age": X[:, 0], "chol": X[:, 1], "label": Y} | columns)
    frame.to_csv(folder / f"{name}.csv", index=False)


def images(folder, name="clinic"):
    for number in range(20):
        path = folder / name / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (8 + number % 3, 9)
        Image.fromarray(RNG.integers(0, 256, size, dtype=np.uint8)).save(path)


def manifest(folder):
    images(folder)
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    rows = [f"{path},{number % 2},p{number // 2}" for number, path in enumerate(paths)]
    (folder / "labels.csv").write_text("\n".join(["path,label,patient", *rows, ""]))


def volumes(folder):
    for number in range(8):
        path = folder / "clinic" / str(number % 2) / f"{number}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(RNG.integers(0, 99, (6, 7, 3)).astype(np.int16), np.eye(4)), path)


def two_domains(folder):
    npz(folder, target_x=X, target_test_x=X[:9], target_test_y=Y[:9])


# By name: how the rows are written, what silo.toml says, and what the plan says.
TRAINS = {
    "regression": (lambda f: npz(f, train_y=X.sum(1)), {}, ["data.task=regression"]),
    "private regression": (
        lambda f: table(f, label=X.sum(1)),
        {"data__scale": "dp", "data__bounds": BOUNDS, **PRIVATE},
        ["data.task=regression", "data.columns=['age','chol']", "privacy.epsilon=3"],
    ),
    "second domain of a table": (
        lambda f: table(f, scanner=["old", "new"] * 30),
        {"data__domain_column": "scanner", "data__target_domain": "new"},
        ["data.columns=['age','chol']"],
    ),
    "second domain of arrays": (two_domains, {"data__target_domain": "new"}, []),
    "text with categories": (
        lambda f: table(f, sex=["f", "m"] * 30),
        {},
        ["data.columns=['age','sex']", "data.categories={sex=['f','m']}"],
    ),
    "text that the plan does not use": (
        lambda f: table(f, city=[f"place {n}" for n in range(ROWS)]),
        {},
        ["data.columns=['age','chol']"],
    ),
    "empty cells": (lambda f: table(f, age=[np.nan, *X[1:, 0]]), {}, ["data.columns=['age','chol']"]),
    "patients of a table": (
        lambda f: table(f, patient=[f"p{n // 2}" for n in range(ROWS)]),
        {"data__scale": "none", **DECLARED, **PER_PATIENT},
        ["data.columns=['age','chol']", "privacy.epsilon=3"],
    ),
    "patients of arrays": (
        lambda f: npz(f, train_patient=np.arange(ROWS) // 2),
        {"data__scale": "none", **DECLARED, **PER_PATIENT},
        ["privacy.epsilon=3"],
    ),
    "released scale": (npz, {"data__scale": "dp", "data__bounds": BOUNDS, **DECLARED, **PRIVATE}, ["privacy.epsilon=3"]),
    "records without a label": (
        lambda f: table(f, label=["", *Y[1:].astype(str)]),
        {"data__scale": "none", **DECLARED, **PRIVATE},
        ["data.columns=['age','chol']", "privacy.epsilon=3"],
    ),
    "images of several sizes": (images, {}, ["data.size=8", "model.name=convnet"]),
    "images and patients in a table": (
        manifest,
        {"data__source": "images", "data__manifest": "labels.csv", **DECLARED, **PER_PATIENT},
        ["data.size=8", "data.channels=1", "model.name=convnet", "privacy.epsilon=3"],
    ),
    "slices of volumes": (
        volumes,
        {"data__slices": {"axis": "axial"}},
        ["data.size=8", "model.name=convnet", "data.pixel_range=[0, 99]"],
    ),
    "one folder of several silos": (
        lambda f: (images(f, "north"), images(f, "south")),
        {"data__silo": "south"},
        ["data.size=8", "model.name=convnet"],
    ),
    "one file of several silos": (
        lambda f: table(f, "all", site=["clinic", "other"] * 30),
        {"data__path": "data/all.csv", "data__silo_column": "site"},
        ["data.columns=['age','chol']"],
    ),
    "dates, codes and stages": (
        lambda f: table(f, seen=["29.02.2024", "01.03.2024"] * 30, icd=["E10", "I21"] * 30, stage=["I", "II"] * 30),
        {"data__date_format": "%d.%m.%Y", "data__scale": "dp", "data__bounds": BOUNDS, **DECLARED, **PRIVATE},
        ["data.columns=['seen','icd','stage']", *KINDS, "privacy.epsilon=3"],
    ),
    "text labels": (lambda f: table(f, label=["no", "yes"] * 30), {}, ["data.columns=['age','chol']"]),
}  # fmt: skip


def site(folder, write, **changes):
    """A site whose rows ``write`` puts into its folder data/."""
    Home.create(folder / "site", "clinic", "localhost:1")
    rows = folder / "site" / "data"
    rows.mkdir()
    write(rows)
    source = "npz" if any(rows.glob("*.npz")) else "table" if any(rows.glob("*.csv")) else "images"
    given = {
        "data__source": source,
        "data__name": "clinic",
        "policy__privacy": None,
        "policy__minimum_silos": 1,
    }
    Federation.change(folder / "site" / "silo.toml", **(given | changes))
    return Home.open(folder / "site")


def data_line(home):
    """Whether ``fedtl silo check`` finds the data in order, and what it says about them."""
    (check,) = (check for check in check_readiness(home) if check.name == "data")
    return check.ok, check.text


def shape_of(sets):
    if any("data.size" in one for one in sets):
        return (1, 8, 8)
    if "data.hash_width=2" in sets:
        return (4,)
    return (3,) if any("categories" in one for one in sets) else (2,)


@pytest.mark.parametrize("kind", TRAINS)
def test_rows_that_a_plan_trains_on_pass_the_check(kind, tmp_path):
    write, changes, sets = TRAINS[kind]
    home = site(tmp_path, write, **changes)
    passed, text = data_line(home)
    assert passed, text
    sets = list({one.partition("=")[0]: one for one in ["model.name=mlp", *sets]}.values())
    plan = load_experiment("digits", ["data.silos=[]", "data.source=memory", *sets])
    labels = () if "data.task=regression" in sets else ("no", "yes") if kind == "text labels" else ("0", "1")
    site_plan = SitePlan(home, make_agreement(plan, shape_of(sets), labels, "", False))
    prepared = load_rows(site_plan).prepared
    assert len(prepared.data.train) > 10
    assert (prepared.data.target is not None) == ("second domain" in kind)
    assert prepared.data.classes == labels
    check_origins(site_plan, prepared.data)


def test_the_check_counts_rows_of_each_kind(tmp_path):
    for kind, parts in (
        ("second domain of arrays", ("60 rows", "60 rows of the second")),
        ("records without a label", ("60 rows", "1 rows without")),
    ):
        write, changes, _ = TRAINS[kind]
        (tmp_path / kind).mkdir()
        _, text = data_line(site(tmp_path / kind, write, **changes))
        assert all(part in text for part in parts), text


REFUSED = {
    "no source": (npz, {"data__source": "nowhere"}, "data.source"),
    "no path": (npz, {"data__path": "elsewhere"}, "elsewhere"),
    "no rows of this name": (npz, {"data__silo": "other"}, "other.npz"),
    "few rows": (lambda f: npz(f, train_x=X[:3], train_y=Y[:3]), {}, "3 training rows"),
    "no label column": (table, {"data__label": "outcome"}, "'outcome'"),
    "a row without a label": (lambda f: table(f, label=["", *Y[1:].astype(str)]), {}, "1 of 60"),
    "labels that are not finite": (lambda f: npz(f, train_y=X[:, 0] / 0), {}, "finite"),
    "values that are not finite": (lambda f: npz(f, train_x=X * np.nan), {}, "column 0 is nan"),
    "a domain column alone": (table, {"data__domain_column": "age"}, "data.target_domain"),
    "no such domain": (
        lambda f: table(f, scanner=["old"] * ROWS),
        {"data__domain_column": "scanner", "data__target_domain": "new"},
        "0 of 60",
    ),
    "no patient": (npz, PER_PATIENT, "train_patient"),
    "no constants": (npz, {"data__scale": "constants.toml"}, "constants.toml"),
    "bounds the wrong way": (npz, {"data__bounds": {"*": [1.0, -1.0]}}, "data.bounds"),
    "no training rows": (npz, {"data__val": 0.5, "data__test": 0.5}, "data.test"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_rows_that_no_plan_accepts_fail_the_check(kind, tmp_path):
    write, changes, says = REFUSED[kind]
    with np.errstate(divide="ignore", invalid="ignore"):
        home = site(tmp_path, write, **changes)
    passed, text = data_line(home)
    assert not passed
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize("kind", ["regression", "second domain of a table", "second domain of arrays"])
def test_an_experiment_file_can_be_rehearsed_on_such_rows(kind, tmp_path):
    write, changes, sets = TRAINS[kind]
    home = site(tmp_path, write, **changes)
    path = tmp_path / "plan.toml"
    path.write_text(
        to_toml(load_experiment("digits", ["data.silos=[]", "model.name=mlp", "data.source=memory", *sets]))
    )
    rehearsal, _ = rehearse(home, path)
    assert rehearsal.refused == ""
    assert rehearsal.claim.terms is not None, rehearsal.claim.rows_error
    assert rehearsal.plan.shape == [2]
