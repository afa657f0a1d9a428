"""Declared numbers by column or channel: constants to scale by, from a TOML file, and bounds, from ``data.bounds``."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedtl.errors import ConfigError, DataError

OTHERS = "*"  # stands for every column or channel that is not named


@dataclass(frozen=True)
class Constants:
    """Of one column or channel, in its own unit. ``fill`` takes the place of a missing value."""

    fill: float
    mean: float
    std: float


@dataclass(frozen=True)
class Bounds:
    """Of one column or channel, in its own unit. ``fill`` takes the place of a missing value."""

    low: float
    high: float
    fill: float


def constants(file: str, names: Sequence[str]) -> list[Constants]:
    """One for each name, from ``[name]`` or ``["*"]`` of the file. Raises DataError."""
    path = Path(file)
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            f'data.scale: neither "silo", "none" nor "dp" nor a readable TOML file of constants: {path} ({error})'
        ) from error

    def constant(name: str, key: str, otherwise: float | None = None) -> float:
        entry = table.get(name, table.get(OTHERS))
        value = entry.get(key, otherwise) if isinstance(entry, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"data.scale: {path} must have a finite number {key} in [{name}]")
        return float(value)

    found: list[Constants] = []
    for name in names:
        mean = constant(name, "mean")
        found.append(Constants(constant(name, "fill", mean), mean, constant(name, "std")))
    if any(one.std <= 0 for one in found):
        raise DataError(f"data.scale: {path} has a std that is not above 0")
    return found


def bounds(declared: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[Bounds]:
    """One for each name, from the entry of that name or of "*"; the middle is what fills. Raises ConfigError."""
    found: list[Bounds] = []
    for name in names:
        entry = declared.get(name, declared.get(OTHERS))
        if entry is None:
            raise ConfigError(
                f'data.scale = "dp": data.bounds says nothing of {name!r}; declare the range of its values: '
                f"data.bounds.{name} = [low, high]"
            )
        found.append(checked_bounds(name, entry))
    return found


def checked_bounds(name: str, entry: Sequence[float]) -> Bounds:
    """``[low, high]`` or ``[low, high, fill]``. Raises ConfigError."""
    if len(entry) not in (2, 3) or not entry[0] < entry[1]:
        raise ConfigError(
            f"data.bounds.{name} = {list(entry)}: write [low, high], low below high, or [low, high, fill]"
        )
    low, high, *fill = entry
    if fill and not low <= fill[0] <= high:
        raise ConfigError(
            f"data.bounds.{name} = {list(entry)}: the fill value {fill[0]:g} lies outside of the bounds"
        )
    return Bounds(low, high, fill[0] if fill else (low + high) / 2)
