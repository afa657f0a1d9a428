"""Settings of source "sql" that contradict each other."""

import os.path
from collections.abc import Iterator

from fedtl.data.settings import DataSettings
from fedtl.data.sql import draws_rows, orders_rows, takes_silo


def sql_mistakes(data: DataSettings) -> Iterator[str]:
    """Yield a line for each of them."""
    if data.source != "sql":
        if data.query:
            yield f'data.query is a setting of source "sql", not of {data.source!r}; remove it'
        return
    query = data.query.strip()
    if not query:
        yield 'data.query is empty; source "sql" needs one, such as "SELECT * FROM visits ORDER BY id"'
        return
    if not orders_rows(query):
        yield "data.query has no ORDER BY outside of parentheses, so a database may give the rows in any order, and the split would change; add one"
    if draws_rows(query):
        yield "data.query draws random numbers or rows, so it gives others each time and the split would change; order by a column instead"
    by_name, folder = takes_silo(query), os.path.isdir(data.path)
    if by_name and data.silo_column:
        yield "data.query has the parameter :silo, and data.silo_column names a column; remove one of them"
    if by_name and not folder and not data.silos:
        yield "data.query has the parameter :silo; list its values in data.silos"
    if folder and (by_name or data.silo_column):
        yield f"data.path: {data.path} is a folder with one file for each silo, so remove :silo from data.query, and data.silo_column"
    if not (by_name or folder or data.silo_column or data.deal):
        yield "data.query finds the rows of which silo? Set data.silo_column, write WHERE hospital = :silo, or set data.deal"
    if data.by_record:
        yield (
            '[privacy], data.by_record and source "sql": a query can compute a cell from other rows, which no check sees; save the rows as '
            "a CSV or Parquet file"
        )
