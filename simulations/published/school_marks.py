"""
Write School as Motley (Wu et al., 2022) prepares it, for school.toml: marks from 1 to 70 become 0 to 1, and each school's columns
are standardised by its own training rows; a column that is constant there stays 0.

The shipped split of four fifths and one fifth is kept; Motley's is 70, 15 and 15 percent.

Run: python simulations/published/school_marks.py [SCHOOL] [OUT]. Needs the folder with one .npz a school (see README.md).
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent
LOWEST, RANGE = 1, 69  # of a mark


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(source.glob("*.npz"))
    for file in files:
        rows = np.load(file)
        scaler = StandardScaler().fit(rows["train_x"].astype(np.float64))
        parts = {f"{part}_x": scaler.transform(rows[f"{part}_x"]) for part in ("train", "test")}
        marks = {f"{part}_y": (rows[f"{part}_y"] - LOWEST) / RANGE for part in ("train", "test")}
        np.savez(out / file.name, **{name: one.astype(np.float32) for name, one in (parts | marks).items()})
    print(f"{len(files)} schools in {out}")


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    source = given[0] if given else HERE.parents[2] / "shared" / "data" / "school"
    main(source, given[1] if len(given) > 1 else HERE.parent / "runs" / "school-marks")
