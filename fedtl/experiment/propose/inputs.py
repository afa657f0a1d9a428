"""What becomes of each column of a table: an input of some kind, the name of a silo or of a unit, or nothing."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedtl._util.toml_text import Table
from fedtl.data.cells import DECORATED_NUMBER, MAX_CATEGORIES
from fedtl.data.dates import fitting_formats
from fedtl.errors import DataError
from fedtl.experiment.propose.column_facts import Cells, ColumnFacts
from fedtl.experiment.propose.guess import Guess, listed
from fedtl.experiment.propose.layout import PARTS
from fedtl.experiment.row_notes import NAMELESS

SILOS = (  # what institutions are called in a column
    *("hospital", "silo", "site", "centre", "center", "clinic", "institution", "institute", "bank", "branch"),
    *("lab", "laboratory", "school", "university", "ward", "region", "country", "city", "client", "device"),
    *("machine", "sensor", "scanner", "station", "plant", "cohort", "source"),
)
UNITS = ("patient", "subject", "person", "participant", "individual", "customer", "speaker", "animal", "case")
STAYS = ("stay", "icustay", "admission", "hadm", "encounter")  # with "id" behind them, as in stay_id
NAMING = frozenset(
    {
        *("id", "ids", "nr", "no", "num", "number", "index", "idx", "key", "uuid", "code", "name"),
        *("hash", "pseudonym", "ref"),
    }
)
COUNTING = frozenset(
    {"n", "num", "number", "count", "total", "mean", "age", "days", "time", "size", "distance", "per"}
)
NUMBERS_OF_ROWS = re.compile(
    r"(?i)(^|[_ ])(id|nr|no|number|index|idx|key|uuid|row|rowid|record)$|^id([_ ]|$)"
)
SPLITS = ("split", "part", "set", "subset", "fold", "partition")
MAX_SILOS = 200
NEARLY_ALL = 0.9  # of the cells of a text are different: it names the rows


def is_named(name: str, words: Iterable[str]) -> bool:
    """
    Return whether a column says which one of these things a row is of: "hospital", "hospital_id", "PatientID" or "my hospital". A column
    that describes the thing, such as "patient_age" or "site_of_lesion", or counts it, such as "n_patient", does not.
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)  # camelCase
    plain = re.findall(r"[a-z0-9]+", apart.casefold())
    return any(
        plain == [f"{word}id"]
        or (
            word in plain
            and NAMING.issuperset(plain[plain.index(word) + 1 :])
            and COUNTING.isdisjoint(plain[: plain.index(word)])
        )
        for word in words
    )


def names_units(name: str) -> bool:
    """Return whether a column says whose row it is: of which person, or of which stay."""
    return is_named(name, UNITS) or (is_named(name, STAYS) and name.casefold().endswith("id"))


def silo_columns(facts: Sequence[ColumnFacts]) -> list[ColumnFacts]:
    """Return the columns that are named as institutions are, and name some of them: those that are text first."""
    fitting = [
        one
        for one in facts
        if is_named(one.name, SILOS)
        and 2 <= len(one.values) <= MAX_SILOS
        and not one.missing
        and not one.different
        and (one.kind == Cells.TEXT or one.whole)
    ]
    return sorted(fitting, key=lambda one: one.kind != Cells.TEXT)


def guess_unit(facts: Sequence[ColumnFacts]) -> Guess | None:
    """Return the column that says whose row it is, where one person or thing has several rows."""
    for one in facts:
        if _has_repeated_units(one) and not one.missing and len(one.values) > 1:
            why = (
                f"{one.rows} rows with {len(one.values)} different names: at each silo, the rows of one name stay together when test rows are "
                "drawn; names of two silos are not compared"
            )
            return Guess("unit", one.name, why, settings={"data.unit_column": one.name})
    return None


def _has_repeated_units(one: ColumnFacts) -> bool:
    return names_units(one.name) and (one.kind == Cells.TEXT or one.whole) and not one.different


