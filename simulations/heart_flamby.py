"""
Write FLamby's Fed-Heart-Disease (Ogier du Terrail et al., 2022) as four CSV files with a split column, for heart-flamby.toml.

As ``fed_heart_disease/dataset.py`` of FLamby does: without slope, ca and thal; without rows that have a gap; ``cp`` and
``restecg`` as indicators of all but their first value; at each hospital 34 % of the rows for testing, drawn with
random_state 43, in proportion to the classes where each has more than two rows. 199, 172, 30 and 85 training rows.
``constants.toml``: mean and standard deviation of all training rows, for one scale at all hospitals.

Run: python simulations/heart_flamby.py [HEART-DISEASE] [OUT]. Needs the folder of UCI's files (see README.md).
"""

import sys
from pathlib import Path

import pandas as pd
import tomli_w
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
DROPPED = ["slope", "ca", "thal"]
NUMBERS = ["age", "trestbps", "chol", "thalach", "oldpeak"]


def read(folder: Path) -> pd.DataFrame:
    """Return the rows of all hospitals without gaps, one-hot, with columns hospital and num (0 or 1)."""
    parts = [pd.read_csv(folder / f"{name}.csv").assign(hospital=name) for name in HOSPITALS]
    rows = pd.concat(parts, ignore_index=True).drop(columns=DROPPED).dropna().reset_index(drop=True)
    rows["num"] = (rows["num"] > 0).astype(int)
    rows[["cp", "restecg"]] = rows[["cp", "restecg"]].astype(int)
    return pd.get_dummies(rows, columns=["cp", "restecg"], drop_first=True, dtype=int)


def split_parts(labels: pd.Series) -> list[str]:
    """Return train or test for each row of one hospital."""
    stratify = labels if labels.nunique() > 1 and labels.value_counts().min() > 2 else None
    train, _ = train_test_split(range(len(labels)), test_size=0.34, random_state=43, stratify=stratify)
    return ["train" if row in set(train) else "test" for row in range(len(labels))]


def main(source: Path, out: Path) -> None:
    rows = read(source)
    out.mkdir(parents=True, exist_ok=True)
    train = []
    for name in HOSPITALS:
        own = rows[rows.hospital == name].drop(columns="hospital")
        own = own.assign(part=split_parts(own["num"]))
        own.to_csv(out / f"{name}.csv", index=False)
        train.append(own[own.part == "train"])
        print(f"{name}: {(own.part == 'train').sum()} training rows, {(own.part == 'test').sum()} test rows")
    inputs = pd.concat(train).drop(columns=["num", "part"])
    scale = {
        column: {"mean": float(inputs[column].mean()), "std": float(inputs[column].std())}
        for column in inputs
    }
    (out.parent / f"{out.name}-constants.toml").write_text(tomli_w.dumps(scale))


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    source = given[0] if given else HERE.parents[1] / "shared" / "data" / "heart-disease"
    main(source, given[1] if len(given) > 1 else HERE / "runs" / "heart-flamby")
