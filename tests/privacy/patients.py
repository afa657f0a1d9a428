"""Rows of patients."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from tests.experiments import ROUNDS_ONLY


def of_patients(data, each=4):
    """Return the same rows, where every ``each`` of them belong to one patient."""
    train = data.train
    return replace(data, train=replace(train, units=torch.arange(len(train)) // each))


def table(path, rows=120, patients=30, **columns):
    rng = np.random.default_rng(0)
    content = {"patient": [f"p{i % patients}" for i in range(rows)], "a": rng.normal(size=rows)}
    content |= {"b": rng.normal(size=rows), "label": [i % 2 for i in range(rows)], **columns}
    for name in ("north", "south"):
        pd.DataFrame(content).to_csv(path / f"{name}.csv", index=False)
    return [
        *("data.source=table", f"data.path={path}", "data.scale=none", "data.classes=['0','1']"),
        *("model.name=mlp", "rounds=2"),
        *("engine.name=serial", "train.batch_size=8", "privacy.epsilon=5", *ROUNDS_ONLY),
    ]
