"""Guesses about rows in tables: how the files are written, what a silo is, the label and the inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedtl._util.toml_text import Table
from fedtl.data import huggingface
from fedtl.data.csv_files import Dialect
from fedtl.data.csv_guess import guess_dialect
from fedtl.data.image_files import SUFFIXES
from fedtl.data.settings import DataSettings
from fedtl.data.table import load_frame
from fedtl.errors import DataError
from fedtl.experiment.config.settings_file import validate
from fedtl.experiment.propose.column_facts import Cells, ColumnFacts, column_facts
from fedtl.experiment.propose.guess import Guess, listed
from fedtl.experiment.propose.inputs import (
    guess_inputs,
    guess_split,
    guess_unit,
    silo_columns,
    unfilled_columns,
)
from fedtl.experiment.propose.labels import guess_label
from fedtl.experiment.propose.layout import Layout, Silos
from fedtl.experiment.propose.series import guess_series
from fedtl.experiment.propose.silos import guess_silos

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 10  # of a silo that a column names; smaller ones are left out
MOST_FILES = 0.9  # of the cells of a column that lists image files


@dataclass(frozen=True)
class Tables:
    """The rows of all files, and whether they are the inputs (or else only list images)."""

    layout: Layout
    frames: Sequence["pd.DataFrame"]
    with_inputs: bool


def table_guesses(layout: Layout, given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield the guesses about a table, several, or tables that list images. ``given``: what a person has set of [data]. Raises DataError."""
    dialect = _dialect(layout, given)
    if dialect is not None:
        yield dialect
    own = {path.removeprefix("data."): value for path, value in (dialect.settings if dialect else {}).items()}
    settings = validate(
        DataSettings,
        {key: value for key, value in given.items() if key in ("sheet", "delimiter", "decimal", "encoding")}
        | own,
    )
    tables = _read(layout, settings)
    yield from _guesses(tables, given)


def _dialect(layout: Layout, given: Mapping[str, Any]) -> Guess | None:
    """Return how the CSV files are written, where this is not what fedtl takes for granted."""
    files = [file for file in layout.files if file.suffix.lower() == ".csv"]
    if not files or given.keys() & {"delimiter", "decimal", "encoding"}:
        return None
    found, plain = guess_dialect(files), Dialect()
    settings = {
        f"data.{key}": getattr(found, key)
        for key in ("delimiter", "decimal", "encoding")
        if getattr(found, key) != getattr(plain, key)
    }
    if not settings:
        return None
    words = [f"{path.removeprefix('data.')} {value!r}" for path, value in settings.items()]
    doubt = (
        f"not UTF-8: are letters such as é right in {found.encoding}?" if found.encoding == "cp1252" else ""
    )
    return Guess(
        "format",
        ", ".join(words),
        "so the columns have the same number of fields in each row",
        doubt,
        settings,
    )


def _read(layout: Layout, settings: DataSettings) -> Tables:
    if layout.source != "huggingface":
        frames = [load_frame(str(file), settings) for file in layout.files]
        return Tables(layout, frames, not layout.manifest)
    folders = [layout.path]
    if layout.silos is Silos.FOLDERS:
        folders = [folder for folder in sorted(layout.path.iterdir()) if huggingface.is_saved(folder)]
    read = [huggingface.training_frame(folder, settings) for folder in folders]
    return Tables(layout, [frame for frame, _ in read], not any(images for _, images in read))


def _guesses(tables: Tables, given: Mapping[str, Any]) -> Iterator[Guess]:
    facts, used = column_facts(tables.frames), set[str]()
    files = len(tables.frames)
    if tables.layout.manifest:
        manifest = _manifest(facts, tables.layout, given)
        used.add(manifest.settings["data.file_column"])
        yield manifest
    silo = _silo_column(tables, facts, given)
    if silo is not None:
        name = str(silo.settings["data.silo_column"])
        used.add(name)
        facts = _with_silos(facts, tables.frames[0], name)
        yield silo
    set_aside = set(map(str, given.get("drop", ())))
    others = list(_units_and_parts(_unused(facts, used | set_aside), given))
    used |= {value for other in others for value in other.settings.values()}
    used |= {
        str(given[key]) for key in ("unit_column", "split_column", "event", "domain_column") if given.get(key)
    }
    label = guess_label(_unused(facts, used), files, given)
    used |= {str(label.settings[key]) for key in ("data.label", "data.event") if key in label.settings}
    series = _series(tables, facts, (label, *others), given)
    if series is not None:
        columns = series.settings["data.sequence"]
        used |= {columns["id"], columns["time"]}
        others = [one for one in others if one.settings.get("data.unit_column") != columns["id"]]
    yield from others
    if silo is None:
        yield _silos(
            tables, [*([series] if series else []), label, *others], _other_silos(facts, used), given
        )
    yield label
    if series is not None:
        yield series
    yield from unfilled_columns(_unused(facts, used | set_aside), files, given)
    if tables.with_inputs:
        yield from guess_inputs(_unused(facts, used), files, given)


