"""Settings of ``data.sequence`` that contradict others."""

from collections.abc import Iterator

from fedtl.data.settings import KINDS, DataSettings

ARRAYS = ("npz", "memory")
TABLES = ("table", "memory")


def sequence_mistakes(data: DataSettings) -> Iterator[str]:
    """Yield a line for each of them, with what to do."""
    if (sequence := data.sequence) is None:
        return
    if data.source not in {*ARRAYS, *TABLES}:
        yield f'data.sequence: only sources "npz", "table" and "memory" have series, not {data.source!r}; remove it'
    for key in ("target_domain", "split_column", *KINDS):
        if getattr(data, key):
            yield f"data.{key} has no meaning for series of measurements; remove it, or data.sequence"
    for key in ("size", "channels", "kind", "pixel_range", "slices"):
        if getattr(data, key) not in ("native", "auto", None, []):
            yield f"data.{key} is for images, and data.sequence for series of measurements; remove one of them"
    if data.source == "table":
        for key in ("id", "time", "length"):
            if getattr(sequence, key) in ("", None):
                yield f"data.sequence.{key} is missing: a table has one row a step, and needs id, time and length"
        if sequence.channels_first:
            yield "data.sequence.channels_first is for arrays; remove it"
    elif data.source == "npz" and (sequence.id or sequence.time):
        yield 'data.sequence: id and time are columns of a table; remove them, or set data.source = "table"'
    elif data.source == "memory" and bool(sequence.id and sequence.time and sequence.length) != bool(
        sequence.id or sequence.time
    ):
        yield "data.sequence: for a DataFrame set id, time and length; for arrays neither id nor time"
    if data.by_record and (data.source == "table" or sequence.id or sequence.time):
        yield (
            "data.sequence of a table joins rows, so one row can change another series; under [privacy] and by_record, "
            "save the series as arrays [N, T, C] and remove data.sequence.id and data.sequence.time"
        )
    for name in (sequence.id, sequence.time):
        if name and name in (*data.columns, data.label, data.unit_column):
            yield f"data.sequence: the column {name!r} is not an input, label or unit; remove it there"
