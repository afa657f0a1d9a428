"""Declared numbers by column or channel: constants to scale by, from a TOML file, and bounds, from ``data.bounds``."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path

from fedtl._util.toml_text import Table, parse_toml
from fedtl.errors import ConfigError, ConstantsError

OTHERS = "*"  # stands for every column or channel that is not named
_WAY_OUT = 'correct it, or set "silo", "none" or "dp"'
MAX_FILE_BYTES = 10_000_000  # of a file of constants: about 200,000 columns


@dataclass(frozen=True)
class Constants:
    """The scale of one column or channel, in its own unit. ``fill`` replaces a missing value."""

    fill: float
    mean: float
    std: float


KEYS = frozenset(field.name for field in fields(Constants))


@dataclass(frozen=True)
class Bounds:
    """The range of one column or channel, in its own unit. ``fill`` replaces a missing value."""

    low: float
    high: float
    fill: float


def constants_for(path: Path, table: Mapping[str, Constants], names: Sequence[str]) -> list[Constants]:
    """Return the constants of each name, from ``[name]`` or ``["*"]`` of the file's ``table``. Raises ConstantsError."""
    found = [table.get(name, table.get(OTHERS)) for name in names]
    if None in found:
        raise ConstantsError(f"data.scale: {path} must have mean and std in [{names[found.index(None)]}]")
    return [one for one in found if one is not None]


def read_constants_file(path: Path) -> dict[str, Constants]:
    """Return the constants in the TOML file, by column or channel. Raises ConstantsError, also for an entry that no column needs."""
    return {name: _constants(path, name, entry) for name, entry in _read_table(path).items()}


def _read_table(path: Path) -> Table:
    try:
        if not path.is_file():  # a pipe or a device may never end
            raise OSError("there is no such file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise OSError(f"it has {path.stat().st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
        return parse_toml(path.read_bytes(), str(path))
    except OSError as error:
        raise ConstantsError(f"data.scale: {path} cannot be read: {error}; {_WAY_OUT}") from error
    except ValueError as error:
        raise ConstantsError(f"data.scale: {error}; {_WAY_OUT}") from error


def misnamed(declared: Collection[str], known: Sequence[str]) -> str:
    """
    Return what is wrong where a declared name is none of the ``known`` and ["*"] is declared too, because the column that it was meant
    for would silently get the values of "*"; else "". Without "*", a column that lacks an entry is refused by its name.
    """
    unknown = sorted(set(declared) - {OTHERS, *known}) if OTHERS in declared else []
    if not unknown:
        return ""
    near = get_close_matches(unknown[0], known, 1) or known[:3]
    return f"{unknown[0]!r}, which is not the name of a column, such as {', '.join(near)}; correct the name, or remove the entry"


def _constants(path: Path, name: str, entry: object) -> Constants:
    """Return the constants in the entry of one column or channel. Raises ConstantsError."""
    if not isinstance(entry, dict):
        raise ConstantsError(
            f"data.scale: {path} has {name!r} outside of a table; write [{name}] mean = ..., std = ..."
        )
    given: dict[str, object] = entry
    if unknown := sorted(given.keys() - KEYS):
        raise ConstantsError(
            f"data.scale: {path} has {unknown[0]!r} in [{name}]; the keys are {', '.join(sorted(KEYS))}"
        )
    mean, std = _number(path, name, "mean", given), _number(path, name, "std", given)
    if std <= 0:
        raise ConstantsError(f"data.scale: {path}: std of [{name}] is {std:g}, but must be above 0")
    return Constants(_number(path, name, "fill", {"fill": mean, **given}), mean, std)


def _number(path: Path, name: str, key: str, entry: Mapping[str, object]) -> float:
    value = entry.get(key)
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number above 1e308
        pass
    raise ConstantsError(f"data.scale: {path} must have a finite number {key} in [{name}]")


def bounds_for(declared: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[Bounds]:
    """Return the bounds of each name, from the entry of that name or of "*". Raises ConfigError."""
    bounds: list[Bounds] = []
    for name in names:
        entry = declared.get(name, declared.get(OTHERS))
        if entry is None:
            raise ConfigError(
                f'data.scale = "dp": data.bounds has no entry for {name!r}; declare the range of its values: '
                f"data.bounds.{name} = [low, high]"
            )
        bounds.append(parse_bounds(name, entry))
    return bounds


def parse_bounds(name: str, entry: Sequence[float]) -> Bounds:
    """Return the bounds in ``[low, high]``, where the middle is the fill value, or ``[low, high, fill]``. Raises ConfigError."""
    if len(entry) not in (2, 3) or not entry[0] < entry[1]:
        raise ConfigError(
            f"data.bounds.{name} = {list(entry)}: write [low, high] with low below high, or [low, high, fill]"
        )
    low, high, *fill = entry
    if fill and not low <= fill[0] <= high:
        raise ConfigError(
            f"data.bounds.{name} = {list(entry)}: the fill value {fill[0]:g} is outside the bounds"
        )
    return Bounds(low, high, fill[0] if fill else (low + high) / 2)
