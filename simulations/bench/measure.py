"""
Measure times: contenders take rounds in turn, so that a machine that slows down slows all of them.

Other frameworks cannot take turns. Each runs as a block in its own process, in the middle, and measures the floor between its own
rounds. So every time has a time of the floor from the same moment to compare with.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Protocol

HERE = Path(__file__).resolve().parent
TIMEOUT = 1800  # seconds for one block


class Contender(Protocol):
    def round(self) -> object: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Times:
    """
    Seconds of each round. ``beside``: those of the floor at about the same moment. ``in_turn``: measured in turn with the others,
    so that the n-th times belong together.
    """

    seconds: Sequence[float]
    beside: Sequence[float]
    in_turn: bool
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def to_floor(self) -> float:
        return _ratio(self.seconds, self.beside)

    def over(self, other: "Times") -> float:
        """The ratio to ``other``; computed from the ratios to the floor if they did not take turns."""
        both = self.in_turn and other.in_turn
        return _ratio(self.seconds, other.seconds) if both else self.to_floor / other.to_floor


def _ratio(these: Sequence[float], those: Sequence[float]) -> float:
    return median(a / b for a, b in zip(these, those, strict=True))


@dataclass(frozen=True)
class Block:
    """A contender that is a command, which prints {"seconds": [...], "beside": [...], ...} as its last line."""

    name: str
    command: Sequence[str]


class BlockFailed(Exception):
    """A block ended without times."""


def side_by_side(
    contenders: Mapping[str, Contender],
    blocks: Sequence[Block],
    repeats: int,
    floor: str,
    say: Callable[[str], None],
) -> tuple[dict[str, Times], dict[str, str]]:
    """
    Return the times by name, and why a block has none. Each contender does one round that is not counted, then ``repeats`` rounds in
    turn. ``floor``: the name of the contender that all are compared with.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender.round()
    first = (repeats + 1) // 2
    _turns(contenders, taken, range(first), say)
    found: dict[str, Times] = {}
    failed: dict[str, str] = {}
    for block in blocks:
        say(f"{block.name}, as one block")
        try:
            found[block.name] = run_block(block.command)
        except BlockFailed as error:
            failed[block.name] = str(error)
    _turns(contenders, taken, range(first, repeats), say)
    in_turn = {name: Times(seconds, taken[floor], in_turn=True) for name, seconds in taken.items()}
    return in_turn | found, failed


def run_block(command: Sequence[str]) -> Times:
    """Run a block and return its times. Raises BlockFailed, after printing the end of the output of the command to stderr."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
    }
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise BlockFailed(f"not done after {TIMEOUT} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        raise BlockFailed(f"failed with exit code {done.returncode}")
    result = json.loads(lines[-1])
    return Times(result.pop("seconds"), result.pop("beside", []), in_turn=False, extra=result)


def _turns(
    contenders: Mapping[str, Contender],
    taken: Mapping[str, list[float]],
    turns: range,
    say: Callable[[str], None],
) -> None:
    names = list(contenders)
    for turn in turns:
        say(f"turn {turn + 1}")
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            clock = time.perf_counter()
            contenders[name].round()
            taken[name].append(time.perf_counter() - clock)
