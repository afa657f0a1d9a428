"""
An update must depend on a record only through its noisy steps: every quantity of the table, and every bit of an
update in which the record was not sampled, for neighbouring datasets that differ before anything is read.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import silo_guarantee
from fedtl.experiment.study import build
from fedtl.messages import Task
from fedtl.privacy import dp_sgd as mechanism
from fedtl.privacy.quantities import QUANTITIES, page
from fedtl.simulation.shared_store import temporary_store

ROWS, ROW, PATIENT = 60, 7, 4  # the record that changes, and the patient; both are trained on
PRIVATE = [
    "rounds=2",
    "engine.name=serial",
    "privacy.epsilon=5",
    "privacy.noise=reproducible",
    "data.silos=[]",
]
PRIVATE += [
    "privacy.sample_rate=0.04",
    "privacy.steps=3",
    "data.val=0.2",
    "data.limit=40",
    "data.classes=['0','1']",
]
COLUMNS = [*PRIVATE, "model.name=mlp", "data.scale=none", "data.source=npz"]
IMAGES = [*PRIVATE, "model.name=convnet", "data.source=npz"]
TABLE = [
    *PRIVATE,
    "model.name=mlp",
    "data.scale=none",
    "data.source=table",
    "data.columns=['age','sex','dose']",
]
TABLE += ["data.categories={sex=['f','m']}"]


def numbers():
    rng = np.random.default_rng(0)
    return {"train_x": rng.normal(size=(ROWS, 4)), "train_y": np.arange(ROWS) % 2}


def float_images():
    rng = np.random.default_rng(0)
    return {"train_x": rng.normal(size=(ROWS, 8, 8)).astype(np.float32), "train_y": np.arange(ROWS) % 2}


def pixels():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (ROWS, 8, 8), dtype=np.uint8)
    return {"train_x": x, "train_y": np.arange(ROWS) % 2}


def values():
    return numbers() | {"train_y": np.linspace(0, 10, ROWS)}


def patients():
    """20 patients of three rows each; the protected unit is one patient."""
    return numbers() | {"train_patient": np.arange(ROWS) // 3}


def cells():
    rng = np.random.default_rng(0)
    return {
        "age": [str(value) for value in rng.integers(20, 90, ROWS)],
        "sex": [("f", "m")[value] for value in rng.integers(0, 2, ROWS)],
        "dose": [f"{value:.3f}" for value in rng.normal(size=ROWS)],
        "label": [str(value % 2) for value in range(ROWS)],
    }


def coded():
    """Categories and labels that look like numbers, so that one word among them would change how all are read. 01 is another one than 1."""
    made = cells()
    return made | {"sex": ["01" if sex == "f" else "02" for sex in made["sex"]]}


def decimals():
    """Categories that pandas would format differently if it read the column as numbers."""
    made = cells()
    return made | {"sex": ["1.10" if sex == "f" else "2.50" for sex in made["sex"]]}


def at(key, value, row=ROW):
    """Set ``key`` of the record to another value."""

    def changed(content):
        old = content[key]
        if isinstance(old, list):
            return content | {key: [*old[:row], value, *old[row + 1 :]]}
        kind = (
            np.result_type(old, np.float64)
            if isinstance(value, float) and old.dtype.kind != "u"
            else old.dtype
        )
        new = old.astype(kind)
        new[row] = value
        return content | {key: new}

    return changed


def more_rows(content):
    """Add one row to the patient."""
    return {key: np.concatenate([part, part[3 * PATIENT : 3 * PATIENT + 1]]) for key, part in content.items()}


def extreme(content):
    """Make all rows of the patient extreme."""
    x = content["train_x"].copy()
    x[content["train_patient"] == PATIENT] = 1e5
    return content | {"train_x": x}


def write_arrays(folder, content):
    np.savez(folder / "a.npz", **content)


def write_table(folder, content):
    pd.DataFrame(content).to_csv(folder / "a.csv", index=False)


def write_pictures(folder, content):
    for row, (x, y) in enumerate(zip(content["train_x"], content["train_y"], strict=True)):
        place = folder / "a" / str(int(y))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(place / f"{row:03}.png")


LABELS = [
    ("train_y", 1 - ROW % 2),
    ("train_y", 9),
    ("train_y", -1),
    ("train_y", 0.5),
    ("train_y", float("nan")),
]
NUMBERS = [("train_x", 1e5), ("train_x", -3e38), ("train_x", float("nan")), ("train_x", float("inf"))]
PIXELS = [("train_x", 0), ("train_x", 255)]
CELLS = [
    ("age", "100000"),
    ("age", ""),
    ("age", "old"),
    ("age", "1e999"),
    ("sex", "x"),
    ("sex", ""),
    ("sex", "7"),
]
CELLS += [
    ("dose", "-1e5"),
    ("dose", "n/a"),
    ("label", "1" if ROW % 2 == 0 else "0"),
    ("label", "sick"),
    ("label", ""),
]
CASES = [
    (
        "decimal categories",
        [*TABLE, "data.categories={sex=['1.10','2.50']}"],
        write_table,
        decimals,
        at("sex", "word"),
    ),
    *(("npz columns", COLUMNS, write_arrays, numbers, at(*change)) for change in [*NUMBERS, *LABELS]),
    *(
        ("float images", [*IMAGES, "data.scale=none"], write_arrays, float_images, at(*change))
        for change in NUMBERS
    ),
    *(("pixels", IMAGES, write_arrays, pixels, at(*change)) for change in [*PIXELS, *LABELS]),
    *(("table", TABLE, write_table, cells, at(*change)) for change in CELLS),
    *(
        ("coded table", [*TABLE, "data.categories={sex=['01','02']}"], write_table, coded, at(*change))
        for change in [("sex", "word"), ("age", "word"), ("label", "word")]
    ),
    *(
        (
            "pictures",
            [*PRIVATE, "data.source=images", "data.size=8", "data.channels=1"],
            write_pictures,
            pixels,
            at(*c),
        )
        for c in [("train_y", 1 - ROW % 2), ("train_x", 255), ("train_y", 7)]
    ),
    *(
        ("patients", [*COLUMNS, "privacy.unit=patient", "data.limit=0"], write_arrays, patients, change)
        for change in (extreme, more_rows, at("train_y", 1, 3 * PATIENT), at("train_y", 5, 3 * PATIENT))
    ),
    *(
        (
            "regression",
            [*COLUMNS, "data.task=regression", "data.classes=[]"],
            write_arrays,
            values,
            at(*change),
        )
        for change in [("train_y", 1e6), ("train_y", float("nan")), ("train_x", 1e5)]
    ),
]


def study_of(folder, sets, shelf):
    last = {setting.partition("=")[0]: setting for setting in [*sets, f"data.path={folder}"]}
    return build(load_experiment("digits", list(last.values())), shelf, shelf)


def probes(study, home):
    """Return, for each quantity of the table, its value at the silo, or what represents it."""
    data, experiment, trainer = study.data("a"), study.experiment, study.trainer
    inputs, guarantee = study.silo_data.inputs("a"), silo_guarantee(study, "a", home)
    initial = trainer.initial(data.width)
    shared, local = trainer.partition.split(initial)
    update, _ = fit(study, home)
    return {
        "number of units n": (guarantee.protected.count, data.train.unit_count),
        "sample rate": guarantee.training.sample_rate,
        "steps": (guarantee.training.steps, guarantee.training.rounds),
        "delta": guarantee.delta,
        "noise multipliers": guarantee.schedule(),
        "clip": guarantee.training.clip,
        "class list": (data.classes, data.width),
        "columns and categories": inputs.columns,
        "input shape": (data.train.x.shape[1:], data.train.x.dtype, study.schema.shape),
        "scale of the inputs": (inputs.fill, inputs.mean, inputs.std, inputs.origin),
        "scale of the labels": (data.y_mean, data.y_std, inputs.label_origin),
        "released scale of the inputs": guarantee.releases.statistics,
        "split and limit": (len(data.train), len(data.val))
        if data.train.units is None
        else data.train.unit_count,
        "silo of each row": list(study.schema.silos),
        "unit of each row": None if data.train.units is None else data.train.unit_count,
        "validation rows": len(data.val) if data.val.units is None else data.val.unit_count,
        "weight of the update": update.weight,
        "seeds": (experiment.seed, study.secret("a")),
        "initial weights": initial,
        "initial statistics of norms": {name: t for name, t in initial.items() if "running" in name},
        "received tensors": shared,
        "local tensors by role": local,
        "method and optimiser": (experiment.method, experiment.train, experiment.model),
        "constants of DP-AdaBN": dataclasses.asdict(guarantee)["releases"]["statistics"],
        "form of a summary": guarantee.releases.summaries,
        "way of taking gradients": list(trainer.cache.gradient_methods.values()),
        "canaries": guarantee.canaries,
        "whether the silo answers": sorted(update.metrics),
    }


def fit(study, home):
    """Run one private round; returns also the sampled units. The noise is reproducible."""
    drawn, poisson = set(), mechanism.poisson
    with pytest.MonkeyPatch.context() as patch:

        def watched(*given):
            found = poisson(*given)
            drawn.update(found.tolist())
            return found

        patch.setattr(mechanism, "poisson", watched)
        silo = dataclasses.replace(
            study.silo("a", study.data("a")), guarantee=silo_guarantee(study, "a", home)
        )
        shared, _ = study.trainer.partition.split(study.trainer.initial(silo.data.width))
        update = study.trainer.fit_unaccounted(
            silo, Task("s", 1, study.experiment.rounds, study.experiment.seed, shared)
        )
    return dataclasses.replace(update, delta=dict(update.delta) | silo.local), drawn


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def changed_units(one, other):
    """Return the units whose rows differ, in the training and in the validation part."""

    def rows(part):
        units = torch.arange(len(part)) if part.units is None else part.units
        return [
            (part.x[units == unit].tolist(), str(part.y[units == unit].tolist()))
            for unit in range(part.unit_count)
        ]

    return [
        [unit for unit, pair in enumerate(zip(rows(a), rows(b), strict=True)) if pair[0] != pair[1]]
        for a, b in ((one.train, other.train), (one.val, other.val))
    ]


def test_every_quantity_of_the_table_is_probed(tmp_path):
    write_arrays(tmp_path, pixels())
    with temporary_store() as shelf:
        found = probes(study_of(tmp_path, IMAGES, shelf), tmp_path)
    assert list(found) == [one.name for one in QUANTITIES]


@pytest.mark.parametrize(("kind", "sets", "write", "make", "change"), CASES)
def test_record_that_is_not_sampled_changes_no_bit_of_the_update(kind, sets, write, make, change, tmp_path):
    found = []
    for number, content in enumerate((make(), change(make()))):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, content)
        with temporary_store() as shelf:
            study = study_of(folder, sets, shelf)
            assert study.data("a").origins.scale == "declared"
            update, drawn = fit(study, tmp_path)
            found.append((probes(study, tmp_path), update, drawn, study.data("a")))
    (quantities, update, drawn, data), (others, other_update, other_drawn, other_data) = found
    for name, value in quantities.items():
        assert same(value, others[name]), name
    trained, validated = changed_units(data, other_data)
    assert (len(trained), len(validated)) == (1, 0)
    assert drawn == other_drawn
    assert not drawn & set(trained), "choose another seed: the record was sampled"
    assert same(update.delta, other_update.delta)
    assert (update.weight, update.metrics) == (other_update.weight, other_update.metrics)


def test_extra_comma_in_one_row_moves_no_cell_of_another(tmp_path):
    """pandas uses the first column as an index if the first row is longer than the header."""
    found = []
    for end in ("", ",9"):
        write_table(tmp_path, cells())
        header, first, *others = (tmp_path / "a.csv").read_text().splitlines()
        (tmp_path / "a.csv").write_text("\n".join([header, first + end, *others]) + "\n")
        with temporary_store() as shelf:
            found.append(study_of(tmp_path, TABLE, shelf).data("a"))
    assert changed_units(*found) == [[], []]


def test_record_that_is_sampled_changes_the_update(tmp_path):
    """The comparison can find differences."""
    sets = [*COLUMNS, "privacy.sample_rate=1.0"]
    found = []
    for content in (numbers(), at("train_x", 1e5)(numbers())):
        write_arrays(tmp_path, content)
        with temporary_store() as shelf:
            found.append(fit(study_of(tmp_path, sets, shelf), tmp_path)[0].delta)
    assert not same(*found)


def test_page_equals_the_table():
    path = Path(__file__).parents[2] / "docs" / "privacy-quantities.md"
    assert path.read_text() == page(), "python -m fedtl.privacy.quantities > docs/privacy-quantities.md"