def guess_split(facts: Sequence[ColumnFacts]) -> Guess | None:
    """
    Return the column that says whether a row is for training or testing. Raises DataError where its parts are not spelled as the reader
    of tables needs them.
    """
    for one in facts:
        if one.name.casefold() in SPLITS and "train" in {_part(value) for value in one.values}:
            _check_split(one)
            why = f"its values are {', '.join(one.values)}"
            return Guess("parts", one.name, why, settings={"data.split_column": one.name})
    return None


def _part(value: str) -> str | None:
    return PARTS.get(value.strip().casefold())


def _check_split(one: ColumnFacts) -> None:
    """Raise DataError for values that data.split_column does not read."""
    problems = [
        f"write {part} instead of {value!r}" if (part := _part(value)) else f"replace {value!r}"
        for value in one.values
        if value != _part(value)
    ]
    if one.missing:
        problems.append(f"fill {_empty_cells(one)}")
    if "test" not in {_part(value) for value in one.values}:
        problems.append("write test in some rows")
    if problems:
        raise DataError(
            f"the column {one.name} divides the rows into parts, and data.split_column needs train, val or test in each row: "
            f"{listed(problems)}; or leave it out with --set 'data.drop=[\"{one.name}\"]'"
        )


def _empty_cells(one: ColumnFacts) -> str:
    return f"{one.missing} empty cell{'s' * (one.missing > 1)}"


