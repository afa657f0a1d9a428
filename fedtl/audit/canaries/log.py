"""Reads what a run recorded about its canaries: the phases of one silo in the order of training."""

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
from fedtl.privacy.canaries import STATISTICS_FILE, SUMMARY_FILES

FILE_NAME = re.compile(r"round-(\d+)-phase-(\d+)\.safetensors")


@dataclass(frozen=True)
class CanaryPhase:
    """One phase of one round, as ``privacy.canaries.CanaryLayer.save`` writes it: sums [steps, canaries] in clips."""

    round: int
    phase: int
    sums: NDArray[np.float64]
    sampled: NDArray[np.bool_]
    member: NDArray[np.bool_]
    after: NDArray[np.float64]


@dataclass(frozen=True)
class ReleasedStatistics:
    """
    The canaries' part of the released statistics, or of the summaries, as ``privacy.canaries.CanarySums.save`` writes it: sums
    [releases, canaries] in clips.
    """

    sums: NDArray[np.float64]
    deviations: NDArray[np.float64]
    member: NDArray[np.bool_]


def read_released_statistics(folder: Path) -> ReleasedStatistics | None:
    """Return None if no statistics were released with canaries. Raises ConfigError for a file that cannot be read."""
    path = folder / STATISTICS_FILE
    return ReleasedStatistics(*_arrays(path, "sums", "deviations", "member")) if path.is_file() else None


def read_released_summaries(folder: Path) -> ReleasedStatistics | None:
    """Return what canaries recorded of all releases of summaries; None if there were none. Raises ConfigError."""
    paths = sorted(folder.glob(SUMMARY_FILES)) if folder.is_dir() else []
    if not paths:
        return None
    records = [ReleasedStatistics(*_arrays(path, "sums", "deviations", "member")) for path in paths]
    sums, deviations = (
        np.concatenate([getattr(one, key) for one in records]) for key in ("sums", "deviations")
    )
    return ReleasedStatistics(sums, deviations, records[0].member)


def read_canary_phases(folder: Path) -> list[CanaryPhase]:
    """Return an empty list if the run had no canaries. Raises ConfigError for a file that cannot be read."""
    phases = []
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        if name := FILE_NAME.fullmatch(path.name):
            arrays = _arrays(path, "sums", "sampled", "member", "after")
            phases.append(CanaryPhase(int(name[1]), int(name[2]), *arrays))
    return phases


def _arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """These arrays of a file, numbers as float64."""
    try:
        content = load_file(path)
        return [
            content[name] if content[name].dtype == bool else content[name].astype(float) for name in names
        ]
    except (SafetensorError, OSError, KeyError) as error:
        raise ConfigError(
            f"{path} is not a record of canaries ({error}); remove the file, or audit another run"
        ) from error


def steps(run: Sequence[CanaryPhase]) -> NDArray[np.float64]:
    """The noisy sums of all phases, one after another [steps, canaries]."""
    return np.concatenate([phase.sums for phase in run])


def sampled(run: Sequence[CanaryPhase]) -> NDArray[np.bool_]:
    """The canaries that each step sampled [steps, canaries]."""
    return np.concatenate([phase.sampled for phase in run])
