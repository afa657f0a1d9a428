"""TOML as plain values. What the keys mean is checked where they are known."""

import tomllib
from typing import Any

Table = dict[str, Any]


def parse_toml(content: str | bytes, source: str) -> Table:
    """
    Return the tables of a TOML text, whatever its line ends are. Raises ValueError with one line, in which ``source`` names the text.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        return tomllib.loads(text.replace("\r\n", "\n").replace("\r", "\n"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # also not UTF-8, a number of 5,000 digits, and lists in lists
        raise ValueError(f"{source} is not TOML: {error}") from error
