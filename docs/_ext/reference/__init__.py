"""
The pages of docs/reference, made from the code of fedtl when they are built, and tables of other pages. A page has a comment ``generated: NAME``, in whose
place the text of that name is put. Nothing is written to a file.
"""

import re
from collections.abc import Callable
from typing import Any

from reference import (
    api,
    commands,
    entries,
    files,
    measured,
    measured_bars,
    measured_transfer,
    odds,
    results,
    settings,
)

MARK = re.compile(r"<!-- generated: ([\w-]+) -->")
GENERATED: dict[str, Callable[[], str]] = {
    "experiment": settings.experiment,
    "silo": settings.silo,
    "server": settings.server,
    "methods": entries.methods,
    "terms": entries.terms,
    "models": entries.models,
    "sources": entries.sources,
    "tasks": entries.tasks,
    "measures": entries.measures,
    "heads": entries.heads,
    "augment": entries.augment,
    "server-steps": entries.server_steps,
    "commands": commands.commands,
    "files": files.files,
    "exit-codes": results.exit_codes,
    "refusals": results.refusals,
    "api": api.names,
    "odds": odds.odds,
    "speed": measured.speed,
    "speed-small": measured.speed_small,
    "speed-bars": measured_bars.speed_bars,
    "private-step": measured_bars.private_step,
    "private-cost": measured.private_cost,
    "private-at-home": measured.private_at_home,
    **{f"transfer-{family}": measured_transfer.transfer(family) for family in measured_transfer.FAMILIES},
}


def filled(text: str) -> str:
    """Return a page with the generated texts in place of their comments. Raises KeyError for a name that is not known."""
    return MARK.sub(lambda mark: GENERATED[mark[1]](), text)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""

    def fill(app: Any, page: str, source: list[str]) -> None:
        source[0] = filled(source[0])

    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
