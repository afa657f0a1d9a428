"""Settings of ``data.deal`` that contradict others."""

from collections.abc import Iterator

from fedtl.data.deal import BY_LABEL
from fedtl.data.settings import DataSettings


def deal_mistakes(data: DataSettings) -> Iterator[str]:
    """Yield a line for each of them, with what to do."""
    if (deal := data.deal) is None:
        return
    if deal.by in BY_LABEL and not data.predicted.has_classes:
        yield f'data.deal.by = "{deal.by}" deals classes, but data.task = "{data.task}"; set it to "size" or "iid"'
    if data.source in ("digits", "memory"):
        yield f"data.deal deals one set of rows, but source {data.source!r} has silos of its own; remove it"
    if deal.by == "unit" and not data.unit_column:
        yield 'data.deal.by = "unit" deals whole units; set data.unit_column to the column that says whose row it is'
    if deal.by != "unit" and data.unit_column:
        yield f'data.deal.by = "{deal.by}" would divide the rows of one {data.unit_column}; set it to "unit"'
    if deal.by != "classes" and deal.classes != type(deal).model_fields["classes"].default:
        yield f'data.deal.classes is a setting of by = "classes", not of "{deal.by}"; remove it'
    for key in ("target_domain", "silo_column"):
        if getattr(data, key):
            yield f"data.deal makes silos of one set of rows, and data.{key} divides it already; remove one of them"
