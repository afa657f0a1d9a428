"""Declared numbers by column or channel: constants to scale by, from a TOML file, and bounds, from ``data.bounds``."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtl.errors import ConfigError, DataError

OTHERS = "*"  # stands for every column or channel that is not named


@dataclass(frozen=True)
class Constants:
    """The scale of one column or channel, in its own unit. ``fill`` replaces a missing value."""

    fill: float
    mean: float
    std: float


@dataclass(frozen=True)
class Bounds:
    """The range of one column or channel, in its own unit. ``fill`` replaces a missing value."""

    low: float
    high: float
    fill: float


def read_constants(file: str, names: Sequence[str]) -> list[Constants]:
    """Return the constants of each name, from ``[name]`` or ``["*"]`` of the file. Raises DataError."""
    path = Path(file)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            f'data.scale is not "silo", "none" or "dp", and {path} is not a readable TOML file of constants: {error}'
        ) from error

    def constant(name: str, key: str, default: float | None = None) -> float:
        entry = table.get(name, table.get(OTHERS))
        value = entry.get(key, default) if isinstance(entry, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"data.scale: {path} must have a finite number {key} in [{name}]")
        return float(value)

    constants: list[Constants] = []
    for name in names:
        mean, std = constant(name, "mean"), constant(name, "std")
        if std <= 0:
            raise DataError(f"data.scale: {path}: std of [{name}] is {std:g}, but must be above 0")
        constants.append(Constants(constant(name, "fill", mean), mean, std))
    return constants


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
