"""Which names may be one name in several spellings, and how to show names that look alike. Imports no torch: an idle site reads names, too."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from fedtl.data.source import EXACT


def spelled_alike(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """
    Return labels that may be one label in several spellings, each group sorted: equal but for case, blanks, _ and -, a full stop
    at the end, invisible marks and the form of a letter in Unicode, or as numbers.
    """
    groups: dict[str, set[str]] = {}
    for label in labels:
        groups.setdefault(_plain_spelling(label), set()).add(label)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def shown_apart(names: Sequence[str]) -> list[str]:
    """Return names in quotes; with the codes of letters beyond ASCII where they look alike, as one letter and a letter with a mark do."""
    looks = {unicodedata.normalize("NFKC", name) for name in names}
    return [repr(name) if len(looks) == len(names) else ascii(name) for name in names]


def _plain_spelling(label: str) -> str:
    try:
        value = float(label)
        return (
            label if abs(value) >= EXACT else repr(value + 0.0)
        )  # -0 is 0; beyond, several whole numbers are one float
    except ValueError:
        visible = "".join(one for one in label if unicodedata.category(one) != "Cf")
        plain = unicodedata.normalize("NFKC", visible).casefold().strip().rstrip(".").strip()
        return re.sub(r"(?<=\w)[\s_-]+(?=\w)", "", plain)
