"""What a silo is where no column names it: a file, a folder, or a share of one set that is dealt."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedtl._util.toml_text import Table
from fedtl.data.formats import is_hidden
from fedtl.data.settings import DealSettings
from fedtl.experiment.propose.guess import Guess, listed
from fedtl.experiment.propose.layout import Layout, Silos

DEALT = 4  # the number of simulated silos, where there are enough rows
ROWS_A_SILO = 60  # below which fewer silos are dealt
RARE_A_SILO = 5  # rows of the rarer labels, below which all silos get equal shares of them


def _deal(counts: Sequence[int], classes: bool, of_units: str) -> tuple[Table, str]:
    """Return how a set is dealt to silos, and that in words. ``of_units``: the words where whole units are dealt, or ""."""
    rows = sum(counts) or DEALT * ROWS_A_SILO
    rare = rows - max(counts, default=0)  # rows that do not have the most frequent label
    silos = max(2, min(DEALT, rows // ROWS_A_SILO))
    deal: Table = {"silos": silos, "by": "unit" if of_units else "iid"}
    how = of_units or "in equal shares"
    if classes and not of_units and rows >= 2 * ROWS_A_SILO and rare >= RARE_A_SILO * silos:
        deal |= {"by": "dirichlet", "alpha": 1.0}
        how = "with different shares of the labels"
    if rows // 4 < DealSettings.model_fields["minimum"].default:
        deal["minimum"] = max(4, rows // 4)
    return deal, how


def guess_silos(
    layout: Layout,
    names: Sequence[str],
    given: Mapping[str, Any],
    label: Mapping[str, Any],
    others: Sequence[str] = (),
    counts: Sequence[int] = (),
) -> Guess:
    """
    Return what a silo is: a file or a folder, or a share of one set that is dealt. ``label``: settings of label and unit; ``others``: columns
    that may name silos; ``counts``: how many rows of the set each label has, () where it is not known.
    """
    if layout.silos is not Silos.ONE_SET:
        own = (
            names
            if layout.silos is Silos.FILES
            else [
                folder.name
                for folder in sorted(layout.path.iterdir())
                if folder.is_dir() and not is_hidden(folder)
            ]
        )
        return Guess(
            "silos",
            f"{len(own)}, {layout.silos.value}: {listed(own)}",
            "each of them is taken for an institution",
        )
    if "deal" in given:
        return Guess("silos", "dealt from one set", "as set")
    unit = label.get("data.unit_column", given.get("unit_column"))
    classes = label.get("data.task", given.get("task", "classification")) == "classification"
    deal, how = _deal(counts, classes, f"with all rows of one {unit} in one of them" if unit else "")
    doubt = "they are simulated: a result says nothing about real institutions"
    if layout.source in ("table", "huggingface") or layout.manifest:
        doubt += "; if a column names the institution, --set data.silo_column=NAME"
        doubt += f" ({listed(others, 4)}?)" if others else ""
    return Guess(
        "silos",
        f"{deal['silos']}, dealt from one set, {how}",
        "nothing in the data names the institution of each row",
        doubt,
        {"data.deal": deal},
    )
