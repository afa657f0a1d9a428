"""What a run wrote down about its canaries, read back: one silo's phases in the order in which they were trained."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedtl.errors import ConfigError
from fedtl.privacy.canaries import STATISTICS_FILE

NAME = re.compile(r"round-(\d+)-phase-(\d+)\.safetensors")


@dataclass(frozen=True)
class CanaryPhase:
    """One phase of one round, as ``privacy.canaries.CanaryLayer.save`` wrote it; sums in clips, steps first."""

    round: int
    phase: int
    sums: NDArray[np.float64]
    sampled: NDArray[np.bool_]
    member: NDArray[np.bool_]
    after: NDArray[np.float64]


@dataclass(frozen=True)
class ReleasedStatistics:
    """The statistics' release, as ``privacy.canaries.CanaryStatistics.save`` wrote it; sub-releases first, in clips."""

    sums: NDArray[np.float64]
    deviations: NDArray[np.float64]
    member: NDArray[np.bool_]


def released(folder: Path) -> ReleasedStatistics | None:
    """None where no statistics were released with canaries. Raises ConfigError for a file that cannot be read."""
    if not (path := folder / STATISTICS_FILE).is_file():
        return None
    its = _read(path)
    return ReleasedStatistics(
        its["sums"].astype(float), its["deviations"].astype(float), its["member"].astype(bool)
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _odd(path, error) from error


def _odd(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path}: not a record of canaries ({error}); take it out, or audit another run")


def stretches(folder: Path) -> list[CanaryPhase]:
    """Empty where the run had no canaries. Raises ConfigError for a file that cannot be read."""
    found = []
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        if not (name := NAME.fullmatch(path.name)):
            continue
        its = _read(path)
        try:
            found.append(
                CanaryPhase(
                    *(int(name[1]), int(name[2]), its["sums"].astype(float), its["sampled"].astype(bool)),
                    *(its["member"].astype(bool), its["after"].astype(float)),
                )
            )
        except KeyError as error:
            raise _odd(path, error) from error
    return found


def steps(of: Sequence[CanaryPhase]) -> NDArray[np.float64]:
    """[steps, canaries]: the noisy sums of all phases, one after another."""
    return np.concatenate([one.sums for one in of])


def sampled(of: Sequence[CanaryPhase]) -> NDArray[np.bool_]:
    """[steps, canaries]: which canaries each of these steps held."""
    return np.concatenate([one.sampled for one in of])
