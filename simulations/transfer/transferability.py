"""
Run ``fedtl transferability`` on experiments of this folder and write what came of them: a table (NAME.md), its numbers
(NAME.json) and the curves (NAME.svg).

Run: python simulations/transfer/transferability.py transferability-digits [...] [--keep FOLDER]. A folder that FOLDER already
holds finished is not run again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedtl._util.records import from_plain
from fedtl.report.figures import TITLES, format_difference, format_value
from fedtl.report.transfer_page import answer
from fedtl.report.transfer_plots import transfer_curves
from fedtl.results.transferability import Transferability

HERE = Path(__file__).parent
RESULT = "transferability.json"


def table(result: Transferability) -> Iterator[str]:
    """Yield the lines of the table: a row for each way to begin."""
    metric = result.metric
    yield f"| training | test {TITLES[metric]} | over training from scratch |"
    yield "|---" * 3 + "|"
    for point in result.points:
        name = point.begin.replace("n", str(point.stages)) if point.stages else str(point.begin)
        score = format_value(metric, point.score.mean) if point.score else ""
        gain = format_difference(metric, point.gain.mean, point.gain.ci95) if point.gain else ""
        yield f"| {name} | {score} | {gain} |"


def write(name: str, folder: Path) -> None:
    """Write the three files of one experiment."""
    content = (folder / RESULT).read_text()
    result = from_plain(Transferability, json.loads(content))
    beside = HERE / name
    beside.with_suffix(".json").write_text(content)
    beside.with_suffix(".svg").write_text(transfer_curves(result))
    about = (
        f"`fedtl transferability simulations/transfer/{name}.toml`: {len(result.silos)} silos, {len(result.seeds)} seeds, "
        f"{result.model}, {result.rounds} rounds; means over silos with 95 % intervals. A: the others' model; B: the silo's own."
    )
    page = [f"# {name}", "", about, "", answer(result), "", *table(result), "", f"![{name}]({name}.svg)", ""]
    beside.with_suffix(".md").write_text("\n".join(page))
    print("\n".join(page))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.names:
            folder = (given.keep or Path(temporary)).absolute() / name
            if not (folder / RESULT).exists():
                words = ["transferability", f"simulations/transfer/{name}.toml", "--out", str(folder)]
                subprocess.run([sys.executable, "-m", "fedtl", *words], cwd=HERE.parents[1], check=True)
            write(name, folder)


if __name__ == "__main__":
    main()
