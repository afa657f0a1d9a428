"""CSV, Parquet or Excel files: one file per silo, or one file with a column that names the silo."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fedtl.data import frame
from fedtl.data.codes import CODES, named_columns
from fedtl.data.columns import column_named, in_order
from fedtl.data.csv_files import MISSING_WORDS, Dialect, check_csv
from fedtl.data.excel_files import read_sheet
from fedtl.data.formats import advice_on
from fedtl.data.frame import column_of, rows_of_frame
from fedtl.data.labels_alone import with_labels_alone
from fedtl.data.series import series_of_frame
from fedtl.data.settings import KINDS, DataSettings
from fedtl.data.source import Raw
from fedtl.data.typed_rows import read_parquet
from fedtl.data.unlabelled import is_unlabelled
from fedtl.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet", ".xlsx")
ABOUT = "CSV, Parquet or Excel: one file per silo, or one file with a silo column; missing values imputed, columns scaled"


def silos(settings: DataSettings) -> Sequence[str]:
    path = Path(settings.path)
    if path.is_dir() and settings.silo_column:
        raise DataError(f"data.path: {path} is a folder with one file per silo, so remove data.silo_column")
    if not path.is_dir() and settings.deal is not None:
        return [path.stem]
    if not path.is_dir() and not settings.silo_column:
        raise DataError(
            f"data.path: {path} is one file; set data.silo_column to the column that names the silo"
        )
    if settings.silo_column:
        column = column_of(_load(path, settings), settings.silo_column, str(path), "data.silo_column")
        if missing := int(column.isna().sum()):
            raise DataError(
                f"{path}: {missing} rows have no value in {settings.silo_column!r}; name their silo or remove them"
            )
        words = column.isin(MISSING_WORDS - set(_declared_words(settings)[settings.silo_column]))
        if words.any():
            raise DataError(
                f"{path}: {int(words.sum())} rows have {settings.silo_column} = {column[words].iloc[0]!r}, which can mean that "
                "the silo is not known; list all silos in data.silos to use it as a name, or remove these rows"
            )
        return sorted(map(str, column.unique()))
    names = sorted(entry.stem for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
    if not names:
        raise DataError(f"data.path: no {' or '.join(SUFFIXES)} file in {path}{advice_on(path)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"data.path: {path} has two files of silo {twice[0]} ({', '.join(SUFFIXES)}); remove one"
        )
    return names


def read(settings: DataSettings, name: str) -> Raw:
    """Return one silo's rows. Raises DataError."""
    rows, where = rows_of(settings, name)
    rows, settings = with_own_labels(rows, settings, name, where)
    if settings.sequence is not None:
        raw = series_of_frame(rows, settings, where, is_unlabelled(settings, name))
    else:
        raw = rows_of_frame(rows, settings, where)
    return raw if settings.columns or settings.silo_column else in_order(raw, _first_inputs(settings, raw))


def _first_inputs(settings: DataSettings, raw: Raw) -> Sequence[str]:
    """Return the names of the inputs of the first file, in whose order all files of a folder are read."""
    path = Path(settings.path)
    if not path.is_dir():
        return raw.columns
    first = frame.input_columns(rows_of(settings, silos(settings)[0])[0], settings)
    return [name for column in first for name in column_named(column, settings).inputs]


def input_columns(settings: DataSettings, name: str) -> list[str]:
    """Return the columns of one silo that become inputs, in the order of its file. Raises DataError."""
    return frame.input_columns(rows_of(settings, name)[0], settings)


def unused_columns(settings: DataSettings, name: str) -> list[str]:
    """Return the columns of one silo that neither are inputs nor have another use. Raises DataError."""
    rows = rows_of(settings, name)[0]
    used = {*frame.input_columns(rows, settings), *frame.used_columns(settings)}
    return [str(column) for column in rows.columns if column not in used]


def learns(settings: DataSettings) -> frozenset[str]:
    """
    A row's domain, or its cell of the split column, decides whether it is trained on, and its id, to which series it belongs;
    everything else is declared or in the file's header.
    """
    deciding = settings.target_domain or settings.split_column or settings.sequence is not None
    return frozenset({"split"}) if deciding else frozenset()


def rows_of(settings: DataSettings, name: str) -> tuple["pd.DataFrame", str]:
    """Return one silo's rows, and where they are, for messages."""
    path = Path(settings.path)
    if settings.silo_column:
        whole = _load(path, settings)
        column = column_of(whole, settings.silo_column, str(path), "data.silo_column")
        return whole[column.map(str) == name], f"{path}, silo {name}"
    if not path.is_dir():
        return _load(path, settings), str(path)
    for file in sorted(path.iterdir()):
        if file.stem == name and file.suffix.lower() in SUFFIXES:
            return _load(file, settings), str(file)
    raise DataError(f"data.path: no file for silo {name} in {path}")