def _series(
    tables: Tables, facts: Sequence[ColumnFacts], guesses: Sequence[Guess], given: Mapping[str, Any]
) -> Guess | None:
    """Return how the rows are series; None where they are not, or where a guess so far does not go together with series."""
    settings = {key for one in guesses for key in one.settings} | {f"data.{key}" for key in given}
    if not tables.with_inputs or settings & {"data.event", "data.split_column", "data.domain_column"}:
        return None
    label = next((str(one.settings["data.label"]) for one in guesses if "data.label" in one.settings), "")
    label = label or str(given.get("label", ""))
    return guess_series(tables.frames, [one for one in facts if one.name != label], label, given)


def _silos(
    tables: Tables, guesses: Sequence[Guess], others: Sequence[str], given: Mapping[str, Any]
) -> Guess:
    """Return what a silo is where no column names it. ``guesses``: of series, label and unit; ``others``: columns that may name silos."""
    settings = {key: value for one in guesses for key, value in one.settings.items()}
    frame = tables.frames[0]
    if series := settings.get("data.sequence"):
        frame = frame.drop_duplicates(series["id"])
    counts = _counts(frame, str(settings.get("data.label", given.get("label", ""))))
    names = [file.stem for file in tables.layout.files]
    return guess_silos(tables.layout, names, given, settings, others, counts)


def _units_and_parts(facts: Sequence[ColumnFacts], given: Mapping[str, Any]) -> Iterator[Guess]:
    """Yield the columns that say whose row it is, and in which part. Raises DataError."""
    for key, guess in (("unit_column", guess_unit), ("split_column", guess_split)):
        if key not in given and (found := guess(facts)):
            yield found


def _unused(facts: Sequence[ColumnFacts], used: set[str]) -> list[ColumnFacts]:
    return [one for one in facts if one.name not in used]


def _manifest(facts: Sequence[ColumnFacts], layout: Layout, given: Mapping[str, Any]) -> Guess:
    """Return the column of paths of a table that lists images. Raises DataError where none is one."""
    settings = {"data.manifest": layout.manifest}
    if "file_column" in given:
        return Guess(
            "images",
            f"listed by {layout.manifest}",
            "as set",
            settings=settings | {"data.file_column": given["file_column"]},
        )
    for one in facts:
        paths = [str(value).lower().endswith(SUFFIXES) for value in one.values]
        if paths and sum(paths) > MOST_FILES * len(paths):
            why = f"the cells of {one.name} name image files"
            return Guess(
                "images",
                f"listed by {layout.manifest}",
                why,
                settings=settings | {"data.file_column": one.name},
            )
    raise DataError(
        f"--data {layout.path} has images and a table {layout.manifest}, none of whose columns names image files; name it with --set "
        "data.file_column=NAME, or move the table away if folders name the classes"
    )


def _silo_column(tables: Tables, facts: Sequence[ColumnFacts], given: Mapping[str, Any]) -> Guess | None:
    """Return the column that names the silos, of one table; None where a person asked for another division, or there is none."""
    if tables.layout.silos is not Silos.ONE_SET or "deal" in given:
        return None
    fitting = silo_columns(facts)
    names = [str(given["silo_column"])] if "silo_column" in given else [one.name for one in fitting]
    if not names:
        return None
    chosen, frame = names[0], tables.frames[0]
    if chosen not in frame.columns:
        raise DataError(
            f"data.silo_column = {chosen!r} is not a column; there are {listed(list(map(str, frame.columns)), 12)}"
        )
    counts = frame[chosen].map(str).value_counts()
    settings: Table = {"data.silo_column": chosen}
    doubt = f"it could also be {listed(names[1:])} (--set data.silo_column=NAME)" if names[1:] else ""
    if (small := int((counts < MIN_ROWS).sum())) and len(counts) - small > 1 and "min_rows" not in given:
        settings["data.min_rows"] = MIN_ROWS
        doubt = f"{small} with fewer than {MIN_ROWS} rows are left out (data.min_rows)" + (
            f"; {doubt}" if doubt else ""
        )
    why = "as set" if "silo_column" in given else f"the column {chosen} is named as institutions are"
    return Guess("silos", f"{len(counts)}, by {chosen}", why, doubt, settings)


def _with_silos(facts: Sequence[ColumnFacts], frame: "pd.DataFrame", silo: str) -> list[ColumnFacts]:
    """Return the facts, with those columns marked that have one value in each silo."""
    by_silo = column_facts([own for _, own in frame.groupby(frame[silo].map(str))])
    marked = {one.name: one.of_file for one in by_silo}
    return [replace(one, of_file=marked.get(one.name, False)) for one in facts]


def _other_silos(facts: Sequence[ColumnFacts], used: set[str]) -> list[str]:
    """Return columns of text that may name silos, though not by their name."""
    return [
        one.name
        for one in facts
        if one.kind == Cells.TEXT and one.name not in used and 2 <= len(one.values) <= one.rows / 20
    ]


def _counts(frame: "pd.DataFrame", label: str) -> list[int]:
    """Return how many rows each label has, or each value."""
    return frame[label].value_counts().tolist() if label in frame.columns else [len(frame)]
