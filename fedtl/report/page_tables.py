"""Captions and columns of the tables that the page of a run and the page of a comparison share."""

from collections.abc import Mapping, Sequence

from fedtl.report.figures import TITLES
from fedtl.report.html import Cell, Grid, row
from fedtl.results.run import UsedFile


def refitted_grid(metric: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Grid:
    """Scores with shared normalisation statistics, and with each silo's own instead."""
    caption = (
        f"Test {TITLES[metric]} of the models after the last round, with the shared normalisation statistics and with the "
        "silo's own"
    )
    return Grid(caption, [*head, "shared statistics", "exact statistics of the silo's training inputs"], rows)


def target_grid(metric: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Grid:
    """Scores on the second domain of each silo, which has no labels in training."""
    caption = f"Test {TITLES[metric]} on the domain without training labels"
    return Grid(caption, [*head, "as trained", "with AdaBN on that domain"], rows)


def bytes_grid(head: str, sent: Mapping[str, Mapping[str, int]]) -> Grid:
    """The bytes that leave a silo in each round by role: a row for each method, ``head``: what a row is."""
    roles = list(dict.fromkeys(role for own in sent.values() for role in own))
    rows = [
        row(name, *(f"{own[role]:,}" if role in own else "-" for role in roles), f"{sum(own.values()):,}")
        for name, own in sent.items()
        if own
    ]
    return Grid("Bytes that leave a silo in each round, by role", [head, *roles, "all"], rows)


def fingerprint_grid(fingerprints: Mapping[str, str]) -> Grid:
    """The fingerprint of each silo's rows."""
    caption = "Fingerprints of the rows: the same rows, read in the same way, have the same one (SHA-256, first 16 digits)"
    return Grid(caption, ["silo", "fingerprint"], [row(*item) for item in fingerprints.items()])


def file_grid(files: Sequence[UsedFile]) -> Grid:
    """The files that training began from, and their hashes."""
    rows = [row(file.setting, file.name, file.sha256) for file in files]
    return Grid("Files that training began from", ["setting", "file", "SHA-256"], rows)


def late_grid(metric: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Grid:
    """Scores of silos that took no part in training."""
    caption = f"Test {TITLES[metric]} of silos that took no part in training"
    return Grid(caption, [*head, "model", TITLES[metric]], rows)
