"""Exit codes, codes of refusal, and the measured gain of a method."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fedtl import errors
from fedtl._util.records import from_plain
from fedtl.errors import FedTLError
from fedtl.federation.policy import MEANING
from fedtl.report.figures import TITLES, format_difference
from fedtl.results.comparison import Overall
from reference.markdown import code, prose, table

RESULTS = Path(__file__).parents[3] / "simulations" / "results"
OTHER_CODES = (
    (0, "done"),
    (1, "a defect of fedtl, with a traceback"),
    (130, "interrupted; a run can be resumed"),
)


def kinds(kind: type[FedTLError] = FedTLError) -> Iterator[type[FedTLError]]:
    """Yield an error and all that are derived from it."""
    yield kind
    for inner in kind.__subclasses__():
        if inner.__module__ == errors.__name__:
            yield from kinds(inner)


def exit_codes() -> str:
    """Return the table of exit codes, with the errors that have them."""
    rows = [(number, text, "") for number, text in OTHER_CODES]
    rows += [(kind.exit_code, prose((kind.__doc__ or "").strip()), code(kind.__name__)) for kind in kinds()]
    ordered = sorted(rows, key=lambda row: row[0])
    return table(
        ["exit code", "meaning", "error in Python"],
        ([str(number), text, name] for number, text, name in ordered),
    )


def refusals() -> str:
    """Return the table of codes that a server may see, with what it prints for each."""
    return table(
        ["code", "what the server prints of the site"],
        ([code(one.value), prose(text)] for one, text in MEANING.items()),
    )


@cache
def _comparisons() -> dict[str, tuple[str, dict[str, Overall]]]:
    """Return by the name of an experiment of simulations/results its metric and each method's figures over all silos."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        if "overall" in content:
            overall = {name: from_plain(Overall, one) for name, one in content["overall"].items()}
            found[path.stem] = (content["metric"], overall)
    return found


def measured(method: str) -> str:
    """Return the mean gain of a method over training alone in each experiment of simulations/results that has it."""
    lines = [
        f"[{name}](../../simulations/results/{name}.md): {_gain(metric, by[method])} ({TITLES[metric]})"
        for name, (metric, by) in _comparisons().items()
        if method in by
    ]
    return "; ".join(lines).replace("|", r"\|")


def _gain(metric: str, overall: Overall) -> str:
    return format_difference(metric, overall.mean.mean, overall.mean.ci95)
