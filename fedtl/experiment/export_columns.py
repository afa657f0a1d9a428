"""How the ``predict.py`` of an export reads a table: the part of the script that makes inputs of the columns of a CSV file."""

from codecs import lookup
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedtl.data.columns import Column, Kind, column_named, columns_of_inputs
from fedtl.data.csv_files import MISSING_WORDS
from fedtl.data.preprocess import Inputs
from fedtl.data.settings import DataSettings
from fedtl.data.tokens import token_codes

READ = """\
def table(path):
    try:
        with open(path, newline="", encoding=TABLE["encoding"]) as file:
            reader = csv.reader(file, delimiter=TABLE["delimiter"])
            names = next(reader, [])
            rows = [(reader.line_num, fields) for fields in reader if fields]
    except (csv.Error, UnicodeDecodeError) as error:
        sys.exit(f"predict.py: {path} cannot be read as {TABLE['encoding']} text: {error}")
    if lacking := [name for name in TABLE["columns"] if names.count(name) != 1]:
        sys.exit(f"predict.py: {path} has {names.count(lacking[0]) or 'no'} column {lacking[0]!r}; it has {', '.join(names)}")
    if not rows:
        sys.exit(f"predict.py: {path} has no rows")
    made = [inputs(path, line, names, fields) for line, fields in rows]
    return np.array([[row.get(name, np.nan) for name in INPUTS["columns"]] for row in made], np.float64)

def inputs(path, line, names, fields):  # by name, of one row; those that are missing are left out
    if len(fields) != len(names):
        sys.exit(f"predict.py: {path} line {line} has {len(fields)} fields, and the header {len(names)}")
    row, made = dict(zip(names, fields)), {}
    for name, about in TABLE["columns"].items():
        text = row[name]
        try:
            if text and (text not in TABLE["missing"] or text in about.get("values", [])):
                made.update(KINDS[about["kind"]](name, text, about))
        except ValueError:
            if not TABLE["by_record"]:  # then such a cell is missing
                wanted = f"one of {about['values']}" if "values" in about else f"a {about['kind']} as in training"
                sys.exit(f"predict.py: {path} line {line}: {name} holds {text!r}, not {wanted}; correct it, or leave it empty")
    return {**TABLE["absent"], **made}

def number(name, text, about):
    plain = text.replace(".", "?").replace(TABLE["decimal"], ".") if TABLE["decimal"] != "." else text
    value = float(plain.replace("_", "?"))
    if not abs(value) < 3.4e38:
        raise ValueError
    return {name: value}
"""
CATEGORY = """
def category(name, text, about):  # "sex=f" is 1 where the column sex holds f
    about["values"].index(text)
    return {f"{name}={value}": float(text == value) for value in about["values"]}
"""
ORDERED = """
def ordered(name, text, about):
    return {name: float(about["values"].index(text))}
"""
DATE = """
def date(name, text, about):
    from datetime import datetime
    from zoneinfo import ZoneInfo
    zone, form = ZoneInfo(about["zone"]), about["format"]
    moment = datetime.strptime(text, form) if form else datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment.astimezone(zone)
    start = datetime.fromisoformat(about["since"]).replace(tzinfo=zone)
    turns = {"weekday": moment.weekday() / 7, "month": (moment.month - 1) / 12, "hour": (moment.hour + moment.minute / 60) / 24}
    made = {f"{name} days": (moment.timestamp() - start.timestamp()) / 86400}
    for part, turn in turns.items():
        made |= {f"{name} {part} sin": np.sin(2 * np.pi * turn), f"{name} {part} cos": np.cos(2 * np.pi * turn)}
    return made
"""
CODE = """
def code(text):
    from hashlib import blake2b
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big")
"""
HASHED = """
def hashed(name, text, about):
    where, sign = divmod(code(text), 2)
    return {f"{name}#{where % about['width']}": 1.0 if sign else -1.0}
"""
TARGET = """
def target(name, text, about):
    return {name: float(code(text))}
"""
TEXT = """
def text(name, text, about):
    from sklearn.feature_extraction.text import HashingVectorizer
    counted = HashingVectorizer(n_features=about["width"], norm="l2").transform([text]).toarray()[0]
    return {f"{name}#{number}": value for number, value in enumerate(counted * about["width"] ** 0.5)}
"""
TOKENS = """
def tokens(name, text, about):
    return {f"{name}#{number}": code + 1.0 for number, code in enumerate(tokenizer(about["width"]).encode(text).ids)}

@cache
def tokenizer(width):
    from tokenizers import Tokenizer
    made = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    made.no_padding()
    made.enable_truncation(width)
    return made
"""
FUNCTIONS = {
    Kind.CATEGORY: CATEGORY,
    Kind.ORDERED: ORDERED,
    Kind.DATE: DATE,
    Kind.HASHED: HASHED,
    Kind.TARGET: TARGET,
    Kind.TEXT: TEXT,
    Kind.TOKENS: TOKENS,
}


