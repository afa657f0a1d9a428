"""What a run wrote down about its canaries, read back: one silo's phases in the order in which they were trained."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedtl.errors import ConfigError

NAME = re.compile(r"round-(\d+)-phase-(\d+)\.safetensors")


@dataclass(frozen=True)
class Stretch:
    """One phase of one round, as ``privacy.canaries.Sidecar.keep`` wrote it; sums in clips, steps first."""

    round: int
    phase: int
    sums: NDArray[np.float64]
    sampled: NDArray[np.bool_]
    member: NDArray[np.bool_]
    after: NDArray[np.float64]


def stretches(folder: Path) -> list[Stretch]:
    """Empty where the run had no canaries. Raises ConfigError for a file that cannot be read."""
    found = []
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        if not (name := NAME.fullmatch(path.name)):
            continue
        try:
            its = load_file(path)
            found.append(
                Stretch(
                    *(int(name[1]), int(name[2]), its["sums"].astype(float), its["sampled"].astype(bool)),
                    *(its["member"].astype(bool), its["after"].astype(float)),
                )
            )
        except (SafetensorError, OSError, KeyError) as error:
            raise ConfigError(
                f"{path}: not a record of canaries ({error}); take it out, or audit another run"
            ) from error
    return found


def steps(of: Sequence[Stretch]) -> NDArray[np.float64]:
    """[steps, canaries]: the noisy sums of all phases, one after another."""
    return np.concatenate([one.sums for one in of])


def sampled(of: Sequence[Stretch]) -> NDArray[np.bool_]:
    """[steps, canaries]: which canaries each of these steps held."""
    return np.concatenate([one.sampled for one in of])
