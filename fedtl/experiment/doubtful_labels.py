"""Which labels of a silo are probably wrong: the list that stays at the silo, and the note in the result that names the silo."""

import csv
import io
from collections.abc import Iterator, Mapping

import numpy as np

from fedtl.data.row_numbers import training_row_numbers
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import Study
from fedtl.methods.label_doubt import Doubts
from fedtl.training.finish import Outcome

FILE = "doubtful_labels.csv"
HEADER = ("row", "label", "likely", "times_as_likely")
IN_DOUBT = "training labels in doubt:"  # how the note begins
LEAST = 0.1  # the share of doubtful labels below which a silo is never named
SPREADS = 3.0  # how far above the median of all silos, in normal-consistent median absolute deviations


def save_doubts(study: Study, folder: RunFolder, name: str, doubts: Doubts) -> None:
    """
    Write the silo's rows whose labels are in doubt, the most doubtful first, into its own folder. ``row``: the number of the
    row among the silo's stored (training) rows, from 0.
    """
    rows = study.silo_data
    numbers = training_row_numbers(rows.stored(name), rows.settings, name, rows.seed)
    classes = study.data(name).classes
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    parts = (doubts.rows, doubts.given, doubts.likely, doubts.odds)
    for row, given, likely, odds in zip(*(part.tolist() for part in parts), strict=True):
        table.writerow((numbers[row], classes[given], classes[likely], f"{odds:.4g}"))
    folder.write_text(f"silos/{name}/{FILE}", text.getvalue())


def doubt_notes(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """Yield a note that names the silos with clearly more doubtful labels than the others."""
    shares = {name: one.doubts.share for name, one in outcomes.items() if one.doubts is not None}
    if len(shares) < 3:
        return
    values = np.array(list(shares.values()))
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    far = {
        name: share
        for name, share in shares.items()
        if share > max(LEAST, middle + SPREADS * spread, 2 * middle)
    }
    if far:
        named = ", ".join(f"{name} {share:.0%}" for name, share in sorted(far.items()))
        yield (
            f"{IN_DOUBT} {named} (median of all silos {middle:.0%}); the rows are listed in silos/NAME/{FILE}, "
            "for that silo only"
        )