def unfilled_columns(facts: Sequence[ColumnFacts], files: int, given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield the columns that are named as units or institutions are, and cannot name them because cells are empty."""
    for one in facts:
        key = ""
        if one.missing and _has_repeated_units(one) and "unit_column" not in given:
            key = "unit_column"
        elif one.missing and is_named(one.name, SILOS) and files == 1:
            key = "" if given.keys() & {"silo_column", "deal"} else "silo_column"
        if key:
            doubt = f"{one.name} has {_empty_cells(one)}: fill {'it' if one.missing == 1 else 'them'}, then --set data.{key}={one.name}"
            yield Guess("empty cells", one.name, f"so it is not used as data.{key}", doubt)


def guess_inputs(facts: Sequence[ColumnFacts], files: int, given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield what becomes of the columns that have no other use. ``files``: the number of tables."""
    if "columns" in given:
        return
    set_aside = set(map(str, given.get("drop", ())))
    common = [one for one in facts if one.files == files and one.name not in set_aside]
    partial = [one.name for one in facts if one.files < files and one.name not in set_aside]
    dropped = {one.name: why for one in common if (why := _why_dropped(one))}
    kept = [one for one in common if one.name not in dropped]
    if dropped:
        reasons = [f"{name} {why}" for name, why in dropped.items()]
        doubt = "if one of them means something, remove it from data.drop"
        settings = {} if partial else {"data.drop": [*set_aside, *dropped]}
        yield Guess("not read", ", ".join(dropped), listed(reasons), doubt, settings)
    if partial:
        doubt = f"{listed(partial)} {'is' if len(partial) == 1 else 'are'} not in all {files} files and not read; rename columns that mean the same"
        yield Guess(
            "columns",
            f"{len(kept)} that all files have",
            "silos need the same inputs",
            doubt,
            {"data.columns": [one.name for one in kept]},
        )
    known = {
        name
        for key in ("categories", "ordered", "dates", "hashed", "text", "target_encoded")
        for name in given.get(key, ())
    }
    if named := [one.name for one in kept if is_named(one.name, (*SILOS, *UNITS))]:
        doubt = f"{listed(named)} may only say where or from whom a row is: if so, list it in data.drop"
        yield Guess(
            "inputs", listed(named), "read as inputs, though named as institutions or people are", doubt
        )
    yield from _kinds([one for one in kept if one.name not in known])


def _why_dropped(one: ColumnFacts) -> str:
    """Return why a column is not an input; "" where it is one."""
    nameless, numbers_rows = one.name.startswith(NAMELESS), bool(NUMBERS_OF_ROWS.search(one.name))
    if one.kind == Cells.OTHER:
        return "holds lists or other values that are neither a number nor a text"
    if one.counting:
        return "counts the rows"
    if one.different and one.whole and (nameless or numbers_rows or is_named(one.name, UNITS)):
        return "names the rows: all its numbers are different"
    if one.missing and _has_repeated_units(one):
        return f"says whose row it is, and has {_empty_cells(one)}"
    if one.of_file and one.kind == Cells.TEXT:
        return "has one value in each file: it names the silo"
    many = one.kind == Cells.TEXT and len(one.values) > max(MAX_CATEGORIES, NEARLY_ALL * one.present)
    if many and all(
        DECORATED_NUMBER.fullmatch(str(cell).strip()) for cell in one.cells if not _is_number(str(cell))
    ):
        return f"holds numbers with other signs, units or separators of thousands, such as {one.values[0]!r}: write plain numbers"
    if many and not (_has_words(one) or _mostly_numbers(one) or fitting_formats(one.cells)):
        return "names the rows: nearly all its texts are different"
    return ""


def _has_words(one: ColumnFacts) -> bool:
    return sum(" " in value for value in one.values) > len(one.values) / 2


def _kinds(kept: Sequence[ColumnFacts]) -> Iterator[Guess]:
    """Yield what becomes of the columns that are not numbers."""
    texts = [one for one in kept if one.kind == Cells.TEXT and one.values and not _mostly_numbers(one)]
    formats = {one.name: fitting_formats(one.cells) for one in texts}
    dates = [one.name for one in kept if one.kind == Cells.DATE] + [
        name for name, own in formats.items() if own
    ]
    few = {
        one.name: list(one.values)
        for one in texts
        if not formats[one.name] and len(one.values) <= MAX_CATEGORIES
    }
    many = [one for one in texts if not formats[one.name] and len(one.values) > MAX_CATEGORIES]
    if dates:
        yield _dates(dates, [own for own in formats.values() if own])
    if few:
        why = f"text of at most {MAX_CATEGORIES} values: one input of 0 or 1 for each"
        odd = [
            f"{name} = {value!r}"
            for name, values in few.items()
            for value in values
            if not any(map(str.isalnum, value))
        ]
        doubt = f"does {odd[0]} stand for a missing value? Then leave such cells empty" if odd else ""
        yield Guess("categories", listed(list(few)), why, doubt, {"data.categories": few})
    yield from _of_many_texts(many)
    if unsure := [one.name for one in kept if _may_name_rows(one)]:
        doubt = f"{listed(unsure)} has as many values as rows: if it names the rows, list it in data.drop"
        yield Guess("whole numbers", listed(unsure), "read as numbers", doubt)


def _may_name_rows(one: ColumnFacts) -> bool:
    return one.kind == Cells.NUMBER and one.different and one.whole and one.rows > MAX_CATEGORIES


def _of_many_texts(many: Sequence[ColumnFacts]) -> Iterator[Guess]:
    """Yield what becomes of text of more values than are listed."""
    if words := [one.name for one in many if _has_words(one)]:
        why = "sentences: their words are hashed to inputs"
        yield Guess("text", listed(words), why, settings={"data.text": words})
    if codes := [one.name for one in many if not _has_words(one)]:
        why = f"more than {MAX_CATEGORIES} texts: hashed to inputs"
        doubt = "for codes with some rows each, data.target_encoded may be better"
        yield Guess("hashed", listed(codes), why, doubt, {"data.hashed": codes})


def _dates(names: Sequence[str], formats: Sequence[Sequence[str]]) -> Guess:
    """Return dates, and how they are written; where both day.month and month.day are possible, that is doubtful."""
    common = [form for form in formats[0] if all(form in own for own in formats)] if formats else [""]
    settings: Table = {"data.dates": list(names)}
    if "" in common:
        return Guess("dates", listed(names), "days, weekday and month become inputs", settings=settings)
    form = (common or formats[0])[0]
    others = [repr(one) for one in (common or formats[0])[1:]]
    doubt = f"they fit {form!r}, but also {', '.join(others)}" if others else ""
    if not common:
        doubt = "not all are written in one way, and fedtl reads one; list the others in data.drop"
    return Guess(
        "dates", listed(names), f"they are written as {form}", doubt, settings | {"data.date_format": form}
    )


def _mostly_numbers(one: ColumnFacts) -> bool:
    """Return whether a column of many values holds numbers as well as some text, which the reader then names."""
    if len(one.values) <= MAX_CATEGORIES:
        return False
    return sum(_is_number(value) for value in one.values) > len(one.values) / 2


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