def columns_code(columns: Sequence[Column]) -> str:
    """Return the functions that read a table with these columns."""
    kinds = {column.kind for column in columns}
    parts = [FUNCTIONS[kind] for kind in Kind if kind in kinds and kind is not Kind.NUMBER]
    if kinds & {Kind.HASHED, Kind.TARGET}:
        parts.insert(0, CODE)
    names = ", ".join(f'"{kind}": {kind}' for kind in Kind if kind in {Kind.NUMBER, *kinds})
    return "".join([READ, *parts, f"\nKINDS = {{{names}}}\n"])


@dataclass(frozen=True)
class DescribedColumn:
    """What the script must know of a column; what does not apply to its kind is left out."""

    kind: str
    values: tuple[str, ...] | None = None
    format: str | None = None
    zone: str | None = None
    since: str | None = None
    width: int | None = None


@dataclass(frozen=True)
class DescribedTable:
    """
    What the script must know of a table: how a file is written, its columns by name, and by input what it is where the cell is
    missing (``absent``), of those that are not filled in. ``by_record``: a cell that cannot be read is missing, and refused otherwise.
    """

    delimiter: str
    decimal: str
    encoding: str
    missing: tuple[str, ...]
    absent: Mapping[str, float]
    columns: Mapping[str, DescribedColumn]
    by_record: bool


def describe_columns(settings: DataSettings, inputs: Inputs) -> DescribedTable:
    """Return what the script must know of the table that these inputs are made of."""
    columns = columns_in(settings, inputs)
    absent: dict[str, float] = {}
    for column in columns:
        if column.kind in (Kind.CATEGORY, Kind.HASHED, Kind.TEXT):
            absent |= dict.fromkeys(column.inputs, 0.0)
        if column.kind is Kind.TOKENS:
            codes = token_codes([None], settings.tokenizer, column.width)[0]
            absent |= dict(zip(column.inputs, codes.tolist(), strict=True))
    return DescribedTable(
        settings.delimiter,
        settings.decimal,
        "utf-8-sig" if lookup(settings.encoding).name == "utf-8" else settings.encoding,
        tuple(sorted(MISSING_WORDS)),
        absent,
        {column.name: _described(column, settings) for column in columns},
        settings.by_record,
    )


def columns_in(settings: DataSettings, inputs: Inputs) -> list[Column]:
    """Return the columns that a model's inputs are made of."""
    return [column_named(name, settings) for name in columns_of_inputs(inputs.columns, settings)]


def _described(column: Column, settings: DataSettings) -> DescribedColumn:
    kind = str(column.kind)
    match column.kind:
        case Kind.CATEGORY | Kind.ORDERED:
            return DescribedColumn(kind, values=tuple(column.values))
        case Kind.DATE:
            form, zone, since = settings.date_format, settings.time_zone, settings.reference_date
            return DescribedColumn(kind, format=form, zone=zone, since=since)
        case Kind.HASHED | Kind.TEXT | Kind.TOKENS:
            return DescribedColumn(kind, width=column.width)
    return DescribedColumn(kind)
