"""Which column is the label, and what kind of prediction it asks for."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedtl.errors import DataError
from fedtl.experiment.propose.column_facts import Cells, ColumnFacts
from fedtl.experiment.propose.guess import Guess, listed

NAMES = (  # of labels, the likelier first
    *(
        "label",
        "labels",
        "target",
        "y",
        "class",
        "outcome",
        "diagnosis",
        "diagnose",
        "result",
        "response",
        "dx",
    ),
    *(
        "disease",
        "condition",
        "status",
        "event",
        "death",
        "died",
        "mortality",
        "readmitted",
        "default",
        "churn",
    ),
    *("fraud", "survived", "num", "grade", "stage", "severity", "score", "price", "quality"),
)
TIMES = ("time", "duration", "survival_time", "followup", "follow_up", "futime", "os_time", "tte")
EVENTS = ("event", "status", "death", "died", "dead", "censored", "observed", "os_event")
MAX_CLASSES = 20  # different whole numbers, from which on they are read as values
MAX_TEXTS = 100  # different texts, from which on they are read as names of rows
CENSORED = "censored"


def guess_label(facts: Sequence[ColumnFacts], files: int, given: Mapping[str, Any]) -> Guess:
    """
    Return the label and the task. ``facts``: of the columns that have no other use; ``files``: the number of tables; ``given``: the
    settings of [data] that a person has set. Raises DataError where no column can be the label.
    """
    common = [one for one in facts if one.files == files]
    if not given.keys() & {"label", "task"} and (survival := _survival(common)):
        return survival
    by_name = {one.name: one for one in common}
    if "label" in given:
        name = str(given["label"])
        if name not in by_name:
            raise DataError(
                f"data.label = {name!r} is not a column of all {files} tables; they have {listed(list(by_name), 12)}"
                if files > 1
                else f"data.label = {name!r} is not a column; there are {listed(list(by_name), 12)}"
            )
        return _with_task(by_name[name], "as set", "", given)
    candidates = [one for one in common if _can_be_label(one)]
    named = sorted(
        (one for one in candidates if _rank(one.name) < len(NAMES)), key=lambda one: _rank(one.name)
    )
    last = [one for one in candidates if one is common[-1]]
    if not named and not last:
        raise DataError(
            f"no column looks like a label: none is named {listed(NAMES, 4)} or the like; name it with --set data.label=NAME "
            f"({listed(list(by_name), 12)})"
        )
    chosen = (named or last)[0]
    why = "named as labels are" if named else "the last column, and none is named as labels are"
    others = [one.name for one in (*named, *last) if one is not chosen]
    others += [one.name for one in candidates if len(one.values) <= MAX_CLASSES and one is not chosen]
    others = list(dict.fromkeys(others))
    doubt = f"it could also be {listed(others, 4)} (--set data.label=NAME)" if others else ""
    return _with_task(chosen, why, doubt if others and (not named or len(named) > 1) else "", given)


def _can_be_label(one: ColumnFacts) -> bool:
    if one.kind not in (Cells.NUMBER, Cells.TEXT) or len(one.values) < 2 or one.of_file or one.counting:
        return False
    return one.kind == Cells.NUMBER or len(one.values) <= min(MAX_TEXTS, one.present // 2)


def _rank(name: str) -> int:
    """Return the place of a name among those of labels; a name with a further word comes after all of these."""
    plain = name.strip().casefold().replace(" ", "_").replace("-", "_")
    if plain in NAMES:
        return NAMES.index(plain)
    words = plain.split("_")
    return len(NAMES) - 1 if {words[0], words[-1]} & set(NAMES[:7]) - {"y"} else len(NAMES)


def _survival(common: Sequence[ColumnFacts]) -> Guess | None:
    """Return the label of times until an event, where one column is named as a time and one of 0 and 1 as an event."""
    times = [
        one for one in common if one.name.casefold() in TIMES and one.kind == Cells.NUMBER and one.low >= 0
    ]
    events = [one for one in common if one.name.casefold() in EVENTS and one.values == ("0", "1")]
    if len(times) != 1 or len(events) != 1 or times[0].missing or events[0].missing:
        return None
    time, event = times[0].name, events[0].name
    doubt = f"is {event} = 1 where the event was seen, and 0 where it was not yet?"
    if event.casefold() == CENSORED:
        doubt = f"{event} seems to be 1 where no event was seen; fedtl needs the opposite"
    return Guess(
        "label",
        f"{time} until {event}, task cox",
        f"{time} is named as a time and {event}, of 0 and 1, as an event",
        doubt,
        {"data.label": time, "data.event": event, "data.task": "cox"},
    )


def _with_task(label: ColumnFacts, why: str, doubt: str, given: Mapping[str, Any]) -> Guess:
    task, why_task, doubt_task = task_of(label)
    if "task" in given:
        task, why_task, doubt_task = str(given["task"]), "as set", ""
    settings = {"data.label": label.name, **({"data.task": task} if task != "classification" else {})}
    doubts = [text for text in (doubt, doubt_task) if text]
    return Guess("label", f"{label.name}, task {task}", f"{why}; {why_task}", "; ".join(doubts), settings)


def task_of(label: ColumnFacts) -> tuple[str, str, str]:
    """Return the task, the reason for it, and what is doubtful. Raises DataError for too many different texts."""
    values = listed(label.values, 5)
    if label.kind != Cells.NUMBER:
        if len(label.values) > min(MAX_TEXTS, label.present // 2):
            raise DataError(
                f"data.label = {label.name!r} has {len(label.values)} different texts in {label.present} rows, too many for classes; name "
                "another column with --set data.label=NAME"
            )
        return "classification", f"it holds {len(label.values)} texts ({values})", ""
    if not label.whole:
        return "regression", "it holds numbers with fractions", ""
    if len(label.values) > MAX_CLASSES:
        doubt = 'if it counts something: task = "counts"' if label.low >= 0 else ""
        return "regression", f"it holds {len(label.values)} different whole numbers", doubt
    doubt = ""
    if len(label.values) > 2:
        doubt = (
            f'if {values} are steps from low to high: task = "ordinal"; if they are amounts: "regression"; if only above or not '
            "above a value matters: positive_above"
        )
    return "classification", f"it holds {len(label.values)} whole numbers ({values})", doubt
