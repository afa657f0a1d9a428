"""Guesses about rows in tables: how the files are written, what a silo is, the label and the inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedtl.data import huggingface
from fedtl.data.csv_files import Dialect
from fedtl.data.csv_guess import guess_dialect
from fedtl.data.formats import is_hidden
from fedtl.data.image_files import SUFFIXES
from fedtl.data.settings import DataSettings, DealSettings
from fedtl.data.table import load_frame
from fedtl.errors import DataError
from fedtl.experiment.config.settings_file import Table, validate
from fedtl.experiment.propose.column_facts import ColumnFacts, column_facts
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

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 10  # of a silo that a column names; smaller ones are left out
DEALT = 4  # simulated silos, where there are rows for so many
ROWS_A_SILO = 60  # below which fewer silos are dealt
RARE_A_SILO = 5  # rows of the rarer labels, below which all silos get equal shares of them
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
    for other in others:
        used |= set(other.settings.values())
        yield other
    used |= {
        str(given[key]) for key in ("unit_column", "split_column", "event", "domain_column") if given.get(key)
    }
    label = guess_label(_unused(facts, used), files, given)
    used |= {str(label.settings[key]) for key in ("data.label", "data.event") if key in label.settings}
    if silo is None:
        yield guess_silos(
            tables.layout,
            [file.stem for file in tables.layout.files],
            given,
            {key: value for one in (label, *others) for key, value in one.settings.items()},
            _other_silos(facts, used),
            _counts(tables.frames[0], str(label.settings.get("data.label", given.get("label", "")))),
        )
    yield label
    yield from unfilled_columns(_unused(facts, used | set_aside), files, given)
    if tables.with_inputs:
        yield from guess_inputs(_unused(facts, used), files, given)


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
            f"data.silo_column = {chosen!r} is no column; there are {listed(list(map(str, frame.columns)), 12)}"
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
        if one.kind == "text" and one.name not in used and 2 <= len(one.values) <= one.rows / 20
    ]


def _counts(frame: "pd.DataFrame", label: str) -> list[int]:
    """Return how many rows each label has, or each value."""
    return frame[label].value_counts().tolist() if label in frame.columns else [len(frame)]


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