def _load(path: Path, settings: DataSettings) -> "pd.DataFrame":
    return load_frame(str(path), settings)


def load_frame(path: str, settings: DataSettings) -> "pd.DataFrame":
    """
    Return the whole file; it is read again only after it changed, since every silo of one file asks for it. With
    ``by_record``, cells of a CSV stay text; otherwise one cell decides how its column is read. Raises DataError.
    """
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if Path(path).is_dir():
        raise DataError(
            f"{path} is a folder, but fedtl reads a file of that name; rename the folder or move it"
        )
    literal = frozenset(_declared_words(settings))
    texts = frozenset(name for key in KINDS if key != "categories" for name in getattr(settings, key))
    dialect = Dialect(
        *(settings.delimiter, settings.decimal, settings.encoding, literal, texts, settings.by_record),
        names=named_columns(settings),
        target="" if settings.predicted.has_classes else settings.label,
    )
    return _parse(path, stat.st_mtime_ns, stat.st_size, dialect, settings.sheet)


@lru_cache(maxsize=4)
def _parse(path: str, changed: int, size: int, dialect: Dialect, sheet: str) -> "pd.DataFrame":
    import pandas as pd

    try:
        if path.lower().endswith(".parquet"):
            return read_parquet(path, dialect.as_text)
        if path.lower().endswith(".xlsx"):
            names, cells, remarks = read_sheet(path, sheet, dialect.as_text)
            made = pd.DataFrame(cells, columns=names, dtype=object if dialect.as_text else None)
            made.attrs[frame.REMARKS] = remarks
            return made
        checked = check_csv(path, dialect)
        texts = dialect.texts | checked.kept(dialect)
        rows = pd.read_csv(
            checked.source,
            sep=dialect.delimiter,
            decimal=dialect.decimal,
            encoding=dialect.encoding,
            low_memory=False,
            index_col=False,
            dtype=str if dialect.as_text else dict.fromkeys(texts, str),
            keep_default_na=False,
            na_values=checked.missing,
        )
        rows.attrs[CODES] = {name: cell for name, cell in checked.codes.items() if name not in texts}
        return rows
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'fedtl[parquet]'") from error
    except (ValueError, OSError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise DataError(f"{path} cannot be read: {reason}") from error


def _declared_words(settings: DataSettings) -> dict[str, Sequence[str]]:
    """
    Return by column the words that the settings declare as its values. In these columns a word such as "None" is one of them
    if it is declared, and a missing value otherwise.
    """
    words: dict[str, Sequence[str]] = {**settings.categories, **settings.ordered}
    if settings.predicted.has_classes and settings.positive_above is None:
        words[settings.label] = settings.classes
    if settings.silo_column:
        words[settings.silo_column] = [*settings.silos, *settings.late, *settings.silos_except]
    return words


def with_own_labels(
    rows: "pd.DataFrame", settings: DataSettings, name: str, where: str
) -> tuple["pd.DataFrame", DataSettings]:
    """
    Return one silo's rows, with a missing value for each word such as "None" that is not declared, and the settings by which to read
    their labels. Labels that are not used, of this silo or of another, have no influence on that. Raises DataError as
    ``with_missing_words`` does.
    """
    typed = settings.source == "sql" or Path(settings.path).suffix.lower() in (".parquet", ".xlsx")
    inputs = is_unlabelled(settings, name)
    lenient = settings.model_copy(update={"missing_labels": "inputs"}) if inputs else settings
    return with_labels_alone(with_missing_words(rows, lenient, where), settings, name, typed)


def with_missing_words(frame: "pd.DataFrame", settings: DataSettings, where: str) -> "pd.DataFrame":
    """
    Return the rows of a CSV, with a missing value for each word such as "None" that is not declared. Raises DataError for
    one in the place of a label, where it could be either.
    """
    for name, declared in _declared_words(settings).items():
        if name not in frame.columns or name == settings.silo_column:
            continue
        words = frame[name].isin(MISSING_WORDS - set(declared))
        if not words.any():
            continue
        kept = settings.by_record or settings.target_domain or settings.missing_labels == "inputs"
        if name == settings.label and not kept:
            raise DataError(
                f"{where}: {int(words.sum())} of {len(words)} rows have the label {frame[name][words].iloc[0]!r}, which can mean "
                "that the label is missing; list all labels in data.classes to use it as a label, or remove these rows"
            )
        frame = frame.assign(**{name: frame[name].mask(words)})
    return frame
