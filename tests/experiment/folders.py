"""Folders of data as institutions have them, each with a seed of its own: written by the libraries that wrote theirs."""

import numpy as np
import pandas as pd
from PIL import Image


def rows(seed, count=60, shift=0.0, labels=("ill", "well")):
    """A table whose label depends on two columns."""
    rng = np.random.default_rng(seed)
    age, pressure = rng.normal(60 + shift, 9, count).round(2), rng.normal(130, 15, count).round(1)
    risk = (age - 60 - shift) / 9 + (pressure - 130) / 15 + rng.normal(0, 0.8, count)
    edges = np.quantile(risk, np.linspace(0, 1, len(labels) + 1)[1:-1])
    outcome = np.array(labels)[np.digitize(risk, edges)]
    return pd.DataFrame(
        {"age": age, "pressure": pressure, "sex": rng.choice(["f", "m"], count), "outcome": outcome}
    )


def a_csv_each(path, **how):
    for number, name in enumerate(("north", "south", "west")):
        rows(number, shift=4 * number).to_csv(path / f"{name}.csv", index=False, **how)


def semicolons_in_latin_1(path):
    for number, name in enumerate(("nord", "sud")):
        frame = rows(number, labels=("bösartig", "gutartig")).rename(columns={"sex": "Geschlecht"})
        frame.to_csv(path / f"{name}.csv", sep=";", decimal=",", encoding="latin-1")  # with a nameless index


def other_order_and_an_extra_column(path):
    rows(1).to_csv(path / "a.csv", index=False)
    rows(2)[["outcome", "sex", "pressure", "age"]].assign(ward=3).to_csv(path / "b.csv", index=False)


def a_silo_of_one_class(path):
    a_csv_each(path)
    rows(9).assign(outcome="ill").to_csv(path / "hospice.csv", index=False)


def regression(path):
    for number in range(2):
        frame = rows(number)
        frame.drop(columns="outcome").assign(price=frame["age"] * 1.7 + frame["pressure"]).to_parquet(
            path / f"{number}.parquet"
        )


def many_texts(path):
    for number in range(2):
        rows(number, 90, labels=("mild", "moderate", "severe")).rename(
            columns={"outcome": "severity"}
        ).to_csv(path / f"s{number}.csv", index=False)


def a_silo_column(path):
    frames = [
        rows(n, 50).assign(hospital=name, patient=[f"{name}{i // 2}" for i in range(50)])
        for n, name in enumerate("ABC")
    ]
    pd.concat(frames).assign(id=range(1, 151), seen="2024-03-05").to_csv(path / "all.csv", index=False)


def one_table(path):
    rows(3, 400).to_excel(path / "rows.xlsx", index=False)


def survival(path):
    rng = np.random.default_rng(5)
    for name in "ab":
        frame = rows(ord(name), 80).drop(columns="outcome")
        frame.assign(time=rng.exponential(9, 80).round(2), event=rng.integers(0, 2, 80)).to_csv(
            path / f"{name}.csv", index=False
        )


def arrays(path):
    rng = np.random.default_rng(6)
    for number, shape in enumerate([(60, 12, 12), (60, 16, 16, 3)]):
        x, y = rng.integers(0, 256, shape).astype(np.uint8), np.arange(60) % 3
        np.savez(path / f"s{number}.npz", train_x=x, train_y=y, test_x=x[:12], test_y=y[:12])


def series_in_one_file(path):
    rng = np.random.default_rng(7)
    np.savez(
        path / "all.npz",
        train_x=rng.normal(size=(90, 40, 2)),
        train_y=np.arange(90) % 2,
        train_site=np.repeat(["x", "y", "z"], 30),
    )


def a_row_a_step(path):
    """Three hospitals; each stay has a row an hour, and one outcome."""
    for number, name in enumerate(("north", "south", "west")):
        rng = np.random.default_rng(number)
        stay, hour = np.divmod(np.arange(240), 6)
        ill = rng.permutation(np.arange(40) % 2)[stay]
        frame = pd.DataFrame({"stay_id": stay, "hour": hour, "pulse": rng.normal(80 + 9 * ill, 9)})
        frame.assign(outcome=np.where(ill, "ill", "well")).to_csv(path / f"{name}.csv", index=False)


def pictures(folder, count, size=(12, 12), mode="L"):
    folder.mkdir(parents=True)
    for number in range(count):
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, shape).astype(np.uint8)).save(
            folder / f"{number}.png"
        )


def silos_of_pictures(path):
    for silo, size, mode in (("one", (12, 12), "L"), ("two", (20, 16), "RGB")):
        for label in ("cat", "dog"):
            pictures(path / silo / label, 15, size, mode)


def classes_of_pictures(path):
    for label in ("cat", "dog"):
        pictures(path / label, 80)


def listed_pictures(path):
    pictures(path / "files", 60)
    frame = pd.DataFrame(
        {
            "file": [f"files/{n}.png" for n in range(60)],
            "diagnosis": ["a", "b"] * 30,
            "clinic": ["p"] * 30 + ["q"] * 30,
        }
    )
    frame.to_csv(path / "list.csv", index=False)


ALL = (
    *(
        a_csv_each,
        semicolons_in_latin_1,
        other_order_and_an_extra_column,
        a_silo_of_one_class,
        regression,
        many_texts,
    ),
    *(
        a_silo_column,
        one_table,
        survival,
        arrays,
        series_in_one_file,
        a_row_a_step,
        silos_of_pictures,
        classes_of_pictures,
        listed_pictures,
    ),
)
