"""What a silo or a study is called: names that can stand in paths and on the command line."""

import re
import unicodedata
from collections.abc import Sequence

from fedtl.errors import DataError

MAX_NAME = 64  # characters of the name of a silo, a site or a study, at the coordinator and at the site
SILO_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,{MAX_NAME - 1}}}")


def names_in_source(stored: Sequence[str], in_files: bool) -> dict[str, str]:
    """
    Return by the name of each silo its name in the source, which may have blanks and accents: "Zürich West" is the silo
    Zurich_West. ``in_files``: whether they come from files; a Python program can rename its own. Raises DataError for a name that
    cannot be changed so, and for two that become the same.
    """
    names: dict[str, str] = {}
    for one in stored:
        name = plain_name(one) if in_files else one
        if not SILO_NAME.fullmatch(name):
            raise DataError(
                f"silo {one!r}: a name has at most {MAX_NAME} characters: letters, digits and . _ + -; rename it in the data"
            )
        if name in names:
            raise DataError(
                f"the silos {names[name]!r} and {one!r} would both be named {name}; rename one in the data"
            )
        names[name] = one
    return names


def plain_name(stored: str) -> str:
    """Return a silo's name without accents, and with _ in the place of what a name cannot have."""
    if SILO_NAME.fullmatch(stored):
        return stored
    ascii_text = unicodedata.normalize("NFKD", stored).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", ascii_text).strip("_")
