"""
Measure rounds and memory with many silos. The last line that this script prints holds the seconds of each round as JSON.

It writes the silos as files and does a complete ``fedtl run`` with checkpoints. Each number of silos has its own process, so
that memory is not shared between measurements.
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import loads
import numpy as np
from machine import PeakMemory, resident_mib

from fedtl.experiment.checkpoint import load_run_state
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.federation.rounds import Round
from fedtl.models.state import size_in_bytes
from fedtl.training.threads import set_threads


def write(folder: Path, silos: int) -> None:
    load = loads.crowd(silos)
    for name in load.names():
        data = load.data(name)
        parts = {}
        for part, rows in (("train", data.train), ("test", data.val)):
            parts[f"{part}_x"] = rows.x.numpy()[:, 0]
            parts[f"{part}_y"] = np.arange(len(rows)) % len(loads.CLASSES)  # every silo has every label
        np.savez(folder / f"{name}.npz", **parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("silos", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stack", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    set_threads(1)
    ends: list[float] = []
    mib: list[float] = []

    def note(one: Round) -> None:
        ends.append(time.perf_counter())
        mib.append(resident_mib())

    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "silos"
        folder.mkdir()
        write(folder, given.silos)
        settings = {"rounds": given.rounds + 1, "data.source": '"npz"', "data.path": json.dumps(str(folder))}
        settings |= {"data.val": 0.1, "model.name": '"mlp"', "data.limit": 0}
        settings |= {"engine.workers": given.workers, "engine.stack": given.stack}
        experiment = load_experiment("digits", [f"{key}={value}" for key, value in settings.items()])
        before, began = resident_mib(), time.perf_counter()
        with PeakMemory() as peak:
            place = RunFolder.create(Path(above) / "run", experiment)
            run(experiment, place, progress=note)
        state = load_run_state(place.log)
        assert state is not None
        found = {
            "startup": ends[0] - began,
            "mib_before": round(before, 2),
            "mib_in_rounds": round(max(mib), 2),
            "mib_peak": round(peak.mib, 2),
            "kib_local": size_in_bytes(next(iter(state.local.values()))) / 1024,
        }
    seconds = [end - start for start, end in pairwise(ends)]
    print(json.dumps({"seconds": seconds, **found}))


if __name__ == "__main__":
    main()
