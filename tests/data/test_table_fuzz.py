"""Any table, however it is written, is read to the values that were written, or refused in one line."""

import csv
import io
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fedtl.data.settings import DataSettings
from fedtl.data.table import read
from fedtl.errors import DataError

WORDS = ["a b", 'say "x"', "größe;,", "tab\there", "two\nlines", " blank ", "Ñandú", "-"]
NUMBERS = st.one_of(st.none(), st.floats(-1e6, 1e6).map(lambda value: round(value, 4)))
ENCODINGS = ["utf-8", "utf-8-sig", "cp1252", "utf-16", "latin-1", "mac-roman"]


def read_or_refusal(settings):
    try:
        return read(settings, "a")
    except DataError as error:
        text = str(error)
    assert "\n" not in text
    return text


def written(rows, mark, decimal, quoting, end):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=mark, quoting=quoting, lineterminator=end)
    writer.writerow(["größe", "label"])
    for number, word in rows:
        writer.writerow(["" if number is None else repr(number).replace(".", decimal), word])
    return text.getvalue()


@pytest.mark.slow
@examples(max_examples=120, deadline=None)
@given(st.data())
def test_a_csv_of_any_dialect_is_read_right_or_refused(tmp_path_factory, data):
    """The settings may be wrong for the file. Words are labels, so that a misread one would not be noticed."""
    rows = data.draw(st.lists(st.tuples(NUMBERS, st.sampled_from(WORDS)), min_size=1, max_size=5))
    mark, decimal = data.draw(st.sampled_from(",;\t|")), data.draw(st.sampled_from(".,"))
    code = data.draw(st.sampled_from(ENCODINGS))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    text = written(rows, mark, decimal, quoting, data.draw(st.sampled_from(["\n", "\r\n"])))
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.csv").write_bytes(text.encode(code))
    said = {
        "delimiter": data.draw(st.sampled_from([mark, mark, ",;\t|"[len(text) % 4]])),
        "decimal": data.draw(st.sampled_from([decimal, decimal, "."])),
        "encoding": data.draw(st.sampled_from([code, code, *ENCODINGS])),
    }
    chosen = DataSettings(source="table", path=str(folder), **said)
    raw = read_or_refusal(chosen)
    if isinstance(raw, str):
        right = said == {"delimiter": mark, "decimal": decimal, "encoding": code}
        assert not right or mark == decimal, raw
        return
    if {code, said["encoding"]} <= {"cp1252", "latin-1", "mac-roman"} and code != said["encoding"]:
        return  # each byte is a letter in all of these: no reader can tell them apart
    assert raw.columns == ("größe",)
    wanted = [math.nan if number is None else number for number, _ in rows]
    np.testing.assert_array_equal(raw.train.x[:, 0], wanted)
    assert raw.train.y.tolist() == [word for _, word in rows]


TYPES = [
    *(pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_(), pa.decimal128(12, 4)),
    *(
        pa.string(),
        pa.large_string(),
        pa.date32(),
        pa.timestamp("us"),
        pa.timestamp("ns", tz="Europe/Berlin"),
    ),
    *(pa.duration("s"), pa.binary(), pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.null()),
]

PLAIN_NUMBERS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)


def cell(kind, number):
    """What stands for a number in a column of this type, and the number that is then right; NaN where it cannot be one."""
    if pa.types.is_floating(kind):
        return number + 0.5, number + 0.5
    if pa.types.is_decimal(kind):
        return Decimal(number) + Decimal("0.25"), number + 0.25
    if pa.types.is_boolean(kind):
        return number > 1, float(number > 1)
    if pa.types.is_integer(kind):
        return number, float(number)
    if pa.types.is_list(kind) or pa.types.is_struct(kind):
        return ([number] if pa.types.is_list(kind) else {"a": number}), math.nan
    texts = {"string": str(number), "large_string": str(number), "binary": str(number).encode()}
    return texts.get(str(kind), number), float(number) if str(kind) in texts else math.nan


@pytest.mark.parametrize("by_record", [False, True])
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_parquet_column_of_any_type_is_read_right_or_refused(tmp_path, kind, by_record):
    """Under by_record what is no number is missing."""
    for gaps in (False, True):
        numbers = [3, None, 1] if gaps or pa.types.is_null(kind) else [3, 2, 1]
        cells = [(None, math.nan) if one is None else cell(kind, one) for one in numbers]
        values = [None] * 3 if pa.types.is_null(kind) else [value for value, _ in cells]
        column = pa.array(values, kind)
        pq.write_table(pa.table({"v": column, "label": [0, 1, 0]}), tmp_path / "a.parquet")
        raw = read_or_refusal(DataSettings(source="table", path=str(tmp_path), by_record=by_record))
        if isinstance(raw, str):
            assert not by_record
            assert not any(is_kind(kind) for is_kind in PLAIN_NUMBERS)
            continue
        wanted = [math.nan] * 3 if pa.types.is_null(kind) else [right for _, right in cells]
        np.testing.assert_array_equal(raw.train.x[:, 0], wanted)
