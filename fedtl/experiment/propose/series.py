"""Whether a table has one row for each step of a series, and how it is read then."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedtl.experiment.propose.column_facts import Cells, ColumnFacts
from fedtl.experiment.propose.guess import Guess
from fedtl.experiment.propose.inputs import is_named, names_units

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("series", "recording", "trial")
TIMES = (  # what the column that orders the steps is called
    *("time", "timestamp", "datetime", "date", "day", "hour", "minute", "second", "week", "month", "t"),
    *("step", "frame", "tick", "charttime"),
)
MIN_STEPS = 4  # of the median series


def guess_series(
    frames: Sequence["pd.DataFrame"], facts: Sequence[ColumnFacts], label: str, given: Mapping[str, Any]
) -> Guess | None:
    """
    Return the columns that name the series and order its steps, where some do: each table has one row for each pair of them, several
    for each series, and one label for all rows of a series. ``facts``: of the columns that are not the label. None also where a
    person has set data.sequence.
    """
    if "sequence" in given or not all(label in frame.columns for frame in frames):
        return None
    common = [one for one in facts if one.files == len(frames) and not one.missing]
    names = [one.name for one in common if names_units(one.name) or is_named(one.name, NAMES)]
    times = [one.name for one in common if _is_time(one)]
    for name in names:
        for time in times:
            if name != time and all(_has_steps(frame, name, time, label) for frame in frames):
                return _of(frames, name, time)
    return None


def _is_time(one: ColumnFacts) -> bool:
    words = one.name.casefold().replace("-", "_").split("_")
    return one.kind in (Cells.NUMBER, Cells.DATE) and words[-1].removesuffix("s") in TIMES


def _has_steps(frame: "pd.DataFrame", name: str, time: str, label: str) -> bool:
    series = frame.groupby(name)
    return bool(
        not frame.duplicated([name, time]).any()
        and series.size().median() >= MIN_STEPS
        and series[label].nunique(dropna=False).max() == 1
    )


def _of(frames: Sequence["pd.DataFrame"], name: str, time: str) -> Guess:
    lengths = [length for frame in frames for length in frame.groupby(name).size()]
    longest = int(max(lengths))
    return Guess(
        "inputs",
        f"{len(lengths)} series by {name}, of at most {longest} steps in the order of {time}",
        f"{name} has several rows, one for each {time}, and one label",
        "if each row is an example of its own, remove data.sequence and set data.unit_column instead",
        {"data.sequence": {"id": name, "time": time, "length": longest}},
    )
