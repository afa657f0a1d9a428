"""Settings of a table that contradict each other: what becomes of its columns, and how its file is written."""

from collections.abc import Iterator

from fedtl.data.frame import COLUMNS_WITH_A_USE
from fedtl.data.settings import KINDS, NAMES_COLUMNS, DataSettings

TABLES = ("table", "sql", "memory", "huggingface")  # sources with columns by name
ONE_LABEL = ("classification", "regression")
OF_FILES = ("delimiter", "decimal", "encoding", "sheet")


def table_contradictions(data: DataSettings) -> Iterator[str]:
    """Yield a line for each setting that the source does not have, or that another one contradicts."""
    listed = ("split_column", "positive_above") if data.manifest else ()
    for key in ("domain_column", "split_column", "positive_above", *KINDS, "drop"):
        if data.source not in TABLES and key not in listed and getattr(data, key) not in ("", None, [], {}):
            yield f"data.{key} is a setting of sources {', '.join(TABLES)}, not of {data.source!r}; remove it"
    for key in OF_FILES:
        in_table = data.source == "table" or (bool(data.manifest) and key != "sheet")
        if not in_table and getattr(data, key) != type(data).model_fields[key].default:
            yield f'data.{key} is a setting of source "table", not of {data.source!r}; remove it'
    other_format = data.path.lower().endswith((".parquet", ".xlsx"))
    if data.delimiter == data.decimal == "," and not other_format:
        yield 'data.delimiter and data.decimal are both ","; set data.delimiter, such as ";"'
    if data.drop and data.columns:
        yield "data.drop and data.columns both say which columns are read; remove one of them"
    yield from _of_kinds(data)


def _of_kinds(data: DataSettings) -> Iterator[str]:
    key_of: dict[str, str] = {}
    for key in KINDS:
        for name in getattr(data, key):
            if (other := key_of.setdefault(name, key)) != key:
                yield f"column {name!r} is in data.{other} and in data.{key}; remove it from one of them"
    for use in COLUMNS_WITH_A_USE:
        for key in NAMES_COLUMNS:
            if getattr(data, use) in getattr(data, key):
                yield f"data.{key} lists {getattr(data, use)!r}, which is data.{use}, not an input; remove it there"
    for name in data.drop:
        if name in key_of:
            yield f"column {name!r} is in data.drop and in data.{key_of[name]}; remove it from one of them"
    for name, values in {**data.categories, **data.ordered}.items():
        if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
            yield f"data.{key_of[name]}.{name} lists {twice[0]!r} twice; list it once"
    if data.text and data.scale == "dp":
        yield 'data.text: its words have a fixed scale; with data.scale = "dp" noise would be added for each of them: set data.scale to a file of constants'
    yield from _of_target_encoding(data)


def _of_target_encoding(data: DataSettings) -> Iterator[str]:
    """Yield a line for each setting under which a silo has no labels, or must not use all, to encode a column by."""
    if not data.target_encoded:
        return
    if data.task not in ONE_LABEL:
        yield f'data.target_encoded is the mean of one label, and data.task = "{data.task}"; use data.hashed'
    if data.by_record:
        yield "data.target_encoded is learned from the labels of all training rows, which [privacy] and data.by_record exclude; use data.hashed"
    for key in ("unlabelled", "late", "public", "target_domain"):
        if getattr(data, key):
            yield f"data.target_encoded takes the labels of all training rows, which data.{key} does not give; use data.hashed"
    if data.label_fraction != 1.0:
        yield "data.target_encoded takes the labels of all training rows, and data.label_fraction hides some; use data.hashed"
    if data.missing_labels == "inputs":
        yield 'data.target_encoded takes the labels of all training rows, and data.missing_labels = "inputs" has some without; use data.hashed'


def rule_contradictions(data: DataSettings) -> Iterator[str]:
    """Yield a line for each setting that the rules by which silos are left out contradict."""
    for key, default in (("min_rows", 0), ("min_labels", 1)):
        if (value := getattr(data, key)) == default:
            continue
        if data.by_record:
            yield f"data.{key} = {value}: which silos take part would depend on their rows, which [privacy] and data.by_record exclude; list them in data.silos_except"
        if data.source == "memory":
            yield f"data.{key} = {value} is not a setting of source 'memory'; leave such silos out of the rows that are passed"
        if data.deal is not None:
            yield f"data.{key} = {value} and data.deal; set data.deal.minimum instead"
    if data.min_labels > 1 and not data.predicted.has_classes:
        yield f'data.min_labels counts classes, but data.task = "{data.task}"; remove one of them'
