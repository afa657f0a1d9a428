"""The proposed experiment as a short TOML file, with the reason behind each setting as a comment."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedtl.experiment.config.annotate import inline, toml_key
from fedtl.experiment.propose.guess import Guess

MAX_LINES = 30
LEARNED = "Learned from all rows: a study with [privacy] declares these settings from what is public instead."
WIDTH = 44  # characters of a setting, from which on the reason stands above it
MAX_COMMENT = 90  # characters; the command prints the whole reason
SECTIONS = ("data", "model", "train", "method", "compare")


def commented_toml(table: Mapping[str, Any], guesses: Sequence[Guess], title: str, folder: Path) -> str:
    """
    Return the file. ``table``: the settings; ``guesses``: their reasons; ``folder``: where the file will lie, which the path of the data
    is relative to where both are in one folder.
    """
    reasons = {path: _reason(guess) for guess in guesses for path in list(guess.settings)[:1]}
    lines = [
        f"# {title}",
        f"# {LEARNED}",
        *_lines({key: value for key, value in table.items() if not isinstance(value, Mapping)}, "", reasons),
    ]
    ordered = sorted((key for key, value in table.items() if isinstance(value, Mapping)), key=_place)
    for key in ordered:
        values = dict(table[key])
        if key == "data":
            values["path"] = _path(Path(values["path"]), folder)
        lines += ["", f"[{toml_key(key)}]", *_lines(values, f"{key}.", reasons)]
    return "\n".join(lines) + "\n"


def _reason(guess: Guess) -> str:
    return f"check: {guess.why}" if guess.doubt else guess.why


def _place(section: str) -> tuple[int, str]:
    return (SECTIONS.index(section) if section in SECTIONS else len(SECTIONS), section)


def _lines(values: Mapping[str, Any], prefix: str, reasons: Mapping[str, str]) -> list[str]:
    """Return the values with the reason for each: behind a short one, above a long one."""
    pairs = [
        (f"{toml_key(key)} = {inline(value)}", reasons.get(prefix + key, "")) for key, value in values.items()
    ]
    width = max((len(text) for text, _ in pairs if len(text) <= WIDTH), default=0)
    lines = list[str]()
    for text, reason in pairs:
        if reason and len(text) > WIDTH:
            lines.append(f"# {_short(reason)}")
        lines.append(f"{text.ljust(width)}  # {_short(reason)}" if reason and len(text) <= WIDTH else text)
    return lines


def _short(reason: str) -> str:
    """Return a reason in one line of a comment, cut at a word."""
    plain = "".join(letter if letter.isprintable() else " " for letter in reason)
    if len(plain) <= MAX_COMMENT:
        return plain
    return plain[: MAX_COMMENT - 3].rsplit(" ", 1)[0] + " ..."


def _path(data: Path, folder: Path) -> str:
    """Return the path of the data: relative to the file where both lie in one folder, otherwise absolute."""
    absolute, home = data.absolute(), folder.absolute()
    return os.path.relpath(absolute, home) if absolute.is_relative_to(home.parent) else str(absolute)
