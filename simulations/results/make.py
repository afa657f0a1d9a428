"""
Run experiments by ``fedtl compare`` and write what came of them: a table (NAME.md), its numbers (NAME.json) and a figure
(NAME.svg), with the command, the commit, the machine and the time that it took; and README.md, one line for each of them.
The files of an experiment in a folder of its own (transfer/NAME) are written beside it, and to transfer/README.md.

Run: python simulations/results/make.py NAME... [--ten-seeds] [--keep FOLDER]. The run folders go to FOLDER/NAME, or are removed. A
comparison that FOLDER already holds finished is not run again: its table is written anew; one that was interrupted is continued, and
its time is that of the last part. With --ten-seeds three methods are trained for ten seeds, which makes the intervals three times as
narrow as three seeds do, and the files go to ten-seeds.
"""

import argparse
import tempfile
from pathlib import Path

from committed import DEFAULT, LOCAL
from measured_runs import run
from overview import overview
from set_pages import write
from transfer_overview import FOLDER, transfer_overview

HERE = Path(__file__).parent
TEN_SEEDS = (
    f'compare.methods=["{LOCAL}", "fedavg", "{DEFAULT}"]',
    f"compare.seeds={list(range(10))}",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--ten-seeds", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.names:
            written, changes = (f"results/ten-seeds/{name}", TEN_SEEDS) if given.ten_seeds else (name, ())
            folder = (given.keep or Path(temporary)).absolute() / written
            folder.parent.mkdir(parents=True, exist_ok=True)
            write(written, folder, run(name, folder, changes))
            (HERE / "README.md").write_text(overview())
            (FOLDER / "README.md").write_text(transfer_overview())


if __name__ == "__main__":
    main()
