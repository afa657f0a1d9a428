"""The one set of rows that ``data.deal`` deals to silos: read once for all of them, in their order."""

from functools import lru_cache
from pathlib import Path

from fedtl.data.checks import check_rows
from fedtl.data.deal import dealt_names, silo_rows
from fedtl.data.registry import DATA
from fedtl.data.settings import DataSettings, DealSettings
from fedtl.data.source import Raw
from fedtl.errors import DataError

Stamp = tuple[str, int, int]  # path, time of the last change in nanoseconds, and size of a file


def dealt_set(settings: DataSettings) -> str:
    """Return the name of the set. Raises DataError where the source has several."""
    names = list(DATA[settings.source].silos(settings))
    if len(names) > 1:
        raise DataError(
            f"data.deal deals one set of rows, but data.path has {len(names)}: {', '.join(names[:12])}; remove data.deal, or set "
            "data.path to a folder with one of them"
        )
    return names[0]


def dealt_rows(settings: DataSettings, deal: DealSettings, name: str) -> Raw:
    """Return the rows of one silo, those of the set checked. Raises DataError."""
    rows = _rows(settings.model_dump_json(), _stamps(Path(settings.path)))
    if name == dealt_names(deal)[-1]:
        _rows.cache_clear()
    return silo_rows(rows, deal, name, dealt_set(settings))


@lru_cache(maxsize=1)
def _rows(settings: str, stamps: tuple[Stamp, ...]) -> Raw:
    """Return the rows of the set, which stay in memory until the last silo has its rows or a file has changed."""
    known = DataSettings.model_validate_json(settings)
    name, source = dealt_set(known), DATA[known.source]
    return check_rows(source.read(known, name), known, name, source.missing_values)


def _stamps(path: Path) -> tuple[Stamp, ...]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
